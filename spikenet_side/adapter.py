"""What a spiking simulator must offer to join a run: few methods, in the field's terms.

An adapter maps its simulator's own conventions to the one of this project: time is counted in ticks, windows are
half-open ``[t0, t1)``, a spike of tick t lies in ``[t, t + resolution)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..bridges.contract import Channel, Edge
from ..bridges.errors import ExperimentError, LockstepError
from ..bridges.experiment import SpikenetSection
from ..bridges.frame import Payload, Spikes
from ..bridges.grid import Grid, to_ns


@dataclass(frozen=True)
class Population:
    """Neurons of one model at one region, in the order in which `spikes` numbers them."""

    region: str
    name: str
    size: int

    @property
    def label(self) -> str:
        return f"{self.name}@{self.region}"


@dataclass(frozen=True)
class Connectome:
    """The part of TVB's connectome among the regions of one spiking program: weights as TVB uses them (row = target),
    delays in ms."""

    regions: tuple[str, ...]
    weights: np.ndarray
    delays_ms: np.ndarray


@dataclass(frozen=True)
class BuildRequest:
    """What a user's `build` function gets: regions, own parameters, seed, connectome; and the simulator is already set
    up (resolution, seed), so that it only creates neurons and connects them.

    simulator: "nest", "annarchy", "netpyne", for functions that make a network in any. devices: what was named, by
    ("input" or "output", name, region).
    """

    regions: tuple[str, ...]
    params: dict[str, Any]
    seed: int
    resolution_ms: float
    connectome: Connectome
    simulator: str = field(default="", kw_only=True)
    devices: dict[tuple[str, str, str], Any] = field(default_factory=dict, kw_only=True)

    def add_input_device(self, name: str, region: str, device: Any) -> None:
        """Name a stimulating device of one's own, to be found as ``network.input_devices[name, region]``.

        device: a NodeCollection of NEST, a Population of ANNarchy, a label of NetPyNE's popParams or stimSourceParams.
        """
        self._add("input", name, region, device)

    def add_output_device(self, name: str, region: str, device: Any) -> None:
        """Name a recording device of one's own, to be found as ``network.output_devices[name, region]``."""
        self._add("output", name, region, device)

    def _add(self, direction: str, name: str, region: str, device: Any) -> None:
        where = f"add_{direction}_device({name!r}, {region!r}, …)"
        if region not in self.regions:
            raise ExperimentError(f"{where}: this program has no region {region!r}; it has {', '.join(self.regions)}.")
        if (direction, name, region) in self.devices:
            raise ExperimentError(f"{where}: there is such a device already; give each a name of its own.")
        self.devices[direction, name, region] = device


class SpikingSimulator(Protocol):
    """One simulator of spiking networks, driven window by window: open, connect, then for each window feed every input
    channel, run, spikes, potential; close at the end. The suite in conformance.py certifies all of it.

    name, version: of the simulator; both sides of a run are told, and its provenance keeps them.
    populations: known after `open`, in the order of their neurons' numbers.
    counters: by input channel what was handed to the simulator so far (spikes, or values of a dense signal), and under
    "recorded" the spikes that came out.
    One that has a method ``network()``, which returns a Network (network.py), can be addressed by `spikenet.prepare`.
    """

    name: str
    version: str
    populations: tuple[Population, ...]
    counters: dict[str, int]

    def open(self, section: SpikenetSection, grid: Grid, connectome: Connectome, seed: int, build: Any) -> None:
        """Set the simulator up (resolution, `seed`: 1 to 2^31 - 1) and make the user's network with
        ``build(BuildRequest(...))``; afterwards `populations` is known.

        Raises ExperimentError when the section asks for what the simulator cannot do, or `build` returned what is not
        a network.
        """

    def connect(self, inputs: list[Channel], outputs: list[Channel]) -> None:
        """Make the proxies (devices) of `inputs` and the recorders that `outputs` ask for. Called once, after open.

        Group g of ``channel.out`` reaches the populations of the edges with that `group`, each with its weight and
        delay; `proxy_params` holds the rest of the interface row. All spikes are recorded, whatever `outputs` holds.
        Raises ExperimentError, naming the edge or the output, when it names a population that is not there
        (`find_population`), a delay that cannot be exact (`delay_steps`) or a model that the simulator does not offer.
        """

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        """Hand over the transformed input of the window that is run next. Exactly what is given acts, or it raises.

        RATE: rate of each of the ``proxy_params["number_of_neurons"]`` Poisson neurons behind a group [Hz], and CURRENT
        [pA], (n_steps, n_groups): row j acts throughout TVB step ``first_step + j``, a delay later. SPIKES: ticks in
        the window, and senders; each spike arrives once, in the step of its tick, a delay later. `check_input` refuses
        the rest with a LockstepError, before anything has reached the simulator; a window given twice is refused, too.
        """

    def run(self, first_step: int, end_step: int) -> None:
        """Advance by the window of TVB steps ``[first_step, end_step)``.

        Raises LockstepError, and does nothing, when that is not the next window or an input of it was not fed.
        """

    def spikes(self) -> Spikes:
        """All spikes of the window just run, of all populations: ticks (int64), and neuron numbers counted through
        `populations` (int32); sorted by time, then by neuron."""

    def potential(self, channel: Channel) -> np.ndarray:
        """Mean membrane potential of the window just run [mV], (n_steps, n_groups), at the start of each TVB step."""

    def close(self) -> None:
        """Let go of everything; also after `open` or `connect` has raised. Another `open` may follow in the process."""


def steps_of(section: SpikenetSection, grid: Grid) -> tuple[int, int]:
    """The simulator's step [ns], and how many of them make one of TVB's. Raises ExperimentError when no whole number
    does, or the step is not one of ticks."""
    step_ns = to_ns(section.resolution, f"resolution of {section.name}")
    dt_ns = grid.dt_ticks * grid.tick_ns
    if dt_ns % step_ns or step_ns % grid.tick_ns:
        raise ExperimentError(
            f"resolution of {section.name} = {section.resolution} ms does not divide TVB's dt = {grid.dt_ms} ms, "
            f"or is not a multiple of the tick of {grid.tick_ms} ms."
        )
    return step_ns, dt_ns // step_ns


def each_population(
    network: Any, regions: tuple[str, ...], refuse: Callable[[str], ExperimentError]
) -> Iterator[tuple[str, str, Any]]:
    """Region, name and what stands for the population, of a ``{region: {name: …}}`` that `build` returned, in the order
    of `regions`. Raises ``refuse(what was found)`` for a dictionary that is not of that form."""
    if not isinstance(network, dict):
        raise refuse(f"the build function returned {shown(network)}")
    if missing := [region for region in regions if region not in network]:
        raise refuse(f"the build function returned nothing for {', '.join(missing)}")
    if unknown := [str(region) for region in network if region not in regions]:
        raise refuse(f"the build function returned regions that are not of this program: {', '.join(unknown)}")
    for region in regions:
        if not isinstance(network[region], dict) or not network[region]:
            raise refuse(f"the build function returned {shown(network[region])} for region {region}")
        for name, made in network[region].items():
            if not isinstance(name, str):
                raise refuse(f"the build function returned {shown(made)} for population {name!r} of {region}")
            yield region, name, made


def shown(value: Any) -> str:
    """A value as messages show it: what it is, and the beginning of what it says."""
    if hasattr(value, "__len__") and len(value) == 0:
        return f"an empty {type(value).__name__}"
    try:
        return f"{type(value).__name__} {str(value)[:60]!r}"
    except Exception:  # a view of one neuron of ANNarchy cannot say what it is
        return type(value).__name__


def check_input(
    channel: Channel, payload: Payload, first_step: int, end_step: int, now: int, fed: dict[str, tuple[int, int]],
    grid: Grid,
) -> None:  # fmt: skip
    """Refuse a payload that is not the whole input of the window ``[first_step, end_step)``, the one after step `now`,
    or that came before. fed: by input channel the window that it was last given, ``(0, 0)`` at first.

    Dense: (n_steps, n_groups) finite values, rates not negative. Spikes: ticks in the window, senders that exist.
    Raises LockstepError with what was expected and what was found.
    """

    def refuse(found: str) -> LockstepError:
        return LockstepError(
            f"channel {channel.name} ({channel.model}), steps [{first_step}, {end_step}): {found}. Nothing of it was "
            f"given to the simulator."
        )

    if first_step != now or end_step <= first_step:
        raise refuse(f"this is not the next window; the simulator stands at step {now}")
    if fed[channel.name] == (first_step, end_step):
        raise refuse("its input for this window came before")
    if isinstance(payload, Spikes) != (channel.out.kind == "spikes"):
        raise refuse(f"expected a payload of kind {channel.out.kind!r}, found {type(payload).__name__}")
    if isinstance(payload, Spikes):
        times, senders = payload
        if not len(times):
            return
        t0, t1 = first_step * grid.dt_ticks, end_step * grid.dt_ticks
        if times.min() < t0 or times.max() >= t1:
            bad = times[(times < t0) | (times >= t1)][0]
            raise refuse(f"a spike at tick {bad} lies outside the window [{t0}, {t1}) ticks")
        if senders.min() < 0 or senders.max() >= channel.out.columns:
            bad = senders[(senders < 0) | (senders >= channel.out.columns)][0]
            raise refuse(f"sender {bad}, expected 0 to {channel.out.columns - 1}")
        return
    if payload.shape != (end_step - first_step, channel.out.columns):
        raise refuse(f"shape {payload.shape}, expected {(end_step - first_step, channel.out.columns)}")
    low = 0.0 if channel.model == "RATE" else np.finfo(np.float64).min
    good = (payload >= low) & (payload < np.inf)  # false for NaN
    if not good.all():
        row, column = np.argwhere(~good)[0]
        raise refuse(
            f"{payload[row, column]} {channel.out.unit} for {channel.out.labels[column]} at step {first_step + row}; "
            f"expected a finite value" + (", not negative" if channel.model == "RATE" else "")
        )


def check_run(simulator: str, first_step: int, end_step: int, now: int, fed: dict[str, tuple[int, int]]) -> None:
    """Refuse to run another window than the next one, or one without all of its input: what was given for an earlier
    window would silently go on. Raises LockstepError."""
    if first_step != now or end_step <= first_step:
        raise LockstepError(f"{simulator} stands at step {now} and cannot run [{first_step}, {end_step}).")
    for name, window in fed.items():
        if window != (first_step, end_step):
            raise LockstepError(f"channel {name}: its input for steps [{first_step}, {end_step}) is missing.")


def find_population(label: str, populations: tuple[Population, ...], where: str) -> Population:
    """The population that `label` ("E@region") names. Raises ExperimentError with all there are, and with `where`."""
    for population in populations:
        if population.label == label:
            return population
    known = ", ".join(population.label for population in populations)
    raise ExperimentError(f"{where}: there is no population {label}. The network has: {known}.")


def edge_name(channel: Channel, edge: Edge) -> str:
    """The edge as messages name it: channel, group, population."""
    return f"channel {channel.name}, edge {channel.out.labels[edge.group]} -> {edge.population}@{edge.region}"


def delay_steps(delay_ms: float, resolution_ms: float, where: str, at_least: int = 1, why: str = "") -> int:
    """The delay of an edge in steps of the resolution, exactly.

    at_least: the shortest that the simulator can do, and `why`. Raises ExperimentError, naming the edge by `where`, for
    a delay that is shorter, not finite, or between two steps.
    """
    steps = delay_ms / resolution_ms
    if not math.isfinite(steps):
        raise ExperimentError(f"{where}: delay = {delay_ms}: it must be a finite time in ms.")
    if steps < at_least - 1e-6:
        raise ExperimentError(
            f"{where}: delay = {delay_ms} ms is too short with a resolution of {resolution_ms} ms: it must be at least "
            f"{at_least * resolution_ms:g} ms ({at_least} x resolution){why}."
        )
    if abs(steps - round(steps)) > 1e-6:
        raise ExperimentError(
            f"{where}: delay = {delay_ms} ms is not a multiple of the resolution of {resolution_ms} ms. Choose for "
            f"example {round(math.floor(steps) * resolution_ms, 9):g} ms."
        )
    return round(steps)
