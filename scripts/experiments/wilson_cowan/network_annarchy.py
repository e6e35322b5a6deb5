"""The network of network.py in ANNarchy: the same neuron, sizes, in-degrees, weights, delays and background."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from network import Params
from tvb_lockstep.spikenet_side.annarchy import AnnarchyRequest

# iaf_cond_exp (Meffin et al. 2004) in the units of NEST: pF, nS, mV, pA, ms. NEST solves it by Runge-Kutta-Fehlberg
# 4(5); here the conductances decay exactly, and v relaxes exponentially with the mean of each conductance in the step.
# As in NEST, what arrives in a step (g_exc, g_inh; ANNarchy forgets them after it) opens a conductance at its end. The
# names matter: in the refractory period ANNarchy stops every variable but those that begin with g_.
EQUATIONS = """
    ex = g_open_ex * mean_ex
    inh = g_open_in * mean_in
    C_m * dv/dt = g0 * (E_L - v) + ex * (E_ex - v) + inh * (E_in - v) + i_offset : exponential, init = E_L
    g_open_ex = g_open_ex * decay_ex + g_exc
    g_open_in = g_open_in * decay_in + g_inh
"""
NEURON = ("C_m", "E_L", "V_th", "V_reset", "t_ref", "E_ex", "E_in")
TRAINS = 10  # of background for each neuron: a Poisson neuron of ANNarchy fires at most once in a step


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import ANNarchy  # here, so that the experiment can be checked where there is no ANNarchy
    import scipy.sparse

    p = Params.of(request.params)
    h_ms, net = request.resolution_ms, request.network
    values = {name: p.neuron[name] for name in NEURON} | {"g0": p.neuron["g_L"]}  # what begins with g_ is a synapse
    values["t_ref"] = (round(p.neuron["t_ref"] / h_ms) + 0.5) * h_ms  # ANNarchy cuts t_ref / h off to whole steps
    for receptor in ("ex", "in"):
        in_tau = h_ms / p.neuron[f"tau_syn_{receptor}"]
        values |= {f"decay_{receptor}": math.exp(-in_tau), f"mean_{receptor}": -math.expm1(-in_tau) / in_tau}
    neuron = ANNarchy.Neuron(
        parameters="\n".join([*(f"{name} = {value} : population" for name, value in values.items()), "i_offset = 0.0"]),
        equations=EQUATIONS, spike="v >= V_th", reset="v = V_reset", refractory="t_ref",
    )  # fmt: skip
    draw = np.random.default_rng(request.seed)

    def connect(source: Any, target: Any, receptor: str, heard: np.ndarray, weight: float) -> None:
        """heard: for each target neuron the source neurons that it hears; one heard twice has twice the weight."""
        to = np.repeat(np.arange(target.size), heard.shape[1])
        synapses = scipy.sparse.coo_matrix((np.full(to.size, weight), (heard.ravel(), to)), (source.size, target.size))
        net.connect(source, target, receptor).from_sparse(synapses.tocsc(), delays=p.delay)

    network = {}
    for region in request.regions:
        E = net.create(p.n_excitatory, neuron, name=f"E@{region}")
        I = net.create(p.n_inhibitory, neuron, name=f"I@{region}")  # noqa: E741
        for neurons, background_rate in ((E, p.background_rate_e), (I, p.background_rate_i)):
            neurons.v = draw.uniform(p.neuron["V_reset"], p.neuron["V_th"], neurons.size)
            trains = net.create(ANNarchy.PoissonPopulation(TRAINS * neurons.size, rates=background_rate / TRAINS))
            connect(trains, neurons, "exc", np.arange(trains.size).reshape(-1, TRAINS), p.weight_e)
        for source, target, receptor, indegree, weight in (
            (E, E, "exc", p.indegree_ee, p.weight_e),
            (I, E, "inh", p.indegree_ei, p.weight_i),
            (E, I, "exc", p.indegree_ie, p.weight_e),
            (I, I, "inh", p.indegree_ii, p.weight_i),
        ):
            # as NEST's fixed_indegree draws them: with replacement, itself included
            heard = draw.integers(source.size, size=(target.size, indegree))
            if heard.size:  # ANNarchy has no projections without synapses
                connect(source, target, receptor, heard, weight)
        network[region] = {"E": E, "I": I}
    return network
