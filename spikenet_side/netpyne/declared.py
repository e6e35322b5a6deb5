"""Declared networks (spikenet_side/declared.py) in NetPyNE."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np

from ...bridges.errors import ExperimentError
from ..adapter import BuildRequest
from ..declared import Drawn, DrawnPopulation, Projection, check_known, close
from .cells import parameters
from .mechanisms import import_neuron

SIDE = 10.0  # um, of the section that holds a point neuron; its membrane is not used
SYNAPSE = re.compile(r"(?:(?P<section>\w+)(?:\((?P<location>[0-9.]+)\))?\.)?(?P<name>[^.()]+)")
OF_THE_POINT = ("vref", "threshold", "synList")


def create(request: BuildRequest, drawn: Drawn) -> dict[str, Any]:
    """What NetPyNE makes the network of; model, params: one of three.

    - A cell with sections: any name, ``params = { secs = …, synMechs = … }`` as in NetPyNE's cellParams and
      synMechParams; initial: ``v`` [mV].
    - A point process whose potential is a variable of its own, by its mechanism: params also has that variable's name
      as ``vref`` and the ``threshold``, and ``synList`` where it has one; initial: its variables that INITIAL reads.
    - An artificial cell (IntFire1 …), by its mechanism.
    """
    import_neuron()
    from netpyne import specs
    from neuron import h

    net = specs.NetParams()
    after: list[Callable[[Any], None]] = []  # what is done when NetPyNE has made the cells
    kinds = {}
    for population in drawn.populations:
        label = f"{population.label}@{population.region}"
        kinds[label] = _population(h, net, population, label, after)
    for number, projection in enumerate(drawn.projections):
        if len(projection.sources):
            _connect(net, projection, number, kinds, request.resolution_ms)
    populations: dict[str, dict[str, str]] = {region: {} for region in request.regions}
    for population in drawn.populations:
        populations[population.region][population.label] = f"{population.label}@{population.region}"

    def created(sim: Any) -> None:
        for step in after:
            step(sim)

    return {"netParams": net, "populations": populations, "created": created}


def _mechanisms(h: Any) -> dict[str, bool]:
    """NEURON's point processes, and whether each is an artificial cell."""
    types, name, found = h.MechanismType(1), h.ref(""), {}
    for i in range(int(types.count())):
        types.select(i)
        types.selected(name)
        found[str(name[0])] = bool(types.is_artificial(i))
    return found


def _population(
    h: Any, net: Any, population: DrawnPopulation, label: str, after: list[Callable[[Any], None]]
) -> str:
    """Declare it to NetPyNE; what it is: "artificial", "point" or "sections"."""
    mechanisms = _mechanisms(h)
    if "secs" in population.params:
        _sections(net, population, label, after)
        return "sections"
    if population.model not in mechanisms:
        raise ExperimentError(
            f"{population.where}: there is no model {population.model!r}.{close(population.model, mechanisms)} Name a "
            f"mechanism ({', '.join(sorted(mechanisms))}; your own as a mod file in the folder mod beside the "
            f"experiment), or give the cell's sections: params = {{ secs = … }}, as in NetPyNE's cellParams."
        )
    artificial = mechanisms[population.model]
    if artificial and population.initial:
        raise ExperimentError(f"{population.where}: initial: an artificial cell ({population.model}) begins with its "
                              f"own state; leave it out.")  # fmt: skip
    values = {name: value for name, value in {**population.params, **population.initial}.items()
              if artificial or name not in OF_THE_POINT}  # fmt: skip
    known = parameters(h, population.model, 0)
    check_known(values, known, f"{population.where} ({population.model})", "parameter")
    cells = [{"params": {name: value[i].item() if isinstance(value, np.ndarray) else value
                         for name, value in values.items()}} for i in range(population.size)]  # fmt: skip
    if artificial:
        net.popParams[label] = {"cellModel": population.model, "cellsList": cells}
        return "artificial"
    for key in ("vref", "threshold"):
        if key not in population.params:
            raise ExperimentError(
                f"{population.where}: params.{key} is missing: {population.model} is a point process, and NetPyNE has "
                f"to know the variable that is its potential (vref), and its threshold."
            )
    check_known([population.params["vref"]], known, f"{population.where}: vref", "variable")
    point: dict[str, Any] = {"mod": population.model}
    point |= {key: population.params[key] for key in ("vref", "synList") if key in population.params}
    soma = {"geom": {"L": SIDE, "diam": SIDE}, "pointps": {"neuron": point},
            "threshold": population.params["threshold"]}  # fmt: skip
    net.cellParams[label] = {"conds": {"cellType": label}, "secs": {"soma": soma}}
    net.popParams[label] = {"cellType": label, "cellsList": cells}
    return "point"


def _sections(net: Any, population: DrawnPopulation, label: str, after: list[Callable[[Any], None]]) -> None:
    for key in ("params", "initial"):
        known = ("secs", "synMechs", "globals", "secLists") if key == "params" else ("v",)
        check_known(getattr(population, key), known, f"{population.where}: {key} of a cell with sections", "entry")
    rule = {key: deepcopy(value) for key, value in population.params.items() if key != "synMechs"}
    net.cellParams[label] = {"conds": {"cellType": label}, **rule}
    net.popParams[label] = {"cellType": label, "numCells": population.size}
    for name, mechanism in population.params.get("synMechs", {}).items():
        if name in net.synMechParams and dict(net.synMechParams[name]) != mechanism:
            raise ExperimentError(f"{population.where}: synMechs.{name} is another one in another population; NetPyNE "
                                  f"knows one of a name.")  # fmt: skip
        net.synMechParams[name] = dict(mechanism)
    if "v" in population.initial:
        values = np.broadcast_to(population.initial["v"], (population.size,)).tolist()

        def begin(sim: Any) -> None:
            for gid, value in zip(sim.net.pops[label].cellGids, values, strict=True):
                for section in sim.net.cells[sim.net.gid2lid[gid]].secs.values():
                    section["vinit"] = value

        after.append(begin)


def _connect(net: Any, projection: Projection, number: int, kinds: dict[str, str], h_ms: float) -> None:
    source, target = (f"{end.label}@{end.region}" for end in (projection.source, projection.target))
    if source == target and (projection.sources == projection.targets).any():
        raise ExperimentError(f"{projection.where}: NetPyNE connects no neuron to itself; leave out allow_autapses.")
    delays = projection.delays
    if kinds[source] != "artificial":
        # NEURON sees that V has crossed the threshold when it begins the next step, and counts the delay from there
        delays = delays - 1
        if delays.min() < 1:
            raise ExperimentError(f"{projection.where}: a delay of {h_ms:g} ms; with NetPyNE it is at least two steps, "
                                  f"{2 * h_ms:g} ms, from neurons that fire at a threshold.")  # fmt: skip
    net.connParams[f"{number} {projection.label}"] = {
        "preConds": {"pop": source}, "postConds": {"pop": target},
        "connList": np.stack([projection.sources, projection.targets], axis=1).tolist(),
        "weight": projection.weights.tolist(), "delay": (delays * h_ms).tolist(),
        **_synapse(net, projection, kinds[target]),
    }  # fmt: skip


def _synapse(net: Any, projection: Projection, kind: str) -> dict[str, Any]:
    """Where the spikes go, as NetPyNE names it."""
    receptor = projection.receptor
    if kind == "artificial":
        known: list[str] = []
    elif kind == "point":
        known = list(projection.target.params.get("synList", []))
    else:
        known = list(projection.target.params.get("synMechs", {}))
    if receptor is None and not known and kind != "sections":
        return {} if kind == "artificial" else {"sec": "soma", "loc": 0.5}
    match = SYNAPSE.fullmatch(known[0] if receptor is None and len(known) == 1 else str(receptor))
    if (receptor is None and len(known) != 1) or match is None:
        raise ExperimentError(
            f"{projection.where}: receptor = {receptor!r}: say which synapse the spikes go to, as 'AMPA', 'dend.AMPA' "
            f"or 'dend(0.7).AMPA'; {projection.target.label} has {', '.join(known) or 'none'}"
            + (" (params.synMechs)." if kind == "sections" else ".")
        )
    check_known([match["name"]], known, f"{projection.where}: {projection.target.label}", "synapse")
    sections = list(projection.target.params.get("secs", {"soma": None}))
    section = match["section"] or ("soma" if "soma" in sections else sections[0])
    check_known([section], sections, f"{projection.where}: {projection.target.label}", "section")
    return {"sec": section, "loc": float(match["location"] or 0.5), "synMech": match["name"]}
