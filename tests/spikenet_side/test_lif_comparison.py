"""The network of lif_comparison on each simulator, against the same network in numpy: spike for spike.

The reference is written from the equations; of the experiment's own Python it takes the connections and the initial
potentials only.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulating import request_of, simulated
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.program import build_of

SIMULATORS = {"nest": "nest", "annarchy": "ANNarchy", "netpyne": "netpyne"}
SEED, N_STEPS, WINDOW, H_MS = 7, 3000, 20, 0.1  # steps of 0.1 ms
TRAINS, WEIGHT, DELAY_MS = 50, 4.0, 1.5


def given() -> Spikes:
    """Poisson trains of 40 Hz; the times of some of them are the same."""
    steps, senders = np.nonzero(np.random.default_rng(3).random((N_STEPS, TRAINS)) < 0.004)
    return Spikes(steps.astype(np.int64), senders.astype(np.int32))


def in_numpy(section: Any, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps and neurons of all spikes: E first, then I.

    C dV/dt = -C (V - E_L) / tau_m + I_ex + I_in, dI/dt = -I / tau_syn, solved over each step; V moves with the currents
    of before the step, which then decay and take what arrives in it.
    """
    build_of(section, folder)  # lif_network can now be imported
    (drawn,) = sys.modules["lif_network"].draw(request_of(section, SEED)).values()
    p, n = section.params, section.params["neuron"]
    V = np.concatenate([drawn.V_m["E"], drawn.V_m["I"]])
    n_e = len(drawn.V_m["E"])
    first = {"E": 0, "I": n_e}
    weights = np.zeros((2, len(V), len(V)))  # excitatory, inhibitory; row: target
    for source, target, sources, targets, weight in drawn.projections:
        np.add.at(weights[int(weight < 0)], (first[target] + targets, first[source] + sources), weight)
    arriving = np.zeros((N_STEPS + 100, 2, len(V)))
    for step in given().times:
        arriving[step + round(DELAY_MS / H_MS), 0, :n_e] += WEIGHT
    tau_m, tau = n["tau_m"], np.array([[n["tau_syn_ex"]], [n["tau_syn_in"]]])
    moves = tau * tau_m / (tau - tau_m) * (np.exp(-H_MS / tau) - np.exp(-H_MS / tau_m)) / n["C_m"]  # mV per pA
    currents, waits = np.zeros((2, len(V))), np.zeros(len(V), int)
    steps, neurons = [], []
    for step in range(N_STEPS):
        moved = n["E_L"] + (V - n["E_L"]) * np.exp(-H_MS / tau_m) + (moves * currents).sum(axis=0)
        V = np.where(waits > 0, V, moved)
        waits = np.maximum(waits - 1, 0)
        currents = currents * np.exp(-H_MS / tau) + arriving[step]
        fired = n["V_th"] <= V
        V[fired], waits[fired] = n["V_reset"], round(n["t_ref"] / H_MS)
        arriving[step + round(p["delay"] / H_MS)] += weights @ fired
        steps.append(np.full(fired.sum(), step))
        neurons.append(np.flatnonzero(fired))
    return np.concatenate(steps), np.concatenate(neurons)


@pytest.mark.parametrize("name", SIMULATORS)
def test_every_spike_is_that_of_the_equations(name):
    if importlib.util.find_spec(SIMULATORS[name]) is None:
        pytest.skip(f"{name} is not installed in this environment")
    experiment, path = load("lif_comparison", [f"spikenet.simulator={name}", "spikenet.params.neurons=100"])
    section = experiment.program("spikenet")
    grid = Grid.of(H_MS, {"spikenet": section.resolution}, N_STEPS * H_MS, WINDOW)
    try:
        times, senders = simulated(section, path.parent, grid, given(), TRAINS, WEIGHT, DELAY_MS, SEED)
    except EnvironmentFailed as missing:  # no compiler
        pytest.skip(str(missing).splitlines()[0])
    steps, neurons = in_numpy(section, path.parent)
    assert len(steps) > 200 and (neurons >= 80).sum() > 20
    np.testing.assert_array_equal(times, steps)
    np.testing.assert_array_equal(senders, neurons)
