"""The network of rww_network.py in NetPyNE: the step of NEST's iaf_bw_2001 (mod/IafBw.mod)."""

from __future__ import annotations

from typing import Any

from rww_network import Params, draw, late_steps, poisson_levels, projections, step_constants
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest

CONSTANTS = ("C_m", "g_L", "E_L", "E_ex", "E_in", "V_th", "V_reset", "conc_Mg2", "tau_decay_NMDA")
SYNAPSES = ("recurrent", "AMPA", "GABA")  # in the order of the mod file's weights; recurrent: NMDA and AMPA at once
OF_RECEPTOR = {"NMDA": "recurrent", "GABA": "GABA"}
MAX_LEVELS = 10  # of the mod file


def build(request: BuildRequest) -> dict[str, Any]:
    """One network per region, with no connections between them, of NetPyNE's populations E@REGION and I@REGION."""
    from netpyne import specs  # here, so that the experiment can be checked where there is no NetPyNE

    p, h_ms = Params.of(request.params), request.resolution_ms
    # NEURON sees that V has crossed the threshold when it begins the next step, and counts the delay from there
    delay_ms = p.delay - h_ms
    if delay_ms < h_ms / 2:
        raise ExperimentError(f"spikenet.params.delay = {p.delay} ms: with NetPyNE at least {2 * h_ms:g}, two steps.")
    levels = poisson_levels(p.external_rate * h_ms / 1000.0)
    if len(levels) > MAX_LEVELS:
        raise ExperimentError(f"spikenet.params.external_rate = {p.external_rate} spikes/s: mod/IafBw.mod draws at "
                              f"most {MAX_LEVELS} external spikes in a step of {h_ms:g} ms; here {len(levels)} have to "
                              f"be possible. Choose a lower rate.")  # fmt: skip
    net = specs.NetParams()
    for synapse in SYNAPSES:  # NetPyNE wants to know their names; they are weights of the neuron's own connections
        net.synMechParams[synapse] = {"mod": "IafBw", "I_e": 0.0}
    for name in p.sizes:
        own, conductances = p.neuron(name), getattr(p, name)
        values = {key: own[key] for key in CONSTANTS} | step_constants(own, h_ms)
        values |= {f"level{i}": float(level) for i, level in enumerate(levels)}
        values |= {"external_weight": conductances["g_AMPA_ext"], "late_steps": late_steps(p, h_ms)}
        values["AMPA_per_NMDA"] = conductances["g_AMPA"] / conductances["g_NMDA"]
        point = {"mod": "IafBw", "vref": "V", "synList": list(SYNAPSES), **values}
        soma = {"geom": {"L": 10.0, "diam": 10.0}, "pointps": {"iaf": point}, "threshold": own["V_th"]}
        net.cellParams[name] = {"conds": {"cellType": name}, "secs": {"soma": soma}}
    for region, drawn in draw(request).items():
        for name in p.sizes:
            starts = zip(drawn.V_m[name].tolist(), *drawn.generators[name].tolist(), strict=True)
            cells = [{"params": {"V_m": V_m, "x_0": x, "y_0": y}} for V_m, x, y in starts]
            net.popParams[f"{name}@{region}"] = {"cellType": name, "cellsList": cells}
        for source, target, receptor, weight in projections(p, region):
            if receptor in OF_RECEPTOR:
                net.connParams[f"{source}->{target}@{region}"] = {
                    "preConds": {"pop": f"{source}@{region}"}, "postConds": {"pop": f"{target}@{region}"},
                    "sec": "soma", "loc": 0.5, "synMech": OF_RECEPTOR[receptor], "weight": weight, "delay": delay_ms,
                }  # fmt: skip
    return {"netParams": net}
