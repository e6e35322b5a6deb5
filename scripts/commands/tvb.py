"""`lockstep tvb`: the TVB program."""

from __future__ import annotations

import argparse

from ...bridges.session import Session
from ..arguments import experiment_of
from ..program import add_arguments, enter, take_part

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    experiment, path = experiment_of(args)
    enter(["tvb"], experiment.environments.tvb)

    def body(session: Session) -> None:
        from ...tvb_side.program import run as run_tvb

        run_tvb(session, path.parent)

    return take_part(args, "tvb", body)
