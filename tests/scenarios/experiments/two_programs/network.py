"""Excitatory neurons with background input, not connected to each other."""

from __future__ import annotations

from typing import Any


def build(request: Any) -> dict[str, dict[str, Any]]:
    import nest

    background = nest.Create("poisson_generator", params={"rate": request.params["drive"]})
    network = {}
    for region in request.regions:
        neurons = nest.Create("iaf_psc_alpha", 30)
        nest.Connect(background, neurons, syn_spec={"weight": 20.0, "delay": 1.0})
        network[region] = {"E": neurons}
    return network
