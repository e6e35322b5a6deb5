"""The network of probe_network.py in NEST: iaf_psc_delta."""

from __future__ import annotations

from typing import Any

from probe_network import read
from tvb_lockstep.spikenet_side.adapter import BuildRequest


def build(request: BuildRequest) -> dict[str, dict[str, Any]]:
    """``{"P": {"probe": neurons}, "Q": {"probe": neurons}, "K": {"counter": neuron}}``"""
    import nest  # here, so that the experiment can be checked where there is no NEST

    neurons, counted = read(request.params)
    network = {}
    for region, each in neurons.items():
        nodes = nest.Create("iaf_psc_delta", len(each.V_m), params=each.neuron)
        nodes.set(V_m=each.V_m, I_e=each.I_e)
        network[region] = {each.population: nodes}
    for region, weight, delay in counted:
        nest.Connect(network[region]["probe"], network["K"]["counter"], syn_spec={"weight": weight, "delay": delay})
    return network
