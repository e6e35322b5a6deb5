"""What TVB offers to the spiking programs: window, channels, and what each edge of the connectome becomes."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..bridges.bridge import RowTransformers, transformers_of_row
from ..bridges.contract import Channel, Edge, Signal
from ..bridges.errors import ExperimentError
from ..bridges.experiment import Experiment, SpikenetSection, SpikenetToTvb, TvbToSpikenet
from ..bridges.grid import NS_PER_MS, Grid, to_ns
from .build import build_simulator, seed_simulator
from .library import quieten
from .models import VOI_UNITS
from .proxies import Proxies, read_proxies
from .simulation import RegionSimulation

# The shortest synapse of a proxy, in steps of its simulator: a current acts one step later than a spike (NEST).
SYNAPSE_STEPS = {"RATE": 1, "SPIKES": 1, "CURRENT": 2}
DEVICE_UNITS = {"RATE": "Hz", "SPIKES": "Hz", "CURRENT": "pA"}


@dataclass(frozen=True)
class Link:
    """A connection that a row with coupling_mode = "spikeNet" makes: TVB regions by index, and the whole delay."""

    source: int
    target: int
    population: str
    weight: float
    delay_ms: float
    synapse_ns: int  # the shortest that its synapse may be


class Plan:
    """The TVB simulation of an experiment and the offer made from it.

    simulation: TVB's simulator with its proxied regions, ready to step. grid: the time of the run. channels: without
    the sizes of the spiking populations, which their programs add. offer: all of it as JSON.
    """

    def __init__(self, experiment: Experiment, folder: Path, simulator: Any = None) -> None:
        """simulator: a TVB Simulator of one's own in place of what the experiment describes."""
        self.experiment, self.folder = experiment, folder
        if simulator is None:
            simulator = build_simulator(experiment.tvb, experiment.seed, folder)
        else:
            seed_simulator(simulator, experiment.seed)
        quieten()  # a model of one's own may have imported tvb.simulator.lab, which makes TVB talk again
        self.labels = [str(label) for label in simulator.connectivity.region_labels]
        self.model = type(simulator.model).__name__
        self._coupling_scale, note = self._scale_of(simulator.coupling)
        self.regions = {program.name: self._regions_of(program) for program in experiment.spikenet}
        self._check_variables(list(simulator.model.state_variables))
        self._transforms = {
            (direction, i): self._transformers(direction, i, row)
            for direction in ("tvb_to_spikenet", "spikenet_to_tvb")
            for i, row in enumerate(getattr(experiment.interfaces, direction))
        }
        self._links_of: dict[tuple[int, str], list[Link]] = {}
        resolutions = {program.name: program.resolution for program in experiment.spikenet}
        dt_ms = float(simulator.integrator.dt)
        grid = Grid.of(dt_ms, resolutions, experiment.duration)
        self.simulation = RegionSimulation(
            simulator,
            proxied=(delivered := self._delivered()),
            # a region that only listens is not replaced: TVB goes on computing it, with all of its edges
            groups=[[region for region in regions if region in delivered] for regions in self.regions.values()],
            exclusive=experiment.interfaces.exclusive_nodes,
            undelivered=experiment.interfaces.undelivered,
            n_steps=grid.n_steps,
        )
        if note:
            self.simulation.notes.append(note)
        self.grid = Grid(grid.tick_ns, grid.dt_ticks, self._window_steps(grid), grid.n_steps)
        self.channels = self._channels()

    # ---- regions and variables -------------------------------------------------------------------------------

    def _scale_of(self, coupling: Any) -> tuple[float, str]:
        """The factor that a proxy's synapse takes over from TVB's coupling, where that is linear in the delayed state;
        and what rows with coupling_mode = "spikeNet" leave out of it, in words."""
        rows = [f"tvb_to_spikenet.{i}" for i, row in enumerate(self.experiment.interfaces.tvb_to_spikenet)
                if row.coupling_mode == "spikeNet"]  # fmt: skip
        name = type(coupling).__name__
        if not rows:
            return 1.0, ""
        if name not in ("Linear", "Scaling"):
            return 1.0, (
                f"{', '.join(rows)}: the proxies send the states of TVB's regions, with the connectome's weights; what "
                f"TVB's {name} does with them is left out. Put it into the transformer, or use coupling_mode = \"TVB\"."
            )
        if coupling.a.size != 1:
            raise ExperimentError(
                f'interfaces.{rows[0]}.coupling_mode = "spikeNet": TVB\'s {name} coupling has {coupling.a.size} values '
                f"of a, and a synapse takes over one. Give a single value (and proxy_params.weight as a function), or "
                f'use coupling_mode = "TVB".'
            )
        b = float(coupling.b.item()) if name == "Linear" and coupling.b.size == 1 else 0.0
        note = f"{', '.join(rows)}: b = {b:g} of TVB's Linear coupling does not reach the network." if b else ""
        return float(coupling.a.item()), note

    def _region(self, region: str | int, key: str) -> str:
        if isinstance(region, int):
            if not 0 <= region < len(self.labels):
                raise ExperimentError(
                    f"{key}: region {region}: the connectome has regions 0 to {len(self.labels) - 1}."
                )
            return self.labels[region]
        if region not in self.labels:
            close = difflib.get_close_matches(region, self.labels, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise ExperimentError(
                f"{key}: region {region!r} does not exist.{hint} The connectome has {len(self.labels)} regions: "
                f"{', '.join(self.labels)}."
            )
        return region

    def _regions_of(self, program: SpikenetSection) -> list[str]:
        regions = [self._region(region, f"{program.name}.regions") for region in program.regions]
        if len(set(regions)) < len(regions):
            raise ExperimentError(f"{program.name}.regions: a region is named twice: {', '.join(regions)}.")
        for other in self.experiment.spikenet:
            if other.name == program.name:
                break
            shared = set(regions) & {self._region(region, f"{other.name}.regions") for region in other.regions}
            if shared:
                raise ExperimentError(
                    f"{program.name}.regions and {other.name}.regions both have {', '.join(sorted(shared))}; a region "
                    f"belongs to one spiking program."
                )
        return regions

    def _rows(self, direction: str) -> list[tuple[int, Any, str, list[str]]]:
        """(row number, row, program, regions) for each program that a row of this direction concerns."""
        found = []
        for i, row in enumerate(getattr(self.experiment.interfaces, direction)):
            for program in self.experiment.spikenet:
                if row.spikenet not in (None, program.name):
                    continue
                regions = self.regions[program.name]
                if row.regions is not None:
                    key = f"interfaces.{direction}.{i}.regions"
                    wanted = [self._region(region, key) for region in row.regions]
                    if row.spikenet is not None and (foreign := [r for r in wanted if r not in regions]):
                        raise ExperimentError(
                            f"{key}: {', '.join(foreign)}: not a region of {program.name}, which has "
                            f"{', '.join(regions)}."
                        )
                    everywhere = [region for each in self.regions.values() for region in each]
                    if foreign := [r for r in wanted if r not in everywhere]:
                        raise ExperimentError(
                            f"{key}: {', '.join(foreign)}: not a spiking region; these are: {', '.join(everywhere)}."
                        )
                    regions = [region for region in wanted if region in regions]
                if regions:
                    found.append((i, row, program.name, regions))
        return found

    def _check_variables(self, variables: list[str]) -> None:
        for direction in ("tvb_to_spikenet", "spikenet_to_tvb"):
            for i, row in enumerate(getattr(self.experiment.interfaces, direction)):
                for voi in row.voi:
                    if voi not in variables:
                        raise ExperimentError(
                            f"interfaces.{direction}.{i}.voi = {voi!r}: the model {self.model} has no such state "
                            f"variable; it has {', '.join(variables)}."
                        )

    def _delivered(self) -> dict[str | int, list[str]]:
        """By region, the state variables that the spiking side delivers."""
        delivered: dict[str | int, list[str]] = {}
        writers: dict[tuple[str, str], str] = {}
        for i, row, program, regions in self._rows("spikenet_to_tvb"):
            for region in regions:
                for voi, population in self._pairs("spikenet_to_tvb", i, row):
                    writer = f"interfaces.spikenet_to_tvb.{i} ({population} of {program})"
                    if (region, voi) in writers:
                        raise ExperimentError(
                            f"{voi} of {region} is written twice: by {writers[region, voi]} and by {writer}. "
                            f"Remove one."
                        )
                    writers[region, voi] = writer
                    delivered.setdefault(region, []).append(voi)
        return delivered

    # ---- the window ------------------------------------------------------------------------------------------

    def _window_steps(self, grid: Grid) -> int:
        asked = self.experiment.exchange.synchronization_time
        longest = self.simulation.min_delay_steps
        longest = grid.n_steps if longest is None else longest
        latency = self._longest_with_synapses(grid)
        if asked == "min_delay":
            self.simulation.check_window(1)
            return max(1, min(longest, latency, grid.n_steps))
        asked_ns = to_ns(float(asked), "exchange.synchronization_time")
        dt_ns = grid.dt_ticks * grid.tick_ns
        if asked_ns % dt_ns:
            raise ExperimentError(
                f"exchange.synchronization_time = {asked} ms is not a multiple of TVB's dt = {grid.dt_ms:g} ms."
            )
        steps = asked_ns // dt_ns
        self.simulation.check_window(steps)
        if steps > latency:
            raise ExperimentError(
                f'exchange.synchronization_time = {asked} ms: with coupling_mode = "spikeNet" a proxy\'s synapse '
                f"carries the delay less the window, and cannot be that short in the spiking simulator; the longest "
                f"window is {latency * grid.dt_ms:g} ms, for the edge {self._tightest_edge()}."
            )
        return min(steps, grid.n_steps)

    def _links(self, i: int, row: TvbToSpikenet, program: str, regions: list[str]) -> list[Link]:
        """The connections of a row with coupling_mode = "spikeNet" to the regions of a program."""
        if (i, program) not in self._links_of:
            self._links_of[i, program] = self._make_links(i, row, program, regions)
        return self._links_of[i, program]

    def _make_links(self, i: int, row: TvbToSpikenet, program: str, regions: list[str]) -> list[Link]:
        key, section = f"interfaces.tvb_to_spikenet.{i}", self.experiment.program(program)
        proxies = read_proxies(row, key, section, self.folder)
        synapse_ns = SYNAPSE_STEPS[row.model] * to_ns(section.resolution, "resolution")
        chosen = list(range(len(self.labels)))
        if row.sources is not None:
            chosen = sorted({self.labels.index(self._region(each, f"{key}.sources")) for each in row.sources})
        links = []
        for target in map(self.labels.index, regions):
            weights = self.simulation.weights[target]
            sources = [source for source in chosen if weights[source] != 0 and source != target]
            total = sum(weights[sources]) if proxies.params.get("normalize_weights") else 1.0
            for source in sources:
                for population in dict.fromkeys(row.populations):
                    edge = self.labels[source], self.labels[target], population
                    delay_ms = self._delay_ms(source, target) if proxies.delay_ms is None else proxies.delay_ms(*edge)
                    weight = proxies.weight(*edge) * self._coupling_scale * float(weights[source]) / total
                    links.append(Link(source, target, population, weight, delay_ms, synapse_ns))
        return links

    def _tightest(self) -> Link | None:
        """Of the connections of proxies (coupling_mode = "spikeNet"), the one that leaves least for the window."""
        links = [
            link
            for i, row, program, regions in self._rows("tvb_to_spikenet")
            if row.coupling_mode == "spikeNet"
            for link in self._links(i, row, program, regions)
        ]
        return min(links, key=self._room_ns, default=None)

    @staticmethod
    def _room_ns(link: Link) -> int:
        return round(link.delay_ms * NS_PER_MS) - link.synapse_ns

    def _tightest_edge(self) -> str:
        link = self._tightest()
        assert link is not None
        return f"{self.labels[link.source]} -> {self.labels[link.target]} ({link.delay_ms:g} ms)"

    def _delay_ms(self, source: int, target: int) -> float:
        return round(float(self.simulation.delay_steps[target, source]) * self.simulation.dt_ms, 9)

    def _longest_with_synapses(self, grid: Grid) -> int:
        """The longest window that leaves every proxy's synapse the delay that its simulator needs [TVB steps]."""
        link = self._tightest()
        if link is None:
            return grid.n_steps
        longest = self._room_ns(link) // (grid.dt_ticks * grid.tick_ns)
        if longest < 1:
            raise ExperimentError(
                f'coupling_mode = "spikeNet": the edge {self._tightest_edge()} is too short: the synapse of its proxy '
                f"carries the delay less one window of at least {grid.dt_ms:g} ms, and needs at least "
                f"{link.synapse_ns / NS_PER_MS:g} ms. Lengthen the tract, lower tvb.speed, or use "
                f'coupling_mode = "TVB".'
            )
        return longest

    # ---- the channels ----------------------------------------------------------------------------------------

    def _channels(self) -> list[Channel]:
        channels: list[Channel] = []
        for i, row, program, regions in self._rows("tvb_to_spikenet"):
            channels.append(self._to_network(len(channels), i, row, program, regions))
        for i, row, program, regions in self._rows("spikenet_to_tvb"):
            channels.append(self._from_network(len(channels), i, row, program, regions))
        return channels

    def unit_of(self, voi: str) -> str:
        return VOI_UNITS.get(self.model, {}).get(voi, "")

    def _unit(self, voi: list[str], key: str) -> str:
        """The unit that all of these variables have."""
        units = {each: self.unit_of(each) for each in voi}
        if len(set(units.values())) > 1:
            said = ", ".join(f"{each} in {unit or 'no unit'}" for each, unit in units.items())
            raise ExperimentError(f"{key}.voi: {said}: the variables of one row have one unit. Make a row for each.")
        return units[voi[0]]

    def _transformers(self, direction: str, i: int, row: TvbToSpikenet | SpikenetToTvb) -> RowTransformers:
        key = f"interfaces.{direction}.{i}"
        transform = transformers_of_row(row, direction, key, self.folder)
        n_voi = transform.n_voi
        one = direction == "spikenet_to_tvb" and len(row.populations) > 1
        if n_voi > 1 and (len(row.voi) != n_voi or one):
            raise ExperimentError(
                f"{key}: voi = {row.voi}, populations = {row.populations}: {' -> '.join(transform.names)} has to do "
                f"with {n_voi} variables of TVB for each population: name {n_voi}"
                f"{', and one population in a row' * one}."
            )
        if n_voi == 1 and len(row.voi) not in (1, len(row.populations)):
            raise ExperimentError(
                f"{key}: voi = {row.voi} and populations = {row.populations} must have the same length, or voi a "
                f"single entry."
            )
        return transform

    def _pairs(self, direction: str, i: int, row: TvbToSpikenet | SpikenetToTvb) -> list[tuple[str, str]]:
        """(voi, population) of a row; a single voi goes with every population, several of one transformer with one."""
        if self._transforms[direction, i].n_voi > 1:
            return [(voi, population) for voi in row.voi for population in row.populations]
        voi = row.voi * len(row.populations) if len(row.voi) == 1 else row.voi
        return list(zip(voi, row.populations, strict=True))

    def _to_network(self, number: int, i: int, row: TvbToSpikenet, program: str, regions: list[str]) -> Channel:
        key, transform = f"interfaces.tvb_to_spikenet.{i}", self._transforms["tvb_to_spikenet", i]
        proxies = read_proxies(row, key, self.experiment.program(program), self.folder)
        pairs = self._pairs("tvb_to_spikenet", i, row)
        vois = list(dict.fromkeys(voi for voi, _ in pairs))
        unit = self._unit(vois, key)
        if row.coupling_mode == "TVB":
            if row.sources is not None:
                raise ExperimentError(
                    f'{key}.sources: with coupling_mode = "TVB" it is TVB that sums over all regions; leave it out, or '
                    f'use coupling_mode = "spikeNet".'
                )
            for voi in vois:
                self.simulation.check_coupling(voi, key)
            sources = regions
        else:
            links = self._links(i, row, program, regions)
            sources = [self.labels[source] for source in sorted({link.source for link in links})]
            if not sources:
                raise ExperimentError(
                    f'{key}: coupling_mode = "spikeNet": no TVB region'
                    + (" of `sources`" if row.sources is not None else "")
                    + f" has a weight to {', '.join(regions)}."
                )
        # one group of proxies for each variable and source; or, for a transformer of several, one for each source
        if transform.n_voi > 1:
            heads = [",".join(vois)]
            pairs = [(heads[0], population) for population in row.populations]
        else:
            heads = vois
        labels = [f"{head}@{source}" for head in heads for source in sources]
        group = {label: g for g, label in enumerate(labels)}
        if row.coupling_mode == "TVB":
            edges = [
                Edge(group[f"{head}@{region}"], region, population, proxies.weight(region, region, population),
                     self._proxy_delay(proxies, region, population))
                for region in regions
                for head, population in pairs
            ]  # fmt: skip
        else:
            edges = [
                Edge(group[f"{head}@{self.labels[link.source]}"], self.labels[link.target], link.population,
                     link.weight, round(link.delay_ms - self.grid.window_ms, 9))
                for link in links
                for head, population in pairs
                if population == link.population
            ]  # fmt: skip
        raw = Signal.dense(unit, [f"{voi}@{source}" for voi in vois for source in sources])
        if row.model == "SPIKES":
            out = Signal("spikes", "", tuple(labels), (proxies.params["number_of_neurons"],) * len(labels))
        else:
            out = Signal.dense(DEVICE_UNITS[row.model], labels)
        return Channel(
            number, f"tvb_to_{program}.{i}", "tvb", program, row.model, row.coupling_mode, tuple(row.voi),
            tuple(row.populations), tuple(regions), transform.names, transform.params, proxies.params, raw, out,
            tuple(edges), key=f"tvb_to_spikenet.{i}", equation=transform.equation,
        )  # fmt: skip

    @staticmethod
    def _proxy_delay(proxies: Proxies, region: str, population: str) -> float:
        assert proxies.delay_ms is not None
        return proxies.delay_ms(region, region, population)

    def _from_network(self, number: int, i: int, row: SpikenetToTvb, program: str, regions: list[str]) -> Channel:
        transform = self._transforms["spikenet_to_tvb", i]
        pairs = self._pairs("spikenet_to_tvb", i, row)
        recorded = row.populations if transform.n_voi > 1 else [population for _, population in pairs]
        populations = [f"{population}@{region}" for population in recorded for region in regions]
        voi = [f"{voi}@{region}" for voi, _ in pairs for region in regions]
        # a transformer to several variables gives each its own unit, and says so
        unit = "" if transform.n_voi > 1 else self._unit(row.voi, f"interfaces.spikenet_to_tvb.{i}")
        raw = (
            Signal("spikes", "", tuple(populations), (1,) * len(populations))
            if row.model == "SPIKES"
            else Signal.dense("mV", populations)
        )
        return Channel(
            number, f"{program}_to_tvb.{i}", program, "tvb", row.model, "", tuple(row.voi), tuple(row.populations),
            tuple(regions), transform.names, transform.params, {}, raw, Signal.dense(unit, voi),
            initial_rate=row.initial_rate, key=f"spikenet_to_tvb.{i}", equation=transform.equation,
        )  # fmt: skip

    # ---- as JSON ---------------------------------------------------------------------------------------------

    def _connectome(self, regions: list[str]) -> dict[str, Any]:
        """TVB's own connectome among the regions of one program, before any edge was removed."""
        indices = [self.labels.index(region) for region in regions]
        part = np.ix_(indices, indices)
        return {
            "regions": regions,
            "weights": self.simulation.original_weights[part].tolist(),
            "delays_ms": self.simulation.delays_ms[part].tolist(),
        }

    def _neighbours(self, region: str, most: int = 5) -> list[list[Any]]:
        """The regions that hear `region` most: [label, weight], the strongest first. Reports show them."""
        heard = self.simulation.weights[:, self.labels.index(region)]
        strongest = [int(i) for i in np.argsort(-heard, kind="stable")[:most] if heard[i] > 0]
        return [[self.labels[i], float(heard[i])] for i in strongest]

    @property
    def offer(self) -> dict[str, Any]:
        longest = self.simulation.min_delay_steps
        return {
            "grid": asdict(self.grid),
            "channels": [channel.to_json() for channel in self.channels],
            "connectomes": {name: self._connectome(regions) for name, regions in self.regions.items()},
            "experiment": self.experiment.model_dump(mode="json"),
            "tvb": {
                "model": self.model, "regions": self.labels, "coupled": self.regions, "dt_ms": self.grid.dt_ms,
                "min_delay_ms": None if longest is None else round(longest * self.grid.dt_ms, 9),
                "notes": self.simulation.notes,
                "neighbours": {
                    region: self._neighbours(region) for regions in self.regions.values() for region in regions
                },
                "monitors": self.simulation.monitors,
            },
        }  # fmt: skip
