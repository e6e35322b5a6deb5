"""The network of rww_network.py in NEST: iaf_bw_2001."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rww_network import Params, draw, external_spikes, projections
from tvb_lockstep.spikenet_side.adapter import BuildRequest


def build(request: BuildRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import nest  # here, so that the experiment can be checked where there is no NEST

    p, h_ms = Params.of(request.params), request.resolution_ms
    receptors = nest.GetDefaults("iaf_bw_2001", "receptor_types")
    network = {}
    for region, drawn in draw(request).items():
        network[region] = {name: nest.Create("iaf_bw_2001", n, params=p.neuron(name)) for name, n in p.sizes.items()}
        for name, neurons in network[region].items():
            neurons.V_m = drawn.V_m[name]
            synapse = {
                "weight": getattr(p, name)["g_AMPA_ext"], "delay": p.delay, "receptor_type": receptors["AMPA"],
            }  # fmt: skip
            n_drawn = round(p.drawn_ms / h_ms)
            if n_drawn:
                params = []
                for counts in external_spikes(drawn.generators[name], p.external_rate, h_ms, n_drawn).T:
                    (steps,) = counts.nonzero()
                    times = np.round((steps + 1) * h_ms, 6).tolist()
                    params.append({"spike_times": times, "spike_multiplicities": counts[steps].tolist()})
                nest.Connect(
                    nest.Create("spike_generator", len(neurons), params=params), neurons, "one_to_one", synapse
                )
            # NEST draws the spikes of a Poisson generator anew for each of its targets. The first step after its start
            # is left out.
            start = round((n_drawn - 1) * h_ms, 6) if n_drawn else -math.inf
            poisson = nest.Create("poisson_generator", params={"rate": p.external_rate, "start": start})
            nest.Connect(poisson, neurons, syn_spec=synapse)
        for source, target, receptor, weight in projections(p, region):
            synapse = {"weight": weight, "delay": p.delay, "receptor_type": receptors[receptor]}
            rule = {"rule": "all_to_all", "allow_autapses": False}
            nest.Connect(network[region][source], network[region][target], rule, synapse)
    return network
