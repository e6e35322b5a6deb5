"""Poisson trains against theory. Seeds are fixed, so that a test that passes once passes always; the bounds are those
of the distribution, at five standard errors unless said."""

from __future__ import annotations

import hashlib
import struct
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from tvb_lockstep.transformers import Clock, End, TransformerError, make

CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)  # dt = resolution = 0.1 ms
FINE = Clock(tick_ns=25_000, dt_ticks=8, resolution_ticks=2)  # dt 0.2 ms, resolution 0.05 ms, tick 0.025 ms


def ends(labels, sizes):
    return End("dense", "", tuple(labels), (1,) * len(labels)), End("spikes", "", tuple(labels), tuple(sizes))


def poisson(sizes, params=None, labels=None, clock=CLOCK, seed=1, key="E"):
    raw, out = ends(labels or [f"E@{i}" for i in range(len(sizes))], sizes)
    return make("rates_to_spikes", params or {}, raw, out, clock, seed=seed, key=key)


def counts(times, senders, n_bins, n_trains):
    """Spikes per bin and train, (n_bins, n_trains)."""
    return np.bincount(times * n_trains + senders, minlength=n_bins * n_trains).reshape(n_bins, n_trains)


def test_the_count_of_every_train_has_mean_and_variance_of_its_rate():
    n_bins, n = 20_000, 200  # 2 s
    _, senders = poisson([n])(np.full((n_bins, 1), 40.0), 0, n_bins)
    per_train = np.bincount(senders, minlength=n)
    mean = 80.0  # 40 Hz · 2 s
    assert abs(per_train.mean() - mean) < 5 * np.sqrt(mean / n)
    fano = per_train.var(ddof=1) / per_train.mean()
    assert abs(fano - 1.0) < 5 * np.sqrt(2.0 / (n - 1))
    assert stats.chisquare(per_train).pvalue > 1e-4  # all trains alike


@pytest.mark.parametrize("spikes_per_bin", [0.002, 0.3, 1.0, 4.0, 30.0])
def test_the_count_in_a_bin_follows_the_poisson_distribution(spikes_per_bin):
    n_bins, n = 40_000, 5
    rate = spikes_per_bin / n / 1e-4
    times, _ = poisson([n])(np.full((n_bins, 1), rate), 0, n_bins)
    per_bin = np.bincount(times, minlength=n_bins)
    k = np.arange(per_bin.max() + 2)
    expected = stats.poisson.pmf(k, spikes_per_bin) * n_bins
    expected[-1] += n_bins - expected.sum()
    observed = np.bincount(per_bin, minlength=len(k)).astype(float)
    while expected[0] < 5:  # join the bins of few
        expected[1] += expected[0]
        observed[1] += observed[0]
        expected, observed = expected[1:], observed[1:]
    while expected[-1] < 5:
        expected[-2] += expected[-1]
        observed[-2] += observed[-1]
        expected, observed = expected[:-1], observed[:-1]
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_the_count_of_one_train_in_a_bin_is_poisson_too_and_several_spikes_are_kept():
    n_bins, n = 20_000, 10
    times, senders = poisson([n])(np.full((n_bins, 1), 20_000.0), 0, n_bins)  # rate · h = 2
    table = counts(times, senders, n_bins, n)
    assert abs(table.mean() - 2.0) < 5 * np.sqrt(2.0 / table.size)
    assert abs(table.var() - 2.0) < 5 * np.sqrt(
        (2.0 + 2 * 4.0) / table.size
    )  # its variance: (m + 2 m²) / n
    for k in range(8):
        p = stats.poisson.pmf(k, 2.0)
        assert abs(np.mean(table == k) - p) < 5 * np.sqrt(p * (1 - p) / table.size)


def test_intervals_between_spikes_of_a_train_are_exponential():
    n_bins, rate = 400_000, 20.0  # 40 s of 0.1 ms
    times, senders = poisson([3])(np.full((n_bins, 1), rate), 0, n_bins)
    for train in range(3):
        intervals = np.diff(times[senders == train])  # bins; geometric, exponential to within h · rate = 0.002
        jitter = np.random.default_rng(train).random(len(intervals))  # undo the grid
        assert len(intervals) > 700
        assert stats.kstest((intervals + jitter - 0.5) * 1e-4, "expon", args=(0, 1 / rate)).pvalue > 0.01


def test_trains_are_independent_of_each_other_and_of_their_past():
    n_bins, n = 50_000, 12
    times, senders = poisson([8, 4])(np.full((n_bins, 2), 1000.0), 0, n_bins)  # 0.1 spikes per bin and train
    table = counts(times, senders, n_bins, n)
    correlation = np.corrcoef(table.T)
    assert np.abs(correlation[~np.eye(n, dtype=bool)]).max() < 5 / np.sqrt(n_bins)
    lagged = [np.corrcoef(table[:-lag, i], table[lag:, i])[0, 1] for lag in (1, 2, 3, 4, 60, 170) for i in range(n)]
    assert np.abs(lagged).max() < 5 / np.sqrt(n_bins)


def test_the_trains_follow_a_rate_that_varies_in_time():
    n_steps, n = 2000, 400
    t = np.arange(n_steps) * 2e-4
    rate = 50.0 + 40.0 * np.sin(2 * np.pi * 10 * t)
    times, _ = poisson([n], clock=FINE)(rate[:, None], 0, n_steps)
    per_step = np.bincount(times // 8, minlength=n_steps)
    observed = per_step.reshape(40, 50).sum(axis=1)  # 10 ms pieces
    expected = (rate * 2e-4 * n).reshape(40, 50).sum(axis=1)
    z = (observed - expected) / np.sqrt(expected)
    assert np.abs(z).max() < 4.5
    assert stats.chi2.sf(np.sum(z**2), 40) > 1e-3
    assert observed.max() > 5 * observed.min()


def test_a_step_of_zero_rate_has_no_spike_and_the_steps_beside_it_do():
    rate = np.full((300, 1), 5000.0)
    rate[100:200] = 0.0
    times, _ = poisson([50])(rate, 0, 300)
    assert not np.any((times >= 100) & (times < 200))
    assert np.any(times == 99) and np.any(times == 200)


def test_spikes_lie_on_the_grid_of_the_resolution_and_use_all_of_it():
    times, _ = poisson([100], clock=FINE)(np.full((100, 1), 4000.0), 50, 150)
    assert times.min() == 400 and times.max() == 1198  # [50, 150) steps of 8 ticks, resolution 2 ticks
    assert set((times % 8).tolist()) == {0, 2, 4, 6}


def test_spikes_are_sorted_by_time_then_by_sender_and_typed_as_the_frames_are():
    times, senders = poisson([20, 30])(np.full((200, 2), 3000.0), 0, 200)
    order = np.lexsort((senders, times))
    np.testing.assert_array_equal(order, np.arange(len(times)))
    assert times.dtype == np.int64 and senders.dtype == np.int32
    silent = poisson([20])(np.zeros((5, 1)), 0, 5)
    assert [len(part) for part in silent] == [0, 0]
    assert silent[0].dtype == np.int64 and silent[1].dtype == np.int32


def test_senders_of_a_column_come_after_those_of_the_columns_before():
    x = np.full((500, 3), 200.0)
    x[:, 1] = 0.0
    _, senders = poisson([10, 5, 20])(x, 0, 500)
    assert set(senders.tolist()) == set(range(10)) | set(range(15, 35))


def test_equal_seed_key_and_label_give_equal_spikes_and_any_other_does_not():
    x = np.full((500, 1), 100.0)
    reference = poisson([50], labels=["E@a"])(x, 0, 500)
    again = poisson([50], labels=["E@a"])(x, 0, 500)
    for a, b in zip(reference, again, strict=True):
        np.testing.assert_array_equal(a, b)
    others = [
        poisson([50], labels=["E@a"], seed=2),
        poisson([50], labels=["E@a"], key="I"),
        poisson([50], labels=["E@b"]),
    ]
    results = [reference, *(other(x, 0, 500) for other in others)]
    tables = [counts(times, senders, 500, 50).ravel() for times, senders in results]
    for i in range(4):
        for j in range(i):
            assert abs(np.corrcoef(tables[i], tables[j])[0, 1]) < 5 / np.sqrt(tables[i].size)


def test_the_spikes_of_a_region_do_not_depend_on_its_row_or_on_the_other_regions():
    x = np.random.default_rng(3).random((400, 3)) * 200
    abc = poisson([10, 20, 30], labels=["a", "b", "c"])(x, 0, 400)
    cb = poisson([30, 20], labels=["c", "b"])(x[:, [2, 1]], 0, 400)
    for offset_abc, offset_cb, n in ((30, 0, 30), (10, 30, 20)):  # c, then b
        mine = (abc[1] >= offset_abc) & (abc[1] < offset_abc + n)
        theirs = (cb[1] >= offset_cb) & (cb[1] < offset_cb + n)
        assert mine.sum() > 20
        np.testing.assert_array_equal(abc[0][mine], cb[0][theirs])
        np.testing.assert_array_equal(abc[1][mine] - offset_abc, cb[1][theirs] - offset_cb)


def test_a_region_among_many_has_the_spikes_it_has_alone():
    # with many columns fewer numbers are drawn ahead; at 20 spikes per bin both ways run out of them
    labels = [f"E@{i}" for i in range(30)]
    times, senders = poisson([40] * 30, labels=labels)(np.full((60, 30), 5000.0), 0, 60)
    alone = poisson([40], labels=["E@17"])(np.full((60, 1), 5000.0), 0, 60)
    mine = (senders >= 17 * 40) & (senders < 18 * 40)
    assert mine.sum() > 1000
    np.testing.assert_array_equal(times[mine], alone[0])
    np.testing.assert_array_equal(senders[mine] - 17 * 40, alone[1])


def test_the_rate_is_scaled_translated_and_converted_before_the_spikes_are_drawn():
    scaled = poisson([100], {"scale_factor": 0.02, "translation_factor": 0.01, "unit": "kHz"})(
        np.full((300, 1), 2.0), 0, 300
    )
    plain = poisson([100])(np.full((300, 1), 50.0), 0, 300)
    assert len(plain[0]) > 100
    for a, b in zip(scaled, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def philox_by_hand(counter, key):
    """Philox4x32-10 on Python's own integers."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k0, b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k1, a & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


@pytest.mark.parametrize("spikes_per_bin", [0.05, 1.0, 12.0])
def test_the_spikes_are_those_that_the_definition_gives_bin_by_bin(spikes_per_bin):
    # a change of these numbers would break the replay of every recorded run
    n, first, end = 40, 100, 400
    digest = hashlib.blake2b(b"int:9\x1fstr:tvb/E\x1fstr:precuneus", digest_size=8).digest()
    key = struct.unpack("<2I", digest)
    expected = []
    for b in range(first, end):
        w = philox_by_hand((b, 0, 0, 0), key)
        u = ((w[0] >> 5) * 2**26 + (w[1] >> 6)) / 2**53
        count = int(stats.poisson.ppf(u, spikes_per_bin)) if u >= np.exp(-spikes_per_bin) else 0
        words = w[2:]
        for draw in range(1, 20):
            words += philox_by_hand((b, 0, draw, 0), key)
        expected += sorted((b, word * n >> 32) for word in words[:count])
    rate = spikes_per_bin / n / 1e-4
    times, senders = poisson([n], labels=["precuneus"], seed=9, key="tvb/E")(
        np.full((end - first, 1), rate), first, end
    )
    assert list(zip(times.tolist(), senders.tolist(), strict=True)) == expected
    assert len(expected) > 5


def test_at_most_seven_hundred_spikes_per_column_and_bin_are_made():
    times, _ = poisson([100])(np.full((200, 1), 69_999.0), 0, 200)  # 699.99 per bin
    assert abs(len(times) - 139_998) < 5 * np.sqrt(139_998)
    message = r"1e\+06 Hz in each of 100 trains of E@0 in step 7 make 1e\+04 spikes.*scale_factor"
    with pytest.raises(TransformerError, match=message):
        poisson([100])(np.full((1, 1), 1e6), 7, 8)


def test_a_negative_rate_is_an_error_unless_clipped():
    x = np.array([[5.0], [-1.0], [5.0]])
    with pytest.raises(TransformerError, match=r"rates_to_spikes: the rate of E@0 in step 1 is -1 Hz.*clip = true"):
        poisson([10])(x, 0, 3)
    clipping = poisson([10], {"clip": True})
    clipping(x, 0, 3)
    assert clipping.clipped == 1


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"number_of_neurons": 100}, ["unknown parameter 'number_of_neurons'", "proxy_params"]),
        ({"unit": "mV"}, ["'mV'", "Allowed: Hz, kHz, 1/s, 1/ms."]),
        ({"scale_factor": [1.0, 2.0]}, ["scale_factor has 2 values", "1 column (E@0)"]),
    ],
)
def test_a_wrong_parameter_is_refused_with_what_would_do(params, words):
    with pytest.raises(TransformerError) as error:
        poisson([10], params)
    assert "transformer rates_to_spikes" in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_two_columns_of_one_label_are_refused():
    with pytest.raises(TransformerError, match="two columns are both called 'a'"):
        poisson([10, 10], labels=["a", "a"])


def test_a_number_of_groups_that_is_not_that_of_the_columns_is_refused():
    raw, _ = ends(["a", "b"], [1, 1])
    _, out = ends(["a"], [10])
    with pytest.raises(TransformerError, match="2 columns come in but the spikes going out have 1 groups"):
        make("rates_to_spikes", {}, raw, out, CLOCK, seed=0, key="k")


DEAD = 20  # bins: 2 ms


def refractory(rates, sizes, params=None, **more):
    """Spikes per bin and train of the trains of `rates` (n_bins, n_columns), Hz, with refractory_ms = 2."""
    transformer = poisson(sizes, {"refractory_ms": 2.0, **(params or {})}, **more)
    edges = [*range(0, len(rates), 700), len(rates)]
    windows = [transformer(rates[a:b], a, b) for a, b in pairwise(edges)]
    times, senders = (np.concatenate(part) for part in zip(*windows, strict=True))
    return counts(times, senders, len(rates), sum(sizes))


def test_a_train_fires_at_most_once_within_its_refractory_period():
    table = refractory(np.full((5000, 2), 300.0), [30, 30])
    within = np.lib.stride_tricks.sliding_window_view(table, DEAD, axis=0).sum(axis=-1)
    assert table.sum() > 8000
    assert within.max() == 1
    longer = np.lib.stride_tricks.sliding_window_view(table, DEAD + 1, axis=0).sum(axis=-1)
    assert longer.max() == 2  # the bin after it is free


@pytest.mark.parametrize("rate", [5.0, 60.0, 400.0])
def test_with_a_refractory_period_intervals_are_geometric_after_the_dead_bins(rate):
    n_bins, n = int(2e6 / rate), 20
    table = refractory(np.full((n_bins, 1), rate), [n])
    intervals = np.concatenate([np.diff(np.flatnonzero(train)) for train in table.T])
    p = 1 / (1 / (rate * 1e-4) - (DEAD - 1))
    assert intervals.min() >= DEAD
    # the mean of m intervals of variance (1 - p) / p²; those cut off by the end are the long ones, 1/200 of all here
    mean = 1 / (rate * 1e-4)
    assert abs(intervals.mean() - mean) < 5 * np.sqrt((1 - p) / p**2 / len(intervals)) + mean / 200
    edges = np.quantile(intervals, np.linspace(0, 1, 12)[1:-1]).astype(int)
    edges = np.unique(edges)
    expected = np.diff(np.concatenate([[0], 1 - (1 - p) ** (edges - DEAD + 1), [1]])) * len(intervals)
    observed = np.bincount(np.searchsorted(edges, intervals), minlength=len(edges) + 1)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_with_a_refractory_period_the_rate_is_the_given_one_in_every_bin():
    # from the first bin on, and for a rate that changes as fast as the period
    n_bins, n, repeats = 160, 4000, 25
    t = np.arange(n_bins)
    rate = np.where((t < 60) | (t > 100), 300.0, 100.0 + 90.0 * np.sin(2 * np.pi * t / 15))
    total = sum(refractory(rate[:, None], [n], seed=seed).sum(axis=1) for seed in range(repeats))
    p = rate * 1e-4
    z = (total - n * repeats * p) / np.sqrt(n * repeats * p * (1 - p))
    assert np.abs(z).max() < 4.5
    assert 1e-3 < stats.chi2.sf(np.sum(z**2), n_bins) < 0.999


def test_with_a_refractory_period_counts_vary_less_by_its_share_of_the_interval():
    rate, n, n_bins = 200.0, 200, 40_000
    per_train = refractory(np.full((n_bins, 1), rate), [n]).sum(axis=0)
    p = 1 / (1 / (rate * 1e-4) - (DEAD - 1))
    cv2 = (1 - p) / p**2 * (rate * 1e-4) ** 2  # about (1 - 0.4)² = 0.36
    fano = per_train.var(ddof=1) / per_train.mean()
    assert abs(fano / cv2 - 1) < 5 * np.sqrt(2 / (n - 1))
    assert abs(per_train.mean() - 800) < 5 * np.sqrt(cv2 * 800 / n)


def test_the_refractory_trains_are_the_thinned_candidates_bin_by_bin():
    # a change of these numbers would break the replay of every recorded run
    rng = np.random.default_rng(0)
    sizes, n_bins = [7, 30], 400
    rates = rng.uniform(0.0, 900.0, (n_bins, 2)) * (rng.random((n_bins, 2)) < 0.5)
    probability = np.zeros_like(rates)
    for b in range(n_bins):
        fired = sum(rates[i] * 1e-4 for i in range(max(0, b - DEAD + 1), b))
        probability[b] = rates[b] * 1e-4 / (1 - fired)
    times, senders = poisson(sizes)(-np.log(1 - probability) / 1e-4, 0, n_bins)
    last, expected = {}, []
    for time, sender in zip(times.tolist(), senders.tolist(), strict=True):
        if time - last.get(sender, -DEAD) >= DEAD:
            last[sender] = time
            expected.append((time, sender))
    found = poisson(sizes, {"refractory_ms": 2.0})(rates, 0, n_bins)
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected
    assert len(times) > len(expected) > 300


def test_a_refractory_period_of_one_bin_leaves_one_spike_per_bin_and_none_changes_nothing():
    rates = np.full((2000, 1), 3000.0)
    table = counts(*poisson([50], {"refractory_ms": 0.1})(rates, 0, 2000), 2000, 50)
    assert table.max() == 1
    assert abs(table.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / table.size)
    for a, b in zip(poisson([50], {"refractory_ms": 0.0})(rates, 0, 2000), poisson([50])(rates, 0, 2000), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_refractory_period_is_counted_in_bins_of_the_resolution():
    times, senders = poisson([40], {"refractory_ms": 0.5}, clock=FINE)(np.full((3000, 1), 900.0), 0, 3000)
    gaps = np.concatenate([np.diff(times[senders == train]) for train in range(40)])
    assert gaps.min() == 20  # ticks of 0.025 ms
    assert abs(len(times) - 900.0 * 0.6 * 40) < 5 * np.sqrt(900.0 * 0.6 * 40)


def test_a_rate_that_does_not_fit_the_refractory_period_is_an_error_naming_column_step_and_rate():
    rates = np.full((50, 2), 100.0)
    rates[30:, 1] = 600.0
    message = r"rate of E@1 in step 4\d is 600 Hz.*refractory_ms = 2 ms.*below 500 Hz"
    with pytest.raises(TransformerError, match=message):
        poisson([10, 10], {"refractory_ms": 2.0})(rates, 0, 50)
    poisson([10], {"refractory_ms": 2.0})(np.full((50, 1), 499.0), 0, 50)


def test_with_a_refractory_period_windows_must_come_in_order():
    transformer = poisson([10], {"refractory_ms": 2.0})
    transformer(np.ones((5, 1)), 0, 5)
    with pytest.raises(TransformerError, match=r"steps \[7, 9\).*stand at step 5.*in order"):
        transformer(np.ones((2, 1)), 7, 9)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1.0, ["refractory_ms = -1", "multiple of the resolution = 0.1 ms", "nearest is 0."]),
        (1.234, ["refractory_ms = 1.234", "nearest is 1.2."]),
        ([1.0, 2.0], ["refractory_ms = [1.0, 2.0]", "one number"]),
        ("2", ["refractory_ms = '2'", "finite number"]),
    ],
)
def test_a_refractory_period_off_the_grid_is_refused(value, words):
    with pytest.raises(TransformerError) as error:
        poisson([10, 10], {"refractory_ms": value})
    for word in words:
        assert word in str(error.value)
