"""The network of probe_network.py in ANNarchy: the step of NEST's iaf_psc_delta, in its order."""

from __future__ import annotations

from typing import Any

from probe_network import read
from tvb_lockstep.spikenet_side.annarchy import AnnarchyRequest

# V moves with the current of the step and jumps with spikes that arrive in it, but not in the refractory time.
EQUATIONS = """
    v = if waits > 0: v else: E_L + P * (v - E_L) + G * (i_offset + I_e) + g_exc
    waits = if waits > 0: waits - 1 else: 0
    g_exc = 0.0
"""
SHARED = ("E_L", "V_th", "V_reset", "P", "G", "ref_steps", "i_offset")


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    """``{"P": {"probe": neurons}, "Q": {"probe": neurons}, "K": {"counter": neuron}}``"""
    import ANNarchy  # here, so that the experiment can be checked where there is no ANNarchy

    neurons, counted = read(request.params)
    h_ms, net = request.resolution_ms, request.network
    parameters = [*(f"{name} = 0.0 : population" for name in SHARED), "I_e = 0.0"]
    model = ANNarchy.Neuron(
        parameters="\n".join(parameters), equations=EQUATIONS,
        spike="v >= V_th", reset="v = V_reset\nwaits = ref_steps",
    )  # fmt: skip
    network = {}
    for region, each in neurons.items():
        made = net.create(len(each.V_m), model, name=f"{each.population}@{region}")
        P, G = each.propagators(h_ms)
        values = {"P": P, "G": G, "ref_steps": float(each.refractory_steps(h_ms)), "v": each.V_m, "I_e": each.I_e}
        for name, value in {**{key: each.neuron[key] for key in ("E_L", "V_th", "V_reset")}, **values}.items():
            setattr(made, name, value)
        network[region] = {each.population: made}
    for region, weight, delay in counted:
        made = net.connect(network[region]["probe"], network["K"]["counter"], "exc")
        made.all_to_all(weights=weight, delays=delay)
    return network
