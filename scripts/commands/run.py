"""`lockstep run`: all programs of an experiment, each in its own environment, and their progress in one terminal."""

from __future__ import annotations

import argparse
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

from ...bridges.errors import ExperimentError, Interrupted, LockstepError, PeerLost
from ...bridges.experiment import Experiment
from ...bridges.peers import read_page, read_summary
from ...bridges.session import ENDED, Session, Stop, check_new_run, unusable
from ..arguments import experiment_of, forwarded
from ..program import add_arguments as add_program_arguments
from ..program import enter, interpreter, python_for, take_part
from ..progress import RunProgress

GRACE_S = 10.0  # for the others, after one program has failed
PR_SET_PDEATHSIG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_program_arguments(parser, run_dir_required=False)


def run(args: argparse.Namespace) -> int:
    experiment, path = experiment_of(args)
    if args.run_dir is None:
        args.run_dir = Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    if experiment.exchange.transport == "memory":
        return _in_this_process(args, experiment, path)
    pythons = {"tvb": python_for(["tvb"], experiment.environments.tvb)}
    for program in experiment.spikenet:
        pythons[program.name] = python_for([program.simulator], experiment.environments.spikenet)
    if "bridge" in experiment.peers:
        pythons["bridge"] = Path(sys.executable)
    begun = time.monotonic()
    codes = _Programs(args, experiment, pythons).run()
    return _outcome(args, codes, time.monotonic() - begun)


class _Programs:
    """The programs of a run as child processes, each with its output in ``log/NAME.log`` of the run directory."""

    def __init__(self, args: argparse.Namespace, experiment: Experiment, pythons: dict[str, Path]) -> None:
        self.args, self.experiment, self.pythons = args, experiment, pythons
        self.run_dir = Path(os.path.abspath(args.run_dir))
        self.children: dict[str, subprocess.Popen[bytes]] = {}

    def run(self) -> dict[str, int]:
        check_new_run(self.run_dir, self.args.overwrite)
        os.umask(0o077)  # the run is its owner's alone
        try:
            (self.run_dir / "log").mkdir(parents=True, exist_ok=True)
            self.run_dir.chmod(0o700)
            for name in self.pythons:
                self._start(name)
        except OSError as error:
            self._end(signal.SIGTERM)
            raise unusable(self.run_dir, error) from None
        progress = None if self.args.quiet else RunProgress(self.run_dir, list(self.pythons), self.experiment.duration)
        before = {
            number: signal.signal(number, lambda n, _: self._end(n)) for number in (signal.SIGINT, signal.SIGTERM)
        }
        deadline, asked = float("inf"), False
        try:
            while running := [name for name, child in self.children.items() if child.poll() is None]:
                failed = [name for name, child in self.children.items() if child.poll() not in (None, 0)]
                if failed and deadline == float("inf"):
                    deadline = time.monotonic() + GRACE_S
                # a program that died before it took its place leaves the others waiting for it
                if (
                    failed
                    and not asked
                    and (time.monotonic() > deadline or any(not self._claimed(name) for name in failed))
                ):
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

    def _start(self, name: str) -> None:
        command = interpreter(self.pythons[name])
        command += [name if name in ("tvb", "bridge") else "spikenet", *forwarded(self.args), "--quiet"]
        command += [] if name in ("tvb", "bridge") else ["--name", name]
        command += ["--no-report"] if self.args.no_report else []
        with open(self.run_dir / "log" / f"{name}.log", "wb") as log:
            self.children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches them through us, once
                preexec_fn=_die_with_parent,
            )  # fmt: skip

    def _claimed(self, name: str) -> bool:
        page = read_page(self.run_dir, name)  # perhaps of an earlier run
        return page is not None and page["pid"] == self.children[name].pid

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


def _in_this_process(args: argparse.Namespace, experiment: Experiment, path: Path) -> int:
    """Everything in one process, one thread a program: exchange.transport = "memory"."""
    simulators = [program.simulator for program in experiment.spikenet]
    if len(set(simulators)) < len(simulators):
        raise ExperimentError(
            f"exchange.transport = 'memory': a process holds each simulator once, and the spiking programs are "
            f"{', '.join(f'{p.name} ({p.simulator})' for p in experiment.spikenet)}. Use shm or file."
        )
    enter(["tvb", *simulators], f"{experiment.environments.tvb} {experiment.environments.spikenet}".strip())
    from ...bridges.bridge import run_bridge
    from ...spikenet_side.program import run as run_spikenet
    from ...tvb_side.program import run as run_tvb

    def spikenet(session: Session) -> None:
        run_spikenet(session, path.parent)

    bodies: dict[str, Callable[[Session], None]] = {program.name: spikenet for program in experiment.spikenet}
    bodies["tvb"] = lambda session: run_tvb(session, path.parent)
    bodies["bridge"] = run_bridge
    stop, codes, errors = Stop(), dict.fromkeys(experiment.peers, 1), {}
    progress = None if args.quiet else RunProgress(args.run_dir, experiment.peers, experiment.duration)

    def program(name: str) -> None:
        try:
            codes[name] = take_part(args, name, bodies[name], stop, progress)
        except LockstepError as error:
            codes[name], errors[name] = error.exit_code, error
            if (read_page(args.run_dir, name) or {"pid": None})["pid"] != os.getpid():
                # it never took its place, so the others would wait for it
                stop.reason = stop.reason or f"the failure of {name}"

    begun = time.monotonic()
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
    return _outcome(args, codes, time.monotonic() - begun)


def _outcome(args: argparse.Namespace, codes: dict[str, int], wall_s: float) -> int:
    """Say how it ended, where everything lies, and what went wrong; the exit status."""
    run_dir = Path(os.path.abspath(args.run_dir))
    for name, code in codes.items():
        log = run_dir / "log" / f"{name}.log"
        if code != 0 and log.exists():
            tail = log.read_text(errors="replace").strip().splitlines()[-40:]
            status = f"exit status {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
            print(f"--- {name} ended with {status}:", *tail, sep="\n", file=sys.stderr)
    summary = read_summary(run_dir, "tvb")
    if not any(codes.values()) and summary is not None:
        print(f"finished in {wall_s:.1f} s (start-up and report included)")
    print(f"run directory: {run_dir}")
    if (run_dir / "report.html").exists():
        print(f"report:        {run_dir / 'report.html'}")
    # of the program where it began, not of one that was stopped then, or lost it
    later = (Interrupted.exit_code, PeerLost.exit_code)
    order = {code: i for i, code in enumerate(later)}
    begun = sorted((code for code in codes.values() if code), key=lambda code: order.get(code, -1))
    return next((code if code > 0 else 128 - code for code in begun), 0)
