"""The main correctness tests of the project: whatever carries the frames, and however time is cut, no bit changes.

TVB's WilsonCowan on 68 regions and NEST, both ways, for the 51.1 ms of `SMALL`; every log and the results are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import MODEL, SMALL, WINDOW, content, contract_of, differing, provenance, run_in_one_process

PROXY = "interfaces.tvb_to_spikenet.0.proxy_params"
CURRENT: dict[str, Any] = {  # one unit of the coupled variable is 200 pA
    MODEL: "CURRENT",
    "interfaces.tvb_to_spikenet.0.transformer_params": {"scale_factor": 200.0},
    PROXY: {"weight": 1.0, "delay": 0.2},
}
IN_THE_NETWORK: dict[str, Any] = {  # one proxy for each region of TVB, connected along the connectome
    "interfaces.tvb_to_spikenet.0.coupling_mode": "spikeNet",
    PROXY: {"number_of_neurons": 100, "weight": 0.45},
    "tvb.coupling_params.a": 1.5,
    "tvb.normalize_weights": "max",
    "tvb.speed": 4.0,
}
OTHER_WAYS: dict[str, dict[str, Any]] = {
    "everything in one process": {"exchange.transport": "memory"},
    "files": {"exchange.transport": "file"},
    "taking turns": {"exchange.mode": "serial"},
    "a bridge of its own": {"exchange.bridge": "own"},
    "a bridge of its own, taking turns": {"exchange.bridge": "own", "exchange.mode": "serial"},
    "rings of one frame": {"exchange.depth": 1},
    "once more": {"exchange.depth": 8},  # the default, said aloud: the same run again
}


MODELS = ("RATE", "SPIKES")
RunAll = Callable[..., list[Path]]


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_a_run_is_the_same_bit_for_bit_with(way: str, run_all: RunAll) -> None:
    values = [{**SMALL, MODEL: model, **changed} for model in MODELS for changed in ({}, OTHER_WAYS[way])]
    runs = run_all("wilson_cowan", values)
    for base, other in (runs[:2], runs[2:]):
        assert contract_of(base).run_id != contract_of(other).run_id
        assert differing(base, other) == []
        assert provenance(other)["balanced"] and provenance(other)["complete"]
        assert provenance(other)["channels"] == provenance(base)["channels"]  # every spike counted once, wherever


def test_another_seed_changes_everything_that_crosses(run_all: RunAll) -> None:
    runs = run_all("wilson_cowan", [{**SMALL, MODEL: model, **seed} for model in MODELS for seed in ({}, {"seed": 2})])
    for base, other in (runs[:2], runs[2:]):
        changed = set(differing(base, other))
        assert {*content(base)} <= changed
        assert {"tvb.h5:monitors/TemporalAverage/data", "spikes.h5:spikes/E@r_precuneus/timestamps"} <= changed


def test_what_is_compared_is_not_empty(run_all: RunAll) -> None:
    """Equal hashes of nothing would prove nothing."""
    rates, spikes = map(content, run_all("wilson_cowan", [{**SMALL, MODEL: model} for model in MODELS]))
    for name, arrays in [*rates.items(), *spikes.items()]:
        assert all(len(array) > 50 for array in arrays), name
        assert all(len(np.unique(array)) > 20 for array in arrays), name
    assert len(rates["tvb_to_spikenet.0.transformed"]) == 1 and len(spikes["tvb_to_spikenet.0.transformed"]) == 2


def test_currents_are_the_same_through_rings_and_in_one_process_taking_turns(run_all: RunAll) -> None:
    other_way = {"exchange.transport": "memory", "exchange.mode": "serial"}
    a, b = run_all("wilson_cowan", [{**SMALL, **CURRENT}, {**SMALL, **CURRENT, **other_way}])
    assert np.ptp(content(a)["tvb_to_spikenet.0.transformed"][0]) > 1.0  # pA: it does vary
    assert contract_of(a).channels[0].out.unit == "pA"
    assert differing(a, b) == []


@pytest.mark.parametrize("model", MODELS)
def test_the_length_of_the_window_changes_no_bit(model: str, run_all: RunAll) -> None:
    windows = (2.0, 0.1, 0.3, "min_delay")
    runs = run_all("wilson_cowan", [{**SMALL, MODEL: model, WINDOW: window} for window in windows])
    for window, run_dir in zip(windows[1:], runs[1:], strict=True):
        assert differing(runs[0], run_dir) == [], f"window {window}"
    steps = [contract_of(run_dir).grid.window_steps for run_dir in runs]
    longest = round(contract_of(runs[0]).tvb["min_delay_ms"] / 0.1)
    assert steps == [20, 1, 3, longest]
    assert longest > 20 and 511 % longest


def _shifted(run_dir: Path, channel: str) -> np.ndarray:
    """What TVB's regions did from step 0 on: frames for proxies in the network hold the states of the window before."""
    return content(run_dir)[f"{channel}.raw"][0][contract_of(run_dir).grid.window_steps :]


def test_a_proxy_of_a_region_tells_the_state_of_one_window_before(run_all: RunAll) -> None:
    """One way, so that TVB does the same in each run; the states of a region from t = 0 on, whatever the window."""
    values: dict[str, Any] = {**SMALL, **IN_THE_NETWORK, "interfaces.spikenet_to_tvb": []}
    short, long = run_all("wilson_cowan", [{**values, WINDOW: window} for window in (0.3, 2.0)])
    for run_dir, steps in ((short, 3), (long, 20)):
        before = content(run_dir)["tvb_to_spikenet.0.raw"][0][:steps]
        assert (before == before[0]).all()  # before t = 0: the initial state of the experiment, E = 0.15 everywhere
        assert before[0] == pytest.approx(0.15)
    a, b = _shifted(short, "tvb_to_spikenet.0"), _shifted(long, "tvb_to_spikenet.0")
    assert len(a) == 508 and len(b) == 491
    assert (a[:491] == b).all()
    assert np.ptp(b, axis=0).min() > 0


@pytest.mark.parametrize(("model", "longest"), [("SPIKES", 62), ("CURRENT", 61)])  # the delay of 63 steps, less 1 or 2
def test_with_proxies_in_the_network_too_the_window_changes_no_bit(
    model: str, longest: int, run_all: RunAll
) -> None:
    """The proxies are silent before t = 0, and their random numbers are those of the states' time. (RATE is played by
    NEST's own generators, whose random numbers are those of the time of playing.)"""
    windows = (2.0, 0.1, 0.3, "min_delay")
    values = {**SMALL, **(CURRENT if model == "CURRENT" else {}), **IN_THE_NETWORK, MODEL: model}
    runs = run_all("wilson_cowan", [{**values, WINDOW: window} for window in windows])
    spikes = [content(run_dir)["spikenet.spikes"] for run_dir in runs]
    assert len(spikes[0][0]) > 100
    for window, other in zip(windows[1:], spikes[1:], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(spikes[0], other, strict=True)), f"window {window}"
    steps = [contract_of(run_dir).grid.window_steps for run_dir in runs]
    assert steps == [20, 1, 3, longest]


def test_proxies_in_the_network_are_the_same_through_rings_and_files_and_taking_turns(run_all: RunAll) -> None:
    ways: list[dict[str, str]] = [
        {}, {"exchange.transport": "file"}, {"exchange.transport": "memory", "exchange.mode": "serial"}
    ]  # fmt: skip
    values = {**SMALL, **IN_THE_NETWORK, MODEL: "SPIKES", WINDOW: 2.0}
    base, *others = run_all("wilson_cowan", [{**values, **way} for way in ways])
    assert len(contract_of(base).channels[0].raw.labels) > 20  # TVB regions with a weight to one of the two
    for other in others:
        assert differing(base, other) == []


def test_proxies_in_the_network_make_the_connections_of_the_connectome(run_once: Callable[..., Path]) -> None:
    """Weights a · W and delays tau - w, worked out from the files of the connectome."""
    from tvb.datatypes.connectivity import Connectivity

    contract = contract_of(run_once("wilson_cowan", {**SMALL, **IN_THE_NETWORK, MODEL: "SPIKES", WINDOW: 2.0}))
    file = Connectivity.from_file("connectivity_68.zip")
    labels = [str(label) for label in file.region_labels]
    channel = contract.channels[0]
    assert channel.coupling_mode == "spikeNet"
    assert not [label for label in channel.out.labels if label.split("@")[1] in channel.regions]  # exclusive nodes
    edges = {(channel.out.labels[edge.group].split("@")[1], edge.region): edge for edge in channel.edges}
    expected = {
        (labels[source], region)
        for region in channel.regions
        for source in np.nonzero(file.weights[labels.index(region)])[0]
        if labels[source] not in channel.regions
    }
    assert set(edges) == expected and len(channel.edges) == len(expected)
    for (source, region), edge in edges.items():
        target, origin = labels.index(region), labels.index(source)
        delay_steps = np.rint(file.tract_lengths[target, origin] / 4.0 / 0.1)  # 4 mm/ms, steps of 0.1 ms
        assert edge.delay_ms == pytest.approx(delay_steps * 0.1 - 2.0, abs=1e-9)
        weight = 0.45 * 1.5 * file.weights[target, origin] / file.weights.max()  # nS, a, W
        assert edge.weight == pytest.approx(weight, rel=1e-12)
        assert edge.population == "E"


ONE_WAY = {"TVB to the network": "interfaces.spikenet_to_tvb", "the network to TVB": "interfaces.tvb_to_spikenet"}


@pytest.mark.parametrize("direction", ONE_WAY)
def test_one_direction_alone_runs_and_is_the_same_in_one_process_from(direction: str, run_all: RunAll) -> None:
    values = {**SMALL, ONE_WAY[direction]: []}
    base, other = run_all("wilson_cowan", [values, {**values, "exchange.transport": "memory"}])
    assert len(contract_of(base).channels) == 1
    assert provenance(base)["balanced"]
    assert differing(base, other) == []


def test_variables_that_follow_what_is_delivered_are_the_same_in_any_window_and_between_programs(
    tmp_path: Path, run_all: RunAll
) -> None:
    """The network sends E; TVB's model of these regions computes I from it (interfaces.undelivered = "follow")."""
    def follow(scale_factor: float) -> dict[str, Any]:
        params = {"scale_factor": scale_factor, "tau_ms": 10.0}
        return {
            **SMALL,
            "interfaces.undelivered": "follow",
            "interfaces.spikenet_to_tvb": [{"voi": ["E"], "populations": ["E"], "transformer_params": params}],
            "tvb.monitors": [{"name": "TemporalAverage", "period": 1.0, "variables_of_interest": ["E", "I"]}],
        }

    short, long, half = (tmp_path / name for name in ("short", "long", "half"))
    window = {WINDOW: "min_delay"}
    runs = {short: {**follow(0.01), WINDOW: 0.7}, long: {**follow(0.01), **window}, half: {**follow(0.005), **window}}
    run_in_one_process("wilson_cowan", runs)
    (apart,) = run_all("wilson_cowan", [{**follow(0.01), WINDOW: 2.1}])
    assert differing(short, long) == [] == differing(short, apart)
    contract = contract_of(long)
    regions = [contract.tvb["regions"].index(region) for region in contract.tvb["coupled"]["spikenet"]]
    inhibition, less = (content(each)["tvb.monitor0"][0][:, 69:][:, regions] for each in (long, half))
    assert np.isfinite(inhibition).all() and np.ptp(inhibition, axis=0).min() > 1e-3
    assert (less[10:].mean(axis=0) < 0.8 * inhibition[10:].mean(axis=0)).all()  # I is driven by the E of the network
