"""`lockstep bench kills`: programs of real runs of TVB and NEST killed (SIGKILL) at random times, and the runs resumed.

Each run is drawn from a seed of its own: how it exchanges, when which programs are killed, how soon they are resumed.
The times are uniform over the life of an uninterrupted run, start-up and saving of results included, counted from the
start and then from each resume. Whatever happened, the run must come to its end by `lockstep resume` alone, with every
dataset of tvb.h5, spikes.h5 and exchange.h5 equal bit for bit to those of the uninterrupted run, and leave nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..bridges import __version__
from ..bridges.errors import LockstepError, PeerLost, RunDirectoryError
from ..bridges.experiment import load
from ..bridges.peers import read_page, read_summary
from ..bridges.resume import Unfinished
from ..bridges.run_dir import read_run, temporary_files
from ..bridges.session import ENDED
from ..bridges.transports import remove_leftovers
from .bench_run import sets
from .program import interpreter, python_for, requirements_of

EXPERIMENT = "wilson_cowan"
COMPARED = ("tvb.h5", "spikes.h5", "exchange.h5")
NO_PLACE, BEFORE, IN, AFTER = "before its place", "before the windows", "in the windows", "after the windows"
MARK = "LOCKSTEP_BENCH_KILLS"  # in the environment of all that a run starts
HOLD_S = 3600.0  # longer than the watchdog: a program that holds in vain is a failure
LOOK_S = 0.02
NOTICED_S = 2.0  # who waits for so long for a program that is gone does not know that it was ever there
MOST_STRIKES = 5
GUESSED_LIFE_S = 20.0  # of the first run, for its watchdog


# what a kill hits, and in which runs
GROUPS = ("all", "tvb", "spikenet", "bridge", NO_PLACE, BEFORE, IN, AFTER, "in a first life", "in a resumed life",
          "alone", "all at once", "transport = shm", "transport = file", "bridge = receiver", "bridge = own",
          "mode = parallel", "mode = serial", "depth = 1", "depth = 8", "others hold", "others end")  # fmt: skip


class Failed(Exception):
    """What a run did wrong."""


class Strike(NamedTuple):
    """One or all programs killed. at: time since the last start, in lives of an uninterrupted run. order: the first of
    these that lives is killed; power: all that live are. at_once: resumed before the others have noticed."""

    at: float
    order: tuple[str, ...]
    power: bool
    at_once: bool


class Drawn(NamedTuple):
    """A run. together: after the last strike it is resumed by `lockstep resume RUN`, else program by program."""

    seed: int
    exchange: dict[str, Any]
    strikes: tuple[Strike, ...] = ()
    together: bool = False


@dataclass
class Kill:
    """A program that died by a kill. life: 1 when it was started for the first time; named_s: until the line of another
    program that names it."""

    program: str
    pid: int
    phase: str
    window: int
    life: int
    power: bool
    named_s: float | None = None


@dataclass
class Process:
    """A command that was started. programs: those that it is, or that it starts."""

    programs: list[str]
    child: subprocess.Popen[bytes]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")


@dataclass
class Blow:
    """A kill at time `at`, and who was there. due: whether somebody has to name it before the victim is resumed."""

    kill: Kill
    at: float
    witnesses: list[Process]
    due: bool


def draw(seed: int) -> Drawn:
    """The run of this seed."""
    rng = random.Random(seed)
    exchange = {
        "transport": rng.choice(("shm", "file")), "bridge": rng.choice(("receiver", "own")),
        "mode": rng.choice(("parallel", "serial")), "depth": rng.choice((1, 8)), "hold_s": rng.choice((0.0, HOLD_S)),
    }  # fmt: skip
    programs = ["tvb", "spikenet"] + (["bridge"] if exchange["bridge"] == "own" else [])
    strikes = tuple(
        Strike(rng.random(), tuple(rng.sample(programs, len(programs))), rng.random() < 0.15, rng.random() < 0.3)
        for _ in range(rng.randint(1, MOST_STRIKES))
    )
    return Drawn(seed, exchange, strikes, rng.random() < 0.5)


def phase_of(pid: int, page: dict[str, Any] | None, summary: dict[str, Any] | None) -> str:
    """Where in its life program `pid` was, by the page and the summary of its place."""
    if page is None or page["pid"] != pid:
        return NO_PLACE
    if summary is not None or page["now"]["state"] in ENDED:
        return AFTER
    return BEFORE if page["now"]["window"] < 0 else IN


class Run:
    """One run: started, struck, resumed until it is complete, and checked."""

    def __init__(self, folder: Path, drawn: Drawn, duration_ms: float, life_s: float) -> None:
        self.folder, self.drawn, self.duration_ms, self.life_s = folder, drawn, duration_ms, life_s
        self.run_dir = folder / "run"
        self.kills: list[Kill] = []
        self.story: list[str] = []
        self._sets = sets(
            {"duration": duration_ms, **{f"exchange.{key}": value for key, value in drawn.exchange.items()}}
        )
        self._experiment = load(EXPERIMENT, self._sets[1::2])[0]
        self._mark = uuid.uuid4().hex
        self._started: list[Process] = []
        self._running: list[Process] = []
        self._lives: Counter[str] = Counter()
        self._strikes = list(drawn.strikes)
        self._struck: Strike | None = None  # until its victims are resumed
        self._blows: list[Blow] = []
        self._waits: dict[tuple[str, str], float] = {}  # since when who waits for whom that has ended
        self._resumes = 0
        self._run_ids: set[str] = set()
        self._watchdog_s = 60.0 + 20.0 * life_s
        self._begun = self._restarted = monotonic()

    def go(self) -> float:
        """Start it, and do all that is needed until it is complete; the seconds that it took.

        Raises Failed, with the story of the run and what `lockstep status` says in `story`.
        """
        self.folder.mkdir()
        self._begun = monotonic()
        try:
            self._start_new(self._experiment.peers)
            while not self._complete():
                self._step()
                time.sleep(LOOK_S)
            taken = monotonic() - self._begun
            self.check()
            return taken
        except Failed:
            self.story += self._status()
            raise
        finally:
            self._end()

    def _step(self) -> None:
        self._reap()
        self._note_names()
        since = monotonic() - self._restarted
        if self._strikes and self._struck is None and since > self._strikes[0].at * self.life_s:
            self._strike(self._strikes.pop(0))
        elif (missing := self._missing()) is not None:
            self._resume(missing)
        elif since > self._watchdog_s:
            raise Failed(f"it does not end: nothing was to be done for {self._watchdog_s:.0f} s")

    # ---- killing -------------------------------------------------------------------------------------------------

    def _strike(self, strike: Strike) -> None:
        by_name = {process.programs[0]: process for process in self._running if len(process.programs) == 1}
        living = [by_name[name] for name in strike.order if name in by_name]
        victims = living if strike.power else living[:1]
        before = {process.child.pid: read_page(self.run_dir, process.programs[0]) for process in living}
        at = monotonic()
        for process in victims:
            process.child.kill()
        dead = [process for process in victims if process.child.wait() == -signal.SIGKILL]  # others have just ended
        for process in dead:
            name, pid = process.programs[0], process.child.pid
            page = read_page(self.run_dir, name)
            if page is None or page["pid"] != pid:  # another program may have begun a new run already
                page = before[pid]
            phase = phase_of(pid, page, read_summary(self.run_dir, name))
            window = -1 if page is None or phase == NO_PLACE else page["now"]["window"]
            kill = Kill(name, pid, phase, window, self._lives[name], strike.power)
            witnesses = [
                other for other in living if other not in victims and phase != NO_PLACE
                and phase_of(other.child.pid, before[other.child.pid], None) in (BEFORE, IN)
            ]  # fmt: skip
            neighbours = [other for other in witnesses if "bridge" in (name, *other.programs)]
            concerned = neighbours if "bridge" in self._experiment.peers else witnesses
            due = bool(concerned) and phase != AFTER and not strike.at_once
            self.kills.append(kill)
            self._blows.append(Blow(kill, at, witnesses, due))
            self._say(f"kill -9 {name} (pid {pid}), {phase}, window {window}{', resumed at once' * strike.at_once}")
        self._struck = strike if dead else None
        self._note_run()

    def _note_names(self) -> None:
        """Looks for lines of others that name a program that was killed."""
        for blow in self._blows:
            line = re.compile(re.escape(f"{blow.kill.program} (pid {blow.kill.pid} on ") + r"[^)]*\) died ")
            others = [process for process in self._started if process.child.pid != blow.kill.pid]
            if blow.kill.named_s is None and any(line.search(other.text) for other in others):
                blow.kill.named_s = monotonic() - blow.at

    def _reap(self) -> None:
        for process in [each for each in self._running if each.child.poll() is not None]:
            self._running.remove(process)
            self._waits.clear()
            who, code = " ".join(process.programs) or "results", process.child.returncode
            self._say(f"{who} (pid {process.child.pid}) ended with {code}")
            killed = process.child.pid in [kill.pid for kill in self.kills]
            left_alone = code == PeerLost.exit_code and not self._experiment.exchange.hold_s
            if not killed and ((code != 0 and not left_alone) or "Traceback" in process.text):
                raise Failed(f"{who} ended with exit status {code}")

    # ---- starting, and starting again ----------------------------------------------------------------------------

    def _missing(self) -> list[str] | None:
        """The programs that a person would start again at this moment, [] when only results are missing; None when
        there is nothing to be done."""
        here = [name for process in self._running for name in process.programs]
        absent = [name for name in self._experiment.peers if name not in here]
        if not absent:
            return None
        needed = [name for name in here if self._needs(name, absent)]
        at_once = self._struck is not None and self._struck.at_once
        if self._running and not needed and not at_once:
            return None
        left = self._unfinished()
        if left is None:
            return absent
        missing = [name for name in left.missing if name in absent]
        return missing if missing or not (self._running or left.complete) else None

    def _needs(self, name: str, absent: list[str]) -> bool:
        """Whether program `name` holds for one of these, or waits for it without knowing that it was ever there."""
        now = (read_page(self.run_dir, name) or {"now": {"state": "", "waiting_for": ""}})["now"]
        if now["state"] not in ("waiting", "holding") or now["waiting_for"] not in absent:
            return False
        # it may be looking at several in turn, so that its page does not say since when it waits for this one
        since = self._waits.setdefault((name, now["waiting_for"]), monotonic())
        return now["state"] == "holding" or monotonic() - since > NOTICED_S

    def _resume(self, names: list[str]) -> None:
        self._note_names()  # it may have been said since the last look
        for blow in self._blows:
            if blow.due and blow.kill.named_s is None and blow.kill.program in names:
                # one that has ended in order did not need it any more
                silent = [each for each in blow.witnesses if each.child.returncode != 0]
                if silent:
                    raise Failed(
                        f"{blow.kill.program} (pid {blow.kill.pid}) was killed, and "
                        f"{', '.join(each.programs[0] for each in silent)} did not name it"
                    )
            blow.due = False
        self._struck = None
        self._waits.clear()
        self._resumes += 1
        if self._resumes > 3 + 3 * len(self.drawn.strikes):
            raise Failed("it does not end: it was resumed again and again")
        if self._unfinished() is None:
            self._start_new(names)
        elif names and (self._running or self._strikes or not self.drawn.together):
            for name in names:
                self._start([name], self._python(name), ["resume", str(self.run_dir), "--side", name])
        else:
            self._start(names, Path(sys.executable), ["resume", str(self.run_dir)])

    def _start_new(self, names: list[str]) -> None:
        """As at first; in an order drawn."""
        for name in random.Random(self.drawn.seed).sample(names, len(names)):
            words = [name] if name in ("tvb", "bridge") else ["spikenet", "--name", name]
            self._start([name], self._python(name), [*words, EXPERIMENT, "--run-dir", str(self.run_dir), *self._sets])

    def _python(self, name: str) -> Path:
        return python_for(*requirements_of(name, self._experiment))

    def _start(self, programs: list[str], python: Path, words: list[str]) -> None:
        who = "-".join(programs) or "results"
        output = self.folder / f"{len(self.story):03d}-{who}.txt"
        with output.open("wb") as file:
            child = subprocess.Popen(
                [*interpreter(python), *words, "--quiet", "--no-report"], stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, env={**os.environ, MARK: self._mark}, start_new_session=True,
            )  # fmt: skip
        self._started.append(Process(programs, child, output))
        self._running.append(self._started[-1])
        self._lives.update(programs)
        self._restarted = monotonic()
        self._say(f"{words[0]} {who}: pid {child.pid}, {output.name}")

    def _unfinished(self) -> Unfinished | None:
        """What is left to do; None when there is nothing to resume, since it never came to a contract."""
        try:
            return Unfinished(self.run_dir)
        except RunDirectoryError as error:
            if (self.run_dir / "contract.json").exists():
                raise Failed(f"it cannot be resumed: {error}") from None
            return None

    # ---- the end -------------------------------------------------------------------------------------------------

    def _complete(self) -> bool:
        if self._running:
            return False
        left = self._unfinished()
        return left is not None and left.complete

    def _note_run(self) -> None:
        run = read_run(self.run_dir) if self.run_dir.exists() else None
        if run is not None:
            self._run_ids.add(run["run_id"])

    def check(self) -> None:
        """Raise Failed unless the run says that it is whole, and has left nothing."""
        self._note_run()
        provenance = json.loads((self.run_dir / "provenance.json").read_text())
        states = {name: program["state"] for name, program in provenance["programs"].items()}
        lost = [name for name, channel in provenance["channels"].items() if not channel["balanced"]]
        if set(states.values()) != {"finished"} or lost:
            raise Failed(f"provenance.json: {states}; counters that are not balanced: {', '.join(lost) or 'none'}")
        left = [
            name for run_id in self._run_ids
            for name in remove_leftovers(self.run_dir, bytes.fromhex(run_id), dry_run=True)
        ]  # fmt: skip
        left += [str(path.relative_to(self.run_dir)) for path in temporary_files(self.run_dir)]
        left += [f"process {pid}" for pid in self._processes()]
        if left:
            raise Failed(f"it left {', '.join(left)}")

    def _processes(self) -> list[int]:
        """All living processes of this run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self._mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:  # it has ended, or is somebody else's
                continue
        return found

    def _status(self) -> list[str]:
        command = [*interpreter(Path(sys.executable)), "status", str(self.run_dir)]
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        return [*said.stdout.splitlines(), *said.stderr.splitlines()]

    def _end(self) -> None:
        """Nothing of this run goes on, whatever happened."""
        for process in self._running:
            process.child.kill()
            process.child.wait()
        while left := self._processes():
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            time.sleep(LOOK_S)

    def _say(self, event: str) -> None:
        self.story.append(f"{monotonic() - self._begun:8.3f} s  {event}")


def results_of(run_dir: Path) -> dict[str, str]:
    """A hash of type, shape and bits of each dataset of the results."""
    found = {}
    for name in COMPARED:
        with h5py.File(run_dir / name) as file:

            def add(path: str, item: Any, name: str = name) -> None:
                if isinstance(item, h5py.Dataset):
                    values = np.asarray(item[()])
                    bits = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
                    about = f"{values.dtype} {values.shape} ".encode()
                    found[f"{name}:{path}"] = hashlib.sha256(about + bits).hexdigest()

            file.visititems(add)
    return found


def differing(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))


# ---- the benchmark ---------------------------------------------------------------------------------------------------


def bench(kills: int, seed: int, duration_ms: float, tell: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """At least `kills` programs killed, in the runs of `seed`, `seed` + 1, …; the figures, ready for JSON.

    tell: is told what goes on. The folders of runs that failed are kept. Raises LockstepError when a run that nobody
    disturbs fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="lockstep-bench-"))
    failures: list[dict[str, Any]] = []
    runs: list[tuple[Drawn, list[Kill]]] = []
    begun, count, missed = monotonic(), 0, 0
    try:
        lives, expected = _references(folder, duration_ms, tell)
        while count < kills:
            drawn = draw(seed + len(runs))
            tell(f"{count} of {kills} kills in {len(runs)} runs, {len(failures)} of them failed; seed {drawn.seed}")
            run = Run(folder / f"seed{drawn.seed}", drawn, duration_ms, lives[drawn.exchange["bridge"]])
            try:
                run.go()
                if different := differing(expected, results_of(run.run_dir)):
                    raise Failed(f"the results differ: {', '.join(different)}")
                shutil.rmtree(run.folder)
            except Failed as failed:
                failures.append(_failure(run, failed, expected))
            runs.append((drawn, run.kills))
            count += len(run.kills)
            missed = missed + 1 if not run.kills else 0
            if missed == 20:
                raise LockstepError("bench: nothing was killed in 20 runs: the machine is much faster than at first.")
    finally:
        if not failures:
            shutil.rmtree(folder, ignore_errors=True)
    return figures_of(runs, failures) | {
        "experiment": EXPERIMENT, "duration_ms": duration_ms, "seed": seed, "life_s": lives,
        "wall_s": monotonic() - begun, "tvb-lockstep": __version__, "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def _references(
    folder: Path, duration_ms: float, tell: Callable[[str], None]
) -> tuple[dict[str, float], dict[str, str]]:
    """The life of an uninterrupted run by exchange.bridge, and its results."""
    lives: dict[str, float] = {}
    expected: dict[str, str] = {}
    for i, bridge in enumerate(("receiver", "own", "receiver")):  # the first one finds cold caches
        tell(f"uninterrupted run {i + 1} of 3")
        run = Run(folder / f"reference{i}", Drawn(0, {"bridge": bridge}), duration_ms, GUESSED_LIFE_S)
        try:
            lives[bridge] = run.go()
        except Failed as failed:
            said = "\n".join(path.read_text(errors="replace") for path in sorted(run.folder.glob("*.txt")))
            raise LockstepError(f"bench: the uninterrupted run failed: {failed}\n{said.strip()}") from None
        found = results_of(run.run_dir)
        if different := differing(expected or found, found):
            raise LockstepError(f"bench: two uninterrupted runs differ in {', '.join(different)}.")
        expected = found
        shutil.rmtree(run.folder)
    return lives, expected


def _failure(run: Run, failed: Failed, expected: dict[str, str]) -> dict[str, Any]:
    """What is needed to see it again; also written into the folder of the run."""
    again = f"lockstep bench kills --kills 1 --seed {run.drawn.seed} --duration {run.duration_ms:g}"
    about = {
        "why": str(failed), "again": again,
        "folder": str(run.folder), "drawn": run.drawn._asdict(), "kills": [asdict(kill) for kill in run.kills],
        "story": run.story,
    }  # fmt: skip
    (run.folder / "failure.json").write_text(json.dumps(about | {"expected": expected}, indent=1))
    return about


def figures_of(runs: list[tuple[Drawn, list[Kill]]], failures: list[dict[str, Any]]) -> dict[str, Any]:
    """Kills by what was drawn and by what they hit; `different`: runs whose results were not those expected."""
    rows: dict[str, list[Kill]] = {group: [] for group in GROUPS}
    for drawn, kills in runs:
        settings = [f"{key} = {drawn.exchange[key]}" for key in ("transport", "bridge", "mode", "depth")]
        hold = "others hold" if drawn.exchange["hold_s"] else "others end"
        for kill in kills:
            life = "in a first life" if kill.life == 1 else "in a resumed life"
            power = "all at once" if kill.power else "alone"
            for group in ("all", kill.program, kill.phase, life, power, *settings, hold):
                rows[group].append(kill)
    by = {}
    for group, kills in rows.items():
        named = [kill.named_s for kill in kills if kill.named_s is not None]
        by[group] = {"kills": len(kills), "named": len(named), "named_s_median": median(named) if named else None,
                     "named_s_max": max(named, default=None)}  # fmt: skip
    return {
        "kills": sum(len(kills) for _, kills in runs), "runs": len(runs), "resumed": len(runs) - len(failures),
        "different": sum("results differ" in failure["why"] for failure in failures), "by": by, "failures": failures,
        "each": [{"seed": drawn.seed} | asdict(kill) for drawn, kills in runs for kill in kills],
    }  # fmt: skip


def print_kills(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for failure in figures["failures"]:
        console.print(f"FAILED: {failure['why']}", *failure["story"], f"drawn: {failure['drawn']}",
                      f"kept:  {failure['folder']}", f"again: {failure['again']}", "", sep="\n", highlight=False,
                      markup=False, soft_wrap=True)  # fmt: skip
    table = Table("killed")
    for heading in ("kills", "named", "after (median) [s]", "at most [s]"):
        table.add_column(escape(heading), justify="right")
    for group, row in figures["by"].items():
        times = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("named_s_median", "named_s_max")]
        table.add_row(group, str(row["kills"]), str(row["named"]), *times)
    console.print(table)
    named = [kill for kill in figures["each"] if kill["named_s"] is not None]
    if named:
        longest = max(named, key=lambda kill: kill["named_s"])
        console.print(
            f"Longest until named: {longest['named_s']:.2f} s, {longest['program']} killed {longest['phase']} (seed "
            f"{longest['seed']}).", highlight=False, soft_wrap=True,
        )  # fmt: skip
    lives = ", ".join(f"{life_s:.1f} s with bridge = {bridge}" for bridge, life_s in figures["life_s"].items())
    console.print(
        f"{figures['kills']} kills in {figures['runs']} runs of {figures['experiment']}, {figures['duration_ms']:g} ms "
        f"(uninterrupted {lives}; seeds from {figures['seed']}): {figures['resumed']} resumed without fault, "
        f"{figures['different']} with different results. {figures['wall_s'] / 60:.1f} min, {figures['cores']} cores.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
