"""`lockstep resume`: starts the programs of a run again that ended early; they go on where they were."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ...bridges.errors import ExperimentError, RunDirectoryError
from ...bridges.peers import read_page
from ...bridges.resume import Unfinished
from ...bridges.run_dir import remove_temporary
from ..program import (
    Part,
    add_output,
    body_of,
    enter,
    interpreter,
    make_results,
    python_for,
    requirements_of,
    take_part,
)
from ..together import Programs, enter_for_all, in_this_process, outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument(
        "--side", metavar="tvb|NAME|bridge", help="this program alone, in this terminal (default: all that ended early)"
    )
    add_output(parser)
    parser.epilog = (
        "A program that is started again goes through the windows that it had on its recorded input, compares what it "
        "sends with the recording, and joins the others where it was. The run ends with the numbers of one that was "
        "never interrupted. When a program no longer makes the same numbers it says where, and does not join."
    )


def run(args: argparse.Namespace) -> int:
    left = Unfinished(args.run)
    if args.side is not None:
        return _one(args, left)
    if left.complete:
        print(f"{args.run} is complete; there is nothing to resume.")
        return 0
    if not left.missing and left.alive:
        raise RunDirectoryError(f"{args.run}: {_who(left)} still runs, and no program is missing.")
    for name in left.alive:
        print(f"{name} is alive (pid {(read_page(args.run, name) or {}).get('pid')}), and is joined.", file=sys.stderr)
    begun = time.monotonic()
    if not left.missing:
        remove_temporary(left.run_dir)
        make_results(left.run_dir, not args.no_report, lambda line: print(line, file=sys.stderr))
        return outcome(args.run, {}, time.monotonic() - begun)
    if left.experiment.exchange.transport == "memory":
        part = _part(args, left, "tvb")
        enter_for_all(part)
        return outcome(args.run, in_this_process(part), time.monotonic() - begun)
    pythons = {name: python_for(*requirements_of(name, left.experiment_of(name))) for name in left.missing}
    parts = [_part(args, left, name) for name in left.missing]
    commands = {name: _command(args, left, name, python) for name, python in pythons.items()}
    return outcome(args.run, Programs(parts[0], commands).run(), time.monotonic() - begun)


def _one(args: argparse.Namespace, left: Unfinished) -> int:
    spiking = [program.name for program in left.experiment.spikenet]
    name = spiking[0] if args.side == "spikenet" and len(spiking) == 1 else args.side
    if name not in left.experiment.peers:
        raise ExperimentError(f"--side {name}: this run has {', '.join(left.experiment.peers)}; name one of them.")
    if left.experiment.exchange.transport == "memory":
        raise ExperimentError(
            "--side: with exchange.transport = 'memory' all programs share a process; resume them together, without "
            "--side."
        )
    part = _part(args, left, name)
    enter(*requirements_of(name, part.experiment))
    return take_part(part, name, body_of(name, part.source.parent))


def _part(args: argparse.Namespace, left: Unfinished, name: str) -> Part:
    source = left.source_of(name)
    return Part(left.run_dir, left.experiment_of(name), source, args.quiet, not args.no_report, {"resumed": True})


def _command(args: argparse.Namespace, left: Unfinished, name: str, python: Path) -> list[str]:
    command = [*interpreter(python), "resume", str(left.run_dir), "--side", name, "--quiet"]
    return command + (["--no-report"] if args.no_report else [])


def _who(left: Unfinished) -> str:
    return ", ".join(f"{name} (pid {(read_page(left.run_dir, name) or {}).get('pid')})" for name in left.alive)
