"""The network of lif_network.py in NetPyNE: the step of NEST's iaf_psc_exp (mod/IafPscExp.mod)."""

from __future__ import annotations

from typing import Any

from lif_network import Params, draw, propagators, refractory_steps
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest


def build(request: BuildRequest) -> dict[str, Any]:
    """One network per region, with no connections between them, of NetPyNE's populations E@REGION and I@REGION."""
    from netpyne import specs  # here, so that the experiment can be checked where there is no NetPyNE

    p, h_ms = Params.of(request.params), request.resolution_ms
    # NEURON sees that V has crossed the threshold when it begins the next step, and counts the delay from there
    delay_ms = p.delay - h_ms
    if delay_ms < h_ms / 2:
        raise ExperimentError(f"spikenet.params.delay = {p.delay} ms: with NetPyNE at least {2 * h_ms:g}, two steps.")
    net = specs.NetParams()
    values = {name: p.neuron[name] for name in ("E_L", "V_th", "V_reset")} | propagators(p.neuron, h_ms)
    point = {"mod": "IafPscExp", "vref": "V", **values, "ref_steps": refractory_steps(p.neuron, h_ms)}
    soma = {"geom": {"L": 10.0, "diam": 10.0}, "pointps": {"iaf": point}, "threshold": p.neuron["V_th"]}
    net.cellParams["iaf"] = {"conds": {"cellType": "iaf"}, "secs": {"soma": soma}}
    for region, drawn in draw(request).items():
        for name, V_m in drawn.V_m.items():
            cells = [{"params": {"V_m": value}} for value in V_m.tolist()]
            net.popParams[f"{name}@{region}"] = {"cellType": "iaf", "cellsList": cells}
        for source, target, sources, targets, weight in drawn.projections:
            net.connParams[f"{source}->{target}@{region}"] = {
                "preConds": {"pop": f"{source}@{region}"}, "postConds": {"pop": f"{target}@{region}"},
                "connList": [list(pair) for pair in zip(sources.tolist(), targets.tolist(), strict=True)],
                "sec": "soma", "loc": 0.5, "weight": weight, "delay": delay_ms,
            }  # fmt: skip
    return {"netParams": net}
