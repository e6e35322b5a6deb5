"""The contract: what both sides must agree on before the first window. Plain data, written as JSON at hello."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import ExperimentError
from .frame import DENSE, SPIKES, Address
from .grid import Grid

KIND_OF = {"dense": DENSE, "spikes": SPIKES}


@dataclass(frozen=True)
class Signal:
    """One end of a channel: what its frames hold.

    kind: "dense" (rows are TVB steps) or "spikes". unit: of a dense value; "" for spikes.
    labels: one per group of columns, such as "E@r_precuneus". sizes: columns in each group (1 for a dense signal,
    the number of neurons or trains for spikes); column = offset of its group + index within it.
    """

    kind: str
    unit: str
    labels: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def columns(self) -> int:
        return sum(self.sizes)

    @classmethod
    def dense(cls, unit: str, labels: list[str]) -> Signal:
        return cls("dense", unit, tuple(labels), (1,) * len(labels))


@dataclass(frozen=True)
class Edge:
    """A connection made by the spiking program from one group of a channel's output to one population of a region."""

    group: int
    region: str
    population: str
    weight: float
    delay_ms: float


@dataclass(frozen=True)
class Channel:
    """One directed stream of frames, from an interface row of one spiking program.

    number: unique in the run. name: unique, names files. producer, consumer: peer names. model: RATE, SPIKES,
    CURRENT (to the network) or SPIKES, POTENTIAL (from it). transformer: one name, or those of a chain;
    transformer_params: as many tables; equation: what they compute, for people. raw: what the producer gives; out: what
    the transformer makes of it and the consumer takes. initial_rate: what the network sends from before t = 0.
    key: the interface row; random numbers hang on it, so that they do not depend on how regions are shared out.
    """

    number: int
    name: str
    producer: str
    consumer: str
    model: str
    coupling_mode: str
    voi: tuple[str, ...]
    populations: tuple[str, ...]
    regions: tuple[str, ...]
    transformer: tuple[str, ...]
    transformer_params: tuple[dict[str, Any], ...]
    proxy_params: dict[str, Any]
    raw: Signal
    out: Signal
    edges: tuple[Edge, ...] = ()
    initial_rate: float = 0.0
    key: str = ""
    equation: str = ""

    def receptor(self, edge: Edge) -> Any:
        """`receptor_type` of the row for the population of `edge`; 0 when the row says nothing."""
        wanted = self.proxy_params.get("receptor_type", 0)
        return wanted.get(edge.population, 0) if isinstance(wanted, dict) else wanted

    def address(self, run_id: bytes, stage: str) -> Address:
        """What the frames of `stage` ("raw" or "transformed") carry. Stages are numbered apart: 2 n and 2 n + 1."""
        signal = self.raw if stage == "raw" else self.out
        number = 2 * self.number + (stage != "raw")
        return Address(run_id, number, f"{self.name}.{stage}", KIND_OF[signal.kind], signal.columns)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Channel:
        data = dict(data)
        for key in ("raw", "out"):
            signal = data[key]
            data[key] = Signal(signal["kind"], signal["unit"], tuple(signal["labels"]), tuple(signal["sizes"]))
        data["edges"] = tuple(Edge(**edge) for edge in data["edges"])
        for key in ("voi", "populations", "regions", "transformer", "transformer_params"):
            data[key] = tuple(data[key])
        return cls(**data)


@dataclass(frozen=True)
class Contract:
    """Everything both sides agree on, composed by each program alike from what all of them offered.

    tvb, spikenet: what the sides say of themselves (regions, monitors, versions, populations), for people and results.
    """

    run_id: str
    grid: Grid
    channels: tuple[Channel, ...]
    experiment: dict[str, Any]
    tvb: dict[str, Any]
    spikenet: dict[str, dict[str, Any]]

    def of(self, peer: str) -> tuple[list[Channel], list[Channel]]:
        """The channels that `peer` consumes, and those it produces."""
        return ([c for c in self.channels if c.consumer == peer], [c for c in self.channels if c.producer == peer])

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id, "grid": asdict(self.grid), "experiment": self.experiment, "tvb": self.tvb,
            "spikenet": self.spikenet, "channels": [channel.to_json() for channel in self.channels],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Contract:
        return cls(
            data["run_id"], Grid(**data["grid"]), tuple(map(Channel.from_json, data["channels"])),
            data["experiment"], data["tvb"], data["spikenet"],
        )  # fmt: skip


def split_label(label: str) -> tuple[str, str]:
    """ "E@r_precuneus" as ("E", "r_precuneus"): a variable or a population, and its region."""
    name, _, region = label.partition("@")
    return name, region


def compose(run_id: str, tvb_offer: dict[str, Any], spikenet_offers: dict[str, dict[str, Any]]) -> Contract:
    """The contract, from TVB's offer (grid, channels, connectome) and the spiking programs' (populations and sizes).

    Raises ExperimentError, alike in every program, when a row names a population that the network does not have.
    """
    channels = []
    for data in tvb_offer["channels"]:
        channel = Channel.from_json(data)
        from_network = channel.consumer == "tvb"
        program = channel.producer if from_network else channel.consumer
        sizes = {(region, name): size for region, name, size in spikenet_offers[program]["populations"]}
        wanted = (
            [split_label(label)[::-1] for label in channel.raw.labels]
            if from_network
            else [(edge.region, edge.population) for edge in channel.edges]
        )
        for region, population in wanted:
            if (region, population) not in sizes:
                there = sorted({name for at, name in sizes if at == region})
                raise ExperimentError(
                    f"{channel.name}: populations: {population!r} does not exist at {region} in {program}; the network "
                    f"has {', '.join(there) or 'no populations'} there."
                )
        if from_network and channel.raw.kind == "spikes":
            raw = replace(channel.raw, sizes=tuple(sizes[key] for key in wanted))
            channel = replace(channel, raw=raw)
        channels.append(channel)
    return Contract(
        run_id, Grid(**tvb_offer["grid"]), tuple(channels), tvb_offer["experiment"], tvb_offer["tvb"], spikenet_offers
    )
