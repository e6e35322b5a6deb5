"""Cortex: excitatory and inhibitory conductance-based neurons, the network of the experiment wilson_cowan."""

from __future__ import annotations

from typing import Any

# Brette et al. 2007, benchmark 1 (COBA): pF, nS, mV, ms
NEURON = {
    "C_m": 200.0, "g_L": 10.0, "E_L": -60.0, "V_th": -50.0, "V_reset": -60.0, "t_ref": 5.0, "E_ex": 0.0, "E_in": -80.0,
    "tau_syn_ex": 5.0, "tau_syn_in": 10.0,
}  # fmt: skip
WEIGHT_E, WEIGHT_I, DELAY_MS = 3.0, -15.0, 1.0  # nS


def build(request: Any) -> dict[str, dict[str, Any]]:
    import nest

    p = request.params
    network = {}
    for region in request.regions:
        cells = {name: nest.Create("iaf_cond_exp", p[name], params=NEURON) for name in ("E", "I")}
        for name, neurons in cells.items():
            neurons.V_m = nest.random.uniform(NEURON["V_reset"], NEURON["V_th"])
            background = nest.Create("poisson_generator", params={"rate": p[f"background_{name.lower()}"]})
            nest.Connect(background, neurons, syn_spec={"weight": WEIGHT_E, "delay": DELAY_MS})
        for source, target, indegree, weight in (
            ("E", "E", 10, WEIGHT_E), ("I", "E", 20, WEIGHT_I), ("E", "I", 40, WEIGHT_E), ("I", "I", 20, WEIGHT_I),
        ):  # fmt: skip
            rule = {"rule": "fixed_indegree", "indegree": indegree}
            nest.Connect(cells[source], cells[target], rule, {"weight": weight, "delay": DELAY_MS})
        network[region] = cells
    return network
