"""The network of lif_network.py in ANNarchy: the step of NEST's iaf_psc_exp, in its order."""

from __future__ import annotations

from typing import Any

import numpy as np
from lif_network import Params, draw, propagators, refractory_steps
from tvb_lockstep.spikenet_side.annarchy import AnnarchyRequest

# V moves with the currents of before the step; then they decay, and the spikes that arrive in the step are added.
EQUATIONS = """
    v = if waits > 0: v else: E_L + P22 * (v - E_L) + P21_ex * i_ex + P21_in * i_in : init = E_L
    waits = if waits > 0: waits - 1 else: 0
    i_ex = P11_ex * i_ex + g_exc
    i_in = P11_in * i_in - g_inh
    g_exc = 0.0
    g_inh = 0.0
"""
NEURON = ("E_L", "V_th", "V_reset")


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import ANNarchy  # here, so that the experiment can be checked where there is no ANNarchy
    import scipy.sparse

    p, h_ms, net = Params.of(request.params), request.resolution_ms, request.network
    values = {name: p.neuron[name] for name in NEURON} | propagators(p.neuron, h_ms)
    values["ref_steps"] = refractory_steps(p.neuron, h_ms)
    neuron = ANNarchy.Neuron(
        parameters="\n".join(f"{name} = {float(value)!r} : population" for name, value in values.items()),
        equations=EQUATIONS, spike="v >= V_th", reset="v = V_reset\nwaits = ref_steps",
    )  # fmt: skip
    network = {}
    for region, drawn in draw(request).items():
        network[region] = {name: net.create(size, neuron, name=f"{name}@{region}") for name, size in p.sizes.items()}
        for name, neurons in network[region].items():
            neurons.v = drawn.V_m[name]
        for source, target, sources, targets, weight in drawn.projections:
            # a neuron heard twice has one synapse of twice the weight
            synapses = scipy.sparse.coo_matrix(
                (np.full(len(sources), abs(weight)), (sources, targets)), (p.sizes[source], p.sizes[target])
            )
            receptor = "exc" if weight > 0 else "inh"
            made = net.connect(network[region][source], network[region][target], receptor)
            made.from_sparse(synapses.tocsc(), delays=p.delay)
    return network
