"""A process that has TVB and NEST loaded already, and forks programs from itself: they start in a tenth of the time.

One JSON line in, one out: ``{"screen": …, "point": …, "window": …, "arguments": […]}`` gives the pid of a program as in
killed.py; ``{"wait": PID}`` its exit status, once it has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class Born:
    """A program from the nursery, as a `Terminal`."""

    def __init__(self, nursery: Nursery, pid: int, screen: Path) -> None:
        self._nursery, self.pid, self._screen = nursery, pid, screen

    @property
    def text(self) -> str:
        return self._screen.read_text(errors="replace")

    def end(self) -> int:
        """Its exit status, when it has ended by itself."""
        return self._nursery.ask({"wait": self.pid})


class Nursery:
    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
            start_new_session=True,
        )  # fmt: skip

    def ask(self, what: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, point: str, window: int, arguments: list[str], screen: Path) -> Born:
        what = {"screen": str(screen), "point": point, "window": window, "arguments": arguments}
        return Born(self, self.ask(what), screen)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _be(what: dict[str, Any]) -> None:
    """What a forked child does; it never returns."""
    os.setsid()
    out = os.open(what["screen"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    sys.path.insert(0, str(Path(__file__).parent))
    from killed import prepare
    from tvb_lockstep.scripts.main import main

    code = 1
    try:
        prepare(what["point"], what["window"])
        code = main(what["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    from tvb_lockstep.bridges import bridge, compare, replay, resume  # noqa: F401
    from tvb_lockstep.spikenet_side.nest.adapter import import_nest
    from tvb_lockstep.spikenet_side.program import run as _  # noqa: F401
    from tvb_lockstep.tvb_side import program  # noqa: F401

    import_nest()
    for line in sys.stdin:
        what = json.loads(line)
        if "wait" in what:
            answer = os.waitstatus_to_exitcode(os.waitpid(what["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                _be(what)
        print(answer, flush=True)


if __name__ == "__main__":
    serve()
