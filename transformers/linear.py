"""y = scale_factor · x + translation_factor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Clock, SignalLike, TransformerError, abbreviate, check_dense, per_column, read_params
from .units import convert, is_rate


class Linear:
    """y_c(s) = scale_factor_c · x_c(s) + translation_factor_c, for every column c and TVB step s.

    Dense (n_steps, n_columns) -> dense of the same shape; step s covers ``[s dt, (s + 1) dt)``. No state. Source:
    the linear case of the slides' transform between mean field and spiking activity, T_MF->SP and T_SP->MF.

    scale_factor, translation_factor: a number, or a list of one per column. unit: where the receiving end has a unit
    (a device: Hz, pA), the unit of y, converted to that one; where only the sending end has one (a membrane potential
    in mV on its way to TVB), the unit of x, to which the values are converted first. Default: the unit of that end.

    clip: a rate below 0 cannot be played by any device, and a model that asks for one is usually scaled wrongly (a
    state variable in mV sent as Hz), so it is an error naming column, step and value. Models whose coupling does go
    negative say ``clip = true``: negative rates become 0, and `clipped` counts them. Only for rates.
    """

    name = "linear"
    raw_kind, out_kind = "dense", "dense"
    defaults: Mapping[str, Any] = {"scale_factor": 1.0, "translation_factor": 0.0, "unit": None, "clip": False}

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float | np.ndarray = 0.0, *, name: str = "linear",
    ) -> None:  # fmt: skip
        given = read_params(name, params, self.defaults)
        if len(raw.labels) != len(out.labels):
            raise TransformerError(
                f"transformer {name}: {len(raw.labels)} columns come in ({abbreviate(raw.labels)}) but "
                f"{len(out.labels)} are to go out ({abbreviate(out.labels)})."
            )
        self.name = name
        self._labels = tuple(raw.labels)
        self._scale = per_column(name, "scale_factor", given["scale_factor"], raw.labels)
        self._translation = per_column(name, "translation_factor", given["translation_factor"], raw.labels)
        self._initial = np.broadcast_to(np.asarray(initial, np.float64), (1, len(raw.labels)))
        self._unit = out.unit
        self._rate = is_rate(out.unit)
        self._clip = given["clip"]
        self.clipped = 0
        self.counted = 0
        if not isinstance(self._clip, bool) or (self._clip and not self._rate):
            raise TransformerError(
                f"transformer {name}: clip = {self._clip!r}: it must be true or false, and true only for rates; "
                f"the values here are in {out.unit or 'no unit'}."
            )
        unit = given["unit"]
        if unit is not None:
            if not isinstance(unit, str) or not (out.unit or raw.unit):
                reason = "it must be a text, like 'Hz'" if out.unit or raw.unit else "neither end has one, leave it out"
                raise TransformerError(f"transformer {name}: unit = {unit!r}: {reason}.")
            try:
                if out.unit:
                    factor = convert(unit, out.unit)
                    self._scale, self._translation = factor * self._scale, factor * self._translation
                else:
                    self._scale = convert(raw.unit, unit) * self._scale
            except TransformerError as error:
                raise TransformerError(f"transformer {name}: {error}") from None

    def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        check_dense(self.name, payload, first_step, end_step, len(self._labels))
        y = payload * self._scale
        y += self._translation
        if self._rate and y.size and y.min() < 0:
            self._negative(y, first_step)
        return y

    def initial(self) -> np.ndarray:
        """What goes out for the time before t = 0, (n_columns,): y of the stated initial value of x."""
        return self(self._initial, 0, 1)[0]

    def _negative(self, y: np.ndarray, first_step: int) -> None:
        if not self._clip:
            step, column = np.argwhere(y < 0)[0]
            raise TransformerError(
                f"transformer {self.name}: the rate of {self._labels[column]} in step {first_step + step} is "
                f"{y[step, column]:g} {self._unit}. Rates cannot be negative: choose scale_factor and "
                "translation_factor so that they are not, or set clip = true to play 0 instead."
            )
        self.clipped += int(np.count_nonzero(y < 0))
        np.maximum(y, 0.0, out=y)

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        return f"y = {linear_text(read_params(cls.name, params, cls.defaults), 'x')}"


def linear_text(given: Mapping[str, Any], x: str) -> str:
    """``0.001·x + 2 [Hz], clipped at 0``, with the numbers given."""
    unit = f" [{given['unit']}]" if given.get("unit") else ""
    clip = ", clipped at 0" if given.get("clip") else ""
    return f"{number(given['scale_factor'])}·{x} + {number(given['translation_factor'])}{unit}{clip}"


def number(value: Any) -> str:
    """``0.5``, or ``(0.5, 2)`` for a list."""
    return f"({abbreviate(value)})" if isinstance(value, list | tuple) else abbreviate([value])
