"""A simulator in pure numpy, for tests and benchmarks of the exchange: fixed spikes, or the simplest of neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..bridges.contract import Channel
from ..bridges.experiment import SpikenetSection
from ..bridges.frame import Payload, Spikes
from ..bridges.grid import Grid, to_ns
from .adapter import Connectome, Population, check_input, check_run, delay_steps, edge_name, find_population


@dataclass(frozen=True)
class Neurons:
    """Integrate-and-fire neurons for `Null`, not connected to each other.

    In each step h of the resolution V relaxes to `rest_mV` with `tau_ms`, then rises by I h / C and by the weight [mV]
    of every spike that arrives in the step. At `threshold_mV` the neuron fires in that step, and V is set to rest.
    starts_mV: V of each neuron at t = 0; None: rest.
    """

    size: int
    threshold_mV: float = -55.0  # noqa: N815
    rest_mV: float = -70.0  # noqa: N815
    tau_ms: float = np.inf
    capacitance_pF: float = 100.0  # noqa: N815
    starts_mV: tuple[float, ...] | None = None  # noqa: N815


class Null:
    """Fulfils `SpikingSimulator` in pure numpy.

    Every region has the populations of `sizes`. Neuron i, counted through all populations, fires in step s of the
    resolution when ``(s + i) % period == 0``, whatever the input. The mean potential of group g in TVB step s is
    ``-65 + g - 0.001 s`` mV. With `neurons`, every region has those populations instead, and they answer to the input.
    fed: the last payload of every input channel.
    """

    name = "null"
    version = "1"

    def __init__(
        self, sizes: dict[str, int] | None = None, period: int = 100, neurons: dict[str, Neurons] | None = None
    ) -> None:
        default = {"E": 100, "I": 100} if sizes is None else sizes
        self._sizes = default if neurons is None else {name: each.size for name, each in neurons.items()}
        self._period = period
        self._neurons = neurons
        self.populations: tuple[Population, ...] = ()
        self.counters: dict[str, int] = {"recorded": 0}
        self.fed: dict[str, Payload] = {}

    def open(self, section: SpikenetSection, grid: Grid, connectome: Connectome, seed: int, build: Any = None) -> None:
        """Take the grid and the regions. seed: of the spikes that rates make. `build` is not used."""
        self._grid = grid
        self._seed = seed
        self._resolution_ms = section.resolution
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
        ends = np.cumsum([0, *(population.size for population in self.populations)])
        self._slices = {p.label: slice(ends[i], ends[i + 1]) for i, p in enumerate(self.populations)}
        self._edges: dict[str, list[_Edge]] = {}
        for channel in inputs:
            edges: list[_Edge] = []
            self._edges[channel.name] = edges
            for edge in channel.edges:
                where = edge_name(channel, edge)
                population = find_population(f"{edge.population}@{edge.region}", self.populations, where)
                delay = delay_steps(edge.delay_ms, self._resolution_ms, where)
                if self._neurons is not None:
                    rows = delay + self._grid.window_steps * self._dt_steps
                    draw = np.random.default_rng([self._seed, channel.number, len(edges)])
                    edges.append(_Edge(edge.group, self._slices[population.label], edge.weight, delay,
                                       np.zeros((rows, population.size)), draw))  # fmt: skip
        for channel in outputs:
            for label in channel.raw.labels:
                find_population(label, self.populations, f"channel {channel.name}")
        self._fed = {channel.name: (0, 0) for channel in inputs}
        self.counters |= dict.fromkeys(self._fed, 0)
        if self._neurons is not None:
            self._dynamics = _Dynamics([self._neurons[p.name] for p in self.populations], self._resolution_ms)

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        check_input(channel, payload, first_step, end_step, self._now, self._fed, self._grid)
        self.fed[channel.name] = payload
        self._fed[channel.name] = (first_step, end_step)
        self.counters[channel.name] += len(payload) if isinstance(payload, Spikes) else payload.size
        for edge in self._edges[channel.name]:
            first, n = first_step * self._dt_steps, (end_step - first_step) * self._dt_steps
            rows = (first + edge.delay + np.arange(n)) % len(edge.arriving)
            if isinstance(payload, Spikes):
                group = np.repeat(np.arange(len(channel.out.sizes)), channel.out.sizes)[payload.senders]
                steps = payload.times[group == edge.group] // self._step_ticks - first
                edge.arriving[rows] += np.bincount(steps, minlength=n)[:, None]
            elif channel.model == "RATE":
                spikes_per_hz = channel.proxy_params.get("number_of_neurons", 1) * self._resolution_ms / 1000.0
                expected = np.repeat(payload[:, edge.group], self._dt_steps)[:, None] * spikes_per_hz
                edge.arriving[rows] += edge.draw.poisson(expected, (n, edge.arriving.shape[1]))
            else:
                mv_per_pa = self._resolution_ms / self._dynamics.capacitance_pf[edge.to]
                edge.arriving[rows] += np.repeat(payload[:, edge.group], self._dt_steps)[:, None] * mv_per_pa

    def run(self, first_step: int, end_step: int) -> None:
        check_run("Null", first_step, end_step, self._now, self._fed)
        self._now = end_step
        self._window = (first_step, end_step)
        if self._neurons is not None:
            edges = [edge for edges in self._edges.values() for edge in edges]
            self._dynamics.run(first_step * self._dt_steps, end_step * self._dt_steps, edges)
        self.counters["recorded"] += len(self._fired()[0])

    def spikes(self) -> Spikes:
        ticks, senders = self._fired()
        return Spikes(ticks + self._window[0] * self._grid.dt_ticks, senders.copy())

    def _fired(self) -> tuple[np.ndarray, np.ndarray]:
        """Ticks from the start of the window, and senders."""
        if self._neurons is not None:
            steps, senders = np.nonzero(self._dynamics.fired)
            return steps * self._step_ticks, senders.astype(np.int32)
        # there are only `period` different windows of one length
        first, n = self._window[0] * self._dt_steps, (self._window[1] - self._window[0]) * self._dt_steps
        key = first % self._period, n
        if key not in self._patterns:
            phase = key[0] + np.arange(n)[:, None] + np.arange(self._n_neurons)
            steps, senders = np.nonzero(phase % self._period == 0)
            self._patterns[key] = steps * self._step_ticks, senders.astype(np.int32)
        return self._patterns[key]

    def potential(self, channel: Channel) -> np.ndarray:
        if self._neurons is not None:
            v = self._dynamics.before[:: self._dt_steps]
            return np.stack([v[:, self._slices[label]].mean(axis=1) for label in channel.raw.labels], axis=1)
        return -65.0 + np.arange(len(channel.raw.labels)) - 0.001 * np.arange(*self._window)[:, None]

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class _Edge:
    """A connection from a group to a population, with a ring of what is under way on it: row = step % rows.

    Each edge keeps its own, so that the sum over the edges does not depend on when they were fed, to the last bit.
    """

    group: int
    to: slice
    weight: float
    delay: int
    arriving: np.ndarray  # spikes, or mV: (rows, neurons)
    draw: np.random.Generator


class _Dynamics:
    """The state of all neurons, and what they did in the last window: V before each step, and who fired in it."""

    def __init__(self, populations: list[Neurons], resolution_ms: float) -> None:
        def each(*values: float) -> np.ndarray:
            return np.repeat(values, [p.size for p in populations])

        self._rest = each(*(p.rest_mV for p in populations))
        self._threshold = each(*(p.threshold_mV for p in populations))
        self._decay = np.exp(-resolution_ms / each(*(p.tau_ms for p in populations)))
        self.capacitance_pf = each(*(p.capacitance_pF for p in populations))
        starts = [np.full(p.size, p.rest_mV) if p.starts_mV is None else np.array(p.starts_mV) for p in populations]
        self._v = np.concatenate(starts)
        self.before, self.fired = np.empty((0, len(self._v))), np.empty((0, len(self._v)), bool)

    def run(self, first: int, end: int, edges: list[_Edge]) -> None:
        """Steps ``[first, end)`` of the resolution."""
        gained = np.zeros((end - first, len(self._v)))
        for edge in edges:
            rows = np.arange(first, end) % len(edge.arriving)
            gained[:, edge.to] += edge.weight * edge.arriving[rows]
            edge.arriving[rows] = 0.0
        self.before, self.fired = np.empty_like(gained), np.empty(gained.shape, bool)
        for i, gain in enumerate(gained):
            self.before[i] = self._v
            self._v = self._rest + (self._v - self._rest) * self._decay + gain
            self.fired[i] = self._v >= self._threshold
            self._v[self.fired[i]] = self._rest[self.fired[i]]
