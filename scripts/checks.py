"""``scripts/test``: what has to hold before a commit, in an environment of its own; arguments go to pytest.

Runs in the bootstrap's own Python, on the standard library alone. After the suite it says in a line what was skipped
and why, and looks for what the tests may have left: names in /dev/shm, and processes, which it knows by a mark in their
environment.
"""

from __future__ import annotations

import ast
import os
import subprocess
import tempfile
import time
import uuid
import xml.etree.ElementTree
from collections import Counter
from pathlib import Path

from ..bridges.errors import EnvironmentFailed
from . import environments

ENVIRONMENT = "tvb+nest+annarchy+netpyne+test"  # all in one, so that a test may use any of them
FOLDERS = ("bridges", "transformers", "tvb_side", "spikenet_side", "scripts")
SHARED_MEMORY = Path("/dev/shm")
PREFIX = "tvls-"  # of every segment and semaphore of the toolkit
MARK = "LOCKSTEP_TEST_RUN"


def main(arguments: list[str]) -> int:
    if not environments.in_checkout():
        raise EnvironmentFailed("The checks need a checkout, with its tests; this is an installed package.")
    python = str(environments.ensure(ENVIRONMENT))
    mark = uuid.uuid4().hex
    environ = {**os.environ, MARK: mark, "MYPYPATH": str(_import_root())}
    before = _ours_in_shared_memory()

    # once, and not in each of the hundreds of programs that the tests start where PYTHONDONTWRITEBYTECODE is set
    compile_all = [python, "-m", "compileall", "-q", "-x", "experiments", *FOLDERS]
    subprocess.run(compile_all, cwd=environments.ROOT, env=environ, stdin=subprocess.DEVNULL)

    packages = [argument for folder in FOLDERS for argument in ("-p", f"tvb_lockstep.{folder}")]
    results = {}
    with tempfile.TemporaryDirectory(prefix="lockstep-test-") as scratch:
        told = Path(scratch, "tests.xml")
        for name, command in {
            "ruff": [python, "-m", "ruff", "check", "."],
            "mypy": [python, "-m", "mypy", *packages],
            # two files of tests at a time, since a run of two programs leaves cores idle; in their order: those of few
            # and long tests would else come last, one after the other
            "pytest": [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder",
                       f"--junit-xml={told}", *arguments],
        }.items():
            environments.say(f"\n== {name}")
            started = time.monotonic()
            code = subprocess.run(command, cwd=environments.ROOT, env=environ, stdin=subprocess.DEVNULL).returncode
            results[name] = ("passed" if code == 0 else f"FAILED (exit code {code})", time.monotonic() - started)
        skipped = _skipped(told)
    started = time.monotonic()
    left = _left_behind(mark, before)
    results["nothing left behind"] = ("FAILED" if left else "passed", time.monotonic() - started)

    environments.say("\n== summary")
    for line in left:
        environments.say(f"  {line}")
    for name, (result, seconds) in results.items():
        environments.say(f"  {name:<20} {result}, {seconds:.0f} s")
    environments.say(f"  {'skipped':<20} {skipped}")
    return int(any(result != "passed" for result, _ in results.values()))


def _skipped(told: Path) -> str:
    """What was skipped and why, in a line, from pytest's JUnit file."""
    try:
        tests = xml.etree.ElementTree.parse(told).iter("skipped")
    except (OSError, xml.etree.ElementTree.ParseError):
        return "unknown: pytest came to no end"
    reasons: Counter[str] = Counter()
    for test in tests:
        reason = test.get("message", "")
        if reason == "collection skipped":  # a whole file; its text is (path, line, reason)
            reason = "all of a file: " + ast.literal_eval(test.text or "")[2].removeprefix("Skipped: ")
        reasons[" ".join(reason.split())] += 1
    return "; ".join(f"{n} ({reason})" for reason, n in reasons.items()) or "nothing"


def _import_root() -> Path:
    """A folder from which mypy finds tvb_lockstep.bridges and the others: it knows no mapped package folders."""
    root = environments.folder() / ".mypy"
    root.mkdir(parents=True, exist_ok=True)
    link = root / "tvb_lockstep"
    if not link.is_symlink() or link.readlink() != environments.ROOT:
        link.unlink(missing_ok=True)
        link.symlink_to(environments.ROOT, target_is_directory=True)
    return root


def _left_behind(mark: str, before: set[str]) -> list[str]:
    """What the tests left; processes that are just ending get two seconds."""
    for _ in range(20):
        ours, others = _processes(mark)
        # another run on this machine may have started meanwhile: what it holds is not ours
        foreign = "".join(_read(Path("/proc", pid, "maps")) for pid in others)
        names = sorted(name for name in _ours_in_shared_memory() - before if f"{SHARED_MEMORY}/{name}" not in foreign)
        if not ours and not names:
            return []
        time.sleep(0.1)
    commands = {pid: _read(Path("/proc", pid, "cmdline")).replace("\0", " ") for pid in ours}
    alive = [f"process {pid} is still alive: {command}" for pid, command in commands.items()]
    return [*alive, *(f"{SHARED_MEMORY}/{name} was left" for name in names)]


def _ours_in_shared_memory() -> set[str]:
    """Segments are called tvbl…, semaphores sem.tvbl…"""
    if not SHARED_MEMORY.is_dir():
        return set()
    return {path.name for path in SHARED_MEMORY.iterdir() if path.name.removeprefix("sem.").startswith(PREFIX)}


def _processes(mark: str) -> tuple[list[str], list[str]]:
    """The ids of the processes that the tests started, and of all others (none where there is no /proc)."""
    ours: list[str] = []
    others: list[str] = []
    for pid in (path.name for path in Path("/proc").glob("[0-9]*")):
        environ = _read(Path("/proc", pid, "environ"))  # empty for a zombie
        (ours if f"{MARK}={mark}\0" in environ else others).append(pid)
    return ours, others


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # ended meanwhile, or another user's
        return ""
