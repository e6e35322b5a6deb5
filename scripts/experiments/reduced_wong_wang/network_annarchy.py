"""The network of rww_network.py in ANNarchy: the step of NEST's iaf_bw_2001, in its order."""

from __future__ import annotations

from typing import Any

from rww_network import LECUYER, Params, draw, late_steps, poisson_levels, projections, step_constants
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.annarchy import AnnarchyRequest

# V moves with the gatings, which decay meanwhile (Runge-Kutta of order 4 for V, the gatings exactly); then what
# arrives in the step is added. What begins with g_ is a conductance to ANNarchy: what arrives, and nothing else.
STAGE = ("(leak * (E_L - {v}) + ({ampa} + {nmda} / (1.0 + conc_Mg2 * exp(-0.062 * {v}) / 3.57)) * (E_ex - {v})"
         " + {gaba} * (E_in - {v}) + i_offset) / C_m")  # fmt: skip

CONSTANTS = ("C_m", "E_L", "E_ex", "E_in", "V_th", "V_reset", "conc_Mg2")


def equations(n_levels: int) -> str:
    """Of one neuron. n_levels: of its external spikes' distribution (`poisson_levels`)."""
    sets = [{"ampa": f"s_ampa{at}", "nmda": f"s_nmda{at}", "gaba": f"s_gaba{at}"} for at in ("", "_half", "_end")]
    (a1, m1), (a2, m2) = LECUYER
    return "\n".join([
        *(f"s_{name}_half = s_{name} * half_{name.upper()}" for name in ("ampa", "nmda", "gaba")),
        *(f"s_{name}_end = s_{name}_half * half_{name.upper()}" for name in ("ampa", "nmda", "gaba")),
        "k1 = " + STAGE.format(v="v", **sets[0]),
        "v2 = v + 0.5 * h * k1",
        "k2 = " + STAGE.format(v="v2", **sets[1]),
        "v3 = v + 0.5 * h * k2",
        "k3 = " + STAGE.format(v="v3", **sets[1]),
        "v4 = v + h * k3",
        "k4 = " + STAGE.format(v="v4", **sets[2]),
        "v = if waits > 0: V_reset else: v + h * (k1 + 2.0 * k2 + 2.0 * k3 + k4) / 6.0",
        "waits = if waits > 0: waits - 1 else: 0",
        # external spikes, none of which arrives before its delay
        f"x = if late > 0: x else: modulo({a1} * x, {m1})",
        f"y = if late > 0: y else: modulo({a2} * y, {m2})",
        f"z = if x - y < 1.0: x - y + {m1 - 1} else: x - y",
        *(f"n{i} = if z > level{i}: 1.0 else: 0.0" for i in range(n_levels)),
        "external = if late > 0: 0.0 else: " + " + ".join(f"n{i}" for i in range(n_levels)),
        "late = if late > 0: late - 1 else: 0",
        "s_ampa = s_ampa_end + g_ampa + external_weight * external",
        "s_nmda = s_nmda_end + g_nmda",
        "s_gaba = s_gaba_end + g_gaba",
        # gating of its own NMDA synapses, and what a spike adds to it: kept for those that hear it later
        "s_own = s_own * half_NMDA * half_NMDA",
        "jump = if waits > 0: jump else: k_0 + k_1 * s_own",
        "g_ampa = 0.0",
        "g_nmda = 0.0",
        "g_gaba = 0.0",
    ])  # fmt: skip


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import ANNarchy  # here, so that the experiment can be checked where there is no ANNarchy

    p, h_ms, net = Params.of(request.params), request.resolution_ms, request.network
    if p.delay > p.E["t_ref"] - h_ms:
        raise ExperimentError(f"spikenet.params.delay = {p.delay} ms: with ANNarchy shorter than E.t_ref, "
                              f"{p.E['t_ref']} ms.")  # fmt: skip
    levels = poisson_levels(p.external_rate * h_ms / 1000.0)
    values = {}
    for name in p.sizes:
        own = p.neuron(name)
        values[name] = {key: own[key] for key in CONSTANTS} | {"leak": own["g_L"]} | step_constants(own, h_ms)
        values[name] |= {"h": h_ms, "external_weight": getattr(p, name)["g_AMPA_ext"]}
        values[name] |= {f"level{i}": level for i, level in enumerate(levels)}
    neuron = ANNarchy.Neuron(
        parameters="\n".join([*(f"{key} = 0.0 : population" for key in values["E"]), "i_offset = 0.0"]),
        equations=equations(len(levels)), spike="v >= V_th",
        reset="v = V_reset\nwaits = ref_steps\ns_own = s_own + jump",
    )  # fmt: skip
    gated = ANNarchy.Synapse(pre_spike="g_target += w * pre.jump")
    network = {}
    for region, drawn in draw(request).items():
        network[region] = {name: net.create(size, neuron, name=f"{name}@{region}") for name, size in p.sizes.items()}
        for name, neurons in network[region].items():
            for key, value in values[name].items():
                setattr(neurons, key, float(value))
            neurons.v, neurons.late = drawn.V_m[name], late_steps(p, h_ms)
            neurons.x, neurons.y = drawn.generators[name]
        for source, target, receptor, weight in projections(p, region):
            pre, post = network[region][source], network[region][target]
            made = net.connect(pre, post, receptor.lower(), gated if receptor == "NMDA" else None)
            made.all_to_all(weights=weight, delays=p.delay, allow_self_connections=False)
    return network
