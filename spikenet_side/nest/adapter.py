"""NEST, driven window by window. README.md here has the conventions, the figures and the traps.

NEST's step ``(t, t + h]`` is stamped with its end; it is our half-open step ``[t, t + h)``. So a spike that NEST stamps
``t_ms`` has the step number ``round(t_ms / h) - 1``, and a spike of step n is given to NEST as ``(n + 1) h``.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from ...bridges.contract import Channel, split_label
from ...bridges.errors import ExperimentError, LockstepError
from ...bridges.experiment import SpikenetSection
from ...bridges.frame import Payload, Spikes
from ...bridges.grid import NS_PER_MS, Grid
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
from .network import NestAccess

MODELS = {"RATE": "dense", "SPIKES": "spikes", "CURRENT": "dense"}
DEVICES = {
    "RATE": "inhomogeneous_poisson_generator",
    "SPIKES": "spike_generator",
    "CURRENT": "step_current_generator",
}
NEST_TIC_NS = 1000  # NEST counts time in tics of a microsecond; a resolution is a multiple of it
CLOCK_CHECK = 1000  # windows between two looks at NEST's own clock (a look costs 70 µs)

_home_thread: int | None = None  # NEST crashes when it is used from another thread than the one that imported it


def import_nest() -> ModuleType:
    """The `nest` module, imported without its banner and without side effects on this process.

    NEST's init reads sys.argv and leaves every later library to be loaded with RTLD_GLOBAL: neither is wanted here.
    """
    global _home_thread
    if _home_thread is None:
        # somebody's own `import nest` came first: by every likelihood in the main thread
        imported = "nest" in sys.modules
        _home_thread = threading.main_thread().ident if imported else threading.get_ident()
    if threading.get_ident() != _home_thread:
        raise LockstepError(
            "NEST was imported in another thread of this process, and crashes when it is used from this one. "
            "Import and run NEST in one thread, or give it a process of its own (exchange.transport = 'shm')."
        )
    # with the default, idle OpenMP threads spin and take the cores from the other program
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet, argv, flags = os.environ.get("PYNEST_QUIET"), sys.argv, sys.getdlopenflags()
    os.environ["PYNEST_QUIET"] = "1"
    sys.argv = sys.argv[:1] or [""]
    try:
        import nest
    finally:
        sys.argv = argv
        sys.setdlopenflags(flags)
        if quiet is None:
            del os.environ["PYNEST_QUIET"]
    return nest


class Nest:
    """NEST as a `SpikingSimulator` (see spikenet_side/adapter.py).

    min_delay_ms: NEST's communication slice, known after `connect`. It divides every window, so that the numbers do not
    depend on how time is cut. counters: what was given to NEST, per channel (spikes, or values of a dense signal), and
    under "recorded" the spikes that came out.
    """

    name = "nest"
    # The shortest delay of an edge, in steps of the resolution. A current generator acts two steps after its time.
    min_edge_steps = {"RATE": 1, "SPIKES": 1, "CURRENT": 2}  # noqa: RUF012

    def __init__(self) -> None:
        self._nest: Any = import_nest()
        self._api = self._nest.ll_api.nestkernel
        self.version: str = self._nest.__version__
        self.populations: tuple[Population, ...] = ()
        self.min_delay_ms = 0.0
        self.counters: dict[str, int] = {"recorded": 0}
        self._spikes = Spikes.none()

    # ------------------------------------------------------------------------------------------------- set-up

    def open(
        self,
        section: SpikenetSection,
        grid: Grid,
        connectome: Connectome,
        seed: int,
        build: Callable[[BuildRequest], Any],
    ) -> None:
        """Reset NEST's kernel, set resolution, seed and threads, and make the user's network.

        `build` returns ``{region: {population: NodeCollection}}``. `seed` is NEST's rng_seed: 1 to 2^32 - 1.
        Raises ExperimentError for a result of `build` that cannot be used.
        """
        nest = self._nest
        self._section, self._grid = section, grid
        self._step_ns, self._dt_steps = steps_of(section, grid)
        if self._step_ns % NEST_TIC_NS:
            raise ExperimentError(
                f"resolution of {section.name} = {section.resolution} ms: NEST counts time in microseconds; choose a "
                f"multiple of 0.001 ms."
            )
        if not 1 <= seed < 2**32:
            raise ExperimentError(f"seed of {section.name} = {seed}: NEST takes 1 to {2**32 - 1}.")
        self._step_ticks = self._step_ns // grid.tick_ns
        self._now = 0  # TVB steps done
        self._windows = 0

        kernel = {
            "resolution": section.resolution,
            "rng_seed": seed,
            "local_num_threads": section.threads,
        }
        nest.ResetKernel()
        nest.verbosity = nest.VerbosityLevel.ERROR
        nest.set(**kernel)
        request = BuildRequest(
            connectome.regions, section.params, seed, section.resolution, connectome, simulator=self.name
        )
        self._take(build(request), connectome.regions)
        self._take_devices(request.devices)
        status = nest.GetKernelStatus()
        changed = {key: status[key] for key, value in kernel.items() if status[key] != value}
        if changed or status["biological_time"] != 0:
            raise ExperimentError(
                f"{section.build}: the build function has changed NEST's kernel: {changed or 'it has simulated'}. "
                f"It is set up before build is called ({kernel}); create and connect nodes only."
            )

    def _take(self, network: Any, regions: tuple[str, ...]) -> None:
        """Check what `build` returned, and number the neurons through the populations."""

        def refuse(found: str) -> ExperimentError:
            return ExperimentError(
                f"{self._section.build}: {found}. It must return a dictionary of the regions "
                f"({', '.join(regions)}), each a dictionary of population names to non-empty NodeCollections, as in "
                f"{{{regions[0]!r}: {{'E': nest.Create('iaf_cond_exp', 100)}}}}."
            )

        populations, ids = [], []
        self._nodes: dict[tuple[str, str], Any] = {}
        for region, name, nodes in each_population(network, regions, refuse):
            if not isinstance(nodes, self._nest.NodeCollection) or len(nodes) == 0:
                raise refuse(f"the build function returned {shown(nodes)} for population {name!r} of {region}")
            populations.append(Population(region, name, len(nodes)))
            ids.append(np.asarray(nodes.tolist(), np.int64))
            self._nodes[region, name] = nodes
        self.populations = tuple(populations)
        self._ids = dict(zip(self._nodes, ids, strict=True))
        every = np.concatenate(ids)
        self._n_neurons = len(every)
        self._number = np.full(every.max() + 1, -1, np.int64)  # NEST's node id -> number of the neuron
        self._number[every] = np.arange(len(every))
        if len(np.unique(every)) < len(every):
            twice = np.flatnonzero(np.bincount(every) > 1)
            owners = [f"{name}@{region}" for (region, name), own in self._ids.items() if twice[0] in own]
            raise refuse(f"node {twice[0]} is in more than one population: {', '.join(owners)}")

    def _take_devices(self, devices: dict[tuple[str, str, str], Any]) -> None:
        for (direction, name, region), device in devices.items():
            if not isinstance(device, self._nest.NodeCollection) or len(device) == 0:
                raise ExperimentError(
                    f"{self._section.build}: {direction} device {name!r} of {region} is {shown(device)}; it must be a "
                    f"non-empty NodeCollection, as nest.Create returns it."
                )
        self._own_devices = devices
        self._outputs: list[Channel] = []
        self._inputs: list[Channel] = []
        self._devices: dict[str, list[Any]] = {}
        self._recorder: Any = None
        self._multimeter: Any = None

    def connect(self, inputs: list[Channel], outputs: list[Channel]) -> None:
        """Make one generator per group of every input channel, one recorder for all spikes, one multimeter for all
        potentials, and fix NEST's min_delay.

        Raises ExperimentError for an edge or an output that names what is not there, and for delays that cannot be.
        """
        nest = self._nest
        self._devices = {channel.name: [self._device(channel, group) for group in range(len(channel.out.labels))]
                         for channel in inputs}  # fmt: skip
        self._slot_of = {channel.name: np.repeat(np.arange(len(channel.out.sizes)), channel.out.sizes)
                          for channel in inputs}  # fmt: skip
        self._inputs, self._outputs = inputs, outputs
        self._fed: dict[str, tuple[int, int]] = {channel.name: (0, 0) for channel in inputs}
        self.counters |= dict.fromkeys(self._devices, 0)

        wanted: dict[str, list[tuple[str, str]]] = {}
        for channel in outputs:
            keys = [self._population(label, f"channel {channel.name}") for label in channel.raw.labels]
            if channel.model == "POTENTIAL":
                wanted[channel.name] = keys
        metered = [key for key in self._nodes if any(key in keys for keys in wanted.values())]
        ends = np.cumsum([0, *(len(self._ids[key]) for key in metered)])
        columns = {key: slice(ends[i], ends[i + 1]) for i, key in enumerate(metered)}
        self._potential_columns = {name: [columns[key] for key in keys] for name, keys in wanted.items()}

        min_delay_steps = self._choose_min_delay(bool(metered))
        self.min_delay_ms = self._ms(min_delay_steps)
        # In ms the recorder subtracts a spike's offset within its step: neurons with precise times would be put into
        # the step before, and to iaf_bw_2001 the offset is something else altogether.
        self._recorder = nest.Create("spike_recorder", params={"time_in_steps": True})
        # NEST takes the smallest delay of all connections as its min_delay. The recorder's delay does not change what
        # it records, so it is the place to say it.
        for (region, name), nodes in self._nodes.items():
            self._connect(nodes, self._recorder, f"population {name}@{region} to the spike recorder",
                          delay=self.min_delay_ms)  # fmt: skip
        self._multimeter = None
        if metered:
            self._multimeter = nest.Create("multimeter", params={"record_from": ["V_m"], "interval": self._grid.dt_ms})
            for key in metered:
                self._connect(self._multimeter, self._nodes[key], f"the multimeter to population {key[1]}@{key[0]} "
                              f"for its mean V_m", delay=self.min_delay_ms)  # fmt: skip
            self._metered = np.concatenate([self._ids[key] for key in metered])
            self._metered_keys = metered
        if round(nest.min_delay * NS_PER_MS) != min_delay_steps * self._step_ns:
            raise ExperimentError(
                f"{self._section.build}: NEST's min_delay is {nest.min_delay} ms although {self.min_delay_ms:g} ms was "
                f"asked for. Do not set min_delay in the build function; use spikenet.min_delay."
            )

    def network(self) -> Network:
        """The address book: after `open` populations and devices, after `connect` the proxies, too."""
        access = NestAccess(self._nest)
        network = Network(access, self.populations, self._nodes.values(), self._own_devices)
        given: dict[tuple[str, str], tuple[Any, np.ndarray]] = {}
        for channel in self._inputs:
            for label, device in zip(channel.out.labels, self._devices[channel.name], strict=True):
                key = (channel.name, split_label(label)[1])
                both = given[key][0] + device if key in given else device
                given[key] = both, access.ids(both)
        taken: dict[tuple[str, str], tuple[Any, np.ndarray]] = {}
        for channel in self._outputs:
            recorder = self._multimeter if channel.model == "POTENTIAL" else self._recorder
            for label in channel.raw.labels:
                taken[channel.name, split_label(label)[1]] = recorder, access.ids(recorder)
        network.add_proxies(given, taken)
        own = [access.ids(each) for each in (self._recorder, self._multimeter) if each is not None]
        access.hidden = np.concatenate([np.zeros(0, np.int64), *own])
        return network

    def _device(self, channel: Channel, group: int) -> Any:
        """The generator of one group, connected along the group's edges."""
        expected = MODELS.get(channel.model)
        if expected != channel.out.kind:
            raise ExperimentError(
                f"channel {channel.name}: model {channel.model} with a signal of kind {channel.out.kind!r}. NEST takes "
                + ", ".join(f"{model} ({kind})" for model, kind in MODELS.items()) + "."
            )  # fmt: skip
        # by default a stimulating device is not active in the very first step of a run
        device = self._nest.Create(DEVICES[channel.model], params={"start": -math.inf})
        for edge in channel.edges:
            if edge.group != group:
                continue
            where = edge_name(channel, edge)
            key = self._population(f"{edge.population}@{edge.region}", where)
            at_least = self.min_edge_steps[channel.model]
            why = ", since a current generator of NEST acts two steps after its time" if at_least > 1 else ""
            steps = delay_steps(edge.delay_ms, self._section.resolution, where, at_least, why)
            if channel.model == "CURRENT":
                steps -= 1  # the generator's own latency
            self._connect(device, self._nodes[key], where, weight=float(edge.weight), delay=self._ms(steps),
                          receptor_type=self._receptor(self._nodes[key], channel.receptor(edge), where))  # fmt: skip
        return device

    def _receptor(self, nodes: Any, wanted: Any, where: str) -> int:
        """The port that `receptor_type` means: its number, or its name where the model gives its ports names."""
        if type(wanted) is int:
            return wanted
        model = str(nodes[0].get("model"))
        ports = self._nest.GetDefaults(model).get("receptor_types", {})
        if wanted not in ports:
            named = f", or one of its names: {', '.join(map(str, ports))}" if ports else "; its ports have no names"
            raise ExperimentError(
                f"{where}: proxy_params.receptor_type = {wanted!r}: {model} takes the number of a port (0 if it has "
                f"only one){named}."
            )
        return int(ports[wanted])

    def _population(self, label: str, where: str) -> tuple[str, str]:
        population = find_population(label, self.populations, where)
        return population.region, population.name

    def _choose_min_delay(self, potential: bool) -> int:
        """NEST's slice in steps: it divides the window, and TVB's dt when potentials are asked for, since a multimeter
        hands its samples over one slice late.

        A shorter last window may end within a slice, since nothing follows it; not so a slice that is asked for, which
        makes runs with different windows comparable to their end.
        """
        grid, section = self._grid, self._section
        last = grid.n_steps % grid.window_steps
        fits = grid.window_steps * self._dt_steps
        if section.min_delay is not None:
            fits = math.gcd(grid.window_steps, last) * self._dt_steps
        if potential:
            fits = math.gcd(fits, self._dt_steps)
        divisors = [n for n in range(1, fits + 1) if fits % n == 0]
        found = self._nest.GetKernelStatus(["min_delay", "num_connections"])
        shortest = round(found[0] * NS_PER_MS / self._step_ns) if found[1] else fits
        possible = [n for n in divisors if n <= shortest]
        if section.min_delay is None:
            return possible[-1]
        wanted = section.min_delay * NS_PER_MS / self._step_ns
        if wanted not in possible:
            raise ExperimentError(
                f"min_delay of {section.name} = {section.min_delay} ms cannot be: it must be a multiple of the "
                f"resolution ({section.resolution} ms), divide the windows of {grid.window_ms:g} ms"
                + (f" and the last one of {last * grid.dt_ms:g} ms" if last else "")
                + (f", divide TVB's dt of {grid.dt_ms:g} ms (POTENTIAL is asked for)" if potential else "")
                + f", and not exceed the shortest delay of the network and its inputs ({self._ms(shortest):g} ms; one "
                f"step less than the edge for a CURRENT). "
                f"Choose one of: {', '.join(f'{self._ms(n):g}' for n in possible)}."
            )
        return round(wanted)

    def _connect(self, source: Any, target: Any, where: str, **synapse: Any) -> None:
        try:
            self._nest.Connect(source, target, "all_to_all", synapse)
        except self._nest.NESTError as error:
            raise ExperimentError(f"{where}: NEST refuses the connection {synapse}: {error}") from error

    # ---------------------------------------------------------------------------------------------- the windows

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        """Hand over the input of the window ``[first_step, end_step)``, which has to be the next one that is run.

        RATE: the rate of one presynaptic neuron [Hz], and CURRENT [pA], (n_steps, n_groups): row j acts, `delay_ms`
        later, in the step j of TVB. SPIKES: ticks in the window; one that lies inside a step of NEST acts in that step.
        Raises LockstepError when the payload is not of this window; nothing is then given to NEST.
        """
        check_input(channel, payload, first_step, end_step, self._now, self._fed, self._grid)
        devices = self._devices[channel.name]
        first = first_step * self._dt_steps
        n = (end_step - first_step) * self._dt_steps
        set_status = self._api.llapi_set_nc_status  # NodeCollection.set reads all parameters first: 50 µs against 3
        if isinstance(payload, Spikes):
            given = len(payload)
            if given:
                # All trains of a group reach all its targets with one weight and delay, so that one generator with
                # multiplicities stands for them.
                slots = payload.times // self._step_ticks - first
                slots += self._slot_of[channel.name][payload.senders] * n
                counts = np.bincount(slots, minlength=len(devices) * n).reshape(len(devices), n)
                for device, count in zip(devices, counts, strict=True):
                    (at,) = count.nonzero()
                    if len(at):
                        times = (at + (first + 1)) * self._step_ns / NS_PER_MS
                        set_status(device._datum, [
                            {"spike_times": times.tolist(), "spike_multiplicities": count[at].tolist()}
                        ])  # fmt: skip
        else:
            given = payload.size
            if channel.model == "RATE":
                values = payload * float(channel.proxy_params.get("number_of_neurons", 1))
                at_key, value_key = "rate_times", "rate_values"
            else:
                values = payload
                at_key, value_key = "amplitude_times", "amplitude_values"
            starts = (np.arange(first + 1, first + n + 1, self._dt_steps) * self._step_ns / NS_PER_MS).tolist()
            for device, column in zip(devices, values.T.tolist(), strict=True):
                set_status(device._datum, [{at_key: starts, value_key: column}])
        self._fed[channel.name] = (first_step, end_step)
        self.counters[channel.name] += given

    def run(self, first_step: int, end_step: int) -> None:
        """Simulate the window ``[first_step, end_step)`` and take the spikes and potentials out of NEST.

        Raises LockstepError when the window is not the next one or an input was not fed: old rates and currents would
        otherwise silently go on.
        """
        check_run("NEST", first_step, end_step, self._now, self._fed)
        if threading.get_ident() != _home_thread:
            import_nest()  # raises
        if first_step == 0 and abs((slice_ms := self._nest.min_delay) - self.min_delay_ms) > 1e-6:
            raise ExperimentError(
                f"NEST's min_delay has become {slice_ms} ms; it was {self.min_delay_ms:g} ms when the programs met. A "
                f"connection that is made in {self._section.name}.prepare must have at least that delay."
            )
        initial = None
        if first_step == 0 and self._multimeter is not None:
            initial = np.concatenate([np.atleast_1d(self._nodes[key].get("V_m")) for key in self._metered_keys])
        self._now = end_step
        try:
            self._api.llapi_simulate(self._ms((end_step - first_step) * self._dt_steps))
        except KeyboardInterrupt:  # comes when NEST has finished the window: keep its spikes
            self._read(first_step, end_step, initial)
            raise
        self._read(first_step, end_step, initial)
        self._windows += 1
        if self._windows % CLOCK_CHECK == 1:
            clock, expected = self._nest.biological_time, self._ms(end_step * self._dt_steps)
            if round(clock * NS_PER_MS) != round(expected * NS_PER_MS):
                raise LockstepError(f"NEST's clock shows {clock} ms, not {expected} ms: something else has simulated.")

    def _read(self, first_step: int, end_step: int, initial: np.ndarray | None) -> None:
        self._spikes = self._read_spikes(first_step, end_step)
        if self._multimeter is not None:
            self._potentials = self._read_potentials(first_step, end_step, initial)

    def _read_spikes(self, first_step: int, end_step: int) -> Spikes:
        events = self._api.llapi_get_nc_status(self._recorder._datum, "events")
        times = events["times"]
        if not len(times):
            return Spikes.none()
        self._api.llapi_set_nc_status(self._recorder._datum, [{"n_events": 0}])
        self.counters["recorded"] += len(times)
        n = self._n_neurons
        keys = times.astype(np.int64) - 1
        keys *= n
        keys += self._number[events["senders"]]
        keys.sort()
        steps, senders = np.divmod(keys, n)
        if steps[0] < first_step * self._dt_steps or steps[-1] >= end_step * self._dt_steps:
            raise LockstepError(
                f"NEST recorded spikes from {self._ms(int(times.min())):g} to {self._ms(int(times.max())):g} ms in the "
                f"window ({self._ms(first_step * self._dt_steps):g}, {self._ms(end_step * self._dt_steps):g}]: "
                f"something else has simulated, or changed the recorder."
            )
        steps *= self._step_ticks
        return Spikes(steps, senders.astype(np.int32))

    def _read_potentials(self, first_step: int, end_step: int, initial: np.ndarray | None) -> np.ndarray:
        """V_m [mV] at the start of each TVB step, (n_steps, n_metered)."""
        assert self._multimeter is not None
        events = self._api.llapi_get_nc_status(self._multimeter._datum, "events")
        self._api.llapi_set_nc_status(self._multimeter._datum, [{"n_events": 0}])
        n = len(self._metered)
        times, senders, values = events["times"], events["senders"], events["V_m"]
        first = first_step + (initial is not None)
        span = [round(t / self._grid.dt_ms) for t in (times.min(), times.max())] if len(times) else [first, first - 1]
        if len(times) != (end_step - first) * n or span != [first, end_step - 1]:
            raise LockstepError(
                f"NEST's multimeter gave {len(times)} samples of {n} neurons from step {span[0]} to {span[1]}, "
                f"expected all from {first} to {end_step - 1}."
            )
        if not (senders.reshape(-1, n) == self._metered).all():  # with several threads: one block for each
            values = values[np.lexsort((self._number[senders], times))]
        values = values.reshape(-1, n)
        return values if initial is None else np.concatenate([initial[None], values])

    def spikes(self) -> Spikes:
        """All spikes of the window just run: ticks and neuron numbers, sorted by time, then by neuron."""
        return self._spikes

    def potential(self, channel: Channel) -> np.ndarray:
        """Mean V_m of each population of `channel` [mV], (n_steps, n_groups), at the start of each TVB step."""
        columns = self._potential_columns[channel.name]
        return np.stack([self._potentials[:, of].mean(axis=1) for of in columns], axis=1)

    def close(self) -> None:
        """Forget the last window. NEST's kernel is left as it is; the next `open` resets it."""
        self._spikes = Spikes.none()

    # ---------------------------------------------------------------------------------------------- small things

    def _ms(self, steps: int) -> float:
        return steps * self._step_ns / NS_PER_MS
