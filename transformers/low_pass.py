"""The exponential low-pass filter, and the transformer that is nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Clock, SignalLike, TransformerError, per_column, read_params
from .linear import Linear, linear_text, number


class ExponentialFilter:
    """tau_c dz_c/dt = x_c - z_c, solved exactly for x constant in each step:

        z_c(s) = z_c(s - 1) · exp(-dt/tau_c) + x_c(s) · (1 - exp(-dt/tau_c))

    in place on (n_steps, n_columns); row s becomes the value at the end of step s. tau_ms, initial: (n_columns,);
    where tau_ms is 0, z = x. State: z, so that windows must come in order.
    """

    def __init__(self, name: str, tau_ms: np.ndarray, dt_ms: float, initial: np.ndarray) -> None:
        # math.exp, one by one: the vectorised exponential may differ in the last bit from machine to machine
        self._decay = np.array([math.exp(-dt_ms / tau) if tau > 0 else 0.0 for tau in tau_ms])
        self.gain = np.array([-math.expm1(-dt_ms / tau) if tau > 0 else 1.0 for tau in tau_ms])
        self.state = np.array(initial, np.float64)
        self._order = InOrder(name, "the low-pass filter")

    def __call__(self, x: np.ndarray, first_step: int, end_step: int) -> None:
        self._order(first_step, end_step)
        x *= self.gain
        state = self.state
        for row in x:  # step by step: the same bits however time is cut
            state *= self._decay
            state += row
            row[:] = state


class InOrder:
    """Refuses a window that is not the next one; for what carries a state from window to window."""

    def __init__(self, name: str, what: str) -> None:
        self._name, self._what = name, what
        self._next_step = 0

    def __call__(self, first_step: int, end_step: int) -> None:
        if first_step != self._next_step:
            raise TransformerError(
                f"transformer {self._name}: the window of steps [{first_step}, {end_step}) was given, but {self._what} "
                f"stands at step {self._next_step}; windows must come in order."
            )
        self._next_step = end_step


class LowPass:
    """tau_c dX_c/dt = -X_c + scale_factor_c · x_c + translation_factor_c, for every column c.

    Dense (n_steps, n_columns) -> dense of the same shape. Solved exactly for x constant in each TVB step s,
    ``[s dt, (s + 1) dt)``; row s is X at the end of step s. The slides' linear transform followed by a first-order
    low-pass filter, the "linear integration" of rates, currents and potentials. State: X, carried from window to
    window. Before t = 0 it has settled at what the initial value x0 makes: X = scale_factor · x0 + translation_factor.

    tau_ms: the time constant in ms, over 0; a number, or a list of one per column. scale_factor, translation_factor,
    unit, clip: as in `Linear`; a negative rate is refused, or set to 0, before the filter, so that X is not negative
    either.
    """

    name = "low_pass"
    raw_kind, out_kind = "dense", "dense"
    defaults: Mapping[str, Any] = {**Linear.defaults, "tau_ms": 10.0}

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float | np.ndarray = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        tau_ms = per_column(self.name, "tau_ms", given.pop("tau_ms"), raw.labels)
        if (tau_ms <= 0).any():
            raise TransformerError(
                f"transformer {self.name}: tau_ms = {params['tau_ms']!r}: it must be over 0. Without a filter this is "
                "the transformer linear."
            )
        self._linear = Linear(given, raw, out, clock, seed, key, initial, name=self.name)
        self._initial = self._linear.initial()
        self._filter = ExponentialFilter(self.name, tau_ms, clock.dt_ms, self._initial)
        self.counted = 0

    @property
    def clipped(self) -> int:
        return self._linear.clipped

    def __call__(self, payload: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        y = self._linear(payload, first_step, end_step)
        self._filter(y, first_step, end_step)
        return y

    def initial(self) -> np.ndarray:
        """X before t = 0, (n_columns,)."""
        return self._initial.copy()

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        return f"tau dX/dt = −X + {linear_text(given, 'x')}, tau = {number(given['tau_ms'])} ms"
