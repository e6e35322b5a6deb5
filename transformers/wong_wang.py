"""Spikes to the state (S, R) of a population of the reduced Wong-Wang model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Clock, SignalLike, SpikesLike, TransformerError, abbreviate, per_column, read_params
from .counts import SpikeCounts
from .linear import number
from .low_pass import ExponentialFilter


class WongWangExc:
    """Synaptic gating S and rate R of the excitatory populations of the reduced Wong-Wang model, from their spikes.

    Spikes (`.times` in ticks, `.senders`) -> dense (n_steps, 2 n_groups): the columns are S of every group, then R of
    every group. With r_g(s) = n_g(s) / (N_g dt) the population rate in TVB step s, ``[s dt, (s + 1) dt)``, in Hz,

        dR/dt = (-R + r) / tau_r
        dS/dt = -S / tau_s + (1 - S) · gamma · R

    R is the slides' low-pass filtered population rate; S is the average synaptic gating variable of Deco et al. (2014)
    J Neurosci 34:7886, eq. 5, with R in the place of H(x), the equation of `ReducedWongWangExcInh` in TVB. R in Hz, S
    without a unit, within [0, 1]. gamma in 1 / (ms Hz), as TVB's gamma_e: the 0.641 of the paper belongs to R in kHz.

    R is solved exactly for r constant in each step; row s is its value at the end of step s. S is solved exactly for R
    at its mean over the step, which is correct to second order in dt, and keeps S within [0, 1] whatever dt and R.
    State: S and R, carried from window to window. Before t = 0, R is `initial` [Hz] and S its steady state.

    Params, each one number or a list of one per group: tau_s_ms (over 0), tau_r_ms (0: R = r), gamma (not negative).
    For R alone there is `SpikesToRates` with tau_ms.
    """

    name = "wong_wang_exc"
    raw_kind, out_kind = "spikes", "dense"
    n_voi = 2
    defaults: Mapping[str, Any] = {"tau_s_ms": 100.0, "tau_r_ms": 10.0, "gamma": 0.641 / 1000.0}
    _saturates = True  # by the factor 1 - S

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float | np.ndarray = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        if len(raw.labels) != len(raw.sizes) or len(out.labels) != 2 * len(raw.labels):
            raise TransformerError(
                f"transformer {self.name}: {len(raw.sizes)} groups of neurons come in ({abbreviate(raw.labels)}) but "
                f"{len(out.labels)} columns are to go out ({abbreviate(out.labels)}); there must be two per group: S "
                "of all groups, then R of all groups. Name two voi in the row."
            )
        if out.unit:
            raise TransformerError(
                f"transformer {self.name}: the receiving end takes {out.unit}, but S has no unit and R is in Hz."
            )
        values = {name: per_column(self.name, name, given[name], raw.labels) for name in self.defaults}
        for parameter, value in values.items():
            over = parameter == "tau_s_ms"
            if (value < 0).any() or (over and (value == 0).any()):
                raise TransformerError(
                    f"transformer {self.name}: {parameter} = {given[parameter]!r}: it must "
                    + ("be over 0." if over else "not be negative.")
                )
        self._rate = np.full(len(raw.labels), initial, np.float64)
        if (self._rate < 0).any():
            raise TransformerError(
                f"transformer {self.name}: the initial rate is {self._rate.min():g} Hz; rates cannot be negative."
            )
        self._counts = SpikeCounts(self.name, raw, clock)
        self._dt_ms, self._gamma, self._leak = clock.dt_ms, values["gamma"], 1.0 / values["tau_s_ms"]
        self._filter = ExponentialFilter(self.name, values["tau_r_ms"], clock.dt_ms, self._rate)
        # of an exponential approach, the mean over a step of what is left of the distance at its beginning
        self._left = values["tau_r_ms"] / clock.dt_ms * self._filter.gain
        target, _ = self._approach(self._rate)
        self._gating = np.minimum(target, 1.0)
        self._initial = np.concatenate([self._gating, self._rate])
        self.clipped = 0

    def __call__(self, payload: SpikesLike, first_step: int, end_step: int) -> np.ndarray:
        n_groups = len(self._rate)
        drive = self._counts(payload, first_step, end_step) * self._counts.hz_per_spike
        y = np.empty((len(drive), 2 * n_groups))
        gating, rate = y[:, :n_groups], y[:, n_groups:]
        rate[:] = drive
        before = np.empty_like(drive)
        before[:1] = self._filter.state
        self._filter(rate, first_step, end_step)
        before[1:] = rate[:-1]
        target, speed = self._approach(drive + (before - drive) * self._left)
        kept = _exp_of_minus(speed * self._dt_ms)
        gain = target * (1.0 - kept)
        state = self._gating
        beyond = not self._saturates and target.size and target.max() > 1.0
        for row, keep, more in zip(gating, kept, gain, strict=True):
            state *= keep
            state += more
            if beyond:
                self.clipped += int(np.count_nonzero(state > 1.0))
                np.minimum(state, 1.0, out=state)
            row[:] = state
        return y

    def _approach(self, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What S tends to at a constant rate R [Hz], and how fast [1/ms]: dS/dt = speed · (target - S)."""
        drive = self._gamma * rate
        speed = self._leak + drive
        return drive / speed, speed

    @property
    def counted(self) -> int:
        return self._counts.total

    def initial(self) -> np.ndarray:
        """What goes out for the time before t = 0, (2 n_groups,): S, then R, at rest at the stated initial rate."""
        return self._initial.copy()

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = {key: number(value) for key, value in read_params(cls.name, params, cls.defaults).items()}
        factor = "(1 − S)·" if cls._saturates else ""
        return (
            f"dS/dt = −S / {given['tau_s_ms']} ms + {factor}{given['gamma']}·R; dR/dt = (−R + r) / {given['tau_r_ms']} "
            "ms, r = spikes / (neurons · dt) [Hz]"
        )


class WongWangInh(WongWangExc):
    """Synaptic gating S and rate R of the inhibitory populations of the reduced Wong-Wang model, from their spikes.

    As `WongWangExc`, but for

        dS/dt = -S / tau_s + gamma · R

    (Deco et al. 2014, eq. 6), which has no bound of its own: S is kept at 1 where it would pass it, as TVB's boundary
    of S_i does, and `clipped` counts these steps. With the defaults that needs a steady R over 100 Hz.
    """

    name = "wong_wang_inh"
    defaults: Mapping[str, Any] = {"tau_s_ms": 10.0, "tau_r_ms": 10.0, "gamma": 1.0 / 1000.0}
    _saturates = False

    def _approach(self, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._gamma * rate / self._leak, np.broadcast_to(self._leak, rate.shape)


def _exp_of_minus(x: np.ndarray) -> np.ndarray:
    """exp(-x), x >= 0, by one over the series of exp(x) to x^8: to 3e-6 at x = 1, to rounding below 0.01.

    Always in (0, 1] and falling; only sums and products, which have the same bits on every machine, as numpy's
    vectorised exponential has not.
    """
    series = np.ones_like(x)
    for k in range(8, 0, -1):
        series *= x / k
        series += 1.0
    return 1.0 / series
