"""Programs as people have them in their terminals, one that misbehaves on purpose, and a small experiment."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
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


NETWORK = """
def build(request):
    import nest
    {broken}
    return {{
        region: {{name: nest.Create("parrot_neuron", 3) for name in ("E", "I")}} for region in request.regions
    }}
"""
MODEL = """
import numpy as np
from tvb.datatypes import connectivity
from tvb.simulator import coupling, integrators, models, monitors, simulator


class Fragile(models.WilsonCowan):
    calls = 0

    def dfun(self, state_variables, coupling, local_coupling=0.0):
        Fragile.calls += 1
        derivative = super().dfun(state_variables, coupling, local_coupling)
        if Fragile.calls > 1000:
            {broken}
        return derivative


def build(section):
    conn = connectivity.Connectivity(
        weights=np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]),
        tract_lengths=np.full((3, 3), 40.0), centres=np.zeros((3, 3)), region_labels=np.array(["A", "B", "C"]),
        speed=np.array([4.0]),
    )
    return simulator.Simulator(
        connectivity=conn, model=Fragile(), coupling=coupling.Linear(), conduction_speed=4.0,
        integrator=integrators.HeunDeterministic(dt=0.1), monitors=(monitors.TemporalAverage(period=1.0),),
    )
"""


def write_experiment(
    folder: Path, tvb: str = MODEL.format(broken="pass"), network: str = NETWORK.format(broken="")
) -> None:
    """A small experiment of three regions, one of them spiking, with the Python of its two sides."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(tvb)
    (folder / "network.py").write_text(network)
    (folder / "experiment.toml").write_text(
        'name = "own"\nduration = 400.0\n[tvb]\nbuild = "model:build"\n'
        '[spikenet]\nsimulator = "nest"\nregions = ["A"]\n'
        '[[interfaces.tvb_to_spikenet]]\nvoi = "E"\npopulations = "E"\ntransformer_params = { scale_factor = 100.0 }\n'
        '[[interfaces.spikenet_to_tvb]]\nvoi = "E"\npopulations = "E"\ntransformer_params = { scale_factor = 0.01 }\n'
    )


def _misbehave(name: str, experiment: str, run_dir: str, overrides: list[str], fault: str) -> None:
    """Be spiking program `name`, which does as `fault` says:

    "die before PAGE", "stop before PAGE" (hello, offer, ready, attached): kill -9, or SIGSTOP, just before it publishes
    that. "die in window K". "wire VERSION": says at hello that it speaks that version only. "": no fault.
    """
    from tvb_lockstep.bridges.errors import LockstepError
    from tvb_lockstep.bridges.experiment import load
    from tvb_lockstep.bridges.results import finish
    from tvb_lockstep.bridges.session import Session
    from tvb_lockstep.spikenet_side.null import Null
    from tvb_lockstep.spikenet_side.program import run

    class Faulty(Session):
        def publish(self, what: str, content: dict[str, Any]) -> dict[str, Any]:
            nonlocal fault
            if fault in (f"die before {what}", f"stop before {what}"):
                number = signal.SIGKILL if fault.startswith("die") else signal.SIGSTOP
                fault = ""  # "ready" is published more than once
                os.kill(os.getpid(), number)
            if what == "hello" and fault.startswith("wire"):
                content = {**content, "toolkit": "9.9", "wire_versions": [int(fault.split()[1])]}
            return super().publish(what, content)

    class FaultyNull(Null):
        def run(self, first_step: int, end_step: int) -> None:
            if fault == f"die in window {session.window}":
                os.kill(os.getpid(), signal.SIGKILL)
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
