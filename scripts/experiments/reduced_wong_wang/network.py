"""The network of rww_network.py in NEST: iaf_bw_2001."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rww_network import Params, draw, external_spikes, projections
from tvb_lockstep.spikenet_side.adapter import BuildRequest

TOLERANCE = 1e-6  # of the solver [mV, nS]: with NEST's 1e-3 spikes differ from the other simulators' after 0.1 s


def build(request: BuildRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import nest  # here, so that the experiment can be checked where there is no NEST

    p, h_ms = Params.of(request.params), request.resolution_ms
    receptors = nest.GetDefaults("iaf_bw_2001", "receptor_types")
    network = {}
    for region, drawn in draw(request).items():
        network[region] = {
            name: nest.Create("iaf_bw_2001", size, params=p.neuron(name) | {"gsl_error_tol": TOLERANCE})
            for name, size in p.sizes.items()
        }
        for name, neurons in network[region].items():
            neurons.V_m = drawn.V_m[name]
            synapse = {
                "weight": getattr(p, name)["g_AMPA_ext"], "delay": p.delay, "receptor_type": receptors["AMPA"],
            }  # fmt: skip
            if p.drawn_ms:
                n_steps = round(p.drawn_ms / h_ms)
                params = []
                for counts in external_spikes(drawn.generators[name], p.external_rate, h_ms, n_steps).T:
                    (steps,) = counts.nonzero()
                    times = np.round((steps + 1) * h_ms, 6).tolist()
                    params.append({"spike_times": times, "spike_multiplicities": counts[steps].tolist()})
                external = nest.Create("spike_generator", len(neurons), params=params)
                nest.Connect(external, neurons, "one_to_one", synapse)
            else:
                # NEST draws the spikes of a Poisson generator anew for each of its targets; by default it is not active
                # in the very first step
                params = {"rate": p.external_rate, "start": -math.inf}
                nest.Connect(nest.Create("poisson_generator", params=params), neurons, syn_spec=synapse)
        for source, target, receptor, weight in projections(p, region):
            synapse = {"weight": weight, "delay": p.delay, "receptor_type": receptors[receptor]}
            rule = {"rule": "all_to_all", "allow_autapses": False}
            nest.Connect(network[region][source], network[region][target], rule, synapse)
    return network
