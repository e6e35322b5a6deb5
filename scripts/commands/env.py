"""``lockstep env``: the environments of the programs. Standard library only: the bootstrap runs it without any."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from ...bridges.errors import EnvironmentFailed
from .. import environments

SHOWN = ("tvb-library", "nest-simulator", "annarchy", "neuron", "netpyne", "numpy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sets = ", ".join(environments.requirement_sets()[1])
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|make|remove")
    actions.add_parser("list", help="what is there, in which state")
    make = actions.add_parser("make", help="make an environment, unless it is ready")
    make.add_argument("name", help=f"one of {sets}; or several in one, as tvb+nest")
    make.add_argument("requirements", nargs="*", help="further or other requirements, as neuron==8.2.7 netpyne==1.0.7")
    make.add_argument("--python", default="", help="another Python, as python3.12 or its path: an environment beside "
                      "the one without (default: the Python that runs this)")  # fmt: skip
    remove = actions.add_parser("remove", help="delete an environment")
    remove.add_argument("name", help="its name in the list")


def run(args: argparse.Namespace) -> int:
    if args.action == "list":
        print(table())
    elif args.action == "make":
        print(environments.make(args.name, " ".join(args.requirements), args.python))
    else:
        environments.remove(args.name)
        print(f"removed {environments.folder() / args.name}")
    return 0


def table() -> str:
    """What is there, as text: one line per environment, and the requirements that one has beyond its sets."""
    names = environments.found()
    if not names:
        return f"There is no environment in {environments.folder()} yet; make one with: lockstep env make tvb"
    rows = [("name", "python", "versions", "size", "state")]
    notes = []
    for name in names:
        path = environments.folder() / name
        marker = environments.read_marker(path)
        megabytes = f"{size(path) / 1e6:.0f} MB"
        rows.append((name, marker.get("python", "?"), versions(path), megabytes, state(name, marker)))
        if marker.get("extra"):
            notes.append(f"{name}: {marker['extra']}")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *notes, f"in {environments.folder()}"])


def versions(path: Path) -> str:
    """The versions of the simulators in an environment, and of numpy, without starting its Python."""
    sites = [str(site) for site in (path / "lib").glob("python3*/site-packages")]
    there = {
        environments.project(distribution.name): distribution.version
        for distribution in importlib.metadata.distributions(path=sites)
    }
    return ", ".join(f"{name} {there[name]}" for name in SHOWN if name in there) or "-"


def state(name: str, marker: dict[str, Any]) -> str:
    """ready, or broken and why."""
    try:
        sets, extra = marker.get("sets", name.partition("-")[0]), marker.get("extra", "")
        trouble = environments.environment(sets, extra, marker.get("asked_python", "")).trouble()
    except EnvironmentFailed as error:  # a folder of another name, or a set that the pyproject has no longer
        return f"broken: {error}"
    return "ready" if trouble is None else "broken: its set-up was interrupted" if not marker else f"broken: {trouble}"


def size(path: Path) -> int:
    """Bytes on the disk."""
    files = (os.path.join(folder, file) for folder, _, names in os.walk(path) for file in names)
    return sum(os.lstat(file).st_blocks * 512 for file in files)
