"""`lockstep tvb`: the TVB program."""

from __future__ import annotations

import argparse

from ..arguments import experiment_of
from ..program import add_arguments, enter, take_part

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    enter(["tvb"])
    _, path = experiment_of(args)

    def body(session):  # type: ignore[no-untyped-def]
        from ...tvb_side.program import run as run_tvb

        run_tvb(session, path.parent)

    return take_part(args, "tvb", body)
