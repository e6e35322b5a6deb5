"""The network of probe_network.py in NetPyNE: the step of NEST's iaf_psc_delta (mod/IafPscDelta.mod)."""

from __future__ import annotations

from typing import Any

from probe_network import read
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest


def build(request: BuildRequest) -> dict[str, Any]:
    """NetPyNE's populations probe@P, probe@Q and counter@K."""
    from netpyne import specs  # here, so that the experiment can be checked where there is no NetPyNE

    neurons, counted = read(request.params)
    h_ms = request.resolution_ms
    net = specs.NetParams()
    for region, each in neurons.items():
        label = f"{each.population}@{region}"
        P, G = each.propagators(h_ms)
        point = {
            "mod": "IafPscDelta", "vref": "V", "P": P, "G": G, "ref_steps": each.refractory_steps(h_ms),
            **{name: each.neuron[name] for name in ("E_L", "V_th", "V_reset")},
        }  # fmt: skip
        soma = {"geom": {"L": 10.0, "diam": 10.0}, "pointps": {"iaf": point}, "threshold": each.neuron["V_th"]}
        net.cellParams[label] = {"conds": {"cellType": label}, "secs": {"soma": soma}}
        cells = [{"params": {"V_m": V_m, "I_e": I_e}} for V_m, I_e in zip(each.V_m, each.I_e, strict=True)]
        net.popParams[label] = {"cellType": label, "cellsList": cells}
    for region, weight, delay in counted:
        # NEURON sees that V has crossed the threshold when it begins the next step, and counts the delay from there
        if delay < 1.5 * h_ms:
            raise ExperimentError(f"spikenet.params.K.delay = {delay} ms: with NetPyNE at least {2 * h_ms:g}, 2 steps.")
        net.connParams[f"{region}->K"] = {
            "preConds": {"pop": f"probe@{region}"}, "postConds": {"pop": "counter@K"},
            "sec": "soma", "loc": 0.5, "weight": weight, "delay": delay - h_ms,
        }  # fmt: skip
    return {"netParams": net}
