"""`lockstep bridge`: the transformers in a program of their own."""

from __future__ import annotations

import argparse

from ..arguments import experiment_of
from ..program import add_arguments, take_part

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    from ...bridges.bridge import run_bridge
    from ...bridges.errors import ExperimentError

    experiment, _ = experiment_of(args)
    if experiment.exchange.bridge != "own":
        raise ExperimentError(
            'exchange.bridge = "receiver": this experiment has no bridge of its own. Start all programs with '
            "--bridge own."
        )
    return take_part(args, "bridge", run_bridge)
