"""ANNarchy, driven window by window. README.md here has the conventions, the figures and the traps.

ANNarchy's step n is our half-open step ``[n h, (n + 1) h)``: its spikes carry the number n, and are ours as they are.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...bridges.contract import Channel, Edge, split_label
from ...bridges.errors import ExperimentError, LockstepError
from ...bridges.experiment import SpikenetSection
from ...bridges.frame import Payload, Spikes
from ...bridges.grid import Grid
from ..adapter import (
    BuildRequest,
    Connectome,
    Population,
    check_input,
    check_run,
    delay_steps,
    each_population,
    edge_name,
    find_population,
    shown,
    steps_of,
)
from ..network import Network
from . import exchange
from .network import AnnarchyAccess
from .toolchain import check_requirements, import_annarchy, instantiate, seed_distributions

MODELS = {"RATE": "dense", "SPIKES": "spikes", "CURRENT": "dense"}
CURRENT_PARAMETER = "i_offset"  # of ANNarchy's own integrate-and-fire neurons
POTENTIAL = "v"


@dataclass(frozen=True)
class AnnarchyRequest(BuildRequest):
    """What a user's `build` gets; `network`: the ANNarchy Network, time step and seed set, to create and connect in."""

    network: Any


class Annarchy:
    """ANNarchy as a `SpikingSimulator` (see spikenet_side/adapter.py).

    min_delay_ms: the resolution; the numbers never depend on how time is cut. counters: what was given to ANNarchy, per
    channel (spikes, or values of a dense signal), and under "recorded" the spikes that came out.
    """

    name = "annarchy"
    _running: ClassVar[Annarchy | None] = None  # the same model opened twice shares what is global in its C++

    def __init__(self) -> None:
        check_requirements()
        self._annarchy = import_annarchy()
        self.version = importlib.metadata.version("ANNarchy")
        self.populations: tuple[Population, ...] = ()
        self.min_delay_ms = 0.0
        self.counters: dict[str, int] = {"recorded": 0}
        self._network: Any = None
        self._spikes = Spikes.none()

    # ------------------------------------------------------------------------------------------------- set-up

    def open(
        self,
        section: SpikenetSection,
        grid: Grid,
        connectome: Connectome,
        seed: int,
        build: Callable[[AnnarchyRequest], Any],
    ) -> None:
        """Make an ANNarchy Network with resolution and seed, let the user fill it, and compile it or take it from the
        cache.

        `build` returns ``{region: {population: ANNarchy Population}}``. Raises ExperimentError for a result of `build`
        that cannot be used, EnvironmentFailed when the network cannot be compiled.
        """
        from ANNarchy.intern.ConfigManagement import ConfigManager

        self._section, self._grid = section, grid
        self._step_ns, self._dt_steps = steps_of(section, grid)
        if section.threads != 1:
            raise ExperimentError(
                f"threads of {section.name} = {section.threads}: ANNarchy runs with one thread here; its threads wait "
                f"by spinning, and take the cores of the other programs. Leave spikenet.threads out."
            )
        self._step_ticks = self._step_ns // grid.tick_ns
        self._seed, self._now = seed, 0  # TVB steps done
        self.min_delay_ms = section.min_delay or section.resolution

        for earlier in (self, Annarchy._running):
            if earlier is not None:
                earlier.close()
        Annarchy._running = self
        seed_distributions(seed)
        self._network = network = self._annarchy.Network(dt=section.resolution, seed=seed)
        request = AnnarchyRequest(
            connectome.regions, section.params, seed, section.resolution, connectome, network, simulator=self.name
        )
        self._nodes = nodes = self._take(build(request), connectome.regions)
        self._take_devices(request.devices)
        dt_ms, n_threads = (ConfigManager().get(key, network.id) for key in ("dt", "num_threads"))
        if network.compiled or (dt_ms, n_threads) != (section.resolution, 1):
            what = "it has compiled" if network.compiled else f"dt = {dt_ms} ms, num_threads = {n_threads}"
            raise ExperimentError(
                f"{section.build}: the build function has changed the set-up of request.network: {what}. It is set up "
                f"before build is called (dt = {section.resolution} ms, one thread, seed {seed}); create and connect "
                f"populations only."
            )
        precision = str(ConfigManager().get("precision", network.id))
        self._exchange, fields = exchange.make_exchange(network, nodes, precision)
        keys = [population.label for population in self.populations]
        self._fields = {(keys[index], name): (number, where) for number, (index, name, where) in enumerate(fields)}
        self._parameters = {key: node.parameters for key, node in zip(keys, nodes, strict=True)}
        instantiate(network)
        self._cpp: Any = self._exchange.cyInstance
        self._cpp.seed(seed)

    def _take(self, made: Any, regions: tuple[str, ...]) -> list[Any]:
        """Check what `build` returned; the ANNarchy populations in the order of their neurons' numbers."""

        def refuse(found: str) -> ExperimentError:
            return ExperimentError(
                f"{self._section.build}: {found}. It must return a dictionary of the regions "
                f"({', '.join(regions)}), each a dictionary of population names to populations of request.network, as "
                f"in {{{regions[0]!r}: {{'E': request.network.create(100, ANNarchy.IF_cond_exp)}}}}."
            )

        populations: list[Population] = []
        nodes: list[Any] = []
        from ANNarchy.core.Population import Population as AnnarchyPopulation

        for region, name, node in each_population(made, regions, refuse):
            where = f"for population {name!r} of {region}"
            if not isinstance(node, AnnarchyPopulation):
                raise refuse(f"the build function returned {shown(node)} {where}")
            if node.net_id != self._network.id:
                raise refuse(f"the build function returned a population of another network {where}")
            if node.neuron_type.type != "spike":
                raise refuse(f"the build function returned a population without spikes {where}")
            if any(node is other for other in nodes):
                twice = populations[next(i for i, other in enumerate(nodes) if node is other)].label
                raise refuse(f"the same population is returned twice: {twice}, {name}@{region}")
            populations.append(Population(region, name, node.size))
            nodes.append(node)
        self.populations = tuple(populations)
        return nodes

    def _take_devices(self, devices: dict[tuple[str, str, str], Any]) -> None:
        known = {"input": self._network.get_populations(), "output": self._network.get_monitors()}
        for (direction, name, region), device in devices.items():
            if not any(device is each for each in (*known[direction], *known["input"])):
                raise ExperimentError(
                    f"{self._section.build}: {direction} device {name!r} of {region} is {shown(device)}; it must be a "
                    f"Population{' or Monitor' if direction == 'output' else ''} of request.network."
                )
        self._own_devices = devices
        self._channels: tuple[list[Channel], list[Channel]] = ([], [])

    def connect(self, inputs: list[Channel], outputs: list[Channel]) -> None:
        """Tell the exchange population of all edges, and of the potentials that are asked for.

        Raises ExperimentError for an edge or an output that names what is not there, and for delays that cannot be.
        """
        self._inputs: dict[str, int] = {}
        self._channels = inputs, outputs
        self._fed: dict[str, tuple[int, int]] = {channel.name: (0, 0) for channel in inputs}
        self._slot_of = {channel.name: np.repeat(np.arange(len(channel.out.sizes)), channel.out.sizes)
                         for channel in inputs}  # fmt: skip
        self._correlated: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {}
        self.counters |= dict.fromkeys(self._fed, 0)
        for channel in inputs:
            self._add_input(channel)
        self._potential_columns: dict[str, list[int]] = {}
        metered: list[str] = []
        for channel in outputs:
            labels = [find_population(label, self.populations, f"channel {channel.name}").label
                      for label in channel.raw.labels]  # fmt: skip
            if channel.model == "POTENTIAL":
                metered += [label for label in labels if label not in metered]
                self._potential_columns[channel.name] = [metered.index(label) for label in labels]
        for label in metered:
            self._cpp.meter(self._field(label, POTENTIAL, f"the mean potential of population {label}"), self._dt_steps)
        self._n_metered = len(metered)

    def network(self) -> Network:
        """The address book: after `open` populations and devices, after `connect` the proxies, too.

        Proxies are no nodes of ANNarchy: nothing can be read from them but what they are connected to.
        """
        access = AnnarchyAccess(self._annarchy, self._network)
        network = Network(access, self.populations, self._nodes, self._own_devices)
        node_of = {population.label: node for population, node in zip(self.populations, self._nodes, strict=True)}
        inputs, outputs = self._channels
        given: dict[tuple[str, str], tuple[Any, np.ndarray]] = {}
        number = access.n_neurons
        for channel in inputs:
            groups = number + np.arange(len(channel.out.labels))
            number += len(groups)
            for label, group in zip(channel.out.labels, groups, strict=True):
                key = (channel.name, split_label(label)[1])
                given[key] = None, np.append(given[key][1] if key in given else np.zeros(0, np.int64), group)
            for edge in channel.edges:
                label = f"{edge.population}@{edge.region}"
                attribute, weight = self._receptor(channel, edge, label, edge_name(channel, edge))
                source = groups[edge.group : edge.group + 1]
                receptor = attribute if channel.model == "CURRENT" else attribute.removeprefix("g_")
                access.edges.append((source, node_of[label], weight, edge.delay_ms, receptor))
                if channel.model == "CURRENT":
                    access.driven[node_of[label].name, attribute] = channel.name
        nothing = (None, np.zeros(0, np.int64))
        taken = {(channel.name, split_label(label)[1]): nothing for channel in outputs for label in channel.raw.labels}
        network.add_proxies(given, taken)
        return network

    def _add_input(self, channel: Channel) -> None:
        expected = MODELS.get(channel.model)
        if expected != channel.out.kind:
            raise ExperimentError(
                f"channel {channel.name}: model {channel.model} with a signal of kind {channel.out.kind!r}. ANNarchy "
                f"takes " + ", ".join(f"{model} ({kind})" for model, kind in MODELS.items()) + "."
            )  # fmt: skip
        model, decay = getattr(exchange, channel.model), 0.0
        if "correlation" in channel.proxy_params:
            tau_ms = self._correlate(channel)
            model, decay = exchange.CORRELATED, math.exp(-self._section.resolution / tau_ms)
        number = self._cpp.add_input(model, len(channel.out.labels), decay)
        self._inputs[channel.name] = number
        for edge in channel.edges:
            where = edge_name(channel, edge)
            label = find_population(f"{edge.population}@{edge.region}", self.populations, where).label
            attribute, weight = self._receptor(channel, edge, label, where)
            steps = delay_steps(edge.delay_ms, self._section.resolution, where)
            self._cpp.add_edge(number, edge.group, self._field(label, attribute, where), steps, weight)

    def _correlate(self, channel: Channel) -> float:
        """Prepare for correlated trains, as proxy_params ask; their time constant [ms]."""
        correlation, tau_ms = (channel.proxy_params.get(key) for key in ("correlation", "correlation_tau_ms"))
        where = f"channel {channel.name}: proxy_params"
        if channel.model != "RATE":
            raise ExperimentError(f"{where}.correlation: only with model RATE; the channel has {channel.model}.")
        for key, value, most in (("correlation", correlation, 1.0), ("correlation_tau_ms", tau_ms, math.inf)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
                up_to = "" if most == math.inf else f", at most {most:g}"
                raise ExperimentError(f"{where}.{key} = {value!r}: it must be a number greater than 0{up_to}.")
        assert correlation is not None and tau_ms is not None
        trains = int(channel.proxy_params.get("number_of_neurons", 1))
        self._correlated[channel.name] = functools.partial(
            rectified, correlation=float(correlation), tau_ms=float(tau_ms), trains=trains
        )
        return float(tau_ms)

    def _receptor(self, channel: Channel, edge: Edge, label: str, where: str) -> tuple[str, float]:
        """The attribute that an edge adds to, and by how much."""
        receptor, weight = channel.receptor(edge), edge.weight
        if channel.model == "CURRENT":
            name = CURRENT_PARAMETER if receptor == 0 else receptor
            if name not in self._parameters[label] or (label, name) not in self._fields:
                known = [each for each in self._parameters[label] if (label, each) in self._fields]
                raise ExperimentError(
                    f"{where}: the neuron has no parameter {name!r} for a CURRENT. Name the one that is to be raised "
                    f"as proxy_params.receptor_type, one of: {', '.join(known) or 'none; it has no parameters'}."
                )
            return name, weight
        known = [name.removeprefix("g_") for key, name in self._fields if key == label and name.startswith("g_")]
        if receptor == 0:  # as everywhere: a negative weight inhibits
            name, weight = ("inh", -weight) if weight < 0 and "inh" in known else ("exc", weight)
        else:
            name = receptor
        if name not in known:
            raise ExperimentError(
                f"{where}: the neuron has no conductance g_{name} for spikes. Name one as proxy_params.receptor_type, "
                f"one of: {', '.join(known) or 'none; it has no variable g_…'}."
            )
        return f"g_{name}", weight

    def _field(self, label: str, attribute: str, where: str) -> int:
        """The number by which the exchange population knows an attribute of a population's neurons."""
        number, locality = self._fields.get((label, attribute), (-1, ""))
        if number < 0 or (locality == "global" and attribute not in self._parameters[label]):
            known = ", ".join(name for key, name in self._fields if key == label)
            raise ExperimentError(f"{where}: the neuron has no variable {attribute} of its own; it has: {known}.")
        return number

    # ---------------------------------------------------------------------------------------------- the windows

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        """Hand over the input of the window ``[first_step, end_step)``, which has to be the next one that is run.

        RATE: the rate of one presynaptic neuron [Hz], and CURRENT [pA], (n_steps, n_groups): row j acts, `delay_ms`
        later, in the step j of TVB. SPIKES: ticks in the window; one that lies inside a step of ANNarchy acts in that
        step. Raises LockstepError when the payload is not of this window; nothing is then given to ANNarchy.
        """
        check_input(channel, payload, first_step, end_step, self._now, self._fed, self._grid)
        first = first_step * self._dt_steps
        n = (end_step - first_step) * self._dt_steps
        if isinstance(payload, Spikes):
            given = len(payload)
            # all trains of a group reach all its targets with one weight and delay: their number in a step is enough
            groups = len(channel.out.labels)
            slots = (payload.times // self._step_ticks - first) * groups
            slots += self._slot_of[channel.name][payload.senders]
            rows = np.bincount(slots, minlength=n * groups).astype(np.float64)
        else:
            given = payload.size
            rows = payload
            if channel.name in self._correlated:
                rows = np.concatenate(self._correlated[channel.name](payload), axis=1)
            elif channel.model == "RATE":
                rows = payload * float(channel.proxy_params.get("number_of_neurons", 1))
            if self._dt_steps > 1:
                rows = np.repeat(rows, self._dt_steps, axis=0)
        self._cpp.feed(self._inputs[channel.name], first, rows.tobytes())
        self._fed[channel.name] = (first_step, end_step)
        self.counters[channel.name] += given

    def run(self, first_step: int, end_step: int) -> None:
        """Simulate the window ``[first_step, end_step)`` and take the spikes and potentials out of ANNarchy.

        Raises LockstepError when the window is not the next one or an input was not fed: old rates and currents would
        otherwise silently go on.
        """
        check_run("ANNarchy", first_step, end_step, self._now, self._fed)
        if Annarchy._running is not self:
            raise LockstepError("another network of ANNarchy was opened in this process; this one has ended with it.")
        clock = self._network.instance.get_time()
        if clock != first_step * self._dt_steps:
            raise LockstepError(
                f"ANNarchy's clock shows step {clock}, not {first_step * self._dt_steps}: something else has simulated."
            )
        self._now = end_step
        self._cpp.advance((end_step - first_step) * self._dt_steps)
        steps, senders = self._cpp.take_spikes()
        self._spikes = Spikes(np.frombuffer(steps, np.int64) * self._step_ticks, np.frombuffer(senders, np.int32))
        self.counters["recorded"] += len(self._spikes)
        if self._n_metered:
            self._potentials = np.frombuffer(self._cpp.take_potentials()).reshape(-1, self._n_metered)

    def spikes(self) -> Spikes:
        """All spikes of the window just run: ticks and neuron numbers, sorted by time, then by neuron."""
        return self._spikes

    def potential(self, channel: Channel) -> np.ndarray:
        """Mean v of each population of `channel` [mV], (n_steps, n_groups), at the start of each TVB step."""
        return self._potentials[:, self._potential_columns[channel.name]]

    def close(self) -> None:
        """Take the network out of ANNarchy, so that the next one gets its number, and with it what was compiled."""
        from ANNarchy.intern.NetworkManager import NetworkManager

        networks = NetworkManager().get_networks()
        if self._network is not None and networks[-1] is self._network:
            networks.pop()
        self._network = None
        self._spikes = Spikes.none()


# --------------------------------------------------------------------------------------------------- small things


@functools.cache
def _rectified_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For y: mean of max(0, y + N(0, 1)), and that mean by its standard deviation, which grows with y."""
    y = np.concatenate([np.linspace(-8.0, 8.0, 8001), [1e6]])
    density = np.exp(-0.5 * y**2) / math.sqrt(2 * math.pi)
    probability = 0.5 * np.array([math.erfc(-each / math.sqrt(2)) for each in y])
    mean = density + y * probability
    variance = (y**2 + 1) * probability + y * density - mean**2
    variance[-1] = 1.0  # beyond 8 nothing is cut off; the difference of large numbers would say otherwise
    return y, mean, mean / np.sqrt(variance)


def rectified(rates_hz: np.ndarray, correlation: float, tau_ms: float, trains: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [Hz], of `trains` together, of the Gaussian whose rectified values have the mean
    `rates_hz` and the variance ``correlation rates_hz / (2 tau)``.

    A rate that fluctuates so, with an exponential autocorrelation of time constant tau, gives Poisson trains whose
    cross-covariance has the area ``correlation rates_hz`` (R. Brette, Neural Computation 21 (2009) 188-215, section 2).
    """
    y, mean, ratio = _rectified_table()
    wanted = np.sqrt(rates_hz * (2 * tau_ms / 1000.0) / correlation)  # mean by standard deviation
    at = np.interp(wanted, ratio, y)
    sigma = rates_hz / np.interp(at, y, mean)
    return trains * at * sigma, trains * sigma
