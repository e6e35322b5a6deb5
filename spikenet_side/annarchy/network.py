"""ANNarchy for the address book of spikenet_side/network.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...bridges.errors import ExperimentError
from ..network import Synapses


@dataclass
class AnnarchyAccess:
    """native of populations: ANNarchy's Population; of recording devices: its Monitor.

    ids: ANNarchy numbers neurons within a population; here they are counted through all of them, in the order in which
    they were created. edges: from proxies, of which ANNarchy knows nothing: (ids of the source, target Population,
    weight, delay [ms], receptor). driven: (Population's name, parameter) that a CURRENT channel sets.
    """

    simulator: Any
    native: Any
    edges: list[tuple[np.ndarray, Any, float, float, str]] = field(default_factory=list)
    driven: dict[tuple[str, str], str] = field(default_factory=dict)
    name = "ANNarchy"

    @property
    def n_neurons(self) -> int:
        return sum(population.size for population in self.native.get_populations())

    def _first(self, population: Any) -> int:
        first = 0
        for each in self.native.get_populations():
            if each.name == population.name:
                return first
            first += each.size
        raise AssertionError(population.name)

    def ids(self, native: Any) -> np.ndarray:
        if not hasattr(native, "geometry"):  # a Monitor
            return np.full(1, -1 - native.id, np.int64)
        ranks = getattr(native, "ranks", range(native.size))
        return self._first(getattr(native, "population", native)) + np.asarray(ranks, np.int64)

    def model(self, native: Any) -> str:
        if not hasattr(native, "geometry"):
            return "Monitor"
        for kind, usual in ((type(native).__name__, "Population"), (type(native.neuron_type).__name__, "Neuron")):
            if kind != usual:
                return kind  # PoissonPopulation, Izhikevich
        return str(native.neuron_type.name)

    def part(self, native: Any, indices: np.ndarray) -> Any:
        return native[indices.tolist()]

    def names(self, native: Any) -> list[str]:
        return sorted(getattr(native, "attributes", []))

    def read(self, native: Any, name: str) -> Any:
        return np.broadcast_to(np.ravel(getattr(native, name)), (native.size,))

    def write(self, native: Any, indices: np.ndarray, name: str, values: list[Any]) -> None:
        if (native.name, name) in self.driven:
            raise ExperimentError(
                f"it is what channel {self.driven[native.name, name]} drives, and would be overwritten. Set it in the "
                f"build function; the current of the channel comes on top of that."
            )
        present = getattr(native, name)
        if np.ndim(present) == 0:
            if len(indices) < native.size or any(value != values[0] for value in values):
                raise ExperimentError(
                    "ANNarchy has one value of it for the whole population (declared ': population', or a default). "
                    "Set one value for all of its neurons, or make it local: Neuron(parameters='… = … ') without "
                    "': population'."
                )
            changed: Any = values[0]
        else:
            changed = np.array(present).ravel()
            changed[indices] = values
            changed = changed.reshape(np.shape(present))
        try:
            setattr(native, name, changed)
        except (TypeError, ValueError) as error:
            raise ExperimentError(f"ANNarchy says {error}") from error

    def _projections(self, sources: list[Any] | None, targets: list[Any] | None) -> list[Any]:
        names = [None if end is None else {getattr(each, "population", each).name for each in end if
                                           hasattr(each, "geometry")} for end in (sources, targets)]  # fmt: skip
        return [
            each for each in self.native.get_projections()
            if all(wanted is None or getattr(end, "population", end).name in wanted
                   for wanted, end in zip(names, (each.pre, each.post), strict=True))
        ]  # fmt: skip

    def synapses(self, sources: list[Any] | None, targets: list[Any] | None) -> Synapses:
        parts: list[tuple[np.ndarray, ...]] = []
        for projection in self._projections(sources, targets):
            rows = projection.pre_ranks
            sizes = [len(row) for row in rows]
            n = sum(sizes)
            pre = np.concatenate([np.asarray(row, np.int64) for row in rows]) if n else np.zeros(0, np.int64)
            post = np.repeat(np.asarray(projection.post_ranks, np.int64), sizes)
            parts.append((
                self._first(getattr(projection.pre, "population", projection.pre)) + pre,
                self._first(getattr(projection.post, "population", projection.post)) + post,
                _flat(projection.w, n), _flat(projection.delay, n), np.full(n, str(projection.target), object),
            ))  # fmt: skip
        for ids, target, weight, delay_ms, receptor in self.edges:
            post = self.ids(target)
            pre, to = np.repeat(ids, len(post)), np.tile(post, len(ids))
            n = len(pre)
            parts.append((pre, to, np.full(n, weight), np.full(n, delay_ms), np.full(n, receptor, object)))
        if not parts:
            return Synapses(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0, object))
        return Synapses(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def set_weights(
        self, sources: list[Any] | None, targets: list[Any] | None, rows: np.ndarray, weights: np.ndarray
    ) -> None:
        order = np.argsort(rows)
        rows, weights, first = rows[order], weights[order], 0
        projections = self._projections(sources, targets)
        if len(rows) and rows[-1] >= sum(each.nb_synapses for each in projections):
            raise ExperimentError("connections of proxies have the weights of the interface rows: set them there.")
        for projection in projections:
            n = projection.nb_synapses
            own = slice(*np.searchsorted(rows, [first, first + n]))
            if own.start < own.stop:
                values = _flat(projection.w, n)
                values[rows[own] - first] = weights[own]
                if isinstance(projection.w, int | float):
                    if len(np.unique(values)) > 1:
                        raise ExperimentError(
                            f"the projection from {projection.pre.name} to {projection.post.name} has one weight for "
                            f"all of its synapses in ANNarchy; set all of them to one value."
                        )
                    projection.w = float(values[0])
                else:
                    ends = np.cumsum([len(row) for row in projection.pre_ranks])[:-1]
                    projection.w = [part.tolist() for part in np.split(values, ends)]
            first += n

    def describe(self, number: int) -> str:
        first = 0
        for population in self.native.get_populations():
            if number < first + population.size:
                return str(population.name)
            first += population.size
        return "proxy"


def _flat(values: Any, n: int) -> np.ndarray:
    """Values of all synapses, of which ANNarchy has one for all or a list for each target neuron."""
    if isinstance(values, int | float):
        return np.full(n, float(values))
    return np.concatenate([np.asarray(row, float) for row in values]) if n else np.zeros(0)
