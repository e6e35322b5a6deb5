"""What it costs TVB to run in windows, beside TVB's own `Simulator.run` of the same model; nothing is exchanged.

In windows, TVB computes the coupling of the spiking regions for each window, takes what they deliver, and records its
monitors, all by the code of a run; what is delivered is made up, and the same for every length of the window. So the
monitors must give the same bits for all of them, which is checked. All ways take turns within each round, in another
order each time; what is shown is the median of rounds, and of the ratios within each round.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from ..bridges import __version__
from ..bridges.errors import LockstepError
from ..bridges.experiment import Experiment, load

PLAIN = "plain Simulator.run"
ASKED = 1.1


def bench(duration_ms: float, rounds: int, experiment: str = "wilson_cowan") -> dict[str, Any]:
    """The figures, ready for JSON; times in seconds of the whole simulation, set-up not counted."""
    loaded, path = load(experiment, [f"duration={duration_ms}", "exchange.synchronization_time=min_delay"])
    lengths = window_lengths(loaded, path.parent)
    ways: dict[str, Callable[[], tuple[float, float, str]]] = {PLAIN: lambda: plain(loaded, path.parent)}
    for name, steps in lengths.items():
        ways[name] = lambda steps=steps: in_windows(loaded, path.parent, steps)  # type: ignore[misc]
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    bits = {}
    for i in range(rounds):
        for name in rotated(list(ways), i):
            wall_s, cpu_s, digest = ways[name]()
            wall[name].append(wall_s)
            cpu[name].append(cpu_s)
            if name != PLAIN:
                bits[name] = digest
    if len(set(bits.values())) != 1:
        raise LockstepError(f"bench: the monitors depend on the window: {bits}.")
    results = [
        {"way": name, "steps": lengths.get(name), "wall_s": float(np.median(wall[name])),
         "cpu_s": float(np.median(cpu[name])), "wall_ratio": ratio(wall[name], wall[PLAIN]),
         "cpu_ratio": ratio(cpu[name], cpu[PLAIN]), "wall_s_of_rounds": wall[name], "cpu_s_of_rounds": cpu[name]}
        for name in ways
    ]  # fmt: skip
    return {
        "experiment": loaded.name, "duration_ms": duration_ms, "rounds": rounds, "tvb-lockstep": __version__,
        "python": platform.python_version(), "numpy": np.__version__, "results": results,
    }  # fmt: skip


def window_lengths(experiment: Experiment, folder: Path) -> dict[str, int]:
    """By name, the windows that are measured [steps]: the shortest, the longest, and one between them."""
    longest = _simulation(experiment, folder).min_delay_steps
    if longest is None:
        raise LockstepError(f"bench: {experiment.name} has no spiking region that is connected to TVB's.")
    found = {1: "windows of 1 step", 20: "windows of 20 steps", longest: f"windows of the min delay, {longest} steps"}
    return {name: steps for steps, name in sorted(found.items()) if steps <= longest}


def rotated(names: list[str], i: int) -> list[str]:
    """The order of round i: forth and back in turn, so that who comes first has no advantage."""
    return names if i % 2 == 0 else names[::-1]


def ratio(times: list[float], reference: list[float]) -> float:
    """The median of the ratios within each round: what slows the whole machine down for a while cancels out."""
    return float(np.median(np.divide(times, reference)))


def plain(experiment: Experiment, folder: Path) -> tuple[float, float, str]:
    from ..tvb_side.build import build_simulator

    simulator = build_simulator(experiment.tvb, experiment.seed, folder)
    simulator.configure()
    wall, cpu = perf_counter(), process_time()
    simulator.run(simulation_length=experiment.duration)
    return perf_counter() - wall, process_time() - cpu, ""


def in_windows(experiment: Experiment, folder: Path, window_steps: int) -> tuple[float, float, str]:
    """Wall and CPU time [s] of the simulation, and a hash of what its monitors gave."""
    simulation = _simulation(experiment, folder)
    simulation.check_window(window_steps)
    n_steps = round(experiment.duration / simulation.dt_ms)
    columns = simulation.columns
    delivered = np.random.default_rng(1).uniform(0.1, 0.4, (n_steps, len(columns)))
    sent = [(voi, row) for row in experiment.interfaces.tvb_to_spikenet for voi in row.voi]
    regions = list(dict.fromkeys(region for region, _ in columns))
    samples: list[Any] = []
    wall, cpu = perf_counter(), process_time()
    for first in range(0, n_steps, window_steps):
        end = min(first + window_steps, n_steps)
        for voi, _ in sent:
            simulation.coupling(first, end, regions, voi)
        simulation.advance(end)
        simulation.deliver(first, delivered[first:end], columns)
        samples += [sample for monitor in simulation.record(end) for sample in monitor]
    taken = perf_counter() - wall, process_time() - cpu
    digest = hashlib.sha256()
    for time_ms, data in samples:
        digest.update(np.float64(time_ms).tobytes() + np.ascontiguousarray(data).tobytes())
    return *taken, digest.hexdigest()


def _simulation(experiment: Experiment, folder: Path) -> Any:
    from ..tvb_side.plan import Plan

    return Plan(experiment, folder).simulation


def print_table(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    console.print(f"TVB of {figures['experiment']}, {figures['duration_ms']:g} ms", highlight=False)
    table = Table("way")
    for heading in ("wall [s]", "CPU [s]", "x plain, wall", "x plain, CPU"):
        table.add_column(escape(heading), justify="right")
    for row in figures["results"]:
        table.add_row(row["way"], f"{row['wall_s']:.3f}", f"{row['cpu_s']:.3f}", f"{row['wall_ratio']:.3f}",
                      f"{row['cpu_ratio']:.3f}")  # fmt: skip
    console.print(table)
    console.print(f"Median of {figures['rounds']} rounds. Asked: at most {ASKED:g} times the plain run.",
                  highlight=False)  # fmt: skip
