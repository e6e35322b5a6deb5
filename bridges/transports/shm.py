"""Frames through POSIX shared memory: one ring per channel, one producer, one consumer.

The segment is a header page and `depth` slots. A frame is cut into pieces of a slot each, so that it may be larger
than the whole ring, which then passes it on while the consumer takes it. Two POSIX semaphores count the slots that are
filled and those that are free. They carry all of the synchronization and all of the memory ordering; each side keeps
its own position, and the counters in the header page are there for people to look at. A slot is counted as filled only
after it was written, so that a producer killed while it writes has not sent anything.

The consumer unlinks the segment and the semaphores once it has attached: from then on the kernel removes them with the
last of the two processes, however that ends. While a producer lives it holds a `flock` on its segment, which tells a
left-over from a channel in use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from time import perf_counter, sleep
from typing import Any

import posix_ipc

from ..errors import RunDirectoryError
from ..frame import HEADER_BYTES, Address, payload_bytes
from .base import CHECK_S, Check, Place

MAGIC = b"TVLSRING"
LAYOUT_VERSION = 1
# magic, layout version, channel | run id | depth, zero, slot bytes, pid of the producer
SEGMENT_HEADER = struct.Struct("<8sII16sIIQQ")
PAGE_BYTES = 4096
# 64-bit counters in the header page, by their index: the producer's and the consumer's, in cache lines of their own
FRAMES_SENT, SLOTS_FILLED, FRAMES_TAKEN, SLOTS_EMPTIED = 16, 17, 24, 25
SLOT_ALIGNMENT = 64
LENGTH_AT, _LENGTH = 64, struct.Struct("<Q")  # payload length in a frame's header
# When the other program runs on another core it often is only microseconds late: a look costs 0.3 us, while being woken
# from a semaphore costs about 20 us. When it runs on this core, looking only holds it up (yielding does not help: the
# kernel goes on with who yields, most often). So looks in vain are followed by waits without any, up to MOST_BLIND.
SPIN_S = 50e-6
MOST_BLIND = 63

_FOLDER = "/dev/shm"  # where Linux shows shared memory; a semaphore NAME is the file sem.NAME


def create(
    address: Address, place: Place, depth: int, slot_bytes: int, describe: dict[str, Any] | None = None
) -> ShmSender:
    """The producing end: a ring of `depth` slots, slot_bytes rounded up to whole cache lines.

    Raises RunDirectoryError when shared memory is full, or when a live producer holds the channel.
    """
    slot_bytes = max(-(-slot_bytes // SLOT_ALIGNMENT), 2) * SLOT_ALIGNMENT  # a frame's header must fit in one slot
    size = PAGE_BYTES + depth * slot_bytes
    name = _name(address.run_id, address.channel, place.link)
    _remove_leftover(name, address)
    with _said(address, "creating"):
        segment = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
    try:
        fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            os.posix_fallocate(segment.fd, 0, size)  # all of it now: a full /dev/shm would else be a SIGBUS, later
        except OSError as error:
            raise _no_room(address, size, error) from None
        with _said(address, "creating"):
            filled = posix_ipc.Semaphore(_filled(name), posix_ipc.O_CREX, mode=0o600, initial_value=0)
            free = posix_ipc.Semaphore(_free(name), posix_ipc.O_CREX, mode=0o600, initial_value=depth)
        memory = mmap.mmap(segment.fd, size)
    except BaseException:
        _unlink(name)
        raise
    finally:
        segment.close_fd()  # the map keeps a descriptor of its own, and with it the lock
    head = (LAYOUT_VERSION, address.channel, address.run_id, depth, 0, slot_bytes, os.getpid())
    SEGMENT_HEADER.pack_into(memory, 0, MAGIC, *head)
    return ShmSender(address, memory, filled, free, depth, slot_bytes)


def attach(address: Address, place: Place) -> ShmReceiver:
    """The consuming end. Nothing of the channel stays in /dev/shm when this returns.

    Raises RunDirectoryError when there is no such segment, or with the field in which it differs from what is expected.
    """
    name = _name(address.run_id, address.channel, place.link)
    with _said(address, "attaching to"):
        segment = posix_ipc.SharedMemory(name)
    try:
        status = os.fstat(segment.fd)
        _demand(address, "owner (uid)", os.geteuid(), status.st_uid)
        _demand(address, "mode", "0o600", oct(status.st_mode & 0o777))
        if status.st_size < PAGE_BYTES:
            raise _refused(address, "size [bytes]", f"at least {PAGE_BYTES}", status.st_size)
        memory = mmap.mmap(segment.fd, status.st_size)
    finally:
        segment.close_fd()
    try:
        magic, layout, channel, run_id, depth, _, slot_bytes, _ = SEGMENT_HEADER.unpack_from(memory)
        _demand(address, "magic", MAGIC, magic)
        _demand(address, "layout version", LAYOUT_VERSION, layout)
        _demand(address, "run id", address.run_id.hex(), run_id.hex())
        _demand(address, "channel", address.channel, channel)
        if depth < 1:
            raise _refused(address, "depth", "at least 1", depth)
        if slot_bytes < HEADER_BYTES or slot_bytes % SLOT_ALIGNMENT:
            raise _refused(address, "slot bytes", f"a multiple of {SLOT_ALIGNMENT}, over {HEADER_BYTES}", slot_bytes)
        _demand(address, "size [bytes]", PAGE_BYTES + depth * slot_bytes, status.st_size)
        with _said(address, "attaching to"):
            filled, free = posix_ipc.Semaphore(_filled(name)), posix_ipc.Semaphore(_free(name))
    except BaseException:
        memory.close()
        raise
    _unlink(name)
    return ShmReceiver(address, memory, filled, free, depth, slot_bytes)


def cleanup(place: Place, dry_run: bool = False) -> list[str]:
    """Remove segments and semaphores of this run that no live producer holds; their names below /dev/shm."""
    prefix = _name(place.run_id, 0, "")[1:-1]  # without the slash and the channel number
    dead, _ = _dead_and_live([entry for entry in os.listdir(_FOLDER) if _ring_of(entry).startswith(prefix)])
    return dead if dry_run else remove(dead)


def leftovers() -> tuple[list[str], dict[str, int]]:
    """Segments and semaphores of all dead runs of this user, by their names below /dev/shm; and by name the producer's
    pid of every live ring.

    A ring does not say where its run directory is. Its run is taken for dead when no ring of it has a live producer.
    """
    entries = []
    for entry in os.listdir(_FOLDER):
        with contextlib.suppress(FileNotFoundError):
            if _ring_of(entry).startswith("tvls-") and os.lstat(f"{_FOLDER}/{entry}").st_uid == os.geteuid():
                entries.append(entry)
    sleep(0.05)  # a ring is locked microseconds after it was made; one that is made just now is not in the list
    dead, live = _dead_and_live(entries)
    runs = {_run_of(ring) for ring in live}
    return [entry for entry in dead if _run_of(_ring_of(entry)) not in runs], live


def remove(entries: list[str]) -> list[str]:
    """Remove segments and semaphores by their names below /dev/shm; those that could be removed."""
    removed = []
    for entry in entries:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.unlink(f"{_FOLDER}/{entry}")
            removed.append(entry)
    return removed


def _ring_of(entry: str) -> str:
    """The ring to which a segment or a semaphore belongs, by their names below /dev/shm."""
    return entry.removeprefix("sem.").split(".")[0]


def _run_of(ring: str) -> str:
    return ring.split("-")[1]


def _dead_and_live(entries: list[str]) -> tuple[list[str], dict[str, int]]:
    """Those without a live producer, semaphores before segments; and the producer's pid by ring of the others."""
    pids = {ring: _producer_lives(f"/{ring}") for ring in sorted(set(map(_ring_of, entries)))}
    dead = sorted(entry for entry in entries if pids[_ring_of(entry)] is None)
    return dead, {ring: pid for ring, pid in pids.items() if pid is not None}


class _End:
    """What both ends of a ring have in common."""

    def __init__(
        self, address: Address, memory: mmap.mmap, filled: posix_ipc.Semaphore, free: posix_ipc.Semaphore,
        depth: int, slot_bytes: int,
    ) -> None:  # fmt: skip
        self.waited_s = 0.0
        self._address = address
        self._memory = memory
        self._view = memoryview(memory)
        self._counters = self._view[:PAGE_BYTES].cast("Q")
        self._filled, self._free = filled, free
        self._slot_bytes = slot_bytes
        self._room = slot_bytes - HEADER_BYTES  # for the payload, in a frame's first slot
        self._end = PAGE_BYTES + depth * slot_bytes
        self._at = PAGE_BYTES  # of the slot that comes next
        self._slots = self._frames = 0
        self._in_frame = False
        self._blind, self._blind_next = 0, 1  # waits without looking: still to come, and after the next look in vain

    def _wait(self, semaphore: posix_ipc.Semaphore, check: Check) -> None:
        """One count of `semaphore`, of which this side is the only taker."""
        if semaphore.value:
            semaphore.acquire()
            return
        begun = perf_counter()
        try:
            if self._blind:
                self._blind -= 1
            else:
                while perf_counter() - begun < SPIN_S:
                    os.sched_yield()
                    if semaphore.value:
                        semaphore.acquire()
                        self._blind_next = 1
                        return
                self._blind = self._blind_next
                self._blind_next = min(2 * self._blind_next + 1, MOST_BLIND)
            while True:
                try:
                    semaphore.acquire(CHECK_S)
                    return
                except (posix_ipc.BusyError, posix_ipc.SignalError):
                    check(perf_counter() - begun)
        finally:
            self.waited_s += perf_counter() - begun

    def _next_slot(self) -> None:
        self._slots += 1
        self._at += self._slot_bytes
        if self._at == self._end:
            self._at = PAGE_BYTES

    def _refuse_half_a_frame(self) -> None:
        if self._in_frame:
            raise RunDirectoryError(
                f"channel {self._address.name}: frame {self._frames} was left in the middle by an earlier error; this "
                f"channel cannot go on. Start the run again."
            )

    def close(self) -> None:
        if not self._memory.closed:
            self._counters.release()
            self._view.release()
            self._memory.close()
            self._filled.close()
            self._free.close()


class ShmSender(_End):
    def start_at(self, sequence: int) -> None:
        """A ring is always a new one."""

    def send(self, header: bytes, body: memoryview, sequence: int, t0: int, t1: int, check: Check) -> None:
        length = len(body)
        if length > self._room or self._in_frame:
            self._send_in_pieces(header, body, check)
        else:
            if self._free.value:  # only this side takes from it
                self._free.acquire()
            else:
                self._wait(self._free, check)
            at = self._at
            start = at + HEADER_BYTES
            self._memory[at:start] = header
            self._memory[start : start + length] = body
            self._post()
        self._frames += 1
        self._counters[FRAMES_SENT] = self._frames

    def _send_in_pieces(self, header: bytes, body: memoryview, check: Check) -> None:
        self._refuse_half_a_frame()
        self._wait(self._free, check)
        at = self._at
        self._memory[at : at + HEADER_BYTES] = header
        self._view[at + HEADER_BYTES : at + self._slot_bytes] = body[: self._room]
        self._post()
        self._in_frame = True
        for start in range(self._room, len(body), self._slot_bytes):
            piece = body[start : start + self._slot_bytes]
            self._wait(self._free, check)
            self._view[self._at : self._at + len(piece)] = piece
            self._post()
        self._in_frame = False

    def _post(self) -> None:
        self._next_slot()
        self._counters[SLOTS_FILLED] = self._slots
        self._filled.release()


class ShmReceiver(_End):
    def receive(self, sequence: int, t0: int, t1: int, check: Check) -> tuple[bytes, bytes | memoryview]:
        if self._in_frame:
            self._refuse_half_a_frame()
        if self._filled.value:  # only this side takes from it
            self._filled.acquire()
        else:
            self._wait(self._filled, check)
        at = self._at
        start = at + HEADER_BYTES
        header = self._memory[at:start]
        (length,) = _LENGTH.unpack_from(header, LENGTH_AT)
        body: bytes | memoryview
        if length > self._room:
            body = self._receive_in_pieces(header, check)
        else:  # no more is copied than there is in a slot: decode checks the header
            body = self._memory[start : start + length]
            self._post()
        self._frames += 1
        self._counters[FRAMES_TAKEN] = self._frames
        return header, body

    def _receive_in_pieces(self, header: bytes, check: Check) -> memoryview:
        self._in_frame = True
        length = payload_bytes(header, self._address)
        body = memoryview(bytearray(length))
        body[: self._room] = self._view[self._at + HEADER_BYTES : self._at + self._slot_bytes]
        self._post()
        for start in range(self._room, length, self._slot_bytes):
            end = min(start + self._slot_bytes, length)
            self._wait(self._filled, check)
            body[start:end] = self._view[self._at : self._at + end - start]
            self._post()
        self._in_frame = False
        return body

    def _post(self) -> None:
        self._next_slot()
        self._counters[SLOTS_EMPTIED] = self._slots
        self._free.release()


def _name(run_id: bytes, channel: int, link: str) -> str:
    """Known to who knows the run id (which lies in a directory that only its owner reads), and to nobody else."""
    name = f"/tvls-{hashlib.sha256(b'tvb-lockstep ring' + run_id).hexdigest()[:32]}-{channel}"
    return f"{name}-{link}" if link else name


def _filled(name: str) -> str:
    return f"{name}.filled"


def _free(name: str) -> str:
    return f"{name}.free"


def _unlink(name: str) -> list[str]:
    """Remove a channel's names, the segment last: semaphores are never there without their segment."""
    removed = []
    for each, unlink in (
        (_filled(name), posix_ipc.unlink_semaphore),
        (_free(name), posix_ipc.unlink_semaphore),
        (name, posix_ipc.unlink_shared_memory),
    ):
        with contextlib.suppress(posix_ipc.ExistentialError, posix_ipc.PermissionsError):
            unlink(each)
            removed.append(each[1:])
    return removed


def _producer_lives(name: str) -> int | None:
    """The pid of the live producer that holds the segment `name`, or None."""
    try:
        fd = os.open(_FOLDER + name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        head = os.pread(fd, SEGMENT_HEADER.size, 0)
        return SEGMENT_HEADER.unpack(head)[-1] if len(head) == SEGMENT_HEADER.size else 0
    finally:
        os.close(fd)
    return None


def _remove_leftover(name: str, address: Address) -> None:
    pid = _producer_lives(name)
    if pid is not None:
        raise RunDirectoryError(
            f"channel {address.name}: pid {pid} is alive and already produces channel {address.channel} of run "
            f"{address.run_id.hex()}. Each channel of a run has one producer; end that program first."
        )
    _unlink(name)


@contextlib.contextmanager
def _said(address: Address, doing: str) -> Iterator[None]:
    """posix_ipc's errors as ones that say what to do."""
    try:
        yield
    except posix_ipc.ExistentialError:
        what = (
            "it is there already, of another program" if doing == "creating"
            else "there is none: its producer has not created it, or it already has its consumer"
        )  # fmt: skip
        raise RunDirectoryError(
            f"channel {address.name}: {doing} the shared memory of run {address.run_id.hex()}, channel "
            f"{address.channel}: {what}. Start the run again; if this comes back, choose exchange.transport = \"file\"."
        ) from None
    except (posix_ipc.PermissionsError, OSError, ValueError) as error:
        raise RunDirectoryError(
            f"channel {address.name}: {doing} the shared memory of run {address.run_id.hex()}, channel "
            f"{address.channel}: {error}. Both programs must run as the same user; else choose "
            f"exchange.transport = \"file\"."
        ) from None


def _no_room(address: Address, size: int, error: OSError) -> RunDirectoryError:
    if error.errno == errno.ENOSPC:
        state = os.statvfs(_FOLDER)
        room = f"{state.f_bavail * state.f_frsize} bytes of {_FOLDER} are free"
    else:
        room = f"{error.strerror}"
    return RunDirectoryError(
        f"channel {address.name} needs {size} bytes of shared memory, but {room}. Free some, give {_FOLDER} more room "
        f"(a container often has 64 MiB), lower exchange.depth, or choose exchange.transport = \"file\"."
    )


def _demand(address: Address, field: str, expected: object, found: object) -> None:
    if expected != found:
        raise _refused(address, field, expected, found)


def _refused(address: Address, field: str, expected: object, found: object) -> RunDirectoryError:
    return RunDirectoryError(
        f"channel {address.name}: its shared memory is refused: {field}: expected {expected}, found {found}. "
        f"It is not of this run, or of another version of tvb-lockstep; start both programs again."
    )
