"""`lockstep run`: all programs of an experiment, each in its own environment, and their progress in one terminal."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ...bridges.run_dir import check_new_run
from ..arguments import experiment_of, forwarded
from ..program import add_arguments as add_program_arguments
from ..program import interpreter, part_of, python_for, requirements_of
from ..together import Programs, enter_for_all, in_this_process, outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_program_arguments(parser, run_dir_required=False)


def run(args: argparse.Namespace) -> int:
    experiment, _ = experiment_of(args)
    if args.run_dir is None:
        args.run_dir = Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    part = part_of(args)
    if any(program.simulator == "annarchy" for program in experiment.spikenet):
        from ...spikenet_side.annarchy.toolchain import check_requirements  # it imports no ANNarchy

        check_requirements()
    if experiment.exchange.transport == "memory":
        enter_for_all(part)
        begun = time.monotonic()
        return outcome(args.run_dir, in_this_process(part), time.monotonic() - begun)
    pythons = {name: python_for(*requirements_of(name, experiment)) for name in experiment.peers}
    begun = time.monotonic()
    check_new_run(args.run_dir, args.overwrite)
    commands = {name: _command(args, name, python) for name, python in pythons.items()}
    return outcome(args.run_dir, Programs(part, commands).run(), time.monotonic() - begun)


def _command(args: argparse.Namespace, name: str, python: Path) -> list[str]:
    command = interpreter(python)
    command += [name if name in ("tvb", "bridge") else "spikenet", *forwarded(args), "--quiet"]
    command += [] if name in ("tvb", "bridge") else ["--name", name]
    return command + (["--no-report"] if args.no_report else [])
