"""Declared networks (spikenet_side/declared.py) in NEST."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...bridges.errors import ExperimentError
from ..adapter import BuildRequest
from ..declared import Drawn, DrawnPopulation, Projection, check_known


def create(request: BuildRequest, drawn: Drawn) -> dict[str, Any]:
    """``{region: {label: NodeCollection}}``; model, params, receptors: NEST's own, in its units."""
    import nest

    network: dict[str, dict[str, Any]] = {region: {} for region in request.regions}
    for population in drawn.populations:
        network[population.region][population.label] = _population(nest, population)
    for projection in drawn.projections:
        _connect(nest, projection, network, request.resolution_ms)
    return network


def _population(nest: Any, population: DrawnPopulation) -> Any:
    check_known([population.model], map(str, nest.node_models), population.where, "model")
    defaults = nest.GetDefaults(population.model)
    given = population.params | population.initial
    check_known(given, map(str, defaults), f"{population.where} ({population.model})", "parameter")
    try:
        nodes = nest.Create(population.model, population.size)
        for name, value in given.items():
            values = value.tolist() if isinstance(value, np.ndarray) else [value] * population.size
            nodes.set([{name: each} for each in values])
    except (nest.NESTError, TypeError) as error:
        raise ExperimentError(f"{population.where}: NEST says {error}") from error
    return nodes


def _connect(nest: Any, projection: Projection, network: dict[str, dict[str, Any]], h_ms: float) -> None:
    n = len(projection.sources)
    if not n:
        return
    ends = [network[end.region][end.label] for end in (projection.source, projection.target)]
    sources, targets = (np.array(nodes.tolist())[index] for nodes, index in
                        zip(ends, (projection.sources, projection.targets), strict=True))  # fmt: skip
    synapse = {"weight": projection.weights, "delay": projection.delays * h_ms}
    if projection.receptor is not None:
        synapse["receptor_type"] = np.full(n, _port(nest, projection))
    try:
        nest.Connect(sources, targets, "one_to_one", synapse)
    except (nest.NESTError, TypeError) as error:
        raise ExperimentError(f"{projection.where}: NEST says {error}") from error


def _port(nest: Any, projection: Projection) -> int:
    """The number of the port that `receptor` means: a number, or a name where the model gives its ports names."""
    wanted = projection.receptor
    if isinstance(wanted, int):
        return wanted
    ports = {str(name): int(port) for name, port in
             nest.GetDefaults(projection.target.model).get("receptor_types", {}).items()}  # fmt: skip
    check_known([str(wanted)], ports, f"{projection.where}: {projection.target.model}", "receptor named")
    return ports[str(wanted)]
