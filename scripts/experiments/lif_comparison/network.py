"""The network of lif_network.py in NEST: iaf_psc_exp."""

from __future__ import annotations

from typing import Any

import numpy as np
from lif_network import Params, draw
from tvb_lockstep.spikenet_side.adapter import BuildRequest


def build(request: BuildRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import nest  # here, so that the experiment can be checked where there is no NEST

    p = Params.of(request.params)
    network = {}
    for region, drawn in draw(request).items():
        network[region] = {name: nest.Create("iaf_psc_exp", size, params=p.neuron) for name, size in p.sizes.items()}
        ids = {name: np.array(neurons.tolist()) for name, neurons in network[region].items()}
        for name, neurons in network[region].items():
            neurons.V_m = drawn.V_m[name]
        for source, target, sources, targets, weight in drawn.projections:
            values = {"weight": np.full(len(sources), weight), "delay": np.full(len(sources), p.delay)}
            nest.Connect(ids[source][sources], ids[target][targets], "one_to_one", values)
    return network
