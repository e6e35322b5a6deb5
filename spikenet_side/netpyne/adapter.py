"""NetPyNE on NEURON, driven window by window. README.md here has the conventions, the figures and the traps.

NEURON's clock is a sum of floats and drifts. Time is therefore counted in steps: step n begins at ``n h``, and
everything that is given to NEURON for step n, at ``(n + 1/4) h``: NEURON delivers what lies within half a step around
``n h`` at the start of step n, whatever the last bits of its clock are.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...bridges.contract import Channel, Edge, split_label
from ...bridges.errors import EnvironmentFailed, ExperimentError, LockstepError
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
from .cells import is_artificial, parameters, point_neuron
from .mechanisms import import_neuron, load, requirements
from .network import NetPyNEAccess

MODELS = {"RATE": "dense", "SPIKES": "spikes", "CURRENT": "dense"}
WITHIN_STEP = 0.25  # where in its step an input lies, in steps
CLOCK_TOLERANCE = 0.1  # steps by which NEURON's clock may be off: less than from an input to the edge of its step
MAX_STEPS = 50_000_000  # until then it is (measured, for every resolution)
SYNAPSE = re.compile(r"(?:(?P<section>\w+)(?:\((?P<location>[0-9.]+)\))?\.)?(?P<name>[^.()]+)")
PLACE = re.compile(r"(?P<section>\w+)(?:\((?P<location>[0-9.]+)\))?")
NANOAMPERE = 1e-3  # pA
CURRENT_PARAMETERS = ("i_offset", "I_e")  # of a point process that is a neuron, as ANNarchy and NEST call it
RETURNED = ("netParams", "simConfig", "populations", "created")


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """NetPyNE reports on the terminal, mistakes as well: kept, and quoted when it comes to an error."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    except SystemExit:
        last = [line.strip() for line in said.getvalue().splitlines() if line.strip()][-12:]
        raise ExperimentError("\n  ".join(["NetPyNE has given up:", *last])) from None


def _complaints(said: str) -> list[str]:
    """What NetPyNE has only printed, and gone on: what its validation found, and other errors."""
    found = [f"{part}: {' '.join(what.split())}" for part, what in
             re.findall(r"Error validating (\w+):\n(.*?)\n\n", said, flags=re.S)]  # fmt: skip
    return found or list(dict.fromkeys(re.findall(r"ERROR: .*|^\s*Error:? .*", said, flags=re.M)))


@dataclass
class _Current:
    """The current that one channel sends to one target along edges of one delay."""

    group: int
    weight: float
    delay: int  # steps of the resolution
    sites: slice  # of the neurons' current sources
    waiting: deque[tuple[int, float]] = field(default_factory=deque)  # from which step on, value as the channel has it
    value: float = 0.0


@dataclass
class _Poisson:
    """The Poisson neurons of a RATE channel: one for each edge and target neuron, all of an edge with one rate."""

    groups: np.ndarray  # of each edge
    sizes: np.ndarray  # target neurons of each edge
    first_ids: np.ndarray  # NEURON's id of the first of them
    counts: np.random.Generator  # draws how many spikes an edge has in a step, step after step
    places: np.random.Generator  # draws which neurons they reach, spike after spike


class NetPyNE:
    """NetPyNE as a `SpikingSimulator` (see spikenet_side/adapter.py).

    folder: where the experiment's own Python lies; the mod files in its `mod` folder are compiled and loaded at once.
    Without it they are looked for beside the build function, when the network is opened.
    counters: what was given to NEURON, per channel (spikes, or values of a dense signal), and under "recorded" the
    spikes that came out.
    Raises EnvironmentFailed when there are mod files and no compiler, or they cannot be compiled.
    """

    name = "netpyne"
    _holder: NetPyNE | None = None  # whose network NEURON has: it knows one, and simulates all that it knows

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and (lacking := requirements(folder)):
            raise EnvironmentFailed("\n".join(lacking))
        self._h: Any = import_neuron()
        if folder is not None:
            load(folder / "mod")
        argv, sys.argv = sys.argv, sys.argv[:1] or [""]  # NetPyNE reads it: -nogui, simConfig=, netParams=
        try:
            with _quiet():
                import netpyne
                from netpyne import sim
        finally:
            sys.argv = argv
        import neuron

        self._sim: Any = sim
        self.version: str = f"{netpyne.__version__} on NEURON {neuron.__version__}"
        self.populations: tuple[Population, ...] = ()
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
        """Make the user's network with NetPyNE, with fixed steps of the resolution.

        `build` returns ``{"netParams": …, "simConfig": …, "populations": {region: {name: label of popParams}}}``.
        Without "populations" all of popParams with a label of the form NAME@REGION are taken. A list of labels makes
        one population of several. "created": a function that gets netpyne.sim when the cells are there. `seed` takes
        the place of simConfig.seeds.
        Raises ExperimentError for what cannot be used, and for what NetPyNE only prints.
        """
        self._section, self._grid = section, grid
        self._step_ns, self._dt_steps = steps_of(section, grid)
        if section.threads != 1:
            raise ExperimentError(f"threads of {section.name} = {section.threads}: NetPyNE runs on 1 thread here.")
        if grid.n_steps * self._dt_steps > MAX_STEPS:
            raise ExperimentError(
                f"duration = {grid.duration_ms:g} ms is more than {MAX_STEPS} steps of {section.resolution} ms. Then "
                f"NEURON's clock, a sum of floats, is off by more than {CLOCK_TOLERANCE} steps. Choose a shorter one."
            )
        self._step_ticks = self._step_ns // grid.tick_ns
        self._now = 0  # TVB steps done
        self._step = 0  # NEURON's steps done
        self.min_delay_ms = section.resolution  # NEURON delivers spikes in every step
        self._seed = seed
        self.counters = {"recorded": 0}
        self._spikes = Spikes.none()

        with contextlib.suppress(TypeError, OSError):  # not a plain function
            load(Path(inspect.getfile(inspect.unwrap(build))).resolve().parent / "mod")
        if NetPyNE._holder is not None:
            NetPyNE._holder._forget()
        NetPyNE._holder = self
        request = BuildRequest(
            connectome.regions, section.params, seed, section.resolution, connectome, simulator=self.name
        )
        self._create(build(request), connectome.regions, seed)
        self._take_devices(request.devices)

    def _create(self, network: Any, regions: tuple[str, ...], seed: int) -> None:
        """Hand what `build` returned to NetPyNE, and number the neurons through the populations."""
        sim, specs = self._sim, sys.modules["netpyne.specs"]

        def refuse(found: str) -> ExperimentError:
            return ExperimentError(
                f"{self._section.build}: {found}. It must return {{'netParams': …, 'simConfig': …, 'populations': "
                f"{{region: {{name: label}}}}}} for the regions {', '.join(regions)}, the labels being those of "
                f"netParams.popParams; 'populations' may be left out when these labels have the form NAME@REGION, as "
                f"in netParams.popParams['E@{regions[0]}']."
            )

        if not isinstance(network, dict) or "netParams" not in network:
            raise refuse(f"the build function returned {shown(network)}")
        if unknown := [str(key) for key in network if key not in RETURNED]:
            raise refuse(f"the build function returned unknown keys: {', '.join(unknown)}")
        params, config = network["netParams"], network.get("simConfig") or {}
        if not isinstance(params, specs.NetParams | dict) or not isinstance(config, specs.SimConfig | dict):
            raise refuse(f"the build function returned as netParams {shown(params)}, as simConfig {shown(config)}")
        config = specs.SimConfig(config) if isinstance(config, dict) else config
        for key in ("cvode_active", "use_local_dt", "coreneuron", "gpu"):
            if getattr(config, key, False):
                raise ExperimentError(
                    f"{self._section.build}: simConfig.{key} = {getattr(config, key)}: in lock-step NEURON runs with "
                    f"fixed steps of the resolution and hands out every window; leave {key} out."
                )
        settings = {
            "dt": self._section.resolution, "duration": self._grid.duration_ms,
            "seeds": dict.fromkeys(("conn", "stim", "loc", "cell"), seed),
            # nothing that grows with the run, and nothing on the screen
            "recordTraces": {}, "recordStim": False, "recordLFP": [], "recordDipole": False, "saveIMembrane": False,
            "recordCellsSpikes": -1, "analysis": {}, "progressBar": False, "printRunTime": False,
            "createNEURONObj": True, "createPyStruct": True, "addSynMechs": True, "cache_efficient": False,
            "validateNetParams": True,
        }  # fmt: skip
        for key, value in settings.items():
            setattr(config, key, value)
        failure: Exception | None = None
        with _quiet() as said:
            try:
                sim.create(netParams=params, simConfig=config)
                network.get("created", lambda sim: None)(sim)
                sim.preRun()
            except Exception as error:
                failure = error
        if complaints := _complaints(said.getvalue()):
            what = f"{self._section.build}: NetPyNE cannot make the network that is asked for:"
            raise ExperimentError("\n  ".join([what, *complaints[:8]])) from failure
        if failure is not None:
            failure.add_note(f"NetPyNE was at: {said.getvalue().strip().splitlines()[-1].strip()}")
            raise failure
        self._number_neurons(self._labels(network, regions, refuse), refuse)

    def _labels(
        self, network: dict[str, Any], regions: tuple[str, ...], refuse: Callable[[str], ExperimentError]
    ) -> dict[tuple[str, str], list[str]]:
        """The labels of NetPyNE's populations for each (region, name), in the order of the regions."""
        pops = self._sim.net.pops
        given = network.get("populations")
        if given is None:
            given = {}
            for label in pops:
                name, at, region = label.partition("@")
                if at:
                    given.setdefault(region, {})[name] = label
            if not given:
                raise refuse(f"no label of popParams has the form NAME@REGION: {', '.join(pops) or 'there are none'}")
        if not isinstance(given, dict):
            raise refuse(f"the build function returned as populations {shown(given)}")
        labels: dict[tuple[str, str], list[str]] = {}
        for region, name, of in each_population(given, regions, refuse):
            chosen = [of] if isinstance(of, str) else of
            if not isinstance(chosen, list | tuple) or not chosen:
                raise refuse(f"the build function returned {shown(of)} for population {name!r} of {region}")
            for label in chosen:
                if label not in pops:
                    raise refuse(
                        f"population {name!r} of {region} is {label!r}, and popParams has no such label; it has "
                        f"{', '.join(pops) or 'none'}"
                    )
                if not pops[label].cellGids:
                    raise refuse(f"population {name!r} of {region}: popParams[{label!r}] has no cells")
            labels[region, name] = list(chosen)
        return labels

    def _number_neurons(
        self, labels: dict[tuple[str, str], list[str]], refuse: Callable[[str], ExperimentError]
    ) -> None:
        net = self._sim.net
        self._cells = {
            key: [net.cells[net.gid2lid[gid]] for label in own for gid in net.pops[label].cellGids]
            for key, own in labels.items()
        }
        self.populations = tuple(Population(*key, len(cells)) for key, cells in self._cells.items())
        gids = np.array([cell.gid for cells in self._cells.values() for cell in cells], np.int64)
        if len(np.unique(gids)) < len(gids):
            twice = np.flatnonzero(np.bincount(gids) > 1)[0]
            owners = [f"{name}@{region}" for (region, name), own in self._cells.items()
                      if any(cell.gid == twice for cell in own)]  # fmt: skip
            raise refuse(f"cell {twice} is in more than one population: {', '.join(owners)}")
        for (region, name), cells in self._cells.items():
            if any(not is_artificial(cell) and not cell.secs for cell in cells):
                raise refuse(f"the cells of population {name!r} of {region} have no sections: no cellParams apply")
        self._n_neurons = len(gids)
        self._next_id = max(cell.gid for cell in net.cells) + 1
        self._number = np.full(self._next_id, -1, np.int64)  # NetPyNE's gid -> number of the neuron
        self._number[gids] = np.arange(len(gids))

    def _take_devices(self, devices: dict[tuple[str, str, str], Any]) -> None:
        net = self._sim.net
        made = NetPyNEAccess(self._sim, self._h).stimulators()
        self._own_devices: dict[tuple[str, str, str], Any] = {}
        for (direction, name, region), label in devices.items():
            if label in net.pops:
                nodes = [net.cells[net.gid2lid[gid]] for gid in net.pops[label].cellGids]
            else:
                nodes = [device for (source, _), (_, device) in made.items() if source == label and device is not None]
            if not nodes:
                known = [*net.pops, *dict.fromkeys(source for source, _ in made)]
                raise ExperimentError(
                    f"{self._section.build}: {direction} device {name!r} of {region} is {shown(label)}; it must be a "
                    f"label of popParams, or of stimSourceParams with targets: {', '.join(known)}."
                )
            self._own_devices[direction, name, region] = nodes
        self._channels: tuple[list[Channel], list[Channel]] = ([], [])

    def connect(self, inputs: list[Channel], outputs: list[Channel]) -> None:
        """Connect one source of spikes for each group (SPIKES), or for each target neuron (RATE), with NetPyNE's own
        means; make one current source for each target of a CURRENT; find what is recorded; initialize NEURON.

        Raises ExperimentError for an edge or an output that names what is not there, and for delays that cannot be.
        """
        h = self._h
        self._channels = inputs, outputs
        self._fed: dict[str, tuple[int, int]] = {channel.name: (0, 0) for channel in inputs}
        self.counters |= dict.fromkeys(self._fed, 0)
        self._trains: dict[str, np.ndarray] = {}
        self._poisson: dict[str, _Poisson] = {}
        self._currents: dict[str, list[_Current]] = {}
        self._sites: list[tuple[Any, float]] = []  # pointer to a current, its unit per pA
        self._clamps: list[Any] = []
        self._events: list[tuple[np.ndarray, np.ndarray]] = []  # (steps, ids) of the next window
        with _quiet():
            for channel in inputs:
                if MODELS.get(channel.model) != channel.out.kind:
                    raise ExperimentError(
                        f"channel {channel.name}: model {channel.model} with a signal of kind {channel.out.kind!r}. "
                        f"NetPyNE takes " + ", ".join(f"{model} ({kind})" for model, kind in MODELS.items()) + "."
                    )
                if channel.model == "CURRENT":
                    self._currents[channel.name] = [self._current(channel, edge) for edge in channel.edges]
                else:
                    self._sources(channel)
        metered: dict[tuple[str, str], list[Any]] = {}
        wanted = {}
        for channel in outputs:
            found = [find_population(label, self.populations, f"channel {channel.name}")
                     for label in channel.raw.labels]  # fmt: skip
            if channel.model == "POTENTIAL":
                wanted[channel.name] = [(each.region, each.name) for each in found]
                for each in found:
                    cells = self._cells[each.region, each.name]
                    metered[each.region, each.name] = [_potential(cell, f"channel {channel.name}") for cell in cells]
        ends = np.cumsum([0, *map(len, metered.values())])
        columns = {key: slice(ends[i], ends[i + 1]) for i, key in enumerate(metered)}
        self._potential_columns = {name: [columns[key] for key in keys] for name, keys in wanted.items()}

        sources = [_spike_source(cell) for cells in self._cells.values() for cell in cells]
        self._crosses = np.array([source is not None for source in sources])  # a threshold, at a step; else an event
        self._crossing = np.flatnonzero(self._crosses)
        self._thresholds = np.array([self._sim.pc.threshold(cell.gid) for cells in self._cells.values()
                                     for cell in cells])[self._crossing]  # fmt: skip
        self._pattern = h.PatternStim()
        self._sent_times, self._sent_ids = (_Buffer(h.Vector(1024)) for _ in range(2))
        self._spike_times, self._spike_ids = (_Buffer(self._sim.simData[key]) for key in ("spkt", "spkid"))
        self._due = np.zeros(0, np.int64)  # neurons whose crossing at the window's end NEURON is going to report
        self._held = (np.zeros(0, np.int64), np.zeros(0, np.int64))  # (steps, neurons) beyond the window's end
        h.finitialize(float(self._sim.cfg.hParams["v_init"]))
        self._watched = _Pointers(h, [source for source in sources if source is not None])
        self._meter = _Pointers(h, [pointer for pointers in metered.values() for pointer in pointers])
        self._amplitudes = _Pointers(h, [pointer for pointer, _ in self._sites])
        self._units = np.array([unit for _, unit in self._sites])

    def network(self) -> Network:
        """The address book: after `open` populations and devices, after `connect` the proxies, too.

        Proxies are no nodes of NEURON: nothing can be read from them but what they are connected to.
        """
        access = NetPyNEAccess(self._sim, self._h)
        network = Network(access, self.populations, self._cells.values(), self._own_devices)
        inputs, outputs = self._channels
        given: dict[tuple[str, str], tuple[Any, np.ndarray]] = {}
        number = self._next_id
        for channel in inputs:
            groups: list[list[int]] = [[] for _ in channel.out.labels]
            if channel.model == "SPIKES":
                trains, sizes = self._trains[channel.name], np.cumsum([0, *channel.out.sizes[:-1]])
                groups = [[int(trains[first])] for first in sizes]
            elif channel.model == "RATE":
                poisson = self._poisson[channel.name]
                for group, first, size in zip(poisson.groups, poisson.first_ids, poisson.sizes, strict=True):
                    groups[group] += range(first, first + size)
            else:
                groups = [[number + i] for i in range(len(groups))]
                number += len(groups)
                for edge in channel.edges:
                    cells = self._cells[edge.region, edge.population]
                    receptor = _current_parameter(cells[0], channel.receptor(edge)) or "IClamp"
                    access.edges.append((groups[edge.group][0], cells, edge.weight, edge.delay_ms, receptor))
                    access.driven |= {(cell.gid, receptor): channel.name for cell in cells if point_neuron(cell)}
            for label, ids in zip(channel.out.labels, groups, strict=True):
                key = (channel.name, split_label(label)[1])
                given[key] = None, np.append(given[key][1] if key in given else np.zeros(0, np.int64), ids)
        nothing = (None, np.zeros(0, np.int64))
        taken = {(channel.name, split_label(label)[1]): nothing for channel in outputs for label in channel.raw.labels}
        network.add_proxies(given, taken)
        return network

    def _sources(self, channel: Channel) -> None:
        """NEURON's ids for the groups (SPIKES) or for every target neuron (RATE), connected along the edges."""
        if channel.model == "SPIKES":
            groups = self._next_id + np.arange(len(channel.out.sizes))
            self._trains[channel.name] = np.repeat(groups, channel.out.sizes)
            self._next_id += len(groups)
        sizes, first_ids = [], []
        for edge in channel.edges:
            where = edge_name(channel, edge)
            cells = self._population(f"{edge.population}@{edge.region}", where)
            delay_ms = self._ms(delay_steps(edge.delay_ms, self._section.resolution, where))
            sizes.append(len(cells))
            first_ids.append(self._next_id)
            for i, cell in enumerate(cells):
                source = int(groups[edge.group]) if channel.model == "SPIKES" else self._next_id + i
                self._connect(cell, source, float(edge.weight), delay_ms, channel.receptor(edge), where)
            if channel.model == "RATE":
                self._next_id += len(cells)
        if channel.model == "RATE":
            counts, places = np.random.SeedSequence([self._seed, *channel.key.encode()]).spawn(2)
            self._poisson[channel.name] = _Poisson(
                np.array([edge.group for edge in channel.edges], np.int64), np.array(sizes, np.int64),
                np.array(first_ids, np.int64), np.random.Generator(np.random.Philox(counts)),
                np.random.Generator(np.random.Philox(places)),
            )  # fmt: skip

    def _connect(
        self, cell: Any, source: int, weight: float, delay_ms: float, receptor: Any, where: str
    ) -> None:
        """A connection from `source` as NetPyNE makes any other one."""
        before = len(cell.conns)
        target = _synapse(cell, receptor, self._sim.net.params.synMechParams, where)
        try:
            cell.addConn({"preGid": source, "weight": weight, "delay": delay_ms, "synsPerConn": 1, **target})
        except Exception as error:
            raise ExperimentError(f"{where}: NetPyNE refuses the connection {target}: {error}") from error
        made = cell.conns[before:]
        if weight != 0.0 and not (len(made) == 1 and "hObj" in made[0]):
            raise ExperimentError(f"{where}: NetPyNE has not made the connection {target} to cell {cell.gid}.")

    def _current(self, channel: Channel, edge: Edge) -> _Current:
        where = edge_name(channel, edge)
        cells = self._population(f"{edge.population}@{edge.region}", where)
        delay = delay_steps(edge.delay_ms, self._section.resolution, where)
        first = len(self._sites)
        for cell in cells:
            self._sites.append(self._site(cell, channel.receptor(edge), where))
        return _Current(edge.group, float(edge.weight), delay, slice(first, len(self._sites)))

    def _site(self, cell: Any, wanted: Any, where: str) -> tuple[Any, float]:
        """Where a current goes into a neuron: an IClamp of its own, or a variable of its point process."""
        asked = f"{where}: proxy_params.receptor_type = {wanted!r}"
        if is_artificial(cell):
            raise ExperimentError(
                f"{where}: {_artificial(cell)}, which takes spikes and no current. Use model RATE or SPIKES."
            )
        wanted = _current_parameter(cell, wanted)
        if point := point_neuron(cell):
            if not isinstance(wanted, str) or not hasattr(point["hObj"], wanted):
                raise ExperimentError(
                    f"{asked}: the potential of cell {cell.gid} is a variable of {point['mod']}, so that a current "
                    f"into the section would not reach it. Name the one of its parameters that takes the current [pA]: "
                    f"{', '.join(parameters(self._h, point['mod']))}."
                )
            return getattr(point["hObj"], f"_ref_{wanted}"), 1.0
        section, location = (_soma(cell), 0.5) if wanted == 0 else _place(cell, wanted, PLACE, asked)[:2]
        clamp = self._h.IClamp(cell.secs[section]["hObj"](location))
        clamp.delay, clamp.dur, clamp.amp = 0.0, 1e12, 0.0
        self._clamps.append(clamp)
        return clamp._ref_amp, NANOAMPERE

    def _population(self, label: str, where: str) -> list[Any]:
        population = find_population(label, self.populations, where)
        return self._cells[population.region, population.name]

    # ---------------------------------------------------------------------------------------------- the windows

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        """Hand over the input of the window ``[first_step, end_step)``, which has to be the next one that is run.

        RATE: the rate of one presynaptic neuron [Hz], and CURRENT [pA], (n_steps, n_groups): row j acts, `delay_ms`
        later, in the step j of TVB. SPIKES: ticks in the window; one that lies inside a step of NEURON acts in that
        step. Raises LockstepError when the payload is not of this window; nothing is then given to NEURON.
        """
        check_input(channel, payload, first_step, end_step, self._now, self._fed, self._grid)
        first = first_step * self._dt_steps
        if isinstance(payload, Spikes):
            given = len(payload)
            self._events.append((payload.times // self._step_ticks, self._trains[channel.name][payload.senders]))
        else:
            given = payload.size
            if channel.model == "RATE":
                number = float(channel.proxy_params.get("number_of_neurons", 1))
                self._events.append(self._draw(self._poisson[channel.name], payload * number, first))
            else:
                for current in self._currents[channel.name]:
                    at, last = first + current.delay, current.waiting[-1][1] if current.waiting else current.value
                    for value in payload[:, current.group].tolist():
                        if value != last:
                            current.waiting.append((at, value))
                        at, last = at + self._dt_steps, value
        self._fed[channel.name] = (first_step, end_step)
        self.counters[channel.name] += given

    def _draw(self, poisson: _Poisson, rates: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Steps and ids of Poisson spikes at `rates` [Hz] of (TVB step, group).

        How many spikes an edge has in a TVB step is drawn first, then to which neuron and step of NEURON each belongs:
        independent Poisson trains, at a cost that goes with the number of spikes. Two streams, so that the numbers do
        not depend on how time is cut.
        """
        expected = rates[:, poisson.groups] * (poisson.sizes * self._grid.dt_ms / 1000.0)
        counts = poisson.counts.poisson(expected).ravel()
        of = np.repeat(np.arange(len(counts)), counts)
        step, edge = np.divmod(of, max(len(poisson.groups), 1))
        slots = poisson.sizes[edge] * self._dt_steps
        place = (poisson.places.random(len(of)) * slots).astype(np.int64)
        neuron, within = np.divmod(place, self._dt_steps)
        return first + step * self._dt_steps + within, poisson.first_ids[edge] + neuron

    def run(self, first_step: int, end_step: int) -> None:
        """Simulate the window ``[first_step, end_step)`` and take the spikes and potentials out of NEURON.

        Raises LockstepError when the window is not the next one or an input was not fed: old currents would otherwise
        silently go on.
        """
        check_run("NetPyNE", first_step, end_step, self._now, self._fed)
        if NetPyNE._holder is not self:
            raise LockstepError("NEURON holds one network in a process; this one was closed, or another one opened.")
        self._now = end_step
        self._send()
        first, end, per_dt = first_step * self._dt_steps, end_step * self._dt_steps, self._dt_steps
        changes = {at for currents in self._currents.values() for current in currents for at, _ in current.waiting}
        samples = range(first, end, per_dt) if self._meter.n else ()
        potentials = np.empty((end_step - first_step, self._meter.n))
        for step in sorted({end - 1, *samples, *(at for at in changes if at < end)}):
            self._advance(step)
            if step in changes:
                self._set_currents(step)
            if self._meter.n and (step - first) % per_dt == 0:
                potentials[(step - first) // per_dt] = self._meter.read()
        before = self._watched.read() > self._thresholds
        self._advance(end)
        after = self._watched.read() > self._thresholds
        self._potentials = potentials
        self._spikes = self._read_spikes(first, end, self._crossing[after & ~before])

    def _send(self) -> None:
        """Send off the spikes of the window, by the means that NEURON has for replaying spikes of cells elsewhere."""
        if not self._events:
            return
        steps, ids = (np.concatenate(parts) for parts in zip(*self._events, strict=True))
        self._events.clear()
        if not len(steps):
            return
        # NEURON keeps the order of events of one time: in that of their steps it does not depend on the window
        order = np.argsort(steps, kind="stable")
        times = (steps[order] + WITHIN_STEP) * (self._step_ns / NS_PER_MS)
        self._pattern.play(self._sent_times.put(times), self._sent_ids.put(ids[order]))
        self._pattern.initps()
        while self._pattern.sendgroup() >= self._h.t:  # about a hundred at a time, until it gives a time gone by
            pass

    def _advance(self, step: int) -> None:
        """Run NEURON to the beginning of `step`: so many steps, whatever its clock says."""
        if step > self._step:
            h = self._h
            # psolve makes the steps that fit until then, and a quarter of one is far more than its clock is off
            self._sim.pc.psolve(h.t + (step - self._step + 0.25) * h.dt)
            self._step = step
            expected = self._ms(step)
            if abs(h.t - expected) > CLOCK_TOLERANCE * h.dt:
                raise LockstepError(f"NEURON's clock shows {h.t} ms, not {expected} ms: something else has simulated.")

    def _set_currents(self, step: int) -> None:
        amplitudes = np.zeros(self._amplitudes.n)
        for currents in self._currents.values():
            for current in currents:
                while current.waiting and current.waiting[0][0] <= step:
                    current.value = current.waiting.popleft()[1]
                amplitudes[current.sites] = current.weight * current.value
        self._amplitudes.write(amplitudes * self._units)

    def _read_spikes(self, first: int, end: int, crossed: np.ndarray) -> Spikes:
        """The spikes of NEURON's steps ``[first, end)``; crossed: neurons that crossed their threshold in the last one.

        NEURON looks for crossings when it begins the next step and stamps them with its time. The window's last ones
        are therefore taken from the potentials, and compared with what NEURON says in the next window.
        """
        steps, neurons = self._held
        late = np.zeros(0, np.int64)
        times, ids = self._spike_times.take(), self._spike_ids.take()
        if len(times):
            found = self._number[ids.astype(np.int64)]
            ours = found >= 0
            times, found = times[ours] * (NS_PER_MS / self._step_ns), found[ours]
            crosses = self._crosses[found]
            at = np.where(crosses, np.rint(times) - 1, np.floor(times + CLOCK_TOLERANCE)).astype(np.int64)
            if first == 0:
                at[crosses & (at == -1)] = 0  # above the threshold from the start
            is_late = crosses & (at == first - 1)
            late = found[is_late]
            steps = np.concatenate([steps, at[~is_late]])
            neurons = np.concatenate([neurons, found[~is_late]])
        if not np.array_equal(np.sort(late), self._due):
            raise LockstepError(
                f"NEURON reports that neurons {np.sort(late).tolist()} crossed their threshold in step {first - 1}; "
                f"their potentials say {self._due.tolist()}. Has something else changed the network or its thresholds?"
            )
        self._due = crossed
        steps = np.concatenate([steps, np.full(len(crossed), end - 1)])
        neurons = np.concatenate([neurons, crossed])
        beyond = steps >= end
        self._held = steps[beyond], neurons[beyond]
        steps, neurons = steps[~beyond], neurons[~beyond]
        if len(steps) and steps.min() < first:
            raise LockstepError(
                f"NEURON recorded a spike in step {steps.min()} in the window of steps [{first}, {end}): something "
                f"else has simulated, or changed the recording."
            )
        self.counters["recorded"] += len(steps)
        keys = steps * self._n_neurons + neurons
        keys.sort()
        steps, neurons = np.divmod(keys, self._n_neurons)
        return Spikes(steps * self._step_ticks, neurons.astype(np.int32))

    def spikes(self) -> Spikes:
        """All spikes of the window just run: ticks and neuron numbers, sorted by time, then by neuron."""
        return self._spikes

    def potential(self, channel: Channel) -> np.ndarray:
        """Mean potential of each population of `channel` [mV], (n_steps, n_groups), at the start of each TVB step."""
        columns = self._potential_columns[channel.name]
        return np.stack([self._potentials[:, of].mean(axis=1) for of in columns], axis=1)

    def close(self) -> None:
        """Let go of the network: NEURON would go on simulating what somebody still holds."""
        if NetPyNE._holder is self:
            self._forget()
            NetPyNE._holder = None

    def _forget(self) -> None:
        for name in ("_cells", "_own_devices", "_clamps", "_sites", "_pattern", "_watched", "_meter", "_amplitudes",
                     "_sent_times", "_sent_ids", "_spike_times", "_spike_ids"):  # fmt: skip
            if hasattr(self, name):
                delattr(self, name)
        self._spikes = Spikes.none()
        sim = self._sim
        for cell in getattr(getattr(sim, "net", None), "cells", []):
            cell.__dict__.clear()
        for name in ("net", "simData", "fih"):
            if hasattr(sim, name):
                delattr(sim, name)
        if hasattr(sim, "pc"):
            sim.pc.gid_clear()
        if any(True for _ in self._h.allsec()) or self._h.List("NetCon").count():  # held in a circle
            gc.collect()

    # ---------------------------------------------------------------------------------------------- small things

    def _ms(self, steps: int) -> float:
        return steps * self._step_ns / NS_PER_MS


class _Buffer:
    """A Vector of NEURON's, filled and emptied by way of one array on its memory.

    NEURON never lets go of an array that `as_numpy` has made, nor of what a Vector was made from: 1 kB for each.
    """

    def __init__(self, vector: Any) -> None:
        self.vector = vector
        self._look()

    def _look(self) -> None:
        size, room = int(self.vector.size()), int(self.vector.buffer_size())
        self.vector.resize(room)
        self._memory = self.vector.as_numpy()
        self.vector.resize(size)

    def put(self, values: np.ndarray) -> Any:
        """The Vector, with these values."""
        if len(values) > len(self._memory):
            self.vector.buffer_size(2 * len(values))
            self._look()
        self.vector.resize(len(values))
        self._memory[: len(values)] = values
        return self.vector

    def take(self) -> np.ndarray:
        """Its values; it is empty afterwards."""
        size = int(self.vector.size())
        if size > len(self._memory):
            self._look()
        values = self._memory[:size].copy()
        self.vector.resize(0)
        return values


class _Pointers:
    """Variables inside NEURON, read or written all at once."""

    def __init__(self, h: Any, pointers: list[Any]) -> None:
        self.n = len(pointers)
        if self.n:
            self._pointers, self._values = h.PtrVector(self.n), h.Vector(self.n)
            for i, pointer in enumerate(pointers):
                self._pointers.pset(i, pointer)
            self._view = self._values.as_numpy()

    def read(self) -> np.ndarray:
        """Their values now, as an array that the next call overwrites."""
        if not self.n:
            return np.zeros(0)
        self._pointers.gather(self._values)
        return self._view

    def write(self, values: np.ndarray) -> None:
        if self.n:
            self._view[:] = values
            self._pointers.scatter(self._values)


def _artificial(cell: Any) -> str:
    return f"cell {cell.gid} is an artificial cell ({cell.tags.get('cellModel')})"


def _spike_source(cell: Any) -> Any:
    """A pointer to the variable whose crossing of the threshold is the cell's spike; None when its spikes are events.

    The same choice that NetPyNE makes when it gives the cell its gid.
    """
    if is_artificial(cell):
        return getattr(cell.hPointp, f"_ref_{cell.tags['vref']}") if "vref" in cell.tags else None
    location, section = type(cell).spikeGenLocAndSec(cell.secs)
    for point in section.get("pointps", {}).values():
        if "vref" in point:
            return getattr(point["hObj"], f"_ref_{point['vref']}")
    return section["hObj"](location)._ref_v


def _potential(cell: Any, where: str) -> Any:
    """A pointer to the membrane potential: of the soma, or the one of the point process that is the neuron."""
    if is_artificial(cell):
        raise ExperimentError(f"{where}: {_artificial(cell)}, which has no potential.")
    if point := point_neuron(cell):
        return getattr(point["hObj"], f"_ref_{point['vref']}")
    return cell.secs[_soma(cell)]["hObj"](0.5)._ref_v


def _current_parameter(cell: Any, wanted: Any) -> Any:
    """What takes the current: `wanted`, or, where nothing is said, the parameter of a point process that is for it."""
    if wanted == 0 and (point := point_neuron(cell)):
        return next((name for name in CURRENT_PARAMETERS if hasattr(point["hObj"], name)), wanted)
    return wanted


def _synapse(cell: Any, wanted: Any, mechanisms: Any, where: str) -> dict[str, Any]:
    """Where a spike goes into a neuron, as NetPyNE names it: sec, loc, synMech.

    wanted: `receptor_type`: "AMPA", "dend.AMPA", "dend(0.7).AMPA", or 0 where there is no choice.
    """
    if is_artificial(cell):
        choices: list[str] = []
    elif point := point_neuron(cell):
        choices = list(point.get("synList", []))
    elif not (choices := list(mechanisms)):
        raise ExperimentError(f"{where}: netParams.synMechParams is empty: the neurons have no synapses.")
    asked = f"{where}: proxy_params.receptor_type = {wanted!r}"
    if not choices:
        if wanted != 0:
            raise ExperimentError(f"{asked}: cell {cell.gid} has no synapses to choose from; leave it out.")
        return {} if is_artificial(cell) else {"sec": _soma(cell), "loc": 0.5, "synMech": None}
    if wanted == 0 and len(choices) == 1:
        return {"sec": _soma(cell), "loc": 0.5, "synMech": choices[0]}
    if not isinstance(wanted, str):
        raise ExperimentError(
            f"{asked}: say which synapse the spikes go to: {', '.join(choices)}; with a place on the cell, as "
            f"'{_soma(cell)}(0.5).{choices[0]}'."
        )
    section, location, name = _place(cell, wanted, SYNAPSE, asked)
    if name not in choices:
        raise ExperimentError(f"{asked}: there is no synapse {name!r}; there is {', '.join(choices)}.")
    return {"sec": section, "loc": location, "synMech": name}


def _place(cell: Any, wanted: str, pattern: re.Pattern[str], asked: str) -> tuple[str, float, str | None]:
    """Section, location and synapse that `receptor_type` names; what is not named is the middle of the soma."""
    match = pattern.fullmatch(wanted) if isinstance(wanted, str) else None
    if match is None:
        form = "'dend(0.7).AMPA', 'dend.AMPA' or 'AMPA'" if pattern is SYNAPSE else "'dend(0.7)' or 'dend'"
        raise ExperimentError(f"{asked}: expected the form {form}.")
    section, location = match["section"] or _soma(cell), float(match["location"] or 0.5)
    if section not in cell.secs:
        raise ExperimentError(f"{asked}: cell {cell.gid} has no section {section!r}; it has {', '.join(cell.secs)}.")
    if not 0.0 <= location <= 1.0:
        raise ExperimentError(f"{asked}: a location is from 0 to 1.")
    return section, location, match["name"] if pattern is SYNAPSE else None


def _soma(cell: Any) -> str:
    return "soma" if "soma" in cell.secs else str(next(iter(cell.secs)))
