"""Several transformers in a chain, and those of the user's own: the rules they have to keep, found before the run."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
from tvb_lockstep.transformers import Clock, End, TransformerError, describe, make, n_voi, stages

CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)  # dt 0.1 ms
LABELS = ("E@a", "E@b")
DENSE, RATES = End("dense", "", LABELS, (1, 1)), End("dense", "Hz", LABELS, (1, 1))
NEURONS, TRAINS = End("spikes", "", LABELS, (4, 10)), End("spikes", "", LABELS, (5, 5))
Spikes = namedtuple("Spikes", "times senders")


def made(names, params, raw, out, own=None, initial=0.0):
    return make(names, params, raw, out, CLOCK, seed=1, key="k", own=own, initial=initial)


# ---- chains ------------------------------------------------------------------------------------------------------


def test_a_chain_gives_what_its_parts_give_one_after_the_other():
    chain = made(["linear", "low_pass"], [{"scale_factor": 3.0}, {"tau_ms": 5.0, "unit": "kHz"}], DENSE, RATES)
    first = made("linear", {"scale_factor": 3.0}, DENSE, DENSE)
    second = made("low_pass", {"tau_ms": 5.0, "unit": "kHz"}, DENSE, RATES)
    x = np.random.default_rng(0).random((20, 2))
    np.testing.assert_array_equal(chain(x, 0, 20), second(first(x, 0, 20), 0, 20))


def test_spikes_pass_through_rates_to_a_potential_and_are_counted():
    params = [{}, {"scale_factor": 0.5, "translation_factor": -70.0}]
    chain = made(["spikes_to_rates", "linear"], params, NEURONS, DENSE)
    y = chain(Spikes(np.array([0, 0, 3]), np.array([0, 4, 5], np.int32)), 0, 4)
    # one spike of 4 neurons in 0.1 ms are 2500 Hz, one of 10 are 1000 Hz
    np.testing.assert_array_equal(y, [[1180.0, 430.0], [-70.0, -70.0], [-70.0, -70.0], [-70.0, 430.0]])
    assert chain.counted == 3 and chain.clipped == 0


def test_the_value_before_the_start_goes_through_all_of_a_chain():
    params = [{"scale_factor": 0.1}, {"scale_factor": 3.0, "translation_factor": 1.0}]
    chain = made(["spikes_to_rates", "linear"], params, NEURONS, DENSE, initial=20.0)
    np.testing.assert_array_equal(chain.initial(), [7.0, 7.0])


def test_a_chain_is_late_by_what_its_parts_are():
    chain = made(["instantaneous_rates", "linear"], [{"sigma_ms": [10.0, 2.0]}, {}], NEURONS, DENSE)
    np.testing.assert_allclose(chain.delay_ms, [30.0, 6.0])  # three standard deviations of a gaussian kernel


def test_the_parts_of_a_chain_must_fit_each_other():
    with pytest.raises(TransformerError, match=r"rates_to_spikes makes spikes of dense .* from dense to dense"):
        made(["rates_to_spikes", "linear"], [{}, {}], DENSE, RATES)
    with pytest.raises(TransformerError, match=r"linear makes dense of dense values, but here .* from spikes to dense"):
        made(["linear", "linear"], [{}, {}], NEURONS, DENSE)


def test_what_stands_between_spikes_and_values_need_not_be_named():
    assert stages(None, {"scale_factor": 2.0}, "tvb_to_spikenet", "RATE") == (["linear"], [{"scale_factor": 2.0}])
    assert stages("low_pass", {"tau_ms": 3.0}, "tvb_to_spikenet", "SPIKES") == (
        ["low_pass", "rates_to_spikes"], [{"tau_ms": 3.0}, {}]
    )  # fmt: skip
    assert stages(["jansen_rit_inverse"], {}, "spikenet_to_tvb", "SPIKES") == (
        ["spikes_to_rates", "jansen_rit_inverse"], [{}, {}]
    )  # fmt: skip
    names = ["low_pass", "linear"]
    params = {"linear": {"clip": True}, "rates_to_spikes": {"refractory_ms": 2.0}}
    assert stages(names, params, "tvb_to_spikenet", "SPIKES") == (
        [*names, "rates_to_spikes"], [{}, {"clip": True}, {"refractory_ms": 2.0}]
    )  # fmt: skip


def test_parameters_of_a_chain_are_given_by_name():
    with pytest.raises(TransformerError, match=r"tau_ms = 3.0: .* each has a table of its own, by name: low_pass"):
        stages(["low_pass", "linear"], {"tau_ms": 3.0}, "tvb_to_spikenet", "RATE")
    with pytest.raises(TransformerError, match="name one, or several that differ"):
        stages(["linear", "linear"], {}, "tvb_to_spikenet", "RATE")
    with pytest.raises(TransformerError, match=r"no transformer 'lineer'; there are linear, .*'module:function'"):
        stages("lineer", {}, "tvb_to_spikenet", "RATE")


def test_the_equations_of_a_chain_are_told_in_order():
    text = describe(["linear", "spikes_to_rates"], [{"scale_factor": 3.0}, {}])
    assert text.startswith("y = 3·x + 0; then y = 1·r + 0")
    assert n_voi(["spikes_to_rates"]) == 1 and n_voi("wong_wang_exc") == 2


# ---- one's own ---------------------------------------------------------------------------------------------------


def square(x, factor=1.0):
    """Quadratic gain."""
    return factor * x**2


def test_a_function_is_applied_to_the_values_with_its_parameters():
    own = {"model:square": square}
    y = made("model:square", {"factor": 3.0, "unit": "kHz"}, DENSE, RATES, own)(np.array([[1.0, 2.0]]), 0, 1)
    np.testing.assert_array_equal(y, [[3000.0, 12000.0]])
    assert describe("model:square", {}, own) == "y = square(x, factor=1.0): Quadratic gain"


def test_a_function_gets_rates_where_spikes_come_in_and_says_rates_where_spikes_go_out():
    own = {"model:square": square}
    names, params = stages("model:square", {"factor": 1e-6}, "spikenet_to_tvb", "SPIKES", own)
    assert names == ["spikes_to_rates", "model:square"]
    y = made(names, params, NEURONS, DENSE, own)(Spikes(np.array([0]), np.array([5], np.int32)), 0, 1)
    np.testing.assert_allclose(y, [[0.0, 1.0]], rtol=1e-15)  # one of 10 neurons in 0.1 ms: 1000 Hz
    names, params = stages("model:square", {"factor": 0.0}, "tvb_to_spikenet", "SPIKES", own)
    assert len(made(names, params, DENSE, TRAINS, own)(np.ones((50, 2)), 0, 50)[0]) == 0


def shorter(x):
    return x[1:]


def changes(x):
    x *= 2.0
    return x


def cumulates(x):
    return np.cumsum(x, axis=0)


def draws(x):
    return x + np.random.random(x.shape)


def fails(x):
    raise KeyError("nothing")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (shorter, r"it returned float64 \(11, 2\); expected an array of the same shape"),
        (changes, "it changes its input"),
        (cumulates, "in windows cut at 0, 1, 5, 12, gave other numbers"),
        (draws, "the same input gave other numbers the second time"),
        (fails, "KeyError on made-up input of 12 steps: 'nothing'"),
    ],
)
def test_a_function_that_does_not_keep_the_rules_is_refused_before_the_run(function, words):
    with pytest.raises(TransformerError, match=f"model:f: .*{words}"):
        made("model:f", {}, DENSE, DENSE, {"model:f": function})


def test_a_parameter_that_a_function_does_not_take_is_refused_with_how_it_is_called():
    with pytest.raises(TransformerError, match=r"unexpected keyword argument 'facto'.* square\(x, factor=1.0\)"):
        made("model:square", {"facto": 2.0}, DENSE, DENSE, {"model:square": square})


def test_a_negative_rate_is_an_error_of_the_run_unless_clipped_and_none_of_the_trial():
    def lower(x):
        return x - 0.5

    transformer = made("m:lower", {}, DENSE, RATES, {"m:lower": lower})
    with pytest.raises(TransformerError, match=r"m:lower: the rate of E@b in step 7 is -0.4 Hz"):
        transformer(np.array([[0.5, 0.1]]), 7, 8)
    clipping = made("m:lower", {"clip": True}, DENSE, RATES, {"m:lower": lower})
    np.testing.assert_array_equal(clipping(np.array([[0.5, 0.1]]), 7, 8), [[0.0, 0.0]])
    assert clipping.clipped == 1


class Counter:
    """Number of spikes so far: a state, carried from window to window."""

    name = "own:Counter"
    raw_kind, out_kind = "spikes", "dense"
    clipped = 0

    def __init__(self, params, raw, out, clock, seed, key, initial=0.0):
        self.total, self.counted, self.columns = 0, 0, len(out.labels)

    def __call__(self, payload, first_step, end_step):
        counts = np.bincount(payload.times - first_step, minlength=end_step - first_step)
        self.counted += len(payload.times)
        self.total, so_far = self.total + len(payload.times), self.total + np.cumsum(counts)
        return np.repeat(so_far[:, None].astype(float), self.columns, axis=1)

    def initial(self):
        return np.zeros(self.columns)

    @classmethod
    def describe(cls, params):
        return "y = spikes so far"


class Forgetful(Counter):
    def __call__(self, payload, first_step, end_step):
        self.total = 0
        return super().__call__(payload, first_step, end_step)


def test_a_class_keeps_its_state_and_one_that_forgets_it_is_refused():
    counter = made("own:Counter", {}, NEURONS, DENSE, {"own:Counter": Counter})
    counter(Spikes(np.array([0, 1]), np.array([0, 0], np.int32)), 0, 2)
    np.testing.assert_array_equal(counter(Spikes(np.array([3]), np.array([0], np.int32)), 2, 4), [[2, 2], [3, 3]])
    with pytest.raises(TransformerError, match=r"own:Forgetful: .*in windows cut at .* gave other numbers"):
        made("own:Forgetful", {}, NEURONS, DENSE, {"own:Forgetful": Forgetful})


def test_a_class_that_is_no_transformer_is_told_what_it_lacks():
    with pytest.raises(TransformerError, match="own:int: the class has no raw_kind, out_kind, describe"):
        made("own:int", {}, DENSE, DENSE, {"own:int": int})


class Outside(Counter):
    out_kind = "spikes"

    def __call__(self, payload, first_step, end_step):
        return np.array([end_step]), np.array([0], np.int32)


def test_spikes_outside_their_window_are_refused():
    with pytest.raises(TransformerError, match=r"must be sorted and lie in \[0, 12\) ticks, found \[12\]"):
        made("own:Outside", {}, NEURONS, TRAINS, {"own:Outside": Outside})
