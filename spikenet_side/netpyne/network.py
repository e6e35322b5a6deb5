"""NetPyNE for the address book of spikenet_side/network.py."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...bridges.errors import ExperimentError
from ..network import Synapses
from .cells import is_artificial, parameters, point_neuron

PLACED = re.compile(r"(?P<section>\w+)(?:\((?P<location>[\d.]+)\))?\.(?P<name>\w+)")
MORPHOLOGY = ("L", "Ra", "cm", "diam", "v")


@dataclass
class NetPyNEAccess:
    """native of populations: the list of NetPyNE's cells; of stimSourceParams: the list of NEURON's objects.

    ids: NetPyNE's gids; negative for NetStims and current clamps, which have none. edges: of CURRENT channels, which
    are no connections of NetPyNE's: (id of the source, cells, weight, delay [ms], receptor). driven: (gid, variable)
    that a CURRENT channel sets.
    """

    simulator: Any
    h: Any
    edges: list[tuple[int, list[Any], float, float, str]] = field(default_factory=list)
    driven: dict[tuple[int, str], str] = field(default_factory=dict)
    name = "NetPyNE"

    @property
    def native(self) -> Any:
        return self.simulator.net

    def stimulators(self) -> dict[tuple[str, int], tuple[int, Any]]:
        """Id and NEURON's object of what stimTargetParams have made, by label of its source and gid of its cell."""
        found: dict[tuple[str, int], tuple[int, Any]] = {}
        for cell in self.native.cells:
            for stim in vars(cell).get("stims") or []:
                key = (str(stim["source"] if "source" in stim else stim["label"]), cell.gid)
                found[key] = -1 - len(found), stim.get("hObj")
        return found

    def ids(self, native: Any) -> np.ndarray:
        if native and _is_cell(native[0]):
            return np.array([cell.gid for cell in native], np.int64)
        of = {str(made): number for number, made in self.stimulators().values()}
        return np.array([of[str(each)] for each in native], np.int64)

    def model(self, native: Any) -> str:
        return ", ".join(dict.fromkeys(self._model(each) for each in native))

    def _model(self, node: Any) -> str:
        if not _is_cell(node):
            return str(node.hname()).partition("[")[0]
        if is_artificial(node):
            return str(node.tags.get("cellModel"))
        point = point_neuron(node)
        return str(point["mod"] if point else node.tags.get("cellType", "cell"))

    def part(self, native: Any, indices: np.ndarray) -> Any:
        return [native[i] for i in indices]

    def names(self, native: Any) -> list[str]:
        node = native[0]
        if not _is_cell(node):
            return sorted(parameters(self.h, self._model(node), 0))
        if is_artificial(node):
            return sorted(parameters(self.h, self._model(node), 0))
        if point := point_neuron(node):
            return sorted(parameters(self.h, point["mod"], 0))
        names = []
        for label, section in node.secs.items():
            held = section["hObj"].psection()
            found = {f"{name}_{mech}" for mech, values in held["density_mechs"].items() for name in values}
            found |= {name for values in held["ions"].values() for name in values}
            names += [f"{label}.{name}" for name in sorted(found | set(MORPHOLOGY))]
        return names

    def _places(self, node: Any, name: str) -> tuple[list[Any], str]:
        """The objects of NEURON that have the variable, and what it is called there."""
        if not _is_cell(node):
            return [node], name
        if is_artificial(node):
            return [node.hPointp], name
        if point := point_neuron(node):
            return [point["hObj"]], name
        placed = PLACED.fullmatch(name)
        if placed is None or placed["section"] not in node.secs:
            raise ExperimentError(f"cell {node.gid} has no section for {name!r}; it has {', '.join(node.secs)}.")
        section = node.secs[placed["section"]]["hObj"]
        if placed["name"] in ("L", "Ra"):
            return [section], placed["name"]
        if placed["location"] is None:
            return list(section), placed["name"]
        if not 0.0 <= float(placed["location"]) <= 1.0:
            raise ExperimentError(f"{name}: a location is from 0 to 1.")
        return [section(float(placed["location"]))], placed["name"]

    def read(self, native: Any, name: str) -> Any:
        values = []
        for node in native:
            places, variable = self._places(node, name)
            values.append(getattr(places[len(places) // 2], variable))
        return values

    def write(self, native: Any, indices: np.ndarray, name: str, values: list[Any]) -> None:
        chosen = [native[i] for i in indices]
        for node in chosen:
            if (channel := self.driven.get((getattr(node, "gid", -1) if _is_cell(node) else -1, name))) is not None:
                raise ExperimentError(f"it is what channel {channel} drives, and would be overwritten.")
        for node, value in zip(chosen, values, strict=True):
            places, variable = self._places(node, name)
            for place in places:
                try:
                    setattr(place, variable, value)
                except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as error:
                    raise ExperimentError(f"NEURON says {error}") from error

    def _connections(self, targets: list[Any] | None) -> list[tuple[Any, Any]]:
        """Cells, and what NetPyNE has of each of their connections; it makes none of weight 0."""
        cells = self.native.cells if targets is None else [each for of in targets for each in of if _is_cell(each)]
        cells = list({cell.gid: cell for cell in cells}.values())
        return [(cell, conn) for cell in cells for conn in cell.conns if "hObj" in conn]

    def synapses(self, sources: list[Any] | None, targets: list[Any] | None) -> Synapses:
        stimulators = self.stimulators()
        rows = []
        for cell, conn in self._connections(targets):
            source = conn["preGid"]
            if not isinstance(source, int | np.integer):  # "NetStim"
                source = stimulators.get((str(conn.get("preLabel")), cell.gid), (-1, None))[0]
            receptor = conn.get("synMech") or ""
            if not is_artificial(cell) and not point_neuron(cell):
                receptor = f"{conn['sec']}({conn['loc']:g}).{receptor}"
            rows.append((source, cell.gid, conn["hObj"].weight[0], conn["hObj"].delay, receptor))
        for number, driven, weight, delay_ms, receptor in self.edges:
            rows += [(number, cell.gid, weight, delay_ms, receptor) for cell in driven]
        pre, post, weights, delays, receptors = zip(*rows, strict=True) if rows else ((),) * 5
        return Synapses(np.array(pre, np.int64), np.array(post, np.int64), np.array(weights, float),
                        np.array(delays, float), np.array(receptors, object))  # fmt: skip

    def set_weights(
        self, sources: list[Any] | None, targets: list[Any] | None, rows: np.ndarray, weights: np.ndarray
    ) -> None:
        connections = self._connections(targets)
        if len(rows) and rows.max() >= len(connections):
            raise ExperimentError("a CURRENT channel is no connection of NEURON: set the weight of its interface row.")
        for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
            connections[row][1]["hObj"].weight[0] = weight

    def describe(self, number: int) -> str:
        if number < 0:
            return next((label for (label, _), (own, _) in self.stimulators().items() if own == number), "NetStim")
        cell = next((cell for cell in self.native.cells if cell.gid == number), None)
        return "proxy" if cell is None else str(cell.tags.get("pop"))


def _is_cell(node: Any) -> bool:
    return "gid" in getattr(node, "__dict__", {})
