"""NEST for the address book of spikenet_side/network.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...bridges.errors import ExperimentError
from ..network import Synapses


class NestAccess:
    """native of all nodes: a NodeCollection. hidden: ids of the adapter's own recorders, whose connections are not
    the user's."""

    name = "NEST"
    native = None  # NEST has one network, in its kernel

    def __init__(self, nest: Any) -> None:
        self.simulator = nest
        self.hidden = np.zeros(0, np.int64)

    def ids(self, native: Any) -> np.ndarray:
        return np.asarray(native.tolist(), np.int64)

    def model(self, native: Any) -> str:
        models = native.get("model")
        return ", ".join(dict.fromkeys(map(str, models))) if isinstance(models, tuple) else str(models)

    def part(self, native: Any, indices: np.ndarray) -> Any:
        return native[indices.tolist()]

    def names(self, native: Any) -> list[str]:
        return sorted(str(name) for name in native[0].get())

    def read(self, native: Any, name: str) -> Any:
        values = native.get(name)
        return [values] if len(native) == 1 else values

    def write(self, native: Any, indices: np.ndarray, name: str, values: list[Any]) -> None:
        try:
            native[indices.tolist()].set([{name: value} for value in values])
        except (self.simulator.NESTError, TypeError) as error:  # TypeError: NEST's answer to a value of another kind
            raise ExperimentError(f"NEST says {error}") from error

    def _connections(self, sources: list[Any] | None, targets: list[Any] | None) -> Any:
        """NEST's SynapseCollection; None when one end is nothing."""
        ends = {}
        for name, natives in (("source", sources), ("target", targets)):
            if natives is not None:
                ids = np.unique(np.concatenate([self.ids(each) for each in natives] or [np.zeros(0, np.int64)]))
                if not len(ids):
                    return None
                ends[name] = self.simulator.NodeCollection(ids.tolist())
        return self.simulator.GetConnections(**ends)

    def synapses(self, sources: list[Any] | None, targets: list[Any] | None) -> Synapses:
        found = self._connections(sources, targets)
        if found is None or not len(found):
            return _table([])
        table = found.get(["source", "target", "weight", "delay", "receptor"])
        table = _table([np.atleast_1d(table[key]) for key in ("source", "target", "weight", "delay", "receptor")])
        keep = self._shown(table.sources, table.targets)
        return Synapses(table.sources[keep], table.targets[keep], table.weights[keep], table.delays[keep],
                        table.receptors[keep])  # fmt: skip

    def set_weights(
        self, sources: list[Any] | None, targets: list[Any] | None, rows: np.ndarray, weights: np.ndarray
    ) -> None:
        if not len(rows):
            return
        found = self._connections(sources, targets)
        table = found.get(["source", "target", "weight"])
        ends = [np.atleast_1d(table[key]).astype(np.int64) for key in ("source", "target")]
        values = np.array(np.atleast_1d(table["weight"]), float)
        values[np.flatnonzero(self._shown(*ends))[rows]] = weights
        try:
            found.set({"weight": values.tolist()})
        except self.simulator.NESTError as error:
            raise ExperimentError(f"the weights cannot be set: NEST says {error}") from error

    def _shown(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return ~np.isin(sources, self.hidden) & ~np.isin(targets, self.hidden)

    def describe(self, number: int) -> str:
        return str(self.simulator.NodeCollection([number]).get("model"))


def _table(columns: list[np.ndarray]) -> Synapses:
    given = columns or [np.zeros(0)] * 5
    return Synapses(given[0].astype(np.int64), given[1].astype(np.int64), given[2].astype(float),
                    given[3].astype(float), given[4].astype(np.int64))  # fmt: skip
