"""The bootstrap's part of the command: which environment a subcommand needs, and going on in it.

On the standard library alone. ``lockstep`` of an installed environment does not come through here: it runs where it is.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn

from ..bridges.errors import ExperimentError, Interrupted, LockstepError
from ..bridges.experiment_file import SIMULATORS, read, requirement_set, shipped
from . import checks, environments
from . import main as command_line
from .environments import NOTHING, Asked, asked_of, asked_of_all

OF_AN_EXPERIMENT = ("run", "tvb", "spikenet", "bridge", "check")
# Their options with a value, which is not to be taken for the name of the experiment.
VALUE_OPTIONS = ("--set", "--run-dir", "--name", "--simulator", "--spikenet-env", "--tvb-env", "--spikenet-python",
                 "--tvb-python", "--bridge", "--describe")  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ExperimentError(f"{message}.")


def main(argv: list[str]) -> int:
    command = argv[0] if argv else "--help"
    try:
        if command == "test":
            return checks.main(argv[1:])
        if command not in command_line.COMMANDS or command in ("env", "doctor"):
            return command_line.main(argv or ["--help"])
        return _go_on(argv)
    except LockstepError as error:
        print(f"lockstep {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return Interrupted.exit_code


def _go_on(argv: list[str]) -> int:
    """Replaces this process by the same command in the environment that it needs."""
    if any(argument in ("-h", "--help") for argument in argv[1:]):
        known = [environments.environment(name) for name in ("tvb", *SIMULATORS)]
        pythons = [each.python for each in known if each.trouble() is None]
        if not pythons:
            print(f"lockstep {argv[0]}: {command_line.COMMANDS[argv[0]]}.\n\nAn environment is needed to show its "
                  f"options, and there is none yet. Make one with: {sys.argv[0]} env make tvb")  # fmt: skip
            return 0
    else:
        needs = needed(argv)
        for name, asked in needs:
            environments.environment(name, *asked)  # what cannot be is said before the first is made
        pythons = [environments.ensure(name, *asked) for name, asked in needs]
    os.environ["LOCKSTEP_COMMAND"] = sys.argv[0]  # for the lines that people are told to paste into another terminal
    sys.stdout.flush()
    # -P: the current folder may hold a nest.py or a numpy.py of the user's
    os.execv(pythons[0], [str(pythons[0]), "-P", "-m", "tvb_lockstep.scripts.main", *argv])


def needed(argv: list[str]) -> list[tuple[str, Asked]]:
    """The environments of a command line, as name and what is asked for beyond it: first the one it runs in, then those
    of the programs that it starts. Raises ExperimentError when there is no such experiment or simulator."""
    command, arguments = argv[0], argv[1:]
    if command not in OF_AN_EXPERIMENT:
        return [("tvb", NOTHING)]
    parser = _Parser(add_help=False)
    for option in VALUE_OPTIONS:
        parser.add_argument(option, action="append", default=[])
    options, rest = parser.parse_known_args(arguments)
    positional = [argument for argument in rest if not argument.startswith("-")]
    if not positional:
        there = ", ".join(shipped())
        raise ExperimentError(f"Which experiment? One that comes with lockstep ({there}), a folder or a .toml file.")
    shorthand = {
        "spikenet.simulator": options.simulator,
        "environments.tvb": options.tvb_env, "environments.spikenet": options.spikenet_env,
        "environments.python.tvb": options.tvb_python, "environments.python.spikenet": options.spikenet_python,
    }  # fmt: skip
    sets = [f"{key}={value}" for key, values in shorthand.items() for value in values]
    data, path = read(positional[0], [*options.set, *sets])

    asked = data.get("environments")
    asked = asked if isinstance(asked, dict) else {}
    if command == "spikenet":
        program = _program(data, path, options.name[-1] if options.name else None)
        return [_need(program, path, asked)]
    tvb = ("tvb", asked_of(asked, "tvb"))
    if command in ("tvb", "bridge") or "--tvb-only" in rest:
        return [tvb]
    needs = [_need(program, path, asked) for program in _programs(data)]
    exchange = data.get("exchange")
    if command == "run" and isinstance(exchange, dict) and exchange.get("transport") == "memory":
        names = ["tvb", *(str(program.get("name", "spikenet")) for program in _programs(data))]
        return [("+".join(dict.fromkeys(["tvb", *(name for name, _ in needs)])), asked_of_all(asked, names))]
    return list(dict.fromkeys([tvb, *needs]))


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


def _need(program: dict[str, Any], path: object, asked: dict[str, Any]) -> tuple[str, Asked]:
    return _simulator(program, path), asked_of(asked, str(program.get("name", "spikenet")))


def _simulator(program: dict[str, Any], path: object) -> str:
    simulator = program.get("simulator")
    found = requirement_set(simulator)
    if found is None:
        raise ExperimentError(
            f"{path}: spikenet.simulator = {simulator!r}: must be one of {', '.join(SIMULATORS)}, or 'module:Class' "
            f"for an adapter of your own."
        )
    return found
