"""Two programs that find, check and outlive each other: one `Session` per program, in a run directory they share.

Order of events: claim a place (`flock`), publish hello and compare experiments, publish the offer and complete the
contract from all offers, connect the channels (links.py); then window after window; then a summary. Whoever ends last
finishes the run (results, report).

A program that died is *resumed*: started again in its place, it meets the others as at a start and goes through all
windows again, on its recorded input and comparing its output with the recorded one, until it is where it was. Those
that live hold for it meanwhile, as long as ``exchange.hold_s`` allows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import __version__
from .contract import Contract, compose
from .errors import ContractError, Interrupted, LockstepError, PeerLost, RunDirectoryError
from .experiment import Experiment, flatten
from .frame import WIRE_VERSION, Address, Payload
from .links import POLL_S, Links, incarnation_of
from .peers import Page, alive, hold_place, pages, read_page, read_summary
from .recording import FrameLog
from .run_dir import (
    read_run,
    refuse_earlier,
    refuse_foreign,
    remove_temporary,
    run_lock,
    taken,
    unusable,
    write_json,
)
from .transports import attach, create, remove_leftovers
from .transports.base import Place, Receiver, Sender

if TYPE_CHECKING:
    from .bridge import Inlet, Outlet

RESULTS = ("tvb.h5", "spikes.h5", "exchange.h5", "timing.json", "provenance.json", "report.html", "contract.json",
           "experiment.json", "initial_history.npy", "finished_by")  # fmt: skip
FOLDERS = ("record", "timing", "exchange", "replays")
OF_ONE_PROGRAM = ("hello", "offer", "ready", "attached", "summary")  # what it publishes besides its page
ENDED = ("finished", "interrupted", "failed")
FULL_OR_READ_ONLY = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
PACKAGES = ("tvb-lockstep", "tvb-library", "tvb-data", "nest-simulator", "ANNarchy", "neuron", "netpyne", "numpy",
            "scipy", "h5py", "posix_ipc", "elephant")  # fmt: skip


def installed_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


class Stop:
    """Whether this process was asked to end (Ctrl-C, SIGTERM), shared by all of its programs."""

    def __init__(self) -> None:
        self.reason = ""

    def __bool__(self) -> bool:
        return bool(self.reason)

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[Stop]:
        """Ctrl-C and SIGTERM are noted, and looked at between windows and in waiting; a second one interrupts hard."""

        def note(number: int, _frame: object) -> None:
            if self.reason:
                raise KeyboardInterrupt
            self.reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Session:
    """One program's part in a run. A context manager: leaving it publishes how the program ended.

    peer: "tvb", "bridge", or the name of a spiking program. command: what a person types to start program NAME, by
    name. resume_command: what a person types to start it again, or, for None, all that ended. tell: prints a line for
    the person at this terminal. source: the experiment's file, so that a replay finds the Python beside it. resumed:
    take the place of this program in the run that is there, and go on where it ended.
    """

    resumable = True

    def __init__(
        self,
        run_dir: Path,
        peer: str,
        experiment: Experiment,
        *,
        command: Callable[[str], str] | None = None,
        resume_command: Callable[[str | None], str] | None = None,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        overwrite: bool = False,
        stop: Stop | None = None,
        source: Path | None = None,
        resumed: bool = False,
    ) -> None:
        self.run_dir = Path(os.path.abspath(run_dir))
        self.peer = peer
        self.experiment = experiment
        self._tell = tell
        self._source = source
        self.folder = Path() if source is None else source.parent  # where the experiment's own Python lies
        self.stop = stop if stop is not None else Stop()
        self.window = -1
        self.counters: dict[str, dict[str, int]] = {}
        self.progress: Callable[[str], None] = lambda waiting_for: None
        self._command = command or (lambda name: paste_command("lockstep", name, ["…", "--run-dir", str(run_dir)]))
        self._resume_command = resume_command or (lambda name: resume_line("lockstep", self.run_dir, name))
        self.resumed = resumed
        self.broken = False
        self._started = time.time()
        self._closers: list[Callable[[], None]] = []
        self._links: Links | None = None
        self._gone: dict[str, int] = {}  # programs that died: their last incarnation
        self._asked_for: set[str] = set()
        self._reached = 0  # windows that a resumed program had in its former life
        self.last = False
        self._claim(overwrite)

    def tell(self, line: str) -> None:
        """Print a line for the person at this terminal; one that is gone, or a log on a full disk, stops nothing."""
        with contextlib.suppress(OSError):
            self._tell(line)

    # ---- the place in the run directory ----------------------------------------------------------------------

    def _claim(self, overwrite: bool) -> None:
        try:
            self._prepare_directory()
            with run_lock(self.run_dir):
                self._lock_fd = hold_place(self.run_dir, self.peer)
                if self._lock_fd is None:
                    raise taken(self.run_dir, self.peer)
                try:
                    self._join_or_create(overwrite)
                except BaseException:
                    os.close(self._lock_fd)
                    raise
        except OSError as error:
            raise unusable(self.run_dir, error) from None

    def _prepare_directory(self) -> None:
        refuse_foreign(self.run_dir)
        fresh = not self.run_dir.exists()
        (self.run_dir / "peers").mkdir(parents=True, exist_ok=True, mode=0o700)
        refuse_foreign(self.run_dir)  # another program may have made it meanwhile
        if fresh or self.run_dir.stat().st_mode & 0o077:
            self.run_dir.chmod(0o700)

    def _join_or_create(self, overwrite: bool) -> None:
        run = read_run(self.run_dir)
        others = [name for name in pages(self.run_dir) if name != self.peer and alive(self.run_dir, name)]
        if self.resumed:
            self._take_over(run)
        elif run is not None and others:
            earlier = read_page(self.run_dir, self.peer)
            if earlier is not None and earlier["run_id"] == run["run_id"]:
                raise RunDirectoryError(
                    f"{self.run_dir}: the run of {', '.join(others)} already had its {self.peer} (pid "
                    f"{earlier['pid']}), which has ended. To go on where it ended: {self._resume_command(self.peer)}. "
                    f"Or choose another --run-dir for a new run."
                )
        else:
            if run is not None:
                refuse_earlier(self.run_dir, run, overwrite)
                self._clear(run)
            run = {"run_id": uuid.uuid4().hex, "created": time.strftime("%Y-%m-%d %H:%M:%S"),
                   "experiment": self.experiment.name, "wire_version": WIRE_VERSION}  # fmt: skip
            if self._source is not None:
                run["experiment_file"] = str(self._source)
            write_json(self.run_dir / "run.json", run)
            write_json(self.run_dir / "experiment.json", self.experiment.model_dump(mode="json"))
        assert run is not None
        self._begin(run)

    def _take_over(self, run: dict[str, Any] | None) -> None:
        """Be this program again, in the run that is there."""
        if run is None:
            raise RunDirectoryError(f"{self.run_dir} holds no run, so that there is nothing to resume.")
        self._gone = {
            name: incarnation_of(self.run_dir, name, run["run_id"])
            for name in self.others
            if not alive(self.run_dir, name)
        }
        if len(self._gone) == len(self.others):  # else somebody may be making new channels at this moment
            remove_leftovers(self.run_dir, bytes.fromhex(run["run_id"]))
        for what in OF_ONE_PROGRAM:
            (self.run_dir / "peers" / f"{self.peer}.{what}.json").unlink(missing_ok=True)
        (self.run_dir / "finished_by").unlink(missing_ok=True)

    def _begin(self, run: dict[str, Any]) -> None:
        self.run_id = bytes.fromhex(run["run_id"])
        about = {
            "toolkit": __version__, "python": platform.python_version(), "versions": installed_versions(),
            "environments": self.experiment.environments.model_dump(),
        }  # fmt: skip
        if self._source is not None:
            about["experiment_file"] = str(self._source)
        self.incarnation = incarnation_of(self.run_dir, self.peer, run["run_id"]) + 1
        earlier = read_page(self.run_dir, self.peer) if self.incarnation > 1 else None
        if earlier is not None:
            lived = {key: earlier[key] for key in ("pid", "host", "started")} | earlier["now"]
            if lived["state"] not in ENDED:
                lived |= {"was": lived["state"], "state": "died"}
            about["earlier"] = [*earlier.get("earlier", []), lived]
        self.page = Page(self.run_dir, self.peer, run["run_id"], {"incarnation": self.incarnation, **about})

    def begin_again(self) -> None:
        """Be a new incarnation of this program without leaving the process: for the bridge, which soon catches up."""
        self._close_all()
        with run_lock(self.run_dir):
            run = read_run(self.run_dir)
            self.page.update("holding", self.window)
            self.page.close()
            self.resumed, self.broken, self.counters, self._links = True, False, {}, None
            self._take_over(run)
            assert run is not None
            self._begin(run)
        self.window = -1

    def _clear(self, run: dict[str, Any]) -> None:
        """Remove what an earlier run left here, and its shared memory."""
        remove_leftovers(self.run_dir, bytes.fromhex(run["run_id"]))
        remove_temporary(self.run_dir)
        for folder in FOLDERS:
            shutil.rmtree(self.run_dir / folder, ignore_errors=True)
        for path in (self.run_dir / "peers").glob("*.json"):
            path.unlink()
        for name in RESULTS:
            (self.run_dir / name).unlink(missing_ok=True)

    def open_sender(
        self, address: Address, depth: int, slot_bytes: int, describe: dict[str, Any], link: str
    ) -> Sender:
        """The producing end of a channel, on the experiment's transport."""
        return create(self.experiment.exchange.transport, address, self._place(link), depth, slot_bytes, describe)

    def open_receiver(self, address: Address, link: str) -> Receiver:
        """The consuming end of a channel, on the experiment's transport."""
        return attach(self.experiment.exchange.transport, address, self._place(link))

    def _place(self, link: str) -> Place:
        return Place(self.run_dir, self.run_id, self.experiment.exchange.keep, link)

    def open_log(
        self, address: Address, explain: Callable[[int, Payload, Payload], str | None] | None = None
    ) -> FrameLog:
        """A log of this program; a resumed one goes on in that of its former life, comparing what that recorded."""
        log = FrameLog.create(self.run_dir, address, kept=self.resumed)
        log.explain = explain
        self.on_close(log.close)
        return log

    # ---- meeting ---------------------------------------------------------------------------------------------

    @property
    def others(self) -> list[str]:
        return [name for name in self.experiment.peers if name != self.peer]

    def publish(self, what: str, content: dict[str, Any]) -> dict[str, Any]:
        """Write ``peers/NAME.what.json`` for the others; gives back what they will read."""
        content = {"run_id": self.run_id.hex(), **content}
        write_json(self.run_dir / "peers" / f"{self.peer}.{what}.json", content)
        return json.loads(json.dumps(content))

    def await_page(self, name: str, what: str) -> dict[str, Any]:
        """What program `name` publishes as `what`; blocks until it is there.

        Raises PeerLost when the program claimed its place and then died or failed, Interrupted on Ctrl-C.
        """
        begun, look = time.monotonic(), self.check(name)
        while (content := self.published(name, what)) is None:
            try:
                self.look_for(name, look, time.monotonic() - begun)
            except PeerLost as lost:
                self.hold(lost)
            time.sleep(POLL_S)
        return content

    def published(self, name: str, what: str) -> dict[str, Any] | None:
        """What program `name` has published as `what` in this run; None when it has not."""
        try:
            content = json.loads((self.run_dir / "peers" / f"{name}.{what}.json").read_text())
        except FileNotFoundError:
            return None
        return content if content["run_id"] == self.run_id.hex() else None

    def page_of(self, name: str) -> dict[str, Any] | None:
        """The page of program `name`; None before it has come, and after its death until it is back."""
        page = read_page(self.run_dir, name)
        if page is None or page["run_id"] != self.run_id.hex() or page.get("incarnation", 1) <= self._gone.get(name, 0):
            return None
        return page

    def look_for(self, name: str, look: Callable[[float], None], waited_s: float) -> None:
        """One look at program `name`, which this one waits for before the first window. look: of ``check(name)``."""
        here = self.page_of(name)
        if here is None and waited_s > 0.5 and name not in self._asked_for:
            self._asked_for.add(name)
            command = self._resume_command(name) if self.resumed else self._command(name)
            self.tell(f"{self.peer}: waiting for {name} in {self.run_dir}. To start it, paste into another "
                      f"terminal:\n    {command}")  # fmt: skip
        self.page.update("waiting", self.window, name)
        self.progress(name)
        if here is None:
            self._refuse_strangers()
            self.check_stop()
        else:
            look(waited_s)

    def meet(self) -> None:
        """Hello: exchange experiments and wire versions with everybody; refuse on both sides when they differ."""
        # which versions a side runs on is its own affair
        asked = {key: value for key, value in self.experiment.flat().items() if not key.startswith("environments.")}
        self._hello = self.publish(
            "hello", {"toolkit": __version__, "wire_versions": [WIRE_VERSION], "experiment": asked}
        )
        for name in self.others:
            self._compare(name, self.await_page(name, "hello"))

    def _compare(self, name: str, theirs: dict[str, Any]) -> None:
        mine = self._hello
        if not set(mine["wire_versions"]) & set(theirs["wire_versions"]):
            raise ContractError(
                f"{self.peer} and {name} have no wire version in common: {self.peer} (tvb-lockstep {mine['toolkit']}) "
                f"speaks {mine['wire_versions']}, {name} (tvb-lockstep {theirs['toolkit']}) speaks "
                f"{theirs['wire_versions']}. Install the same tvb-lockstep on one of the two sides."
            )
        if mine["experiment"] != theirs["experiment"]:
            raise ContractError(
                f"{self.peer} and {name} were started with different experiments:\n"
                + two_columns(mine["experiment"], theirs["experiment"], self.peer, name)
                + "\nStart both with the same experiment and the same --set."
            )

    def _refuse_strangers(self) -> None:
        """A program that our experiment does not know has another experiment: waiting for ours would last for ever."""
        for path in (self.run_dir / "peers").glob("*.hello.json"):
            name = path.name.removesuffix(".hello.json")
            if name not in self.experiment.peers:
                theirs = json.loads(path.read_text())
                if theirs["run_id"] == self.run_id.hex():
                    self._compare(name, theirs)

    def contract(self, tvb: dict[str, Any], spikenet: dict[str, dict[str, Any]]) -> Contract:
        """What the programs derive from the offers of all: that of TVB, and those of the spiking programs by name.

        Raises ContractError when a run that is resumed began with another one.
        """
        made = compose(self.run_id.hex(), tvb, spikenet)
        if self.resumed:
            self._refuse_another(made)
        return made

    def start(
        self, contract: Contract, inlets: list[Inlet], outlets: list[Outlet], **details: Any
    ) -> dict[str, dict[str, Any]]:
        """All programs have the same contract and all channels open; returns when this one may begin.

        details: published for people and results, such as NEST's min_delay; those of all programs are returned, by
        name. Raises ContractError when the programs have different contracts.
        """
        self._links = Links(self, inlets, outlets)
        found = self._links.make(contract.digest, details)
        self._reached = self._links.catching_up_to
        if self._reached:
            self.tell(f"{self.peer}: resumed; goes through the first {self._reached} of {contract.grid.n_windows} "
                      f"windows again, comparing them with the recording.")  # fmt: skip
        return {self.peer: details, **found}

    def _refuse_another(self, contract: Contract) -> None:
        """What a resumed program offers must be what it offered before."""
        try:
            before = flatten(json.loads((self.run_dir / "contract.json").read_text()))
        except FileNotFoundError:  # the run ended before the first window
            return
        now = flatten(json.loads(json.dumps(contract.to_json())))
        keys = [
            key for key, value in now.items() if before.get(key) != value and not key.startswith("experiment.environ")
        ]
        if keys:
            here, there = ({key: side[key] for key in keys[:20] if key in side} for side in (before, now))
            more = f"\n  … and {len(keys) - 20} more" if len(keys) > 20 else ""
            raise ContractError(
                f"{self.peer} no longer makes the contract of the run {self.run_dir}:\n"
                f"{two_columns(here, there, 'the run', 'now')}{more}\n"
                f"A run goes on only as it began: put back the experiment's Python, its data and the versions "
                f"(lockstep replay shows what another version changes), or start a new run."
            )

    # ---- while running ---------------------------------------------------------------------------------------

    def check_stop(self) -> None:
        """Raise Interrupted when this program was asked to end, or another thread of it failed."""
        if self.broken:
            raise LockstepError(f"given up {during(self.window)}, since another part of this program failed.")
        if self.stop:
            raise Interrupted(f"interrupted by {self.stop.reason} {during(self.window)}.")

    def check(self, name: str) -> Callable[[float], None]:
        """The function that a transport calls while it waits for program `name`.

        It raises PeerLost at the second look in a row that finds `name` gone: what was sent just before is still taken.
        Gone is also who was started again meanwhile, since it knows nothing of the channels that were.
        """
        last_look, suspected = 0.0, False

        def look(_waited_s: float) -> None:
            nonlocal last_look, suspected
            self.check_stop()
            now = time.monotonic()
            if now - last_look < 0.1:
                return
            last_look = now
            self.page.update("waiting", self.window, name)
            self.progress(name)
            lives = self._lives(name)
            if suspected and not lives:
                raise PeerLost(self._obituary(name), name)
            suspected = not lives

        return look

    def _lives(self, name: str) -> bool:
        linked = None if self._links is None else self._links.linked(name)
        if not alive(self.run_dir, name):
            return False
        return linked is None or incarnation_of(self.run_dir, name, self.run_id.hex()) == linked

    def _obituary(self, name: str) -> str:
        page, summary = read_page(self.run_dir, name), read_summary(self.run_dir, name)
        assert page is not None
        when = during(page["now"]["window"])
        who = f"{name} (pid {page['pid']} on {page['host']})"
        if alive(self.run_dir, name):
            return f"{name} was started again, as pid {page['pid']} on {page['host']}."
        if summary is None and page["now"]["state"] in ENDED:
            return f"{who} ended ({page['now']['state']}) {when}, and could not write down why."
        if summary is None:
            return f"{who} died {when}, without a word (killed, out of memory or crashed). Its terminal may say more."
        if summary["state"] == "interrupted":
            return f"{who} was interrupted {when}."
        if summary["state"] == "failed":
            return f"{who} failed {when}: {summary['error']}"
        return f"{who} ended {when}, before {self.peer} did."

    def hold(self, lost: PeerLost) -> None:
        """Wait until the program that was lost is there again. Raises `lost` when that is not wanted, or takes longer
        than exchange.hold_s."""
        name, hold_s = lost.peer, self.experiment.exchange.hold_s
        if not self.holds_for(name):
            raise lost
        linked = None if self._links is None else self._links.linked(name)
        self._gone[name] = linked or incarnation_of(self.run_dir, name, self.run_id.hex())
        if self.page_of(name) is None:
            self.tell(f"{self.peer}: {lost} Holding {during(self.window)} for up to {hold_s:g} s. To start {name} "
                      f"again, paste into another terminal:\n    {self._resume_command(name)}")  # fmt: skip
        begun = time.monotonic()
        while (page := self.page_of(name)) is None:
            self.check_stop()
            if time.monotonic() - begun > hold_s:
                raise PeerLost(f"{lost} Held for it for {hold_s:g} s, in vain.", name) from None
            self.page.update("holding", self.window, name)
            self.progress(name)
            time.sleep(POLL_S)
        self.tell(f"{self.peer}: {name} is back, as pid {page['pid']} on {page['host']}.")

    def holds_for(self, name: str) -> bool:
        """Whether this program waits for `name`, which is lost, to be resumed: not when somebody ended it in order."""
        summary = read_summary(self.run_dir, name)
        in_order = summary is not None and summary["state"] in ("interrupted", "finished")
        return bool(name) and self.experiment.exchange.hold_s > 0 and not in_order

    def rejoin(self, lost: PeerLost) -> None:
        """Hold for the program that was lost, and connect with it again: all that it lost on its way is sent anew.

        Raises `lost` when this program does not hold, or is the bridge, which begins again as a whole.
        """
        if self.peer == "bridge":
            raise lost
        self.hold(lost)
        assert self._links is not None
        self._links.again([lost.peer])

    def computing(self, window: int) -> None:
        """Publish that this program computes `window`; "catching up" when a resumed one had it in its former life."""
        self.page.update("catching up" if window < self._reached else "computing", window)

    def count(self, channel: str, **increments: int) -> None:
        counters = self.counters.setdefault(channel, {})
        for key, increment in increments.items():
            counters[key] = counters.get(key, 0) + increment

    def on_close(self, closer: Callable[[], None]) -> None:
        """Have `closer` called when the session ends, last registered first."""
        self._closers.append(closer)

    # ---- the end ---------------------------------------------------------------------------------------------

    def run(self, body: Callable[[Session], None], finish: Callable[[], None]) -> None:
        """Be this program: `body` is its part in the run; `finish` makes what is left of the run when `self.last`."""
        try:
            with self.stop.on_signals(), self:
                body(self)
        finally:
            try:
                finish()
            except OSError as error:
                raise unusable(self.run_dir, error) from None
            finally:
                self.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        state = "finished" if error is None else "failed"
        if isinstance(error, Interrupted | KeyboardInterrupt):
            state = "interrupted"
        explained = error
        if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:
            explained = unusable(self.run_dir, error)
        if isinstance(explained, LockstepError):
            self.tell(f"{self.peer}: {explained}")  # now: closing, results and report take their time
            explained.told = True
        elif error is not None and not isinstance(error, KeyboardInterrupt):
            self.tell(f"{self.peer}: an error that lockstep did not expect; its traceback follows.")
        self._close_all()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        summary = {
            "peer": self.peer, "state": state, "error": None if explained is None else one_line(explained),
            "windows": self.window + 1 if state == "finished" else max(self.window, 0),
            "started": self._started, "ended": time.time(), "wall_s": time.time() - self._started,
            "cpu_s": usage.ru_utime + usage.ru_stime, "peak_memory_mib": usage.ru_maxrss / 1024,
            "versions": installed_versions(), "python": platform.python_version(), "counters": self.counters,
        }  # fmt: skip
        unsaid = None
        try:
            self.publish("summary", summary)
        except OSError as trouble:
            unsaid = unusable(self.run_dir, trouble)
            unsaid.told = True
            self.tell(f"{self.peer}: {unsaid}")
        self.page.update(state, self.window)  # in memory: the others see it on a full disk, too
        if state != "finished" and self.window >= 0 and self.experiment.exchange.record and self.resumable:
            self.tell(f"{self.peer}: when all programs have ended, the run goes on from here with: "
                      f"{self._resume_command(None)}")  # fmt: skip
        try:
            with run_lock(self.run_dir):
                ended = all(
                    page["now"]["state"] in ENDED or not alive(self.run_dir, name)
                    for name, page in pages(self.run_dir).items()
                    if name != self.peer
                )
                if ended:  # a ring whose consumer died before it attached
                    remove_leftovers(self.run_dir, self.run_id)
                mark = self.run_dir / "finished_by"
                self.last = ended and not mark.exists() and (self.run_dir / "contract.json").exists()
                if self.last:
                    remove_temporary(self.run_dir)
                    os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                    mark.write_text(self.peer)
        except OSError as trouble:
            self.tell(f"{self.peer}: {unusable(self.run_dir, trouble)}")
        if explained is not error and explained is not None:
            raise explained from None
        if error is None and unsaid is not None:
            raise unsaid

    def _close_all(self) -> None:
        for closer in reversed(self._closers):
            try:
                closer()
            except Exception as second:
                self.tell(f"{self.peer}: while closing: {second}")
        self._closers.clear()

    def release(self) -> None:
        """Give the place free. Called when everything, the finishing of the run included, is done."""
        if self._lock_fd is not None:
            self.page.close()
            os.close(self._lock_fd)
            self._lock_fd = None


def during(window: int) -> str:
    return f"in window {window}" if window >= 0 else "before the first window"


def one_line(error: BaseException) -> str:
    """What the others are told: the message, with the kind of error when it is not one of ours."""
    if isinstance(error, LockstepError):
        return str(error)
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return " ".join([text, *(f"({note})" for note in getattr(error, "__notes__", []))])


def two_columns(mine: dict[str, Any], theirs: dict[str, Any], my_name: str, their_name: str) -> str:
    """The keys in which two flat dicts differ, with both values."""
    missing = object()
    rows = [["", my_name, their_name]]
    for key in sorted({*mine, *theirs}):
        values = mine.get(key, missing), theirs.get(key, missing)
        if values[0] != values[1]:
            rows.append([key, *("(absent)" if value is missing else json.dumps(value) for value in values)])
    widths = [min(60, max(len(row[i]) for row in rows)) for i in range(3)]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def resume_line(prefix: str, run_dir: Path, name: str | None = None) -> str:
    """The command line that starts program `name` of a run again, or all that ended early."""
    side = [] if name is None else ["--side", name]
    return " ".join([prefix, "resume", *map(shlex.quote, [os.path.abspath(run_dir), *side])])


def paste_command(prefix: str, peer: str, arguments: list[str]) -> str:
    """The command line that starts `peer`, quoted for a shell."""
    subcommand = peer if peer in ("tvb", "bridge") else "spikenet"
    name = [] if peer in ("tvb", "bridge", "spikenet") else ["--name", peer]
    return " ".join([prefix, subcommand, *map(shlex.quote, [*arguments, *name])])
