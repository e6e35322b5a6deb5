"""The command `lockstep`: one file per subcommand in commands/."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from ..bridges import __version__
from ..bridges.errors import LockstepError

COMMANDS = {
    "run": "run an experiment: starts all its programs, shows their progress, ends with a report",
    "tvb": "the TVB program of a run, in this terminal",
    "spikenet": "a spiking program of a run, in this terminal",
    "bridge": "the bridge of a run as a program of its own, in this terminal",
    "check": "validate an experiment without running it and print the contract",
    "models": "list TVB's models: their variables, units, and which of them are firing rates",
    "inspect": "look into what was exchanged: channels, windows, values",
    "diff": "the first and the largest difference of two runs",
    "replay": "run one program of a run alone, on the recording of the others, and check what it sends",
    "resume": "start the programs of a run again that ended early; they go on where they were",
    "status": "what every program of a run is doing now",
    "plot": "make the report of a run again",
    "clean": "remove what killed runs left behind",
    "doctor": "check this machine for what lockstep needs",
    "env": "list, make and remove environments",
    "bench": "measure what the exchange, the recording and the windows cost",
}


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; its exit status. A LockstepError is a message on stderr, not a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="lockstep",
        description="Co-simulation of The Virtual Brain and spiking networks, as independent programs in lock-step.",
        epilog="lockstep COMMAND --help tells more about one command.",
    )
    parser.add_argument("--version", action="version", version=f"tvb-lockstep {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:  # only the chosen one is imported: --help stays fast
            module = importlib.import_module(f".commands.{name}", __package__)
            module.add_arguments(subparser)
    args = parser.parse_args(arguments)
    try:
        return module.run(args)
    except LockstepError as error:
        if not error.told:
            print(f"lockstep {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `lockstep inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"lockstep {args.command}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
