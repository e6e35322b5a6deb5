"""What is compiled for a simulator is kept in the user's cache and made once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..bridges.errors import EnvironmentFailed


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/tvb-lockstep/NAME``, by default below ``~/.cache``.

    Raises EnvironmentFailed when it cannot be made, or others could have put something into it: code is loaded from it.
    """
    root = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "tvb-lockstep" / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise EnvironmentFailed(
            f"{folder}, for what is compiled, cannot be made: {error.strerror}. Set XDG_CACHE_HOME to a folder that "
            f"this user can write to."
        ) from None
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise EnvironmentFailed(
            f"{folder} belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}: code is loaded "
            f"from it, so that nobody but this user may write to it. Remove it, or chmod 700 it if all in it is yours."
        )
    return folder


def made_once(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `key` in the cache `name`, which ``make(folder)`` fills when it is not there yet.

    Of two programs that ask at once, one makes it and the other waits. Nobody ever sees a half-made folder: not when
    `make` raises, nor when the program is killed in it.
    """
    cache = cache_folder(name)
    made = cache / key
    if made.is_dir():
        return made
    lock = os.open(cache / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            for left in cache.glob(f"{key}.making-*"):  # by one that was killed: nobody else has the lock
                shutil.rmtree(left, ignore_errors=True)
            work = Path(tempfile.mkdtemp(prefix=f"{key}.making-", dir=cache))
            try:
                make(work)
                work.rename(made)
            finally:
                with contextlib.suppress(OSError):
                    shutil.rmtree(work)
    finally:
        os.close(lock)
    return made
