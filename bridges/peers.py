"""Who takes part in a run, whether they live, and what they are doing.

Liveness is a `flock` on ``peers/NAME.lock``, which the kernel releases at any death of its holder; a stopped program
(SIGSTOP, a debugger) keeps it. What a program does now stands in ``peers/NAME.json``, a memory-mapped text of constant
length that is always valid JSON: updating it costs about a microsecond, and it survives kill -9.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import time
from pathlib import Path
from typing import Any

_NOW = '"state": "%-11s", "window": %12d, "waiting_for": "%-31s", "since": %17.6f}}\n'


def pages(run_dir: Path) -> dict[str, dict[str, Any]]:
    """The pages of all programs that ever claimed a place in this run, by name."""
    found = {}
    for path in sorted((run_dir / "peers").glob("*.json")):
        if path.name.count(".") == 1:
            page = read_page(run_dir, path.stem)
            if page is not None:
                found[path.stem] = page
    return found


def read_page(run_dir: Path, name: str) -> dict[str, Any] | None:
    """What a program last said of itself; None when it never claimed its place."""
    for _ in range(3):  # a page that is being created may still be short
        try:
            page = json.loads((run_dir / "peers" / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        except json.JSONDecodeError:
            time.sleep(0.002)
            continue
        now = page["now"]
        now["state"], now["waiting_for"] = now["state"].strip(), now["waiting_for"].strip()
        return page
    return None


def read_summary(run_dir: Path, name: str) -> dict[str, Any] | None:
    """What a program wrote at its end; None while it runs, or when it died."""
    try:
        return json.loads((run_dir / "peers" / f"{name}.summary.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def alive(run_dir: Path, name: str) -> bool:
    """Whether a program holds the place `name` at this moment."""
    try:
        fd = os.open(run_dir / "peers" / f"{name}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def hold_place(run_dir: Path, name: str) -> int | None:
    """The descriptor that holds the place `name` until it is closed; None when another program holds it."""
    fd = os.open(run_dir / "peers" / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(30):  # somebody may just be looking whether we live, which takes a few microseconds
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            time.sleep(0.01)
    os.close(fd)
    return None


class Page:
    """The page of this program: who it is, and what it does now."""

    def __init__(self, run_dir: Path, name: str, run_id: str, about: dict[str, Any]) -> None:
        self._path = run_dir / "peers" / f"{name}.json"
        head = json.dumps(
            {"peer": name, "run_id": run_id, "pid": os.getpid(), "host": socket.gethostname(), "started": time.time(),
             **about}
        )  # fmt: skip
        prefix = (head[:-1] + ', "now": {').encode()
        text = prefix + (_NOW % ("starting", -1, "", time.time())).encode()
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, len(text))  # on a full disk an error here, not SIGBUS at some later update
            os.write(fd, text)
            os.rename(temporary, self._path)
            self._map = mmap.mmap(fd, len(text))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        self._now = slice(len(prefix), len(text))
        self._said = ("starting", -1, "")

    def update(self, state: str, window: int, waiting_for: str = "") -> None:
        """State: starting, waiting, computing, finishing, or how it ended: finished, interrupted, failed.

        Saying the same again changes nothing: `since` is when it began.
        """
        if (state, window, waiting_for) == self._said:
            return
        self._said = (state, window, waiting_for)
        self._map[self._now] = (_NOW % (state, window, waiting_for[:31], time.time())).encode()

    def close(self) -> None:
        self._map.close()
