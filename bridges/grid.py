"""Integer time: everything between the programs is counted in ticks, every interval is half-open ``[t0, t1)``.

A tick is the greatest common divisor of TVB's dt and of the spiking programs' resolutions. Floats appear only
at the edge of a simulator, and in what people read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from .errors import ExperimentError

NS_PER_MS = 1_000_000
MAX_STEPS = 10**9  # of TVB in a run; 28 hours of biological time at 0.1 ms


def to_ns(value_ms: float, what: str) -> int:
    """`value_ms` as a whole number of nanoseconds, by its decimal value (0.1 ms is 100000 ns exactly).

    Raises ExperimentError when it is not positive, not finite or finer than a nanosecond.
    """
    if not math.isfinite(value_ms) or value_ms <= 0:
        raise ExperimentError(f"{what} = {value_ms} ms: it must be a positive, finite time in ms.")
    ns = Fraction(str(float(value_ms))) * NS_PER_MS
    if ns.denominator != 1:
        raise ExperimentError(f"{what} = {value_ms} ms: it must be a whole number of nanoseconds.")
    return int(ns)


@dataclass(frozen=True)
class Grid:
    """The time of one run.

    tick_ns: length of a tick [ns]. dt_ticks: TVB's integration step [ticks]. window_steps: TVB steps in a window.
    n_steps: TVB steps of the run; the last window is shorter when `window_steps` does not divide them.
    """

    tick_ns: int
    dt_ticks: int
    window_steps: int
    n_steps: int

    @classmethod
    def of(cls, dt_ms: float, resolutions_ms: dict[str, float], duration_ms: float, window_steps: int = 1) -> Grid:
        """The grid for TVB's `dt_ms` and the spiking programs' resolutions, by program name.

        Raises ExperimentError when dt is not a multiple of a resolution, or the duration not of dt or without end.
        """
        dt_ns = to_ns(dt_ms, "tvb.dt")
        tick_ns = dt_ns
        for program, resolution_ms in resolutions_ms.items():
            ns = to_ns(resolution_ms, f"resolution of {program}")
            if dt_ns % ns:
                raise ExperimentError(
                    f"TVB's dt = {dt_ms} ms is not a multiple of the resolution of {program} = {resolution_ms} ms. "
                    f"Choose a resolution that divides dt, for example {dt_ms} or {dt_ms / 2:g}."
                )
            tick_ns = math.gcd(tick_ns, ns)
        duration_ns = to_ns(duration_ms, "duration")
        if duration_ns % dt_ns:
            raise ExperimentError(
                f"duration = {duration_ms} ms is not a multiple of TVB's dt = {dt_ms} ms. The nearest that is: "
                f"{round(duration_ns / dt_ns) * dt_ns / NS_PER_MS:g}."
            )
        n_steps = duration_ns // dt_ns
        if n_steps > MAX_STEPS:
            raise ExperimentError(
                f"duration = {duration_ms:g} ms is {n_steps:.3g} steps of TVB's dt = {dt_ms} ms, and a run has at most "
                f"{MAX_STEPS:g}: choose a duration up to {MAX_STEPS * dt_ms:g} ms."
            )
        return cls(tick_ns, dt_ns // tick_ns, window_steps, n_steps)

    @property
    def tick_ms(self) -> float:
        return self.tick_ns / NS_PER_MS

    @property
    def dt_ms(self) -> float:
        return self.dt_ticks * self.tick_ns / NS_PER_MS

    @property
    def window_ms(self) -> float:
        return self.window_steps * self.dt_ms

    @property
    def duration_ms(self) -> float:
        return self.n_steps * self.dt_ticks * self.tick_ns / NS_PER_MS

    @property
    def n_windows(self) -> int:
        return -(-self.n_steps // self.window_steps)

    def steps(self, k: int) -> tuple[int, int]:
        """First TVB step and end (exclusive) of window `k`: step s covers ``[s dt, (s+1) dt)``."""
        return k * self.window_steps, min((k + 1) * self.window_steps, self.n_steps)

    def ticks(self, k: int) -> tuple[int, int]:
        """``[t0, t1)`` of window `k` in ticks."""
        first, end = self.steps(k)
        return first * self.dt_ticks, end * self.dt_ticks

    def ms(self, ticks: int) -> float:
        """Ticks as ms: the float nearest to the exact decimal value."""
        return ticks * self.tick_ns / NS_PER_MS

    def describe(self, k: int) -> str:
        t0, t1 = self.ticks(k)
        return f"window {k} [{self.ms(t0):g}, {self.ms(t1):g}) ms"
