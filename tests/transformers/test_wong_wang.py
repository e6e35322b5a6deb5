"""S and R of the reduced Wong-Wang model, against theory and TVB's own model."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pytest
from tvb_lockstep.transformers import Clock, End, TransformerError, describe, make, n_voi

Spikes = namedtuple("Spikes", "times senders")
CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)  # dt 0.1 ms
GROUPS = End("spikes", "", ("E@a", "E@b"), (10, 50))
STATES = End("dense", "", ("S@a", "S@b", "R@a", "R@b"), (1,) * 4)
NONE = Spikes(np.zeros(0, np.int64), np.zeros(0, np.int32))


def wong_wang(kind, params=None, initial=0.0, clock=CLOCK, raw=GROUPS, out=STATES):
    return make(f"wong_wang_{kind}", params or {}, raw, out, clock, seed=0, key="k", initial=initial)


def every_step(n_steps, neurons=1):
    """`neurons` spikes of E@a in every step: 1000 Hz each of its 10 neurons per spike of the population."""
    return Spikes(np.repeat(np.arange(n_steps), neurons), np.tile(np.arange(neurons, dtype=np.int32), n_steps))


def fine(r, s, r_hz, tau_r, tau_s, gamma, saturates, dt, n_steps, parts=200):
    """(S, R) at the end of every step by classical Runge-Kutta in `parts` parts of dt; r_hz: the rate in each step."""

    def slope(state, rate):
        gating, r = state
        return np.array([-gating / tau_s + (1 - gating if saturates else 1) * gamma * r, (rate - r) / tau_r])

    state, rows, h = np.array([s, r]), [], dt / parts
    for step in range(n_steps):
        for _ in range(parts):
            k1 = slope(state, r_hz[step])
            k2 = slope(state + h / 2 * k1, r_hz[step])
            k3 = slope(state + h / 2 * k2, r_hz[step])
            k4 = slope(state + h * k3, r_hz[step])
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        rows.append(state)
    return np.array(rows)


def test_the_rate_is_the_low_pass_of_the_population_rate():
    y = wong_wang("exc")(Spikes(np.array([0, 0, 2]), np.array([0, 9, 10], np.int32)), 0, 3)
    d = math.exp(-0.01)
    np.testing.assert_allclose(y[:, 2], 2000.0 * (1 - d) * d ** np.arange(3), rtol=1e-12)  # 2 / (10 · 0.1 ms)
    np.testing.assert_allclose(y[:, 3], [0.0, 0.0, 200.0 * (1 - d)], rtol=1e-12)


def test_an_initial_state_without_spikes_decays_as_the_equations_say():
    y = wong_wang("inh", {"tau_s_ms": 5.0, "tau_r_ms": 20.0, "gamma": 0.002}, initial=60.0)(NONE, 0, 300)
    t = 0.1 * np.arange(1, 301)
    np.testing.assert_allclose(y[:, 2], 60.0 * np.exp(-t / 20.0), rtol=1e-12)
    # dS/dt = -S/5 + 0.002 · 60 e^(-t/20): S = A e^(-t/20) + (0.6 - A) e^(-t/5), A = 0.12 / (1/5 - 1/20) = 0.8
    np.testing.assert_allclose(y[:, 0], 0.8 * np.exp(-t / 20) - 0.2 * np.exp(-t / 5), rtol=2e-5)


@pytest.mark.parametrize(("kind", "tau_s", "gamma"), [("exc", 100.0, 0.641e-3), ("inh", 10.0, 1e-4)])
def test_both_follow_the_differential_equations_to_second_order_in_dt(kind, tau_s, gamma):
    errors = []
    for ticks in (1, 2, 4):  # dt 0.1, 0.2, 0.4 ms; spikes for 4 ms, then none
        clock = Clock(tick_ns=100_000, dt_ticks=ticks, resolution_ticks=1)
        n_steps = 80 // ticks
        spikes = every_step(40)
        y = wong_wang(kind, {"gamma": gamma}, initial=20.0, clock=clock)(spikes, 0, n_steps)
        s0 = y_rest(kind, 20.0, gamma)
        rates = np.where(np.arange(n_steps) < 40 // ticks, 1000.0, 0.0)
        exact = fine(20.0, s0, rates, 10.0, tau_s, gamma, kind == "exc", 0.1 * ticks, n_steps, parts=20)
        np.testing.assert_allclose(y[:, 2], exact[:, 1], rtol=1e-10)
        errors.append(abs(y[-1, 0] - exact[-1, 0]) / exact[-1, 0])
    assert errors[0] < 1e-5
    np.testing.assert_allclose([errors[1] / errors[0], errors[2] / errors[1]], 4.0, rtol=0.1)


def y_rest(kind, r_hz, gamma):
    """S at rest, in Hz and ms, by the equations set to 0."""
    return gamma * r_hz / (0.01 + gamma * r_hz) if kind == "exc" else gamma * r_hz * 10.0


@pytest.mark.parametrize(("kind", "gamma", "rates"), [("exc", 0.641e-3, [40.0, 1000.0]), ("inh", 1e-3, [40.0, 90.0])])
def test_what_goes_out_before_the_start_is_at_rest(kind, gamma, rates):
    states = wong_wang(kind, initial=np.array(rates))
    expected = [*(y_rest(kind, rate, gamma) for rate in rates), *rates]
    np.testing.assert_allclose(states.initial(), expected, rtol=1e-14)
    states(every_step(5), 0, 5)
    np.testing.assert_allclose(states.initial(), expected, rtol=1e-14)


def test_a_population_that_goes_on_firing_at_its_initial_rate_stays_at_rest():
    states = wong_wang("exc", initial=np.array([1000.0, 0.0]))
    y = states(every_step(50), 0, 50)  # one spike of 10 neurons in 0.1 ms
    np.testing.assert_allclose(y, np.tile(states.initial(), (50, 1)), rtol=1e-13)


def test_at_the_rates_that_tvbs_own_model_has_its_gating_rests_where_ours_does():
    from tvb.simulator.models.wong_wang_exc_inh import ReducedWongWangExcInh

    x_e, x_i = 310.0 * 0.45 - 125.0, 615.0 * 0.3 - 177.0
    rate_e = x_e / (1 - math.exp(-0.16 * x_e))  # 15.8 Hz, of an input of 0.45 nA, and 18.1 Hz of 0.3 nA: the paper's H
    rate_i = x_i / (1 - math.exp(-0.087 * x_i))
    s_e = wong_wang("exc", initial=rate_e).initial()[0]
    s_i = wong_wang("inh", initial=rate_i).initial()[0]
    model = ReducedWongWangExcInh(  # these inputs come from I_o alone, and from TVB's own -S_i
        J_N=np.array([0.0]), J_i=np.array([0.0]), I_o=np.array([1.0]), W_e=np.array([0.45]), W_i=np.array([0.3 + s_i])
    )
    slopes = model._numpy_dfun(np.array([[s_e], [s_i]]), np.zeros((1, 1)))
    np.testing.assert_allclose(slopes, 0.0, atol=1e-15)
    assert 0.4 < s_e < 0.6 and 0.1 < s_i < 0.3


def test_the_gating_stays_within_0_and_1_however_many_spikes_come():
    all_neurons = every_step(2000, neurons=10)  # 10 kHz each
    y = wong_wang("exc", {"gamma": 1.0})(all_neurons, 0, 2000)
    assert y[:, 0].min() >= 0.0 and 0.999 < y[:, 0].max() <= 1.0
    inhibitory = wong_wang("inh")
    y = inhibitory(all_neurons, 0, 2000)
    assert y[-1, 0] == 1.0 and y[:, 0].min() >= 0.0
    assert inhibitory.clipped == np.count_nonzero(y[:, 0] == 1.0) > 1000
    assert inhibitory.counted == 20_000


def test_without_tau_r_the_rate_is_the_population_rate():
    y = wong_wang("exc", {"tau_r_ms": 0.0})(Spikes(np.array([1]), np.array([3], np.int32)), 0, 3)
    np.testing.assert_array_equal(y[:, 2], [0.0, 1000.0, 0.0])
    # S for R constant in each step: target 0.641 / (0.01 + 0.641), approached at 0.651 / ms
    s1 = 0.641 / 0.651 * -math.expm1(-0.0651)
    np.testing.assert_allclose(y[:, 0], [0.0, s1, s1 * math.exp(-0.001)], rtol=1e-13)


def test_each_group_may_have_parameters_of_its_own():
    y = wong_wang("inh", {"tau_s_ms": [10.0, 20.0], "gamma": [1e-3, 2e-3]}, initial=10.0)
    np.testing.assert_allclose(y.initial(), [0.1, 0.4, 10.0, 10.0], rtol=1e-14)


def test_windows_out_of_order_are_refused():
    states = wong_wang("exc")
    states(NONE, 0, 5)
    with pytest.raises(TransformerError, match=r"steps \[6, 8\).*stands at step 5"):
        states(NONE, 6, 8)


def test_a_population_has_two_variables():
    assert n_voi("wong_wang_exc") == n_voi("wong_wang_inh") == 2
    with pytest.raises(TransformerError, match=r"2 groups of neurons come in .* but 2 columns.*two per group.*two voi"):
        wong_wang("exc", out=End("dense", "", ("S@a", "S@b"), (1, 1)))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tau_s": 1.0}, ["unknown parameter 'tau_s'", "Did you mean 'tau_s_ms'?"]),
        ({"tau_s_ms": 0.0}, ["tau_s_ms = 0.0", "over 0"]),
        ({"tau_r_ms": -1.0}, ["tau_r_ms = -1.0", "not be negative"]),
        ({"gamma": [0.1, -0.1]}, ["gamma = [0.1, -0.1]", "not be negative"]),
        ({"gamma": [0.1, 0.1, 0.1]}, ["gamma has 3 values", "2 columns"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, words):
    with pytest.raises(TransformerError) as error:
        wong_wang("exc", params)
    assert "transformer wong_wang_exc" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_negative_initial_rate_or_an_end_with_a_unit_is_refused():
    with pytest.raises(TransformerError, match="initial rate is -1 Hz"):
        wong_wang("exc", initial=-1.0)
    with pytest.raises(TransformerError, match="the receiving end takes Hz"):
        wong_wang("exc", out=End("dense", "Hz", STATES.labels, STATES.sizes))


def test_the_equations_are_described_with_their_numbers():
    assert describe("wong_wang_exc", {}) == (
        "dS/dt = −S / 100 ms + (1 − S)·0.000641·R; dR/dt = (−R + r) / 10 ms, r = spikes / (neurons · dt) [Hz]"
    )
    assert describe("wong_wang_inh", {"tau_r_ms": [5.0, 6.0]}).startswith("dS/dt = −S / 10 ms + 0.001·R; ")
