"""What TVB's models are made of: every model of tvb-library and those of this folder, with the units of their variables
and what stands for a firing rate.

Units and rates are read from the models' equations, parameters and papers; tvb-library does not state them. TVB's time
is in ms, so a rate without another unit is in 1/ms, which is kHz.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from .library import models

# units that bridge and transformers convert; others are shown to people only
CONVERTED = ("Hz", "kHz", "mV", "pA", "nA")
OWN = {"ReducedWongWangExcInhRates": "reduced_wong_wang"}  # models of this folder, and their modules


@dataclass(frozen=True)
class About:
    """rates: the state variables that are firing rates, or stand for them. rate: what the rate is, when none of them is
    a state variable, or what to know of it. units: of the state variables that have one. coupling: TVB's coupling
    function that makes rates [kHz] of its coupling variables. initial_state: where TVB's random one gives no finite
    derivative."""

    rates: tuple[str, ...] = ()
    rate: str = ""
    units: dict[str, str] = field(default_factory=dict)
    coupling: str = ""
    initial_state: dict[str, float] = field(default_factory=dict)


_QIF = "mean rate of quadratic integrate-and-fire neurons; kHz when tau is in ms; V has no unit"
_WONG_WANG = "H_e, H_i [Hz] of Deco et al. 2014"
_PHENOMENOLOGICAL = "none: a phenomenological model"

ABOUT = {
    "Epileptor": About(rate=_PHENOMENOLOGICAL + ", x2 - x1 resembles a local field potential"),
    "Epileptor2D": About(rate=_PHENOMENOLOGICAL),
    "EpileptorRestingState": About(rate=_PHENOMENOLOGICAL),
    "EpileptorCodim3": About(rate=_PHENOMENOLOGICAL),
    "EpileptorCodim3SlowMod": About(rate=_PHENOMENOLOGICAL),
    "Hopfield": About(rate="none: x is a graded state without unit"),
    "JansenRit": About(
        rate="none as a variable: 2 nu_max / (1 + exp(r (v0 - (y1 - y2)))) [kHz] of the pyramidal cells",
        units={"y0": "mV", "y1": "mV", "y2": "mV", "y3": "mV/ms", "y4": "mV/ms", "y5": "mV/ms"},
        coupling="SigmoidalJansenRit",
    ),
    "ZetterbergJansen": About(
        rate="none as a variable: 2 e0 / (1 + exp(rho_1 (rho_2 - v6))) [kHz] of the pyramidal cells",
        units={**{f"v{i}": "mV" for i in range(1, 8)}, **{f"y{i}": "mV/ms" for i in range(1, 6)}},
    ),
    "LarterBreakspear": About(
        rate="none as a variable: QV_max / 2 (1 + tanh((V - VT) / d_V)) of the pyramidal cells, QV_max in kHz; all "
        "variables are without unit"
    ),
    "Linear": About(rates=("x",), rate="x stands for any activity, in any unit"),
    "Generic2dOscillator": About(rate=_PHENOMENOLOGICAL),
    "Kuramoto": About(rate="none: a phase", units={"theta": "rad"}),
    "SupHopf": About(rate=_PHENOMENOLOGICAL),
    "ReducedSetFitzHughNagumo": About(rate=_PHENOMENOLOGICAL),
    "ReducedSetHindmarshRose": About(rate=_PHENOMENOLOGICAL),
    "WilsonCowan": About(rates=("E", "I"), rate="shares of active cells, 0 to 1: a rate once you choose Hz per unit"),
    "ReducedWongWang": About(rate="none as a variable: H [kHz] of Deco et al. 2013 is inside of the equations"),
    "ReducedWongWangExcInh": About(
        rate=f"none as a variable: {_WONG_WANG} are inside of the equations; ReducedWongWangExcInhRates is the same "
        "with R_e and R_i as variables"
    ),
    "ReducedWongWangExcInhRates": About(
        rates=("R_e", "R_i"), rate=f"{_WONG_WANG}", units={"R_e": "Hz", "R_i": "Hz"}
    ),
    "DecoBalancedExcInh": About(rate=f"none as a variable: {_WONG_WANG}, with a gain, are inside of the equations"),
    "ZerlautAdaptationFirstOrder": About(
        rates=("E", "I"), rate="mean rates of the two populations",
        units={"E": "kHz", "I": "kHz", "W_e": "pA", "W_i": "pA"},
    ),
    "ZerlautAdaptationSecondOrder": About(
        rates=("E", "I"), rate="mean rates of the two populations",
        units={"E": "kHz", "I": "kHz", "C_ee": "kHz^2", "C_ei": "kHz^2", "C_ii": "kHz^2", "W_e": "pA", "W_i": "pA"},
    ),
    "MontbrioPazoRoxin": About(rates=("r",), rate=_QIF, units={"r": "kHz"}),
    "CoombesByrne": About(
        rates=("r",), rate="mean rate of quadratic integrate-and-fire neurons, in 1/ms; V, g and q have no unit",
        units={"r": "kHz"},
    ),
    "CoombesByrne2D": About(
        rates=("r",), rate="mean rate of quadratic integrate-and-fire neurons, in 1/ms; V has no unit",
        units={"r": "kHz"},
    ),
    "GastSchmidtKnosche_SD": About(rates=("r",), rate=_QIF, units={"r": "kHz"}),
    "GastSchmidtKnosche_SF": About(rates=("r",), rate=_QIF, units={"r": "kHz"}),
    "DumontGutkin": About(
        rates=("r_e", "r_i"), rate="mean rates of quadratic integrate-and-fire neurons; kHz when tau_e and tau_i are "
        "in ms; V_e and V_i have no unit",
        units={"r_e": "kHz", "r_i": "kHz"},
    ),
    "KIonEx": About(
        rate="none as a variable: R_minus x / pi [kHz]",
        units={"V": "mV", "DKi": "mM", "Kg": "mM"},
        initial_state={"DKi": -5.0, "Kg": -10.0},  # K outside, 4.8 - 3 DKi + Kg, has to be positive
    ),
}  # fmt: skip

# of the state variables that are exchanged in a unit, by model; all others go as numbers without one
VOI_UNITS = {
    name: {variable: unit for variable, unit in about.units.items() if unit in CONVERTED}
    for name, about in ABOUT.items()
}


def about(name: str) -> About:
    """What is known of a model; one that is new in tvb-library says so."""
    return ABOUT.get(name, About(rate="not known: newer than this table"))


def model_names() -> list[str]:
    """Every model that `tvb.model` may name: tvb-library's and those of this folder."""
    return sorted([*(model.value for model in models.ModelsEnum if model.name != "BASE_MODEL"), *OWN])


def model_class(name: str) -> type[Any]:
    """The model's class; imported now, which takes half a second for those that are compiled."""
    if name in OWN:
        return getattr(importlib.import_module(f".{OWN[name]}", __package__), name)
    return getattr(models, name)
