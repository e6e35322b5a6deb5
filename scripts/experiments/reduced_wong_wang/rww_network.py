"""What the networks of all simulators have in common: parameters, weights, initial potentials, external spikes.

Everything random is drawn here with numpy, from the seed of the run, or by generators that are started here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.spikenet_side.adapter import BuildRequest

NEURON = ("C_m", "g_L", "t_ref", "E_L", "E_ex", "E_in", "V_th", "V_reset", "conc_Mg2", "tau_AMPA", "tau_GABA",
          "tau_rise_NMDA", "tau_decay_NMDA", "alpha")  # fmt: skip
CONDUCTANCES = ("g_AMPA_ext", "g_AMPA", "g_NMDA", "g_GABA")
PUBLISHED = {"E": 160, "I": 40}  # the sizes for which the conductances are given

# P. L'Ecuyer, Communications of the ACM 31 (1988) 742-749, figure 3: two multiplicative generators, combined. All
# products stay below 2^53, so that doubles hold them exactly, in every simulator.
LECUYER = ((40014, 2147483563), (40692, 2147483399))


@dataclass(frozen=True)
class Params:
    """[spikenet.params] of experiment.toml."""

    n_excitatory: int
    n_inhibitory: int
    w_plus: float  # factor of the synapses from E to E
    J_i: float | dict[str, float]  # factor of the synapses from I to E, or one for each region
    external_rate: float  # spikes/s to each neuron
    delay: float  # ms, within the network
    drawn_ms: float  # how long NEST plays the external spikes of the other simulators, see README.md
    E: dict[str, float]  # parameters and conductances of the E neurons
    I: dict[str, float]  # noqa: E741

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
        if not 0 <= p.drawn_ms < math.inf:
            raise ExperimentError(f"spikenet.params.drawn_ms = {p.drawn_ms}: it must be a time in ms, or 0.")
        for name, size in p.sizes.items():
            if size < 2:
                raise ExperimentError(f"spikenet.params: {size} neurons in {name}: it must be 2 at least.")
            own = getattr(p, name)
            valid = (*NEURON, *CONDUCTANCES)
            if wrong := [key for key in own if key not in valid] + [key for key in valid if key not in own]:
                raise ExperimentError(f"spikenet.params.{name}: {', '.join(wrong)}: needed are exactly "
                                      f"{', '.join(valid)}.")  # fmt: skip
        return p

    @property
    def sizes(self) -> dict[str, int]:
        return {"E": self.n_excitatory, "I": self.n_inhibitory}

    def neuron(self, population: str) -> dict[str, float]:
        """The parameters of NEST's iaf_bw_2001 for a population's neurons."""
        own = getattr(self, population)
        return {name: own[name] for name in NEURON}

    def inhibition(self, region: str) -> float:
        """J_i of a region."""
        if not isinstance(self.J_i, dict):
            return self.J_i
        if region not in self.J_i:
            raise ExperimentError(f"spikenet.params.J_i: nothing for {region}; it has {', '.join(self.J_i)}.")
        return self.J_i[region]


class Projection(NamedTuple):
    """Every neuron of `source` to every other neuron of `target`. weight [nS]: conductance for a gating of 1."""

    source: str
    target: str
    receptor: str  # AMPA, NMDA, GABA
    weight: float


def projections(p: Params, region: str) -> list[Projection]:
    """All projections of a region. The conductances are those of 160 E and 40 I neurons; with others the weights are
    scaled, so that their sum is the same."""
    found = []
    for target in p.sizes:
        own = getattr(p, target)
        scale = {name: PUBLISHED[name] / size for name, size in p.sizes.items()}
        excitation = scale["E"] * (p.w_plus if target == "E" else 1.0)
        inhibition = scale["I"] * (p.inhibition(region) if target == "E" else 1.0)
        found += [
            Projection("E", target, "AMPA", own["g_AMPA"] * excitation),
            Projection("E", target, "NMDA", own["g_NMDA"] * excitation),
            Projection("I", target, "GABA", own["g_GABA"] * inhibition),
        ]
    return found


class Drawn(NamedTuple):
    """What is random in one region, by population. V_m: initial potential [mV]. generators: the two states of each
    neuron's generator of external spikes, (2, n_neurons)."""

    V_m: dict[str, np.ndarray]
    generators: dict[str, np.ndarray]


def draw(request: BuildRequest) -> dict[str, Drawn]:
    p = Params.of(request.params)
    drawn = {}
    for number, region in enumerate(request.regions):
        random = np.random.default_rng([request.seed, number])
        V_m = {
            name: random.uniform(p.neuron(name)["V_reset"], p.neuron(name)["V_th"], size)
            for name, size in p.sizes.items()
        }
        generators = {
            name: np.array([random.integers(1, modulus, size) for _, modulus in LECUYER], np.float64)
            for name, size in p.sizes.items()
        }
        drawn[region] = Drawn(V_m, generators)
    return drawn


def late_steps(p: Params, resolution_ms: float) -> int:
    """Steps before the first external spikes can arrive."""
    return round(p.delay / resolution_ms)


def poisson_levels(mean: float) -> list[int]:
    """As many of these levels as a number of the generator exceeds, so many spikes there are: the distribution function
    of Poisson numbers, times the generator's largest number."""
    largest = LECUYER[0][1] - 1
    levels, probability, total = [], math.exp(-mean), 0.0
    while round(total * largest) < largest:
        total += probability
        levels.append(round(total * largest))
        probability *= mean / len(levels)
    return levels[:-1]


def external_spikes(generators: np.ndarray, rate_hz: float, resolution_ms: float, n_steps: int) -> np.ndarray:
    """Number of external spikes of each neuron in each step, (n_steps, n_neurons), as the neurons of ANNarchy and
    NetPyNE draw them: each step takes one number z of the generator, from 1 to its first modulus less 1."""
    levels = np.array(poisson_levels(rate_hz * resolution_ms / 1000.0))
    (a1, m1), (a2, m2) = LECUYER
    x, y = generators
    counts = np.empty((n_steps, generators.shape[1]), np.int64)
    for row in counts:
        x, y = np.fmod(a1 * x, m1), np.fmod(a2 * y, m2)
        z = np.where(x - y < 1.0, x - y + (m1 - 1), x - y)
        row[:] = np.searchsorted(levels, z, side="left")
    return counts


def nmda_jump(neuron: dict[str, float]) -> tuple[float, float]:
    """k_0, k_1: a spike raises the gating s of its neuron's NMDA synapses by k_0 + k_1 s.

    From dx/dt = -x / tau_rise + spikes, ds/dt = -s / tau_decay + alpha x (1 - s), for a spike that comes when x is zero
    again: s is what it has risen to, carried back to the time of the spike. k_1 = exp(-alpha tau_rise) - 1, k_0 =
    int_0^inf alpha e^(-t / tau_rise) e^(t / tau_decay) exp(-alpha tau_rise e^(-t / tau_rise)) dt, here with the power
    series of the incomplete gamma function that this is.
    """
    rise = neuron["alpha"] * neuron["tau_rise_NMDA"]
    power = 1.0 - neuron["tau_rise_NMDA"] / neuron["tau_decay_NMDA"]
    term, total, n = 1.0 / power, 0.0, 0
    while term > 1e-18 * total:
        total += term
        n += 1
        term *= rise / (power + n)
    gamma = rise**power * math.exp(-rise) * total
    return rise ** (1.0 - power) * gamma, math.expm1(-rise)


def step_constants(neuron: dict[str, float], resolution_ms: float) -> dict[str, float]:
    """What the step of a neuron needs besides its parameters: decay of each gating in half a step, steps of the
    refractory time, the jump of the NMDA gating."""
    taus = {"AMPA": neuron["tau_AMPA"], "NMDA": neuron["tau_decay_NMDA"], "GABA": neuron["tau_GABA"]}
    found = {f"half_{name}": math.exp(-resolution_ms / (2.0 * tau)) for name, tau in taus.items()}
    found["ref_steps"] = round(neuron["t_ref"] / resolution_ms)
    found["k_0"], found["k_1"] = nmda_jump(neuron)
    return found
