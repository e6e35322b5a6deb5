"""Frames as files, one per window and channel, for looking at with `numpy.load` and for file systems that others mount.

    exchange/NAME/000000000812_16240-16260.npy   sequence, t0 and t1 in ticks; .npy header, payload, frame header
    exchange/NAME/channel.json                   what the columns are
    exchange/NAME/cursor                         the sequence number that the consumer takes next (8 bytes)
    exchange/tmp/NAME.npy                        the frame being written, renamed when it is complete

The consumer opens the next name directly and never lists a folder. While the frame is not there it looks a few times,
then with growing pauses, and when the wait gets long, at every event of the folder (watchdog): a wake-up by watchdog's
threads takes about 0.4 ms, and they compete with the simulator for the interpreter, so that they are set up only while
waits are long. Where a file system gives no events (those of a network), pauses are all there is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
from collections import deque
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NoReturn

from watchdog.events import FileCreatedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from ..errors import FrameError, RunDirectoryError
from ..frame import DENSE, HEADER, HEADER_BYTES, KINDS, WIRE_VERSION, Address, payload_bytes
from .base import CHECK_S, Check, Place

LAYOUT_VERSION = 1
NPY_BYTES = 128  # of the .npy header, padded to this length whatever the shape
FOLDER = "exchange"
TEMPORARY = "tmp"
CURSOR = "cursor"

FIRST_LOOKS = 3
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 50e-6, 2e-3
PAUSE_FRACTION = 0.05  # of the wait so far: the next pause, and so what a look may come too late by
EVENTS_AFTER_S = 5e-3  # waits longer than this are spent on events

CALM = 100  # frames without such a wait, after which events are no longer asked for

log = logging.getLogger(__name__)
_told_no_events = False


def create(
    address: Address, place: Place, depth: int, slot_bytes: int, describe: dict[str, Any] | None = None
) -> FileSender:
    """The producing end: makes the channel's folder. Frames may be of any size; slot_bytes is not needed.

    A producer of the same run may go on in the folder of its predecessor. Raises RunDirectoryError for frames of
    another run, and for a folder that cannot be used.
    """
    folder = _folder(place, address)
    try:
        for each in (folder.parent, folder.parent / TEMPORARY, folder):
            with contextlib.suppress(FileExistsError):
                each.mkdir(mode=0o700)
            _check_owner(each, address)
        _refuse_foreign_frames(folder, address)
        content = {
            "run_id": address.run_id.hex(), "channel": address.channel, "name": address.name,
            "kind": KINDS[address.kind], "columns": address.columns, "layout_version": LAYOUT_VERSION,
            "wire_version": WIRE_VERSION, **(describe or {}),
        }  # fmt: skip
        temporary = folder.parent / TEMPORARY / f"{address.name}.json"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(content, file, indent=1)
        os.close(os.open(folder / CURSOR, os.O_RDWR | os.O_CREAT, 0o600))
        os.rename(temporary, folder / "channel.json")
    except OSError as error:
        _unusable(address, folder, error)
    return FileSender(address, folder, depth)


def attach(address: Address, place: Place) -> FileReceiver:
    """The consuming end. Raises RunDirectoryError with the field in which the folder differs from what is expected."""
    folder = _folder(place, address)
    try:
        _check_owner(folder, address)
        described = _described(folder)
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"channel {address.name}: {error.filename} is missing: its producer has not created the channel. Start the "
            f"producer in the same run directory."
        ) from None
    except ValueError as error:
        raise RunDirectoryError(
            f"channel {address.name}: {folder / 'channel.json'} is not that of a channel: {error}. Remove the folder, "
            f"or choose another --run-dir."
        ) from None
    except OSError as error:
        _unusable(address, folder, error)
    for field, expected in (
        ("layout_version", LAYOUT_VERSION),
        ("run_id", address.run_id.hex()),
        ("channel", address.channel),
        ("kind", KINDS[address.kind]),
        ("columns", address.columns),
    ):
        if described.get(field) != expected:
            raise RunDirectoryError(
                f"channel {address.name}: {folder / 'channel.json'} is refused: {field}: expected {expected}, found "
                f"{described.get(field)}. It is not of this run, or of another version of tvb-lockstep; choose another "
                f"--run-dir, or start both programs again."
            )
    return FileReceiver(address, folder, place.keep)


def cleanup(place: Place, dry_run: bool = False) -> list[str]:
    """Remove temporary files that dead programs of this run left; frames stay, to be looked at."""
    exchange = place.run_dir / FOLDER
    removed = []
    for path in sorted((exchange / TEMPORARY).glob("*")):
        try:
            described = _described(exchange / path.stem)
        except (OSError, ValueError):
            continue
        if described.get("run_id") == place.run_id.hex():
            if not dry_run:
                path.unlink(missing_ok=True)
            removed.append(str(path.relative_to(place.run_dir)))
    return removed


def npy_header(kind: int, rows: int, columns: int) -> bytes:
    """The 128 bytes that tell `numpy.load` what follows: float64 (rows, columns), C order, or spike records (rows,)."""
    if kind == DENSE:
        text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, {columns}), }}"
    else:
        text = f"{{'descr': [('time', '<i8'), ('sender', '<i4')], 'fortran_order': False, 'shape': ({rows},), }}"
    return b"\x93NUMPY\x01\x00" + (NPY_BYTES - 10).to_bytes(2, "little") + text.ljust(NPY_BYTES - 11).encode() + b"\n"


def frame_name(sequence: int, t0: int, t1: int) -> str:
    return f"{sequence:012d}_{t0}-{t1}.npy"


class FileSender:
    def __init__(self, address: Address, folder: Path, depth: int) -> None:
        self.waited_s = 0.0
        self._address = address
        self._folder = folder
        self._depth = depth
        self._temporary = str(folder.parent / TEMPORARY / f"{address.name}.npy")
        self._first = self._taken = -1  # the first frame this end sends; the one the consumer takes next, as last seen
        self._npy: tuple[int, bytes] = (-1, b"")

    def start_at(self, sequence: int) -> None:
        try:
            for entry in os.scandir(self._folder):
                number, underscore, _ = entry.name.partition("_")
                if underscore and number.isdecimal() and int(number) >= sequence:
                    os.unlink(entry)
        except OSError as error:
            _unusable(self._address, self._folder, error)

    def send(self, header: bytes, body: memoryview, sequence: int, t0: int, t1: int, check: Check) -> None:
        if self._first < 0:
            self._first = self._taken = sequence
        if sequence - self._taken >= self._depth:
            self._await_room(sequence, check)
        rows = HEADER.unpack(header)[9]
        if rows != self._npy[0]:
            self._npy = (rows, npy_header(self._address.kind, rows, self._address.columns))
        path = f"{self._folder}/{frame_name(sequence, t0, t1)}"
        try:
            fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                _write_all(fd, [self._npy[1], body, header])
            finally:
                os.close(fd)
            os.rename(self._temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            error.filename = path
            _unusable(self._address, self._folder, error)

    def _await_room(self, sequence: int, check: Check) -> None:
        begun = perf_counter()
        waited, last_check = 0.0, 0.0
        try:
            while True:
                self._taken = max(self._first, self._cursor())
                if sequence - self._taken < self._depth:
                    return
                sleep(_pause(waited))
                waited = perf_counter() - begun
                if waited - last_check > CHECK_S / 2:
                    check(waited)
                    last_check = waited
        finally:
            self.waited_s += perf_counter() - begun

    def _cursor(self) -> int:
        # opened anew each time: a network file system shows the other's writes only then
        path = f"{self._folder}/{CURSOR}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int.from_bytes(os.pread(fd, 8, 0), "little")
            finally:
                os.close(fd)
        except OSError as error:
            _unusable(self._address, self._folder, error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


class FileReceiver:
    def __init__(self, address: Address, folder: Path, keep: int) -> None:
        self.waited_s = 0.0
        self._address = address
        self._folder = folder
        self._keep = keep
        self._read: deque[str] = deque()
        self._events: _Events | None = None
        self._since_long = 0  # frames since the last long wait
        self._no_events = 0  # long waits in a row that ended without an event
        self._npy: tuple[int, bytes] = (-1, b"")
        try:
            self._cursor = os.open(folder / CURSOR, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            _unusable(address, folder, error)

    def receive(self, sequence: int, t0: int, t1: int, check: Check) -> tuple[bytes, memoryview]:
        path = f"{self._folder}/{frame_name(sequence, t0, t1)}"
        self._since_long += 1
        fd = self._open(path)
        if fd is None:
            fd = self._await(path, check)
        if self._since_long == CALM:
            self._disarm()
        try:
            header, body = self._frame(fd, path)
        except OSError as error:
            error.filename = path
            _unusable(self._address, self._folder, error)
        finally:
            os.close(fd)
        try:
            os.pwrite(self._cursor, (sequence + 1).to_bytes(8, "little"), 0)
            if self._keep >= 0:
                self._read.append(path)
                while len(self._read) > self._keep:
                    with contextlib.suppress(FileNotFoundError):  # a person may have tidied up
                        os.unlink(self._read.popleft())
        except OSError as error:
            _unusable(self._address, self._folder, error)
        return header, body

    def _frame(self, fd: int, path: str) -> tuple[bytes, memoryview]:
        size = os.fstat(fd).st_size
        if size < NPY_BYTES + HEADER_BYTES:
            raise self._refused(path, "file length [bytes]", f"at least {NPY_BYTES + HEADER_BYTES}", size)
        header = os.pread(fd, HEADER_BYTES, size - HEADER_BYTES)
        length = payload_bytes(header, self._address)
        if size != NPY_BYTES + length + HEADER_BYTES:
            raise self._refused(path, "file length [bytes]", NPY_BYTES + length + HEADER_BYTES, size)
        rows = HEADER.unpack(header)[9]
        if rows != self._npy[0]:
            self._npy = (rows, npy_header(self._address.kind, rows, self._address.columns))
        data = os.pread(fd, NPY_BYTES + length, 0)
        if len(data) != NPY_BYTES + length:
            raise self._refused(path, "bytes read", NPY_BYTES + length, len(data))
        if not data.startswith(self._npy[1]):
            raise self._refused(path, ".npy header", self._npy[1], data[:NPY_BYTES])
        return header, memoryview(data)[NPY_BYTES:]

    def _open(self, path: str) -> int | None:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            _unusable(self._address, self._folder, error)

    def _await(self, path: str, check: Check) -> int:
        """The descriptor of the frame at `path`, once it is there."""
        begun = perf_counter()
        waited, last_check = 0.0, 0.0
        looks, timed_out = 0, False
        try:
            while True:
                fd = self._open(path)
                if fd is not None:
                    break
                looks += 1
                if waited > EVENTS_AFTER_S and self._no_events < 2 and self._arm():
                    fd = self._open(path)  # it may have come while the events were being set up
                    if fd is not None:
                        break
                    assert self._events is not None
                    timed_out = not self._events.wait(CHECK_S / 2)
                elif looks <= FIRST_LOOKS:
                    os.sched_yield()
                else:
                    sleep(_pause(waited))
                waited = perf_counter() - begun
                if waited - last_check > CHECK_S / 2:
                    check(waited)
                    last_check = waited
                    if not self._folder.is_dir():
                        _unusable(self._address, self._folder, OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
            if waited > EVENTS_AFTER_S:
                self._judge_events(timed_out)
            return fd
        finally:
            self.waited_s += perf_counter() - begun

    def _arm(self) -> bool:
        """Whether there are events to wait for; sets them up when there are none yet."""
        if self._events is None:
            try:
                self._events = _Events(str(self._folder))
            except OSError as error:  # the inotify limits of the user, or of the machine
                self._no_events = 2
                _tell_no_events(self._folder, error.strerror or str(error))
        return self._events is not None

    def _disarm(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _judge_events(self, timed_out: bool) -> None:
        """Give up events when frames came twice in a row without one."""
        self._since_long = 0
        if self._events is None:
            return
        self._no_events = self._no_events + 1 if timed_out else 0
        if self._no_events == 2:
            self._disarm()
            _tell_no_events(self._folder, "frames came without one")

    def _refused(self, path: str, field: str, expected: object, found: object) -> FrameError:
        return FrameError(
            f"channel {self._address.name}: {path} is refused: {field}: expected {expected}, found {found}. Something "
            f"other than the producer wrote or cut this file, or the machine went down while it was written."
        )

    def close(self) -> None:
        self._disarm()
        if self._cursor >= 0:
            os.close(self._cursor)
            self._cursor = -1


class _Events(FileSystemEventHandler):
    """Wakes its owner when a file appears in `folder`. All channels of a process share one observer and its threads."""

    _observer: Any = None
    _lock = threading.Lock()

    def __init__(self, folder: str) -> None:
        self._happened = threading.Lock()
        self._happened.acquire()
        with _Events._lock:
            if _Events._observer is None:
                observer = Observer()
                observer.daemon = True
                observer.start()
                # what watchdog says when a folder is no longer watched, though nothing is wrong with that
                logging.getLogger("watchdog.observers.inotify").addFilter(
                    lambda record: "thread is inactive" not in record.getMessage()
                )
                _Events._observer = observer
            # only what a rename into the folder causes: neither the cursor nor our own reading wakes anybody
            self._watch = _Events._observer.schedule(self, folder, event_filter=[FileCreatedEvent, FileMovedEvent])

    def dispatch(self, event: FileSystemEvent) -> None:
        with contextlib.suppress(RuntimeError):  # not looked at since the last event
            self._happened.release()

    def wait(self, timeout_s: float) -> bool:
        """Whether a file appeared since the last call, waiting for it up to timeout_s."""
        return self._happened.acquire(timeout=timeout_s)

    def close(self) -> None:
        with _Events._lock:
            _Events._observer.unschedule(self._watch)


def _pause(waited_s: float) -> float:
    return min(max(PAUSE_FRACTION * waited_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)


def _tell_no_events(folder: Path, why: str) -> None:
    global _told_no_events
    if not _told_no_events:
        _told_no_events = True
        log.warning("%s: no file events (%s); looking for frames in pauses of up to %g ms instead.", folder, why,
                    LONGEST_PAUSE_S * 1e3)  # fmt: skip


def _write_all(fd: int, parts: list[bytes | memoryview]) -> None:
    written = os.writev(fd, parts)
    if written < sum(map(len, parts)):  # the disk is nearly full, or the frame over 2 GiB: the next call says which
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _folder(place: Place, address: Address) -> Path:
    if "/" in address.name or address.name in ("", ".", "..", TEMPORARY):
        raise RunDirectoryError(f"channel {address.name!r}: this name cannot be that of a folder; choose another.")
    return place.run_dir / FOLDER / address.name


def _check_owner(folder: Path, address: Address) -> None:
    status = folder.lstat()
    for field, expected, found in (
        ("owner (uid)", os.geteuid(), status.st_uid),
        ("mode", "0o40700", oct(status.st_mode)),
    ):
        if expected != found:
            raise RunDirectoryError(
                f"channel {address.name}: the folder {folder} is refused: {field}: expected {expected}, found {found}. "
                f"Choose a --run-dir of your own, or correct this with chown and chmod."
            )


def _described(folder: Path) -> dict[str, Any]:
    """What channel.json says. Raises ValueError when it is not a JSON object."""
    try:
        content = json.loads((folder / "channel.json").read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    return content


def _refuse_foreign_frames(folder: Path, address: Address) -> None:
    """Raise when the folder holds frames of another run."""
    found = ""
    if (folder / "channel.json").exists():
        with contextlib.suppress(ValueError):
            found = str(_described(folder).get("run_id", ""))
        if found == address.run_id.hex():
            return
        found = f"channel.json of run {found or 'unknown'}"
    else:
        found = next((f"{entry.name} without a channel.json" for entry in os.scandir(folder)), "")
    if found:
        raise RunDirectoryError(
            f"channel {address.name}: {folder} holds {found}, and this is run {address.run_id.hex()}. Choose another "
            f"--run-dir, or remove the folder."
        )


def _unusable(address: Address, folder: Path, error: OSError) -> NoReturn:
    """An error of the operating system as one that says what to do."""
    todo = {
        errno.ENOSPC: "Free space there, keep fewer frames (exchange.keep), or choose another --run-dir",
        errno.EDQUOT: "Free space within your quota, keep fewer frames (exchange.keep), or choose another --run-dir",
        errno.EROFS: "The file system is read-only: choose another --run-dir",
        errno.EACCES: "Give the folder back its mode 0700, or choose another --run-dir",
        errno.ENOENT: "The folder was removed while the run used it: start the run again, in a --run-dir of its own",
    }.get(error.errno or 0, "Choose another --run-dir")
    raise RunDirectoryError(
        f"channel {address.name}: {error.filename or folder}: {error.strerror or error} "
        f"({errno.errorcode.get(error.errno or 0, 'unknown')}). {todo}."
    ) from None
