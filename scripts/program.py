"""One program of a run in this terminal: `lockstep tvb`, `lockstep spikenet` and `lockstep bridge` are all alike."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bridges.experiment import Experiment
from ..bridges.experiment_file import requirement_set
from ..bridges.results import finish
from ..bridges.session import Session, Stop, paste_command, resume_line
from . import environments
from .arguments import add_experiment, add_run_dir, command_prefix, experiment_of, forwarded
from .progress import RunProgress


def add_arguments(parser: argparse.ArgumentParser, run_dir_required: bool = True) -> None:
    add_experiment(parser)
    add_run_dir(parser, run_dir_required)
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress, only messages")
    parser.add_argument(
        "--no-report", action="store_true", help="results, but no report.html (`lockstep plot` makes it later)"
    )


@dataclass(frozen=True)
class Part:
    """What a program takes part in, and what it shows. source: the experiment's file, beside which its Python lies.
    more: further arguments of the Session."""

    run_dir: Path
    experiment: Experiment
    source: Path
    quiet: bool
    report: bool
    more: dict[str, Any]


def part_of(args: argparse.Namespace) -> Part:
    """The part that the command line asks for."""
    experiment, source = experiment_of(args)

    def command(name: str) -> str:
        return paste_command(command_prefix(), name, forwarded(args))

    more = {"overwrite": args.overwrite, "command": command}
    return Part(args.run_dir, experiment, source, args.quiet, not args.no_report, more)


def requirements_of(peer: str, experiment: Experiment) -> tuple[list[str], environments.Asked]:
    """The requirement sets that program `peer` needs, and what the experiment asks for beyond them."""
    if peer == "bridge":
        return [], environments.NOTHING
    name = "tvb" if peer == "tvb" else requirement_set(experiment.program(peer).simulator)
    return [str(name)], environments.asked_of(experiment.environments.model_dump(), peer)


def python_for(sets: list[str], asked: environments.Asked = environments.NOTHING) -> Path:
    """The interpreter for a program that needs these sets: this one if it has them, else that of an environment."""
    here = not asked.requirements and (not asked.python or environments.running(asked.python))
    if here and all(environments.has(each) for each in sets):
        return Path(sys.executable)
    return environments.ensure("+".join(sets), *asked)


def enter(sets: list[str], asked: environments.Asked = environments.NOTHING) -> None:
    """Go on in an environment that has what is needed; returns only when this one has."""
    python = python_for(sets, asked)
    if python != Path(sys.executable) and python.parent.parent.resolve() != Path(sys.prefix).resolve():
        os.execv(python, [*interpreter(python), *sys.argv[1:]])
    environments.check_installed(sets)


def interpreter(python: Path) -> list[str]:
    """The start of a command line that runs lockstep in that environment; -P: nothing is imported from the current
    folder, where a person's own nest.py may lie."""
    return [str(python), "-P", "-m", "tvb_lockstep.scripts.main"]


def body_of(peer: str, folder: Path) -> Callable[[Session], None]:
    """What program `peer` does in a run; it imports its simulator when it begins. folder: the experiment's."""

    def body(session: Session) -> None:
        if peer == "bridge":
            from ..bridges.bridge import run_bridge

            run_bridge(session)
        elif peer == "tvb":
            from ..tvb_side.program import run as run_tvb

            run_tvb(session, folder)
        else:
            from ..spikenet_side.program import run as run_spikenet

            run_spikenet(session, folder)

    return body


def take_part(
    part: Part, peer: str, body: Callable[[Session], None], stop: Stop | None = None,
    progress: RunProgress | None = None,
) -> int:  # fmt: skip
    """Be program `peer` of a run. Whoever ends last makes results and report.

    stop, progress: those of a process that holds several programs; by default this program has its own.
    """
    os.umask(0o077)  # the run is its owner's alone

    def tell(line: str) -> None:
        if progress is not None:
            progress.tell(line)
        else:
            print(line, file=sys.stderr, flush=True)

    session = Session(
        part.run_dir, peer, part.experiment, tell=tell, stop=Stop() if stop is None else stop, source=part.source,
        resume_command=lambda name: resume_line(command_prefix(), part.run_dir, name), **part.more,
    )  # fmt: skip
    own = None
    if progress is None and not part.quiet:
        own = progress = RunProgress(session.run_dir, [peer], part.experiment.duration)
    if progress is not None:
        session.progress = progress.update

    def finish_run() -> None:
        if own is not None:
            own.update(force=True)
            own.stop()
        if session.last:
            make_results(session.run_dir, part.report, tell)

    session.run(body, finish_run)
    return 0


def make_results(run_dir: Path, report: bool, tell: Callable[[str], None]) -> None:
    """Results and report of a run that has ended."""
    finish(run_dir)
    tell(f"results in {run_dir}")
    if report:
        from .report import write_report  # matplotlib takes a second to import

        tell(f"report:    {write_report(run_dir)}")
