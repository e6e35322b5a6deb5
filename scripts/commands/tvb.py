"""`lockstep tvb`: the TVB program."""

from __future__ import annotations

import argparse

from ..program import add_arguments, body_of, enter, part_of, requirements_of, take_part

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    part = part_of(args)
    enter(*requirements_of("tvb", part.experiment))
    return take_part(part, "tvb", body_of("tvb", part.source.parent))
