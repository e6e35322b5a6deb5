"""`lockstep status`: what every program of a run is doing now, read without disturbing it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ...bridges.errors import RunDirectoryError
from ...bridges.peers import alive, pages


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="run directory")


def run(args: argparse.Namespace) -> int:
    found = pages(args.run)
    if not found:
        raise RunDirectoryError(f"{args.run} is not a run directory: no program ever took a place in it.")
    table = Table(title=str(args.run))
    for column in ("program", "pid", "host", "state", "window", "since"):
        table.add_column(column)
    for name, page in found.items():
        now = page["now"]
        state = now["state"] + (f" for {now['waiting_for']}" if now["waiting_for"] else "")
        ended = now["state"] in ("finished", "interrupted", "failed")
        if not alive(args.run, name) and not ended:
            state = f"dead (was {state})"
        window = str(now["window"]) if now["window"] >= 0 else "before the first"
        table.add_row(name, str(page["pid"]), page["host"], state, window, f"{time.time() - now['since']:.1f} s")
    Console().print(table)
    return 0
