"""Counting spikes: every one once, in its step, in its group."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pytest
from tvb_lockstep.transformers import Clock, End, TransformerError, make

Spikes = namedtuple("Spikes", "times senders")
CLOCK = Clock(tick_ns=50_000, dt_ticks=2, resolution_ticks=1)  # dt 0.1 ms, tick 0.05 ms
GROUPS = End("spikes", "", ("E@a", "I@a", "E@b"), (4, 1, 100))


def rates(params, raw=GROUPS, unit="", clock=CLOCK, initial=0.0):
    out = End("dense", unit, raw.labels, (1,) * len(raw.labels))
    return make("spikes_to_rates", params, raw, out, clock, seed=0, key="k", initial=initial)


def spikes(*pairs):
    return Spikes(np.array([time for time, _ in pairs], np.int64), np.array([sender for _, sender in pairs], np.int32))


def test_spikes_are_counted_in_their_step_and_group_and_divided_by_neurons_and_dt():
    # window of steps [10, 13) = ticks [20, 26); senders 0-3 are E@a, 4 is I@a, 5-104 are E@b
    y = rates({})(spikes((20, 0), (21, 3), (22, 4), (23, 5), (23, 104), (25, 4), (25, 4)), 10, 13)
    np.testing.assert_array_equal(y, [[5000.0, 0.0, 0.0], [0.0, 10000.0, 200.0], [0.0, 20000.0, 0.0]])
    assert y.dtype == np.float64


def test_the_first_and_the_last_tick_of_a_window_lie_in_its_first_and_last_step():
    y = rates({})(spikes((20, 4), (25, 4)), 10, 13)
    np.testing.assert_array_equal(y[:, 1], [10000.0, 0.0, 10000.0])


def test_a_spike_on_the_edge_between_two_steps_belongs_to_the_later_one():
    y = rates({})(spikes((22, 4)), 10, 13)
    np.testing.assert_array_equal(y[:, 1], [0.0, 10000.0, 0.0])


@pytest.mark.parametrize("tick", [19, 26])
def test_a_spike_outside_the_window_is_refused(tick):
    with pytest.raises(TransformerError, match=rf"spike at tick {tick} lies outside the window \[20, 26\)"):
        rates({})(spikes((tick, 0)), 10, 13)


@pytest.mark.parametrize("sender", [-1, 105])
def test_an_unknown_sender_is_refused(sender):
    with pytest.raises(TransformerError, match=rf"sender {sender}; there are 105 neurons"):
        rates({})(spikes((20, sender)), 10, 13)


def test_a_window_without_spikes_has_rate_zero():
    np.testing.assert_array_equal(rates({})(spikes(), 0, 4), np.zeros((4, 3)))


def test_every_spike_is_counted_exactly_once():
    rng = np.random.default_rng(2)
    times = np.sort(rng.integers(0, 2000, 5000))
    senders = rng.integers(0, 105, 5000).astype(np.int32)
    transformer = rates({})
    total = np.zeros(3)
    for first in range(0, 1000, 8):
        cut = slice(*np.searchsorted(times, [2 * first, 2 * first + 16]))
        y = transformer(Spikes(times[cut], senders[cut]), first, first + 8)
        per_step = y * 1e-4 * np.array([4, 1, 100])  # rate · dt [s] · neurons
        np.testing.assert_allclose(per_step, np.round(per_step), atol=1e-9)
        total += np.round(per_step).sum(axis=0)
    expected = [np.sum(senders < 4), np.sum(senders == 4), np.sum(senders > 4)]
    np.testing.assert_array_equal(total, expected)
    assert total.sum() == 5000


def test_the_rate_may_be_in_khz_before_it_is_scaled():
    y = rates({"unit": "kHz", "scale_factor": [1.0, 2.0, 3.0], "translation_factor": 0.5})(spikes((0, 0), (0, 4)), 0, 1)
    np.testing.assert_array_equal(y, [[3.0, 20.5, 0.5]])


def test_a_receiving_end_with_a_unit_gets_that_unit():
    np.testing.assert_array_equal(rates({"unit": "kHz"}, unit="Hz")(spikes((0, 4)), 0, 1), [[0.0, 10000.0, 0.0]])


def test_the_low_pass_is_the_exact_solution_for_a_rate_constant_in_each_step():
    transformer = rates({"tau_ms": 5.0, "scale_factor": 2.0, "translation_factor": 1.0}, initial=30.0)
    y = transformer(spikes((0, 4), (3, 4), (3, 4)), 0, 3)  # I@a: 10 kHz, 20 kHz, 0
    d = math.exp(-0.1 / 5.0)
    z1 = 30.0 * d + 10000.0 * (1 - d)
    z2 = z1 * d + 20000.0 * (1 - d)
    np.testing.assert_allclose(y[:, 1], [2 * z1 + 1, 2 * z2 + 1, 2 * z2 * d + 1], rtol=1e-13)
    np.testing.assert_allclose(y[:, 0], [60 * d + 1, 60 * d**2 + 1, 60 * d**3 + 1], rtol=1e-13)


def test_a_constant_rate_stays_what_it_is_through_the_low_pass():
    pairs = [(2 * step, 4) for step in range(200)]  # I@a: one spike per step, 10 kHz
    y = rates({"tau_ms": 3.0}, initial=10000.0)(spikes(*pairs), 0, 200)
    np.testing.assert_allclose(y[:, 1], 10000.0, rtol=1e-12)


def test_each_group_may_have_its_own_time_constant_and_zero_means_none():
    y = rates({"tau_ms": [0.0, 2.0, 0.0]})(spikes((0, 0), (0, 4), (0, 5)), 0, 2)
    gain = 1 - math.exp(-0.05)
    np.testing.assert_allclose(y, [[2500.0, 1e4 * gain, 100.0], [0.0, 1e4 * gain * (1 - gain), 0.0]], rtol=1e-13)


def test_the_low_pass_loses_no_spike():
    y = rates({"tau_ms": 2.0})(spikes((0, 4), (9, 4)), 0, 1000)
    assert y[:, 1].sum() * 1e-4 == pytest.approx(2.0, rel=1e-12)


def test_windows_out_of_order_are_refused_where_there_is_state():
    transformer = rates({"tau_ms": 2.0})
    transformer(spikes(), 0, 5)
    with pytest.raises(TransformerError, match=r"steps \[6, 8\).*stands at step 5"):
        transformer(spikes(), 6, 8)


def test_what_goes_out_before_the_start_is_the_transform_of_the_initial_rate():
    transformer = rates({"scale_factor": [1.0, 2.0, 3.0], "translation_factor": 0.5, "tau_ms": 1.0}, initial=7.0)
    transformer(spikes((0, 4)), 0, 1)
    np.testing.assert_array_equal(transformer.initial(), [7.5, 14.5, 21.5])


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tau": 1.0}, ["unknown parameter 'tau'", "Did you mean 'tau_ms'?", "scale_factor", "unit"]),
        ({"tau_ms": -1.0}, ["tau_ms = -1.0", "not be negative"]),
        ({"tau_ms": [1.0, 2.0]}, ["tau_ms has 2 values", "3 columns", "E@a, I@a, E@b"]),
        ({"unit": "mV"}, ["'mV'", "Allowed: Hz, kHz, 1/s, 1/ms."]),
        ({"unit": None}, ["unit = None"]),
        ({"scale_factor": [1, 2, "x"]}, ["scale_factor", "finite number"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, words):
    with pytest.raises(TransformerError) as error:
        rates(params)
    assert "transformer spikes_to_rates" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_group_without_neurons_is_refused():
    with pytest.raises(TransformerError, match="I@a has no neurons"):
        rates({}, raw=End("spikes", "", ("E@a", "I@a"), (4, 0)))
