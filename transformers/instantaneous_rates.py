"""Spikes to instantaneous rates: every spike smoothed with a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .base import Clock, TransformerError, per_column, read_params
from .linear import linear_text, number
from .low_pass import InOrder
from .spikes_to_rates import SpikesToRates

_BLOCK = 32  # steps that are smoothed at a time
_NUMBERS = 65536  # of the matrix that does it, about: what stays in the cache
_PRODUCTS = 200_000  # in one product of matrices: below what would start threads, on cores that belong to others
_MAX_STEPS = 2_000_000  # of a kernel


class Kernel(NamedTuple):
    """cdf: cumulative distribution function of t / sigma. before, after: its support [-before, after], in sigma; None
    where it has no end on both sides, and is cut."""

    cdf: Callable[[float], float]
    before: float | None
    after: float | None


def _triangular(x: float) -> float:
    rest = 1.0 - abs(x) / math.sqrt(6.0)
    return 1.0 - rest * rest / 2.0 if x > 0 else rest * rest / 2.0


def _epanechnikov(x: float) -> float:
    u = x / math.sqrt(5.0)
    return 0.5 + 0.75 * (u - u**3 / 3.0)


def _laplacian(x: float) -> float:
    tail = math.exp(-abs(x) * math.sqrt(2.0)) / 2.0
    return 1.0 - tail if x > 0 else tail


def _alpha(x: float) -> float:
    u = x * math.sqrt(2.0)
    return 1.0 - (1.0 + u) * math.exp(-u)


# The kernels of elephant.kernels, sigma being their standard deviation there. Written out, because the two programs
# must get the same bits from different versions of scipy, and because elephant takes long to import.
KERNELS = {
    "gaussian": Kernel(lambda x: math.erfc(-x / math.sqrt(2.0)) / 2.0, None, None),
    "laplacian": Kernel(_laplacian, None, None),
    "rectangular": Kernel(lambda x: 0.5 + x / math.sqrt(12.0), math.sqrt(3.0), math.sqrt(3.0)),
    "triangular": Kernel(_triangular, math.sqrt(6.0), math.sqrt(6.0)),
    "epanechnikov": Kernel(_epanechnikov, math.sqrt(5.0), math.sqrt(5.0)),
    "exponential": Kernel(lambda x: -math.expm1(-x), 0.0, 14.0),  # beyond lies 1e-6 of it
    "alpha": Kernel(_alpha, 0.0, 12.0),
}


class InstantaneousRates(SpikesToRates):
    """The rate of a population, every spike smoothed with a kernel: elephant's instantaneous rate, as time goes on.

    Spikes (`.times` in ticks, `.senders`) -> dense (n_steps, n_groups). With n_g(s) the number of spikes of the N_g
    neurons of group g in step s, ``[s dt, (s + 1) dt)``, and K the kernel, a probability density,

        k_g(j) = integral of K_g(t - D_g dt) over ``[(j - 1/2) dt, (j + 1/2) dt)``, divided by its sum over j
        z_g(s) = sum over j >= 0 of k_g(j) n_g(s - j) / (N_g dt)                    in `unit`, Hz by default
        y_g(s) = scale_factor_g · z_g(s) + translation_factor_g

    (Dayan & Abbott 2001, Theoretical Neuroscience, ch. 1.2; elephant.statistics.instantaneous_rate with
    center_kernel=False.) A spike counts at the middle of its step, wherever in the step it is. Every spike counts once,
    over all steps: sum over s of z_g(s) N_g dt is the number of spikes.

    TVB cannot know spikes before they come, so a kernel with a part before t = 0 is delayed by that part, D_g steps;
    `delay_ms` says how much: cutoff · sigma for gaussian and laplacian, sqrt(3), sqrt(6), sqrt(5) sigma for
    rectangular, triangular, epanechnikov, none for exponential and alpha.

    State: what the spikes so far add to the steps to come, carried from window to window. It is held in whole numbers
    (k_g(j) to about 1e-12 for a thousand neurons), so that the order of summation does not matter. `initial` [in
    `unit`] is the rate that the groups had before t = 0, at all times.

    Params: kernel, one of `KERNELS`; sigma_ms, its standard deviation, a number, a list of one per group, or "optimal";
    cutoff, in sigma: where gaussian and laplacian are cut off (default 3); scale_factor, translation_factor, unit as in
    `SpikesToRates`.

    sigma_ms = "optimal" (gaussian only): sigma_before_ms until optimal_from_ms, from then on the bandwidth that
    elephant.statistics.optimal_kernel_bandwidth finds for the spikes of each group before optimal_from_ms (Shimazaki &
    Shinomoto 2010, J Comput Neurosci 29:171), rounded to three digits. Each spike keeps the kernel, and the delay, of
    its time. For a rate without structure the optimum is as long as the time looked at, and the delay three times that.
    """

    name = "instantaneous_rates"
    defaults: Mapping[str, Any] = {
        "scale_factor": 1.0, "translation_factor": 0.0, "unit": "Hz", "kernel": "gaussian", "sigma_ms": 10.0,
        "cutoff": 3.0, "optimal_from_ms": 500.0, "sigma_before_ms": 10.0,
    }  # fmt: skip

    def _prepare(
        self, given: Mapping[str, Any], params: Mapping[str, Any], labels: Sequence[str], clock: Clock
    ) -> None:
        self._check(given, params)
        self._labels, self._dt_ms = tuple(labels), clock.dt_ms
        self._kernel = KERNELS[given["kernel"]]
        self._cutoff = float(given["cutoff"])
        optimal = given["sigma_ms"] == "optimal"
        self._switch_step = round(given["optimal_from_ms"] / clock.dt_ms) if optimal else -1
        if optimal:
            import elephant.statistics  # noqa: F401  now, where it takes no time of a window
        self._seen: list[np.ndarray] = []
        # A weighted mean of counts, times this: whole numbers below 2^53, which float64 adds without an error. A neuron
        # has one spike per resolution step, or a few where a simulator allows it.
        per_step = max(self._counts.sizes, default=1) * (clock.dt_ticks // clock.resolution_ticks)
        self._one = 2.0 ** (51 - per_step.bit_length())
        self._future = np.zeros((len(labels), 0))  # row g: what is to come, from step `_next` at index `_at`
        self._at = 0
        self._order = InOrder(self.name, "the smoothing")
        which = "sigma_before_ms" if optimal else "sigma_ms"
        self._set_kernels(per_column(self.name, which, given[which], labels), which)
        # what the spikes before t = 0 still add: at s, the initial rate times the part of the kernel after s
        before = self._initial / self._per_spike
        for columns, matrix, length in self._kernels:
            after = self._one - np.cumsum(matrix[0, :length])
            self._future[columns, :length] = np.rint(np.outer(before[columns], after))

    def _check(self, given: Mapping[str, Any], params: Mapping[str, Any]) -> None:
        kernel, sigma = given["kernel"], given["sigma_ms"]
        if kernel not in KERNELS:
            raise TransformerError(
                f"transformer {self.name}: there is no kernel {kernel!r}; there are {', '.join(KERNELS)}."
            )
        if isinstance(sigma, str) and (sigma != "optimal" or kernel != "gaussian"):
            raise TransformerError(
                f"transformer {self.name}: sigma_ms = {sigma!r}, kernel = {kernel!r}: it must be a number of ms, a "
                "list of one per column, or, for the gaussian kernel, 'optimal'."
            )
        for key, use in (("optimal_from_ms", sigma == "optimal"), ("sigma_before_ms", sigma == "optimal")):
            if key in params and not use:
                raise TransformerError(f"transformer {self.name}: {key} is for sigma_ms = 'optimal'; leave it out.")
        if "cutoff" in params and KERNELS[kernel].after is not None:
            cut = ", ".join(name for name, kind in KERNELS.items() if kind.after is None)
            raise TransformerError(f"transformer {self.name}: cutoff is for the kernels {cut}; leave it out.")
        for key in ("cutoff", "optimal_from_ms"):
            if not per_column(self.name, key, given[key], [self.name])[0] > 0 or isinstance(given[key], list | tuple):
                raise TransformerError(f"transformer {self.name}: {key} = {given[key]!r}: it must be a number over 0.")

    @property
    def delay_ms(self) -> np.ndarray:
        """By how much the rate of each group is late, (n_groups,), in ms: the part of the kernel before t = 0."""
        return self._delay_steps * self._dt_ms

    def _rates(self, counts: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        self._order(first_step, end_step)
        rates = np.empty(counts.shape)
        scale = self._per_spike / self._one
        for begin, end in self._blocks(first_step, end_step):
            if begin == self._switch_step:
                self._set_kernels(self._optimal(), "sigma_ms")
            now = slice(begin - first_step, end - first_step)
            if end <= self._switch_step:
                self._seen.append(counts[now])
            np.multiply(self._smoothed(counts[now].T.astype(np.float64)), scale, out=rates[now])
        return rates

    def _blocks(self, first_step: int, end_step: int) -> Iterator[tuple[int, int]]:
        while first_step < end_step:
            end = min(end_step, first_step + self._block)
            if first_step < self._switch_step < end:
                end = self._switch_step
            yield first_step, end
            first_step = end

    def _smoothed(self, counts: np.ndarray) -> np.ndarray:
        """`counts` (n_groups, n_steps) smoothed, with what came before them: (n_steps, n_groups), in parts of `_one`"""
        n_steps = counts.shape[1]
        if self._at + n_steps + self._longest > self._future.shape[1]:
            self._move(4 * (self._longest + self._block))
        for columns, matrix, length in self._kernels:
            theirs = counts[columns]
            if theirs.any():
                future = self._future[:, self._at : self._at + n_steps + length - 1]
                width = max(1, _PRODUCTS // theirs.size)
                for left in range(0, n_steps + length - 1, width):
                    right = min(left + width, n_steps + length - 1)
                    future[columns, left:right] += theirs @ matrix[:n_steps, left:right]
        self._at += n_steps
        return self._future[:, self._at - n_steps : self._at].T

    def _move(self, size: int) -> None:
        """What is to come goes to the beginning of `_future`, which becomes at least `size` long."""
        rest = self._future[:, self._at :]
        if self._future.shape[1] < size or len(rest) == 0:
            future = np.zeros((len(rest), max(size, rest.shape[1])))
            future[:, : rest.shape[1]] = rest
            self._future = future
        else:
            self._future[:, : rest.shape[1]] = rest.copy()
            self._future[:, rest.shape[1] :] = 0.0
        self._at = 0

    def _set_kernels(self, sigma_ms: np.ndarray, what: str) -> None:
        """For every sigma: the groups that have it, the matrix M[s, t] = k(t - s) · `_one`, and the length of k."""
        if not (sigma_ms > 0).all():
            raise TransformerError(f"transformer {self.name}: {what} = {sigma_ms.min():g}: it must be over 0.")
        self._delay_steps = np.zeros(len(sigma_ms), np.int64)
        kernels: list[tuple[Any, np.ndarray]] = []
        for sigma in dict.fromkeys(sigma_ms.tolist()):
            columns = np.flatnonzero(sigma_ms == sigma)
            k, self._delay_steps[columns] = self._discrete(sigma, what)
            together = len(columns) == columns[-1] + 1 - columns[0]  # a slice of an array is a view of it
            kernels.append((slice(columns[0], columns[-1] + 1) if together else columns, k))
        self._longest = max((len(k) for _, k in kernels), default=1)
        self._block = max(1, min(_BLOCK, _NUMBERS // self._longest))
        self._kernels: list[tuple[Any, np.ndarray, int]] = []
        for columns, k in kernels:
            matrix = np.zeros((self._block, len(k) + self._block - 1))
            for s, row in enumerate(matrix):
                row[s : s + len(k)] = k
            self._kernels.append((columns, matrix, len(k)))
        self._move(4 * (self._longest + self._block))

    def _discrete(self, sigma_ms: float, what: str) -> tuple[np.ndarray, int]:
        """k(j) · `_one`, whole numbers with the sum `_one`, and D."""
        steps = sigma_ms / self._dt_ms  # sigma, in steps
        cdf, before, after = self._kernel
        before = self._cutoff if before is None else before
        after = self._cutoff if after is None else after
        if (before + after) * steps > _MAX_STEPS:
            raise TransformerError(
                f"transformer {self.name}: {what} = {sigma_ms:g}: the kernel would be {(before + after) * steps:.3g} "
                f"steps of TVB's dt = {self._dt_ms:g} ms long, over {_MAX_STEPS}. It is the standard deviation in ms."
            )
        # as many steps as half a step more, on either side, reach the ends of the support
        delay, ahead = (max(0, math.ceil(end * steps - 0.5 - 1e-9)) for end in (before, after))
        edges = (min(max((j - 0.5) / steps, -before), after) for j in range(-delay, ahead + 2))
        mass = np.diff([cdf(edge) for edge in edges])
        k = np.rint(mass * (self._one / mass.sum()))
        k[np.argmax(k)] += self._one - k.sum()
        return k, delay

    def _optimal(self) -> np.ndarray:
        """The bandwidth of each group [ms] that is optimal for its spikes so far (n_groups,)."""
        from elephant.statistics import optimal_kernel_bandwidth

        counts = np.concatenate(self._seen)
        self._seen = []
        middles_ms = (np.arange(len(counts)) + 0.5) * self._dt_ms
        found = []
        for label, n in zip(self._labels, counts.T, strict=True):
            try:
                sigma_ms = optimal_kernel_bandwidth(np.repeat(middles_ms, n))["optw"]
            except ValueError:  # what numpy says of the intervals of too few spikes
                sigma_ms = None
            if sigma_ms is None or not math.isfinite(sigma_ms) or sigma_ms <= 0:
                raise TransformerError(
                    f"transformer {self.name}: there is no optimal bandwidth for the {int(n.sum())} spikes of {label} "
                    f"in the first {self._switch_step * self._dt_ms:g} ms. Give a longer optimal_from_ms, or sigma_ms "
                    "as a number."
                )
            found.append(float(f"{sigma_ms:.3g}"))  # digits that no version of numpy's transforms changes
        return np.array(found)

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        width = f"{number(given['sigma_ms'])} ms"
        if given["sigma_ms"] == "optimal":
            width = f"{number(given['sigma_before_ms'])} ms, optimal from {number(given['optimal_from_ms'])} ms"
        text = linear_text({**given, "unit": None}, "K∗r")
        return f"y = {text}, r = spikes / (neurons · dt) [{given['unit']}], K {given['kernel']}, sigma = {width}"
