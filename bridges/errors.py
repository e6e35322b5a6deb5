"""Every error a user can meet. Its text says what happened, with which values, and what to do next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def noting(where: str) -> Iterator[None]:
    """Errors of a user's own code keep their traceback and say below it, and to the others, where they arose."""
    try:
        yield
    except LockstepError:
        raise
    except Exception as error:
        error.add_note(f"in {where}")
        raise


class LockstepError(Exception):
    """Base of all errors that end a program with a message instead of a traceback."""

    exit_code = 1
    told = False  # whether the person at this terminal has read it already


class ExperimentError(LockstepError):
    """The experiment asks for something that cannot be: a key, a value, a name, a delay."""

    exit_code = 2


class ContractError(LockstepError):
    """The two sides do not agree on what is exchanged."""

    exit_code = 3


class FrameError(LockstepError):
    """A frame that a reader refuses: which field, what was expected, what was found."""

    exit_code = 4


class RunDirectoryError(LockstepError):
    """The run directory cannot be used: taken, foreign, read-only, full."""

    exit_code = 5


class PeerLost(LockstepError):
    """The other program, `peer`, died or ended before this one; says who, and in which window."""

    exit_code = 6

    def __init__(self, text: str, peer: str = "") -> None:
        super().__init__(text)
        self.peer = peer


class Interrupted(LockstepError):
    """Ctrl-C or SIGTERM on this side: end in order, with the results so far."""

    exit_code = 130


class EnvironmentFailed(LockstepError):
    """An environment cannot be made or used: network, disk, compiler, requirements that exclude each other."""

    exit_code = 7


class NotReproduced(LockstepError):
    """A program that is resumed or replayed does not make the same numbers again. `window`: the first that differs."""

    exit_code = 8

    def __init__(self, text: str, window: int = -1) -> None:
        super().__init__(text)
        self.window = window
