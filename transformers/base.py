"""What a transformer is: a function of the windows of one channel, called in order, the same wherever it runs.

It is made by `transformers.make` and called once per window with the raw payload and the window's first and last
(exclusive) TVB step. Its result must not depend on how time is cut in windows: state is carried from call to call,
random numbers are counter-based (see `random.py`).

Payloads. Dense: an array (n_steps, n_columns) of float64, row s holding TVB step s, ``[s dt, (s + 1) dt)``. Spikes:
`.times` (int64, ticks, sorted; tick t lies in ``[t, t + resolution)``) and `.senders` (int32). What a transformer
returns is dense, or a plain tuple (times, senders).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

Raw = TypeVar("Raw", contravariant=True)
Out = TypeVar("Out", covariant=True)


class TransformerError(ValueError):
    """A parameter, a unit or a value that a transformer cannot use; says which, and what would do."""


class Transformer(Protocol[Raw, Out]):
    """A class has besides: `name`; `raw_kind` and `out_kind`, "dense" or "spikes"; `describe(params)`, its equation in
    a line; and, where one population has to do with several variables of TVB, their number as `n_voi`: on TVB's side
    the columns of all regions for the first variable, then for the second; on the other side one for each region.
    """

    @property
    def clipped(self) -> int: ...  # values that `clip = true` has set to 0 so far
    @property
    def counted(self) -> int: ...  # spikes that went into rates so far

    def __call__(self, payload: Raw, first_step: int, end_step: int) -> Out: ...

    def initial(self) -> np.ndarray:
        """What goes out for the stated value before t = 0; of transformers with a dense result only."""
        ...


class SignalLike(Protocol):
    """One end of a channel, as `bridges.contract.Signal` has it: "dense" or "spikes", the unit of a dense value ("" for
    none), a label per group of columns, and the number of columns in each group (neurons or trains, for spikes)."""

    @property
    def kind(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...


class SpikesLike(Protocol):
    @property
    def times(self) -> np.ndarray: ...
    @property
    def senders(self) -> np.ndarray: ...


@dataclass(frozen=True)
class End:
    """A plain `SignalLike`, for those who have no contract at hand."""

    kind: str
    unit: str
    labels: tuple[str, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Clock:
    """tick_ns: length of a tick [ns], dt_ticks: TVB's dt; resolution_ticks: the spiking program's, a divisor of it"""

    tick_ns: int
    dt_ticks: int
    resolution_ticks: int

    def __post_init__(self) -> None:
        if min(self.tick_ns, self.dt_ticks, self.resolution_ticks) < 1 or self.dt_ticks % self.resolution_ticks:
            raise TransformerError(
                f"TVB's dt = {self.dt_ms:g} ms is not a multiple of the resolution = {self.resolution_ms:g} ms."
            )

    @property
    def dt_ms(self) -> float:
        return self.dt_ticks * self.tick_ns / 1e6

    @property
    def resolution_ms(self) -> float:
        return self.resolution_ticks * self.tick_ns / 1e6


def read_params(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with what is `given`; an unknown key is an error that lists the known ones."""
    for key in given:
        if key not in defaults:
            close = difflib.get_close_matches(key, defaults, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            if key == "number_of_neurons":
                hint = " The number of trains belongs to proxy_params."
            elif key == "correlation_factor":  # tvb-multiscale's word
                hint = " It is `correlation`, of rates_to_correlated_spikes."
            raise TransformerError(
                f"transformer {name}: unknown parameter {key!r} = {given[key]!r}.{hint} It knows {', '.join(defaults)}."
            )
    return {**defaults, **given}


def per_column(name: str, key: str, value: Any, labels: Sequence[str]) -> np.ndarray:
    """`value`, a number (also as a list of one) or a list of one number per column, as an array (n_columns,)."""
    values = value if isinstance(value, list | tuple | np.ndarray) else [value]
    if len(values) == 1:
        values = [values[0]] * len(labels)
    if len(values) != len(labels):
        raise TransformerError(
            f"transformer {name}: {key} has {len(values)} value{'s' * (len(values) != 1)}, but the channel has "
            f"{len(labels)} column{'s' * (len(labels) != 1)} ({abbreviate(labels)}). "
            "Give one number for all, or one per column."
        )
    for item in values:
        if isinstance(item, bool) or not isinstance(item, int | float | np.number) or not math.isfinite(item):
            raise TransformerError(
                f"transformer {name}: {key} = {value!r}: it must be a finite number, or a list of one per column."
            )
    return np.array(values, dtype=np.float64)


def check_dense(name: str, payload: np.ndarray, first_step: int, end_step: int, n_columns: int) -> None:
    if payload.shape != (end_step - first_step, n_columns):
        raise TransformerError(
            f"transformer {name}: a payload of shape {payload.shape} was given for steps [{first_step}, {end_step}) of "
            f"{n_columns} columns; expected {(end_step - first_step, n_columns)}."
        )


def abbreviate(items: Sequence[Any], shown: int = 4) -> str:
    texts = [f"{item:g}" if isinstance(item, int | float) else str(item) for item in items]
    return ", ".join(texts if len(texts) <= shown + 1 else [*texts[:shown], f"… {len(texts)} in all"])
