"""The brain: Reduced Wong-Wang regions, each with the local inhibition that feedback inhibition control gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

I_E_MINUS_THRESHOLD = -0.026  # nA, I_e - b_e / a_e of all regions: R_e of 3.06 Hz (Deco et al. 2014)


def build(section: Any) -> Any:
    """A TVB Simulator. section.params: [tvb.params] of experiment.toml."""
    from tvb.datatypes.connectivity import Connectivity
    from tvb.simulator import coupling, integrators, monitors, noise
    from tvb.simulator.simulator import Simulator
    from tvb_lockstep.tvb_side.reduced_wong_wang import ReducedWongWangExcInhRates

    p = section.params
    connectome = Connectivity.from_file("connectivity_68.zip")
    weights = connectome.weights / connectome.weights.max()
    np.fill_diagonal(weights, 0.0)  # what a region does to itself is w_p
    connectome.weights = weights
    connectome.speed = np.array([p["speed"]])
    model = ReducedWongWangExcInhRates(G=np.array([p["G"]]))
    S_e, S_i, J_i = balance(model, weights.sum(axis=1))
    model.J_i = J_i
    simulator = Simulator(
        connectivity=connectome,
        conduction_speed=p["speed"],
        model=model,
        coupling=coupling.Linear(a=np.array([1.0]), b=np.array([0.0])),
        integrator=integrators.HeunStochastic(dt=p["dt"], noise=noise.Additive(nsig=np.array([p["noise"]]))),
        monitors=(monitors.TemporalAverage(period=1.0),),
    )
    connectome.configure()
    longest_ms = connectome.tract_lengths.max() / p["speed"]
    rest = np.stack(np.broadcast_arrays(S_e, S_i, *model.rates(S_e, S_i, S_e * weights.sum(axis=1))))
    simulator.initial_conditions = np.tile(rest[..., None], (int(np.ceil(longest_ms / p["dt"])) + 1, 1, 1, 1))
    return simulator


def balance(model: Any, total_weights: np.ndarray) -> tuple[float, float, np.ndarray]:
    """S_e and S_i of all regions at rest, and the J_i of each, (n_regions,), with which they are there.

    Feedback inhibition control (Deco et al. 2014): J_i is such that I_e - b_e / a_e = -0.026 nA everywhere, whatever a
    region receives from the others. The paper finds it by simulating; at the fixed point, where all S_e are equal, it
    follows from the equations. total_weights: sum of the weights into each region.
    """

    def of(*names: str) -> list[float]:
        return [float(getattr(model, name).item()) for name in names]

    a_e, b_e, d_e, tau_e, gamma_e, W_e = of("a_e", "b_e", "d_e", "tau_e", "gamma_e", "W_e")
    a_i, b_i, d_i, tau_i, gamma_i, W_i = of("a_i", "b_i", "d_i", "tau_i", "gamma_i", "W_i")
    J_N, w_p, I_o, G = of("J_N", "w_p", "I_o", "G")
    I_e = b_e / a_e + I_E_MINUS_THRESHOLD
    drive = gamma_e * tau_e * _h(a_e * I_e - b_e, d_e)
    S_e = drive / (1.0 + drive)
    low, high = 0.0, 1.0  # S_i = gamma_i tau_i H_i(J_N S_e + W_i I_o - S_i): the right side falls with S_i
    for _ in range(60):
        S_i = 0.5 * (low + high)
        above = gamma_i * tau_i * _h(a_i * (J_N * S_e + W_i * I_o - S_i) - b_i, d_i) > S_i
        low, high = (S_i, high) if above else (low, S_i)
    return S_e, S_i, (W_e * I_o + w_p * J_N * S_e + G * J_N * S_e * total_weights - I_e) / S_i


def _h(y: float, d: float) -> float:
    return y / -float(np.expm1(-d * y))
