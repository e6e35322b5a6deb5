"""The network of network.py in NetPyNE: the same neuron (mod/IafCondExp.mod), sizes, in-degrees, weights, delays and
background."""

from __future__ import annotations

from typing import Any

import numpy as np
from network import Params
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest


def build(request: BuildRequest) -> dict[str, Any]:
    """One network per region, with no connections between them, of NetPyNE's populations E@REGION and I@REGION."""
    from netpyne import specs  # here, so that the experiment can be checked where there is no NetPyNE

    p = Params.of(request.params)
    # NEURON sees that V has crossed the threshold when it begins the next step, and counts the delay from there
    delay_ms = p.delay - request.resolution_ms
    if delay_ms < request.resolution_ms / 2:
        raise ExperimentError(
            f"spikenet.params.delay = {p.delay} ms: with NetPyNE at least {2 * request.resolution_ms:g}, two steps."
        )
    random = np.random.default_rng(request.seed)
    v_reset, v_th = p.neuron["V_reset"], p.neuron["V_th"]
    net = specs.NetParams()
    point = {"mod": "IafCondExp", "vref": "V", **p.neuron, "V_m": f"uniform({v_reset}, {v_th})"}
    soma = {"geom": {"L": 10.0, "diam": 10.0}, "pointps": {"iaf": point}, "threshold": v_th}
    net.cellParams["iaf"] = {"conds": {"cellType": "iaf"}, "secs": {"soma": soma}}
    for region in request.regions:
        sizes = {"E": p.n_excitatory, "I": p.n_inhibitory}
        rates = {"E": p.background_rate_e, "I": p.background_rate_i}
        for name, size in sizes.items():
            label = f"{name}@{region}"
            net.popParams[label] = {"cellType": "iaf", "numCells": size}
            # NetPyNE makes one NetStim for each target
            net.stimSourceParams[label] = {"type": "NetStim", "rate": rates[name], "noise": 1.0}
            net.stimTargetParams[label] = {
                "source": label, "conds": {"pop": label}, "sec": "soma", "loc": 0.5, "weight": p.weight_e,
                "delay": p.delay,
            }  # fmt: skip
        for source, target, indegree, weight in (
            ("E", "E", p.indegree_ee, p.weight_e),
            ("I", "E", p.indegree_ei, -p.weight_i),
            ("E", "I", p.indegree_ie, p.weight_e),
            ("I", "I", p.indegree_ii, -p.weight_i),
        ):
            # NetPyNE's own "convergence" takes each source once; NEST's fixed_indegree, as here, may take it again
            draws = random.integers(0, sizes[source] - (source == target), (sizes[target], indegree))
            if source == target:
                draws += draws >= np.arange(sizes[target])[:, None]  # NetPyNE connects no neuron to itself
            net.connParams[f"{source}->{target}@{region}"] = {
                "preConds": {"pop": f"{source}@{region}"}, "postConds": {"pop": f"{target}@{region}"},
                "connList": [[int(pre), post] for post, row in enumerate(draws) for pre in row],
                "sec": "soma", "loc": 0.5, "weight": weight, "delay": delay_ms,
            }  # fmt: skip
    return {"netParams": net}
