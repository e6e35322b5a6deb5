"""`lockstep replay`: one program of a run again, alone, on what was recorded of the others."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ...bridges.compare import LogComparison, counted, describe, differing_keys
from ...bridges.errors import ExperimentError
from ...bridges.peers import read_page
from ...bridges.replay import NAMES, Recorded, ReplaySession
from ...bridges.session import installed_versions, two_columns
from ..environments import Asked
from ..program import body_of, enter, requirements_of
from ..progress import RunProgress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory")
    parser.add_argument("--side", required=True, metavar="tvb|NAME", help="the program: tvb, spikenet, or its name")
    parser.add_argument(
        "--run-dir", type=Path, help="a new directory for what it makes (default: RUN/replays/SIDE-DATE)"
    )
    for side in ("tvb", "spikenet"):
        parser.add_argument(
            f"--{side}-env", metavar="REQUIREMENTS",
            help=f"replay {'TVB' if side == 'tvb' else 'a spiking program'} with these versions, such as "
            + ('"tvb-library==2.9.2"' if side == "tvb" else '"nest-simulator==3.9.0"')
            + "; the environment is made on first use",
        )  # fmt: skip
        parser.add_argument(f"--{side}-python", metavar="PYTHON", help="… and this Python, as python3.12 or its path")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the outcome")
    parser.epilog = "Exit status 0 when it is bit-identical to the run, 1 when something differs."


def run(args: argparse.Namespace) -> int:
    recorded = Recorded(args.run, args.side)
    _enter(args, recorded)
    folder = recorded.folder
    os.umask(0o077)  # as the run, the replay is its owner's alone
    progress: RunProgress | None = None

    def tell(line: str) -> None:
        if progress is None:
            print(line, file=sys.stderr, flush=True)
        else:
            progress.tell(line)

    session = ReplaySession(recorded, args.run_dir, tell=tell)
    n_windows = recorded.contract.grid.n_windows
    if recorded.windows < n_windows:
        tell(f"{recorded.side}: the recording of this run ends after {recorded.windows} of {n_windows} windows; these "
             f"are replayed.")  # fmt: skip
    if not args.quiet:
        progress = RunProgress(session.run_dir, [recorded.side], recorded.experiment.duration)
        session.progress = progress.update
    try:
        logs = session.replay(body_of(recorded.side, folder))
    finally:
        if progress is not None:
            progress.update(force=True)
            progress.stop()
    print(f"replay: {session.run_dir}")
    _tell_versions(recorded)
    for log in logs:
        print("\n".join(describe(log, NAMES)))
    print(outcome(recorded, logs))
    return 0 if _identical(logs) else 1


def _enter(args: argparse.Namespace, recorded: Recorded) -> None:
    """Go on in the environment of the side, with the versions asked for."""
    mine, other = ("tvb", "spikenet") if recorded.side == "tvb" else ("spikenet", "tvb")
    for what in ("env", "python"):
        if getattr(args, f"{other}_{what}") is not None:
            raise ExperimentError(f"--{other}-{what}: only {recorded.side} is replayed; write --{mine}-{what}.")
    sets, asked = requirements_of(recorded.side, recorded.experiment)
    requirements, python = getattr(args, f"{mine}_env"), getattr(args, f"{mine}_python")
    enter(sets, Asked(asked.requirements if requirements is None else requirements,
                      asked.python if python is None else python))  # fmt: skip


def _tell_versions(recorded: Recorded) -> None:
    page = read_page(recorded.run_dir, recorded.side) or {}
    differing = differing_keys(page.get("versions") or {}, installed_versions())
    columns = two_columns(*differing, *NAMES)
    print("versions: the same" if differing == ({}, {}) else f"versions:\n{columns}")


def _identical(logs: list[LogComparison]) -> bool:
    return any(log.comparable for log in logs) and not any(log.differing for log in logs)


def outcome(recorded: Recorded, logs: list[LogComparison]) -> str:
    """The last line: what was found, in a sentence."""
    different = [log for log in logs if log.differing]
    if different:
        windows = counted(max(log.differing_windows for log in different), "window")
        return f"different: {counted(len(different), 'log')} of {len(logs)}, in up to {windows}"
    if not _identical(logs):
        return "nothing could be compared"
    channels = counted(len(recorded.consumed) + len(recorded.produced), "channel")
    own = "its monitors" if recorded.side == "tvb" else "its spikes"
    windows = counted(recorded.windows, "window")
    left_out = [log.name for log in logs if not log.comparable]
    if left_out:
        return f"bit-identical as far as it was recorded, {windows}; not recorded: {', '.join(left_out)}"
    return f"bit-identical: {windows} of {channels}, and {own}"
