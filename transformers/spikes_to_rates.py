"""Spikes to rates: the population rate of every group of neurons, per TVB step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Clock, SignalLike, SpikesLike, TransformerError, abbreviate, per_column, read_params
from .linear import linear_text
from .units import convert


class SpikesToRates:
    """The rate of a population in every TVB step, optionally low-pass filtered, scaled and translated.

    Spikes (`.times` in ticks, `.senders`) -> dense (n_steps, n_groups). With n_g(s) the number of spikes of the N_g
    neurons of group g in step s, ``[s dt, (s + 1) dt)``,

        r_g(s) = n_g(s) / (N_g dt)                                  in `unit`, Hz by default
        z_g(s) = z_g(s - 1) · exp(-dt/tau) + r_g(s) · (1 - exp(-dt/tau))        z_g(-1) = initial
        y_g(s) = scale_factor_g · z_g(s) + translation_factor_g

    r is the population rate (spike-count rate averaged over neurons; Dayan & Abbott 2001, Theoretical Neuroscience,
    ch. 1.2), the T_SP->MF of the slides. z solves tau dz/dt = r - z exactly for a rate constant in each step; row s is
    its value at the end of step s. tau_ms = 0 (default): no filter, z = r. Every spike counts once:
    sum over s of r_g(s) N_g dt is the number of spikes.

    A neuron's group follows from the raw signal's sizes: the first sizes[0] senders are group 0, and so on. State: z,
    carried from window to window, so windows must come in order. `initial` [in `unit`] is also the rate that the
    groups had before t = 0.

    Params: scale_factor, translation_factor, tau_ms (numbers, or lists of one per group), unit (of r and z; if the
    receiving end has a unit, y is taken to be in `unit` and converted to that one).
    """

    name = "spikes_to_rates"
    raw_kind, out_kind = "spikes", "dense"
    defaults: Mapping[str, Any] = {"scale_factor": 1.0, "translation_factor": 0.0, "tau_ms": 0.0, "unit": "Hz"}

    def __init__(
        self, params: Mapping[str, Any], raw: SignalLike, out: SignalLike, clock: Clock, seed: int, key: str,
        initial: float = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        if len(raw.labels) != len(raw.sizes) or len(raw.labels) != len(out.labels):
            raise TransformerError(
                f"transformer {self.name}: {len(raw.sizes)} groups of neurons come in ({abbreviate(raw.labels)}) but "
                f"{len(out.labels)} columns are to go out ({abbreviate(out.labels)}); there must be one per group."
            )
        if raw.sizes and min(raw.sizes) < 1:
            empty = raw.labels[raw.sizes.index(min(raw.sizes))]
            raise TransformerError(f"transformer {self.name}: {empty} has no neurons; it has no rate.")
        tau_ms = per_column(self.name, "tau_ms", given["tau_ms"], raw.labels)
        if (tau_ms < 0).any():
            raise TransformerError(f"transformer {self.name}: tau_ms = {given['tau_ms']!r}: it must not be negative.")
        self._scale = per_column(self.name, "scale_factor", given["scale_factor"], raw.labels)
        self._translation = per_column(self.name, "translation_factor", given["translation_factor"], raw.labels)
        if not isinstance(given["unit"], str):
            raise TransformerError(f"transformer {self.name}: unit = {given['unit']!r}: it must be a text, like 'Hz'.")
        try:
            per_hz = 1.0 / convert(given["unit"], "Hz")
            if out.unit:
                factor = convert(given["unit"], out.unit)
                self._scale, self._translation = factor * self._scale, factor * self._translation
        except TransformerError as error:
            raise TransformerError(f"transformer {self.name}: {error}") from None
        self._labels = tuple(raw.labels)
        self._dt_ticks = clock.dt_ticks
        self._group_of = np.repeat(np.arange(len(raw.sizes)), raw.sizes)
        self._per_spike = per_hz * 1000.0 / (np.array(raw.sizes, np.float64) * clock.dt_ms)
        # math.exp, one by one: the vectorised exponential may differ in the last bit from machine to machine
        self._decay = np.array([math.exp(-clock.dt_ms / tau) if tau > 0 else 0.0 for tau in tau_ms])
        self._gain = np.array([-math.expm1(-clock.dt_ms / tau) if tau > 0 else 1.0 for tau in tau_ms])
        self._filtered = bool((tau_ms > 0).any())
        self._state = np.full(len(raw.labels), float(initial))
        self._initial = self._state.copy()
        self._next_step = 0
        self.clipped = 0
        self.counted = 0

    def __call__(self, payload: SpikesLike, first_step: int, end_step: int) -> np.ndarray:
        n_steps, n_groups = end_step - first_step, len(self._labels)
        counts = self._counts(payload, first_step, n_steps, n_groups)
        self.counted += int(counts.sum())
        y = counts * self._per_spike
        if self._filtered:
            self._low_pass(y, first_step, end_step)
        y *= self._scale
        y += self._translation
        return y

    def initial(self) -> np.ndarray:
        """What goes out for the time before t = 0, (n_groups,): y of the stated initial rate."""
        return self._scale * self._initial + self._translation

    def _counts(self, payload: SpikesLike, first_step: int, n_steps: int, n_groups: int) -> np.ndarray:
        """Spikes per step and group, (n_steps, n_groups) int64."""
        times, senders = payload.times, payload.senders
        if len(times):
            steps = times // self._dt_ticks - first_step
            if steps.min() < 0 or steps.max() >= n_steps:
                bad = times[(steps < 0) | (steps >= n_steps)][0]
                raise TransformerError(
                    f"transformer {self.name}: a spike at tick {bad} lies outside the window "
                    f"[{first_step * self._dt_ticks}, {(first_step + n_steps) * self._dt_ticks})."
                )
            if senders.min() < 0 or senders.max() >= len(self._group_of):
                bad = senders[(senders < 0) | (senders >= len(self._group_of))][0]
                raise TransformerError(
                    f"transformer {self.name}: a spike of sender {bad}; there are {len(self._group_of)} neurons."
                )
            steps *= n_groups
            steps += self._group_of[senders]
            return np.bincount(steps, minlength=n_steps * n_groups).reshape(n_steps, n_groups)
        return np.zeros((n_steps, n_groups), np.int64)

    def _low_pass(self, rates: np.ndarray, first_step: int, end_step: int) -> None:
        """`rates` (n_steps, n_groups) filtered in place, step by step: the same bits however time is cut."""
        if first_step != self._next_step:
            raise TransformerError(
                f"transformer {self.name}: the window of steps [{first_step}, {end_step}) was given, but the low-pass "
                f"filter stands at step {self._next_step}; windows must come in order."
            )
        rates *= self._gain
        state = self._state
        for row in rates:
            state *= self._decay
            state += row
            row[:] = state
        self._next_step = end_step

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        tau = given["tau_ms"]
        filtered = tau if isinstance(tau, list | tuple) else [tau]
        low_pass = f", low-pass tau = {abbreviate(filtered)} ms" if any(filtered) else ""
        text = linear_text({**given, "unit": None}, "r")
        return f"y = {text}, r = spikes / (neurons · dt) [{given['unit']}]{low_pass}"
