"""Programs as people have them in their terminals, and one that misbehaves on purpose; for the scenarios about faults."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ != "__main__":
    import running

ENDLESS = {"duration": 200000.0}  # ms: no such run comes to its end within a test
SHORT = {"duration": 20.0}
PASTE = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)


class Terminal:
    """A program in a terminal of its own: what it prints can be read while it runs.

    command: a list, or one line for a shell, as pasted by a person.
    """

    def __init__(self, command: list[str] | str, screen: Path, cwd: Path | None = None, **env: str) -> None:
        self._screen = screen
        tag, value = running.TAG.split("=")
        prefix = shlex.join(running.COMMAND)
        environment = {**os.environ, "LOCKSTEP_COMMAND": prefix, "PYTHONUNBUFFERED": "1", **env, tag: value}
        with open(screen, "wb") as out:
            self.process = subprocess.Popen(
                command, shell=isinstance(command, str), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                cwd=cwd, start_new_session=True, env=environment,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self._screen.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def says(self, part: str) -> str:
        """Waits until `part` stands on the screen."""
        return running.wait_until(lambda: self.text if part in self.text else "", f"{part!r} on {self._screen.name}")

    def end(self) -> int:
        """Its exit status, when it has ended by itself."""
        try:
            return self.process.wait(running.WATCHDOG_S)
        except subprocess.TimeoutExpired:
            running.kill_everything_started()
            raise AssertionError(f"hung; its screen:\n{self.text}") from None


def program(
    name: str, experiment: str | Path, run_dir: Path, values: dict[str, Any], screen: Path, *more: str,
    cwd: Path | None = None, **env: str,
) -> Terminal:  # fmt: skip
    """`lockstep tvb`, `lockstep spikenet`, `lockstep bridge` or `lockstep run` in a terminal."""
    command = [*running.COMMAND, name, str(experiment), "--run-dir", str(run_dir), *running.settings(values)]
    return Terminal([*command, "--quiet", "--no-report", *more], screen, cwd, **env)


def double(
    experiment: str | Path, run_dir: Path, values: dict[str, Any], fault: str, screen: Path, name: str = "spikenet"
) -> Terminal:
    """The spiking program with a simulator without dynamics, and a fault (see `_misbehave`); it starts fast."""
    given = json.dumps([name, str(experiment), str(run_dir), running.settings(values)[1::2], fault])
    return Terminal([sys.executable, __file__, given], screen)


def window(run_dir: Path, peer: str, at_least: int) -> int:
    """Waits until program `peer` is in window `at_least` or a later one."""
    running.wait_until(lambda: running.window_of(run_dir, peer) >= at_least, f"window {at_least} of {peer}")
    return running.window_of(run_dir, peer)


def died(run_dir: Path, peer: str) -> None:
    """Waits until `peer` no longer holds its place."""
    from tvb_lockstep.bridges.peers import alive

    running.wait_until(lambda: not alive(run_dir, peer), f"death of {peer}")


def _misbehave(name: str, experiment: str, run_dir: str, overrides: list[str], fault: str) -> None:
    """Be spiking program `name`, which does as `fault` says:

    "die before PAGE" (hello, offer, ready, attached): kill -9 just before it publishes that. "die in window K",
    "hang in window K". "wire VERSION": says at hello that it speaks that version only. "": no fault.
    """
    from tvb_lockstep.bridges.errors import LockstepError
    from tvb_lockstep.bridges.experiment import load
    from tvb_lockstep.bridges.results import finish
    from tvb_lockstep.bridges.session import Session
    from tvb_lockstep.spikenet_side.null import Null
    from tvb_lockstep.spikenet_side.program import run

    class Faulty(Session):
        def publish(self, what: str, content: dict[str, Any]) -> dict[str, Any]:
            if fault == f"die before {what}":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "hello" and fault.startswith("wire"):
                content = {**content, "toolkit": "9.9", "wire_versions": [int(fault.split()[1])]}
            return super().publish(what, content)

    class FaultyNull(Null):
        def run(self, first_step: int, end_step: int) -> None:
            if fault == f"die in window {session.window}":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == f"hang in window {session.window}":
                time.sleep(3600)
            super().run(first_step, end_step)

    loaded, path = load(experiment, overrides)
    session = Faulty(Path(run_dir), name, loaded)
    code = 0
    try:
        with session.stop.on_signals(), session:
            run(session, path.parent, simulator=FaultyNull())
    except LockstepError as error:
        code = error.exit_code
    finally:
        if session.last:
            finish(session.run_dir)
        session.release()
    sys.exit(code)


if __name__ == "__main__":
    _misbehave(*json.loads(sys.argv[1]))
