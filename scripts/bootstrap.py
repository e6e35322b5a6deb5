"""The bootstrap's part of the command: which environment a subcommand needs, and going on in it.

On the standard library alone. ``lockstep`` of an installed environment does not come through here: it runs where it is.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn

from ..bridges import __version__
from ..bridges.errors import ExperimentError, Interrupted, LockstepError
from ..bridges.experiment_file import SIMULATORS, read
from . import checks, environments
from .commands import env

COMMANDS = {
    "run": "run an experiment: start all its programs, show their progress",
    "tvb": "the TVB program of a run",
    "spikenet": "a spiking program of a run",
    "bridge": "the bridge of a run, as a program of its own",
    "env": env.HELP,
    "check": "validate an experiment and print its contract, without running it",
    "inspect": "show or export what was exchanged in a run",
    "status": "what the programs of a run are doing",
    "bench": "measure the exchange on this machine",
}
# Subcommands of an experiment: they read it here to know what they need, and need the option values told apart from it.
OF_AN_EXPERIMENT = ("run", "tvb", "spikenet", "bridge", "check")
VALUE_OPTIONS = ("--set", "--run-dir", "--name", "--simulator", "--spikenet-env", "--tvb-env", "--bridge")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ExperimentError(f"{self.prog}: {message}.")


def main(argv: list[str]) -> int:
    try:
        return _main(argv)
    except LockstepError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code


def _main(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help", "help"):
        print(usage())
        return 0
    if command == "--version":
        print(f"lockstep {__version__}")
        return 0
    if command == "test":
        return checks.main(argv[1:])
    if command not in COMMANDS:
        raise ExperimentError(f"There is no subcommand {command!r}. There is: {', '.join(COMMANDS)}.")
    if command == "env":
        parser = argparse.ArgumentParser(prog="lockstep env", description=env.HELP)
        env.add_arguments(parser)
        return env.run(parser.parse_args(argv[1:]))
    if any(argument in ("-h", "--help") for argument in argv[1:]):
        ready = (name for name in ("tvb", *SIMULATORS) if environments.environment(name).trouble() is None)
        if (name := next(ready, None)) is None:
            print(f"lockstep {command}: {COMMANDS[command]}\n\nIts options are shown by an environment, and there is "
                  f"none yet; make one with: lockstep env make tvb")  # fmt: skip
            return 0
        pythons = [environments.environment(name).python]
    else:
        pythons = [environments.ensure(name, requirements) for name, requirements in needed(argv)]
    os.environ["LOCKSTEP_COMMAND"] = sys.argv[0]  # for the lines that people are told to paste into another terminal
    sys.stdout.flush()
    # -P: the current folder may hold a nest.py or a numpy.py of the user's
    os.execv(pythons[0], [str(pythons[0]), "-P", "-m", "tvb_lockstep.scripts.main", *argv])


def usage() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join([
        "usage: lockstep COMMAND …",
        "",
        "The Virtual Brain and spiking simulators as independent programs in lock-step.",
        "",
        *(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()),
        "",
        "lockstep COMMAND --help shows the options of one. Environments are made when they are first needed, in",
        f"{environments.folder()}.",
    ])  # fmt: skip


def needed(argv: list[str]) -> list[tuple[str, str]]:
    """The environments of a command line as (name, requirements): first the one it runs in, then those of the programs
    that it starts. Raises ExperimentError when there is no such experiment or simulator."""
    command, arguments = argv[0], argv[1:]
    if command not in OF_AN_EXPERIMENT:
        return [("tvb", "")]
    parser = _Parser(prog=f"lockstep {command}", add_help=False, allow_abbrev=False)
    for option in VALUE_OPTIONS:
        parser.add_argument(option, action="append", default=[])
    options, rest = parser.parse_known_args(arguments)
    positional = [argument for argument in rest if not argument.startswith("-")]
    if not positional:
        return [("tvb", "")]  # an incomplete command line, which the command itself explains
    data, path = read(positional[0], options.set)

    asked = data.get("environments")
    asked = asked if isinstance(asked, dict) else {}
    for_tvb = (options.tvb_env or [str(asked.get("tvb", ""))])[-1]
    for_spikenet = (options.spikenet_env or [str(asked.get("spikenet", ""))])[-1]
    if command == "spikenet":
        program = _program(data, path, options.name[-1] if options.name else None)
        return [(options.simulator[-1] if options.simulator else _simulator(program, path), for_spikenet)]
    if command != "run":
        return [("tvb", for_tvb)]
    simulators = list(dict.fromkeys(_simulator(program, path) for program in _programs(data)))
    exchange = data.get("exchange")
    if isinstance(exchange, dict) and exchange.get("transport") == "memory":
        return [("+".join(["tvb", *simulators]), f"{for_tvb} {for_spikenet}".strip())]
    return [("tvb", for_tvb), *((simulator, for_spikenet) for simulator in simulators)]


def _programs(data: dict[str, Any]) -> list[dict[str, Any]]:
    programs = data.get("spikenet")
    return [program for program in programs if isinstance(program, dict)] if isinstance(programs, list) else []


def _program(data: dict[str, Any], path: object, name: str | None) -> dict[str, Any]:
    by_name = {str(program.get("name", "spikenet")): program for program in _programs(data)}
    if name is None and len(by_name) == 1:
        return next(iter(by_name.values()))
    if name not in by_name:
        which = f"has no spiking program {name!r}" if name else "has several spiking programs"
        raise ExperimentError(f"{path} {which}; say --name with one of: {', '.join(by_name) or 'none'}.")
    return by_name[name]


def _simulator(program: dict[str, Any], path: object) -> str:
    simulator = program.get("simulator")
    if simulator not in SIMULATORS:
        raise ExperimentError(f"{path}: spikenet.simulator = {simulator!r}: must be one of {', '.join(SIMULATORS)}.")
    return str(simulator)
