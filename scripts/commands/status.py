"""`lockstep status`: what every program of a run is doing now, read without disturbing it."""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...bridges.errors import LockstepError, RunDirectoryError
from ...bridges.peers import alive, pages
from ...bridges.resume import Unfinished
from ...bridges.session import ENDED, resume_line
from ..arguments import command_prefix


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run directory")


def run(args: argparse.Namespace) -> int:
    found = pages(args.run)
    if not found:
        raise RunDirectoryError(f"{args.run} is not a run directory: no program ever took a place in it.")
    states = {name: state_of(args.run, name, page) for name, page in found.items()}
    table = Table("program", "pid", "host", "state", "window", "since", title=str(args.run))
    for name, page in found.items():
        now = page["now"]
        state = states[name] + (f" for {now['waiting_for']}" if states[name] == "waiting" else "")
        window = str(now["window"]) if now["window"] >= 0 else "before the first"
        table.add_row(name, str(page["pid"]), page["host"], state, window, f"{time.time() - now['since']:.1f} s")
    console = Console()
    console.print(table)
    waits = {name: page["now"]["waiting_for"] for name, page in found.items() if states[name] == "waiting"}
    for line in explain(waits, states):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for line in to_go_on(args.run):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def to_go_on(run_dir: Path) -> list[str]:
    """What to type so that a run goes on of which programs died or ended early; nothing when there is nothing to do."""
    try:
        left = Unfinished(run_dir)
    except LockstepError:  # a replay, or a run without a recording
        return []
    if not left.missing or (left.alive and not left.begun):  # at the start they tell each other
        return []
    names = left.missing if left.alive else [None]
    lines = [resume_line(command_prefix(), run_dir, name) for name in names]
    return [f"To start {' and '.join(left.missing)} again and go on:", *(f"    {line}" for line in lines)]


def state_of(run_dir: Path, name: str, page: dict[str, Any]) -> str:
    """What the program says, unless it is dead, or stopped (SIGSTOP, a debugger) on this host."""
    state = page["now"]["state"]
    if state in ENDED:
        return state
    if not alive(run_dir, name):
        return f"dead (was {state})"
    return "stopped" if page["host"] == socket.gethostname() and is_stopped(page["pid"]) else state


def is_stopped(pid: int) -> bool:
    """Whether the kernel holds the process stopped or traced; False where there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in "Tt"


def explain(waits: dict[str, str], states: dict[str, str]) -> list[str]:
    """Who waits for whom, followed to its end: a program that computes, one that is stopped or dead, or a cycle."""
    lines = []
    for name in waits:
        chain = [name]
        while chain[-1] in waits and waits[chain[-1]] not in chain:
            chain.append(waits[chain[-1]])
        end = waits.get(chain[-1])
        if end is not None:  # the chain bites its tail
            lines.append(f"{' → '.join([*chain, end])}: they wait for each other")
        else:
            lines.append(f"{' → '.join(chain)}: {chain[-1]} is {states.get(chain[-1], 'not there yet')}")
    return lines
