"""Rates to spikes: independent Poisson trains, the same for every simulator that plays them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import random
from .base import Clock, End, SignalLike, TransformerError, abbreviate, per_column, read_params
from .linear import Linear, linear_text

# Beyond this many spikes of a column in one resolution step, exp(-mean) leaves the range of a float64.
MAX_SPIKES_PER_BIN = 700.0
_BLOCK = 2048  # numbers drawn ahead at a time; a matter of speed only


class RatesToSpikes:
    """Independent Poisson spike trains, `out.sizes[c]` of them per column c, each with the rate of its column.

    Dense (n_steps, n_columns) -> (times, senders), sorted by time, then by sender. The rate of every train is
    r_c(s) = scale_factor_c · x_c(s) + translation_factor_c, in `unit` (default Hz), constant over TVB step s,
    ``[s dt, (s + 1) dt)``. The number of spikes of a train in resolution bin ``[b h, (b + 1) h)`` is

        N ~ Poisson(r_c h),

    independent between bins and trains: an inhomogeneous Poisson process (Dayan & Abbott 2001, Theoretical
    Neuroscience, ch. 1.4) seen on the grid of the spiking program, the T_MF->SP of the slides. A bin may hold several
    spikes of one train, and all of them go out. A spike of bin b has time b·h, in ticks; sender = number of trains of
    the columns before + index of the train.

    How: the sum over the n trains of a column is Poisson(n r h), and given the sum each spike belongs to any of the
    trains with the same probability, independently (Kingman 1993, Poisson Processes, the superposition and colouring
    theorems). So one uniform number gives the count of a column in a bin, by the inverse of its distribution function,
    and one more word per spike gives its train; the cost does not depend on the number of trains.

    Refractory period: with refractory_ms = d h, a train has at most one spike in any d bins, and its mean rate is still
    the given one. A train has fired in one of the last d - 1 bins with probability S(b) = sum of r(b - i) h over
    i = 1 ... d - 1, for these d - 1 events exclude each other. So it has to fire in bin b, when free to, with

        p(b) = r(b) h / (1 - S(b))

    and does fire with probability r(b) h, exactly, from the first bin on and however r varies. For a constant rate this
    is 1/p = 1/(r h) - (d - 1), the mean interval less its dead bins: the hazard r / (1 - r d h) of a Poisson process
    with dead time, for small h (Gerstner, Kistler, Naud & Paninski 2014, Neuronal Dynamics, ch. 7.5). Rates that do not
    fit, S(b) + r(b) h >= 1, are an error. How: the trains above at rate -ln(1 - p)/h, which have a spike in a bin with
    probability p; of these, a train keeps those that find it free. What it does not keep tells nothing of the bins to
    come, since bins are drawn independently, so a free train fires with p, whatever has been. refractory_ms = 0
    (default): the trains above.

    Random numbers are those of (seed, key, label of the raw column) at the absolute bin number (see `random.py`):
    a region's spikes are the same whatever the window, the row order, the program or a restart. Hence `key` should name
    what is sent, not where to; two channels of equal key and label get identical trains if their rates are. State:
    none; with a refractory period the rates of the last d - 1 bins and when each train is free again, so windows must
    come in order from t = 0.

    Params: scale_factor, translation_factor, unit, clip (see `Linear`); refractory_ms, a multiple of the resolution h.
    """

    name = "rates_to_spikes"
    raw_kind, out_kind = "dense", "spikes"
    defaults: Mapping[str, Any] = {**Linear.defaults, "unit": "Hz", "refractory_ms": 0.0}

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float = 0.0, *, name: str = "rates_to_spikes",
    ) -> None:  # fmt: skip
        self.name = name
        given = read_params(name, params, self.defaults)
        if len(raw.labels) != len(out.sizes):
            raise TransformerError(
                f"transformer {self.name}: {len(raw.labels)} columns come in but the spikes going out have "
                f"{len(out.sizes)} groups of trains; there must be one group per column."
            )
        if len(set(raw.labels)) < len(raw.labels):
            twice = next(label for label in raw.labels if raw.labels.count(label) > 1)
            raise TransformerError(
                f"transformer {self.name}: two columns are both called {twice!r}; they would get the same spikes."
            )
        rates = End("dense", "Hz", tuple(raw.labels), (1,) * len(raw.labels))
        self._rate = Linear({key: given[key] for key in Linear.defaults}, raw, rates, clock, seed, key, name=self.name)
        self._labels = rates.labels
        self._sizes = np.array(out.sizes, np.uint64)
        self._offsets = np.concatenate([[0], np.cumsum(out.sizes)])[:-1].astype(np.int64)
        self._trains = int(sum(out.sizes))
        self._mean_per_hz = np.array(out.sizes, np.float64) * (clock.resolution_ms / 1000.0)
        self._bins_per_step = clock.dt_ticks // clock.resolution_ticks
        self._bin_ticks = clock.resolution_ticks
        self._keys = random.schedule(np.array([random.key_of(seed, key, label) for label in raw.labels]).reshape(-1, 2))
        # numbers are made by blocks of bins, aligned at multiples of their length, and the last block is kept
        # drawn with each bin's count: words for its first 2 spikes, or for 6 where few columns make that cheap
        self._block_draws = 2 if len(raw.labels) <= 16 else 1
        self._block_bins = max(1, _BLOCK // max(1, len(raw.labels)))
        self._block_keys = np.tile(self._keys, self._block_bins)
        self._block_number = -1
        self._block: tuple[np.ndarray, np.ndarray] | None = None
        self._dead_bins = whole_bins(name, "refractory_ms", given["refractory_ms"], clock)  # of a spike: its own, too
        self._refractory_ms = self._dead_bins * clock.resolution_ms
        if self._dead_bins:
            self._resolution_s = clock.resolution_ms / 1000.0
            self._past = np.zeros((self._dead_bins - 1, len(raw.labels)))  # r h of the bins before the window
            self._free_from = np.zeros(self._trains, np.int64)  # bin
            self._next_step = 0

    counted = 0  # spikes begin here

    @property
    def clipped(self) -> int:
        return self._rate.clipped

    def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> tuple[np.ndarray, np.ndarray]:
        rates = self._rate(payload, first_step, end_step)
        first_bin = first_step * self._bins_per_step
        if first_bin < 0:
            raise TransformerError(f"transformer {self.name}: step {first_step} lies before t = 0.")
        bins_per_row = self._bins_per_step
        if self._dead_bins:
            means, bins_per_row = self._candidates(rates, first_step, end_step), 1
        else:
            means = rates * self._mean_per_hz
        if means.size and means.max() > MAX_SPIKES_PER_BIN:
            self._too_many(rates, means, first_step, self._bins_per_step // bins_per_row)
        uniforms, words = self._numbers(first_bin, end_step * self._bins_per_step)
        # one row per bin, flat: index = (bin - first_bin) * n_columns + column
        silent = np.exp(-means)  # the probability of no spike
        if bins_per_row > 1:
            silent = np.repeat(silent, bins_per_row, axis=0)
        active = np.flatnonzero(uniforms >= silent)
        if not len(active):
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        n_columns = len(self._labels)
        bins = active // n_columns
        columns = active - bins * n_columns
        counts = _poisson_quantile(
            uniforms.reshape(-1)[active], means[bins // bins_per_row, columns], silent.reshape(-1)[active]
        )
        trains, owners = self._draw_trains(active, bins + first_bin, columns, counts, words)
        order = bins * self._trains + self._offsets[columns]
        order = order[owners] + trains
        order.sort()  # by time, then by sender
        times = order // self._trains
        senders = order - times * self._trains
        times += first_bin
        if self._dead_bins:
            kept = self._kept(times, senders)
            times, senders = times[kept], senders[kept]
        times *= self._bin_ticks
        return times, senders.astype(np.int32)

    def _candidates(self, rates: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        """Mean number of candidate spikes per bin and column, (n_bins, n_columns), for the `rates` in Hz."""
        if first_step != self._next_step:
            raise TransformerError(
                f"transformer {self.name}: the window of steps [{first_step}, {end_step}) was given, but the trains "
                f"with a refractory period stand at step {self._next_step}; windows must come in order."
            )
        self._next_step = end_step
        before = self._dead_bins - 1
        expected = np.repeat(rates * self._resolution_s, self._bins_per_step, axis=0)  # spikes per bin and train
        expected = np.concatenate([self._past, expected])
        self._past = expected[len(expected) - before :].copy()
        free = 1.0 - _sums_before(expected, before)
        expected = expected[before:]
        if (expected >= free).any():
            self._not_free(rates, 1.0 - free + expected, first_step)
        return -np.log1p(-expected / free) * self._sizes

    def _kept(self, bins: np.ndarray, senders: np.ndarray) -> np.ndarray:
        """Which of the candidates, in order of time, find their train free, as ascending indices."""
        kept = []
        free_from = self._free_from
        first_of = np.empty(len(free_from), np.int64)
        left = np.flatnonzero(bins >= free_from[senders])
        while len(left):
            trains = senders[left]
            first_of[trains[::-1]] = left[::-1]  # what is assigned last stays: the first of each train
            first = left[first_of[trains] == left]
            kept.append(first)
            free_from[senders[first]] = bins[first] + self._dead_bins
            left = left[bins[left] >= free_from[trains]]
        return np.sort(np.concatenate(kept)) if kept else left

    def _numbers(self, first_bin: int, end_bin: int) -> tuple[np.ndarray, np.ndarray]:
        """Uniforms (n_bins, n_columns) for the counts, and words (n_words, n_bins, n_columns) for the trains."""
        length = self._block_bins
        parts = []
        for number in range(first_bin // length, -(-end_bin // length)):
            uniforms, words = self._block_of(number)
            cut = slice(max(0, first_bin - number * length), min(length, end_bin - number * length))
            parts.append((uniforms[cut], words[:, cut]))
        if len(parts) == 1:
            return parts[0]
        n_columns = len(self._labels)
        if not parts:
            return np.zeros((0, n_columns)), np.zeros((1, 0, n_columns), np.uint64)
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts], axis=1)

    def _block_of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        if number != self._block_number or self._block is None:
            n_columns = len(self._labels)
            bins = np.arange(number * self._block_bins, (number + 1) * self._block_bins, dtype=np.uint64)
            counter = np.repeat(bins, n_columns)
            drawn = [word for i in range(self._block_draws) for word in random.philox(counter, i, self._block_keys)]
            shape = (self._block_bins, n_columns)
            self._block = random.uniform(*drawn[:2]).reshape(shape), np.stack(drawn[2:]).reshape(-1, *shape)
            self._block_number = number
        return self._block

    def _draw_trains(
        self, active: np.ndarray, bins: np.ndarray, columns: np.ndarray, counts: np.ndarray, words: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The train of every spike within its column, and which entry of `active` the spike belongs to.

        The first spikes of a bin take the words that came with its count; further ones are drawn, four at a time.
        """
        ready, most = len(words), counts.max()
        flat = words.reshape(ready, -1)
        if most == 1:
            owner, drawn = np.arange(len(active)), flat[0, active]
        else:
            taken = np.arange(min(ready, most))[:, None] < counts
            owner, drawn = np.nonzero(taken)[1], flat[: len(taken), active][taken]
        if most > ready:
            many = np.flatnonzero(counts > ready)
            calls = (counts[many] - ready + 3) // 4
            more = np.repeat(many, calls)
            call = np.arange(len(more)) - np.repeat(np.cumsum(calls) - calls, calls)  # 0, 1, ... within each of `many`
            draw = (self._block_draws + call).astype(np.uint64)
            four = random.philox(bins[more].astype(np.uint64), draw, self._keys[:, :, columns[more]])
            taken = ready + 4 * call + np.arange(4)[:, None] < counts[more]
            owner = np.concatenate([owner, more[np.nonzero(taken)[1]]])
            drawn = np.concatenate([drawn, np.stack(four)[taken]])
        # word · n / 2^32: uniform over the n trains, to within n / 2^32
        trains = (drawn * self._sizes[columns[owner]]) >> np.uint64(32)
        return trains.astype(np.int64), owner

    def _not_free(self, rates: np.ndarray, sums: np.ndarray, first_step: int) -> None:
        step, column = np.unravel_index(np.argmax(sums), sums.shape)
        step //= self._bins_per_step
        raise TransformerError(
            f"transformer {self.name}: the rate of {self._labels[column]} in step {first_step + step} is "
            f"{rates[step, column]:g} Hz, which with the steps before makes {sums.max():.4g} spikes of a train in "
            f"refractory_ms = {self._refractory_ms:g} ms. It must stay below 1, a constant rate below "
            f"{1000.0 / self._refractory_ms:g} Hz: check scale_factor and unit, or choose a shorter refractory_ms."
        )

    def _too_many(self, rates: np.ndarray, means: np.ndarray, first_step: int, rows_per_step: int) -> None:
        step, column = np.unravel_index(np.argmax(means), means.shape)
        mean, step = means[step, column], step // rows_per_step
        refractory = f" with refractory_ms = {self._refractory_ms:g}" if self._dead_bins else ""
        raise TransformerError(
            f"transformer {self.name}: {rates[step, column]:g} Hz in each of {int(self._sizes[column])} trains of "
            f"{self._labels[column]} in step {first_step + step}{refractory} make {mean:.4g} spikes per resolution "
            f"step, over {MAX_SPIKES_PER_BIN:g}. Check scale_factor and unit, or send the rate itself (model RATE)."
        )

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        dead = given["refractory_ms"]
        refractory = f", refractory period {abbreviate([dead])} ms" if dead else ""
        return f"n Poisson trains of rate r = {linear_text(given, 'x')}{refractory}"


def whole_bins(name: str, key: str, value_ms: Any, clock: Clock) -> int:
    """`value_ms` as a number of resolution bins. Raises TransformerError when it is not a whole, non-negative one."""
    if isinstance(value_ms, list | tuple) and len(value_ms) != 1:
        raise TransformerError(f"transformer {name}: {key} = {value_ms!r}: it must be one number, for all columns.")
    (value,) = per_column(name, key, value_ms, ("all",))
    bins = value / clock.resolution_ms
    if value < 0 or abs(bins - round(bins)) > 1e-6:
        nearest = max(0, round(bins)) * clock.resolution_ms
        raise TransformerError(
            f"transformer {name}: {key} = {value:g} ms: it must be 0 or a multiple of the resolution = "
            f"{clock.resolution_ms:g} ms; the nearest is {nearest:g}."
        )
    return round(bins)


def _sums_before(values: np.ndarray, length: int) -> np.ndarray:
    """Sums over the `length` rows before each row, from row `length` on.

    By pieces of 1, 2, 4 ... rows: every sum is added in one and the same order, wherever a window begins.
    """
    n = len(values) - length
    total = np.zeros((n, values.shape[1]))
    pieces, span, done = values, 1, 0  # pieces[i]: the sum of values[i : i + span]
    while done < length:
        if length & span:
            total += pieces[done : done + n]
            done += span
        if done < length:
            pieces = pieces[:-span] + pieces[span:]
            span *= 2
    return total


def _poisson_quantile(u: np.ndarray, mean: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """The smallest k with P(N <= k) > u, for N ~ Poisson(mean); all (n,), `silent` = exp(-mean), u >= silent.

    P(N <= k) is summed from P(k) = P(k - 1) · mean / k. Where rounding keeps the sum below u the search ends twelve
    standard deviations above the mean, which no u of 53 bits means.
    """
    counts = np.ones(len(u), np.int64)
    probability = silent * mean
    cumulative = silent + probability
    if (u < cumulative).all():
        return counts
    cap = mean + 12.0 * np.sqrt(mean) + 30.0
    left = np.arange(len(u))
    k = 1
    while True:
        going = np.flatnonzero((u >= cumulative) & (k < cap))
        if not len(going):
            return counts
        left, u, mean, cap = left[going], u[going], mean[going], cap[going]
        k += 1
        counts[left] = k
        probability = probability[going] * (mean / k)
        cumulative = cumulative[going] + probability
