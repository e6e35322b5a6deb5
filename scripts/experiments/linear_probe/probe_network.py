"""What the networks of all simulators have in common: parameters, and the exact integration of a step.

Populations: "probe" at P and at Q, leaky integrators that hear TVB only; "counter" at K, which hears all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from tvb_lockstep.bridges.errors import ExperimentError

COUNTER = {"E_L": 0.0, "V_reset": 0.0, "V_th": 1e15, "tau_m": 1e18}  # no leak, no spike
KEYS = {
    "neuron": ["C_m", "tau_m", "E_L", "V_th", "V_reset", "t_ref"],
    "P": ["V_m", "I_e"], "Q": ["V_m", "I_e"], "K": ["weight", "delay"],
}  # fmt: skip


class Counted(NamedTuple):
    """What the counter hears of a region: weight [mV per spike], delay [ms]."""

    region: str
    weight: float
    delay: float


@dataclass(frozen=True)
class Neurons:
    """The neurons of a region. neuron: parameters that they share; V_m: initial potential [mV], I_e: constant
    current [pA], of each."""

    population: str
    neuron: dict[str, float]
    V_m: list[float]
    I_e: list[float]

    def propagators(self, resolution_ms: float) -> tuple[float, float]:
        """P and G of a step: V - E_L becomes P (V - E_L) + G I, exactly, for I [pA] constant in the step
        (S. Rotter, M. Diesmann, Biological Cybernetics 81 (1999) 381-402)."""
        h_by_tau = resolution_ms / self.neuron["tau_m"]
        return math.exp(-h_by_tau), -math.expm1(-h_by_tau) * self.neuron["tau_m"] / self.neuron["C_m"]

    def refractory_steps(self, resolution_ms: float) -> int:
        return round(self.neuron["t_ref"] / resolution_ms)


def read(params: dict[str, Any]) -> tuple[dict[str, Neurons], list[Counted]]:
    """The neurons of P, Q and K, and what K hears, of [spikenet.params]."""
    for table, keys in KEYS.items():
        if sorted(params.get(table, {})) != sorted(keys):
            raise ExperimentError(
                f"spikenet.params.{table}: it has {', '.join(params.get(table, {})) or 'no keys'}; it must have "
                f"{', '.join(keys)}."
            )
    neurons = {}
    for region in ("P", "Q"):
        V_m, I_e = params[region]["V_m"], params[region]["I_e"]
        if len(V_m) != len(I_e) or not V_m:
            raise ExperimentError(
                f"spikenet.params.{region}: {len(V_m)} values of V_m and {len(I_e)} of I_e; one of each per neuron."
            )
        neurons[region] = Neurons("probe", params["neuron"], V_m, I_e)
    neurons["K"] = Neurons("counter", {**params["neuron"], **COUNTER}, [0.0], [0.0])
    counted = [Counted(region, weight, params["K"]["delay"]) for region, weight in params["K"]["weight"].items()]
    if unknown := [each.region for each in counted if each.region not in ("P", "Q")]:
        raise ExperimentError(f"spikenet.params.K.weight.{unknown[0]}: it hears P and Q.")
    return neurons, counted
