"""`lockstep plot`: the report of a run, made again; and its result files, if the run died before they were made."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory; of a live run, the report so far")


def run(args: argparse.Namespace) -> int:
    from ..report import write_report  # matplotlib takes its time

    print(write_report(args.run))
    return 0
