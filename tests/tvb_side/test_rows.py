"""Interface rows: what each of them becomes, and how mistakes in them are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.bridges.experiment import validate
from tvb_lockstep.tvb_side.plan import Plan

A, B = "r_precuneus", "r_caudalmiddlefrontal"
DOWN = {"voi": "E", "populations": "E"}
UP = {"voi": ["E", "I"], "populations": ["E", "I"]}


def plan(tmp_path=Path(), down=DOWN, up=UP, regions=(A, B), model="WilsonCowan", simulator_at_hand=None, **values):
    data = {
        "name": "rows", "duration": 20.0,
        "tvb": {"model": model, "integrator": "HeunDeterministic", "speed": 4.0},
        "spikenet": {"simulator": values.pop("simulator", "nest"), "regions": list(regions)},
        "interfaces": {"tvb_to_spikenet": down if isinstance(down, list) else [down],
                       "spikenet_to_tvb": up if isinstance(up, list) else [up]},
        **values,
    }  # fmt: skip
    return Plan(validate(data, "the test"), tmp_path, simulator_at_hand)


def refusal(*args, **options) -> str:
    with pytest.raises(ExperimentError) as caught:
        plan(*args, **options)
    return str(caught.value)


# ---- the slides' example -----------------------------------------------------------------------------------------


def test_the_example_of_the_slides_makes_what_it_makes_there():
    """Co-simulation slides of 2022, "Code input for configuration": the keys and numbers are theirs."""
    made = plan(
        down={"model": "RATE", "voi": "E", "populations": "E", "coupling_mode": "spikeNet",
              "proxy_params": {"number_of_neurons": 100}, "transformer_params": {"scale_factor": [1000.0]}},
        up={"voi": "E", "populations": "E", "transformer_params": {"scale_factor": [0.001 / 100]}},
        regions=(34, 35),
    )  # fmt: skip
    down, up = made.channels
    # one proxy for each of the other regions that has a weight to one of the two: at most 66
    weights = made.simulation.weights[[34, 35]]
    sources = [made.labels[i] for i in np.flatnonzero(weights.any(axis=0)) if i not in (34, 35)]
    assert list(down.raw.labels) == [f"E@{source}" for source in sources] and len(sources) <= 66
    assert down.proxy_params["number_of_neurons"] == 100 and down.equation == "y = (1000)·x + 0"
    assert len(down.edges) == np.count_nonzero(weights)
    assert up.raw.labels == (f"E@{made.labels[34]}", f"E@{made.labels[35]}") and up.transformer == ("spikes_to_rates",)


# ---- weights, delays, sources -------------------------------------------------------------------------------------


def test_weights_are_numbers_functions_of_source_and_target_or_a_table_by_population(tmp_path):
    (tmp_path / "edges.py").write_text("def weight(source, target):\n    return len(source) + 100 * len(target)\n")
    row = {"voi": "E", "populations": ["E", "I"], "coupling_mode": "spikeNet",
           "proxy_params": {"weight": {"E": "edges:weight", "I": -2.0}}}  # fmt: skip
    made = plan(tmp_path, down=row)
    scale, labels = 0.00390625, made.labels  # TVB's default Linear(a = 1/256)
    for edge in made.channels[0].edges:
        source = made.channels[0].out.labels[edge.group].partition("@")[2]
        of_connectome = made.simulation.weights[labels.index(edge.region), labels.index(source)]
        factor = len(source) + 100 * len(edge.region) if edge.population == "E" else -2.0
        assert edge.weight == pytest.approx(factor * scale * of_connectome, rel=1e-15)


def test_delays_of_proxies_are_the_connectomes_or_those_given_less_a_window(tmp_path):
    (tmp_path / "edges.py").write_text(
        "def delay(source, target):\n    return 9.0 if target == 'r_precuneus' else 7.5\n\n\n"
        "def short(source, target):\n    return 2.0\n"
    )
    row = {**DOWN, "coupling_mode": "spikeNet"}
    window = {"exchange": {"synchronization_time": 2.0}}
    made = plan(down=row, **window)
    for edge in made.channels[0].edges:
        source = made.labels.index(made.channels[0].out.labels[edge.group].partition("@")[2])
        tract = made.simulation.delay_steps[made.labels.index(edge.region), source] * 0.1
        assert edge.delay_ms == pytest.approx(tract - 2.0, abs=1e-9)
    made = plan(tmp_path, down={**row, "proxy_params": {"delay": "edges:delay"}}, **window)
    assert {(edge.region, edge.delay_ms) for edge in made.channels[0].edges} == {(A, 7.0), (B, 5.5)}
    text = refusal(tmp_path, down={**row, "proxy_params": {"delay": "edges:short"}}, **window)
    assert "the longest window is 1.9 ms" in text and "(2 ms)" in text and " -> " in text
    text = refusal(down={**row, "proxy_params": {"delay": 2.0}}, **window)
    assert "proxy_params.delay = 2.0" in text and "come from the connectome; leave it out" in text


def test_in_tvbs_coupling_mode_a_delay_may_depend_on_the_region(tmp_path):
    function = "def delay(source, target):\n    assert source == target\n    return len(target) / 10\n"
    (tmp_path / "edges.py").write_text(function)
    made = plan(tmp_path, down={**DOWN, "proxy_params": {"delay": "edges:delay", "weight": 3.0}})
    assert [(e.region, e.weight, e.delay_ms) for e in made.channels[0].edges] == [(A, 3.0, 1.1), (B, 3.0, 2.1)]


def test_weights_are_normalised_by_the_total_input_of_the_region():
    """The TVB -> ANNarchy scheme of the slides: w / sum of w over the sources, for each region."""
    row = {**DOWN, "coupling_mode": "spikeNet", "proxy_params": {"weight": 5.0, "normalize_weights": True}}
    made = plan(down=row, tvb={"coupling_params": {"a": 1.0}, "integrator": "HeunDeterministic"})
    for region in (A, B):
        assert sum(e.weight for e in made.channels[0].edges if e.region == region) == pytest.approx(5.0, rel=1e-14)


def test_what_proxies_leave_out_of_tvbs_coupling_is_said():
    row = {**DOWN, "coupling_mode": "spikeNet"}

    def coupled(name, **params):
        return {"integrator": "HeunDeterministic", "coupling": name, "coupling_params": params}

    assert not any("proxies" in note or "Linear" in note for note in plan(down=row).simulation.notes)
    notes = plan(down=row, tvb=coupled("Linear", a=0.5, b=0.1)).simulation.notes
    assert "tvb_to_spikenet.0: b = 0.1 of TVB's Linear coupling does not reach the network." in notes
    notes = plan(down=row, tvb=coupled("HyperbolicTangent")).simulation.notes
    assert any("what TVB's HyperbolicTangent does with them is left out" in note for note in notes)
    assert not any("left out" in note for note in plan(tvb=coupled("HyperbolicTangent")).simulation.notes)
    of_regions = plan(down=row).simulation._sim
    of_regions.coupling.a = np.full(68, 0.5)
    with pytest.raises(ExperimentError, match=r"tvb_to_spikenet.0.coupling_mode = .* 68 values of a"):
        plan(down=row, simulator_at_hand=of_regions)


def test_only_the_sources_that_are_named_get_proxies():
    row = {**DOWN, "coupling_mode": "spikeNet", "sources": ["l_precuneus", 0]}
    made = plan(down=row, regions=(A,))
    assert set(made.channels[0].raw.labels) <= {"E@l_precuneus", f"E@{made.labels[0]}"}
    text = refusal(down={**row, "coupling_mode": "TVB"})
    assert "interfaces.tvb_to_spikenet.0.sources" in text and "TVB that sums over all regions" in text
    assert "l_precuneous" in refusal(down={**row, "sources": ["l_precuneous"]})


# ---- variables and populations -----------------------------------------------------------------------------------


def test_several_rows_variables_populations_and_regions_in_each_direction():
    rows = [{"voi": "E", "populations": ["E", "I"]}, {**DOWN, "model": "SPIKES", "regions": [B]}]
    back = [{"voi": "E", "populations": "E"}, {"voi": "I", "populations": "I", "regions": [A, B]}]
    made = plan(down=rows, up=back)
    assert [channel.name for channel in made.channels] == [
        "tvb_to_spikenet.0", "tvb_to_spikenet.1", "spikenet_to_tvb.0", "spikenet_to_tvb.1",
    ]  # fmt: skip
    assert [(e.region, e.population) for e in made.channels[0].edges] == [(A, "E"), (A, "I"), (B, "E"), (B, "I")]
    assert [(e.region, e.population) for e in made.channels[1].edges] == [(B, "E")]
    assert made.channels[3].out.labels == (f"I@{A}", f"I@{B}")


def test_one_population_may_give_two_variables():
    made = plan(up=[{"voi": ["E", "I"], "populations": "E", "transformer": "wong_wang_exc"}])
    up = made.channels[1]
    assert up.raw.labels == (f"E@{A}", f"E@{B}") and up.out.labels == (f"E@{A}", f"E@{B}", f"I@{A}", f"I@{B}")


def test_two_variables_may_make_one_rate():
    row = {"voi": ["y1", "y2"], "populations": ["P", "Q"], "coupling_mode": "spikeNet", "model": "SPIKES",
           "transformer": "jansen_rit_sigmoid", "proxy_params": {"number_of_neurons": 3}}  # fmt: skip
    made = plan(down=row, up=[], model="JansenRit", regions=(A,))
    channel = made.channels[0]
    n = len(channel.out.labels)
    assert channel.transformer == ("jansen_rit_sigmoid", "rates_to_spikes")
    assert len(channel.raw.labels) == 2 * n and channel.raw.labels[0].startswith("y1@")
    assert channel.out.labels[0].startswith("y1,y2@") and channel.out.sizes == (3,) * n
    assert {(e.population, e.group) for e in channel.edges} == {(p, g) for p in ("P", "Q") for g in range(n)}


def test_a_receptor_may_be_named_for_each_population():
    proxies = {"receptor_type": {"E": "AMPA", "I": 2}}
    made = plan(down={"voi": "E", "populations": ["E", "I"], "proxy_params": proxies})
    channel = made.channels[0]
    assert {edge.population: channel.receptor(edge) for edge in channel.edges} == {"E": "AMPA", "I": 2}


def test_a_transformer_of_ones_own_is_found_beside_the_experiment(tmp_path):
    (tmp_path / "mine.py").write_text('def cube(x, a=1.0):\n    """Third power."""\n    return a * x**3\n')
    params = {"a": 2.0, "unit": "kHz"}
    made = plan(tmp_path, down={**DOWN, "transformer": "mine:cube", "transformer_params": params})
    assert made.channels[0].equation == "y = cube(x, a=1.0): Third power"
    assert made.channels[0].transformer == ("mine:cube",)


# ---- mistakes ----------------------------------------------------------------------------------------------------

SPIKENET = {"coupling_mode": "spikeNet"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"down": {**DOWN, "voi": "EE"}}, ["interfaces.tvb_to_spikenet.0.voi = 'EE'", "it has E, I"]),
        ({"up": [UP, {"voi": "E", "populations": "X"}]},
         ["E of r_precuneus is written twice", "spikenet_to_tvb.0 (E of", "spikenet_to_tvb.1 (X of"]),
        ({"down": {**DOWN, "transformer": "mine:f"}}, ["tvb_to_spikenet.0.transformer = 'mine:f'", "no file"]),
        ({"down": {**DOWN, "transformer": ["low_pass", "lineer"]}},
         ["interfaces.tvb_to_spikenet.0.transformer = 'low_pass -> lineer'", "there are linear, low_pass"]),
        ({"up": {**UP, "transformer": "wong_wang_exc"}},
         ["interfaces.spikenet_to_tvb.0", "with 2 variables of TVB for each population", "one population in a row"]),
        ({"up": {"voi": ["E", "I", "E"], "populations": ["E", "I"], "transformer": "spikes_to_rates"}},
         ["interfaces.spikenet_to_tvb.0", "same length"]),
        ({"down": {"voi": ["r", "V"], "populations": ["E", "I"]}, "up": [], "model": "MontbrioPazoRoxin"},
         ["interfaces.tvb_to_spikenet.0.voi", "r in kHz, V in ", "Make a row for each"]),
        ({"down": {**DOWN, "proxy_params": {"wait": 1}}}, ["proxy_params.wait", "number_of_neurons, weight, delay"]),
        ({"down": {**DOWN, "proxy_params": {"weight": {"I": 1.0}}}}, ["proxy_params.weight", "none for population E"]),
        ({"down": {**DOWN, "proxy_params": {"weight": True}}}, ["proxy_params.weight = True", "'module:function'"]),
        ({"down": {**DOWN, "proxy_params": {"weight": "edges:w"}}}, ["proxy_params.weight = 'edges:w'", "no file"]),
        ({"down": {**DOWN, "proxy_params": {"receptor_type": {"X": 1}}}}, ["receptor_type", "'X'", "E."]),
        ({"down": {**DOWN, "proxy_params": {"receptor_type": 1.5}}}, ["receptor_type = 1.5", "a number or a name"]),
        ({"down": {**DOWN, "proxy_params": {"number_of_neurons": 0}}}, ["number_of_neurons = 0", "at least 1"]),
        ({"down": {**DOWN, "proxy_params": {"delay": 0.0}}}, ["interfaces.tvb_to_spikenet.0.proxy_params.delay"]),
        ({"down": {**DOWN, "proxy_params": {"normalize_weights": True}}}, ["normalize_weights = True", "spikeNet"]),
        ({"down": {**DOWN, **SPIKENET, "proxy_params": {"normalize_weights": 1}}}, ["normalize_weights = 1", "true"]),
        ({"down": {**DOWN, "proxy_params": {"correlation": 0.3}}},
         ["proxy_params.correlation", "ANNarchy", "here are nest and RATE", "rates_to_correlated_spikes"]),
        ({"down": {**DOWN, "proxy_params": {"correlation": 0.3}}, "simulator": "annarchy"}, ["given together"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_row_is_told_by_row_and_key_with_what_would_do(tmp_path, change, words):
    text = refusal(tmp_path, **change)
    for word in words:
        assert word in text


def test_a_function_of_edges_is_told_from_one_that_needs_a_spiking_simulator(tmp_path):
    (tmp_path / "edges.py").write_text("import no_such_simulator\n\n\ndef weight(source, target):\n    return 1.0\n")
    text = refusal(tmp_path, down={**DOWN, "proxy_params": {"weight": "edges:weight"}})
    assert "No module named 'no_such_simulator'" in text and "imports no spiking simulator" in text
    (tmp_path / "broken.py").write_text("def weight(source, target):\n    return None\n")
    text = refusal(tmp_path, down={**DOWN, "proxy_params": {"weight": "broken:weight"}})
    assert "for ('r_precuneus', 'r_precuneus') it returned None, expected a number" in text
