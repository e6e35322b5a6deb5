"""`lockstep models`: what TVB's models are made of, and which of their variables are firing rates."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import Any

from ...bridges.errors import ExperimentError
from ..program import enter

# as tvb-library writes them into the descriptions of its parameters, in brackets
UNIT = re.compile(r"[\[(](ms\^-1|mV\^-1|n/C|rad/ms|k?Hz|ms|s|mV|[np]A|nS|pF)[\])]")

HEAD = """Models for tvb.model: their state variables [units], those that couple, those that monitors watch unless told
otherwise, and what is a firing rate. More of one: lockstep models NAME"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them: its parameters and an example of rows")


def run(args: argparse.Namespace) -> int:
    enter(["tvb"])
    from ...tvb_side.models import model_class, model_names

    names = model_names()
    if args.name is None:
        print(HEAD)
        for name in names:  # one by one: some of tvb-library's models are compiled when they are imported
            print(f"\n{summary(name, model_class(name))}", flush=True)
        return 0
    if args.name not in names:
        close = difflib.get_close_matches(args.name, names, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ExperimentError(f"There is no model {args.name!r}.{hint} There is {', '.join(names)}.")
    print(details(args.name, model_class(args.name)))
    return 0


def facts(name: str, cls: Any) -> dict[str, str]:
    """What there is to say of a model, in short texts."""
    from ...tvb_side.models import about

    known = about(name)
    marks = {variable: f"{variable} [{unit}]" for variable, unit in known.units.items()}
    variables = [marks.get(variable, variable) for variable in cls.state_variables]
    rates = ", ".join(marks.get(variable, variable) for variable in known.rates)
    modes = cls.number_of_modes
    return {
        "variables": ", ".join(variables),
        "couple": ", ".join(cls.state_variables[i] for i in cls.cvar),
        "watched": ", ".join(cls.variables_of_interest.default),
        "rate": ": ".join(filter(None, (rates, known.rate))),
        "coupled": "yes" if modes == 1 else f"no: {modes} modes, and a coupled region needs a model with one",
    }


def summary(name: str, cls: Any) -> str:
    """A model in some lines."""
    said = facts(name, cls)
    lines = [f"{name}: {said['variables']}", f"    couple    {said['couple']}", f"    watched   {said['watched']}",
             f"    rate      {said['rate']}"]  # fmt: skip
    if cls.number_of_modes != 1:
        lines.append(f"    coupled   {said['coupled']}")
    return "\n".join(lines)


def details(name: str, cls: Any) -> str:
    """One model: its variables, parameters, and rows that would do."""
    from ...tvb_side.build import parameters

    said = facts(name, cls)
    rows = []
    for parameter, attr in parameters(cls).items():
        values = getattr(attr.default, "tolist", lambda value=attr.default: value)()
        value = values[0] if isinstance(values, list) and len(values) == 1 else values
        unit = UNIT.search(attr.doc or "")
        rows.append((parameter, str(value), unit[1] if unit else ""))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    listed = [f"    {p.ljust(widths[0])}  {value.ljust(widths[1])}  {unit}".rstrip() for p, value, unit in rows]
    lines = [
        name,
        f"state variables     {said['variables']}",
        f"couple              {said['couple']}",
        f"monitors watch      {said['watched']}, unless told otherwise",
        f"firing rate         {said['rate']}",
        f"can be coupled      {said['coupled']}",
        "model_params, with their defaults, and the units that tvb-library states:",
        *listed,
    ]
    if cls.number_of_modes == 1:
        lines += ["", "rows that would do, for populations E and I:", "", example(name, cls)]
    return "\n".join(lines)


def example(name: str, cls: Any) -> str:
    """Lines of an experiment.toml with this model: the coupling of a spiking region into it, and its rates back."""
    from ...tvb_side.models import about

    known = about(name)
    cvars = [cls.state_variables[i] for i in cls.cvar]
    coupled_rates = [variable for variable in known.rates if variable in cvars]
    sent = (coupled_rates or cvars)[0]
    unit = known.units.get(sent, "")
    if unit == "Hz":
        to_network = ["# in Hz already"]
    elif unit == "kHz" or known.coupling:
        to_network = ['transformer_params = { unit = "kHz" }']
    elif sent in known.rates:
        to_network = [f"transformer_params = {{ scale_factor = 100.0 }}  # Hz per unit of {sent}: yours to choose"]
    else:
        to_network = ["transformer_params = { scale_factor = 1.0, clip = true }  # Hz per unit of "
                      f"{sent}: yours to choose; below 0 is 0"]  # fmt: skip

    delivered, model = [cvars[0]], "SPIKES"
    if {"S_e", "R_e"} <= set(cls.state_variables):  # one population with two variables
        delivered, from_network = ["S_e", "R_e"], 'transformer = "wong_wang_exc"'
    elif known.rates and known.units.get(known.rates[0]):
        delivered, from_network = list(known.rates), "# from Hz to kHz by itself"
    elif known.rates:
        delivered = list(known.rates)
        from_network = f"transformer_params = {{ scale_factor = 0.01 }}  # {delivered[0]} per Hz: yours to choose"
    elif known.units.get(delivered[0]) == "mV":
        model, from_network = "POTENTIAL", "# the mean membrane potential of the population"
    else:
        from_network = (
            f"transformer_params = {{ scale_factor = 0.01 }}  # {delivered[0]} per Hz: yours to choose; it is no rate"
        )
    populations = ["E", "I"] if delivered == list(known.rates) and len(delivered) == 2 else ["E"]

    lines = ["[tvb]", f'model = "{name}"']
    if known.coupling:
        lines.append(f'coupling = "{known.coupling}"  # its sum is one of rates, in kHz')
    if known.initial_state:
        values = ", ".join(f"{variable} = {value}" for variable, value in known.initial_state.items())
        lines.append(f"initial_state = {{ {values} }}  # TVB's random one gives no finite derivative")
    if set(cvars) - set(delivered):
        rest = ", ".join(variable for variable in cls.state_variables if variable not in delivered)
        lines += ["", "[interfaces]", f'undelivered = "follow"  # TVB computes {rest} of the spiking regions']
    lines += ["", "[[interfaces.tvb_to_spikenet]]", f'voi = ["{sent}"]', 'populations = ["E"]', 'model = "RATE"',
              'coupling_mode = "TVB"', *to_network]  # fmt: skip
    names = ", ".join(f'"{variable}"' for variable in delivered)
    into = ", ".join(f'"{population}"' for population in populations)
    lines += ["", "[[interfaces.spikenet_to_tvb]]", f"voi = [{names}]", f"populations = [{into}]", f'model = "{model}"',
              from_network]  # fmt: skip
    return "\n".join(lines)
