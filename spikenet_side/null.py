"""A simulator without dynamics: fixed spikes, any input accepted and kept. For tests and benchmarks of the exchange."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..bridges.contract import Channel
from ..bridges.errors import LockstepError
from ..bridges.experiment import SpikenetSection
from ..bridges.frame import Payload, Spikes
from ..bridges.grid import Grid, to_ns
from .adapter import Connectome, Population, check_input, find_population


class Null:
    """Fulfils `SpikingSimulator` in pure numpy.

    Every region has the populations of `sizes`. Neuron i, counted through all populations, fires in step s of the
    resolution when ``(s + i) % period == 0``. The mean potential of group g in TVB step s is ``-65 + g - 0.001 s`` mV.
    fed: the last payload of every input channel.
    """

    name = "null"
    version = "1"

    def __init__(self, sizes: dict[str, int] | None = None, period: int = 100) -> None:
        self._sizes = {"E": 100, "I": 100} if sizes is None else sizes
        self._period = period
        self.populations: tuple[Population, ...] = ()
        self.counters: dict[str, int] = {"recorded": 0}
        self.fed: dict[str, Payload] = {}

    def open(self, section: SpikenetSection, grid: Grid, connectome: Connectome, seed: int, build: Any = None) -> None:
        """Take the grid and the regions; `seed` and `build` are not used."""
        self._grid = grid
        self.min_delay_ms = section.min_delay or section.resolution
        self._step_ticks = to_ns(section.resolution, f"resolution of {section.name}") // grid.tick_ns
        self._dt_steps = grid.dt_ticks // self._step_ticks
        self.populations = tuple(
            Population(region, name, size) for region in connectome.regions for name, size in self._sizes.items()
        )
        self._n_neurons = sum(population.size for population in self.populations)
        self._patterns: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._now = 0
        self._window = (0, 0)

    def connect(self, inputs: list[Channel], outputs: list[Channel]) -> None:
        for channel in inputs:
            for edge in channel.edges:
                find_population(f"{edge.population}@{edge.region}", self.populations, f"channel {channel.name}")
        for channel in outputs:
            for label in channel.raw.labels:
                find_population(label, self.populations, f"channel {channel.name}")
        self._fed = {channel.name: (0, 0) for channel in inputs}
        self.counters |= dict.fromkeys(self._fed, 0)

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        check_input(channel, payload, first_step, end_step, self._now, self._grid)
        self.fed[channel.name] = payload
        self._fed[channel.name] = (first_step, end_step)
        self.counters[channel.name] += len(payload) if isinstance(payload, Spikes) else payload.size

    def run(self, first_step: int, end_step: int) -> None:
        if first_step != self._now or end_step <= first_step:
            raise LockstepError(f"Null stands at step {self._now} and cannot run [{first_step}, {end_step}).")
        for name, fed in self._fed.items():
            if fed != (first_step, end_step):
                raise LockstepError(f"channel {name}: its input for steps [{first_step}, {end_step}) is missing.")
        self._now = end_step
        self._window = (first_step, end_step)
        self.counters["recorded"] += len(self._pattern()[0])

    def spikes(self) -> Spikes:
        ticks, senders = self._pattern()
        return Spikes(ticks + self._window[0] * self._grid.dt_ticks, senders.copy())

    def _pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """Ticks from the start of the window, and senders; there are only `period` different windows of one length."""
        first, n = self._window[0] * self._dt_steps, (self._window[1] - self._window[0]) * self._dt_steps
        key = first % self._period, n
        if key not in self._patterns:
            phase = key[0] + np.arange(n)[:, None] + np.arange(self._n_neurons)
            steps, senders = np.nonzero(phase % self._period == 0)
            self._patterns[key] = steps * self._step_ticks, senders.astype(np.int32)
        return self._patterns[key]

    def potential(self, channel: Channel) -> np.ndarray:
        return -65.0 + np.arange(len(channel.raw.labels)) - 0.001 * np.arange(*self._window)[:, None]

    def close(self) -> None:
        """There is nothing to close."""
