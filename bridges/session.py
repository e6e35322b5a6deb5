"""Two programs that find, check and outlive each other: one `Session` per program, in a run directory they share.

Order of events: claim a place (`flock`), publish hello and compare experiments, publish the offer and complete the
contract from all offers, open the channels, be ready together; then window after window; then a summary. Whoever ends
last finishes the run (results, report).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
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
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from . import __version__
from .contract import Contract
from .errors import ContractError, Interrupted, LockstepError, PeerLost, RunDirectoryError
from .experiment import Experiment
from .frame import WIRE_VERSION, Address
from .peers import Page, alive, hold_place, pages, read_page, read_summary
from .transports import attach, create, remove_leftovers
from .transports.base import Place, Receiver, Sender

MEETING_POLL_S = 0.02
RESULTS = ("tvb.h5", "spikes.h5", "exchange.h5", "timing.json", "provenance.json", "report.html", "contract.json",
           "experiment.json", "initial_history.npy", "finished_by")  # fmt: skip
FOLDERS = ("record", "timing", "exchange", "replays")
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
    name. tell: prints a line for the person at this terminal. source: the experiment's file, so that a replay finds the
    Python beside it.
    """

    def __init__(
        self,
        run_dir: Path,
        peer: str,
        experiment: Experiment,
        *,
        command: Callable[[str], str] | None = None,
        tell: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        overwrite: bool = False,
        stop: Stop | None = None,
        source: Path | None = None,
    ) -> None:
        self.run_dir = Path(os.path.abspath(run_dir))
        self.peer = peer
        self.experiment = experiment
        self._tell = tell
        self._source = source
        self.stop = stop if stop is not None else Stop()
        self.window = -1
        self.counters: dict[str, dict[str, int]] = {}
        self.progress: Callable[[str], None] = lambda waiting_for: None
        self._command = command or (lambda name: paste_command("lockstep", name, ["…", "--run-dir", str(run_dir)]))
        self.broken = False
        self._started = time.time()
        self._closers: list[Callable[[], None]] = []
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
            with self._run_lock():
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
        status = self.run_dir.stat()
        if status.st_uid != os.geteuid():
            raise RunDirectoryError(
                f"The run directory {self.run_dir} belongs to user {status.st_uid}, this program runs as user "
                f"{os.geteuid()}. Choose a directory of your own with --run-dir."
            )
        if fresh or status.st_mode & 0o077:
            self.run_dir.chmod(0o700)

    @contextlib.contextmanager
    def _run_lock(self) -> Iterator[None]:
        fd = os.open(self.run_dir / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _join_or_create(self, overwrite: bool) -> None:
        run = read_run(self.run_dir)
        others = [name for name in pages(self.run_dir) if name != self.peer and alive(self.run_dir, name)]
        if run is not None and others:
            earlier = read_page(self.run_dir, self.peer)
            if earlier is not None and earlier["run_id"] == run["run_id"]:
                raise RunDirectoryError(
                    f"{self.run_dir}: the run of {', '.join(others)} already had its {self.peer} (pid "
                    f"{earlier['pid']}), which has ended. Wait until {', '.join(others)} has ended too, or choose "
                    f"another --run-dir."
                )
        else:
            if run is not None:
                refuse_earlier(self.run_dir, run, overwrite)
                self._clear(run)
            run = {"run_id": uuid.uuid4().hex, "created": time.strftime("%Y-%m-%d %H:%M:%S"),
                   "experiment": self.experiment.name, "wire_version": WIRE_VERSION}  # fmt: skip
            write_json(self.run_dir / "run.json", run)
        self._begin(run)

    def _begin(self, run: dict[str, Any]) -> None:
        self.run_id = bytes.fromhex(run["run_id"])
        source = {} if self._source is None else {"experiment_file": str(self._source)}
        self.page = Page(
            self.run_dir, self.peer, run["run_id"],
            {"toolkit": __version__, "python": platform.python_version(), "versions": installed_versions(), **source},
        )  # fmt: skip

    def _clear(self, run: dict[str, Any]) -> None:
        """Remove what an earlier run left here, and its shared memory."""
        remove_leftovers(self.run_dir, bytes.fromhex(run["run_id"]))
        for folder in FOLDERS:
            shutil.rmtree(self.run_dir / folder, ignore_errors=True)
        for path in (self.run_dir / "peers").glob("*.json"):
            path.unlink()
        for name in RESULTS:
            (self.run_dir / name).unlink(missing_ok=True)

    @property
    def place(self) -> Place:
        return Place(self.run_dir, self.run_id, self.experiment.exchange.keep)

    def open_sender(self, address: Address, slot_bytes: int, describe: dict[str, Any]) -> Sender:
        """The producing end of a channel, on the experiment's transport."""
        exchange = self.experiment.exchange
        return create(exchange.transport, address, self.place, exchange.depth, slot_bytes, describe)

    def open_receiver(self, address: Address) -> Receiver:
        """The consuming end of a channel, on the experiment's transport."""
        return attach(self.experiment.exchange.transport, address, self.place)

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
        path = self.run_dir / "peers" / f"{name}.{what}.json"
        begun, told, check = time.monotonic(), False, self.check(name)
        while True:
            if path.exists():
                content = json.loads(path.read_text())
                if content["run_id"] == self.run_id.hex():
                    return content
            waited = time.monotonic() - begun
            here = read_page(self.run_dir, name)
            if not told and waited > 0.5 and here is None:
                told = True
                self.tell(f"{self.peer}: waiting for {name} in {self.run_dir}. To start it, paste into another "
                          f"terminal:\n    {self._command(name)}")  # fmt: skip
            self.page.update("waiting", self.window, name)
            self.progress(name)
            if here is None or here["run_id"] != self.run_id.hex():
                self._refuse_strangers()
                self.check_stop()
            else:
                check(waited)
            time.sleep(MEETING_POLL_S)

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

    def start(
        self, contract: Contract, attach: Iterable[Callable[[], None]], **details: Any
    ) -> dict[str, dict[str, Any]]:
        """All programs have the same contract and all channels open; returns when everybody may begin.

        attach: opens this program's inlets, called once every producer has created its outlets. details: published
        for people and results, such as NEST's min_delay; those of all programs are returned, by name.
        """
        digest = contract.digest
        self.publish("ready", {"digest": digest, "details": details})
        found = {self.peer: details}
        for name in self.others:
            theirs = self.await_page(name, "ready")
            if theirs["digest"] != digest:
                raise ContractError(
                    f"{self.peer} and {name} derived different contracts ({digest[:12]} and {theirs['digest'][:12]}) "
                    f"from the same experiment: their toolkit versions differ. Install the same tvb-lockstep on both "
                    f"sides."
                )
            found[name] = theirs["details"]
        for each in attach:
            each()
        self.publish("attached", {})
        for name in self.others:
            self.await_page(name, "attached")
        return found

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
            lives = alive(self.run_dir, name)
            if suspected and not lives:
                raise PeerLost(self._obituary(name))
            suspected = not lives

        return look

    def _obituary(self, name: str) -> str:
        page, summary = read_page(self.run_dir, name), read_summary(self.run_dir, name)
        assert page is not None
        when = during(page["now"]["window"])
        who = f"{name} (pid {page['pid']} on {page['host']})"
        if summary is None:
            return f"{who} died {when}, without a word (killed, out of memory or crashed). Its terminal may say more."
        if summary["state"] == "interrupted":
            return f"{who} was interrupted {when}."
        if summary["state"] == "failed":
            return f"{who} failed {when}: {summary['error']}"
        return f"{who} ended {when}, before {self.peer} did."

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
        for closer in reversed(self._closers):
            try:
                closer()
            except Exception as second:
                self.tell(f"{self.peer}: while closing: {second}")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        summary = {
            "peer": self.peer, "state": state, "error": None if explained is None else one_line(explained),
            "windows": self.window + 1 if state == "finished" else max(self.window, 0),
            "started": self._started, "ended": time.time(), "wall_s": time.time() - self._started,
            "cpu_s": usage.ru_utime + usage.ru_stime, "peak_memory_mib": usage.ru_maxrss / 1024,
            "versions": installed_versions(), "python": platform.python_version(), "counters": self.counters,
        }  # fmt: skip
        try:
            self.publish("summary", summary)
        except OSError as trouble:
            self.tell(f"{self.peer}: {unusable(self.run_dir, trouble)}")
        self.page.update(state, self.window)  # in memory: the others see it on a full disk, too
        try:
            with self._run_lock():
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
                    mark.write_text(self.peer)
        except OSError as trouble:
            self.tell(f"{self.peer}: {unusable(self.run_dir, trouble)}")
        if explained is not error and explained is not None:
            raise explained from None

    def release(self) -> None:
        """Give the place free. Called when everything, the finishing of the run included, is done."""
        if self._lock_fd is not None:
            self.page.close()
            os.close(self._lock_fd)
            self._lock_fd = None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write at once: a reader sees all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            json.dump(content, file, indent=1)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_run(run_dir: Path) -> dict[str, Any] | None:
    """``run.json`` of a run directory; None when there is none yet. Raises RunDirectoryError for somebody else's."""
    try:
        run = json.loads((run_dir / "run.json").read_text())
        if len(bytes.fromhex(run["run_id"])) == 16 and {"created", "experiment"} <= run.keys():
            return run
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RunDirectoryError(
        f"{run_dir} is not a run directory: its run.json is not lockstep's. Choose another --run-dir."
    )


def refuse_foreign(run_dir: Path) -> None:
    """Raise RunDirectoryError when `run_dir` holds files that are not of a run. Touches nothing."""
    # listed before run.json is looked for: another program of the run may be writing it at this moment
    names = os.listdir(run_dir) if run_dir.exists() else []
    if read_run(run_dir) is None:
        strangers = sorted(
            name
            for name in names
            if name not in ("peers", "run.lock", "log") and not (name.startswith("run.json.") and name.endswith(".tmp"))
        )
        if strangers:
            raise RunDirectoryError(
                f"{run_dir} is not empty and not a run directory (it holds {', '.join(strangers[:5])}). "
                f"Choose another --run-dir."
            )


def refuse_earlier(run_dir: Path, run: dict[str, Any], overwrite: bool) -> None:
    """Raise RunDirectoryError when `run` got as far as a contract, and may not be replaced. Touches nothing."""
    if (run_dir / "contract.json").exists() and not overwrite:
        raise RunDirectoryError(
            f"{run_dir} holds a run of {run['created']} (experiment {run['experiment']}). Choose another --run-dir, or "
            f"add --overwrite to the commands of all its programs to replace it."
        )


def check_new_run(run_dir: Path, overwrite: bool) -> None:
    """Raise RunDirectoryError unless a new run may begin in `run_dir`. Touches nothing; for who starts all programs."""
    try:
        refuse_foreign(run_dir)
        for name in pages(run_dir):
            if alive(run_dir, name):
                raise taken(run_dir, name)
        run = read_run(run_dir)
        if run is not None:
            refuse_earlier(run_dir, run, overwrite)
    except OSError as error:
        raise unusable(run_dir, error) from None


def taken(run_dir: Path, name: str) -> RunDirectoryError:
    page = read_page(run_dir, name) or {"pid": "?", "host": "?"}
    return RunDirectoryError(
        f"{run_dir} is in use: its {name} is alive as pid {page['pid']} on {page['host']}. "
        f"Choose another --run-dir, or end that program first."
    )


def unusable(run_dir: Path, error: OSError) -> RunDirectoryError:
    what = f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror or error)
    return RunDirectoryError(
        f"The run directory {run_dir} cannot be used: {what}. Choose another with --run-dir, or free space and check "
        f"its permissions."
    )


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


def paste_command(prefix: str, peer: str, arguments: list[str]) -> str:
    """The command line that starts `peer`, quoted for a shell."""
    subcommand = peer if peer in ("tvb", "bridge") else "spikenet"
    name = [] if peer in ("tvb", "bridge", "spikenet") else ["--name", peer]
    return " ".join([prefix, subcommand, *map(shlex.quote, [*arguments, *name])])
