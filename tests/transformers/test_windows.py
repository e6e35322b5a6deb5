"""However time is cut in windows, a transformer gives the same bits."""

from __future__ import annotations

from collections import namedtuple
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvb_lockstep.transformers import TRANSFORMERS, Clock, End, make

Spikes = namedtuple("Spikes", "times senders")
STEPS = 100
CLOCK = Clock(tick_ns=50_000, dt_ticks=4, resolution_ticks=2)  # dt 0.2 ms, resolution 0.1 ms
LABELS = ("E@a", "E@b", "I@a")
DENSE = End("dense", "", LABELS, (1, 1, 1))
RATES = End("dense", "Hz", LABELS, (1, 1, 1))
TRAINS = End("spikes", "", LABELS, (30, 7, 1000))

POTENTIALS = End("dense", "", ("y1@a", "y1@b", "y1@c", "y2@a", "y2@b", "y2@c"), (1,) * 6)
REGIONS = End("dense", "Hz", ("E@a", "E@b", "E@c"), (1, 1, 1))
REFRACTORY = {"scale_factor": [400.0, 900.0, 40.0], "refractory_ms": 0.9}
SINGLE = {"scale_factor": [40.0, 4000.0, 4.0], "correlation": [0.3, 0.05, 0.8]}
MULTIPLE = {**SINGLE, "interaction": "multiple"}
JITTER = {"jitter_ms": 3.7}

STATES = End("dense", "", ("S@a", "S@b", "S@c", "R@a", "R@b", "R@c"), (1,) * 6)
ALPHA = {"kernel": "alpha", "sigma_ms": [0.1, 9.0, 3.0]}
OPTIMAL = {"sigma_ms": "optimal", "optimal_from_ms": 13.0, "sigma_before_ms": 0.5}

CASES = {
    "linear": ("linear", {"scale_factor": [3.0, 0.1, 7.0], "translation_factor": 0.3, "unit": "kHz"}, DENSE, RATES),
    "linear clipped": ("linear", {"scale_factor": 100.0, "translation_factor": -30.0, "clip": True}, DENSE, RATES),
    "rates_to_spikes sparse": ("rates_to_spikes", {"scale_factor": 20.0}, DENSE, TRAINS),
    "rates_to_spikes dense": ("rates_to_spikes", {"scale_factor": [900.0, 40_000.0, 90.0]}, DENSE, TRAINS),
    "rates_to_spikes refractory": ("rates_to_spikes", REFRACTORY, DENSE, TRAINS),
    "rates_to_correlated_spikes single": ("rates_to_correlated_spikes", SINGLE, DENSE, TRAINS),
    "rates_to_correlated_spikes multiple": ("rates_to_correlated_spikes", MULTIPLE, DENSE, TRAINS),
    "rates_to_correlated_spikes jitter 1": ("rates_to_correlated_spikes", {**SINGLE, **JITTER}, DENSE, TRAINS),
    "rates_to_correlated_spikes jitter 2": ("rates_to_correlated_spikes", {**MULTIPLE, **JITTER}, DENSE, TRAINS),
    "jansen_rit_sigmoid": ("jansen_rit_sigmoid", {"midpoint": [0.3, 0.0, -1.0]}, POTENTIALS, REGIONS),
    "jansen_rit_inverse": ("jansen_rit_inverse", {"cmax": 1.0, "rate_max": 0.9}, DENSE, DENSE),
    "spikes_to_rates": ("spikes_to_rates", {"scale_factor": 1e-3, "translation_factor": 0.1}, TRAINS, DENSE),
    "spikes_to_rates low-pass": ("spikes_to_rates", {"tau_ms": [3.0, 0.0, 0.7], "scale_factor": 0.3}, TRAINS, DENSE),
    "low_pass": ("low_pass", {"tau_ms": [3.0, 0.1, 0.7], "scale_factor": 0.3, "clip": True}, DENSE, RATES),
    "instantaneous_rates": ("instantaneous_rates", {"sigma_ms": 1.3, "scale_factor": 0.3}, TRAINS, DENSE),
    "instantaneous_rates alpha": ("instantaneous_rates", ALPHA, TRAINS, DENSE),
    "instantaneous_rates optimal": ("instantaneous_rates", OPTIMAL, TRAINS, DENSE),
    "wong_wang_exc": ("wong_wang_exc", {}, TRAINS, STATES),
    "wong_wang_inh": ("wong_wang_inh", {"tau_r_ms": [3.0, 0.0, 0.7]}, TRAINS, STATES),
}


def inputs(raw):
    rng = np.random.default_rng(5)
    if raw.kind == "dense":
        return rng.random((STEPS, len(raw.labels)))
    times = np.sort(rng.integers(0, STEPS * CLOCK.dt_ticks, 4000))
    return Spikes(times, rng.integers(0, sum(raw.sizes), 4000).astype(np.int32))


def run(case, edges):
    """The output over all windows between consecutive `edges`, as one array (dense) or two (spikes)."""
    name, params, raw, out = CASES[case]
    transformer = make(name, params, raw, out, CLOCK, seed=11, key="tvb_to_spikenet/E", initial=4.0)
    everything = inputs(raw)
    results = []
    for first, end in pairwise(edges):
        if raw.kind == "dense":
            window = everything[first:end]
        else:
            cut = np.searchsorted(everything.times, [first * CLOCK.dt_ticks, end * CLOCK.dt_ticks])
            window = Spikes(everything.times[cut[0] : cut[1]], everything.senders[cut[0] : cut[1]])
        results.append(transformer(window, first, end))
    if out.kind == "dense":
        return [np.concatenate(results)], transformer.clipped
    for (first, end), (times, _) in zip(pairwise(edges), results, strict=True):
        assert len(times) == 0 or (times[0] >= first * CLOCK.dt_ticks and times[-1] < end * CLOCK.dt_ticks)
    return [np.concatenate([r[0] for r in results]), np.concatenate([r[1] for r in results])], transformer.clipped


def test_every_transformer_has_a_case_here():
    assert {case[0] for case in CASES.values()} == set(TRANSFORMERS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("edges", [range(STEPS + 1), (0, 7, 20, 100), (0, 99, 100), range(0, STEPS + 1, 20)])
def test_any_cut_gives_the_bits_of_one_single_window(case, edges):
    whole, clipped = run(case, (0, STEPS))
    cut, cut_clipped = run(case, list(edges))
    assert sum(len(part) for part in whole) >= 100
    for a, b in zip(whole, cut, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))
    assert clipped == cut_clipped


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(inner=st.sets(st.integers(1, STEPS - 1), max_size=12))
def test_random_cuts_give_the_bits_of_one_single_window(case, inner):
    whole, _ = run(case, (0, STEPS))
    cut, _ = run(case, [0, *sorted(inner), STEPS])
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def test_a_run_that_is_restarted_in_the_middle_gets_the_same_spikes():
    name, params, raw, out = CASES["rates_to_spikes sparse"]
    whole, _ = run("rates_to_spikes sparse", (0, STEPS))
    late = make(name, params, raw, out, CLOCK, seed=11, key="tvb_to_spikenet/E")
    times, senders = late(inputs(raw)[60:], 60, STEPS)
    after = whole[0] >= 60 * CLOCK.dt_ticks
    np.testing.assert_array_equal(times, whole[0][after])
    np.testing.assert_array_equal(senders, whole[1][after])


def test_the_input_of_a_window_is_left_as_it_was():
    for case in CASES:
        name, params, raw, out = CASES[case]
        payload = inputs(raw)
        before = [np.array(part) for part in (payload if raw.kind == "spikes" else [payload])]
        result = make(name, params, raw, out, CLOCK, seed=1, key="k")(payload, 0, STEPS)
        after = payload if raw.kind == "spikes" else [payload]
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)
            for part in result if isinstance(result, tuple) else [result]:
                assert not np.shares_memory(part, b)
