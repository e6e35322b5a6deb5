"""Rates to spikes: Poisson trains with a given correlation between every two of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import random
from .base import Clock, End, SignalLike, TransformerError, abbreviate, per_column, read_params
from .linear import Linear, linear_text, number
from .rates_to_spikes import RatesToSpikes, whole_bins

INTERACTIONS = ("single", "multiple")


class RatesToCorrelatedSpikes:
    """Poisson spike trains, `out.sizes[c]` of them per column c, any two of a column with correlation `correlation`.

    Dense (n_steps, n_columns) -> (times, senders), sorted by time, then by sender. Every train of a column is a Poisson
    train of the rate r(s) = scale_factor · x(s) + translation_factor, in `unit` (default Hz), constant over TVB step s,
    ``[s dt, (s + 1) dt)``, and the spike counts of any two trains of a column, in bins of any length, have the Pearson
    correlation c = `correlation`. Columns are independent of each other. The two ways of Kuhn, Aertsen & Rotter (2003,
    Neural Computation 15:67-101), who call them single and multiple interaction process, over n trains:

        interaction = "single":    one shared train of rate c r is in all n trains, and each train has one of its own of
                                   rate (1 - c) r. A shared spike is in all n trains at once, every other in one.
        interaction = "multiple":  a mother train of rate r / c; each of its spikes is copied to each train with
                                   probability c, independently, so to Binomial(n, c) of them.

    Why c: sums and random thinnings of independent Poisson trains are Poisson, here of rate c r + (1 - c) r = r and
    c · r/c = r. In a time T a train has r T spikes with variance r T; two trains share a Poisson train of rate c r, or
    c² · r/c = c r, and the rest is independent, so their covariance is c r T, and the correlation c. The n trains
    together have the variance n r T (1 + (n - 1) c) in both. correlation = 0 gives independent trains, those of
    `rates_to_spikes` bit for bit, and 1 gives n times the same train.

    jitter_ms = J > 0: every copy of a shared spike comes later by a delay of its own, uniform over the resolution bins
    of [0, J): 0, h ... J - h, (J - h)/2 on average. Forwards only, since the future of a rate is not known; so the
    shared part (all, with "multiple") follows the rate by (J - h)/2, and rises over the first J of the run. The trains
    stay Poisson, and the correlation of counts in bins of T >= J is c (1 - (J - h²/J) / (3 T)), since two copies of a
    spike are (J - h²/J) / 3 apart on average. Spikes that are delayed beyond the window are kept and come in a later
    one; `pending` of them are waiting: in the end, those beyond the end of the run.

    How: the shared trains (single), or the mother's spikes that are copied at least once (multiple; of rate
    (1 - (1 - c)^n) r / c), are drawn as one train per column by `RatesToSpikes`, as the own ones are. The trains that
    get a copy lie 1 + G apart, G geometric with success probability c, which takes as many random numbers as there are
    copies, and one. The cost goes with the spikes, not with the trains.

    Random numbers are those of (seed, key, label of the raw column) at the absolute bin number, as in `RatesToSpikes`.
    State: none without jitter; with it, the spikes that wait, so windows must come in order from t = 0. There is no
    refractory period: what keeps spikes of a train apart removes shared ones, and the correlation is no longer c.

    Params: scale_factor, translation_factor, unit, clip (see `Linear`); correlation (0 ... 1, a number or a list of one
    per column), interaction ("single" or "multiple"), jitter_ms (a multiple of the resolution h).
    """

    name = "rates_to_correlated_spikes"
    raw_kind, out_kind = "dense", "spikes"
    defaults: Mapping[str, Any] = {
        **Linear.defaults, "unit": "Hz", "correlation": 0.0, "interaction": "single", "jitter_ms": 0.0,
    }  # fmt: skip

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        correlation = per_column(self.name, "correlation", given["correlation"], raw.labels)
        if (correlation < 0).any() or (correlation > 1).any():
            raise TransformerError(
                f"transformer {self.name}: correlation = {given['correlation']!r}: it must lie between 0 (independent "
                f"trains) and 1 (identical ones)."
            )
        if given["interaction"] not in INTERACTIONS:
            raise TransformerError(
                f"transformer {self.name}: interaction = {given['interaction']!r}: it must be one of "
                f"{', '.join(map(repr, INTERACTIONS))}."
            )
        self._single = given["interaction"] == "single"
        self._jitter_bins = whole_bins(self.name, "jitter_ms", given["jitter_ms"], clock)

        rates = End("dense", "Hz", tuple(raw.labels), (1,) * len(raw.labels))
        self._rate = Linear({key: given[key] for key in Linear.defaults}, raw, rates, clock, seed, key, name=self.name)
        shared = End("spikes", "", rates.labels, rates.sizes)
        self._own = RatesToSpikes({}, rates, out, clock, seed, key, name=self.name)
        self._shared = RatesToSpikes({}, rates, shared, clock, seed, f"{key}/shared", name=self.name)
        self._sizes = np.array(out.sizes, np.int64)
        # log(1 - c), and the probability that a spike of the mother is copied at all; math: the same bits everywhere
        self._log_miss = np.array([math.log1p(-c) if c < 1 else -math.inf for c in correlation])
        self._copied = np.array(
            [-math.expm1(n * miss) if n else 0.0 for n, miss in zip(out.sizes, self._log_miss, strict=True)]
        )
        if self._single:
            self._own_share, self._shared_share = 1.0 - correlation, correlation
        else:
            self._own_share = (correlation == 0).astype(np.float64)
            self._shared_share = np.where(correlation > 0, self._copied / np.where(correlation > 0, correlation, 1), 0)
        copies = self._sizes * correlation  # of a mother's spike, on average
        self._ahead = np.ceil(copies + 3 * np.sqrt(copies * (1 - correlation))).astype(np.int64) + 1

        self._offsets = np.concatenate([[0], np.cumsum(self._sizes)])[:-1].astype(np.int64)
        self._trains = int(self._sizes.sum())
        self._dt_ticks, self._bin_ticks = clock.dt_ticks, clock.resolution_ticks
        self._copy_keys, self._jitter_keys = (
            random.schedule(np.array([random.key_of(seed, name, label) for label in raw.labels]).reshape(-1, 2))
            for name in (f"{key}/copies", f"{key}/jitter")
        )
        self._waiting = np.zeros(0, np.int64)  # time · number of trains + sender
        self._next_step = 0

    counted = 0  # spikes begin here

    @property
    def clipped(self) -> int:
        return self._rate.clipped

    @property
    def pending(self) -> int:
        """Spikes that were drawn and wait for a later window, by the jitter."""
        return len(self._waiting)

    def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> tuple[np.ndarray, np.ndarray]:
        if self._jitter_bins and first_step != self._next_step:
            raise TransformerError(
                f"transformer {self.name}: the window of steps [{first_step}, {end_step}) was given, but the jittered "
                f"spikes stand at step {self._next_step}; windows must come in order."
            )
        self._next_step = end_step
        rates = self._rate(payload, first_step, end_step)
        own = times, columns = np.zeros(0, np.int64), np.zeros(0, np.int32)
        if self._own_share.any():
            own = self._own(rates * self._own_share, first_step, end_step)
        if self._shared_share.any():
            times, columns = self._shared(rates * self._shared_share, first_step, end_step)
        if not len(times) and not len(self._waiting):
            return own
        order = np.concatenate([own[0] * self._trains + own[1], self._copies(times, columns), self._waiting])
        order.sort()  # by time, then by sender
        end = np.searchsorted(order, end_step * self._dt_ticks * self._trains)
        self._waiting = order[end:].copy()
        order = order[:end]
        times = order // self._trains
        return times, (order - times * self._trains).astype(np.int32)

    def _copies(self, times: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """The copies of the shared spikes `times` (n,) of `columns`: time · number of trains + sender, not sorted."""
        n = len(times)
        if not n:
            return self._waiting[:0]
        # a shared spike's own numbers: those of its bin, from the draw that its place among the bin's spikes gives
        new = np.ones(n, bool)
        new[1:] = (times[1:] != times[:-1]) | (columns[1:] != columns[:-1])
        begins = np.flatnonzero(new)
        place = np.arange(n) - np.repeat(begins, np.diff(begins, append=n))
        sizes = self._sizes[columns]
        spikes = (times // self._bin_ticks).astype(np.uint64), columns, place * (sizes // 4 + 1)
        if self._single:
            owner = np.repeat(np.arange(n), sizes)
            trains = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        else:
            owner, trains = self._copied_to(*spikes)
        copies = times[owner]
        if self._jitter_bins:
            words = _words(self._jitter_keys, *spikes, np.bincount(owner, minlength=n))
            delays = (words * np.uint64(self._jitter_bins)) >> np.uint64(32)
            copies += delays.astype(np.int64) * self._bin_ticks
        return copies * self._trains + self._offsets[columns[owner]] + trains

    def _copied_to(self, bins: np.ndarray, columns: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """To which trains the mother's spikes go: (index of the spike, train within its column), sorted."""
        parts = []
        left, at = np.arange(len(bins)), np.full(len(bins), -1)  # spikes that may have copies beyond train `at`
        width = 4 * -(-int(self._ahead[columns].max()) // 4)
        seen = 0  # numbers of each spike
        while len(left):
            column = columns[left]
            sizes = self._sizes[column][:, None]
            words = _words(self._copy_keys, bins[left], column, draws[left] + seen // 4, np.full(len(left), width))
            u = (words.reshape(-1, width) + 0.5) * 2.0**-32
            if not seen:
                u[:, 0] *= self._copied[column]  # the first copy is certain to exist
            gaps = np.minimum(np.floor(np.log1p(-u) / self._log_miss[column][:, None]), sizes).astype(np.int64)
            if not seen:
                np.minimum(gaps[:, :1], sizes - 1, out=gaps[:, :1])  # by rounding only
            gaps += 1
            trains = at[:, None] + np.cumsum(gaps, axis=1)
            row, number = np.nonzero(trains < sizes)
            parts.append((left[row], trains[row, number]))
            going = trains[:, -1] < sizes[:, 0] - 1
            left, at = left[going], trains[going, -1]
            seen += width
        if len(parts) == 1:
            return parts[0]
        owner, train = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.lexsort((train, owner))
        return owner[order], train[order]

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        jitter = f", jitter {abbreviate([given['jitter_ms']])} ms" if given["jitter_ms"] else ""
        return (
            f"n Poisson trains of rate r = {linear_text(given, 'x')}, correlation "
            f"{number(given['correlation'])} ({given['interaction']} interaction){jitter}"
        )


def _words(
    keys: np.ndarray, bins: np.ndarray, columns: np.ndarray, draws: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """`counts[i]` random words for every i, one after the other, flat; `draws[i]` is the first draw of i in its bin."""
    calls = (counts + 3) // 4
    owner = np.repeat(np.arange(len(counts)), calls)
    call = np.arange(len(owner)) - np.repeat(np.cumsum(calls) - calls, calls)
    four = random.philox(bins[owner], (draws[owner] + call).astype(np.uint64), keys[:, :, columns[owner]])
    return np.stack(four, axis=1)[4 * call[:, None] + np.arange(4) < counts[owner][:, None]]
