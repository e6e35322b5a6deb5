"""The reduced Wong-Wang model of Deco et al. 2014 with its firing rates as variables."""

from __future__ import annotations

from typing import Any

import numpy as np

from .library import Final, List, models


class ReducedWongWangExcInhRates(models.ReducedWongWangExcInh):
    r"""tvb-library's ReducedWongWangExcInh, whose firing rates R_e and R_i [Hz] can be observed, sent and replaced.

    Deco G, Ponce-Alvarez A, Hagmann P, Romani GL, Mantini D, Corbetta M (2014) How local excitation-inhibition ratio
    impacts the whole brain dynamics. J Neurosci 34:7886-7898. S_e and S_i, the average synaptic gating variables (no
    unit, 0 to 1), are tvb-library's bit for bit: its equations and parameters are inherited, and of the initial history
    and the noise they get the same random numbers. Beside them, for each region and with c the coupling of S_e,

        R_e = H_e(w_p J_N S_e - J_i S_i + W_e I_o + G J_N c + I_ext),   H_e(x) = h(a_e x - b_e, d_e)
        R_i = H_i(J_N S_e - S_i + W_i I_o + lambda G J_N c),            H_i(x) = h(a_i x - b_i, d_i)
        h(y, d) = y / (1 - exp(-d y))

    (eqs. 5 to 8 there), in Hz: b in Hz, a in 1/nC, d in s, all currents in nA.

    **Which moment.** R at step s is the rate in [s - 1, s) dt: that at the state S(s - 1) with the coupling of the step
    s - 1 -> s, from which this step sets out. So EulerDeterministic's step is

        S_e(s) = S_e(s - 1) + dt (-S_e(s - 1) / tau_e + (1 - S_e(s - 1)) gamma_e R_e(s))

    and R(s) stands for the same time as the spikes that a spiking region delivers for step s. In the initial history
    R is 0: what the regions received before it is not known.

    R is not integrated, gets no noise and does not act on S: S_e of a spiking region has to be delivered, too. R_e is a
    coupling variable beside S_e, so that with coupling_mode = "TVB" its delayed sum can be sent, but enters no equation
    of this model. One consequence: tvb-library's Kuramoto coupling divides by the number of coupling variables, and
    gives half as much here; with all others S is the same to the last bit.
    """

    state_variables = ("S_e", "S_i", "R_e", "R_i")
    non_integrated_variables = ("R_e", "R_i")
    _nvar = 4
    cvar = np.array([0, 2], dtype=np.int32)
    stvar = np.array([0], dtype=np.int32)  # as in tvb-library, where it is that of cvar

    state_variable_range = Final(
        label="State variable ranges [lo, hi]",
        default={"S_e": np.array([0.0, 1.0]), "S_i": np.array([0.0, 1.0]),
                 "R_e": np.array([0.0, 100.0]), "R_i": np.array([0.0, 100.0])},
        doc="Synaptic gating variables, and firing rates in Hz",
    )  # fmt: skip
    variables_of_interest = List(
        of=str,
        label="Variables watched by Monitors",
        choices=("S_e", "S_i", "R_e", "R_i"),
        default=("S_e", "S_i", "R_e", "R_i"),
        doc="Synaptic gating variables, and firing rates in Hz",
    )

    def initial(self, dt: float, history_shape: tuple[int, ...], rng: Any = np.random) -> np.ndarray:
        """tvb-library's random initial history of S_e and S_i, and R = 0."""
        n_time, _, n_node, n_mode = history_shape
        history = np.zeros(history_shape)
        # random numbers for S alone: those that the noise gets afterwards stay the same
        history[:, :2] = super().initial(dt, (n_time, 2, n_node, n_mode), rng)
        return history

    def rates(self, S_e: Any, S_i: Any, coupling: Any = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """R_e and R_i [Hz], (n_regions,) each; S_e, S_i and the coupling of S_e are (n_regions,) or a number each."""
        received = self.G * self.J_N * coupling
        recurrent = self.J_N * S_e
        x_e = self.w_p * recurrent - self.J_i * S_i + self.W_e * self.I_o + received + self.I_ext
        x_i = recurrent - S_i + self.W_i * self.I_o + self.lamda * received
        return _h(self.a_e * x_e - self.b_e, self.d_e), _h(self.a_i * x_i - self.b_i, self.d_i)

    def update_state_variables_before_integration(
        self, state_variables: np.ndarray, coupling: np.ndarray, local_coupling: Any = 0.0, stimulus: Any = 0.0
    ) -> None:
        """Puts R in place; what is returned would be bounded once more, at the cost of a third of a step."""
        S_e, S_i = state_variables[0, :, 0], state_variables[1, :, 0]
        received = coupling[0, :, 0] + (local_coupling * state_variables[0])[:, 0]
        state_variables[2, :, 0], state_variables[3, :, 0] = self.rates(S_e, S_i, received)

    def update_state_variables_after_integration(self, state_variables: np.ndarray) -> None:
        """Nothing."""


def _h(y: np.ndarray, d: np.ndarray) -> np.ndarray:
    return y / (1.0 - np.exp(-d * y))
