"""Networks declared as lists: what is drawn, by hand and by its statistics; the same synapses and, spike for spike, the
same activity on every simulator, against numpy."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError
from tvb_lockstep.bridges.experiment import SpikenetSection, load, validate
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import BuildRequest, Connectome
from tvb_lockstep.spikenet_side.declared import Drawn, draw, make
from tvb_lockstep.spikenet_side.program import build_of, simulator_of

SIMULATORS = {"nest": "nest", "annarchy": "ANNarchy", "netpyne": "netpyne"}
LIF = load("lif_comparison")[1].parent  # its mod file is NetPyNE's integrate-and-fire neuron
REGIONS = ("V1", "V2")
H_MS, N_STEPS, SEED = 0.1, 1500, 7
CONNECTOME = Connectome(REGIONS, np.array([[0.3, 0.5], [0.25, 0.0]]), np.array([[0.0, 3.24], [4.16, 0.0]]))
NEURON = {"C_m": 200.0, "tau_m": 20.0, "E_L": -49.0, "V_th": -50.0, "V_reset": -60.0, "t_ref": 5.0, "tau_syn_ex": 5.0,
          "tau_syn_in": 10.0}  # fmt: skip
V_0 = {"distribution": "uniform", "low": -60.0, "high": -50.0}
CONNECTIONS = [
    {"source": "E", "target": "E", "rule": "fixed_indegree", "indegree": 8, "weight": 32.0, "delay": 1.0},
    {"source": "E", "target": "I", "rule": "pairwise_bernoulli", "p": 0.3, "weight": 24.0,
     "delay": {"distribution": "uniform", "low": 0.5, "high": 2.0}},
    {"source": "I", "target": "E", "rule": "fixed_outdegree", "outdegree": 6, "allow_multapses": False, "delay": 0.8,
     "weight": {"distribution": "uniform", "low": -140.0, "high": -100.0}},
]  # fmt: skip
BETWEEN = [{"source": "E", "target": "E", "rule": "fixed_indegree", "indegree": 3, "factor": 64.0, "label": "tracts"}]


def propagators() -> dict[str, float]:
    """Exact integration of a step (Rotter & Diesmann 1999): V - E_L gets P22 of itself and P21 of each current."""
    n, found = NEURON, {"P22": math.exp(-H_MS / NEURON["tau_m"])}
    for name in ("ex", "in"):
        tau, tau_m = n[f"tau_syn_{name}"], n["tau_m"]
        found[f"P11_{name}"] = math.exp(-H_MS / tau)
        found[f"P21_{name}"] = (found[f"P11_{name}"] - found["P22"]) * tau * tau_m / (tau - tau_m) / n["C_m"]
    return found


def populations(simulator: str) -> list[dict[str, Any]]:
    """40 E and 10 I neurons of the same integrate-and-fire model."""
    p = propagators() | {name: NEURON[name] for name in ("E_L", "V_th", "V_reset")}
    p["ref_steps"] = round(NEURON["t_ref"] / H_MS)
    if simulator == "nest":
        one: dict[str, Any] = {"model": "iaf_psc_exp", "params": NEURON, "initial": {"V_m": V_0}}
    elif simulator == "netpyne":
        point = {**p, "vref": "V", "threshold": NEURON["V_th"]}
        one = {"model": "IafPscExp", "params": point, "initial": {"V_m": V_0}}
    else:
        equations = """
            v = if waits > 0: v else: E_L + P22 * (v - E_L) + P21_ex * i_ex + P21_in * i_in
            waits = if waits > 0: waits - 1 else: 0
            i_ex = P11_ex * i_ex + g_exc
            i_in = P11_in * i_in - g_inh
            g_exc = 0.0
            g_inh = 0.0
        """
        neuron = {"parameters": "\n".join(f"{name} = 0.0 : population" for name in p), "equations": equations,
                  "spike": "v >= V_th", "reset": "v = V_reset\nwaits = ref_steps"}  # fmt: skip
        one = {"model": "Neuron", "params": {**neuron, **p}, "initial": {"v": V_0}}
    return [{"label": "E", "size": 40, **one}, {"label": "I", "size": 10, **one}]


IN_V1 = [{**row, "regions": "V1"} for row in CONNECTIONS]  # fewer projections: ANNarchy compiles each of them


def e_and_i(simulator: str) -> list[dict[str, Any]]:
    """E in both regions, I in V1."""
    E, I = populations(simulator)  # noqa: E741
    return [E, {**I, "regions": "V1"}]


def request_of(regions: tuple[str, ...] = REGIONS, seed: int = SEED, simulator: str = "") -> BuildRequest:
    return BuildRequest(regions, {}, seed, H_MS, CONNECTOME, simulator=simulator)


def relays(**sizes: int) -> list[dict[str, Any]]:
    return [{"label": label, "model": "any", "size": size} for label, size in sizes.items()]


def only(connection: dict[str, Any], seed: int = SEED, **sizes: int) -> Any:
    """The one projection of one region."""
    row = {"source": "A", "target": "A" if len(sizes) == 1 else "B", "weight": 1.0, "delay": 1.0, **connection}
    (found,) = draw(request_of(("V1",), seed), relays(**sizes), [row]).projections
    return found


# ------------------------------------------------------------------------------------------------------- what is drawn


def test_each_rule_makes_the_synapses_that_its_name_says():
    everything = only({}, A=3)
    assert everything.sources.tolist() == [1, 2, 0, 2, 0, 1] and everything.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(only({"allow_autapses": True}, A=3).sources) == 9
    pairs = only({"rule": "one_to_one"}, A=4, B=4)
    assert pairs.sources.tolist() == pairs.targets.tolist() == [0, 1, 2, 3]
    hear = only({"rule": "fixed_indegree", "indegree": 5, "allow_multapses": False}, A=6)
    assert np.bincount(hear.targets).tolist() == [5] * 6  # all the others, each once
    assert len({*zip(hear.sources, hear.targets, strict=True)}) == 30 and (hear.sources != hear.targets).all()
    send = only({"rule": "fixed_outdegree", "outdegree": 30}, A=6, B=4)
    assert np.bincount(send.sources).tolist() == [30] * 6 and (np.bincount(send.targets) > 20).all()
    some = only({"rule": "pairwise_bernoulli", "p": 0.2}, A=200, B=300)
    assert abs(len(some.sources) - 12000) < 5 * math.sqrt(60000 * 0.2 * 0.8)
    assert len(np.unique(some.targets * 200 + some.sources)) == len(some.sources)
    assert abs(some.sources.mean() - 99.5) < 5 * 57.7 / math.sqrt(12000)


def test_random_numbers_hang_on_seed_row_and_region_and_on_nothing_else():
    def found(drawn: Drawn) -> dict[tuple[str, str, str], Any]:
        return {
            (p.label, p.source.region, p.target.region):
            [each.tolist() for each in (p.sources, p.targets, p.weights, p.delays)]
            for p in drawn.projections
        }  # fmt: skip

    rows = populations("nest")
    base = draw(request_of(), rows, CONNECTIONS, BETWEEN)
    turned = draw(request_of(REGIONS[::-1]), rows[::-1], CONNECTIONS[::-1], BETWEEN)
    assert found(turned) == found(base) and len(base.projections) == 3 * 2 + 2
    assert found(draw(request_of(("V2",)), rows, CONNECTIONS[:1])).items() <= found(base).items()
    assert found(base)["E->E", "V1", "V1"][0] != found(base)["E->E", "V2", "V2"][0]
    assert found(draw(request_of(seed=8), rows, CONNECTIONS))["E->E", "V1", "V1"] != found(base)["E->E", "V1", "V1"]
    V = {(p.label, p.region): p.initial["V_m"].tolist() for p in base.populations}
    for population in turned.populations:
        assert V[population.label, population.region] == population.initial["V_m"].tolist()
    assert len({tuple(each) for each in V.values()}) == 4
    named_otherwise = draw(request_of(), populations("annarchy")).populations
    assert [population.initial["v"].tolist() for population in named_otherwise] == list(V.values())


def test_weights_and_delays_between_regions_are_those_of_the_connectome():
    drawn = draw(request_of(), relays(E=5), [], [{"source": "E", "target": "E", "factor": 64.0}])
    assert [(p.source.region, p.target.region, set(p.weights), set(p.delays)) for p in drawn.projections] == [
        ("V2", "V1", {32.0}, {32}), ("V1", "V2", {16.0}, {42}),  # 64 x 0.5, 3.24 ms; 64 x 0.25, 4.16 ms
    ]  # fmt: skip
    one_way = [{"source": "E", "target": "E", "factor": 1.0, "source_regions": "V1"}]
    assert [p.target.region for p in draw(request_of(), relays(E=5), [], one_way).projections] == ["V2"]


def test_what_cannot_be_is_refused_by_row_and_key():
    c = {"source": "A", "target": "A", "weight": 1.0, "delay": 1.0}
    short = Connectome(REGIONS, np.ones((2, 2)), np.full((2, 2), 0.04))
    for rows, connections, between, connectome, said in (
        (relays(A=3), [{**c, "delay": 0.25}], [], CONNECTOME, r"A->A .*delay = 0.25 ms is not a multiple"),
        (relays(A=3), [{**c, "delay": {"distribution": "exponential", "scale": 0.01}}], [], CONNECTOME, "was drawn"),
        (relays(A=3), [{**c, "rule": "fixed_indegree", "indegree": 3, "allow_multapses": False}], [], CONNECTOME,
         "indegree = 3: there are only 2 neurons"),
        (relays(A=3, B=2), [{**c, "target": "B", "rule": "one_to_one"}], [], CONNECTOME, "they have 3 and 2"),
        (relays(A=3), [{**c, "rule": "one_to_one"}], [], CONNECTOME, "to itself"),
        (relays(A=3), [{**c, "wieght": 2.0}], [], CONNECTOME, r"connections.0.wieght: unknown key. .*'weight'"),
        (relays(A=3), [{**c, "regions": "V7"}], [], CONNECTOME, "no region 'V7'; it has V1, V2"),
        ([{**relays(A=3)[0], "regions": "V1"}], [], [], CONNECTOME, "no row is for region V2"),
        (relays(A=3), [], [{"source": "A", "target": "A", "factor": 1.0}], short, "V2 to V1 takes 0.04 ms"),
    ):  # fmt: skip
        with pytest.raises(ExperimentError, match=said):
            draw(BuildRequest(REGIONS, {}, 1, H_MS, connectome), rows, connections, between)
    with pytest.raises(ExperimentError, match="nest, annarchy or netpyne"):
        make(request_of(simulator="brian2:Brian2"), relays(A=3))


def test_an_experiment_declares_its_network_and_errors_name_row_and_key():
    def checked(**changed: Any) -> SpikenetSection:
        spikenet = {"simulator": "nest", "regions": list(REGIONS), "populations": populations("nest"),
                    "connections": CONNECTIONS, "region_connections": BETWEEN, **changed}  # fmt: skip
        rows = {"spikenet_to_tvb": [{"voi": "E", "populations": "E"}]}
        data = {"name": "x", "duration": 1.0, "tvb": {}, "spikenet": spikenet, "interfaces": rows}
        experiment = validate(data, "x.toml")
        assert validate(experiment.model_dump(), "again") == experiment
        return experiment.spikenet[0]

    section = checked()
    drawn = build_of(section, Path())
    assert section.build == "populations" and callable(drawn)
    c = CONNECTIONS[0]
    for changed, said in (
        ({"build": "network:build"}, "build = 'network:build': the network is declared"),
        ({"connections": [c, {**c, "target": "X"}]}, r"connections.1.target = 'X': .* there is E, I"),
        ({"connections": [c, c]}, r"connections.1.label = 'E->E': another row has it"),
        ({"connections": [{**c, "p": 0.1}]}, r"connections.0: p = 0.1: p goes with rule = 'pairwise_bernoulli'"),
        ({"connections": [{**c, "rule": "fixed"}]}, r"connections.0.rule = 'fixed': must be 'all_to_all'"),
        ({"connections": [{**c, "weight": {"distribution": "unifrom"}}]}, r"connections.0.weight: .*one of uniform"),
        ({"populations": [{"label": "E", "model": "m", "size": 0}]}, r"populations.0.size = 0: must be greater"),
        ({"populations": relays(E=1, I=1) + relays(E=2)}, r"populations.2.label = 'E': there is such a population"),
    ):
        with pytest.raises(ExperimentError, match=said):
            checked(**changed)


# ------------------------------------------------------------------------------------------------- on every simulator


def in_numpy(drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Steps and neurons of all spikes. V moves with the currents of before the step; they decay and take what comes."""
    p, n = propagators(), NEURON
    first, size = {}, 0
    for population in drawn.populations:
        first[population.region, population.label] = size
        size += population.size
    V = np.concatenate([population.initial["V_m"] for population in drawn.populations])
    of: list[Any] = []
    for projection in drawn.projections:
        ends = [first[end.region, end.label] for end in (projection.source, projection.target)]
        of.append((projection.sources + ends[0], projection.targets + ends[1], projection.weights, projection.delays))
    source, target, weight, delay = (np.concatenate(column) for column in zip(*of, strict=True))
    arriving = np.zeros((N_STEPS + 100, 2, size))
    currents, waits, steps, neurons = np.zeros((2, size)), np.zeros(size, int), [], []
    P21 = np.array([[p["P21_ex"]], [p["P21_in"]]])
    P11 = np.array([[p["P11_ex"]], [p["P11_in"]]])
    for step in range(N_STEPS):
        moved = n["E_L"] + (V - n["E_L"]) * p["P22"] + (P21 * currents).sum(axis=0)
        V = np.where(waits > 0, V, moved)
        waits = np.maximum(waits - 1, 0)
        currents = currents * P11 + arriving[step]
        fired = n["V_th"] <= V
        V[fired], waits[fired] = n["V_reset"], round(n["t_ref"] / H_MS)
        sent = fired[source]
        np.add.at(arriving, (step + delay[sent], (weight[sent] < 0).astype(int), target[sent]), weight[sent])
        steps.append(np.full(fired.sum(), step))
        neurons.append(np.flatnonzero(fired))
    return np.concatenate(steps), np.concatenate(neurons)


def opened(name: str) -> tuple[Any, Grid]:
    if importlib.util.find_spec(SIMULATORS[name]) is None:
        pytest.skip(f"{name} is not installed in this environment")
    section = SpikenetSection(simulator=name, regions=list(REGIONS), populations=e_and_i(name),
                              connections=IN_V1, region_connections=BETWEEN)  # fmt: skip
    try:
        simulator = simulator_of(section, LIF)
        grid = Grid.of(H_MS, {"spikenet": H_MS}, N_STEPS * H_MS, 50)
        simulator.open(section, grid, CONNECTOME, SEED, build_of(section, LIF))
    except EnvironmentFailed as missing:  # no compiler
        pytest.skip(str(missing).splitlines()[0])
    simulator.connect([], [])
    return simulator, grid


@pytest.mark.parametrize("name", SIMULATORS)
def test_every_simulator_gets_the_same_synapses_and_fires_the_same_spikes(name):
    drawn = draw(request_of(), e_and_i("nest"), IN_V1, BETWEEN)
    simulator, grid = opened(name)
    try:
        table = simulator.network().connections()
        expected: dict[tuple[str, int, str, int], list[float]] = {}
        for p in drawn.projections:
            for s, t, w, d in zip(p.sources, p.targets, p.weights, p.delays, strict=True):
                ends = (f"{p.source.label}@{p.source.region}", int(s), f"{p.target.label}@{p.target.region}", int(t))
                # ANNarchy has one synapse of a pair, of the sum of weights, all positive; NEURON's delay is a step less
                sofar = expected.setdefault((*ends, d - (name == "netpyne")), [])
                sofar.append(abs(w) if name == "annarchy" else w)
                if name == "annarchy":
                    sofar[:] = [sum(sofar)]
        found: dict[tuple[str, int, str, int], list[float]] = {}
        for s, i, t, j, w, d, _ in table.itertuples(index=False):
            found.setdefault((s, i, t, j, round(d / H_MS)), []).append(w)
        assert {key: sorted(weights) for key, weights in found.items()} == {
            key: sorted(weights) for key, weights in expected.items()
        }
        spikes = []
        for k in range(grid.n_windows):
            simulator.run(*grid.steps(k))
            spikes.append(simulator.spikes())
    finally:
        simulator.close()
    steps, neurons = in_numpy(drawn)
    assert len(steps) > 200 and len(np.unique(neurons)) > 70 and len(np.unique(steps)) > 180
    np.testing.assert_array_equal(np.concatenate([each.times for each in spikes]), steps)
    np.testing.assert_array_equal(np.concatenate([each.senders for each in spikes]), neurons)


def declared(name: str, rows: list[dict[str, Any]], connections: list[dict[str, Any]] = []) -> Any:  # noqa: B006
    """A network of V1 alone, opened; its address book."""
    if importlib.util.find_spec(SIMULATORS[name]) is None:
        pytest.skip(f"{name} is not installed in this environment")
    section = SpikenetSection(simulator=name, regions=["V1"], populations=rows, connections=connections)
    connectome = Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1)))
    try:
        simulator = simulator_of(section, LIF)
        simulator.open(section, Grid.of(H_MS, {"spikenet": H_MS}, 1.0, 1), connectome, SEED, build_of(section, LIF))
    except EnvironmentFailed as missing:  # no compiler
        pytest.skip(str(missing).splitlines()[0])
    simulator.connect([], [])
    return simulator.network()


A = {"label": "A", "size": 4}
A_TO_A = {"source": "A", "target": "A", "weight": 2.0, "delay": 1.0}
DRAWN = {"distribution": "normal", "loc": 10.0, "scale": 1.0}
SECTIONS = {"secs": {"soma": {"geom": {"L": 20.0, "diam": 20.0}, "mechs": {"pas": {"g": 1e-4, "e": -70.0}}}},
            "synMechs": {"AMPA": {"mod": "ExpSyn", "tau": 2.0, "e": 0.0}}}  # fmt: skip
POINT = {"vref": "V", "threshold": -50.0}


@pytest.mark.parametrize(("name", "row", "connection", "said"), [
    ("nest", {"model": "iaf_psc_exq"}, {}, "A@V1: there is no model 'iaf_psc_exq'. Did you mean 'iaf_psc_exp'"),
    ("nest", {"model": "iaf_psc_exp", "params": {"tau_mem": 1.0}}, {}, "no parameter 'tau_mem'.*C_m, "),
    ("nest", {"model": "iaf_psc_exp", "params": {"C_m": -1.0}}, {}, "A@V1: NEST says .*positive"),
    ("nest", {"model": "iaf_psc_exp"}, {"receptor": 3}, r"A->A .A@V1 -> A@V1.: NEST says"),
    ("nest", {"model": "iaf_cond_alpha_mc"}, {"receptor": "somatic"}, "no receptor named 'somatic'.*soma_exc"),
    ("annarchy", {"model": "IF_cond_exq"}, {}, "no model 'IF_cond_exq'. Did you mean 'IF_cond_exp'"),
    ("annarchy", {"model": "IF_cond_exp", "params": {"tau": 1.0}}, {}, "no parameter or variable 'tau'.*tau_m"),
    ("annarchy", {"model": "Neuron", "params": {"spike": "v > 1"}}, {}, "defined by params: equations and spike"),
    ("annarchy", {"model": "IF_cond_exp"}, {"receptor": "ampa"}, "no receptor 'ampa'. There is exc, inh"),
    ("annarchy", {"model": "IF_cond_exp"}, {"weight": {**DRAWN, "loc": 0.0}}, "weights are of both signs"),
    ("annarchy", {"model": "IF_cond_exp"}, {"rule": "fixed_indegree", "indegree": 9, "delay": {
        "distribution": "uniform", "low": 1.0, "high": 2.0}}, "cannot have two delays"),
    ("netpyne", {"model": "IntFire7"}, {}, "no model 'IntFire7'. Did you mean 'IntFire"),
    ("netpyne", {"model": "IntFire1", "params": {"tao": 1.0}}, {}, "no parameter 'tao'. Did you mean 'tau'"),
    ("netpyne", {"model": "IntFire1", "initial": {"m": 0.5}}, {}, "begins with its own state"),
    ("netpyne", {"model": "IafPscExp", "params": {"vref": "V"}}, {}, "params.threshold is missing"),
    ("netpyne", {"model": "IafPscExp", "params": POINT}, {"delay": 0.1}, "at least two steps, 0.2 ms"),
    ("netpyne", {"model": "IafPscExp", "params": POINT}, {"allow_autapses": True}, "connects no neuron to itself"),
    ("netpyne", {"model": "cell", "params": SECTIONS}, {"receptor": "NMDA"}, "no synapse 'NMDA'. There is AMPA"),
    ("netpyne", {"model": "cell", "params": SECTIONS}, {"receptor": "dend.AMPA"}, "no section 'dend'. There is soma"),
])  # fmt: skip
def test_what_a_simulator_does_not_have_is_refused_with_what_it_has(name, row, connection, said):
    with pytest.raises(ExperimentError, match=said):
        declared(name, [{**A, **row}], [{**A_TO_A, **connection}])


def test_nest_gets_receptors_vectors_and_drawn_parameters():
    params = {"tau_syn": [2.0, 5.0], "C_m": DRAWN}
    network = declared("nest", [{**A, "model": "iaf_psc_exp_multisynapse", "params": params, "initial": {"V_m": V_0}}],
                       [{**A_TO_A, "receptor": 2}])  # fmt: skip
    cells = network.brain_regions["V1", "A"]
    row = {**A, "model": "any", "params": params, "initial": {"V": V_0}}
    (expected,) = draw(request_of(("V1",)), [row]).populations
    assert cells.get("C_m").tolist() == expected.params["C_m"].tolist() and len(set(cells.get("C_m"))) == 4
    assert cells.get("V_m").tolist() == expected.initial["V"].tolist()
    assert [list(each) for each in cells.get("tau_syn")] == [[2.0, 5.0]] * 4
    assert set(cells.incoming().receptor) == {2} and len(cells.incoming()) == 12


def test_netpyne_gets_cells_with_sections_and_artificial_cells():
    fire = {"label": "F", "size": 3, "model": "IntFire1", "params": {"tau": DRAWN, "refrac": 1.0}}
    rows = [{**A, "model": "cell", "params": SECTIONS, "initial": {"v": V_0}}, fire]
    to_cells = {"source": "F", "target": "A", "weight": 0.01, "delay": 0.3, "receptor": "soma(0.2).AMPA"}
    to_fire = {"source": "A", "target": "F", "weight": 0.5, "delay": 1.0}
    network = declared("netpyne", rows, [to_cells, to_fire])
    cells, artificial = network.brain_regions["V1"].values()
    v, tau = (draw(request_of(("V1",)), rows).populations[i] for i in (0, 1))
    assert cells.get("soma.v").tolist() == v.initial["v"].tolist() and len(set(cells.get("soma.v"))) == 4
    assert artificial.get("tau").tolist() == tau.params["tau"].tolist() and artificial.model == "IntFire1"
    # what fires at a threshold is seen a step later by NEURON, so that its delay is a step less
    assert cells.incoming()[["weight", "delay_ms", "receptor"]].drop_duplicates().values.tolist() == [
        [0.01, pytest.approx(0.3), "soma(0.2).AMPA"]
    ]
    to_fire_found = artificial.incoming()[["weight", "delay_ms"]].drop_duplicates().values.tolist()
    assert to_fire_found == [[0.5, pytest.approx(0.9)]]
