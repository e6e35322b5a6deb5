"""wilson_cowan with ANNarchy in the place of NEST: its neuron's equations are solved as they are written, and the same
bits over transports, modes and windows."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.bridges.experiment import load, user_function
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import Connectome
from tvb_lockstep.spikenet_side.annarchy import Annarchy, toolchain

try:
    toolchain.check_requirements()
    toolchain.import_annarchy()
except EnvironmentFailed as missing:
    pytest.skip(str(missing), allow_module_level=True)
if importlib.util.find_spec("tvb") is None:
    pytest.skip("tvb-library is not installed in this environment, and the runs need both", allow_module_level=True)

SHORT = "duration=51.1"  # ms; 511 steps, so that the last window is a shorter one. With its own sizes: compiled once


def lockstep(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tvb_lockstep.scripts.main", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)


def run(folder: Path, *sets: str) -> Path:
    overrides = [part for each in (SHORT, *sets) for part in ("--set", each)]
    done = lockstep("run", "wilson_cowan", "--simulator", "annarchy", "--run-dir", folder, "--quiet", "--no-report",
                    *overrides)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("model", ["RATE", "SPIKES"])
def test_a_run_has_the_same_bits_over_transports_modes_and_windows(tmp_path, model):
    chosen = f"interfaces.tvb_to_spikenet.0.model={model}"
    first = run(tmp_path / "first", chosen)
    others = {
        "RATE": [
            ("exchange.transport=file", "exchange.mode=serial", "exchange.synchronization_time=0.5"),
            ("exchange.transport=memory", "exchange.synchronization_time=min_delay"),
        ],
        "SPIKES": [("exchange.bridge=own", "exchange.synchronization_time=0.1")],
    }[model]
    for i, sets in enumerate(others):
        done = lockstep("diff", first, run(tmp_path / str(i), chosen, *sets))
        lines = {line.split(":")[0]: line for line in done.stdout.splitlines()}
        assert "identical: 6 logs" in done.stdout, done.stdout
        assert int(lines["spikenet.spikes"].split()[-2]) > 100, "there is nothing to compare"


def solved(neuron: dict[str, float], h_ms: float, excitatory: np.ndarray, inhibitory: np.ndarray) -> tuple:
    """iaf_cond_exp (Meffin et al. 2004) by Runge-Kutta of order 4 with 20 parts of each step: V at the start of a step
    [mV], steps of its spikes. What arrives in a step [nS] opens a conductance at its end."""
    p, n, v, g_ex, g_in, refractory = neuron, 20, neuron["E_L"], 0.0, 0.0, 0
    h = h_ms / n
    half_ex, half_in = (math.exp(-h / 2 / p[f"tau_syn_{name}"]) for name in ("ex", "in"))
    potential, fired = [], []

    def slope(v: float, g_ex: float, g_in: float) -> float:
        return (p["g_L"] * (p["E_L"] - v) + g_ex * (p["E_ex"] - v) + g_in * (p["E_in"] - v)) / p["C_m"]

    for step, (more_ex, more_in) in enumerate(zip(excitatory, inhibitory, strict=True)):
        potential.append(v)
        for _ in range(n):
            mid, end = (g_ex * half_ex, g_in * half_in), (g_ex * half_ex**2, g_in * half_in**2)
            a = slope(v, g_ex, g_in)
            b = slope(v + h / 2 * a, *mid)
            c = slope(v + h / 2 * b, *mid)
            v += h / 6 * (a + 2 * b + 2 * c + slope(v + h * c, *end))
            g_ex, g_in = end
        if refractory:
            v, refractory = p["V_reset"], refractory - 1
        elif v >= p["V_th"]:
            fired.append(step)
            v, refractory = p["V_reset"], round(p["t_ref"] / h_ms)
        g_ex, g_in = g_ex + more_ex, g_in + more_in
    return np.array(potential), fired


@pytest.mark.parametrize("t_ref_ms", [5.0, 0.3])  # 0.3 / 0.1 is less than 3 in floating point
def test_the_neuron_solves_its_equations_and_fires_in_the_steps_in_which_it_should(t_ref_ms):
    steps, h_ms, delay, region = 3000, 0.1, 10, "V1"
    section = load("wilson_cowan")[0].program("spikenet")
    neuron = section.params["neuron"] | {"t_ref": t_ref_ms}
    silent = dict.fromkeys(("weight_e", "weight_i", "background_rate_e", "background_rate_i"), 0.0)
    regions = (region, "V2")  # with the experiment's sizes: the network that the runs compile
    section = section.model_copy(
        update={
            "simulator": "annarchy",
            "regions": list(regions),
            "params": section.params | silent | {"neuron": neuron},
        }
    )
    own_build = user_function("network_annarchy:build", load("wilson_cowan")[1].parent, "spikenet.build")

    def build(request):
        network = own_build(request)
        for population in network[region].values():
            population.v = neuron["E_L"]
        return network

    grid = Grid.of(h_ms, {"spikenet": h_ms}, steps * h_ms, steps)
    edges = (Edge(0, region, "E", 3.0, delay * h_ms), Edge(1, region, "E", -15.0, delay * h_ms))
    given = Signal("spikes", "", ("A", "B"), (1, 1))
    asked = Signal.dense("mV", [f"E@{region}"])
    spikes, potential = (
        Channel(0, model, "tvb", "spikenet", model, "TVB", ("E",), ("E",), (region,), (), (), {}, signal, signal, edges)
        for model, signal in (("SPIKES", given), ("POTENTIAL", asked))
    )
    counts = np.random.default_rng(5).poisson([0.17, 0.04], (steps, 2))  # in a step: 1700 and 400 spikes/s
    times, senders = (np.repeat(each.ravel(), counts.ravel()) for each in np.indices(counts.shape))
    simulator = Annarchy()
    simulator.open(section, grid, Connectome(regions, np.zeros((2, 2)), np.zeros((2, 2))), 1, build)
    simulator.connect([spikes], [potential])
    simulator.feed(spikes, Spikes(times * grid.dt_ticks, senders.astype(np.int32)), 0, steps)
    simulator.run(0, steps)
    found = simulator.spikes()

    arriving = np.concatenate([np.zeros((delay, 2)), counts[:-delay]])
    expected, fired = solved(neuron, h_ms, 3.0 * arriving[:, 0], 15.0 * arriving[:, 1])
    for cell in (0, 99):
        assert (found.times[found.senders == cell] // grid.dt_ticks).tolist() == fired
    assert len(fired) > 7 and np.ptp(expected) > 10.0
    assert np.abs(simulator.potential(potential)[:, 0] - expected).max() < 0.003
