"""Spikes to rates: the population rate of every group of neurons, per TVB step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .base import Clock, SignalLike, SpikesLike, TransformerError, abbreviate, per_column, read_params
from .counts import SpikeCounts
from .linear import linear_text
from .low_pass import ExponentialFilter
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
        initial: float | np.ndarray = 0.0,
    ) -> None:  # fmt: skip
        given = read_params(self.name, params, self.defaults)
        if len(raw.labels) != len(raw.sizes) or len(raw.labels) != len(out.labels):
            raise TransformerError(
                f"transformer {self.name}: {len(raw.sizes)} groups of neurons come in ({abbreviate(raw.labels)}) but "
                f"{len(out.labels)} columns are to go out ({abbreviate(out.labels)}); there must be one per group."
            )
        self._counts = SpikeCounts(self.name, raw, clock)
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
        self._per_spike = per_hz * self._counts.hz_per_spike
        self._initial = np.full(len(raw.labels), initial, np.float64)
        self.clipped = 0
        self._prepare(given, params, raw.labels, clock)

    def _prepare(
        self, given: Mapping[str, Any], params: Mapping[str, Any], labels: Sequence[str], clock: Clock
    ) -> None:
        """Read the parameters of the smoothing, and make its state."""
        tau_ms = per_column(self.name, "tau_ms", given["tau_ms"], labels)
        if (tau_ms < 0).any():
            raise TransformerError(f"transformer {self.name}: tau_ms = {given['tau_ms']!r}: it must not be negative.")
        filtered = (tau_ms > 0).any()
        self._filter = ExponentialFilter(self.name, tau_ms, clock.dt_ms, self._initial) if filtered else None

    def __call__(self, payload: SpikesLike, first_step: int, end_step: int) -> np.ndarray:
        y = self._rates(self._counts(payload, first_step, end_step), first_step, end_step)
        y *= self._scale
        y += self._translation
        return y

    def _rates(self, counts: np.ndarray, first_step: int, end_step: int) -> np.ndarray:
        """The smoothed rates z [in `unit`] of `counts`, both (n_steps, n_groups)."""
        rates = counts * self._per_spike
        if self._filter is not None:
            self._filter(rates, first_step, end_step)
        return rates

    @property
    def counted(self) -> int:
        return self._counts.total

    def initial(self) -> np.ndarray:
        """What goes out for the time before t = 0, (n_groups,): y of the stated initial rate."""
        return self._scale * self._initial + self._translation

    @classmethod
    def describe(cls, params: Mapping[str, Any]) -> str:
        given = read_params(cls.name, params, cls.defaults)
        tau = given["tau_ms"]
        filtered = tau if isinstance(tau, list | tuple) else [tau]
        low_pass = f", low-pass tau = {abbreviate(filtered)} ms" if any(filtered) else ""
        text = linear_text({**given, "unit": None}, "r")
        return f"y = {text}, r = spikes / (neurons · dt) [{given['unit']}]{low_pass}"
