"""Excitatory and inhibitory conductance-based neurons in each region, with background input of their own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest


@dataclass(frozen=True)
class Params:
    """[spikenet.params] of experiment.toml. indegree_ei: how many I neurons each E neuron hears; and so on."""

    n_excitatory: int
    n_inhibitory: int
    indegree_ee: int
    indegree_ei: int
    indegree_ie: int
    indegree_ii: int
    weight_e: float  # nS
    weight_i: float  # nS
    delay: float  # ms
    background_rate_e: float  # spikes/s to each E neuron
    background_rate_i: float  # spikes/s to each I neuron
    neuron: dict[str, float]  # parameters of iaf_cond_exp

    @staticmethod
    def of(given: dict[str, Any]) -> Params:
        known = [field.name for field in fields(Params)]
        for key in given:
            if key not in known:
                raise ExperimentError(f"spikenet.params.{key}: unknown key; known here: {', '.join(known)}.")
        missing = [key for key in known if key not in given]
        if missing:
            raise ExperimentError(f"spikenet.params: missing: {', '.join(missing)}.")
        return Params(**given)


def build(request: BuildRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import nest  # here, so that the experiment can be checked where there is no NEST

    p = Params.of(request.params)
    v_reset, v_th = p.neuron["V_reset"], p.neuron["V_th"]
    network = {}
    for region in request.regions:
        E = nest.Create("iaf_cond_exp", p.n_excitatory, params=p.neuron)
        I = nest.Create("iaf_cond_exp", p.n_inhibitory, params=p.neuron)  # noqa: E741
        for neurons, background_rate in ((E, p.background_rate_e), (I, p.background_rate_i)):
            neurons.V_m = nest.random.uniform(v_reset, v_th)
            background = nest.Create("poisson_generator", params={"rate": background_rate})
            # NEST draws the spikes of a Poisson generator anew for each of its targets
            nest.Connect(background, neurons, syn_spec={"weight": p.weight_e, "delay": p.delay})
        for source, target, indegree, weight in (
            (E, E, p.indegree_ee, p.weight_e),
            (I, E, p.indegree_ei, -p.weight_i),
            (E, I, p.indegree_ie, p.weight_e),
            (I, I, p.indegree_ii, -p.weight_i),
        ):
            nest.Connect(
                source, target, {"rule": "fixed_indegree", "indegree": indegree}, {"weight": weight, "delay": p.delay}
            )
        network[region] = {"E": E, "I": I}
    return network
