"""All programs of a run from one terminal: as processes of their own, or as threads of this one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ..bridges.errors import ExperimentError, Interrupted, LockstepError, PeerLost
from ..bridges.experiment_file import requirement_set
from ..bridges.peers import read_page, read_summary
from ..bridges.run_dir import unusable
from ..bridges.session import ENDED, Session, Stop, resume_line
from .arguments import command_prefix
from .environments import asked_of_all
from .program import Part, body_of, enter, take_part
from .progress import RunProgress

GRACE_S = 10.0  # for the others, after one program has failed
PR_SET_PDEATHSIG = 1


class Programs:
    """Programs of a run as child processes, each with its output in ``log/NAME.log`` of the run directory."""

    def __init__(self, part: Part, commands: dict[str, list[str]]) -> None:
        """commands: the command line of each program, by name."""
        self.part, self.commands = part, commands
        self.run_dir = Path(os.path.abspath(part.run_dir))
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> dict[str, int]:
        """Start them and wait for their end; the exit status of each."""
        os.umask(0o077)  # the run is its owner's alone
        try:
            (self.run_dir / "log").mkdir(parents=True, exist_ok=True)
            self.run_dir.chmod(0o700)
            for name, command in self.commands.items():
                self._start(name, command)
        except OSError as error:
            self._end(signal.SIGTERM)
            raise unusable(self.run_dir, error) from None
        progress = None
        if not self.part.quiet:
            progress = RunProgress(self.run_dir, list(self.commands), self.part.experiment.duration)
        before = {
            number: signal.signal(number, lambda n, _: self._end(n)) for number in (signal.SIGINT, signal.SIGTERM)
        }
        deadline, asked, told = float("inf"), False, False
        try:
            while running := [name for name, child in self.children.items() if child.poll() is None]:
                failed = [name for name, child in self.children.items() if child.poll() not in (None, 0)]
                if failed and self._held(running):
                    deadline = float("inf")
                    if not told:
                        told = True
                        self._tell_held(failed, running, progress)
                elif failed and deadline == float("inf"):
                    deadline = time.monotonic() + GRACE_S
                # a program that ended before it took its place leaves the others waiting for it
                absent = any(not self._claimed(name) and not self._to_be_resumed(name) for name in failed)
                if failed and not asked and (time.monotonic() > deadline or absent):
                    # once, and not to those that are saving results: a second signal interrupts hard
                    self._end(signal.SIGTERM, [name for name in running if not self._ended(name)])
                    asked = True
                if progress is not None:
                    progress.update()
                time.sleep(0.05)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if progress is not None:
                progress.update(force=True)
                progress.stop()
        return {name: child.returncode for name, child in self.children.items()}

    def _start(self, name: str, command: list[str]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self.run_dir / "log" / f"{name}.log", flags, 0o600), "wb") as log:
            self.children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches them through us, once
                preexec_fn=_die_with_parent,
            )  # fmt: skip

    def _held(self, running: list[str]) -> bool:
        """Whether some program holds for one that died, or it was resumed since, or soon will be noticed."""
        return self.part.experiment.exchange.hold_s > 0 and any(not self._ended(name) for name in running)

    def _tell_held(self, failed: list[str], running: list[str], progress: RunProgress | None) -> None:
        hold_s = self.part.experiment.exchange.hold_s
        for name in failed:
            line = (
                f"{name} {how_it_ended(self.children[name].returncode)} (see {self.run_dir / 'log' / name}.log); "
                f"{', '.join(running)} will hold for up to {hold_s:g} s. To start {name} again, paste into another "
                f"terminal:\n    {resume_line(command_prefix(), self.run_dir, name)}"
            )
            if progress is not None:
                progress.tell(line)
            else:
                print(line, file=sys.stderr, flush=True)

    def _to_be_resumed(self, name: str) -> bool:
        """Whether it was killed, and the others hold for it, or wait for it to come."""
        return self.children[name].returncode < 0 and self.part.experiment.exchange.hold_s > 0

    def _claimed(self, name: str) -> bool:
        page = read_page(self.run_dir, name)  # perhaps of an earlier run
        pids = [] if page is None else [page["pid"], *(life["pid"] for life in page.get("earlier", []))]
        return self.children[name].pid in pids

    def _ended(self, name: str) -> bool:
        page = read_page(self.run_dir, name)
        return self._claimed(name) and page is not None and page["now"]["state"] in ENDED

    def _end(self, number: int, names: list[str] | None = None) -> None:
        for name in self.children if names is None else names:
            if self.children[name].poll() is None:
                self.children[name].send_signal(number)


def _die_with_parent() -> None:
    """Ask the kernel to end this child in order when `lockstep run` itself dies (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def enter_for_all(part: Part) -> None:
    """Go on in an environment that holds every program: exchange.transport = "memory"."""
    simulators = [program.simulator for program in part.experiment.spikenet]
    if len(set(simulators)) < len(simulators):
        raise ExperimentError(
            f"exchange.transport = 'memory': a process holds each simulator once, and the spiking programs are "
            f"{', '.join(f'{p.name} ({p.simulator})' for p in part.experiment.spikenet)}. Use shm or file."
        )
    programs = ["tvb", *(program.name for program in part.experiment.spikenet)]
    sets = ["tvb", *(str(requirement_set(simulator)) for simulator in simulators)]
    enter(sets, asked_of_all(part.experiment.environments.model_dump(), programs))


def in_this_process(part: Part) -> dict[str, int]:
    """All programs as threads of this process; the exit status of each."""
    experiment, run_dir = part.experiment, part.run_dir
    bodies: dict[str, Callable[[Session], None]] = {
        name: body_of(name, part.source.parent) for name in experiment.peers
    }
    stop, codes, errors = Stop(), dict.fromkeys(experiment.peers, 1), {}
    progress = None if part.quiet else RunProgress(run_dir, experiment.peers, experiment.duration)

    def program(name: str) -> None:
        try:
            codes[name] = take_part(part, name, bodies[name], stop, progress)
        except LockstepError as error:
            codes[name], errors[name] = error.exit_code, error
            if (read_page(run_dir, name) or {"pid": None})["pid"] != os.getpid():
                # it never took its place, so the others would wait for it
                stop.reason = stop.reason or f"the failure of {name}"

    # NEST has to stay in the thread that imported it: the main thread, where a user's own script has it too
    main = next((p.name for p in experiment.spikenet if p.simulator == "nest"), "tvb")
    threads = [threading.Thread(target=program, args=(name,), name=name) for name in experiment.peers if name != main]
    with stop.on_signals():
        for thread in threads:
            thread.start()
        program(main)
        for thread in threads:
            thread.join()
    if progress is not None:
        progress.update(force=True)
        progress.stop()
    for name, error in errors.items():
        if not error.told:
            print(f"{name}: {error}", file=sys.stderr)
    return codes


def how_it_ended(code: int) -> str:
    return f"ended with exit status {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"


def outcome(run_dir: Path, codes: dict[str, int], wall_s: float) -> int:
    """Say how the programs ended, where everything lies, and what went wrong; the exit status."""
    run_dir = Path(os.path.abspath(run_dir))
    for name, code in codes.items():
        if code == 0:
            continue
        if (read_summary(run_dir, name) or {}).get("state") == "finished":
            print(f"{name} {how_it_ended(code)}, and was resumed.")
            codes[name] = 0
            continue
        log = run_dir / "log" / f"{name}.log"
        if log.exists():
            tail = log.read_text(errors="replace").strip().splitlines()[-40:]
            print(f"--- {name} {how_it_ended(code)}:", *tail, sep="\n", file=sys.stderr)
    if not any(codes.values()) and read_summary(run_dir, "tvb") is not None:
        print(f"finished in {wall_s:.1f} s (start-up and report included)")
    print(f"run directory: {run_dir}")
    if (run_dir / "report.html").exists():
        print(f"report:        {run_dir / 'report.html'}")
    # of the program where it began, not of one that was stopped then, or lost it
    later = (Interrupted.exit_code, PeerLost.exit_code)
    order = {code: i for i, code in enumerate(later)}
    begun = sorted((code for code in codes.values() if code), key=lambda code: order.get(code, -1))
    return next((code if code > 0 else 128 - code for code in begun), 0)
