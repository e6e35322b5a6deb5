"""The sigmoid of Jansen & Rit between mean membrane potential and rate, and its inverse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Clock, SignalLike, TransformerError, abbreviate, check_dense, per_column, read_params
from .linear import number
from .units import convert


class JansenRitSigmoid:
    """The rate of the pyramidal cells of a Jansen-Rit column from its two mean postsynaptic potentials.

    Dense (n_steps, 2 n_columns) -> dense (n_steps, n_columns); two variables of interest per region,
    `voi = ["y1", "y2"]`, come as y1 of all regions, then y2 of all regions, in mV:

        r_c(s) = cmin + (cmax - cmin) / (1 + exp(r (midpoint - (y1_c(s) - y2_c(s)))))

    y1 - y2, excitatory less inhibitory, is the mean membrane potential of the pyramidal cells. Source: Jansen & Rit
    1995 (Biological Cybernetics 73:357-366), Sigm(v) = 2 e0 / (1 + exp(r (v0 - v))) with e0 = 2.5/s, v0 = 6 mV and
    r = 0.56/mV, which the defaults are: cmax = 2 e0 = 0.005/ms = 5 Hz. The parameters are named as in TVB's coupling
    SigmoidalJansenRit, and have its values; with midpoint = 5.52 it is the sigmoid of TVB's model JansenRit
    (cmax = 2 nu_max, midpoint = v0). tvb-multiscale's has r = 1.

    Params: cmin, cmax (in `unit`), midpoint (mV), r (1/mV), numbers or lists of one per outgoing column; unit (of cmin
    and cmax, default "1/ms" as in TVB). What goes out is in the unit of the receiving end, in Hz where that has none.
    No state. `initial` [mV]: one number, or one per incoming column.
    """

    name = "jansen_rit_sigmoid"
    raw_kind, out_kind = "dense", "dense"
    n_voi = 2
    defaults: Mapping[str, Any] = {"cmin": 0.0, "cmax": 0.005, "midpoint": 6.0, "r": 0.56, "unit": "1/ms"}

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float | np.ndarray = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        n = len(out.labels)
        regions = [label.partition("@")[2] for label in raw.labels]
        if len(regions) != 2 * n or regions[:n] != regions[n:]:
            raise TransformerError(
                f"transformer {self.name}: {len(raw.labels)} columns come in ({abbreviate(raw.labels)}) and {n} are to "
                f"go out ({abbreviate(out.labels)}); it needs two variables of interest, y1 and y2 of Jansen-Rit, of "
                f"the same regions in the same order, such as y1@a, y1@b, y2@a, y2@b for @a, @b."
            )
        cmin, cmax, self._midpoint, self._r = (
            per_column(self.name, key, given[key], out.labels) for key in ("cmin", "cmax", "midpoint", "r")
        )
        _refuse_unless(self.name, "cmax", given["cmax"], cmax > cmin, f"be greater than cmin = {given['cmin']!r}")
        _refuse_unless(self.name, "r", given["r"], self._r > 0, "be greater than 0")
        _refuse_unless(self.name, "cmin", given["cmin"], cmin >= 0, "not be negative")
        factor = _convert(self.name, given["unit"], out.unit or "Hz")
        self._minimum, self._range = factor * cmin, factor * (cmax - cmin)
        self._columns = n
        self._initial = np.broadcast_to(np.asarray(initial, np.float64), (2 * n,))
        self.clipped = 0
        self.counted = 0

    def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        n = self._columns
        check_dense(self.name, payload, first_step, end_step, 2 * n)
        y = payload[:, :n] - payload[:, n:]
        np.subtract(self._midpoint, y, out=y)
        y *= self._r
        with np.errstate(over="ignore"):  # far below the midpoint: 1 / inf = 0
            np.exp(y, out=y)
        y += 1.0
        np.divide(self._range, y, out=y)
        y += self._minimum
        return y

    def initial(self) -> np.ndarray:
        """What goes out for the time before t = 0, (n_columns,): the rate for the stated initial potentials."""
        return self(self._initial[None], 0, 1)[0]

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        cmin, cmax, midpoint, r = (number(given[key]) for key in ("cmin", "cmax", "midpoint", "r"))
        return f"y = {cmin} + ({cmax} - {cmin}) / (1 + exp({r}·({midpoint} - (x1 - x2)))) [{given['unit']}]"


class JansenRitInverse:
    """The mean membrane potential for which the sigmoid of Jansen & Rit gives a rate: `jansen_rit_sigmoid` backwards.

    Dense (n_steps, n_columns), rates -> dense of the same shape, potentials in mV:

        v_c(s) = midpoint - ln(cmax / min(max(x_c(s), rate_min), rate_max) - 1) / r

    the solution of x = cmax / (1 + exp(r (midpoint - v))), from Jansen & Rit 1995 (Biological Cybernetics 73:357-366)
    with cmax = 2 e0 = 5 Hz, midpoint = v0 = 6 mV, r = 0.56/mV. A rate of 0 or of cmax has no finite potential, so rates
    below rate_min (default 0.1 Hz: -0.95 mV) and above rate_max (default 4.9 Hz: 12.95 mV, as far above the midpoint)
    give that of rate_min and rate_max, and `clipped` counts them. cmax is the highest rate of the TVB model (2 nu_max
    of TVB's JansenRit); scale the rates of a network that fires at more to it (scale_factor), or choose cmax for it.

    tvb-multiscale has Rmax = 16 Hz in the place of e0, half of the highest rate, but clips at Rmax as well, so its
    potential never exceeds the midpoint; that is cmax = 32, rate_max = 16, rate_min = 0.1 and midpoint = 5.52 here.

    Params: cmax, rate_min, rate_max (in `unit`), midpoint (mV), r (1/mV), numbers or lists of one per column; unit
    ("Hz"; where the sending end has a unit, x is converted from that one). The result is converted from mV where the
    receiving end has a unit. No state. `initial`: a rate, one number or one per column.
    """

    name = "jansen_rit_inverse"
    raw_kind, out_kind = "dense", "dense"
    defaults: Mapping[str, Any] = {
        "cmax": 5.0, "rate_min": 0.1, "rate_max": 4.9, "midpoint": 6.0, "r": 0.56, "unit": "Hz",
    }  # fmt: skip

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float | np.ndarray = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        n = len(raw.labels)
        if n != len(out.labels):
            raise TransformerError(
                f"transformer {self.name}: {n} columns come in ({abbreviate(raw.labels)}) but {len(out.labels)} are to "
                f"go out ({abbreviate(out.labels)})."
            )
        cmax, low, high, self._midpoint, self._r = (
            per_column(self.name, key, given[key], raw.labels)
            for key in ("cmax", "rate_min", "rate_max", "midpoint", "r")
        )
        _refuse_unless(self.name, "rate_min", given["rate_min"], low > 0, "be greater than 0")
        _refuse_unless(
            self.name, "rate_max", given["rate_max"], high >= low, f"not be less than rate_min = {given['rate_min']!r}"
        )
        _refuse_unless(self.name, "rate_max", given["rate_max"], high < cmax, f"be less than cmax = {given['cmax']!r}")
        _refuse_unless(self.name, "r", given["r"], self._r > 0, "be greater than 0")
        _convert(self.name, given["unit"], "Hz")
        self._per_raw = _convert(self.name, raw.unit or given["unit"], given["unit"])
        self._per_mv = _convert(self.name, "mV", out.unit or "mV")
        self._cmax, self._low, self._high = cmax, low, high
        self._initial = np.broadcast_to(np.asarray(initial, np.float64), (n,))
        self.clipped = 0
        self.counted = 0

    def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        check_dense(self.name, payload, first_step, end_step, len(self._cmax))
        rates = payload * self._per_raw
        self.clipped += int(np.count_nonzero(rates < self._low) + np.count_nonzero(rates > self._high))
        return self._potential(rates)

    def initial(self) -> np.ndarray:
        """What goes out for the time before t = 0, (n_columns,): the potential for the stated initial rate."""
        return self._potential(self._initial * self._per_raw)

    def _potential(self, rates: np.ndarray) -> np.ndarray:
        y = np.clip(rates, self._low, self._high)
        np.divide(self._cmax, y, out=y)
        y -= 1.0
        np.log(y, out=y)
        y /= self._r
        np.subtract(self._midpoint, y, out=y)
        y *= self._per_mv
        return y

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        cmax, low, high, midpoint, r = (number(given[key]) for key in ("cmax", "rate_min", "rate_max", "midpoint", "r"))
        return f"y = {midpoint} - ln({cmax} / x - 1) / {r} [mV], x within {low} ... {high} {given['unit']}"


def _convert(name: str, unit: Any, to: str) -> float:
    try:
        if not isinstance(unit, str):
            raise TransformerError(f"unit = {unit!r}: it must be a text, like 'Hz'.")
        return convert(unit, to)
    except TransformerError as error:
        raise TransformerError(f"transformer {name}: {error}") from None


def _refuse_unless(name: str, key: str, value: Any, good: np.ndarray, must: str) -> None:
    if not good.all():
        raise TransformerError(f"transformer {name}: {key} = {value!r}: it must {must}.")
