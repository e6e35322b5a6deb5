"""The low-pass filter of dense values, against the analytic solution."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tvb_lockstep.transformers import Clock, End, TransformerError, describe, make

CLOCK = Clock(tick_ns=100_000, dt_ticks=5, resolution_ticks=1)  # dt 0.5 ms
LABELS = ("E@a", "E@b")


def low_pass(params, unit_in="", unit_out="", initial=0.0):
    raw, out = (End("dense", unit, LABELS, (1, 1)) for unit in (unit_in, unit_out))
    return make("low_pass", params, raw, out, CLOCK, seed=0, key="k", initial=initial)


def test_a_step_of_the_input_is_followed_exponentially_to_what_linear_makes_of_it():
    filtered = low_pass({"tau_ms": [10.0, 2.0], "scale_factor": 3.0, "translation_factor": [1.0, -1.0]})
    y = filtered(np.ones((40, 2)), 0, 40)
    t_ms = 0.5 * np.arange(1, 41)  # row s is the value at the end of step s
    np.testing.assert_allclose(y[:, 0], 4.0 + (1.0 - 4.0) * np.exp(-t_ms / 10.0), rtol=1e-13)
    np.testing.assert_allclose(y[:, 1], 2.0 + (-1.0 - 2.0) * np.exp(-t_ms / 2.0), rtol=1e-13, atol=1e-13)


def test_an_input_of_steps_is_followed_exactly_also_where_dt_is_as_long_as_tau():
    y = low_pass({"tau_ms": 0.5})(np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 0.0]]), 0, 3)
    e = math.exp(-1.0)
    a = [1 - e, (1 - e) * e, (1 - e) * e * e + 4 * (1 - e)]
    b = [0.0, 2 * (1 - e), 2 * (1 - e) * e]
    np.testing.assert_allclose(y, np.transpose([a, b]), rtol=1e-14)


def test_the_time_constant_is_10_ms_unless_another_is_given():
    y = low_pass({})(np.ones((1, 2)), 0, 1)
    np.testing.assert_allclose(y, 1 - math.exp(-0.05), rtol=1e-14)


def test_a_constant_input_that_was_there_before_stays_what_it_is():
    for initial in (7.0, np.array([7.0, -2.0])):
        filtered = low_pass({"tau_ms": 3.0, "scale_factor": 2.0, "translation_factor": 1.0}, initial=initial)
        expected = 2.0 * np.broadcast_to(initial, 2) + 1.0
        np.testing.assert_array_equal(filtered.initial(), expected)
        y = filtered(np.full((100, 2), initial), 0, 100)
        np.testing.assert_allclose(y, np.tile(expected, (100, 1)), rtol=1e-13)
        np.testing.assert_array_equal(filtered.initial(), expected)


def test_units_are_those_of_linear():
    y = low_pass({"tau_ms": 1e-3, "unit": "kHz"}, unit_out="Hz")(np.full((1, 2), 0.02), 0, 1)
    np.testing.assert_allclose(y, 20.0, rtol=1e-14)
    y = low_pass({"tau_ms": 1e-3, "unit": "V"}, unit_in="mV")(np.full((1, 2), -65.0), 0, 1)
    np.testing.assert_allclose(y, -0.065, rtol=1e-14)


def test_a_negative_rate_is_refused_or_clipped_before_the_filter():
    x = np.array([[2.0, 2.0], [2.0, -6.0]])
    with pytest.raises(TransformerError, match=r"low_pass: the rate of E@b in step 1 is -6 Hz"):
        low_pass({}, unit_out="Hz")(x, 0, 2)
    clipping = low_pass({"clip": True}, unit_out="Hz")
    y = clipping(x, 0, 2)
    assert clipping.clipped == 1
    e = math.exp(-0.05)
    np.testing.assert_allclose(y[:, 1], [2 * (1 - e), 2 * (1 - e) * e], rtol=1e-13)


def test_windows_out_of_order_are_refused():
    filtered = low_pass({})
    filtered(np.ones((5, 2)), 0, 5)
    with pytest.raises(TransformerError, match=r"steps \[6, 8\).*low-pass filter stands at step 5"):
        filtered(np.ones((2, 2)), 6, 8)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tau": 1.0}, ["unknown parameter 'tau'", "Did you mean 'tau_ms'?"]),
        ({"tau_ms": 0.0}, ["tau_ms = 0.0", "over 0", "linear"]),
        ({"tau_ms": [1.0, -1.0]}, ["tau_ms = [1.0, -1.0]"]),
        ({"tau_ms": [1.0, 2.0, 3.0]}, ["tau_ms has 3 values", "2 columns"]),
        ({"scale_factor": "a"}, ["scale_factor", "finite number"]),
        ({"unit": "mV"}, ["unit = 'mV'", "neither end has one"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, words):
    with pytest.raises(TransformerError) as error:
        low_pass(params)
    assert "transformer low_pass" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_equation_is_described_with_its_numbers():
    text = describe("low_pass", {"scale_factor": 2.0, "tau_ms": [1.0, 2.5], "unit": "Hz"})
    assert text == "tau dX/dt = −X + 2·x + 0 [Hz], tau = (1, 2.5) ms"
