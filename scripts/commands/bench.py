"""``lockstep bench``: what the exchange costs on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    text = "cost of one window by transport, beside a bare semaphore + mmap ping-pong and ZeroMQ with the same bytes"
    transport = what.add_parser("transport", help=text, description=f"Measure the {text}. Null simulators, lock-step.")
    transport.add_argument("--windows", type=int, default=1000, help="windows per round and way (default: 1000)")
    transport.add_argument("--rounds", type=int, default=7, help="rounds, each with all ways in turn (default: 7)")
    transport.add_argument(
        "--steps", type=int, nargs="+", default=[20, 1], help="TVB steps in a window, 0.1 ms each (default: 20 1)"
    )
    transport.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    text = "cost of one window of each transformer"
    transformers = what.add_parser("transformers", help=text, description=f"Measure the {text}.")
    transformers.add_argument("--windows", type=int, default=1000, help="windows of each (default: 1000)")


def run(args: argparse.Namespace) -> int:
    if args.what == "transformers":
        from ..bench_transformers import main

        return main(["--windows", str(args.windows)])
    from ..bench_transport import bench, print_tables, write_json

    figures = bench(windows=args.windows, rounds=args.rounds, steps=args.steps)
    print_tables(figures)
    if args.json is not None:
        write_json(figures, args.json)
    return 0
