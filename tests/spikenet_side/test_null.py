"""The simulator without dynamics keeps the same window conventions as the real ones."""

from __future__ import annotations

import numpy as np
import pytest
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import ExperimentError, LockstepError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import Connectome
from tvb_lockstep.spikenet_side.null import Neurons, Null

REGIONS = ("V1", "V2")


def channel(model: str, signal: Signal, edges: tuple[Edge, ...] = ()) -> Channel:
    return Channel(0, model, "tvb", "spikenet", model, "TVB", ("E",), ("E",), REGIONS, (), (), {},
                   signal, signal, edges)  # fmt: skip


def opened(window: int, duration: float = 2.3, resolution: float = 0.1, inputs=(), outputs=(), **null) -> Null:
    simulator = Null(**null)
    grid = Grid.of(0.1, {"spikenet": resolution}, duration, window)
    section = SpikenetSection(simulator="nest", regions=list(REGIONS), resolution=resolution)
    simulator.open(section, grid, Connectome(REGIONS, np.zeros((2, 2)), np.zeros((2, 2))), 1)
    simulator.connect(list(inputs), list(outputs))
    return simulator


def all_spikes(simulator: Null) -> list[tuple[int, int]]:
    grid, found = simulator._grid, []
    for k in range(grid.n_windows):
        simulator.run(*grid.steps(k))
        spikes = simulator.spikes()
        t0, t1 = grid.ticks(k)
        assert ((spikes.times >= t0) & (spikes.times < t1)).all()
        assert (spikes.times.dtype, spikes.senders.dtype) == (np.int64, np.int32)
        found += zip(spikes.times.tolist(), spikes.senders.tolist(), strict=True)
    return found


@pytest.mark.parametrize("window", [1, 3, 7, 23])
def test_spikes_are_those_of_the_formula_sorted_and_once_each_for_every_window(window):
    simulator = opened(window, sizes={"E": 3, "I": 2}, period=4)
    expected = [(s, i) for s in range(23) for i in range(10) if (s + i) % 4 == 0]
    assert all_spikes(simulator) == expected
    assert [(p.label, p.size) for p in simulator.populations] == [("E@V1", 3), ("I@V1", 2), ("E@V2", 3), ("I@V2", 2)]
    assert simulator.counters["recorded"] == len(expected)


def test_ticks_count_the_resolution_when_it_is_a_fraction_of_dt():
    """Ticks of 0.05 ms with steps of 0.1 ms are those of another program's resolution; then every tick is even."""
    simulator = Null(sizes={"E": 1}, period=3)
    simulator.open(SpikenetSection(simulator="nest", regions=["V1"], resolution=0.1),
                   Grid.of(0.1, {"a": 0.1, "b": 0.05}, 1.0, 4), Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1))),
                   1)  # fmt: skip
    simulator.connect([], [])
    assert all_spikes(simulator) == [(0, 0), (6, 0), (12, 0), (18, 0)]
    fine = opened(3, duration=1.0, resolution=0.025, sizes={"E": 1}, period=20)
    assert all_spikes(fine) == [(0, 0), (19, 1), (20, 0), (39, 1)]


def test_input_is_kept_counted_and_checked_like_that_of_a_real_simulator():
    edges = (Edge(0, "V1", "E", 1.0, 1.0),)
    rate = channel("RATE", Signal.dense("Hz", ["V1"]), edges)
    trains = channel("SPIKES", Signal("spikes", "", ("V1",), (4,)), edges)
    simulator = opened(2, inputs=(rate, trains))
    with pytest.raises(LockstepError, match=r"RATE: its input .* is missing"):
        simulator.run(0, 2)
    with pytest.raises(LockstepError, match=r"outside the window \[0, 2\)"):
        simulator.feed(trains, Spikes(np.array([2]), np.array([0], np.int32)), 0, 2)
    with pytest.raises(LockstepError, match="sender 4, expected 0 to 3"):
        simulator.feed(trains, Spikes(np.array([1]), np.array([4], np.int32)), 0, 2)
    with pytest.raises(LockstepError, match="kind 'spikes', found ndarray"):
        simulator.feed(trains, np.zeros((2, 1)), 0, 2)
    simulator.feed(trains, Spikes(np.array([0, 1]), np.array([0, 3], np.int32)), 0, 2)
    simulator.feed(rate, np.ones((2, 1)), 0, 2)
    simulator.run(0, 2)
    assert (simulator.counters["RATE"], simulator.counters["SPIKES"]) == (2, 2)
    assert simulator.fed["RATE"].tolist() == [[1.0], [1.0]]
    with pytest.raises(LockstepError, match="stands at step 2 and cannot run"):
        simulator.run(0, 2)


def test_neurons_answer_to_their_input_as_worked_out_by_hand():
    """V relaxes to half in a step (tau = 0.1 / ln 2), then takes the spikes; 300 pA raise 100 pF by 0.3 mV a step."""
    neurons = {"N": Neurons(1, threshold_mV=-67.5, rest_mV=-70.0, tau_ms=0.1 / np.log(2.0))}
    edges = (Edge(0, "V1", "N", 2.0, 0.2),)
    trains = channel("SPIKES", Signal("spikes", "", ("V1",), (1,)), edges)
    current = channel("CURRENT", Signal.dense("pA", ["V1"]), (Edge(0, "V2", "N", 1.0, 0.1),))
    out = channel("POTENTIAL", Signal.dense("mV", ["N@V1", "N@V2"]))
    simulator = opened(8, duration=0.8, inputs=(trains, current), outputs=(out,), neurons=neurons)
    simulator.feed(trains, Spikes(np.array([0, 1, 3]), np.zeros(3, np.int32)), 0, 8)
    simulator.feed(current, np.array([[300.0]] + 7 * [[0.0]]), 0, 8)
    simulator.run(0, 8)
    found = simulator.potential(out) + 70.0
    # spikes arrive in steps 2, 3 and 5: 2 mV; 1 + 2 >= 2.5 fires and rests; then 2 mV again, halved
    np.testing.assert_allclose(found[:, 0], [0, 0, 0, 2, 0, 0, 2, 1], atol=1e-12)
    np.testing.assert_allclose(found[:, 1], [0, 0, 0.3, 0.15, 0.075, 0.0375, 0.01875, 0.009375], atol=1e-12)
    assert (simulator.spikes().times.tolist(), simulator.spikes().senders.tolist()) == ([3], [0])
    with pytest.raises(ExperimentError, match=r"edge V1 -> N@V1: delay = 0.05 ms is too short"):
        opened(1, inputs=(channel("RATE", Signal.dense("Hz", ["V1"]), (Edge(0, "V1", "N", 1.0, 0.05),)),),
               neurons=neurons)  # fmt: skip


def test_potentials_have_a_row_for_each_step_of_tvb_and_do_not_depend_on_the_window():
    out = channel("POTENTIAL", Signal.dense("mV", ["E@V1", "E@V2"]))
    found = {}
    for window in (1, 5):
        simulator = opened(window, outputs=(out,))
        parts = []
        for k in range(simulator._grid.n_windows):
            simulator.run(*simulator._grid.steps(k))
            parts.append(simulator.potential(out))
        found[window] = np.concatenate(parts)
    assert found[1].shape == (23, 2)
    assert (found[1] == found[5]).all()
    assert found[1][2].tolist() == [-65.002, -64.002]


def test_names_that_are_not_there_are_refused():
    with pytest.raises(ExperimentError, match=r"no population X@V1. The network has: E@V1, I@V1, E@V2, I@V2"):
        opened(1, inputs=(channel("RATE", Signal.dense("Hz", ["V1"]), (Edge(0, "V1", "X", 1.0, 1.0),)),))
    with pytest.raises(ExperimentError, match="no population E@V3"):
        opened(1, outputs=(channel("SPIKES", Signal("spikes", "", ("E@V3",), (1,))),))
