"""Declared networks (spikenet_side/declared.py) in ANNarchy."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...bridges.errors import ExperimentError
from ..adapter import BuildRequest
from ..declared import Drawn, DrawnPopulation, Projection, check_known, signed

DEFINITION = ("parameters", "equations", "spike", "reset", "refractory", "axon_spike", "axon_reset", "functions")


def create(request: BuildRequest, drawn: Drawn) -> dict[str, Any]:
    """``{region: {label: Population}}``; model: ANNarchy's own spiking neurons by name, or "Neuron" with its equations
    in params (``parameters``, ``equations``, ``spike``, ``reset``, ``refractory``); receptor: "exc", "inh" …"""
    import ANNarchy

    net = request.network  # type: ignore[attr-defined]
    network: dict[str, dict[str, Any]] = {region: {} for region in request.regions}
    neurons: dict[str, Any] = {}  # by what defines them, so that ANNarchy writes each down once
    for population in drawn.populations:
        neuron, values = _neuron(ANNarchy, population, neurons)
        made = net.create(population.size, neuron, name=f"{population.label}@{population.region}")
        check_known(values, made.attributes, f"{population.where} ({population.model})", "parameter or variable")
        for name, value in values.items():
            if isinstance(value, np.ndarray) and name not in made.neuron_type.description["local"]:
                raise ExperimentError(
                    f"{population.where}: {name} is one value for all of its neurons in ANNarchy (declared "
                    f"': population'), and cannot be drawn."
                )
            setattr(made, name, value)
        network[population.region][population.label] = made
    for projection in drawn.projections:
        if len(projection.sources):
            _connect(ANNarchy, net, projection, network, request.resolution_ms)
    return network


def _neuron(annarchy: Any, population: DrawnPopulation, neurons: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The neuron of the population, and the values that it is then given."""
    if population.model == "Neuron":
        definition = {name: value for name, value in population.params.items() if name in DEFINITION}
        if "equations" not in definition or "spike" not in definition:
            raise ExperimentError(
                f"{population.where}: model = 'Neuron' is defined by params: equations and spike, and {_others()}."
            )
    else:
        models = annarchy.models.Neurons
        known = [name for name, each in vars(models).items() if isinstance(each, type) and name != "LeakyIntegrator"
                 and issubclass(each, models.Neuron) and each is not models.Neuron]  # fmt: skip
        check_known([population.model], [*known, "Neuron"], population.where, "model")
        definition = {}
    key = repr((population.model, definition))
    if key not in neurons:
        try:
            neurons[key] = getattr(annarchy, population.model)(**definition)
        except Exception as error:  # ANNarchyException, and what a parser may raise
            raise ExperimentError(f"{population.where}: ANNarchy says {error}") from error
    values = {name: value for name, value in population.params.items() if name not in definition}
    return neurons[key], values | population.initial


def _others() -> str:
    return ", ".join(name for name in DEFINITION if name not in ("equations", "spike"))


def _connect(annarchy: Any, net: Any, projection: Projection, network: dict[str, dict[str, Any]], h_ms: float) -> None:
    """One projection. A neuron heard twice has one synapse of twice the weight: ANNarchy has one for each pair."""
    import scipy.sparse

    pre, post = (network[end.region][end.label] for end in (projection.source, projection.target))
    target, sign = _receptor(projection, post)
    weights, delays = sign * projection.weights, projection.delays
    made = net.connect(pre, post, target)
    if (delays == delays[0]).all():
        ends = (projection.sources, projection.targets)
        synapses = scipy.sparse.coo_matrix((weights, ends), (pre.size, post.size))
        made.from_sparse(synapses.tocsc(), delays=float(delays[0] * h_ms))
        return
    if len(np.unique(projection.targets * pre.size + projection.sources)) < len(weights):
        raise ExperimentError(
            f"{projection.where}: ANNarchy has one synapse for each pair of neurons, which cannot have two delays. Set "
            f"allow_multapses = false, or one delay for all."
        )

    def listed(pre: Any, post: Any, dt: float) -> Any:
        synapses = annarchy.LILConnectivity(dt=dt)
        ends = np.searchsorted(projection.targets, np.arange(post.size + 1))
        for rank in range(post.size):
            own = slice(ends[rank], ends[rank + 1])
            if own.start < own.stop:
                of = (projection.sources[own], weights[own], delays[own] * h_ms)
                synapses.add(rank, *(each.tolist() for each in of))
        return synapses

    made.from_function(method=listed)


def _receptor(projection: Projection, post: Any) -> tuple[str, int]:
    """ANNarchy's target, and the sign by which the weights are multiplied: where none is named, a negative weight is
    one of inh."""
    known = [name.removeprefix("g_") for name in post.attributes if name.startswith("g_")]
    if projection.receptor is None:
        sign = signed(projection) if "inh" in known else 1
        receptor = "inh" if sign < 0 else "exc"
    else:
        sign, receptor = 1, str(projection.receptor)
    check_known([receptor], known, projection.where, "receptor")
    return receptor, sign
