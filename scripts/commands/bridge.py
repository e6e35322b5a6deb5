"""`lockstep bridge`: the transformers in a program of their own."""

from __future__ import annotations

import argparse

from ...bridges.errors import ExperimentError
from ..program import add_arguments, body_of, part_of, take_part

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    part = part_of(args)
    if part.experiment.exchange.bridge != "own":
        raise ExperimentError(
            'exchange.bridge = "receiver": this experiment has no bridge of its own. Start all programs with '
            "--bridge own."
        )
    return take_part(part, "bridge", body_of("bridge", part.source.parent))
