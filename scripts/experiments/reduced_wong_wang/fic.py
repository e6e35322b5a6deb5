"""Feedback inhibition control: finds the J_i of each spiking region with which its E neurons fire at a wanted rate.

    python fic.py [--rate 3.06] [--rounds 8] [--duration 5000] [--set KEY=VALUE ...]

As Deco et al. (2014) do it: run the whole brain, correct each J_i by what its region's rate is off, and again; here
with another seed in each round, and smaller corrections in later ones. Prints each round, and in the end what to put
into experiment.toml.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
from tvb_lockstep.bridges.experiment import load

FOLDER = Path(__file__).resolve().parent
LEFT_OUT_MS = 500.0  # the NMDA gating comes to rest
SENSITIVITY = 10.0  # d ln(rate) / d J_i, measured at 3 Hz


def rates_hz(run_dir: Path, regions: list[str], sizes: dict[str, int], duration_ms: float) -> dict[str, float]:
    """Mean rate of the E neurons of each region."""
    found = {}
    with h5py.File(run_dir / "spikes.h5") as file:
        for region in regions:
            times = file[f"spikes/E@{region}/timestamps"][:]
            seconds = (duration_ms - LEFT_OUT_MS) / 1000.0
            found[region] = float((times >= LEFT_OUT_MS).sum()) / sizes["E"] / seconds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=3.06, help="Hz")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--duration", type=float, default=5000.0, help="ms of each round")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    asked = parser.parse_args()
    experiment, _ = load(str(FOLDER), asked.sets)
    program = experiment.spikenet[0]
    regions = [str(region) for region in program.regions]
    given = program.params["J_i"]
    J_i = {region: float(given[region] if isinstance(given, dict) else given) for region in regions}
    sizes = {"E": int(program.params["n_excitatory"])}
    for number in range(1, asked.rounds + 1):
        table = ", ".join(f"{region} = {value:.4f}" for region, value in J_i.items())
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            command = [sys.executable, "-m", "tvb_lockstep.scripts.main", "run", str(FOLDER), "--run-dir", str(run_dir)]
            sets = [*asked.sets, f"spikenet.params.J_i={{{table}}}", f"duration={asked.duration}", f"seed={number}"]
            for value in sets:
                command += ["--set", value]
            subprocess.run(command, check=True, capture_output=True)
            rates = rates_hz(run_dir, regions, sizes, asked.duration)
        print(f"round {number}: " + ", ".join(f"{r} {J_i[r]:.4f} -> {rates[r]:.2f} Hz" for r in regions), flush=True)
        for region, rate in rates.items():
            J_i[region] += math.log(max(rate, 0.1) / asked.rate) / SENSITIVITY / math.sqrt(number)
    print("J_i = { " + ", ".join(f"{region} = {value:.3f}" for region, value in J_i.items()) + " }")


if __name__ == "__main__":
    main()
