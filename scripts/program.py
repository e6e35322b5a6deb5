"""One program of a run in this terminal: `lockstep tvb`, `lockstep spikenet` and `lockstep bridge` are all alike."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ..bridges.results import finish
from ..bridges.session import Session, Stop, paste_command
from . import environments
from .arguments import add_experiment, add_run_dir, command_prefix, experiment_of, forwarded
from .progress import RunProgress


def add_arguments(parser: argparse.ArgumentParser, run_dir_required: bool = True) -> None:
    add_experiment(parser)
    add_run_dir(parser, run_dir_required)
    parser.add_argument("--quiet", action="store_true", help="no progress, only messages")
    parser.add_argument(
        "--no-report", action="store_true", help="results, but no report.html (`lockstep plot` makes it later)"
    )


def python_for(sets: list[str], requirements: str = "") -> Path:
    """The interpreter for a program that needs these sets: this one if it has them, else that of an environment."""
    if not requirements and all(environments.has(each) for each in sets):
        return Path(sys.executable)
    return environments.ensure("+".join(sets), requirements)


def enter(sets: list[str], requirements: str = "") -> None:
    """Go on in an environment that has what is needed; returns only when this one has."""
    python = python_for(sets, requirements)
    if python != Path(sys.executable) and python.parent.parent.resolve() != Path(sys.prefix).resolve():
        os.execv(python, [*interpreter(python), *sys.argv[1:]])


def interpreter(python: Path) -> list[str]:
    """The start of a command line that runs lockstep in that environment; -P: nothing is imported from the current
    folder, where a person's own nest.py may lie."""
    return [str(python), "-P", "-m", "tvb_lockstep.scripts.main"]


def take_part(
    args: argparse.Namespace, peer: str, body: Callable[[Session], None], stop: Stop | None = None,
    progress: RunProgress | None = None,
) -> int:  # fmt: skip
    """Be program `peer` of the run that `args` describe. Whoever ends last makes results and report.

    stop, progress: those of a process that holds several programs; by default this program has its own.
    """
    experiment, path = experiment_of(args)
    os.umask(0o077)  # the run is its owner's alone

    def command(name: str) -> str:
        return paste_command(command_prefix(), name, forwarded(args))

    def tell(line: str) -> None:
        if progress is not None:
            progress.tell(line)
        else:
            print(line, file=sys.stderr, flush=True)

    stop = Stop() if stop is None else stop
    session = Session(
        args.run_dir, peer, experiment, command=command, tell=tell, overwrite=args.overwrite, stop=stop, source=path
    )
    own = None
    if progress is None and not args.quiet:
        own = progress = RunProgress(session.run_dir, [peer], experiment.duration)
    if progress is not None:
        session.progress = progress.update

    def finish_run() -> None:
        if own is not None:
            own.update(force=True)
            own.stop()
        if session.last:
            finish(session.run_dir)
            tell(f"results in {session.run_dir}")
            if not args.no_report:
                from .report import write_report  # matplotlib takes a second to import

                tell(f"report:    {write_report(session.run_dir)}")

    session.run(body, finish_run)
    return 0
