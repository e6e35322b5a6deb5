"""NetPyNE, window by window, against values known by hand and against NetPyNE alone."""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("netpyne", reason="NetPyNE is not installed here")

from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError, LockstepError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import BuildRequest, Connectome
from tvb_lockstep.spikenet_side.netpyne import NetPyNE, requirements

REGION = "V1"
WILSON_COWAN = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "wilson_cowan"
needs_compiler = pytest.mark.skipif(bool(requirements(WILSON_COWAN)), reason=" ".join(requirements(WILSON_COWAN)))


def channel(model: str, out: Signal, edges: tuple[Edge, ...] = (), **proxy_params: Any) -> Channel:
    return Channel(0, f"{model}-channel", "tvb", "spikenet", model, "TVB", ("E",), ("E",), (REGION,), (), (),
                   proxy_params, out, out, edges, key=model)  # fmt: skip


def trains(*edges: Edge, sizes: tuple[int, ...] = (1,), **proxy_params: Any) -> Channel:
    labels = tuple(f"{chr(65 + i)}@TVB" for i in range(len(sizes)))
    return channel("SPIKES", Signal("spikes", "", labels, sizes), edges, **proxy_params)


def dense(model: str, *edges: Edge, unit: str = "pA", **proxy_params: Any) -> Channel:
    return channel(model, Signal.dense(unit, ["A@TVB"]), edges, **proxy_params)


def potential_of(*labels: str) -> Channel:
    return channel("POTENTIAL", Signal.dense("mV", list(labels)))


def opened(
    build: Callable, dt: float = 0.1, resolution: float = 0.1, duration: float = 1.0, window: int = 1,
    inputs: tuple[Channel, ...] = (), outputs: tuple[Channel, ...] = (), seed: int = 1,
    regions: tuple[str, ...] = (REGION,), folder: Path | None = None, **section: Any,
) -> NetPyNE:  # fmt: skip
    simulator = NetPyNE(folder)
    simulator.grid = Grid.of(dt, {"spikenet": resolution}, duration, window)
    simulator.open(
        SpikenetSection(simulator="netpyne", regions=list(regions), resolution=resolution, **section),
        simulator.grid, Connectome(regions, np.zeros((1, 1)), np.zeros((1, 1))), seed, build,
    )  # fmt: skip
    simulator.connect(list(inputs), list(outputs))
    return simulator


def all_windows(
    simulator: NetPyNE, feed: Callable[[int, int], None] = lambda first, end: None, potential: Channel | None = None
) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The spikes of all windows as (tick, neuron), and the potentials."""
    found: list[tuple[int, int]] = []
    potentials = []
    for k in range(simulator.grid.n_windows):
        first, end = simulator.grid.steps(k)
        feed(first, end)
        simulator.run(first, end)
        spikes = simulator.spikes()
        found += zip(spikes.times.tolist(), spikes.senders.tolist(), strict=True)
        if potential is not None:
            potentials.append(simulator.potential(potential))
    return found, np.concatenate(potentials) if potentials else np.zeros(0)


def one_spike_feed(simulator: NetPyNE, into: Channel, given: list[tuple[int, int]]) -> Callable[[int, int], None]:
    def feed(first: int, end: int) -> None:
        per = simulator.grid.dt_ticks
        now = [(t, sender) for t, sender in sorted(given) if first * per <= t < end * per]
        spikes = Spikes(np.array([t for t, _ in now], np.int64), np.array([s for _, s in now], np.int32))
        simulator.feed(into, spikes, first, end)

    return feed


def cells(label: str, numbers: int, soma: dict[str, Any], **more: Any) -> Callable[[BuildRequest], dict[str, Any]]:
    """A build function with one population of cells with these sections, and ExpSyn synapses."""

    def build(request: BuildRequest) -> dict[str, Any]:
        from netpyne import specs

        params = specs.NetParams()
        params.cellParams["cell"] = {"secs": {"soma": soma, **more}}
        params.popParams[label] = {"cellType": "cell", "numCells": numbers}
        params.synMechParams["exc"] = {"mod": "ExpSyn", "tau": 2.0, "e": 0.0}
        params.synMechParams["inh"] = {"mod": "ExpSyn", "tau": 5.0, "e": -80.0}
        return {"netParams": params}

    return build


SIDE = math.sqrt(1e4 / math.pi)  # um: 1e4 um2, which is 100 pF at 1 uF/cm2
PASSIVE = {"geom": {"L": SIDE, "diam": SIDE, "cm": 1.0}, "mechs": {"pas": {"g": 1e-4, "e": -70.0}}, "vinit": -70.0}


def relays(numbers: int, label: str = "E@V1") -> Callable[[BuildRequest], dict[str, Any]]:
    """Artificial cells that fire when a spike of weight 2 reaches them, at most once in a step."""

    def build(request: BuildRequest) -> dict[str, Any]:
        from netpyne import specs

        params = specs.NetParams()
        refractory = request.resolution_ms / 2
        params.popParams[label] = {"cellModel": "IntFire1", "numCells": numbers, "refrac": refractory, "tau": 1.0}
        return {"netParams": params, "simConfig": specs.SimConfig()}

    return build


def hodgkin_huxley() -> tuple[Any, Any]:
    """An ordinary NetPyNE model: two populations of two compartments, NetStims, random connections, own seeds."""
    from netpyne import specs

    params, config = specs.NetParams(), specs.SimConfig()
    hh = {"gnabar": 0.12, "gkbar": 0.036, "gl": 3e-4, "el": -54.0}
    soma = {"geom": {"diam": 18.8, "L": 18.8}, "mechs": {"hh": hh}}
    dend = {"geom": {"diam": 2.0, "L": 100.0, "nseg": 3}, "topol": {"parentSec": "soma", "parentX": 1.0, "childX": 0},
            "mechs": {"pas": {"g": 1e-4, "e": -65.0}}}  # fmt: skip
    params.cellParams["PYR"] = {"secs": {"soma": {**soma, "threshold": -10.0}, "dend": dend}}
    params.popParams["S"] = {"cellType": "PYR", "numCells": 8}
    params.popParams["M"] = {"cellType": "PYR", "numCells": 5}
    params.synMechParams["exc"] = {"mod": "Exp2Syn", "tau1": 0.1, "tau2": 3.0, "e": 0.0}
    params.stimSourceParams["bkg"] = {"type": "NetStim", "rate": 60, "noise": 1.0}
    params.stimTargetParams["bkg"] = {
        "source": "bkg", "conds": {"cellType": "PYR"}, "weight": 0.01, "delay": 2.0, "synMech": "exc",
    }  # fmt: skip
    params.connParams["S->M"] = {
        "preConds": {"pop": "S"}, "postConds": {"pop": "M"}, "probability": 0.5, "weight": 0.004, "delay": 3.0,
        "sec": "dend", "synMech": "exc",
    }  # fmt: skip
    config.dt, config.duration = 0.05, 80.0
    config.seeds = dict.fromkeys(("conn", "stim", "loc", "cell"), 11)
    return params, config


# ---------------------------------------------------------------------------------------------- a user's network


def test_an_ordinary_model_gives_the_spikes_that_netpyne_gives_alone():
    from netpyne import sim

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        params, config = hodgkin_huxley()
        sim.create(netParams=params, simConfig=config)
        sim.runSim()
    events = zip(sim.simData["spkt"], sim.simData["spkid"], strict=True)
    alone = sorted((round(t / 0.05) - 1, int(gid)) for t, gid in events)

    def build(request):
        params, config = hodgkin_huxley()
        return {"netParams": params, "simConfig": config, "populations": {"V2": {"M": "M"}, "V1": {"S": ["S"]}}}

    for window in (1, 37):
        simulator = opened(build, resolution=0.05, duration=80.0, window=window, seed=11, regions=("V1", "V2"))
        assert [(p.label, p.size) for p in simulator.populations] == [("S@V1", 8), ("M@V2", 5)]
        found, _ = all_windows(simulator)
        assert found == alone
        assert len({neuron for _, neuron in found}) == 13 and len(found) > 40
        assert simulator.counters["recorded"] == len(found)
        simulator.close()
    other = opened(build, resolution=0.05, duration=80.0, window=37, seed=12, regions=("V1", "V2"))
    assert all_windows(other)[0] != alone


def test_an_earlier_network_that_is_still_held_takes_no_part_in_the_next():
    inputs = trains(Edge(0, REGION, "E", 2.0, 0.1))
    held, found = [], []
    for _ in range(2):
        simulator = opened(relays(1), duration=0.5, window=5, inputs=(inputs,))
        found.append(all_windows(simulator, one_spike_feed(simulator, inputs, [(1, 0), (2, 0)] if not held else []))[0])
        held.append(simulator)
    assert found == [[(2, 0), (3, 0)], []]
    held[0].feed(inputs, Spikes.none(), 5, 6)
    with pytest.raises(LockstepError, match="NEURON holds one network in a process; this one was closed, or another"):
        held[0].run(5, 6)
    simulator = opened(cells("E@V1", 3, PASSIVE))
    assert sum(1 for _ in simulator._h.allsec()) == 3
    held[1].close()  # not its network any more
    assert sum(1 for _ in simulator._h.allsec()) == 3
    simulator.close()
    assert not list(simulator._h.allsec())


def test_a_list_of_labels_is_one_population_and_what_is_not_named_takes_no_part():
    def build(request):
        params, config = hodgkin_huxley()
        params.popParams["silent"] = {"cellType": "PYR", "numCells": 2}
        return {"netParams": params, "simConfig": config, "populations": {"V1": {"E": ["M", "S"]}}}

    simulator = opened(build, resolution=0.05, duration=40.0, window=10)
    assert [(p.label, p.size) for p in simulator.populations] == [("E@V1", 13)]
    gids = [cell.gid for cell in simulator._cells["V1", "E"]]
    assert gids == [8, 9, 10, 11, 12, 0, 1, 2, 3, 4, 5, 6, 7]
    found, _ = all_windows(simulator)
    assert found and max(neuron for _, neuron in found) < 13


# ------------------------------------------------------------------------------------------------- input going in


def test_a_spike_opens_a_conductance_in_exactly_its_step():
    """Implicit Euler by hand: (C/h + g_L + g) V' = C/h V + g_L E_L + g E; ExpSyn decays by exp(-h/tau) in each step."""
    inputs = trains(Edge(0, REGION, "E", 0.002, 0.3), sizes=(2,), receptor_type="exc")
    v_of = potential_of("E@V1")
    for window in (1, 4, 7):
        simulator = opened(cells("E@V1", 2, PASSIVE), duration=2.0, window=window, inputs=(inputs,), outputs=(v_of,))
        found = all_windows(simulator, one_spike_feed(simulator, inputs, [(0, 0), (4, 0), (4, 1), (11, 1)]), v_of)[1]
        v, g, expected = -70.0, 0.0, []
        for step in range(20):
            expected.append(v)
            g += {3: 0.002, 7: 0.004, 14: 0.002}.get(step, 0.0)  # uS
            capacity, leak = 0.1 / 0.1, 1e-4 * 1e-4 * 1e6  # nF / ms and S/cm2 x cm2, in uS
            v = (capacity * v + leak * -70.0 + g * 0.0) / (capacity + leak + g)
            g *= math.exp(-0.1 / 2.0)
        np.testing.assert_allclose(found[:, 0], expected, rtol=0, atol=1e-6)
        assert simulator.counters["SPIKES-channel"] == 4


@pytest.mark.parametrize(
    ("receptor", "section", "location", "synapse"),
    [("inh", "soma", 0.5, "inh"), ("dend.exc", "dend", 0.5, "exc"), ("dend(0.83).inh", "dend", 0.83, "inh")],
)
def test_a_synapse_is_chosen_by_name_and_place(receptor, section, location, synapse):
    dend = {"geom": {"diam": 2.0, "L": 100.0, "nseg": 3}, "topol": {"parentSec": "soma", "parentX": 1.0, "childX": 0}}
    edges = (Edge(0, REGION, "E", 0.5, 0.7),)
    inputs = (trains(*edges, receptor_type=receptor), dense("RATE", *edges, unit="Hz", receptor_type=receptor))
    simulator = opened(cells("E@V1", 2, PASSIVE, dend=dend), inputs=inputs)
    for cell in simulator._cells[REGION, "E"]:
        assert len(cell.conns) == 2
        for made in cell.conns:
            assert (made["sec"], made["loc"], made["synMech"]) == (section, location, synapse)
            assert (made["hObj"].weight[0], made["hObj"].delay) == (0.5, 0.7)
            point = made["hObj"].syn()
            assert point.tau == {"exc": 2.0, "inh": 5.0}[synapse]
            assert point.get_segment().sec is cell.secs[section]["hObj"] or section in str(point.get_segment())


def test_currents_of_several_channels_add_up_where_they_are_put():
    """Without leak and axial current dV = I h / C in each step; 100 pF. The dendrite is not joined to the soma."""
    bare = {"geom": PASSIVE["geom"], "vinit": -70.0}
    inputs = (
        dense("CURRENT", Edge(0, REGION, "E", 2.0, 0.1), Edge(0, REGION, "E", -1.0, 0.4)),
        replace(dense("CURRENT", Edge(0, REGION, "E", 1.0, 0.2), receptor_type="soma(0.5)"), name="other"),
    )
    v_of = potential_of("E@V1")
    values = np.array([100.0, 0, 0, 50.0, 50.0, 0, -200.0, 0, 0, 10.0])
    for window in (1, 3, 10):
        simulator = opened(cells("E@V1", 1, bare), window=window, inputs=inputs, outputs=(v_of,))

        def feed(first: int, end: int, simulator: NetPyNE = simulator) -> None:
            simulator.feed(inputs[0], values[first:end, None], first, end)
            simulator.feed(inputs[1], 10 * values[first:end, None], first, end)

        found = all_windows(simulator, feed, v_of)[1][:, 0]
        later = [np.concatenate([np.zeros(n), values])[:10] for n in (1, 4, 2)]
        acting = 2.0 * later[0] - later[1] + 10.0 * later[2]
        expected = -70.0 + np.concatenate([[0.0], np.cumsum(acting) * 0.1 / 100.0])[:10]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_given_spikes_keep_their_steps_over_many_windows_although_neurons_clock_drifts():
    """0.1 ms is no sum of halves, so that NEURON's own clock is off; relays fire in the steps of their input."""
    inputs = trains(Edge(0, REGION, "E", 2.0, 0.1))
    given = [(step, 0) for step in (0, 998, 999, 1000, 1001, 2500, 3998)]
    simulator = opened(relays(2), duration=400.0, window=30, inputs=(inputs,))
    found, _ = all_windows(simulator, one_spike_feed(simulator, inputs, given))
    assert found == [(step + 1, i) for step, _ in given for i in (0, 1)]
    assert simulator._h.t != 400.0
    with pytest.raises(ExperimentError, match=r"is more than 50000000 steps of 0\.1 ms"):
        opened(relays(2), duration=5_000_000.1)


def test_a_cell_above_its_threshold_from_the_start_fires_in_the_first_step():
    bare = {"geom": PASSIVE["geom"], "vinit": -20.0, "threshold": -30.0}
    for window in (1, 5):
        assert all_windows(opened(cells("E@V1", 2, bare), window=window))[0] == [(0, 0), (0, 1)]


@needs_compiler
def test_the_point_neuron_of_wilson_cowan_does_what_nests_iaf_cond_exp_does():
    """Reference: NEST 3.10 alone, V_m every 0.1 ms. Input of 3 nS at 2, 4, 4.1, 4.2, 13, 15 ms (1, 4, 4, 4, 5, 6 times)
    and of -15 nS at 6 ms."""
    reference = {1.0: -60.0, 2.1: -59.91118, 3.0: -59.21034, 4.5: -54.5131, 5.0: -50.33539, 8.0: -60.0, 12.9: -55.96602,
                 20.0: -59.02805, 25.0: -51.92479, 39.0: -54.23787}  # fmt: skip
    spike_times = [5.1, 14.7]

    def build(request):
        from netpyne import specs

        params = specs.NetParams()
        neuron = {"C_m": 200.0, "g_L": 10.0, "E_L": -60.0, "V_th": -50.0, "V_reset": -60.0, "t_ref": 5.0, "E_ex": 0.0,
                  "E_in": -80.0, "tau_syn_ex": 5.0, "tau_syn_in": 10.0, "V_m": -60.0}  # fmt: skip
        soma = {"geom": {"L": 10.0, "diam": 10.0}, "threshold": -50.0,
                "pointps": {"iaf": {"mod": "IafCondExp", "vref": "V", **neuron}}}  # fmt: skip
        params.cellParams["iaf"] = {"secs": {"soma": soma}}
        params.popParams["E@V1"] = {"cellType": "iaf", "numCells": 1}
        return {"netParams": params}

    inputs = trains(Edge(0, REGION, "E", 3.0, 1.0), Edge(1, REGION, "E", -15.0, 1.0), sizes=(6, 1))
    v_of = potential_of("E@V1")
    simulator = opened(build, duration=40.0, window=20, inputs=(inputs,), outputs=(v_of,), folder=WILSON_COWAN)
    given = [(10, 0), *((t, i) for t in (30, 31, 32) for i in range(4)), *((120, i) for i in range(5)),
             *((140, i) for i in range(6)), (50, 6)]  # fmt: skip
    found, v = all_windows(simulator, one_spike_feed(simulator, inputs, given), v_of)
    assert found == [(round(t / 0.1) - 1, 0) for t in spike_times]
    ours = [v[round(t / 0.1), 0] for t in reference]
    np.testing.assert_allclose(ours, list(reference.values()), rtol=0, atol=2e-3)

    current = dense("CURRENT", Edge(0, REGION, "E", 1.0, 0.1), receptor_type="I_e")  # 80 pA / 10 nS = 8 mV
    simulator = opened(build, duration=150.0, window=50, inputs=(current,), outputs=(v_of,), folder=WILSON_COWAN)
    v = all_windows(simulator, lambda a, b: simulator.feed(current, np.full((b - a, 1), 80.0), a, b), v_of)[1]
    t = 0.1 * np.arange(1499)
    np.testing.assert_allclose(v[1:, 0], -60.0 + 8.0 * (1 - np.exp(-t / 20.0)), rtol=0, atol=1e-9)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, c: p.popParams.update({"E": p.popParams.pop("E@V1")}), "no label .* has the form NAME@REGION: E"),
        (lambda p, c: p.popParams.update({"I@V7": {"cellType": "cell", "numCells": 1}}), "not of this program: V7"),
        (lambda p, c: p.synMechParams["exc"].update(mod="None"), "synMechParams: Error in 'exc' -> 'mod'"),
        (lambda p, c: p.popParams["E@V1"].update(cellType="X"), "popParams: Error in 'E@V1' -> 'cellType'"),
        (lambda p, c: p.popParams["E@V1"].update(numCells=0), "has no cells|NetPyNE cannot make"),
        (lambda p, c: setattr(c, "cvode_active", True), "simConfig.cvode_active = True: .* leave cvode_active out"),
    ],
)
def test_a_network_that_netpyne_would_make_otherwise_than_asked_for_is_refused_with_its_words(make, message):
    def build(request):
        from netpyne import specs

        made = cells("E@V1", 2, PASSIVE)(request)
        config = specs.SimConfig()
        make(made["netParams"], config)
        return {**made, "simConfig": config}

    with pytest.raises(ExperimentError, match=f"(?s)network:build: .*{message}"):
        opened(build)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: None, "the build function returned NoneType 'None'"),
        (lambda made: {"simConfig": None}, "the build function returned dict"),
        (lambda made: made | {"cfg": 1}, "unknown keys: cfg"),
        (lambda made: made | {"netParams": 3}, "as netParams int '3'"),
        (lambda made: made | {"populations": ["E@V1"]}, "as populations list"),
        (lambda made: made | {"populations": {}}, "returned nothing for V1"),
        (lambda made: made | {"populations": {"V1": {}}}, "an empty dict for region V1"),
        (lambda made: made | {"populations": {"V1": {"E": 5}}}, "int '5' for population 'E' of V1"),
        (lambda made: made | {"populations": {"V1": {"E": "E"}}}, "'E' of V1 is 'E', and popParams has no .* E@V1"),
        (lambda made: made | {"populations": {"V1": dict.fromkeys("EI", "E@V1")}}, "cell 0 is in more .*: E@V1, I@V1"),
    ],
)
def test_a_build_function_that_returns_nonsense_is_told_what_is_expected(change, message):
    build = cells("E@V1", 2, PASSIVE)
    with pytest.raises(ExperimentError, match=f"network:build: .*{message}.*It must return"):
        opened(lambda request: change(build(request)))


@pytest.mark.parametrize(
    ("build", "model", "receptor", "message"),
    [
        (cells("E@V1", 1, PASSIVE), "SPIKES", 0, "receptor_type = 0: say which .*: exc, inh; .*'soma.0.5..exc'"),
        (cells("E@V1", 1, PASSIVE), "RATE", 2, "receptor_type = 2: say which synapse"),
        (cells("E@V1", 1, PASSIVE), "SPIKES", "gaba", "there is no synapse 'gaba'; there is exc, inh"),
        (cells("E@V1", 1, PASSIVE), "SPIKES", "apic.exc", "cell 0 has no section 'apic'; it has soma"),
        (cells("E@V1", 1, PASSIVE), "SPIKES", "soma(1.5).exc", "a location is from 0 to 1"),
        (cells("E@V1", 1, PASSIVE), "SPIKES", "soma(0.5)", r"expected the form 'dend\(0.7\).AMPA'"),
        (cells("E@V1", 1, PASSIVE), "CURRENT", "soma.exc", r"expected the form 'dend\(0.7\)'"),
        (relays(1), "SPIKES", "exc", "cell 0 has no synapses to choose from; leave it out"),
        (relays(1), "CURRENT", 0, r"cell 0 is an artificial cell \(IntFire1\), which takes spikes and no current"),
    ],
)
def test_an_input_that_cannot_be_placed_is_refused_with_the_choices(build, model, receptor, message):
    edge = Edge(0, REGION, "E", 1.0, 0.3)
    into = trains(edge, receptor_type=receptor) if model == "SPIKES" else dense(model, edge, receptor_type=receptor)
    with pytest.raises(ExperimentError, match=f"{model}-channel, edge A@TVB -> E@V1: .*{message}"):
        opened(build, inputs=(into,))


def test_what_netpyne_cannot_do_is_said():
    with pytest.raises(ExperimentError, match="threads of spikenet = 2: NetPyNE runs on 1 thread"):
        opened(relays(1), threads=2)
    with pytest.raises(ExperimentError, match=r"POTENTIAL-channel: cell 0 is an artificial cell .* has no potential"):
        opened(relays(1), outputs=(potential_of("E@V1"),))


def test_something_else_that_simulates_or_moves_a_threshold_is_noticed():
    simulator = opened(relays(1))
    simulator._h.fadvance()
    with pytest.raises(LockstepError, match=r"NEURON's clock shows 0.2\d* ms, not 0.1 ms"):
        simulator.run(0, 1)
    rising = {"geom": PASSIVE["geom"], "vinit": -70.0, "threshold": -69.5}
    current = dense("CURRENT", Edge(0, REGION, "E", 1.0, 0.1))
    simulator = opened(cells("E@V1", 1, rising), window=2, inputs=(current,))
    simulator.feed(current, np.full((2, 1), 1000.0), 0, 2)  # 1 mV in step 1
    simulator.run(0, 2)
    assert simulator.spikes().times.tolist() == [1]
    simulator._sim.pc.threshold(0, 0.0)
    simulator.feed(current, np.zeros((2, 1)), 2, 4)
    with pytest.raises(LockstepError, match=r"neurons \[\] crossed their threshold in step 1; their pot.* \[0\]"):
        simulator.run(2, 4)


# --------------------------------------------------------------------------------------------------- mod files

ADDER = """
NEURON {{ POINT_PROCESS {name} RANGE n }}
PARAMETER {{ n = {value} }}
ASSIGNED {{ v (millivolt) }}
"""


def in_a_process(code: str, *arguments: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, timeout=300)


LOAD = """
import sys
from pathlib import Path
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.spikenet_side.netpyne.mechanisms import import_neuron, load
try:
    for folder in sys.argv[2:]:
        load(Path(folder) / "mod")
    print(import_neuron().MechanismStandard(sys.argv[1]).count())
except LockstepError as error:
    print(type(error).__name__, error)
"""


@needs_compiler
def test_mod_files_are_compiled_once_for_what_they_hold_and_never_taken_from_the_current_folder(tmp_path):
    one, two, cache = tmp_path / "one", tmp_path / "two", tmp_path / "cache"
    for folder, value in ((one, 1), (two, 2)):
        (folder / "mod").mkdir(parents=True)
        (folder / "mod" / "adder.mod").write_text(ADDER.format(name="Adder", value=value))
    environ = {"XDG_CACHE_HOME": str(cache)}
    commands = [[sys.executable, "-c", LOAD, "Adder", str(one)] for _ in range(2)]
    both = [subprocess.Popen(command, cwd=tmp_path, env=os.environ | environ, stdout=subprocess.PIPE, text=True)
            for command in commands]  # fmt: skip
    assert [program.communicate()[0] for program in both] == ["1\n", "1\n"]
    (library,) = cache.glob("tvb-lockstep/netpyne/*/*/libnrnmech.so")
    assert (cache / "tvb-lockstep" / "netpyne").stat().st_mode & 0o777 == 0o700
    written = library.stat().st_mtime_ns
    # the second time no compiler is needed; another content beside it is another mechanism
    found = in_a_process(LOAD, "Adder", one, one, two, cwd=tmp_path, PATH="/nowhere", **environ)
    assert "ExperimentError" in found.stdout and "NEURON has a mechanism Adder already" in found.stdout
    assert library.stat().st_mtime_ns == written
    # NEURON's own habit: it would load this at start
    shutil.copytree(library.parent, tmp_path / "elsewhere" / library.parent.name)
    code = "from tvb_lockstep.spikenet_side.netpyne.mechanisms import import_neuron as i; print(hasattr(i(), 'Adder'))"
    assert in_a_process(code, cwd=tmp_path / "elsewhere").stdout == "False\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "elsewhere", "one", "two"]


@needs_compiler
def test_mod_files_that_do_not_compile_are_quoted_and_leave_no_half_made_library(tmp_path):
    (tmp_path / "mod").mkdir()
    (tmp_path / "mod" / "wrong.mod").write_text("NEURON { SUFFIX wrong }\nBREAKPOINT { SOLVE nothing }\n")
    done = in_a_process(LOAD, "wrong", tmp_path, cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.stdout.startswith("EnvironmentFailed") and "wrong.mod" in done.stdout
    assert "nothing" in done.stdout
    (log,) = tmp_path.glob("cache/tvb-lockstep/netpyne/*.log")
    assert str(log) in done.stdout and "wrong.mod" in log.read_text()
    assert not [path for path in log.parent.iterdir() if path.is_dir()]


def test_a_missing_compiler_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requirements(tmp_path) == []  # no mod files
    (tmp_path / "mod").mkdir()
    (tmp_path / "mod" / "adder.mod").write_text(ADDER.format(name="Other", value=1))
    assert [line.split(" is missing")[0] for line in requirements(tmp_path)] == ["g++", "make"]
    with pytest.raises(EnvironmentFailed, match=r"g\+\+ is missing, .*mod: install it .*apt install g\+\+"):
        NetPyNE(tmp_path)


# ------------------------------------------------------------------------------------------ the process around it


def test_netpyne_prints_nothing_reads_no_arguments_and_writes_nothing(tmp_path):
    """In a process of its own, in a thread that is not the main one."""
    code = f"""
import os, sys, threading
from tvb_lockstep.spikenet_side.netpyne import NetPyNE
before = os.getcwd(), list(sys.argv), sys.stdout
def work():
    NetPyNE()
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import test_netpyne as t
    inputs = t.trains(t.Edge(0, "V1", "E", 2.0, 0.3))
    simulator = t.opened(t.relays(2), duration=2.0, window=5, inputs=(inputs,))
    found, _ = t.all_windows(simulator, t.one_spike_feed(simulator, inputs, [(7, 0)]))
    assert found == [(10, 0), (10, 1)], found
    simulator.close()
thread = threading.Thread(target=work); thread.start(); thread.join()
assert before == (os.getcwd(), sys.argv, sys.stdout)
os.write(1, b"end")
"""
    environ = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "NEURON_MODULE_OPTIONS")}
    done = subprocess.run([sys.executable, "-c", code, "-nogui", "simConfig=none.py"], capture_output=True, env=environ,
                          cwd=tmp_path, timeout=300)  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"end", b"")
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_flat_over_thousands_of_windows():
    rate = dense("RATE", Edge(0, REGION, "E", 0.003, 0.2), unit="Hz", number_of_neurons=1000, receptor_type="exc")
    current = dense("CURRENT", Edge(0, REGION, "E", 1.0, 0.2))
    v_of = potential_of("E@V1")
    soma = {**PASSIVE, "mechs": {"hh": {}}, "vinit": -65.0}
    simulator = opened(cells("E@V1", 10, soma), duration=900.0, window=3, inputs=(rate, current), outputs=(v_of,))
    process, rss = psutil.Process(), []
    for k in range(simulator.grid.n_windows):
        first, end = simulator.grid.steps(k)
        simulator.feed(rate, np.full((end - first, 1), 2.0), first, end)
        simulator.feed(current, np.full((end - first, 1), 100.0 * (k % 2)), first, end)
        simulator.run(first, end)
        simulator.potential(v_of)
        if k % 1000 == 999:
            rss.append(process.memory_info().rss)
    assert simulator.counters["recorded"] > 100
    # 180 000 Poisson spikes; kept, they would be 3 MB
    assert rss[2] - rss[0] < 2e6
