"""``lockstep bench``: what the exchange, the recording and the windows cost on this machine, as ratios; and how far the
spiking simulators, the coupling schemes, the coupling modes, and spiking regions and mean field agree."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...bridges.experiment_file import SIMULATORS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")

    def add(name: str, text: str, about: str = "") -> argparse.ArgumentParser:
        return what.add_parser(name, help=text, description=f"Measure the {text}.{about}")

    transport = add("transport", "cost of one window by transport, beside a bare semaphore + mmap ping-pong and ZeroMQ "
                    "with the same bytes", " Null simulators, lock-step.")  # fmt: skip
    transport.add_argument("--windows", type=int, default=1000, help="windows per round and way (default: 1000)")
    transport.add_argument("--rounds", type=int, default=7, help="rounds, each with all ways in turn (default: 7)")
    transport.add_argument(
        "--steps", type=int, nargs="+", default=[20, 1], help="TVB steps in a window, 0.1 ms each (default: 20 1)"
    )
    transformers = add("transformers", "cost of one window of each transformer")
    transformers.add_argument("--windows", type=int, default=1000, help="windows of each (default: 1000)")
    windows = add("windows", "time of TVB in windows of 1 step, 20 steps, the min delay, beside its own Simulator.run")
    recording = add("recording", "wall time of wilson_cowan with a recording, beside the same without")
    run = add("run", "wall time of a real run in lock step, beside the time in which its slower program simulates")
    run.add_argument("--neurons", type=int, default=500, help="excitatory and as many inhibitory ones, in each of the "
                     "two regions (default: 500)")  # fmt: skip
    for parser, rounds in ((windows, 5), (recording, 5), (run, 3)):
        parser.add_argument("--rounds", type=int, default=rounds, help=f"(default: {rounds})")
        parser.add_argument("--duration", type=float, default=1000.0, help="biological time in ms (default: 1000)")
    for parser in (recording, run):
        parser.add_argument("--transport", choices=("shm", "file"), default="shm", help="(default: shm)")
    simulators = what.add_parser(
        "simulators", help="the same network on NEST, ANNarchy and NetPyNE: rates, CVs of intervals, spikes, cost of a "
        "window in a run and alone",
        description="Run lif_comparison on each simulator, in its own environment, and compare with the first: rates, "
        "CVs of the intervals between spikes over several seeds, spike for spike, and what a window costs in a run and "
        "alone. Exit status 1 when means differ by more than 5 % or the standard deviation over the seeds.",
    )  # fmt: skip
    simulators.add_argument("--simulators", nargs="+", choices=SIMULATORS, default=list(SIMULATORS), metavar="NAME",
                            help=f"which, the first is the reference (default: {' '.join(SIMULATORS)})")  # fmt: skip
    simulators.add_argument("--seeds", type=int, default=5, help="runs of each, with the seeds 1, 2, … (default: 5)")
    simulators.add_argument("--neurons", type=int, help="in the network, 4 of 5 excitatory (default: the experiment's)")
    simulators.add_argument("--duration", type=float, default=1000.0, help="biological time in ms (default: 1000)")
    schemes = what.add_parser(
        "schemes", help="TVB to the network, the network to TVB, both: rates, TVB's regions, cost, side by side",
        description="Run wilson_cowan coupled both ways, one way and the other way over several seeds, and compare the "
        "rates of the populations, TVB's mean states and what a window costs.",
    )  # fmt: skip
    modes = what.add_parser(
        "modes", help='the coupling modes "TVB" and "spikeNet": rates, TVB\'s regions, cost of a window, side by side',
        description="Run wilson_cowan in both coupling modes over several seeds, and compare the rates of the "
        "populations, TVB's mean states and what a window costs.",
    )  # fmt: skip
    for parser in (schemes, modes):
        parser.add_argument("--simulator", choices=SIMULATORS, default="nest", help="(default: nest)")
        parser.add_argument("--seeds", type=int, default=5, help="runs of each, with the seeds 1, 2, … (default: 5)")
        parser.add_argument("--duration", type=float, default=1000.0, help="biological time in ms (default: 1000)")
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
            help="override another value of the experiment in all runs; may be repeated",
        )  # fmt: skip
        parser.add_argument("--plot", type=Path, metavar="FOLDER",
                            help="also draw the runs of seed 1 side by side, as schemes_nest.png")  # fmt: skip
    replacement = what.add_parser(
        "replacement", help="a brain with spiking regions, and the same without: means, variances, functional "
        "connectivity, side by side",
        description="Run an experiment in lock step, and TVB alone with the same seeds, and compare means and "
        "variances of what the spiking regions deliver, in them and in all others, and the functional connectivity of "
        "the whole brain, beside that of two seeds of TVB alone.",
    )  # fmt: skip
    replacement.add_argument("--experiment", default="reduced_wong_wang", help="name, folder or file (default: "
                             "reduced_wong_wang)")  # fmt: skip
    replacement.add_argument("--simulator", metavar="nest|annarchy|netpyne|MODULE:CLASS",
                             help="(default: the experiment's)")  # fmt: skip
    replacement.add_argument("--seeds", type=int, default=10, help="the seeds 1, 2, … (default: 10)")
    replacement.add_argument("--duration", type=float, default=40000.0, help="biological time in ms (default: 40000)")
    replacement.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override another value of the experiment in all runs; may be repeated",
    )  # fmt: skip
    replacement.add_argument("--plot", type=Path, metavar="FOLDER", help="also draw it, as replacement.png")
    kills = what.add_parser(
        "kills", help="real runs whose programs are killed at random times, and resumed: do the results stay the same?",
        description="Kill programs of real runs (SIGKILL) at random times, resume the runs, and compare their results "
        "with those of an uninterrupted one, bit for bit. Exit status 1 when any run fails.",
    )  # fmt: skip
    kills.add_argument("--kills", type=int, default=200, help="programs killed, at least (default: 200)")
    kills.add_argument("--seed", type=int, default=0, help="of the first run; the next ones have the next (default: 0)")
    kills.add_argument("--duration", type=float, default=1000.0, help="biological time in ms (default: 1000)")
    for parser in (transport, windows, recording, run, simulators, schemes, modes, replacement, kills):
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")


def run(args: argparse.Namespace) -> int:
    from ..bench_transport import write_json

    figures: dict[str, Any]
    if args.what == "transformers":
        from ..bench_transformers import main

        return main(["--windows", str(args.windows)])
    if args.what == "transport":
        from ..bench_transport import bench, print_tables

        print_tables(figures := bench(windows=args.windows, rounds=args.rounds, steps=args.steps))
    elif args.what == "windows":
        from ..program import enter

        enter(["tvb"])
        from .. import bench_windows

        bench_windows.print_table(figures := bench_windows.bench(args.duration, args.rounds))
    elif args.what == "recording":
        from .. import bench_recording

        bench_recording.print_figures(figures := bench_recording.bench(args.duration, args.rounds, args.transport))
    elif args.what == "simulators":
        from rich.console import Console

        from .. import bench_simulators

        with Console().status("") as status:
            figures = bench_simulators.bench(args.simulators, args.seeds, args.duration, args.neurons, status.update)
        bench_simulators.print_tables(figures)
    elif args.what in ("schemes", "modes"):
        from rich.console import Console

        from .. import bench_schemes

        ways = bench_schemes.SCHEMES if args.what == "schemes" else bench_schemes.modes(args.overrides)
        plot = None if args.plot is None else args.plot / f"{args.what}_{args.simulator}.png"
        with Console().status("") as status:
            figures = bench_schemes.bench(
                ways, args.simulator, args.seeds, args.duration, args.overrides, plot, status.update
            )
        bench_schemes.print_tables(figures)
    elif args.what == "replacement":
        from rich.console import Console

        from .. import bench_replacement

        plot = None if args.plot is None else args.plot / "replacement.png"
        with Console().status("") as status:
            figures = bench_replacement.bench(
                args.experiment, args.simulator, args.seeds, args.duration, args.overrides, plot, status.update
            )
        bench_replacement.print_tables(figures)
    elif args.what == "kills":
        from rich.console import Console

        from ..bench_kills import bench as bench_kills
        from ..bench_kills import print_kills

        with Console().status("") as status:
            figures = bench_kills(args.kills, args.seed, args.duration, status.update)
        print_kills(figures)
    else:
        from ..bench_run import bench_run, print_run

        print_run(figures := bench_run(args.duration, args.rounds, args.neurons, args.transport))
    if args.json is not None:
        write_json(figures, args.json)
    return int(bool(figures.get("failures")))
