"""The contract: what both sides must agree on before the first window. Plain data, written as JSON at hello."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

from .frame import DENSE, SPIKES, Address

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
    CURRENT (to the network) or SPIKES, POTENTIAL (from it). raw: what the producer gives; out: what the transformer
    makes of it and the consumer takes. lead_windows: how many windows a frame may be sent before its own begins.
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
    transformer: str
    transformer_params: dict[str, Any]
    proxy_params: dict[str, Any]
    raw: Signal
    out: Signal
    edges: tuple[Edge, ...] = ()
    initial_rate: float = 0.0

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
        for key in ("voi", "populations", "regions"):
            data[key] = tuple(data[key])
        return cls(**data)
