"""Numerical functions between the two scales. What each one computes, and how to make one, is in README.md here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from .base import Clock, End, SignalLike, Transformer, TransformerError
from .chain import Chain
from .instantaneous_rates import InstantaneousRates
from .jansen_rit import JansenRitInverse, JansenRitSigmoid
from .linear import Linear
from .low_pass import LowPass
from .own import of_class, of_function, try_out
from .rates_to_correlated_spikes import RatesToCorrelatedSpikes
from .rates_to_spikes import RatesToSpikes
from .spikes_to_rates import SpikesToRates
from .units import is_rate
from .wong_wang import WongWangExc, WongWangInh

__all__ = ["TRANSFORMERS", "Clock", "End", "Transformer", "TransformerError", "default_for", "describe", "is_own",
           "make", "n_voi", "stages"]  # fmt: skip

TRANSFORMERS: dict[str, Any] = {
    "linear": Linear,
    "low_pass": LowPass,
    "rates_to_spikes": RatesToSpikes,
    "rates_to_correlated_spikes": RatesToCorrelatedSpikes,
    "jansen_rit_sigmoid": JansenRitSigmoid,
    "jansen_rit_inverse": JansenRitInverse,
    "spikes_to_rates": SpikesToRates,
    "instantaneous_rates": InstantaneousRates,
    "wong_wang_exc": WongWangExc,
    "wong_wang_inh": WongWangInh,
}

_DEFAULTS = {
    ("tvb_to_spikenet", "RATE"): "linear",
    ("tvb_to_spikenet", "SPIKES"): "rates_to_spikes",
    ("tvb_to_spikenet", "CURRENT"): "linear",
    ("spikenet_to_tvb", "SPIKES"): "spikes_to_rates",
    ("spikenet_to_tvb", "POTENTIAL"): "linear",
}


Names = str | Sequence[str]
Own = Mapping[str, Any]  # functions and classes of the user's own, by the "module:name" that names them


def make(
    names: Names,
    params: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    raw: SignalLike,
    out: SignalLike,
    clock: Clock,
    *,
    seed: int,
    key: str,
    initial: float = 0.0,
    own: Own | None = None,
) -> Transformer[Any, Any]:
    """The transformer of one channel, from the signal `raw` to the signal `out`: one, or several in a chain.

    raw, out: the ends of the channel (`bridges.contract.Signal`, or `End`). names, params: one of each, or as many of
    the one as of the other. seed, key: what random numbers depend on, beside the label of the column; `key` names what
    is sent (direction, voi, population), not the program it goes to. initial: the raw value before t = 0 (a rate in
    `unit`, for spikes). A dense result has `.initial()` for it.

    Raises TransformerError for an unknown name, a parameter, a unit, or ends that do not fit the transformer; and for
    one of the user's own that does not keep the rules, see `own.try_out`.
    """
    names, each = _listed(names), [params] if isinstance(params, Mapping) else list(params)
    kinds = [_find(name, own) for name in names]
    _check_kinds(names, kinds, raw, out)
    made: list[Any] = []
    end = raw
    for i, (name, kind, its) in enumerate(zip(names, kinds, each, strict=True)):
        after = out if i == len(kinds) - 1 else _between(kind, end, out)
        if is_own(name):
            # a rate below 0 is an error in the run, not for made-up input
            free = {"clip": True} if not isinstance((own or {})[name], type) and is_rate(after.unit) else {}
            try_out(name, partial(kind, {**its, **free}, end, after, clock, seed, key, initial), end, after, clock)
        made.append(kind(its, end, after, clock, seed, key, initial))
        if i < len(kinds) - 1:
            initial = made[-1].initial()
        end = after
    return made[0] if len(made) == 1 else Chain(made)


def stages(
    chosen: Names | None, params: Mapping[str, Any], direction: str, model: str, own: Own | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """The transformers of an interface row and the parameters of each; the default ones when it names none.

    chosen: one, or a list of several that follow each other; `params` are then tables by name. Between spikes and the
    values of a transformer that takes or makes dense ones, the default for spikes is put in. direction:
    "tvb_to_spikenet" or "spikenet_to_tvb". Raises TransformerError for an unknown name, or parameters of none.
    """
    default = default_for(direction, model)
    names = [default] if chosen is None else _listed(chosen)
    kinds = [_find(name, own) for name in names]
    if not names or len(set(names)) < len(names):
        raise TransformerError(f"transformer = {names}: name one, or several that differ.")
    many, only = len(names) > 1, names[0]
    if model == "SPIKES":  # its default is what stands between spikes and rates
        if direction == "spikenet_to_tvb" and kinds[0].raw_kind == "dense":
            names = [default, *names]
        if direction == "tvb_to_spikenet" and kinds[-1].out_kind == "dense":
            names = [*names, default]
    if not many:  # they are those of the one that was chosen
        return names, [dict(params) if name == only else {} for name in names]
    for key, its in params.items():
        if key not in names or not isinstance(its, Mapping):
            raise TransformerError(
                f"transformer_params.{key} = {its!r}: with several transformers, each has a table of its own, by name: "
                f"{', '.join(names)}."
            )
    return names, [dict(params.get(name, {})) for name in names]


def n_voi(names: Names, own: Own | None = None) -> int:
    """How many variables of TVB one population has to do with in a row of these transformers."""
    product = 1
    for name in _listed(names):
        product *= getattr(_find(name, own), "n_voi", 1)
    return product


def describe(names: Names, params: Mapping[str, Any] | Sequence[Mapping[str, Any]], own: Own | None = None) -> str:
    """The equations in one line, with the numbers of `params` in them."""
    each = [params] if isinstance(params, Mapping) else params
    return "; then ".join(
        _find(name, own).describe(its) for name, its in zip(_listed(names), each, strict=True)
    )


def is_own(name: str) -> bool:
    """Whether this names a function or class of the user's own."""
    return ":" in name


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def default_for(direction: str, model: str) -> str:
    try:
        return _DEFAULTS[direction, model]
    except KeyError:
        known = ", ".join(f"{d} {m}" for d, m in _DEFAULTS)
        text = f"there is no default transformer for {direction} {model}; there is one for {known}."
        raise TransformerError(text) from None


def _find(name: str, own: Own | None) -> Any:
    if own is not None and name in own:
        found: Callable[..., Any] = own[name]
        return of_class(name, found) if isinstance(found, type) else of_function(name, found)
    if name not in TRANSFORMERS:
        raise TransformerError(
            f"there is no transformer {name!r}; there are {', '.join(TRANSFORMERS)}, and 'module:function' or "
            f"'module:Class' for one of your own."
        )
    return TRANSFORMERS[name]


def _check_kinds(names: list[str], kinds: list[Any], raw: SignalLike, out: SignalLike) -> None:
    """Refuse a chain of which one link does not take what the one before it makes."""
    befores, afters = [raw.kind, *["dense"] * (len(kinds) - 1)], [*["dense"] * (len(kinds) - 1), out.kind]
    for name, kind, before, after in zip(names, kinds, befores, afters, strict=True):
        if (kind.raw_kind, kind.out_kind) != (before, after):
            fitting = [n for n, t in TRANSFORMERS.items() if (t.raw_kind, t.out_kind) == (before, after)]
            raise TransformerError(
                f"transformer {name} makes {kind.out_kind} of {kind.raw_kind} values, but here it goes from {before} "
                f"to {after}. " + (f"Fitting: {', '.join(fitting)}." if fitting else "No transformer does that.")
            )


def _between(kind: Any, end: SignalLike, out: SignalLike) -> End:
    """What is between two transformers of a chain: values without a unit, one column for each label."""
    labels = out.labels if getattr(kind, "n_voi", 1) > 1 else end.labels
    return End("dense", "", tuple(labels), (1,) * len(labels))
