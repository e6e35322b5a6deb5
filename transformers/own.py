"""Transformers of the user's own: a function of values, or a class of the form of those here."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from .base import Clock, End, SignalLike, TransformerError
from .linear import Linear

_Spikes = namedtuple("_Spikes", "times senders")
_STEPS = 12  # of the trial, which is cut at _CUTS
_CUTS = (0, 1, 5, _STEPS)


def of_function(reference: str, function: Callable[..., Any]) -> type:
    """The transformer that applies ``function(x, **params)``, x and y arrays (n_steps, n_columns) of float64.

    A row of y may depend on the same row of x only: a window begins and ends anywhere. x has the unit of the sending
    end (spikes come as population rates, in Hz); `unit` in the params says that of y where the receiving end has one
    (a device: Hz, pA), and `clip` allows rates below 0, as for `linear`. All other params are the function's.
    """

    class OfFunction:
        name = reference
        raw_kind, out_kind = "dense", "dense"
        n_voi = 1

        def __init__(
            self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
            initial: float | np.ndarray = 0.0,
        ) -> None:  # fmt: skip
            of_y = {key: params[key] for key in ("unit", "clip") if key in params}
            self._params = {key: value for key, value in params.items() if key not in of_y}
            self._initial = np.broadcast_to(np.asarray(initial, np.float64), (1, len(raw.labels)))
            # what the function returns has no unit but the one that is said
            y = End("dense", "", out.labels, out.sizes)
            self._linear = Linear(of_y if out.unit else {}, y, out, clock, seed, key, name=reference)
            self._columns = len(raw.labels)
            try:
                inspect.signature(function).bind(None, **self._params)
            except TypeError as error:
                raise TransformerError(
                    f"transformer {reference}: {error}. It is called as {_call(function)} with transformer_params = "
                    f"{dict(self._params)}."
                ) from None

        counted = 0

        @property
        def clipped(self) -> int:
            return self._linear.clipped

        def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
            y = function(payload, **self._params)
            if not isinstance(y, np.ndarray) or y.shape != payload.shape or y.dtype != np.float64:
                found = f"{y.dtype} {y.shape}" if isinstance(y, np.ndarray) else repr(y)[:60]
                raise TransformerError(
                    f"transformer {reference}: for an array float64 {payload.shape}, (n_steps, n_columns), it returned "
                    f"{found}; expected an array of the same shape and type."
                )
            return self._linear(y, first_step, end_step)

        def initial(self) -> np.ndarray:
            return self(self._initial.copy(), 0, 1)[0]

        @classmethod
        def describe(cls, params: Mapping[str, Any]) -> str:
            text = (inspect.getdoc(function) or "").split("\n")[0].rstrip(".")
            return f"y = {_call(function)}" + (f": {text}" if text else "")

    return OfFunction


def _call(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__name__', 'function')}{inspect.signature(function)}"


REQUIRED = ("raw_kind", "out_kind", "describe")


def of_class(reference: str, kind: type) -> type:
    """A class of the user's own, when it has what a transformer has. Raises TransformerError saying what it lacks."""
    if missing := [name for name in REQUIRED if not hasattr(kind, name)]:
        raise TransformerError(
            f"transformer {reference}: the class has no {', '.join(missing)}. It needs what transformers/linear.py "
            f"has: raw_kind and out_kind ('dense' or 'spikes'), describe(params), __init__(params, raw, out, clock, "
            f"seed, key, initial), __call__(payload, first_step, end_step), and initial() when what it makes is dense."
        )
    kinds = (kind.raw_kind, kind.out_kind)  # type: ignore[attr-defined]
    if not set(kinds) <= {"dense", "spikes"}:
        raise TransformerError(f"transformer {reference}: raw_kind, out_kind = {kinds}: each is 'dense' or 'spikes'.")
    return kind


def try_out(reference: str, make: Callable[[], Any], raw: SignalLike, out: SignalLike, clock: Clock) -> None:
    """Refuse a transformer of the user's own that gives other numbers the second time, or when time is cut in other
    windows, changes its input, or returns what does not fit. Twelve steps of made-up input show it before the run.

    make: makes it, anew at each call. Raises TransformerError with what was found.
    """

    def refuse(found: str) -> TransformerError:
        return TransformerError(f"transformer {reference}: {found}")

    def run(cuts: tuple[int, ...]) -> list[np.ndarray]:
        transformer, parts = make(), []
        for first, end in pairwise(cuts):
            payload = _window(raw, clock, first, end)
            kept = _parts(payload)
            before = [part.copy() for part in kept]
            result = transformer(payload, first, end)
            if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(before, kept, strict=True)):
                raise refuse("it changes its input, which the recording and others use as well. Work on a copy.")
            _check(result, out, clock, first, end, refuse)
            parts.append(_parts(result))
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    try:
        whole, again, cut = run((0, _STEPS)), run((0, _STEPS)), run(_CUTS)
    except TransformerError:
        raise
    except Exception as error:
        raise refuse(f"{type(error).__name__} on made-up input of {_STEPS} steps: {error}") from error
    if not _same(whole, again):
        raise refuse(
            "the same input gave other numbers the second time. A transformer depends on its input, its parameters "
            "and the seed alone; for random numbers, see tvb_lockstep.transformers.random."
        )
    if not _same(whole, cut):
        raise refuse(
            f"the steps 0 to {_STEPS} at once, and in windows cut at {', '.join(map(str, _CUTS))}, gave other numbers. "
            f"What it needs of earlier steps must be kept from call to call (in a class), and a step must not depend "
            f"on later ones."
        )


def _window(raw: SignalLike, clock: Clock, first: int, end: int) -> Any:
    rng = np.random.default_rng(1)
    if raw.kind == "dense":
        return rng.random((_STEPS, len(raw.labels)))[first:end].copy()
    bins = clock.dt_ticks // clock.resolution_ticks * _STEPS
    times = np.sort(rng.integers(0, bins, 40)) * clock.resolution_ticks
    senders = rng.integers(0, max(1, sum(raw.sizes)), 40).astype(np.int32)
    inside = (times >= first * clock.dt_ticks) & (times < end * clock.dt_ticks)
    return _Spikes(times[inside], senders[inside])


def _parts(payload: Any) -> list[np.ndarray]:
    if isinstance(payload, np.ndarray):
        return [payload]
    return [np.asarray(part) for part in payload]


def _same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def _check(
    result: Any, out: SignalLike, clock: Clock, first: int, end: int, refuse: Callable[[str], TransformerError]
) -> None:
    if out.kind == "dense":
        expected = (end - first, len(out.labels))
        if not isinstance(result, np.ndarray) or result.shape != expected or result.dtype != np.float64:
            found = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
            raise refuse(f"for the steps [{first}, {end}) it returned {found}, expected an array float64 {expected}.")
        return
    if not isinstance(result, tuple) or len(result) != 2:
        raise refuse(f"it returned {type(result).__name__}, expected (times, senders).")
    times, senders = np.asarray(result[0]), np.asarray(result[1])
    t0, t1 = first * clock.dt_ticks, end * clock.dt_ticks
    if times.shape != senders.shape or times.ndim != 1 or times.dtype != np.int64 or senders.dtype != np.int32:
        raise refuse(f"times are {times.dtype} {times.shape} and senders {senders.dtype} {senders.shape}, expected one "
                     f"of each per spike, int64 [ticks] and int32.")  # fmt: skip
    if len(times) and (times[0] < t0 or times[-1] >= t1 or (np.diff(times) < 0).any()):
        raise refuse(f"the spikes of the steps [{first}, {end}) must be sorted and lie in [{t0}, {t1}) ticks, found "
                     f"{times[:5].tolist()} …")  # fmt: skip
    if len(senders) and (senders.min() < 0 or senders.max() >= sum(out.sizes)):
        raise refuse(f"a spike has sender {senders.max()}; there are {sum(out.sizes)}, numbered from 0.")
