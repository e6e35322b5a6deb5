"""What the networks of all simulators have in common: parameters, connections, initial potentials, propagators.

Everything random is drawn here with numpy, from the seed of the run, so that no simulator draws anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest

POPULATIONS = ("E", "I")


@dataclass(frozen=True)
class Params:
    """[spikenet.params] of experiment.toml."""

    neurons: int
    indegree_e: int  # E neurons that each neuron hears
    indegree_i: int  # I neurons that each neuron hears
    weight_e: float  # pA
    weight_i: float  # pA
    delay: float  # ms
    neuron: dict[str, float]  # parameters of NEST's iaf_psc_exp

    @staticmethod
    def of(given: dict[str, Any]) -> Params:
        known = [field.name for field in fields(Params)]
        for key in given:
            if key not in known:
                raise ExperimentError(f"spikenet.params.{key}: unknown key; known here: {', '.join(known)}.")
        missing = [key for key in known if key not in given]
        if missing:
            raise ExperimentError(f"spikenet.params: missing: {', '.join(missing)}.")
        p = Params(**given)
        if p.neurons < 10:
            raise ExperimentError(f"spikenet.params.neurons = {p.neurons}: at least 10, of which 8 are excitatory.")
        return p

    @property
    def sizes(self) -> dict[str, int]:
        n_inhibitory = self.neurons // 5
        return {"E": self.neurons - n_inhibitory, "I": n_inhibitory}


class Projection(NamedTuple):
    """All synapses from one population to another: for each the number of its source neuron and of its target neuron.
    weight [pA]: negative when it inhibits."""

    source: str
    target: str
    sources: np.ndarray
    targets: np.ndarray
    weight: float


class Drawn(NamedTuple):
    """One region's network. V_m: initial potential of each neuron [mV], by population."""

    V_m: dict[str, np.ndarray]
    projections: list[Projection]


def draw(request: BuildRequest) -> dict[str, Drawn]:
    """The network of each region. Each neuron hears `indegree_e` E and `indegree_i` I neurons, drawn with replacement,
    never itself."""
    p = Params.of(request.params)
    drawn = {}
    for number, region in enumerate(request.regions):
        random = np.random.default_rng([request.seed, number])
        V_m = {name: random.uniform(p.neuron["V_reset"], p.neuron["V_th"], size) for name, size in p.sizes.items()}
        projections = []
        for target, n_targets in p.sizes.items():
            for source, indegree, weight in (("E", p.indegree_e, p.weight_e), ("I", p.indegree_i, -p.weight_i)):
                heard = random.integers(p.sizes[source] - (source == target), size=(n_targets, indegree))
                if source == target:
                    heard += heard >= np.arange(n_targets)[:, None]  # not itself
                targets = np.repeat(np.arange(n_targets), indegree)
                projections.append(Projection(source, target, heard.ravel(), targets, weight))
        drawn[region] = Drawn(V_m, projections)
    return drawn


def propagators(neuron: dict[str, float], resolution_ms: float) -> dict[str, float]:
    """The exact integration of one step (S. Rotter, M. Diesmann, Biological Cybernetics 81 (1999) 381-402):

    V - E_L becomes P22 (V - E_L) + P21_ex I_ex + P21_in I_in, and I_ex, I_in become P11_ex I_ex, P11_in I_in.
    """
    h, tau_m = resolution_ms, neuron["tau_m"]
    found = {"P22": math.exp(-h / tau_m)}
    for name in ("ex", "in"):
        rate = 1.0 / neuron[f"tau_syn_{name}"] - 1.0 / tau_m  # of the decay of one relative to the other [1/ms]
        found[f"P11_{name}"] = math.exp(-h / neuron[f"tau_syn_{name}"])
        mean = h if rate == 0.0 else -math.expm1(-h * rate) / rate
        found[f"P21_{name}"] = found["P22"] / neuron["C_m"] * mean
    return found


def refractory_steps(neuron: dict[str, float], resolution_ms: float) -> int:
    return round(neuron["t_ref"] / resolution_ms)
