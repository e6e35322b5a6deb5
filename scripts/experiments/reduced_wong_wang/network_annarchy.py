"""The network of rww_network.py in ANNarchy: the step of NEST's iaf_bw_2001, in its order."""

from __future__ import annotations

from typing import Any

from rww_network import LECUYER, Params, draw, late_steps, poisson_levels, projections, step_constants
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.annarchy import AnnarchyRequest

RECEPTORS = ("AMPA", "NMDA", "GABA")


def equations(p: Params, population: str, resolution_ms: float) -> str:
    """Of one neuron, with its parameters as numbers: to compile them as parameters takes about twice as long.

    V moves with the gatings s, which decay meanwhile (Runge-Kutta of order 4 for V, the gatings exactly); then what
    arrives in the step is added. What begins with g_ is a conductance to ANNarchy: what arrives, and nothing else.
    """
    n, h = p.neuron(population), resolution_ms
    constants = step_constants(n, h)
    decay = {name: constants[f"half_{name}"] for name in RECEPTORS}  # in half a step
    arrives = (f" + {getattr(p, population)['g_AMPA_ext']} * spikes", "", "")  # from outside, by receptor

    def slope(v: str, ampa: str, nmda: str, gaba: str) -> str:
        return (
            f"({n['g_L']} * ({n['E_L']} - {v}) + ({ampa} + {nmda} / (1.0 + {n['conc_Mg2']} * exp(-0.062 * {v}) / 3.57))"
            f" * ({n['E_ex']} - {v}) + {gaba} * ({n['E_in']} - {v}) + i_offset) / {n['C_m']}"
        )

    middle = [f"half_{name}" for name in RECEPTORS]
    (a1, m1), (a2, m2) = LECUYER
    levels = poisson_levels(p.external_rate * h / 1000.0)
    drawn = "".join(f"if z <= {level}: {count}.0 else: " for count, level in enumerate(levels)) + f"{len(levels)}.0"
    lines = [
        *(f"half_{name} = s_{name} * {decay[name]}" for name in RECEPTORS),
        "k1 = " + slope("v", *(f"s_{name}" for name in RECEPTORS)),
        f"v2 = v + {h / 2} * k1",
        "k2 = " + slope("v2", *middle),
        f"v3 = v + {h / 2} * k2",
        "k3 = " + slope("v3", *middle),
        f"v4 = v + {h} * k3",
        "k4 = " + slope("v4", *(f"half_{name} * {decay[name]}" for name in RECEPTORS)),
        f"v = if waits > 0: {n['V_reset']} else: v + {h} * (k1 + 2.0 * k2 + 2.0 * k3 + k4) / 6.0",
        "waits = if waits > 0: waits - 1 else: 0",
        # external spikes, none of which arrives before its delay
        f"x = if late > 0: x else: modulo({a1} * x, {m1})",
        f"y = if late > 0: y else: modulo({a2} * y, {m2})",
        f"z = if x - y < 1.0: x - y + {m1 - 1} else: x - y",
        f"spikes = if late > 0: 0.0 else: {drawn}",
        "late = if late > 0: late - 1 else: 0",
        *(
            f"s_{name} = half_{name} * {decay[name]} + g_{name}{more}"
            for name, more in zip(RECEPTORS, arrives, strict=True)
        ),
        *(f"g_{name} = 0.0" for name in RECEPTORS),
    ]
    if population == "E":  # gating of its own NMDA synapses, and what a spike adds to it: kept for those that hear it
        lines += [f"s_own = s_own * {decay['NMDA'] ** 2}",
                  f"jump = if waits > 0: jump else: {constants['k_0']} + {constants['k_1']} * s_own"]  # fmt: skip
    return "\n".join(lines)


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    """One network per region, with no connections between them: ``{region: {"E": neurons, "I": neurons}}``."""
    import ANNarchy  # here, so that the experiment can be checked where there is no ANNarchy

    p, h_ms, net = Params.of(request.params), request.resolution_ms, request.network
    if p.delay > p.E["t_ref"] - h_ms:
        raise ExperimentError(f"spikenet.params.delay = {p.delay} ms: with ANNarchy shorter than E.t_ref, "
                              f"{p.E['t_ref']} ms.")  # fmt: skip
    models = {}
    for name in p.sizes:
        n = p.neuron(name)
        reset = f"v = {n['V_reset']}\nwaits = {step_constants(n, h_ms)['ref_steps']}"
        models[name] = ANNarchy.Neuron(
            parameters="i_offset = 0.0", equations=equations(p, name, h_ms), spike=f"v >= {n['V_th']}",
            reset=reset + ("\ns_own = s_own + jump" if name == "E" else ""),
        )  # fmt: skip
    gated = ANNarchy.Synapse(pre_spike="g_target += w * pre.jump")
    network = {}
    for region, drawn in draw(request).items():
        network[region] = {name: net.create(n, models[name], name=f"{name}@{region}") for name, n in p.sizes.items()}
        for name, neurons in network[region].items():
            neurons.v, neurons.late = drawn.V_m[name], late_steps(p, h_ms)
            neurons.x, neurons.y = drawn.generators[name]
        for source, target, receptor, weight in projections(p, region):
            pre, post = network[region][source], network[region][target]
            made = net.connect(pre, post, receptor, gated if receptor == "NMDA" else None)
            made.all_to_all(weights=weight, delays=p.delay, allow_self_connections=False)
    return network
