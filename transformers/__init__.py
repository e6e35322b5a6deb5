"""Numerical functions between the two scales. What each one computes, and how to make one, is in README.md here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import Clock, End, SignalLike, Transformer, TransformerError
from .linear import Linear
from .rates_to_spikes import RatesToSpikes
from .spikes_to_rates import SpikesToRates

__all__ = ["TRANSFORMERS", "Clock", "End", "Transformer", "TransformerError", "default_for", "describe", "make"]

TRANSFORMERS: dict[str, Any] = {
    "linear": Linear,
    "rates_to_spikes": RatesToSpikes,
    "spikes_to_rates": SpikesToRates,
}

_DEFAULTS = {
    ("tvb_to_spikenet", "RATE"): "linear",
    ("tvb_to_spikenet", "SPIKES"): "rates_to_spikes",
    ("tvb_to_spikenet", "CURRENT"): "linear",
    ("spikenet_to_tvb", "SPIKES"): "spikes_to_rates",
    ("spikenet_to_tvb", "POTENTIAL"): "linear",
}


def make(
    name: str,
    params: Mapping[str, Any],
    raw: SignalLike,
    out: SignalLike,
    clock: Clock,
    *,
    seed: int,
    key: str,
    initial: float = 0.0,
) -> Transformer[Any, Any]:
    """The transformer `name` of one channel: from the signal `raw` to the signal `out`.

    raw, out: the ends of the channel (`bridges.contract.Signal`, or `End`). seed, key: what random numbers depend on,
    beside the label of the column; `key` names what is sent (direction, voi, population), not the program it goes
    to. initial: the raw value before t = 0 (a rate in `unit`, for spikes). A dense result has `.initial()` for it.

    Raises TransformerError for an unknown name, a parameter, a unit, or ends that do not fit the transformer.
    """
    kind = _find(name)
    if (raw.kind, out.kind) != (kind.raw_kind, kind.out_kind):
        fitting = [n for n, t in TRANSFORMERS.items() if (t.raw_kind, t.out_kind) == (raw.kind, out.kind)]
        raise TransformerError(
            f"transformer {name} makes {kind.out_kind} of {kind.raw_kind} values, but the channel goes from {raw.kind} "
            f"to {out.kind}. " + (f"Fitting: {', '.join(fitting)}." if fitting else "No transformer does that.")
        )
    return kind(params, raw, out, clock, seed, key, initial)


def default_for(direction: str, model: str) -> str:
    """The transformer of a row that names none; direction is "tvb_to_spikenet" or "spikenet_to_tvb"."""
    try:
        return _DEFAULTS[direction, model]
    except KeyError:
        known = ", ".join(f"{d} {m}" for d, m in _DEFAULTS)
        text = f"there is no default transformer for {direction} {model}; there is one for {known}."
        raise TransformerError(text) from None


def describe(name: str, params: Mapping[str, Any]) -> str:
    """The transformer's equation in one line, with the numbers of `params` in it."""
    return _find(name).describe(params)


def _find(name: str) -> Any:
    if name not in TRANSFORMERS:
        raise TransformerError(f"there is no transformer {name!r}; there are {', '.join(TRANSFORMERS)}.")
    return TRANSFORMERS[name]
