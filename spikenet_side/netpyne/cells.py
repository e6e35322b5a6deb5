"""What NetPyNE's cells are made of: sections, a point process that is the neuron, or an artificial cell."""

from __future__ import annotations

from typing import Any


def is_artificial(cell: Any) -> bool:
    return "secs" not in vars(cell)  # hasattr does not tell: NetPyNE's point cells have an answer to every name


def point_neuron(cell: Any) -> dict[str, Any] | None:
    """What NetPyNE has of the point process that is the neuron, its potential being the variable "vref" of "hObj"; None
    for a cell with its potential in its sections."""
    points = (point for section in cell.secs.values() for point in section.get("pointps", {}).values())
    return next((point for point in points if "vref" in point), None)


def parameters(h: Any, mechanism: str, kind: int = 1) -> list[str]:
    """Names of a mechanism's variables. kind: 1 what can be set from the start; 0 all."""
    standard, name = h.MechanismStandard(mechanism, kind), h.ref("")
    names = []
    for i in range(int(standard.count())):
        standard.name(name, i)
        names.append(str(name[0]))
    return names
