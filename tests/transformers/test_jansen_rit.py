"""The sigmoid of Jansen & Rit and its inverse, against numbers by hand and against TVB's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tvb_lockstep.transformers import Clock, End, TransformerError, describe, make, n_voi

CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)
VOI = ("y1@a", "y1@b", "y2@a", "y2@b")
RATES = ("E@a", "E@b")
LN3 = math.log(3.0)


def dense(unit, labels):
    return End("dense", unit, labels, (1,) * len(labels))


def sigmoid(params=None, out="Hz", raw=VOI, labels=RATES, initial=0.0):
    raw, out = dense("", raw), dense(out, labels)
    return make("jansen_rit_sigmoid", params or {}, raw, out, CLOCK, seed=0, key="k", initial=initial)


def inverse(params=None, raw="", out="", initial=2.5):
    raw, out = dense(raw, RATES), dense(out, RATES)
    return make("jansen_rit_inverse", params or {}, raw, out, CLOCK, seed=0, key="k", initial=initial)


def test_at_the_midpoint_the_rate_is_half_of_the_highest_and_by_hand_beside_it():
    # 1 / (1 + 1) at 6 mV; exp(0.56 · ln 3 / 0.56) = 3: 1 / (1 + 3) below it, 3 / (3 + 1) above
    y1 = np.array([[6.0, 10.0 + LN3 / 0.56], [1.0 - LN3 / 0.56, 0.0]])
    y2 = np.array([[0.0, 4.0], [-5.0, 1e5]])
    rates = sigmoid()(np.hstack([y1, y2]), 0, 2)
    np.testing.assert_allclose(rates, [[2.5, 3.75], [1.25, 0.0]], rtol=1e-14)


@pytest.mark.parametrize(
    ("params", "out", "expected"),
    [
        ({}, "", 2.5),  # between two of a chain: Hz
        ({}, "kHz", 0.0025),
        ({"cmax": 30.0, "unit": "Hz"}, "Hz", 15.0),
        ({"cmin": 0.001, "cmax": 0.005}, "Hz", 3.0),
        ({"cmax": 0.03, "unit": "kHz"}, "Hz", 15.0),
    ],
)
def test_the_rate_is_converted_from_the_unit_that_is_said(params, out, expected):
    np.testing.assert_allclose(sigmoid(params, out)(np.array([[6.0, 6.0, 0.0, 0.0]]), 0, 1), expected, rtol=1e-14)


def test_parameters_may_differ_from_column_to_column():
    rates = sigmoid({"midpoint": [6.0, 5.0], "r": [1.0, 0.5], "cmax": [0.005, 0.01]})(
        np.array([[6.0 + LN3, 5.0 - 2 * LN3, 0.0, 0.0]]), 0, 1
    )
    np.testing.assert_allclose(rates, [[3.75, 2.5]], rtol=1e-14)


def test_the_sigmoid_is_that_of_tvb_s_coupling_and_of_its_model():
    coupling = pytest.importorskip("tvb.simulator.coupling")
    models = pytest.importorskip("tvb.simulator.models")
    y = np.random.default_rng(0).normal(0, 15, (50, 4))
    pre = coupling.SigmoidalJansenRit().pre(None, np.stack([y[:, :2], y[:, 2:]], axis=1))  # per ms
    np.testing.assert_allclose(sigmoid()(y, 0, 50), 1000.0 * pre[:, 0], rtol=1e-12)

    # dy3 of the model is A a S(y1 - y2) - 2 a y3 - a^2 y0
    model = models.JansenRit()
    state = np.zeros((6, 50, 1))
    state[1, :, 0], state[2, :, 0] = y[:, 0], y[:, 2]
    dy3 = model.dfun(state, np.zeros((2, 50, 1)))[3, :, 0]
    rates = sigmoid({"midpoint": float(model.v0[0]), "cmax": 2 * float(model.nu_max[0])})(y, 0, 50)[:, 0]
    np.testing.assert_allclose(rates, 1000.0 * dy3 / (model.A[0] * model.a[0]), rtol=1e-12)


def test_before_the_start_the_rate_is_that_of_the_stated_potentials():
    np.testing.assert_allclose(sigmoid(initial=3.0).initial(), 5.0 / (1 + math.exp(0.56 * 6)), rtol=1e-14)
    per_column = sigmoid(initial=np.array([6.0, 7.0 + LN3 / 0.56, 0.0, 1.0])).initial()
    np.testing.assert_allclose(per_column, [2.5, 3.75], rtol=1e-14)


def test_the_sigmoid_takes_two_variables_of_interest():
    assert n_voi("jansen_rit_sigmoid") == 2
    assert n_voi("jansen_rit_inverse") == 1


@pytest.mark.parametrize("raw", [("y1@a", "y1@b"), ("y1@a", "y2@a", "y1@b", "y2@b"), ("y1@a", "y1@b", "y2@b", "y2@a")])
def test_columns_that_are_not_two_variables_of_the_same_regions_are_refused(raw):
    with pytest.raises(TransformerError, match=r"two variables of interest.*y1@a, y1@b, y2@a, y2@b") as error:
        sigmoid(raw=raw)
    assert raw[-1] in str(error.value)


def test_the_inverse_gives_the_potential_of_a_rate_by_hand():
    v = inverse()(np.array([[2.5, 3.75], [1.25, 0.1]]), 0, 2)
    expected = [[6.0, 6.0 + LN3 / 0.56], [6.0 - LN3 / 0.56, 6.0 - math.log(49.0) / 0.56]]
    np.testing.assert_allclose(v, expected, rtol=1e-14)


def test_the_sigmoid_of_the_inverse_is_the_rate():
    rates = np.random.default_rng(1).uniform(0.1, 4.9, (40, 2))
    potentials = inverse()(rates, 0, 40)
    back = sigmoid()(np.hstack([potentials, np.zeros((40, 2))]), 0, 40)
    np.testing.assert_allclose(back, rates, rtol=1e-13)


def test_rates_without_a_potential_give_that_of_the_limits_and_are_counted():
    transformer = inverse()
    v = transformer(np.array([[0.0, 5.0], [-1.0, 100.0], [0.1, 4.9]]), 0, 3)
    np.testing.assert_array_equal(v[0], v[2])
    np.testing.assert_array_equal(v[1], v[2])
    assert transformer.clipped == 4
    transformer.initial()
    assert transformer.clipped == 4


def test_the_numbers_of_tvb_multiscale_give_its_formula():
    params = {"cmax": 32.0, "rate_min": 0.1, "rate_max": 16.0, "midpoint": 5.52}
    x = np.array([[8.0, 30.0], [0.0, 12.0]])
    expected = 5.52 - np.log(2 * 16.0 / np.clip(x, 0.1, 16.0) - 1) / 0.56
    np.testing.assert_allclose(inverse(params)(x, 0, 2), expected, rtol=1e-14)
    assert inverse(params)(np.array([[8.0, 1e3]]), 0, 1)[0].tolist() == pytest.approx([5.52 - LN3 / 0.56, 5.52])


def test_rates_and_potentials_are_converted_at_the_ends():
    x = np.array([[0.0025, 0.00375]])
    expected = np.array([[6.0, 6.0 + LN3 / 0.56]])
    np.testing.assert_allclose(inverse(raw="kHz")(x, 0, 1), expected, rtol=1e-14)
    limits = {"cmax": 0.005, "rate_min": 1e-4, "rate_max": 0.0049}
    np.testing.assert_allclose(inverse({**limits, "unit": "1/ms"})(x, 0, 1), expected, rtol=1e-14)
    np.testing.assert_allclose(inverse(out="uV")(1000.0 * x, 0, 1), 1000.0 * expected, rtol=1e-14)
    np.testing.assert_allclose(inverse(initial=np.array([2.5, 3.75])).initial(), expected[0], rtol=1e-14)
    np.testing.assert_allclose(inverse(raw="kHz", initial=0.0025).initial(), 6.0, rtol=1e-14)


def test_potentials_become_spikes_in_a_chain_at_the_rate_of_the_sigmoid():
    raw, trains = dense("", VOI), End("spikes", "", RATES, (40, 40))
    chain = make(["jansen_rit_sigmoid", "rates_to_spikes"], [{}, {}], raw, trains, CLOCK, seed=4, key="k")
    direct = make("rates_to_spikes", {}, dense("", RATES), trains, CLOCK, seed=4, key="k")
    x = np.tile([6.0, 6.0 + LN3 / 0.56, 0.0, 0.0], (2000, 1))
    rates = sigmoid()(x, 0, 2000)
    assert rates[0].tolist() == pytest.approx([2.5, 3.75])
    for a, b in zip(chain(x, 0, 2000), direct(rates, 0, 2000), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make_it", "params", "words"),
    [
        (sigmoid, {"v0": 6.0}, ["unknown parameter 'v0'", "cmin, cmax, midpoint, r, unit"]),
        (sigmoid, {"r": 0.0}, ["r = 0.0", "greater than 0"]),
        (sigmoid, {"cmin": 0.01}, ["cmax = 0.005", "greater than cmin = 0.01"]),
        (sigmoid, {"cmin": -0.001}, ["cmin = -0.001", "not be negative"]),
        (sigmoid, {"unit": "mV"}, ["'mV'", "Allowed: Hz, kHz, 1/s, 1/ms."]),
        (sigmoid, {"unit": None}, ["unit = None", "text"]),
        (sigmoid, {"midpoint": [1.0, 2.0, 3.0]}, ["midpoint has 3 values", "2 columns"]),
        (inverse, {"Rmax": 16.0}, ["unknown parameter 'Rmax'", "cmax, rate_min, rate_max, midpoint, r, unit"]),
        (inverse, {"rate_min": 0.0}, ["rate_min = 0.0", "greater than 0"]),
        (inverse, {"rate_max": 0.05}, ["rate_max = 0.05", "not be less than rate_min = 0.1"]),
        (inverse, {"cmax": 4.0}, ["rate_max = 4.9", "less than cmax = 4.0"]),
        (inverse, {"r": -1.0}, ["r = -1.0", "greater than 0"]),
        (inverse, {"unit": "pA"}, ["'pA'", "Allowed: Hz, kHz, 1/s, 1/ms."]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(make_it, params, words):
    with pytest.raises(TransformerError) as error:
        make_it(params)
    assert "transformer jansen_rit_" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_an_end_of_another_dimension_is_refused():
    with pytest.raises(TransformerError, match=r"jansen_rit_sigmoid.*'mV'.*not of the same dimension"):
        sigmoid(out="mV")
    with pytest.raises(TransformerError, match=r"jansen_rit_inverse.*'mV'.*'Hz'"):
        inverse(raw="mV")
    with pytest.raises(TransformerError, match=r"jansen_rit_inverse.*'mV'.*'pA'"):
        inverse(out="pA")


def test_the_description_has_the_numbers_in():
    assert describe("jansen_rit_sigmoid", {"cmax": 0.004}) == (
        "y = 0 + (0.004 - 0) / (1 + exp(0.56·(6 - (x1 - x2)))) [1/ms]"
    )
    assert describe("jansen_rit_inverse", {"midpoint": [5.52, 6.0]}) == (
        "y = (5.52, 6) - ln(5 / x - 1) / 0.56 [mV], x within 0.1 ... 4.9 Hz"
    )
