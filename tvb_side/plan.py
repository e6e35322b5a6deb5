"""What TVB offers to the spiking programs: window, channels, and what each edge of the connectome becomes."""

from __future__ import annotations

import difflib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..bridges.contract import Channel, Edge, Signal, transformer_name
from ..bridges.errors import ExperimentError
from ..bridges.experiment import Experiment, SpikenetSection, SpikenetToTvb, TvbToSpikenet
from ..bridges.grid import NS_PER_MS, Grid, to_ns
from .build import build_simulator, seed_simulator
from .library import quieten
from .simulation import RegionSimulation

# Units of TVB's state variables, where the model's literature gives one; all others are dimensionless or arbitrary.
VOI_UNITS = {
    "MontbrioPazoRoxin": {"r": "kHz", "V": "mV"},
    "JansenRit": {"y0": "mV", "y1": "mV", "y2": "mV"},
    "ZerlautAdaptationFirstOrder": {"E": "kHz", "I": "kHz", "W_e": "pA", "W_i": "pA"},
    "ZerlautAdaptationSecondOrder": {"E": "kHz", "I": "kHz", "W_e": "pA", "W_i": "pA"},
}
# The shortest synapse of a proxy, in steps of its simulator: a current acts one step later than a spike (NEST).
SYNAPSE_STEPS = {"RATE": 1, "SPIKES": 1, "CURRENT": 2}
DEVICE_UNITS = {"RATE": "Hz", "SPIKES": "Hz", "CURRENT": "pA"}
PROXY_PARAMS = ("number_of_neurons", "weight", "delay", "receptor_type")


class Plan:
    """The TVB simulation of an experiment and the offer made from it.

    simulation: TVB's simulator with its proxied regions, ready to step. grid: the time of the run. channels: without
    the sizes of the spiking populations, which their programs add. offer: all of it as JSON.
    """

    def __init__(self, experiment: Experiment, folder: Path, simulator: Any = None) -> None:
        """simulator: a TVB Simulator of one's own in place of what the experiment describes."""
        self.experiment = experiment
        if simulator is None:
            simulator = build_simulator(experiment.tvb, experiment.seed, folder)
        else:
            seed_simulator(simulator, experiment.seed)
        quieten()  # a model of one's own may have imported tvb.simulator.lab, which makes TVB talk again
        self.labels = [str(label) for label in simulator.connectivity.region_labels]
        self.model = type(simulator.model).__name__
        # a proxy's synapse takes over the scaling of TVB's coupling, where that is linear in the delayed state
        linear = type(simulator.coupling).__name__ in ("Linear", "Scaling")
        self._coupling_scale = float(simulator.coupling.a.item()) if linear and simulator.coupling.a.size == 1 else 1.0
        self.regions = {program.name: self._regions_of(program) for program in experiment.spikenet}
        self._check_variables(list(simulator.model.state_variables))
        resolutions = {program.name: program.resolution for program in experiment.spikenet}
        dt_ms = float(simulator.integrator.dt)
        grid = Grid.of(dt_ms, resolutions, experiment.duration)
        self.simulation = RegionSimulation(
            simulator,
            proxied=(delivered := self._delivered()),
            # a region that only listens is not replaced: TVB goes on computing it, with all of its edges
            groups=[[region for region in regions if region in delivered] for regions in self.regions.values()],
            exclusive=experiment.interfaces.exclusive_nodes,
            n_steps=grid.n_steps,
        )
        self.grid = Grid(grid.tick_ns, grid.dt_ticks, self._window_steps(grid), grid.n_steps)
        self.channels = self._channels()

    # ---- regions and variables -------------------------------------------------------------------------------

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
                for voi, population in row.pairs:
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

    def _tightest(self) -> tuple[int, int, int] | None:
        """Of the edges that become synapses of proxies (coupling_mode = "spikeNet"), the one that leaves least for the
        window: (source, target, what its synapse needs [ns]). None when there is no such edge."""
        edges = []
        for _, row, program, regions in self._rows("tvb_to_spikenet"):
            if row.coupling_mode == "spikeNet":
                resolution_ns = to_ns(self.experiment.program(program).resolution, "resolution")
                needed_ns = SYNAPSE_STEPS[row.model] * resolution_ns
                for target in map(self.labels.index, regions):
                    sources = np.nonzero(self.simulation.weights[target])[0]
                    edges += [(int(source), target, needed_ns) for source in sources if source != target]
        return min(edges, key=self._room_ns, default=None)

    def _room_ns(self, edge: tuple[int, int, int]) -> int:
        source, target, needed_ns = edge
        return round(self._delay_ms(source, target) * NS_PER_MS) - needed_ns

    def _tightest_edge(self) -> str:
        edge = self._tightest()
        assert edge is not None
        source, target, _ = edge
        return f"{self.labels[source]} -> {self.labels[target]} ({self._delay_ms(source, target):g} ms)"

    def _delay_ms(self, source: int, target: int) -> float:
        return round(float(self.simulation.delay_steps[target, source]) * self.simulation.dt_ms, 9)

    def _longest_with_synapses(self, grid: Grid) -> int:
        """The longest window that leaves every proxy's synapse the delay that its simulator needs [TVB steps]."""
        edge = self._tightest()
        if edge is None:
            return grid.n_steps
        longest = self._room_ns(edge) // (grid.dt_ticks * grid.tick_ns)
        if longest < 1:
            raise ExperimentError(
                f'coupling_mode = "spikeNet": the edge {self._tightest_edge()} is too short: the synapse of its proxy '
                f"carries the delay less one window of at least {grid.dt_ms:g} ms, and needs at least "
                f"{edge[2] / NS_PER_MS:g} ms. Lengthen the tract, lower tvb.speed, or use coupling_mode = \"TVB\"."
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

    def _to_network(self, number: int, i: int, row: TvbToSpikenet, program: str, regions: list[str]) -> Channel:
        key = f"interfaces.tvb_to_spikenet.{i}"
        proxy = self._proxy_params(row.proxy_params, key, row, self.experiment.program(program).resolution)
        vois = list(dict.fromkeys(voi for voi, _ in row.pairs))
        if row.coupling_mode == "TVB":
            for voi in vois:
                self.simulation.check_coupling(voi, key)
            sources = regions
            edges = [
                Edge(
                    self._group(vois, voi, sources, region), region, population, self._weight(proxy, population),
                    proxy["delay"],
                )
                for region in regions
                for voi, population in row.pairs
            ]  # fmt: skip
        else:
            targets = [self.labels.index(region) for region in regions]
            is_source = (self.simulation.weights[targets] != 0).any(axis=0)
            sources = [label for label, used in zip(self.labels, is_source, strict=True) if used]
            if not sources:
                raise ExperimentError(
                    f'{key}: coupling_mode = "spikeNet": no TVB region has a weight to {", ".join(regions)}.'
                )
            scale = self._coupling_scale
            window_ms = self.grid.window_ms
            edges = [
                Edge(
                    self._group(vois, voi, sources, self.labels[source]), region, population,
                    self._weight(proxy, population) * scale * float(self.simulation.weights[target, source]),
                    round(self._delay_ms(int(source), target) - window_ms, 9),
                )
                for region, target in zip(regions, targets, strict=True)
                for source in np.nonzero(self.simulation.weights[target])[0]
                if source != target
                for voi, population in row.pairs
            ]  # fmt: skip
        labels = [f"{voi}@{source}" for voi in vois for source in sources]
        unit = self.unit_of(vois[0])
        raw = Signal.dense(unit, labels)
        if row.model == "SPIKES":
            out = Signal("spikes", "", tuple(labels), (proxy["number_of_neurons"],) * len(labels))
        else:
            out = Signal.dense(DEVICE_UNITS[row.model], labels)
        return Channel(
            number, f"tvb_to_{program}.{i}", "tvb", program, row.model, row.coupling_mode, tuple(row.voi),
            tuple(row.populations), tuple(regions),
            transformer_name("tvb_to_spikenet", row.model, row.transformer, key),
            row.transformer_params, proxy, raw, out, tuple(edges), key=f"tvb_to_spikenet.{i}",
        )  # fmt: skip

    def _from_network(self, number: int, i: int, row: SpikenetToTvb, program: str, regions: list[str]) -> Channel:
        key = f"interfaces.spikenet_to_tvb.{i}"
        populations = [f"{population}@{region}" for _, population in row.pairs for region in regions]
        voi = [f"{voi}@{region}" for voi, _ in row.pairs for region in regions]
        unit = self.unit_of(row.voi[0])
        raw = (
            Signal("spikes", "", tuple(populations), (1,) * len(populations))
            if row.model == "SPIKES"
            else Signal.dense("mV", populations)
        )
        return Channel(
            number, f"{program}_to_tvb.{i}", program, "tvb", row.model, "", tuple(row.voi), tuple(row.populations),
            tuple(regions), transformer_name("spikenet_to_tvb", row.model, row.transformer, key),
            row.transformer_params, {}, raw,
            Signal.dense(unit, voi), initial_rate=row.initial_rate, key=f"spikenet_to_tvb.{i}",
        )  # fmt: skip

    @staticmethod
    def _group(vois: list[str], voi: str, sources: list[str], source: str) -> int:
        return vois.index(voi) * len(sources) + sources.index(source)

    @staticmethod
    def _weight(proxy: dict[str, Any], population: str) -> float:
        weight = proxy["weight"]
        return float(weight[population] if isinstance(weight, dict) else weight)

    @staticmethod
    def _proxy_params(given: dict[str, Any], key: str, row: TvbToSpikenet, resolution: float) -> dict[str, Any]:
        for name in given:
            if name not in PROXY_PARAMS:
                raise ExperimentError(f"{key}.proxy_params.{name}: unknown key; known here: {', '.join(PROXY_PARAMS)}.")
        # 1 ms is the synaptic delay that NEST, too, takes when none is given; the next multiple of the resolution
        delay = math.ceil(round(1.0 / resolution, 6)) * resolution
        proxy = {"number_of_neurons": 1, "weight": 1.0, "delay": round(delay, 9), "receptor_type": 0, **given}
        if type(proxy["number_of_neurons"]) is not int or not 1 <= proxy["number_of_neurons"] <= 10_000_000:
            raise ExperimentError(
                f"{key}.proxy_params.number_of_neurons = {proxy['number_of_neurons']!r}: it must be a whole number, at "
                f"least 1."
            )
        if isinstance(proxy["weight"], dict) and (missing := [p for p in row.populations if p not in proxy["weight"]]):
            raise ExperimentError(f"{key}.proxy_params.weight: no weight for population {', '.join(missing)}.")
        for value in proxy["weight"].values() if isinstance(proxy["weight"], dict) else [proxy["weight"]]:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ExperimentError(
                    f"{key}.proxy_params.weight = {value!r}: it must be a number, or a table of one by population."
                )
        to_ns(proxy["delay"] if type(proxy["delay"]) in (int, float) else math.nan, f"{key}.proxy_params.delay")
        if row.coupling_mode == "spikeNet" and "delay" in given:
            raise ExperimentError(
                f'{key}.proxy_params.delay: with coupling_mode = "spikeNet" the delays come from the connectome; '
                f"leave it out."
            )
        return proxy

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
