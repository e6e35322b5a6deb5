"""NEST, window by window, against values known by hand and against NEST alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import psutil
import pytest
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import ExperimentError, LockstepError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import BuildRequest, Connectome
from tvb_lockstep.spikenet_side.nest import Nest
from tvb_lockstep.spikenet_side.nest.adapter import import_nest

nest = import_nest()
REGION = "V1"


def channel(model: str, out: Signal, edges: tuple[Edge, ...] = (), **proxy_params: float) -> Channel:
    return Channel(0, f"{model}-channel", "tvb", "spikenet", model, "TVB", ("E",), ("E",), (REGION,), (), (),
                   proxy_params, out, out, edges)  # fmt: skip


def spike_output(*labels: str) -> Channel:
    return channel("SPIKES", Signal("spikes", "", labels, (1,) * len(labels)))


def opened(
    build: Callable, dt: float = 0.1, resolution: float = 0.1, duration: float = 1.0, window: int = 1,
    inputs: tuple[Channel, ...] = (), outputs: tuple[Channel, ...] = (), seed: int = 1,
    regions: tuple[str, ...] = (REGION,), **section: float,
) -> Nest:  # fmt: skip
    simulator = Nest()
    simulator.grid = Grid.of(dt, {"spikenet": resolution}, duration, window)
    simulator.open(
        SpikenetSection(simulator="nest", regions=list(regions), resolution=resolution, **section),
        simulator.grid, Connectome(regions, np.zeros((1, 1)), np.zeros((1, 1))), seed, build,
    )  # fmt: skip
    simulator.connect(list(inputs), list(outputs))
    return simulator


def all_spikes(simulator: Nest, feed: Callable[[int, int], None] = lambda first, end: None) -> Spikes:
    """The spikes of all windows, one after the other; each window's lie inside it."""
    found = [Spikes.none()]
    for k in range(simulator.grid.n_windows):
        first, end = simulator.grid.steps(k)
        t0, t1 = simulator.grid.ticks(k)
        feed(first, end)
        simulator.run(first, end)
        spikes = simulator.spikes()
        assert ((spikes.times >= t0) & (spikes.times < t1)).all()
        found.append(spikes)
    return Spikes(np.concatenate([s.times for s in found]), np.concatenate([s.senders for s in found]))


def fresh_nest(resolution: float = 0.1, seed: int = 1, threads: int = 1) -> None:
    nest.ResetKernel()
    nest.verbosity = nest.VerbosityLevel.ERROR
    nest.set(resolution=resolution, rng_seed=seed, local_num_threads=threads)


def nest_alone(build: Callable, duration: float, min_delay: float, threads: int = 1, meter_ms: float | None = None):
    """The network of `build` in one Simulate with plain devices: spikes in steps and numbers; V_m as (time, neuron)."""
    fresh_nest(threads=threads)
    nodes = [nodes for region in build(None).values() for nodes in region.values()]
    recorder = nest.Create("spike_recorder")
    for population in nodes:
        nest.Connect(population, recorder, syn_spec={"delay": min_delay})
    ids = [i for population in nodes for i in population.tolist()]
    if meter_ms is not None:
        meter = nest.Create("multimeter", params={"record_from": ["V_m"], "interval": meter_ms})
        for population in nodes:
            nest.Connect(meter, population, syn_spec={"delay": min_delay})
    nest.Simulate(duration)
    events = recorder.events
    spikes = sorted((round(t / 0.1) - 1, ids.index(i)) for t, i in zip(events["times"], events["senders"], strict=True))
    if meter_ms is None:
        return spikes, None
    nest.Simulate(min_delay + meter_ms)  # the multimeter lags
    events = meter.events
    order = np.lexsort(([ids.index(i) for i in events["senders"]], np.rint(events["times"] / meter_ms)))
    return spikes, events["V_m"][order].reshape(-1, len(ids))


def pairs(spikes: Spikes) -> list[tuple[int, int]]:
    return list(zip(spikes.times.tolist(), spikes.senders.tolist(), strict=True))


def parrots(n: int) -> Callable:
    return lambda request: {REGION: {"E": nest.Create("parrot_neuron", n)}}


def noisy(request: BuildRequest | None) -> dict:
    """Three Poisson sources, excitation and inhibition, random initial V_m; it spikes irregularly."""
    e, i = nest.Create("iaf_psc_exp", 12), nest.Create("iaf_psc_exp", 4)
    for nodes in (e, i):
        nodes.V_m = nest.random.uniform(-70.0, -56.0)
    for rate, target in ((40000.0, e), (30000.0, i), (9000.0, e + i)):
        noise = nest.Create("poisson_generator", params={"rate": rate})
        nest.Connect(noise, target, syn_spec={"weight": 20.0, "delay": 2.0})
    nest.Connect(e, e + i, {"rule": "fixed_indegree", "indegree": 4}, {"weight": 30.0, "delay": 2.0})
    nest.Connect(i, e, {"rule": "fixed_indegree", "indegree": 2}, {"weight": -90.0, "delay": 2.5})
    return {REGION: {"E": e, "I": i}}


# ---------------------------------------------------------------------------------------------- spikes coming out


def test_a_generator_that_fires_on_every_window_edge_is_heard_once_per_spike_as_in_nest_alone():
    edges = [0.2 * k for k in range(1, 11)] + [204.0 + 0.2 * k for k in range(11)]  # stamps: ends of windows
    silent_then = [0.3, 0.3, 0.3, 204.3, 206.0]  # first step of a window, three in one step

    def build(request):
        nodes = nest.Create("parrot_neuron", 3)
        for times in (edges, silent_then):
            generator = nest.Create("spike_generator", params={"spike_times": sorted(round(t, 1) for t in times)})
            nest.Connect(generator, nodes, syn_spec={"delay": 0.2})
        return {REGION: {"E": nodes}}

    simulator = opened(build, duration=207.0, window=2)
    found = pairs(all_spikes(simulator))
    assert simulator.min_delay_ms == 0.2
    alone, _ = nest_alone(build, 207.0, 0.2)
    # stamp t of a generator arrives at t + 0.2, which is the step number t/0.1 + 2 - 1
    by_hand = sorted((round(t * 10) + 1, i) for t in edges + silent_then for i in range(3))
    assert found == alone == by_hand
    assert simulator.counters["recorded"] == 3 * (21 + 5)
    gaps = np.diff(np.unique([step for step, _ in found]))
    assert gaps.max() > 2000  # more than 1000 windows of silence in between


def test_a_spike_at_a_precise_time_is_in_the_step_in_which_it_lies():
    def build(request: BuildRequest) -> dict:
        source = nest.Create("spike_generator", params={"precise_times": True, "spike_times": [1.03, 2.07, 3.0]})
        nodes = nest.Create("parrot_neuron_ps")
        nest.Connect(source, nodes, syn_spec={"delay": 1.0})
        return {REGION: {"E": nodes}}

    spikes = all_spikes(opened(build, duration=6.0, window=2))
    # at 2.03, 3.07 and 4.0 ms; the last is on the edge that belongs to the step before it in NEST, as all its stamps
    assert spikes.times.tolist() == [20, 30, 39]


@pytest.mark.parametrize("window", [3, 20])
def test_numbers_do_not_depend_on_the_window_when_min_delay_is_held(window):
    one, other = (
        all_spikes(opened(noisy, duration=31.0, window=w, min_delay=0.1)) for w in (1, window)
    )  # 310 steps: last windows of 1 and 10 steps
    assert len(one) > 50
    assert pairs(one) == pairs(other)
    assert pairs(one) == nest_alone(noisy, 31.0, 0.1)[0]


def test_without_min_delay_the_windows_are_still_those_of_nest_alone():
    simulator = opened(noisy, duration=45.0, window=20)
    found = all_spikes(simulator)
    assert simulator.min_delay_ms == 2.0  # the last window has 10 steps, half a slice
    assert pairs(found) == nest_alone(noisy, 45.0, 2.0)[0]


def test_the_same_seed_gives_the_same_spikes_and_another_seed_others():
    first, second, other = (all_spikes(opened(noisy, duration=30.0, window=10, seed=s)) for s in (1, 1, 2))
    assert pairs(first) == pairs(second) != pairs(other)


def test_spikes_are_sorted_by_time_and_then_by_neuron_and_numbered_through_the_populations():
    def build(request):
        late, early = nest.Create("parrot_neuron", 2), nest.Create("parrot_neuron", 3)
        generator = nest.Create("spike_generator", params={"spike_times": [0.1, 0.2, 0.4]})
        nest.Connect(generator, late + early, syn_spec={"delay": 0.5})
        return {"V2": {"E": late}, "V1": {"I": early[1], "E": early[::2]}}

    simulator = opened(build, duration=1.0, window=5, regions=("V1", "V2"))
    assert [(p.label, p.size) for p in simulator.populations] == [("I@V1", 1), ("E@V1", 2), ("E@V2", 2)]
    assert pairs(all_spikes(simulator)) == [(step, i) for step in (5, 6, 8) for i in range(5)]


# ------------------------------------------------------------------------------------------------- input going in


@pytest.mark.parametrize("resolution", [0.1, 0.025])
@pytest.mark.parametrize("window", [1, 4])
def test_a_rate_acts_in_exactly_its_step_and_the_delay_later(resolution, window):
    """2 Hz of 500 000 neurons is 1000 spikes per ms: every step of the resolution has some (25 on average)."""
    rate = channel("RATE", Signal.dense("Hz", ["E@V1"]), (Edge(0, REGION, "E", 1.0, 0.3),), number_of_neurons=500_000)
    simulator = opened(parrots(2), duration=2.0, resolution=resolution, window=window, inputs=(rate,))
    rows = np.zeros((20, 1))
    rows[[0, 7, 8, 15]] = 2.0  # first of the run, two neighbours across an edge of windows, last of a window
    found = all_spikes(simulator, lambda first, end: simulator.feed(rate, rows[first:end], first, end))
    per_step = round(0.1 / resolution)
    at = {(step + 3) * per_step + j for step in (0, 7, 8, 15) for j in range(per_step)}
    for neuron in range(2):
        assert set(found.times[found.senders == neuron].tolist()) == at
    ours = [found.times[found.senders == neuron].tolist() for neuron in range(2)]
    assert ours[0] != ours[1]  # independent trains
    # mean 4 x 0.1 ms x 1000 / ms = 400 spikes for each neuron, standard deviation 20
    assert all(abs(len(train) - 400) < 100 for train in ours)


@pytest.mark.parametrize("resolution", [0.1, 0.025])
def test_given_spikes_reach_their_targets_once_each_at_their_tick_plus_the_delay(resolution):
    per_step = round(0.1 / resolution)

    def build(request):
        return {REGION: {"E": nest.Create("parrot_neuron", 2), "I": nest.Create("parrot_neuron")}}

    out = Signal("spikes", "", ("A@TVB", "B@TVB"), (3, 2))
    trains = channel("SPIKES", out, (Edge(0, REGION, "E", 1.0, 0.3), Edge(0, REGION, "I", 1.0, 0.5),
                                     Edge(1, REGION, "I", 1.0, 0.4)))  # fmt: skip
    simulator = opened(build, duration=2.3, resolution=resolution, window=3, inputs=(trains,))
    last = 23 * per_step - 1
    edge = 3 * per_step  # of the first window
    times = np.array([0, 0, 0, 5, edge - 1, edge, edge, 14 * per_step, last - 5 * per_step, last])
    senders = np.array([0, 1, 1, 4, 2, 3, 0, 4, 1, 2], np.int32)  # two trains in one step, one train twice in one step

    def feed(first, end):
        now = (times >= first * per_step) & (times < end * per_step)
        simulator.feed(trains, Spikes(times[now], senders[now]), first, end)

    found = all_spikes(simulator, feed)
    group_a = senders < 3
    to_e, a_to_i, b_to_i = times[group_a] + 3 * per_step, times[group_a] + 5 * per_step, times[~group_a] + 4 * per_step
    expected = [(t, i) for t in to_e.tolist() for i in (0, 1)] + [(t, 2) for t in [*a_to_i.tolist(), *b_to_i.tolist()]]
    assert pairs(found) == sorted((t, i) for t, i in expected if t <= last)
    assert simulator.counters["SPIKES-channel"] == 10


def test_a_spike_inside_a_step_of_the_resolution_acts_in_that_step():
    """With ticks of 0.05 ms (another program's resolution) and steps of 0.1 ms, tick 3 lies in the step of tick 2."""
    trains = channel("SPIKES", Signal("spikes", "", ("A",), (1,)), (Edge(0, REGION, "E", 1.0, 0.1),))
    simulator = Nest()
    simulator.grid = Grid.of(0.1, {"spikenet": 0.1, "other": 0.05}, 1.0, 2)
    simulator.open(SpikenetSection(simulator="nest", regions=[REGION]), simulator.grid,
                   Connectome((REGION,), np.zeros((1, 1)), np.zeros((1, 1))), 1, parrots(1))  # fmt: skip
    simulator.connect([trains], [])
    given = np.array([2, 3, 19 - 2])

    def feed(first, end):
        now = given[(given >= 2 * first) & (given < 2 * end)]
        simulator.feed(trains, Spikes(now, np.zeros(len(now), np.int32)), first, end)

    assert all_spikes(simulator, feed).times.tolist() == [4, 4, 18]


@pytest.mark.parametrize("resolution", [0.1, 0.025])
@pytest.mark.parametrize("window", [1, 3])
def test_a_current_moves_the_potential_in_exactly_its_steps_and_the_delay_later(resolution, window):
    """A neuron without leak integrates: dV = I h / C in every step in which the current I acts."""
    current = channel("CURRENT", Signal.dense("pA", ["E@V1"]), (Edge(0, REGION, "E", 2.0, 0.3),))
    potential = channel("POTENTIAL", Signal.dense("mV", ["E@V1"]))

    def build(request):
        params = {"tau_m": 1e6, "C_m": 100.0, "E_L": -70.0, "V_th": 1e9}
        return {REGION: {"E": nest.Create("iaf_psc_delta", 2, params)}}

    simulator = opened(build, duration=2.0, resolution=resolution, window=window, inputs=(current,),
                       outputs=(potential,))  # fmt: skip
    given = np.zeros(20)
    given[[0, 2, 3, 11]] = [100.0, 50.0, -200.0, 10.0]  # pA
    found = []
    for k in range(simulator.grid.n_windows):
        first, end = simulator.grid.steps(k)
        simulator.feed(current, given[first:end, None], first, end)
        simulator.run(first, end)
        found += simulator.potential(potential)[:, 0].tolist()
    acting = np.concatenate([np.zeros(3), 2.0 * given])[:20]  # 0.3 ms later, weight 2
    expected = -70.0 + np.concatenate([[0.0], np.cumsum(acting * 0.1 / 100.0)])[:20]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # the leak, by far less than a step of current


# ---------------------------------------------------------------------------------------------- potentials coming out


@pytest.mark.parametrize(("resolution", "window", "threads"), [(0.1, 1, 1), (0.1, 4, 1), (0.1, 4, 2)])
def test_the_potential_is_the_mean_of_what_a_plain_multimeter_records(resolution, window, threads):
    both = channel("POTENTIAL", Signal.dense("mV", ["I@V1", "E@V1"]))
    simulator = opened(noisy, duration=9.0, window=window, outputs=(both,), threads=threads)
    initial = [np.mean(simulator._nodes[REGION, name].V_m) for name in ("I", "E")]
    found = []
    for k in range(simulator.grid.n_windows):
        simulator.run(*simulator.grid.steps(k))
        found.append(simulator.potential(both))
    assert {len(part) for part in found} == ({1} if window == 1 else {4, 2})
    found = np.concatenate(found)
    _, alone = nest_alone(noisy, 9.0, 0.1, threads, meter_ms=0.1)
    assert simulator.min_delay_ms == 0.1
    np.testing.assert_allclose(found[0], initial, rtol=1e-14)
    np.testing.assert_allclose(found[1:, 0], alone[:89, 12:].mean(axis=1), rtol=1e-14)
    np.testing.assert_allclose(found[1:, 1], alone[:89, :12].mean(axis=1), rtol=1e-14)
    assert found.std(axis=0).min() > 0.1


def test_the_potential_is_sampled_at_each_step_of_tvb_when_nest_steps_finer():
    potential = channel("POTENTIAL", Signal.dense("mV", ["E@V1"]))

    def build(request):  # a constant current through a leak: V = E_L + I tau / C (1 - exp(-t / tau))
        return {REGION: {"E": nest.Create("iaf_psc_exp", 3, {"I_e": 300.0, "C_m": 250.0, "tau_m": 10.0, "E_L": -70.0,
                                                             "V_m": -70.0})}}  # fmt: skip

    simulator = opened(build, duration=5.0, resolution=0.025, window=7, outputs=(potential,))
    found = []
    for k in range(simulator.grid.n_windows):
        simulator.run(*simulator.grid.steps(k))
        found += simulator.potential(potential)[:, 0].tolist()
    expected = -70.0 + 12.0 * (1 - np.exp(-0.1 * np.arange(50) / 10.0))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_population_without_membrane_potential_is_refused_by_name():
    with pytest.raises(ExperimentError, match="multimeter to population E@V1"):
        opened(parrots(1), outputs=(channel("POTENTIAL", Signal.dense("mV", ["E@V1"])),))


# ---------------------------------------------------------------------------------------------- what is refused


def test_input_that_is_not_of_the_next_window_is_refused_and_nothing_of_it_acts():
    trains = channel("SPIKES", Signal("spikes", "", ("A",), (2,)), (Edge(0, REGION, "E", 1.0, 0.1),))
    rate = channel("RATE", Signal.dense("Hz", ["A"]), (Edge(0, REGION, "E", 1.0, 0.1),))
    simulator = opened(parrots(1), duration=1.0, window=2, inputs=(trains, rate))

    def one(tick, sender=0):
        return Spikes(np.array([tick]), np.array([sender], np.int32))

    with pytest.raises(LockstepError, match=r"tick 2 lies outside the window \[0, 2\)"):
        simulator.feed(trains, one(2), 0, 2)
    with pytest.raises(LockstepError, match="tick -1 lies outside"):
        simulator.feed(trains, one(-1), 0, 2)
    with pytest.raises(LockstepError, match="sender 2, expected 0 to 1"):
        simulator.feed(trains, one(0, 2), 0, 2)
    with pytest.raises(LockstepError, match="not the next window; the simulator stands at step 0"):
        simulator.feed(trains, one(2), 2, 4)
    with pytest.raises(LockstepError, match=r"shape \(1, 1\), expected \(2, 1\)"):
        simulator.feed(rate, np.zeros((1, 1)), 0, 2)
    with pytest.raises(LockstepError, match=r"-1.0 Hz for A at step 1; expected a finite value, not negative"):
        simulator.feed(rate, np.array([[0.0], [-1.0]]), 0, 2)
    with pytest.raises(LockstepError, match="nan Hz"):
        simulator.feed(rate, np.array([[0.0], [np.nan]]), 0, 2)
    with pytest.raises(LockstepError, match="kind 'dense', found Spikes"):
        simulator.feed(rate, one(0), 0, 2)
    simulator.feed(trains, Spikes.none(), 0, 2)
    with pytest.raises(LockstepError, match=r"RATE-channel: its input for steps .0, 2. is missing"):
        simulator.run(0, 2)
    simulator.feed(rate, np.zeros((2, 1)), 0, 2)
    with pytest.raises(LockstepError, match="stands at step 0 and cannot run"):
        simulator.run(2, 4)
    simulator.run(0, 2)
    with pytest.raises(LockstepError, match="is missing"):  # last window's rate would silently go on
        simulator.run(2, 4)
    assert len(simulator.spikes()) == 0
    assert simulator.counters == {"recorded": 0, "SPIKES-channel": 0, "RATE-channel": 2}


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge(0, "V9", "E", 1.0, 1.0), "edge A@TVB -> E@V9: there is no population E@V9. The network has: E@V1"),
        (Edge(0, REGION, "I", 1.0, 1.0), "there is no population I@V1"),
        (Edge(0, REGION, "E", 1.0, 0.05), "edge A@TVB -> E@V1: delay = 0.05 ms is too short .* at least 0.1 ms"),
        (Edge(0, REGION, "E", 1.0, -1.0), "delay = -1.0 ms is too short"),
        (Edge(0, REGION, "E", 1.0, 0.25), "0.25 ms is not a multiple of the resolution of 0.1 ms.* example 0.2 ms"),
        (Edge(0, REGION, "E", 1.0, float("nan")), "delay = nan"),
    ],
)
def test_an_edge_that_cannot_be_made_is_named(edge, message):
    with pytest.raises(ExperimentError, match=message):
        opened(parrots(1), inputs=(channel("RATE", Signal.dense("Hz", ["A@TVB"]), (edge,)),))


def test_a_current_needs_two_steps_of_delay():
    with pytest.raises(ExperimentError, match=r"at least 0.2 ms \(2 x resolution\), since a current generator"):
        opened(parrots(1), inputs=(channel("CURRENT", Signal.dense("pA", ["A"]), (Edge(0, REGION, "E", 1.0, 0.1),)),))


def test_a_receptor_that_the_neurons_do_not_have_is_refused_with_the_edge():
    edges = (Edge(0, REGION, "E", 1.0, 1.0),)
    with pytest.raises(ExperimentError, match=r"edge A -> E@V1: NEST refuses the connection .*receptor_type.: 3"):
        opened(lambda request: {REGION: {"E": nest.Create("iaf_psc_exp")}},
               inputs=(channel("RATE", Signal.dense("Hz", ["A"]), edges, receptor_type=3),))  # fmt: skip


def test_an_output_of_an_unknown_population_is_refused():
    with pytest.raises(ExperimentError, match=r"SPIKES-channel: there is no population X@V1. The network has: E@V1"):
        opened(parrots(1), outputs=(spike_output("X@V1"),))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda: None, "the build function returned NoneType"),
        (lambda: {}, "returned nothing for V1"),
        (lambda: {REGION: {"E": nest.Create("parrot_neuron")}, "V7": {}}, "not of this program: V7"),
        (lambda: {REGION: nest.Create("parrot_neuron")}, "returned NodeCollection .* for region V1"),
        (lambda: {REGION: {}}, "an empty dict for region V1"),
        (lambda: {REGION: {"E": [1, 2]}}, "returned list .* for population 'E' of V1"),
        (lambda: {REGION: {"E": nest.NodeCollection()}}, "an empty NodeCollection for population 'E' of V1"),
        (lambda: {REGION: dict.fromkeys("EI", nest.Create("parrot_neuron"))}, "node 1 is in more .*: E@V1, I@V1"),
    ],
)
def test_a_build_function_that_returns_nonsense_is_told_what_is_expected(returned, message):
    with pytest.raises(ExperimentError, match=f"network:build: .*{message}.*It must return a dictionary of"):
        opened(lambda request: returned())


def test_a_build_function_that_changes_the_kernel_is_refused():
    def resets(request):
        nest.ResetKernel()
        return {REGION: {"E": nest.Create("parrot_neuron")}}

    def simulates(request):
        nodes = nest.Create("parrot_neuron")
        nest.Simulate(1.0)
        return {REGION: {"E": nodes}}

    with pytest.raises(ExperimentError, match=r"changed NEST's kernel: {'resolution': 0.1, 'rng_seed': 143202461}"):
        opened(resets, resolution=0.05)
    with pytest.raises(ExperimentError, match="it has simulated"):
        opened(simulates)


def test_a_build_function_gets_the_kernel_set_up_and_its_own_parameters():
    seen = []

    def build(request):
        seen.append((nest.resolution, nest.rng_seed, request.params, request.regions, request.seed))
        return parrots(1)(request)

    opened(build, resolution=0.05, seed=77, params={"n": 3})
    assert seen == [(0.05, 77, {"n": 3}, (REGION,), 77)]


@pytest.mark.parametrize("seed", [0, 2**32])
def test_a_seed_that_nest_does_not_take_is_refused(seed):
    with pytest.raises(ExperimentError, match="NEST takes 1 to 4294967295"):
        opened(parrots(1), seed=seed)


# ------------------------------------------------------------------------------------------------------- min_delay


@pytest.mark.parametrize(
    ("delay", "duration", "window", "expected"),
    [
        (None, 1.0, 5, 0.5),  # no connections: the window
        (1.5, 10.0, 10, 1.0),  # longer than the window: the window
        (0.7, 10.0, 10, 0.5),  # the largest divisor of 10 steps that is at most 7
        (0.3, 10.0, 8, 0.2),
        (0.7, 10.0, 7, 0.7),  # windows of 7 steps; the last one has 2, and may end within a slice
    ],
)
def test_min_delay_divides_the_window_and_is_at_most_the_shortest_delay(delay, duration, window, expected):
    def build(request):
        nodes = nest.Create("parrot_neuron", 2)
        if delay:
            nest.Connect(nodes, nodes, syn_spec={"delay": delay})
        return {REGION: {"E": nodes}}

    simulator = opened(build, duration=duration, window=window)
    assert simulator.min_delay_ms == expected == pytest.approx(nest.min_delay)


def test_min_delay_counts_the_edges_of_inputs_and_divides_dt_for_potentials():
    rate = channel("RATE", Signal.dense("Hz", ["A"]), (Edge(0, REGION, "E", 1.0, 0.4),))
    build = lambda request: {REGION: {"E": nest.Create("iaf_psc_exp", 2)}}  # noqa: E731
    assert opened(build, duration=8.0, window=10, inputs=(rate,)).min_delay_ms == 0.2
    potential = channel("POTENTIAL", Signal.dense("mV", ["E@V1"]))
    assert opened(build, dt=0.2, duration=8.0, window=10, inputs=(rate,), outputs=(potential,)).min_delay_ms == 0.2
    assert opened(build, dt=0.2, duration=8.0, window=10, inputs=(rate,)).min_delay_ms == 0.4


@pytest.mark.parametrize("wanted", [0.25, 0.3, 1.0, 2.0])
def test_a_min_delay_that_cannot_be_is_refused_with_those_that_can(wanted):
    with pytest.raises(ExperimentError, match=r"divide the windows of 1 ms.*\(0.7 ms.*Choose one of: 0.1, 0.2, 0.5\."):
        opened(chain, duration=10.0, window=10, min_delay=wanted)


def chain(request: BuildRequest | None) -> dict:
    nodes = nest.Create("parrot_neuron", 2)
    nest.Connect(nodes[0], nodes[1], syn_spec={"delay": 0.7})
    return {REGION: {"E": nodes}}


@pytest.mark.parametrize("wanted", [0.1, 0.2, 0.5])
def test_a_min_delay_that_can_be_is_taken(wanted):
    assert opened(chain, duration=10.0, window=10, min_delay=wanted).min_delay_ms == wanted
    assert nest.min_delay == wanted


def test_a_min_delay_set_by_the_build_function_must_fit_the_windows():
    def build(request):
        nest.set(min_delay=0.6, max_delay=1.0)
        return chain(request)

    with pytest.raises(ExperimentError, match="to the spike recorder: NEST refuses"):
        opened(build, duration=10.0, window=10)


# ------------------------------------------------------------------------------------------ the process around it


def test_memory_and_recorders_stay_flat_over_thousands_of_windows():
    potential = channel("POTENTIAL", Signal.dense("mV", ["E@V1"]))
    rate = channel("RATE", Signal.dense("Hz", ["E@V1"]), (Edge(0, REGION, "E", 20.0, 0.2),), number_of_neurons=4000)
    current = channel("CURRENT", Signal.dense("pA", ["E@V1"]), (Edge(0, REGION, "E", 1.0, 0.2),))
    trains = channel("SPIKES", Signal("spikes", "", ("A",), (5,)), (Edge(0, REGION, "I", 1.0, 0.2),))

    def build(request):
        return {REGION: {"E": nest.Create("iaf_psc_exp", 20), "I": nest.Create("parrot_neuron", 20)}}

    simulator = opened(build, duration=1200.0, window=2, inputs=(rate, current, trains), outputs=(potential,))
    process, rss = psutil.Process(), []
    given = 0
    for k in range(6000):
        first, end = simulator.grid.steps(k)
        simulator.feed(rate, np.full((2, 1), 10.0), first, end)
        simulator.feed(current, np.full((2, 1), 300.0), first, end)
        simulator.feed(trains, Spikes(np.array([first, first + 1]), np.array([0, 4], np.int32)), first, end)
        given += 2
        simulator.run(first, end)
        simulator.potential(potential)
        if k % 2000 == 1999:
            assert simulator._recorder.n_events == simulator._multimeter.n_events == 0
            rss.append(process.memory_info().rss)
    assert simulator.counters["SPIKES-channel"] == given == 12000
    # 20 parrots repeat every spike but those of the last 0.2 ms, which are still under way
    assert simulator.counters["recorded"] >= 20 * (given - 2)
    # kept, the 250 000 spikes and as many samples would be 8 MB in this time
    assert rss[2] - rss[0] < 3e6


def test_an_interrupt_during_simulate_comes_after_the_window_and_loses_nothing():
    expected = pairs(all_spikes(opened(busy, duration=600.0, window=2000)))

    def interrupted(signum, frame):
        raise KeyboardInterrupt

    simulator = opened(busy, duration=600.0, window=2000)
    before = signal.signal(signal.SIGVTALRM, interrupted)  # by CPU time: whatever else the machine does
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.005)
            simulator.run(0, 2000)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    found = pairs(simulator.spikes())
    for first in (2000, 4000):
        simulator.run(first, first + 2000)
        found += pairs(simulator.spikes())
    assert found == expected != []


def busy(request: BuildRequest) -> dict:
    """Enough work that 200 ms of it take longer than the alarm."""
    nodes = nest.Create("iaf_cond_alpha", 100, {"I_e": 400.0})
    return {REGION: {"E": nodes}}


def test_nest_in_a_foreign_thread_is_refused_instead_of_crashing():
    simulator = opened(parrots(1))
    errors = []

    def use():
        for call in (lambda: simulator.run(0, 1), lambda: opened(parrots(1))):
            try:
                call()
            except LockstepError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 2 and all("NEST was imported in another thread" in error for error in errors)
    simulator.run(0, 1)


def test_something_else_that_simulates_is_noticed():
    simulator = opened(parrots(1))
    nest.Simulate(0.1)
    with pytest.raises(LockstepError, match=r"NEST's clock shows 0.2 ms, not 0.1 ms"):
        simulator.run(0, 1)


def test_importing_nest_prints_nothing_and_leaves_the_process_as_it_was():
    """In a process of its own, whose main thread never imports NEST: everything runs in another thread."""
    code = """
import os, sys, threading
from tvb_lockstep.spikenet_side.nest import Nest
before = sys.getdlopenflags(), list(sys.argv), "PYNEST_QUIET" in os.environ
def work():
    simulator = Nest()
    import nest
    nest.ResetKernel(); nest.verbosity = nest.VerbosityLevel.ERROR
    nest.Create("parrot_neuron"); nest.Simulate(1.0)
    assert nest.biological_time == 1.0
    assert simulator.version == nest.__version__
thread = threading.Thread(target=work); thread.start(); thread.join()
assert before == (sys.getdlopenflags(), sys.argv, "PYNEST_QUIET" in os.environ)
assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
os.write(1, b"end")
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYNEST_QUIET", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code, "--debug"], capture_output=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end", b"")
