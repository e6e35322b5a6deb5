"""The arguments that several subcommands share, and the experiment that they describe."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from ..bridges.experiment import Experiment, find, load, shipped


def add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", help="name of a shipped experiment, a folder with an experiment.toml, or a .toml file"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override a value of the experiment, such as duration=200 or exchange.transport=file; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--simulator", metavar="nest|annarchy|netpyne|MODULE:CLASS", help="the same as --set spikenet.simulator=…"
    )
    for side in ("tvb", "spikenet"):
        parser.add_argument(
            f"--{side}-env", metavar="REQUIREMENTS",
            help=f"other versions for that side, as \"numpy<2\"; the same as --set environments.{side}=…",
        )  # fmt: skip
        parser.add_argument(
            f"--{side}-python", metavar="PYTHON",
            help="another Python for that side, as python3.12 or its path; the same as --set "
            f"environments.python.{side}=…",
        )  # fmt: skip
    parser.add_argument("--bridge", choices=("receiver", "own"), help="the same as --set exchange.bridge=…")


def add_run_dir(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--run-dir", type=Path, required=required,
        help="where the programs of the run meet and the results go"
        + ("" if required else " (default: runs/NAME-DATE)"),
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the run directory")


def overrides_of(args: argparse.Namespace) -> list[str]:
    shorthand = {
        "exchange.bridge": args.bridge, "spikenet.simulator": args.simulator,
        "environments.tvb": args.tvb_env, "environments.spikenet": args.spikenet_env,
        "environments.python.tvb": args.tvb_python, "environments.python.spikenet": args.spikenet_python,
    }  # fmt: skip
    return [*args.overrides, *(f"{key}={value}" for key, value in shorthand.items() if value is not None)]


def experiment_of(args: argparse.Namespace) -> tuple[Experiment, Path]:
    """The validated experiment with its overrides, and its file."""
    return load(args.experiment, overrides_of(args))


def forwarded(args: argparse.Namespace) -> list[str]:
    """The arguments that start another program of the same run, wherever it is started: no path is relative."""
    found = find(args.experiment)
    experiment = args.experiment if shipped().get(args.experiment) == found else str(found)
    sets = [part for override in overrides_of(args) for part in ("--set", override)]
    overwrite = ["--overwrite"] if args.overwrite else []
    return [experiment, "--run-dir", os.path.abspath(args.run_dir), *sets, *overwrite]


def command_prefix() -> str:
    """What the person typed to get here: the bootstrap in a checkout, or the installed command."""
    prefix = os.environ.get("LOCKSTEP_COMMAND", "lockstep")
    return shlex.quote(os.path.abspath(prefix)) if os.path.isfile(prefix) else prefix
