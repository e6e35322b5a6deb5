"""Correlated trains against theory. Seeds are fixed, so that a test that passes once passes always; the bounds are
those of the distribution, at four or five standard errors."""

from __future__ import annotations

import hashlib
import math
import struct
from itertools import combinations, pairwise

import numpy as np
import pytest
from scipy import stats
from tvb_lockstep.transformers import Clock, End, TransformerError, describe, make

CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)  # dt = resolution = 0.1 ms
FINE = Clock(tick_ns=25_000, dt_ticks=8, resolution_ticks=2)  # dt 0.2 ms, resolution 0.05 ms, tick 0.025 ms
BOTH = ("single", "multiple")


def trains_of(sizes, params, labels=None, clock=CLOCK, seed=1, key="E", name="rates_to_correlated_spikes"):
    labels = tuple(labels or [f"E@{i}" for i in range(len(sizes))])
    raw, out = End("dense", "", labels, (1,) * len(labels)), End("spikes", "", labels, tuple(sizes))
    return make(name, params, raw, out, clock, seed=seed, key=key)


def table_of(times, senders, n_bins, n_trains):
    """Spikes per bin and train, (n_bins, n_trains)."""
    return np.bincount(times * n_trains + senders, minlength=n_bins * n_trains).reshape(n_bins, n_trains)


def drawn(sizes, params, rate, n_bins, **more):
    transformer = trains_of(sizes, params, **more)
    times, senders = transformer(np.full((n_bins, len(sizes)), float(rate)), 0, n_bins)
    return table_of(times, senders, n_bins, sum(sizes))


@pytest.mark.parametrize("interaction", BOTH)
def test_every_train_is_a_poisson_train_of_the_given_rate(interaction):
    mean, n, n_bins = 0.2, 12, 60_000  # spikes per bin, 2 kHz
    table = drawn([n], {"correlation": 0.3, "interaction": interaction}, mean / 1e-4, n_bins)
    z = (table.mean(axis=0) - mean) / np.sqrt(mean / n_bins)
    assert np.abs(z).max() < 4
    z = (table.var(axis=0) / mean - 1) / np.sqrt((2 + 1 / mean) / n_bins)  # Fano factor 1
    assert np.abs(z).max() < 4
    for k in range(4):
        p = stats.poisson.pmf(k, mean)
        z = (np.mean(table == k, axis=0) - p) / np.sqrt(p * (1 - p) / n_bins)
        assert np.abs(z).max() < 4
    pairs = [(lag, i, j) for lag in (1, 2, 7) for i in (0, 5) for j in (0, 5, 9)]
    lagged = [np.corrcoef(table[:-lag, i], table[lag:, j])[0, 1] for lag, i, j in pairs]
    assert np.abs(lagged).max() < 4 / np.sqrt(n_bins)


@pytest.mark.parametrize("interaction", BOTH)
@pytest.mark.parametrize("correlation", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("bin_length", [1, 40])
def test_the_counts_of_two_trains_have_the_given_correlation(interaction, correlation, bin_length):
    mean, n, n_bins = 0.05, 6, 80_000
    table = drawn([n], {"correlation": correlation, "interaction": interaction}, mean / 1e-4, n_bins)
    counts = table.reshape(-1, bin_length, n).sum(axis=1)
    # two trains that share a Poisson train of mean s: E[x² y²] of the centred counts is s + 2 s² + m², so the mean of
    # x y over b bins has the variance (s + s² + m²) / b
    m = mean * bin_length
    s = correlation * m
    x = counts - m
    z = [(np.mean(x[:, i] * x[:, j]) - s) / np.sqrt((s + s**2 + m**2) / len(x)) for i, j in combinations(range(n), 2)]
    assert np.abs(z).max() < 4
    found = np.corrcoef(counts.T)[~np.eye(n, dtype=bool)]
    assert found == pytest.approx(correlation, abs=0.1)


@pytest.mark.parametrize("interaction", BOTH)
def test_columns_are_independent_of_each_other(interaction):
    table = drawn([4, 3], {"correlation": 0.8, "interaction": interaction}, 1000.0, 50_000)
    across = np.corrcoef(table.T)[:4, 4:]
    assert np.abs(across).max() < 5 / np.sqrt(50_000)


def compound_poisson(rates_by_size, size):
    """P(k spikes in a bin of all trains together), k < size, for clusters of 1, 2 ... spikes with these means per bin:
    the coefficients of exp(sum of mean_k (z^k - 1))."""
    z = np.exp(-2j * np.pi * np.arange(size) / size)
    exponent = sum(mean * (z**k - 1) for k, mean in rates_by_size.items())
    return np.fft.ifft(np.exp(exponent)).real


@pytest.mark.parametrize(
    ("interaction", "c", "n", "mean"),
    [("single", 0.2, 8, 0.05), ("multiple", 0.2, 8, 0.05), ("multiple", 0.7, 5, 0.2), ("multiple", 0.01, 40, 0.01)],
)
def test_how_many_spikes_coincide_is_one_or_all_or_binomial(interaction, c, n, mean):
    n_bins = 60_000
    table = drawn([n], {"correlation": c, "interaction": interaction}, mean / 1e-4, n_bins)
    if interaction == "single":
        clusters = {1: n * (1 - c) * mean, n: c * mean}
    else:
        clusters = {k: mean / c * stats.binom.pmf(k, n, c) for k in range(1, n + 1)}
    expected = compound_poisson(clusters, 256)[: 6 * n] * n_bins
    together = table.sum(axis=1)
    observed = np.bincount(together, minlength=6 * n).astype(float)
    often = expected >= 5
    observed = np.append(observed[often], n_bins - observed[often].sum())
    expected = np.append(expected[often], n_bins - expected[often].sum())
    assert often.sum() >= 4
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    # the variance of all together: n m (1 + (n - 1) c), as for any pairwise correlation c
    fano = together.var() / (n * mean)
    fourth = sum(k**4 * rate for k, rate in clusters.items())  # of the centred sum: its fourth cumulant
    variance = n * mean * (1 + (n - 1) * c)
    assert abs(fano - (1 + (n - 1) * c)) < 5 * np.sqrt((fourth + 2 * variance**2) / n_bins) / (n * mean)


@pytest.mark.parametrize("c", [0.05, 0.3, 0.8])
def test_with_multiple_interaction_all_trains_are_alike_and_copies_go_to_any_two(c):
    n, n_bins, mean = 9, 60_000, 0.02
    table = drawn([n], {"correlation": c, "interaction": "multiple"}, mean / 1e-4, n_bins)
    per_train = table.sum(axis=0)
    # counts of equal covariance c m: their spread about their mean is that of independent ones of variance (1 - c) m
    chi2 = np.sum((per_train - per_train.mean()) ** 2) / ((1 - c) * mean * n_bins)
    assert 1e-3 < stats.chi2.sf(chi2, n - 1) < 0.999
    both = np.array([np.sum(np.minimum(table[:, i], table[:, j])) for i, j in combinations(range(n), 2)])
    assert both.min() > 0.8 * both.mean()


@pytest.mark.parametrize("interaction", BOTH)
@pytest.mark.parametrize("jitter_ms", [0.0, 3.0])
def test_without_correlation_the_trains_are_those_of_rates_to_spikes(interaction, jitter_ms):
    rates = np.random.default_rng(0).uniform(0, 900, (600, 2))
    params = {"scale_factor": [0.5, 0.25], "translation_factor": 3.0, "unit": "Hz"}
    plain = trains_of([30, 7], params, name="rates_to_spikes")(rates, 0, 600)
    correlated = trains_of([30, 7], {**params, "interaction": interaction, "jitter_ms": jitter_ms})(rates, 0, 600)
    assert len(plain[0]) > 400
    for a, b in zip(plain, correlated, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("interaction", BOTH)
def test_with_correlation_one_all_trains_are_the_same(interaction):
    table = drawn([7], {"correlation": 1.0, "interaction": interaction}, 500.0, 20_000)
    assert (table == table[:, :1]).all()
    assert abs(table[:, 0].sum() - 1000) < 5 * np.sqrt(1000)


def test_the_correlation_may_differ_from_column_to_column():
    params = {"correlation": [0.0, 0.6, 1.0], "interaction": "multiple"}
    table = drawn([3, 3, 3], params, 1000.0, 40_000)
    found = np.corrcoef(table.T)
    for column, c in enumerate((0.0, 0.6, 1.0)):
        block = found[3 * column : 3 * column + 3, 3 * column : 3 * column + 3][~np.eye(3, dtype=bool)]
        assert block == pytest.approx(c, abs=0.03)
    independent = drawn([3], {"correlation": 0.0}, 1000.0, 40_000, labels=["E@0"])
    np.testing.assert_array_equal(table[:, :3], independent)


@pytest.mark.parametrize("interaction", BOTH)
def test_the_trains_follow_a_rate_that_varies_and_are_silent_at_zero(interaction):
    rate = np.full((3000, 1), 400.0)
    rate[1000:2000] = 0.0
    rate[2000:] = 40.0
    params = {"correlation": 0.2, "interaction": interaction}
    n = 200
    times, _ = trains_of([n], params)(rate, 0, 3000)
    observed = np.bincount(times // 1000, minlength=3)
    assert observed[1] == 0
    for k, mean in ((0, 40.0), (2, 4.0)):
        assert abs(observed[k] - n * mean) < 5 * np.sqrt(n * mean * (1 + (n - 1) * 0.2))


@pytest.mark.parametrize("interaction", BOTH)
def test_the_spikes_of_a_region_do_not_depend_on_the_other_regions(interaction):
    params = {"correlation": 0.3, "interaction": interaction, "jitter_ms": 1.0}
    labels = [f"E@{i}" for i in range(24)]
    sizes = [11, 40, 5] * 8
    many = trains_of(sizes, params, labels=labels)(np.full((400, 24), 300.0), 0, 400)
    alone = trains_of([40], params, labels=["E@16"])(np.full((400, 1), 300.0), 0, 400)
    first = sum(sizes[:16])
    mine = (many[1] >= first) & (many[1] < first + 40)
    assert mine.sum() > 200
    np.testing.assert_array_equal(many[0][mine], alone[0])
    np.testing.assert_array_equal(many[1][mine] - first, alone[1])


def test_copies_do_not_depend_on_how_many_numbers_are_drawn_at_a_time():
    # beside a column of many copies enough are drawn at once; alone, few spikes have more copies than were drawn for
    params = {"interaction": "multiple", "jitter_ms": 0.5}
    rates = np.full((10_000, 2), 500.0)
    alone = trains_of([40], {**params, "correlation": 0.01})(rates[:, :1], 0, 10_000)
    beside = trains_of([40, 40], {**params, "correlation": [0.01, 0.95]})(rates, 0, 10_000)
    mine = beside[1] < 40
    np.testing.assert_array_equal(beside[0][mine], alone[0])
    np.testing.assert_array_equal(beside[1][mine], alone[1])
    times, _ = trains_of([40], {"interaction": "multiple", "correlation": 0.01})(rates[:, :1], 0, 10_000)
    assert np.bincount(times).max() >= 5  # the first four are drawn at once


def test_spikes_are_sorted_typed_and_on_the_grid():
    params = {"correlation": 0.3, "interaction": "multiple", "jitter_ms": 0.35}
    times, senders = trains_of([20, 30], params, clock=FINE)(np.full((500, 2), 1000.0), 0, 500)
    np.testing.assert_array_equal(np.lexsort((senders, times)), np.arange(len(times)))
    assert times.dtype == np.int64 and senders.dtype == np.int32
    assert set((times % 8).tolist()) == {0, 2, 4, 6}
    silent = trains_of([20], params, clock=FINE)(np.zeros((5, 1)), 0, 5)
    assert [(len(part), part.dtype) for part in silent] == [(0, np.int64), (0, np.int32)]


@pytest.mark.parametrize("interaction", BOTH)
def test_jittered_copies_come_later_by_a_uniform_delay_and_none_is_lost(interaction):
    params = {"correlation": 1.0, "interaction": interaction}
    n, jitter, n_steps = 25, 40, 6000
    rate = np.zeros((n_steps, 1))
    rate[::100] = 10_000.0  # one shared spike per 10 ms, on average
    plain = trains_of([n], params)(rate, 0, n_steps)
    transformer = trains_of([n], {**params, "jitter_ms": 4.0})
    windows, waiting = [], []
    for first in range(0, n_steps, 30):
        windows.append(transformer(rate[first : first + 30], first, first + 30))
        waiting.append(transformer.pending)
    times, senders = (np.concatenate(part) for part in zip(*windows, strict=True))
    delays = times % 100
    assert delays.max() == jitter - 1
    assert stats.chisquare(np.bincount(delays, minlength=jitter)).pvalue > 1e-3
    # spike by spike: as many of every train in every burst as without
    for a, b in ((times // 100, plain[0] // 100), (senders, plain[1])):
        np.testing.assert_array_equal(np.sort(a), np.sort(b))
    burst, train = times // 100 * n + senders, plain[0] // 100 * n + plain[1]
    np.testing.assert_array_equal(np.sort(burst), np.sort(train))
    assert max(waiting) > 0 and transformer.pending == 0
    # copies of one spike are delayed independently of each other
    alone = np.flatnonzero(np.bincount(plain[0] // 100, minlength=60) == n)
    first, second = (
        np.array([delays[(times // 100 == b) & (senders == train)][0] for b in alone]) for train in (0, 1)
    )
    assert len(alone) > 15
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(len(alone))


def test_spikes_delayed_beyond_the_end_are_counted_as_waiting():
    transformer = trains_of([50], {"correlation": 1.0, "jitter_ms": 50.0})
    rate = np.full((200, 1), 500.0)
    times, _ = transformer(rate, 0, 200)
    plain, _ = trains_of([50], {"correlation": 1.0})(rate, 0, 200)
    assert transformer.pending > 100
    assert len(times) + transformer.pending == len(plain)


@pytest.mark.parametrize("interaction", BOTH)
@pytest.mark.parametrize("bin_length", [10, 50, 500])
def test_jitter_lowers_the_correlation_in_short_bins_by_the_distance_of_the_copies(interaction, bin_length):
    c, jitter, mean, n, n_bins = 0.5, 10, 0.02, 4, 200_000  # bins of 0.1 ms; jitter 1 ms
    table = drawn([n], {"correlation": c, "interaction": interaction, "jitter_ms": 1.0}, mean / 1e-4, n_bins)
    z = (table.mean(axis=0) - mean * (1 - (jitter - 1) / 2 / n_bins)) / np.sqrt(mean / n_bins)
    assert np.abs(z).max() < 4
    counts = table[500:].reshape(-1, bin_length, n).sum(axis=1)
    # two delays of 0 ... J - 1 bins are (J - 1/J) / 3 apart on average: that share of the pairs is cut by an edge
    m = mean * bin_length
    s = c * (1 - (jitter - 1 / jitter) / (3 * bin_length)) * m
    x = counts - m
    z = [(np.mean(x[:, i] * x[:, j]) - s) / np.sqrt((s + s**2 + m**2) / len(x)) for i, j in combinations(range(n), 2)]
    assert np.abs(z).max() < 4
    assert np.abs(x.var(axis=0) / m - 1).max() < 5 * np.sqrt((2 + 1 / m) / len(x))


def test_with_jitter_windows_must_come_in_order_and_without_need_not():
    jittering = trains_of([10], {"correlation": 0.5, "jitter_ms": 1.0})
    jittering(np.ones((5, 1)), 0, 5)
    with pytest.raises(TransformerError, match=r"steps \[7, 9\).*stand at step 5.*in order"):
        jittering(np.ones((2, 1)), 7, 9)
    plain = trains_of([10], {"correlation": 0.5})
    rates = np.full((50, 1), 2000.0)
    late, again = plain(rates, 200, 250), trains_of([10], {"correlation": 0.5})(np.full((250, 1), 2000.0), 0, 250)
    inside = again[0] >= 200
    np.testing.assert_array_equal(late[0], again[0][inside])
    np.testing.assert_array_equal(late[1], again[1][inside])


def philox_by_hand(counter, key):
    """Philox4x32-10 on Python's own integers."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


@pytest.mark.parametrize(("interaction", "c"), [("single", 0.3), ("multiple", 0.3), ("multiple", 0.03)])
def test_the_spikes_are_those_that_the_definition_gives_bin_by_bin(interaction, c):
    # a change of these numbers would break the replay of every recorded run
    n, n_bins, per_bin, jitter = 11, 300, 0.3, 6

    def words(name, b, draws):
        digest = hashlib.blake2b(f"int:9\x1fstr:tvb/E{name}\x1fstr:precuneus".encode(), digest_size=8).digest()
        return [word for draw in draws for word in philox_by_hand((b, 0, draw, 0), struct.unpack("<2I", digest))]

    def poisson(name, b, mean):
        w = words(name, b, range(1))
        u = ((w[0] >> 5) * 2**26 + (w[1] >> 6)) / 2**53
        return int(stats.poisson.ppf(u, mean)) if u >= math.exp(-mean) else 0

    expected = []
    at_all = 1 - (1 - c) ** n
    for b in range(n_bins):
        shared = poisson("/shared", b, c * per_bin if interaction == "single" else per_bin / c * at_all)
        if interaction == "single":
            count = poisson("", b, n * (1 - c) * per_bin)
            expected += [(b, word * n >> 32) for word in words("", b, range(20))[2 : 2 + count]]
        for spike in range(shared):
            draws = range(spike * (n // 4 + 1), (spike + 1) * (n // 4 + 1))
            if interaction == "single":
                copies = list(range(n))
            else:
                u = [(word + 0.5) / 2**32 for word in words("/copies", b, draws)]
                at, copies = -1, []
                for i in range(n + 1):
                    at += 1 + int(math.log(1 - u[i] * (at_all if i == 0 else 1.0)) / math.log(1 - c))
                    if at >= n:
                        break
                    copies.append(at)
            delays = [word * jitter >> 32 for word in words("/jitter", b, draws)]
            expected += [(b + delay, train) for delay, train in zip(delays, copies, strict=False)]
    params = {"correlation": c, "interaction": interaction, "jitter_ms": jitter / 10}
    transformer = trains_of([n], params, labels=["precuneus"], seed=9, key="tvb/E")
    rates = np.full((n_bins, 1), per_bin / 1e-4)
    windows = [transformer(rates[a:b], a, b) for a, b in pairwise([0, 3, 100, 101, 299, 300])]
    found = [spike for window in windows for spike in zip(*(part.tolist() for part in window), strict=True)]
    assert found == sorted(spike for spike in expected if spike[0] < n_bins)
    assert transformer.pending == len(expected) - len(found)
    assert len(found) > 500


def test_rates_are_scaled_converted_and_clipped_as_for_rates_to_spikes():
    params = {"correlation": 0.4, "interaction": "multiple"}
    scaled = trains_of([40], {**params, "scale_factor": 0.02, "translation_factor": 0.01, "unit": "kHz"})(
        np.full((900, 1), 2.0), 0, 900
    )
    plain = trains_of([40], params)(np.full((900, 1), 50.0), 0, 900)
    assert len(plain[0]) > 100
    for a, b in zip(scaled, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    x = np.array([[5.0], [-1.0]])
    with pytest.raises(TransformerError, match=r"rates_to_correlated_spikes: the rate of E@0 in step 1 is -1 Hz"):
        trains_of([10], params)(x, 0, 2)
    clipping = trains_of([10], {**params, "clip": True})
    clipping(x, 0, 2)
    assert clipping.clipped == 1


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"correlation": 1.5}, ["correlation = 1.5", "between 0", "and 1"]),
        ({"correlation": [0.1, -0.1]}, ["correlation = [0.1, -0.1]", "between 0"]),
        ({"correlation": [0.1, 0.1, 0.1]}, ["correlation has 3 values", "2 columns"]),
        ({"correlation_factor": 0.1}, ["unknown parameter 'correlation_factor'", "correlation, interaction"]),
        ({"interaction": "both"}, ["interaction = 'both'", "'single', 'multiple'"]),
        ({"interaction": ["single"]}, ["interaction = ['single']"]),
        ({"jitter_ms": -1.0}, ["jitter_ms = -1", "multiple of the resolution = 0.1 ms"]),
        ({"jitter_ms": 0.25}, ["jitter_ms = 0.25"]),
        ({"refractory_ms": 2.0}, ["unknown parameter 'refractory_ms'"]),
        ({"unit": "mV"}, ["'mV'", "Allowed: Hz, kHz, 1/s, 1/ms."]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, words):
    with pytest.raises(TransformerError) as error:
        trains_of([10, 10], params)
    assert "transformer rates_to_correlated_spikes" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_two_columns_of_one_label_are_refused():
    with pytest.raises(TransformerError, match="rates_to_correlated_spikes: two columns are both called 'a'"):
        trains_of([10, 10], {}, labels=["a", "a"])


def test_the_description_has_the_numbers_in():
    params = {"correlation": 0.1, "interaction": "multiple", "jitter_ms": 2.0, "scale_factor": 3.0}
    assert describe("rates_to_correlated_spikes", params) == (
        "n Poisson trains of rate r = 3·x + 0 [Hz], correlation 0.1 (multiple interaction), jitter 2 ms"
    )
