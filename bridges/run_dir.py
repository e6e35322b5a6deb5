"""The run directory: whose it is, what lies in it, and whether a run may begin there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import RunDirectoryError
from .peers import alive, pages, read_page

LOCK_WAIT_S = 30.0
# what lockstep writes before it renames it: NAME.PID.tmp, NAME.PID.THREAD.tmp, .NAME.PID
TEMPORARY = re.compile(r".+?\.(\d+)(?:\.\d+)?\.tmp|\..+\.(?:h5|json|html|npy)\.(\d+)")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write at once: a reader sees all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump(content, file, indent=1)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_run(run_dir: Path) -> dict[str, Any] | None:
    """``run.json`` of a run directory; None when there is none yet. Raises RunDirectoryError for somebody else's."""
    try:
        run = json.loads((run_dir / "run.json").read_text())
        if len(bytes.fromhex(run["run_id"])) == 16 and {"created", "experiment"} <= run.keys():
            return run
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunDirectoryError(
        f"{run_dir} is not a run directory: its run.json is not lockstep's. Choose another --run-dir."
    )


@contextlib.contextmanager
def run_lock(run_dir: Path) -> Iterator[None]:
    """Nobody else claims a place, begins or ends the run meanwhile.

    Raises TimeoutError when somebody else does for half a minute: it takes milliseconds, unless the program is stopped.
    """
    path = run_dir / "run.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        begun = time.monotonic()
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - begun > LOCK_WAIT_S:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"another program has held its lock for {LOCK_WAIT_S:g} s (is it stopped?)",
                        str(path),
                    ) from None  # fmt: skip
                time.sleep(0.002)
        yield
    finally:
        os.close(fd)


def refuse_foreign(run_dir: Path) -> None:
    """Raise RunDirectoryError when `run_dir` is another user's, or holds files that are not of a run, or that somebody
    else put there: links, and files of another user. Touches nothing."""
    if not run_dir.exists():
        return
    refuse_not_ours(run_dir)
    # listed before run.json is looked for: another program of the run may be writing it at this moment
    names = os.listdir(run_dir)
    if read_run(run_dir) is None:
        strangers = sorted(
            name
            for name in names
            if name not in ("peers", "run.lock", "log") and not (name.startswith("run.json.") and name.endswith(".tmp"))
        )
        if strangers:
            raise RunDirectoryError(
                f"{run_dir} is not empty and not a run directory (it holds {', '.join(strangers[:5])}). "
                f"Choose another --run-dir."
            )


def refuse_not_ours(run_dir: Path) -> None:
    """Raise RunDirectoryError when `run_dir`, or what lies in it, is not this user's own."""
    owner = run_dir.stat().st_uid
    if owner != os.geteuid():
        raise RunDirectoryError(
            f"The run directory {run_dir} belongs to user {owner}, this program runs as user {os.geteuid()}. Choose a "
            f"directory of your own with --run-dir."
        )
    for folder in (run_dir, run_dir / "peers"):
        for entry in os.scandir(folder) if folder.is_dir() else []:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # another program renamed it at this moment
                continue
            what = "is a link" if entry.is_symlink() else f"belongs to user {status.st_uid}"
            if entry.is_symlink() or status.st_uid != os.geteuid():
                raise RunDirectoryError(
                    f"{entry.path} {what}: somebody else could write to this run. Remove it, or choose another "
                    f"--run-dir."
                )


def refuse_earlier(run_dir: Path, run: dict[str, Any], overwrite: bool) -> None:
    """Raise RunDirectoryError when `run` got as far as a contract, and may not be replaced. Touches nothing."""
    if (run_dir / "contract.json").exists() and not overwrite:
        raise RunDirectoryError(
            f"{run_dir} holds a run of {run['created']} (experiment {run['experiment']}). Choose another --run-dir, or "
            f"add --overwrite to the commands of all its programs to replace it. When it ended early, "
            f"lockstep resume {run_dir} goes on with it."
        )


def check_new_run(run_dir: Path, overwrite: bool) -> None:
    """Raise RunDirectoryError unless a new run may begin in `run_dir`. Touches nothing; for who starts all programs."""
    try:
        refuse_foreign(run_dir)
        for name in pages(run_dir):
            if alive(run_dir, name):
                raise taken(run_dir, name)
        run = read_run(run_dir)
        if run is not None:
            refuse_earlier(run_dir, run, overwrite)
    except OSError as error:
        raise unusable(run_dir, error) from None


def taken(run_dir: Path, name: str) -> RunDirectoryError:
    page = read_page(run_dir, name) or {"pid": "?", "host": "?"}
    return RunDirectoryError(
        f"{run_dir} is in use: its {name} is alive as pid {page['pid']} on {page['host']}. "
        f"Choose another --run-dir, or end that program first."
    )


def unusable(run_dir: Path, error: OSError) -> RunDirectoryError:
    what = f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror or error)
    return RunDirectoryError(
        f"The run directory {run_dir} cannot be used: {what}. Choose another with --run-dir, or free space and check "
        f"its permissions."
    )


def places(run_dir: Path) -> list[str]:
    """Every program that ever took its place, or is just about to say so."""
    return sorted(path.stem for path in (run_dir / "peers").glob("*.lock"))


def temporary_files(run_dir: Path) -> Iterator[Path]:
    """What a killed program was about to rename, in this run directory and its replays."""
    for folder, folders, names in os.walk(run_dir):
        here = Path(folder)
        if here.name == "exchange":
            folders[:] = ["tmp"]  # beside it are the frames, of which there may be a million
        elif here.parent.name == "replays" and any(alive(here, name) for name in places(here)):
            folders.clear()
            continue
        for name in sorted(names):
            found = TEMPORARY.fullmatch(name)
            if here.parts[-2:] == ("exchange", "tmp") or (found and not _is_lockstep(found[1] or found[2])):
                yield here / name


def _is_lockstep(pid: str) -> bool:
    """Whether a live program of lockstep has this pid: `lockstep plot` writes results and holds no place."""
    try:
        return b"lockstep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def remove_temporary(run_dir: Path) -> None:
    """Remove what killed programs were about to rename."""
    for path in list(temporary_files(run_dir)):
        path.unlink(missing_ok=True)
