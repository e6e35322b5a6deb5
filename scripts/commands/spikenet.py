"""`lockstep spikenet`: a spiking program."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...bridges.errors import ExperimentError
from ...bridges.experiment import Experiment
from ..program import add_arguments as add_program_arguments
from ..program import body_of, enter, part_of, requirements_of, take_part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_program_arguments(parser)
    parser.add_argument("--name", help="which spiking program, when the experiment has several")
    parser.add_argument("--describe", type=Path, metavar="OFFER", help=argparse.SUPPRESS)  # used by `lockstep check`


def run(args: argparse.Namespace) -> int:
    part = part_of(args)
    name = _name_of(args.name, part.experiment)
    enter(*requirements_of(name, part.experiment))
    if args.describe:
        return _describe(part.experiment, name, args.describe, part.source.parent)
    return take_part(part, name, body_of(name, part.source.parent))


def _name_of(name: str | None, experiment: Experiment) -> str:
    names = [program.name for program in experiment.spikenet]
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        raise ExperimentError(
            f"--name {name}: the experiment has the spiking programs {', '.join(names)}; name one of them."
        )
    return name


def _describe(experiment: Experiment, name: str, tvb_offer: Path, folder: Path) -> int:
    """Build the network, make its devices, say what came of it: as JSON in place of the offer."""
    from ...bridges.contract import compose
    from ...spikenet_side.program import open_network, simulator_of

    offer = json.loads(tvb_offer.read_text())
    simulator = simulator_of(experiment.program(name), folder)
    own = open_network(simulator, experiment.program(name), offer, folder)
    offer["channels"] = [c for c in offer["channels"] if name in (c["producer"], c["consumer"])]
    contract = compose("0" * 32, offer, {name: own})
    simulator.connect(*contract.of(name))
    own["min_delay_ms"] = getattr(simulator, "min_delay_ms", None)
    tvb_offer.write_text(json.dumps(own))
    return 0
