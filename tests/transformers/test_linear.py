"""y = a x + b, with units; and what `make`, `default_for` and `describe` say."""

from __future__ import annotations

import numpy as np
import pytest
from tvb_lockstep.transformers import Clock, End, TransformerError, default_for, describe, make

CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)
LABELS = ("E@a", "E@b")


def dense(unit, labels=LABELS):
    return End("dense", unit, labels, (1,) * len(labels))


def linear(params, raw=None, out=None, initial=0.0):
    return make("linear", params, raw or dense(""), out or dense("Hz"), CLOCK, seed=0, key="k", initial=initial)


def test_values_are_scaled_and_translated_per_column():
    y = linear({"scale_factor": [2.0, 10.0], "translation_factor": [1.0, -3.0]})(
        np.array([[1.0, 2.0], [0.5, 4.0]]), 0, 2
    )
    np.testing.assert_array_equal(y, [[3.0, 17.0], [2.0, 37.0]])
    assert y.dtype == np.float64


def test_a_list_of_a_single_number_is_that_number_for_all_columns():
    y = linear({"scale_factor": [1000.0]})(np.array([[1.0, 2.0]]), 0, 1)
    np.testing.assert_array_equal(y, [[1000.0, 2000.0]])


def test_without_parameters_values_pass_unchanged():
    x = np.random.default_rng(0).random((5, 2))
    np.testing.assert_array_equal(linear({})(x, 3, 8), x)


@pytest.mark.parametrize(
    ("unit", "device", "expected"),
    [("kHz", "Hz", 1500.0), ("1/ms", "Hz", 1500.0), ("1/s", "Hz", 1.5), ("nA", "pA", 1500.0), ("uA", "pA", 1.5e6)],
)
def test_the_unit_of_y_is_converted_to_that_of_the_device(unit, device, expected):
    y = linear({"scale_factor": 2.0, "translation_factor": 0.5, "unit": unit}, out=dense(device))(
        np.full((1, 2), 0.5), 0, 1
    )
    np.testing.assert_array_equal(y, [[expected, expected]])


@pytest.mark.parametrize(
    "units",
    [  # each with how many of the first it is
        {"A": 1.0, "mA": 1e3, "uA": 1e6, "nA": 1e9, "pA": 1e12},
        {"V": 1.0, "mV": 1e3, "uV": 1e6},
        {"Hz": 1.0, "1/s": 1.0, "kHz": 1e-3, "1/ms": 1e-3},
    ],
)
def test_currents_potentials_and_rates_are_converted_in_both_directions(units):
    x = np.array([[2.5, 0.125]])
    for here, a in units.items():
        for there, b in units.items():
            to_network = linear({"unit": here}, dense(""), dense(there))
            np.testing.assert_allclose(to_network(x, 0, 1), x * b / a, rtol=1e-11)
            to_tvb = linear({"unit": there}, dense(here), dense(""))
            np.testing.assert_allclose(to_tvb(x, 0, 1), x * b / a, rtol=1e-11)


def test_on_the_way_to_tvb_the_unit_is_that_of_x():
    to_tvb = linear({"scale_factor": 2.0, "translation_factor": 1.0, "unit": "V"}, dense("mV"), dense(""))
    np.testing.assert_allclose(to_tvb(np.array([[-70.0, -50.0]]), 0, 1), [[0.86, 0.9]], rtol=1e-15)


def test_what_goes_out_before_the_start_is_the_transform_of_the_stated_value():
    transformer = linear({"scale_factor": [2.0, 3.0], "translation_factor": 1.0}, dense("mV"), dense(""), initial=-65.0)
    np.testing.assert_array_equal(transformer.initial(), [-129.0, -194.0])


def test_a_negative_rate_is_an_error_that_names_column_step_and_value():
    with pytest.raises(TransformerError, match=r"rate of E@b in step 11 is -2 Hz.*clip = true"):
        linear({"scale_factor": 2.0})(np.array([[1.0, 1.0], [0.0, -1.0]]), 10, 12)


def test_clip_plays_no_rate_below_zero_and_counts_what_it_changed():
    transformer = linear({"scale_factor": 2.0, "clip": True})
    np.testing.assert_array_equal(transformer(np.array([[1.0, -1.0], [-3.0, 0.0]]), 0, 2), [[2.0, 0.0], [0.0, 0.0]])
    transformer(np.array([[-1.0, 5.0]]), 2, 3)
    assert transformer.clipped == 3


def test_currents_and_potentials_may_be_negative():
    x = np.array([[-1.0, 2.0]])
    np.testing.assert_array_equal(linear({}, out=dense("pA"))(x, 0, 1), x)
    np.testing.assert_array_equal(linear({}, dense("mV"), dense(""))(x, 0, 1), x)


@pytest.mark.parametrize(
    ("params", "out", "words"),
    [
        ({"scale": 1.0}, "Hz", ["unknown parameter 'scale'", "scale_factor", "translation_factor", "unit", "clip"]),
        ({"scale_factr": 1.0}, "Hz", ["Did you mean 'scale_factor'?"]),
        ({"scale_factor": [1.0, 2.0, 3.0]}, "Hz", ["scale_factor has 3 values", "2 columns", "E@a, E@b"]),
        ({"translation_factor": []}, "Hz", ["translation_factor has 0 values", "2 columns"]),
        ({"scale_factor": "2"}, "Hz", ["scale_factor = '2'", "finite number"]),
        ({"scale_factor": True}, "Hz", ["scale_factor = True"]),
        ({"scale_factor": float("nan")}, "Hz", ["scale_factor = nan"]),
        ({"unit": "pA"}, "Hz", ["'pA'", "'Hz'", "not of the same dimension", "Allowed: Hz, kHz, 1/s, 1/ms."]),
        ({"unit": "Hertz"}, "Hz", ["'Hertz'", "not a known unit", "Allowed: Hz, kHz"]),
        ({"unit": "Hz"}, "pA", ["Allowed: A, mA, uA, nA, pA."]),
        ({"unit": "Hz"}, "", ["neither end has one"]),
        ({"unit": 3}, "Hz", ["unit = 3", "text"]),
        ({"clip": True}, "pA", ["clip = True", "only for rates", "pA"]),
        ({"clip": 1}, "Hz", ["clip = 1", "true or false"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, out, words):
    with pytest.raises(TransformerError) as error:
        linear(params, out=dense(out))
    assert "transformer linear" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_window_of_the_wrong_shape_is_refused():
    with pytest.raises(TransformerError, match=r"shape \(3, 2\).*steps \[0, 2\).*expected \(2, 2\)"):
        linear({})(np.zeros((3, 2)), 0, 2)


def test_ends_of_different_width_are_refused():
    with pytest.raises(TransformerError, match=r"2 columns come in \(E@a, E@b\) but 1 are to go out \(E@c\)"):
        linear({}, out=dense("Hz", ("E@c",)))


def test_a_transformer_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(TransformerError, match=r"no transformer 'poisson'.*linear, .*to_spikes, .*to_rates"):
        make("poisson", {}, dense(""), dense("Hz"), CLOCK, seed=0, key="k")


def test_a_transformer_of_the_wrong_kind_is_refused_with_one_that_fits():
    with pytest.raises(
        TransformerError, match=r"spikes_to_rates makes dense of .*to dense\. Fitting: linear"
    ):
        make("spikes_to_rates", {}, dense(""), dense("Hz"), CLOCK, seed=0, key="k")


def test_every_direction_and_model_has_its_default():
    assert default_for("tvb_to_spikenet", "RATE") == "linear"
    assert default_for("tvb_to_spikenet", "CURRENT") == "linear"
    assert default_for("tvb_to_spikenet", "SPIKES") == "rates_to_spikes"
    assert default_for("spikenet_to_tvb", "SPIKES") == "spikes_to_rates"
    assert default_for("spikenet_to_tvb", "POTENTIAL") == "linear"
    with pytest.raises(TransformerError, match=r"spikenet_to_tvb RATE; there is one for .*spikenet_to_tvb SPIKES"):
        default_for("spikenet_to_tvb", "RATE")


def test_the_description_has_the_numbers_in():
    assert describe("linear", {"scale_factor": 1000.0, "unit": "Hz"}) == "y = 1000·x + 0 [Hz]"
    assert describe("rates_to_spikes", {"scale_factor": [1.0, 2.5], "clip": True}) == (
        "n Poisson trains of rate r = (1, 2.5)·x + 0 [Hz], clipped at 0"
    )
    assert describe("spikes_to_rates", {"scale_factor": 0.001, "tau_ms": 10.0}) == (
        "y = 0.001·r + 0, r = spikes / (neurons · dt) [Hz], low-pass tau = 10 ms"
    )
    with pytest.raises(TransformerError, match="unknown parameter 'tau'"):
        describe("spikes_to_rates", {"tau": 10.0})


def test_a_resolution_that_does_not_divide_dt_is_refused():
    with pytest.raises(TransformerError, match=r"dt = 0.3 ms is not a multiple of the resolution = 0.2 ms"):
        Clock(tick_ns=100_000, dt_ticks=3, resolution_ticks=2)
