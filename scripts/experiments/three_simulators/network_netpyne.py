"""Hippocampus: pyramidal cells of two compartments and basket cells, all with Hodgkin & Huxley's currents."""

from __future__ import annotations

from typing import Any


def build(request: Any) -> dict[str, Any]:
    from netpyne import specs

    (region,) = request.regions
    p, net = request.params, specs.NetParams()
    soma = {"geom": {"diam": 18.8, "L": 18.8}, "mechs": {"hh": {}}}
    dend = {
        "geom": {"diam": 2.0, "L": 100.0, "nseg": 3}, "mechs": {"pas": {"g": 1e-4, "e": -65.0}},
        "topol": {"parentSec": "soma", "parentX": 1.0, "childX": 0.0},
    }  # fmt: skip
    net.cellParams["PYR"] = {"secs": {"soma": soma, "dend": dend}}
    net.cellParams["BAS"] = {"secs": {"soma": soma}}
    net.popParams["pyramidal"] = {"cellType": "PYR", "numCells": p["pyramidal"]}
    net.popParams["basket"] = {"cellType": "BAS", "numCells": p["basket"]}
    net.synMechParams["AMPA"] = {"mod": "Exp2Syn", "tau1": 0.1, "tau2": 3.0, "e": 0.0}
    net.synMechParams["GABA"] = {"mod": "Exp2Syn", "tau1": 0.5, "tau2": 8.0, "e": -75.0}
    net.stimSourceParams["background"] = {"type": "NetStim", "rate": p["background"], "noise": 1.0}
    net.stimTargetParams["background"] = {
        "source": "background", "conds": {"pop": "pyramidal"}, "sec": "dend", "loc": 0.7, "synMech": "AMPA",
        "weight": 0.001, "delay": 1.0,
    }  # fmt: skip
    for source, target, section, synapse, indegree, weight in (
        ("pyramidal", "pyramidal", "dend", "AMPA", 4, 0.0002),
        ("pyramidal", "basket", "soma", "AMPA", 10, 0.0008),
        ("basket", "pyramidal", "soma", "GABA", 5, 0.002),
    ):  # weights in uS
        net.connParams[f"{source}->{target}"] = {
            "preConds": {"pop": source}, "postConds": {"pop": target}, "convergence": indegree, "weight": weight,
            "delay": 1.0, "sec": section, "synMech": synapse,
        }  # fmt: skip
    names = {name: name for name in ("pyramidal", "basket")}
    return {"netParams": net, "simConfig": specs.SimConfig(), "populations": {region: names}}
