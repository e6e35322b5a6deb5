"""Rates smoothed with a kernel: against elephant's kernels alone, and every spike counted once."""

from __future__ import annotations

import math
from collections import namedtuple

import elephant.kernels
import numpy as np
import pytest
import quantities as pq
from elephant.statistics import optimal_kernel_bandwidth
from tvb_lockstep.transformers import Clock, End, TransformerError, describe, make

Spikes = namedtuple("Spikes", "times senders")
CLOCK = Clock(tick_ns=50_000, dt_ticks=4, resolution_ticks=2)  # dt 0.2 ms
GROUPS = End("spikes", "", ("E@a", "E@b"), (10, 40))
SYMMETRIC = {"gaussian": 3.0, "laplacian": 3.0, "rectangular": 3**0.5, "triangular": 6**0.5, "epanechnikov": 5**0.5}
ELEPHANTS = {
    "gaussian": elephant.kernels.GaussianKernel,
    "laplacian": elephant.kernels.LaplacianKernel,
    "rectangular": elephant.kernels.RectangularKernel,
    "triangular": elephant.kernels.TriangularKernel,
    "epanechnikov": elephant.kernels.EpanechnikovLikeKernel,
    "exponential": elephant.kernels.ExponentialKernel,
    "alpha": elephant.kernels.AlphaKernel,
}


def smoothing(params, raw=GROUPS, unit="", clock=CLOCK, initial=0.0):
    out = End("dense", unit, raw.labels, (1,) * len(raw.labels))
    return make("instantaneous_rates", params, raw, out, clock, seed=0, key="k", initial=initial)


def spikes(*pairs):
    return Spikes(np.array([time for time, _ in pairs], np.int64), np.array([sender for _, sender in pairs], np.int32))


def test_a_rectangular_kernel_by_hand():
    # half width sqrt(3) sigma = 0.5 ms = 2.5 steps: no step is cut, 5 steps of a fifth, from 2 before to 2 after
    transformer = smoothing({"kernel": "rectangular", "sigma_ms": 0.5 / math.sqrt(3)})
    np.testing.assert_allclose(transformer.delay_ms, 0.4)
    y = transformer(spikes((8, 0), (10, 0), (11, 10)), 0, 10)  # step 2, 2 and 2
    each = 1 / (10 * 0.2e-3) / 5
    np.testing.assert_allclose(y[:, 0], [0, 0, *[2 * each] * 5, 0, 0, 0], rtol=1e-11)
    np.testing.assert_allclose(y[:, 1], [0, 0, *[each / 4] * 5, 0, 0, 0], rtol=1e-11)


@pytest.mark.parametrize("name", ELEPHANTS)
@pytest.mark.parametrize("sigma_ms", [0.1, 1.7, 10.0])
def test_the_kernel_is_elephants_integrated_over_each_step(name, sigma_ms):
    kernel = ELEPHANTS[name](sigma_ms * pq.ms)
    transformer = smoothing({"kernel": name, "sigma_ms": sigma_ms})
    delay = round(transformer.delay_ms[0] / 0.2)
    n_steps = int(20 * sigma_ms / 0.2) + 10
    y = transformer(spikes((0, 3)), 0, n_steps)[:, 0] * 10 * 0.2e-3
    edges = (np.arange(n_steps + 1) - delay - 0.5) * 0.2
    cut = SYMMETRIC.get(name, math.inf) * sigma_ms
    edges = np.clip(edges, -cut, cut)
    cdf = np.asarray(kernel.cdf(edges * pq.ms))
    np.testing.assert_allclose(y, np.diff(cdf) / (cdf[-1] - cdf[0]), rtol=2e-6, atol=2e-6 if cut == math.inf else 1e-9)
    assert abs(transformer.delay_ms[0] - SYMMETRIC.get(name, 0.0) * sigma_ms) <= 0.1 + 1e-9
    assert y.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ELEPHANTS)
def test_every_spike_counts_once_over_all_steps(name):
    rng = np.random.default_rng(4)
    times = np.sort(rng.integers(0, 800, 3000))  # up to step 200
    senders = rng.integers(0, 50, 3000).astype(np.int32)
    transformer = smoothing({"kernel": name, "sigma_ms": [2.0, 1.1]})
    y = []
    for first in range(0, 600, 25):
        cut = slice(*np.searchsorted(times, [4 * first, 4 * first + 100]))
        y.append(transformer(Spikes(times[cut], senders[cut]), first, first + 25))
    total = np.concatenate(y).sum(axis=0) * 0.2e-3 * np.array([10, 40])
    np.testing.assert_allclose(total, [np.sum(senders < 10), np.sum(senders >= 10)], rtol=1e-12)
    assert transformer.counted == 3000
    assert np.concatenate(y).min() >= 0.0


def test_a_constant_rate_that_was_there_before_stays_what_it_is():
    every = Spikes(np.arange(0, 2400, 4), np.zeros(600, np.int32))  # one spike of 10 neurons in 0.2 ms: 500 Hz
    for name in ELEPHANTS:
        y = smoothing({"kernel": name, "sigma_ms": 6.0}, initial=np.array([500.0, 0.0]))(every, 0, 600)
        np.testing.assert_allclose(y, np.tile([500.0, 0.0], (600, 1)), rtol=1e-11)


def test_without_spikes_the_initial_rate_fades_with_what_is_left_of_the_kernel():
    y = smoothing({"kernel": "exponential", "sigma_ms": 4.0}, initial=30.0)(spikes(), 0, 100)
    left = np.exp(-(np.arange(100) + 0.5) * 0.2 / 4.0)
    np.testing.assert_allclose(y, np.outer(30.0 * left, [1, 1]), atol=3e-5)  # a millionth is cut off
    np.testing.assert_array_equal(smoothing({"scale_factor": 2.0}, initial=30.0).initial(), [60.0, 60.0])


def test_a_gaussian_of_many_spikes_is_elephants_instantaneous_rate_later_by_the_delay():
    from elephant.statistics import instantaneous_rate
    from neo import SpikeTrain

    rng = np.random.default_rng(7)
    times = np.sort(rng.choice(4 * np.arange(500, 1500), 200, replace=False))
    transformer = smoothing({"sigma_ms": 5.0, "cutoff": 5.0})
    y = transformer(Spikes(times, np.zeros(200, np.int32)), 0, 2000)[:, 0] * 10
    train = SpikeTrain((times * 0.05 + 0.1) * pq.ms, t_stop=400 * pq.ms)
    kernel = elephant.kernels.GaussianKernel(5 * pq.ms)
    theirs = instantaneous_rate(train, 0.2 * pq.ms, kernel, cutoff=5.0).rescale("Hz").magnitude[:, 0]
    delay = round(transformer.delay_ms[0] / 0.2)
    assert delay == 125
    # elephant takes the value of the kernel where we take its mean over the step; it cuts at five sigma without
    # making up for it
    np.testing.assert_allclose(y[delay:], theirs[:-delay], atol=1e-3 * theirs.max())


def test_the_scale_the_units_and_the_numbers_per_group_are_those_of_spikes_to_rates():
    params = {"kernel": "rectangular", "sigma_ms": 0.01}  # shorter than a step
    plain = smoothing(params)(spikes((0, 3)), 0, 1)
    np.testing.assert_allclose(plain, [[500.0, 0.0]], rtol=1e-12)
    scaled = smoothing({**params, "scale_factor": [2.0, 3.0], "translation_factor": 1.0, "unit": "kHz"}, unit="Hz")
    np.testing.assert_allclose(scaled(spikes((0, 3)), 0, 1), [[2000.0, 1000.0]], rtol=1e-12)


def test_each_group_may_have_a_sigma_and_with_it_a_delay_of_its_own():
    transformer = smoothing({"sigma_ms": [2.0, 4.0]})
    np.testing.assert_allclose(transformer.delay_ms, [6.0, 12.0])
    y = transformer(spikes((0, 3), (0, 20)), 0, 200)
    assert y.argmax(axis=0).tolist() == [30, 60]


def poisson_bursts(until_ms, seed=3):
    """Spikes of all neurons, in ticks: bursts of 20 ms every 100 ms, over a low background."""
    rng = np.random.default_rng(seed)
    steps = np.arange(int(until_ms / 0.2))
    rate = np.where(steps * 0.2 % 100 < 20, 0.8, 0.02)
    times = np.repeat(4 * steps, rng.poisson(rate))
    return Spikes(times, rng.integers(0, 50, len(times)).astype(np.int32))


def test_the_optimal_sigma_is_elephants_of_the_first_spikes_and_each_spike_keeps_its_kernel():
    transformer = smoothing({"sigma_ms": "optimal", "optimal_from_ms": 400.0, "sigma_before_ms": 2.0})
    burst = poisson_bursts(400.0)
    np.testing.assert_allclose(transformer.delay_ms, 6.0)
    before = transformer(burst, 0, 2000)
    later = [(8000, 3), (9000, 20)]
    after = transformer(spikes(*later), 2000, 4000)
    sigmas = []
    for inside in (burst.senders < 10, burst.senders >= 10):
        found = optimal_kernel_bandwidth(burst.times[inside] * 0.05 + 0.1)["optw"]
        sigmas.append(float(f"{found:.3g}"))
    assert min(sigmas) > 1.0 and max(sigmas) < 30.0 and sigmas[0] != sigmas[1]
    np.testing.assert_allclose(transformer.delay_ms, 3 * np.array(sigmas), atol=0.11)
    # the early spikes alone, with the first kernel, and the late ones alone, with the second: nothing is lost
    early = smoothing({"sigma_ms": 2.0})
    late = smoothing({"sigma_ms": sigmas})
    np.testing.assert_array_equal(before, early(burst, 0, 2000))
    late(spikes(), 0, 2000)
    expected = early(spikes(), 2000, 4000) + late(spikes(*later), 2000, 4000)
    np.testing.assert_allclose(after, expected, rtol=1e-12)


def test_too_few_spikes_have_no_optimal_sigma_and_that_is_said():
    transformer = smoothing({"sigma_ms": "optimal", "optimal_from_ms": 20.0})
    with pytest.raises(TransformerError, match=r"optimal bandwidth for the 1 spikes of E@a in the first 20 ms.*longer"):
        transformer(spikes((3, 3), (50, 20), (70, 20), (110, 20)), 0, 200)


def test_windows_out_of_order_are_refused():
    transformer = smoothing({})
    transformer(spikes(), 0, 5)
    with pytest.raises(TransformerError, match=r"steps \[6, 8\).*the smoothing stands at step 5"):
        transformer(spikes(), 6, 8)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"kernel": "box"}, ["no kernel 'box'", "gaussian, laplacian, rectangular", "alpha"]),
        ({"sigma": 1.0}, ["unknown parameter 'sigma'", "Did you mean 'sigma_ms'?"]),
        ({"sigma_ms": 0.0}, ["sigma_ms = 0", "over 0"]),
        ({"sigma_ms": [1.0, 2.0, 3.0]}, ["sigma_ms has 3 values", "2 columns"]),
        ({"sigma_ms": "auto"}, ["sigma_ms = 'auto'", "'optimal'"]),
        ({"sigma_ms": "optimal", "kernel": "alpha"}, ["kernel = 'alpha'", "gaussian kernel"]),
        ({"sigma_ms": "optimal", "optimal_from_ms": 0.0}, ["optimal_from_ms = 0.0", "over 0"]),
        ({"sigma_ms": "optimal", "sigma_before_ms": -1.0}, ["sigma_before_ms = -1", "over 0"]),
        ({"optimal_from_ms": 100.0}, ["optimal_from_ms", "leave it out"]),
        ({"sigma_before_ms": 1.0}, ["sigma_before_ms", "leave it out"]),
        ({"kernel": "alpha", "cutoff": 3.0}, ["cutoff is for the kernels gaussian, laplacian"]),
        ({"cutoff": 0.0}, ["cutoff = 0.0", "over 0"]),
        ({"sigma_ms": 1e6}, ["sigma_ms = 1e+06", "3e+07 steps"]),
        ({"unit": "mV"}, ["'mV'", "Allowed: Hz"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, words):
    with pytest.raises(TransformerError) as error:
        smoothing(params)
    assert "transformer instantaneous_rates" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_equation_is_described_with_its_numbers():
    assert describe("instantaneous_rates", {"scale_factor": 0.1}) == (
        "y = 0.1·K∗r + 0, r = spikes / (neurons · dt) [Hz], K gaussian, sigma = 10 ms"
    )
    text = describe("instantaneous_rates", {"sigma_ms": "optimal"})
    assert text.endswith("sigma = 10 ms, optimal from 500 ms")
