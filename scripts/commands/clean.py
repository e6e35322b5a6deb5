"""`lockstep clean`: removes what killed runs left in shared memory and in their run directories, never a live run's."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ...bridges.errors import RunDirectoryError
from ...bridges.peers import alive, read_page
from ...bridges.run_dir import places, read_run, temporary_files, unusable
from ...bridges.transports import remove_leftovers, shm

SHARED_MEMORY = Path("/dev/shm")
PATIENCE_S = 2.0  # for a program that takes or leaves its place at this moment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=Path, nargs="*", metavar="RUN",
        help="run directories (default: shared memory of all dead runs of this user; a segment does not say which run "
        "directory it belongs to, so that temporary files are found in the RUNs named here only)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    parser.epilog = (
        "A run is live when one of its programs holds the lock of its place (peers/NAME.lock), a segment when its "
        "producer holds the lock on it; both are released by the kernel at any death. Recordings, results and frames "
        "are never removed."
    )


def run(args: argparse.Namespace) -> int:
    runs = {run_dir: _run_id(run_dir) for run_dir in args.run}  # all of them, before anything is removed
    for run_dir, run_id in runs.items():
        try:
            _clean_run(run_dir, run_id, args.dry_run)
        except OSError as error:
            raise unusable(run_dir, error) from None
    if not runs:
        _clean_shared_memory(args.dry_run)
    return 0


def _run_id(run_dir: Path) -> bytes:
    if not run_dir.is_dir():
        raise RunDirectoryError(f"There is no run directory {run_dir}.")
    if run_dir.stat().st_uid != os.geteuid():
        raise RunDirectoryError(
            f"The run directory {run_dir} belongs to user {run_dir.stat().st_uid}, this program runs as user "
            f"{os.geteuid()}. Its owner has to clean it."
        )
    run = read_run(run_dir)
    if run is None:
        raise RunDirectoryError(f"{run_dir} is not a run directory: it has no run.json.")
    return bytes.fromhex(run["run_id"])


def _clean_run(run_dir: Path, run_id: bytes, dry_run: bool) -> None:
    with _nobody_joins(run_dir, dry_run) as held:
        live = [name for name in places(run_dir) if alive(run_dir, name)]
        if live:
            who = ", ".join(f"{name} ({_who(run_dir, name)})" for name in live)
            print(f"{run_dir}: left alone, {who} {'is' if len(live) == 1 else 'are'} alive.")
            return
        if not held:
            print(f"{run_dir}: left alone, a program takes or leaves its place (run.lock is held). Try again.")
            return
        found = {name: _about(run_dir, name) for name in remove_leftovers(run_dir, run_id, dry_run=True)}
        files = {str(path.relative_to(run_dir)) for path in temporary_files(run_dir)}
        found |= {name: _about(run_dir, name) for name in sorted(files - found.keys())}
        if not dry_run:
            remove_leftovers(run_dir, run_id)
            for name in files:
                (run_dir / name).unlink(missing_ok=True)
    _print(str(run_dir), found, dry_run)


def _clean_shared_memory(dry_run: bool) -> None:
    if not SHARED_MEMORY.is_dir():
        print(f"There is no {SHARED_MEMORY} here, and so no ring of a run.")
        return
    dead, live = shm.leftovers()
    found = {name: _about(SHARED_MEMORY, name) for name in dead}
    removed = dead if dry_run else shm.remove(dead)
    _print("shared memory of dead runs", {name: found[name] for name in removed}, dry_run)
    if live:
        pids = sorted({pid for pid in live.values() if Path(f"/proc/{pid}").exists()})
        who = f", of pid {', '.join(map(str, pids))}" if pids else ""
        print(f"left alone: {len(live)} ring{'s' * (len(live) > 1)} of live runs{who}")


@contextlib.contextmanager
def _nobody_joins(run_dir: Path, dry_run: bool) -> Iterator[bool]:
    """Holds the lock under which programs take and leave their places; False when it cannot be had."""
    try:
        fd = os.open(run_dir / "run.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if dry_run:  # a copy of a run directory: nothing is made in it to look at it
            yield True
            return
        fd = os.open(run_dir / "run.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + PATIENCE_S
        held = False
        while not held and time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            if not held:
                time.sleep(0.02)
        yield held
    finally:
        os.close(fd)


def _who(run_dir: Path, name: str) -> str:
    page = read_page(run_dir, name)
    return f"pid {page['pid']} on {page['host']}" if page else "just starting"


def _about(folder: Path, name: str) -> str:
    """Size and age of a left-over: a file of the run directory, or a name in shared memory."""
    for path in (folder / name, SHARED_MEMORY / name):
        with contextlib.suppress(OSError):
            status = path.lstat()
            return f"{_bytes(status.st_size)}, {_age(time.time() - status.st_mtime)} old"
    return ""


def _bytes(n: int) -> str:
    return f"{n} bytes" if n < 1024 else f"{n / 1024:.0f} KiB" if n < 1 << 20 else f"{n / (1 << 20):.1f} MiB"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _print(title: str, found: dict[str, str], dry_run: bool) -> None:
    if not found:
        print(f"{title}: nothing was left behind")
        return
    print(f"{title}: {'would remove' if dry_run else 'removed'} {len(found)}")
    for name, about in found.items():
        print(f"  {name}  ({about})" if about else f"  {name}")
