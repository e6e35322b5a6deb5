"""Caudate: medium spiny neurons (MSN), which project and inhibit each other, and fast-spiking interneurons (FSI)."""

from __future__ import annotations

from typing import Any

# Izhikevich 2007, section 8.4.2 (MSN) and figure 8.27 (FSI): pF, mV, ms, nS. What begins with g_ is a synapse.
EQUATIONS = """
    C * dv/dt = k * (v - v_rest) * (v - v_t) - u + g_exc * (E_exc - v) + g_inh * (E_inh - v)
    {recovery}
    tau_exc * dg_exc/dt = -g_exc : exponential
    tau_inh * dg_inh/dt = -g_inh : exponential
"""
SYNAPSES = {"E_exc": 0.0, "E_inh": -60.0, "tau_exc": 6.0, "tau_inh": 8.0}
MSN = {"C": 50.0, "k": 1.0, "v_rest": -80.0, "v_t": -25.0, "v_peak": 40.0, "a": 0.01, "b": -20.0, "c": -55.0,
       "d": 150.0}  # fmt: skip
FSI = {"C": 20.0, "k": 1.0, "v_rest": -55.0, "v_t": -40.0, "v_peak": 25.0, "a": 0.2, "b": 0.025, "c": -45.0,
       "v_b": -55.0}  # fmt: skip
WEIGHT_NS, DELAY_MS = {"MSN": 0.5, "FSI": 3.0, "background": 0.5}, 1.0
INDEGREE = {"MSN": 10, "FSI": 5}  # of each kind that an MSN hears


def build(request: Any) -> dict[str, dict[str, Any]]:
    import ANNarchy

    def neuron(parameters: dict[str, float], recovery: str, reset: str) -> Any:
        values = {**parameters, **SYNAPSES}
        return ANNarchy.Neuron(
            parameters="\n".join(f"{name} = {value} : population" for name, value in values.items()),
            equations=EQUATIONS.format(recovery=recovery), spike="v >= v_peak", reset=reset,
        )  # fmt: skip

    p, net = request.params, request.network
    msn = neuron(MSN, "du/dt = a * (b * (v - v_rest) - u)", "v = c\nu += d")
    fsi = neuron(FSI, "du/dt = a * (b * pow(pos(v - v_b), 3) - u)", "v = c")
    network = {}
    for region in request.regions:
        kinds = {"MSN": msn, "FSI": fsi}
        cells = {name: net.create(p[name], kind, name=f"{name}@{region}") for name, kind in kinds.items()}
        # an MSN that comes from rest is silent for 150 ms, until its slow recovery variable has followed
        cells["MSN"].v, cells["MSN"].u = -60.0, MSN["b"] * (-60.0 - MSN["v_rest"])
        cells["FSI"].v = FSI["v_rest"]
        for name in cells:
            trains = net.create(ANNarchy.PoissonPopulation(cells[name].size, rates=p[f"background_{name.lower()}"]))
            net.connect(trains, cells[name], "exc").one_to_one(WEIGHT_NS["background"], delays=DELAY_MS)
        for source, indegree in INDEGREE.items():
            synapses = net.connect(cells[source], cells["MSN"], "inh")
            synapses.fixed_number_pre(indegree, WEIGHT_NS[source], delays=DELAY_MS)
        network[region] = cells
    return network
