"""The recording: append-only logs of wire-format frames, one log per channel and stage, frame after frame.

A log survives the death of its writer at any byte: what the kernel has taken stays, and a frame that was cut off is
recognised by its length and ignored. It can be read while it grows. Position in the log = window number.

Beside NAME.frames lies NAME.index, which says where its frames begin, so that any window of a long run is found without
reading the headers before it. It is written in blocks of 4096 bytes: 511 offsets (int64, little-endian, -1 where the
last block holds no more) and the CRC-32 of them after the 32 bytes that all frames of the log begin with. It may lag
behind, be wrong or missing: a reader takes of it what fits the log, and finds the rest by the headers.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from . import frame
from .errors import FrameError, NotReproduced, RunDirectoryError
from .frame import HEADER, HEADER_BYTES, MAX_PAYLOAD_BYTES, Address, Payload

_PREFIX_BYTES = 32  # magic, wire version, kind, run id, channel, columns: the same in every frame of a log
_BLOCK = 511  # offsets in a block of the index


class FrameLog:
    """A log being written by this program, the only writer. Each frame is one system call and is not synced to disk:
    the page cache outlives the program, and the lock step never waits for a disk.

    With `kept` a log that exists is continued: its first `self.kept` frames stay, what does not fit after them (cut
    off, or lost with the power) is cut off. ``append`` then compares that many frames with the log before it adds any.
    explain: says how the payload of a window now differs from the recorded one, given (window, recorded, now); None
    when it says the same in other bytes.

    Raises RunDirectoryError when the file cannot be made, or holds frames already and is not to be kept; FrameError
    when what is to be kept is not the log of `address`, which is left as it is.
    """

    def __init__(self, path: Path, address: Address, kept: bool = False) -> None:
        self._fd = self._index_fd = -1
        self.path = path
        self.address = address
        self.kept = 0
        self.frames = 0  # appended or reproduced
        self.explain: Callable[[int, Payload, Payload], str | None] | None = None
        self._size = 0
        self._offsets = array("q")  # of frames that the index does not have yet
        self._prefix_crc = zlib.crc32(_prefix(address))
        self._recorded: FrameIndex | None = None
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RunDirectoryError(
                f"The recording {path} cannot be written: {error.strerror}. Choose a run directory on a file system "
                f"that this user can write to, or run with --set exchange.record=false."
            ) from None
        size = os.fstat(self._fd).st_size
        try:
            if size and not kept:
                raise RunDirectoryError(
                    f"The recording {path} already holds {size} bytes of an earlier run. Choose a new run directory."
                )
            if size:
                self._keep()
            self._begin_index()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, run_dir: Path, address: Address, kept: bool = False) -> FrameLog:
        """The log of `address` at its place in a run directory, ``record/NAME.frames``."""
        (run_dir / "record").mkdir(mode=0o700, exist_ok=True)
        return cls(path_of(run_dir, address), address, kept)

    def append(self, header: bytes | memoryview, body: bytes | memoryview) -> None:
        """Add one frame as made by ``frame.encode``, or compare it with the kept one of its window.

        Raises RunDirectoryError when the disk is full or fails; the log then still ends with a complete frame.
        Raises NotReproduced when it is not the kept frame, FrameError when the kept one was altered.
        """
        if self.frames < self.kept:
            self._compare(header, body)
            return
        total = HEADER_BYTES + len(body)
        try:
            written = os.writev(self._fd, (header, body))
            if written != total:  # the disk is nearly full, or a signal came in: the rest says which
                self._write_rest(memoryview(bytes(header) + bytes(body))[written:])
        except OSError as error:
            self._cut_back()
            raise RunDirectoryError(self._failure(error, total)) from None
        self._offsets.append(self._size)
        self._size += total
        self.frames += 1
        if len(self._offsets) == _BLOCK:
            self._write_index()

    def frame(self, k: int) -> tuple[memoryview, memoryview]:
        """Header and body of kept frame `k`, for ``frame.decode`` to check. Raises IndexError when it is not kept."""
        if self._recorded is None:
            raise IndexError(f"{self.path} was begun anew and keeps no window, hence not {k}.")
        return self._recorded.frame(k)

    def close(self) -> None:
        if self._offsets:
            self._write_index()
        for fd in (self._fd, self._index_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index_fd = -1
        if self._recorded is not None:
            self._recorded.close()

    def __enter__(self) -> FrameLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep(self) -> None:
        """Keep the frames that are whole, and cut off the rest."""
        self._recorded = index = FrameIndex(self.path, self.address, tolerant=True, scan=True)
        if not len(index) and index.damage is not None and any(os.pread(index._fd, HEADER_BYTES, 0)):
            raise index.damage  # somebody else's; zeros are nobody's, the power went before they were written
        while len(index) and not index._whole(len(index) - 1):
            index._forget_last()
        self.kept = len(index)
        self._size = index._offsets[-1]
        try:
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise RunDirectoryError(f"The recording {self.path} cannot be continued: {error.strerror}.") from None

    def _begin_index(self) -> None:
        """Write the index anew, with the frames that were kept. Where it cannot be written, readers do without."""
        with contextlib.suppress(OSError):
            self._index_fd = os.open(
                index_of(self.path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        offsets = self._recorded._offsets[:-1] if self._recorded is not None else ()
        for offset in offsets:
            self._offsets.append(offset)
            if len(self._offsets) == _BLOCK:
                self._write_index()

    def _write_index(self) -> None:
        offsets = np.full(_BLOCK, -1, "<i8")
        offsets[: len(self._offsets)] = self._offsets
        del self._offsets[:]
        block = offsets.tobytes()
        block += zlib.crc32(block, self._prefix_crc).to_bytes(8, "little")
        try:
            complete = self._index_fd < 0 or os.write(self._index_fd, block) == len(block)
        except OSError:
            complete = False
        if not complete:  # the next frame will not fit either; if it does, readers find it by its header
            os.close(self._index_fd)
            self._index_fd = -1

    def _compare(self, header: bytes | memoryview, body: bytes | memoryview) -> None:
        """Raise NotReproduced unless the next kept frame is this one."""
        assert self._recorded is not None
        k = self.frames
        if b"".join((header, body)) != self._recorded._bytes(k):
            text = self._difference(k, header, body)
            if text is not None:
                raise NotReproduced(text, k)
        self.frames += 1

    def _difference(self, k: int, header: bytes | memoryview, body: bytes | memoryview) -> str | None:
        assert self._recorded is not None
        try:
            before = self._recorded.payload(k)
        except FrameError as error:  # it is the log that was altered
            raise FrameError(
                f"{self.path} cannot be continued, it was altered in window {k}: {error} Start a new run."
            ) from None
        t0, t1 = self._recorded.ticks(k)
        fields = HEADER.unpack(header)
        if self.explain is not None:
            explained = self.explain(k, before, frame.decode(header, body, self.address, *fields[6:9]))
            if explained is None:
                return None
            text = explained
        else:
            crc = HEADER.unpack(self._recorded.frame(k)[0])[11]
            text = (
                f"recorded were {self._recorded.rows(k)} rows for [{t0}, {t1}) with CRC-32 {crc:#010x}, made now were "
                f"{fields[9]} rows for [{fields[7]}, {fields[8]}) with CRC-32 {fields[11]:#010x}"
            )
        return (
            f"{self.path}: window {k}, ticks [{t0}, {t1}), is not reproduced: {text}. The {k} windows before are. Use "
            f"the versions and files that the run was made with (lockstep inspect RUN lists the versions), or start a "
            f"new run."
        )

    def _write_rest(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def _cut_back(self) -> None:
        with contextlib.suppress(OSError):  # the reader ignores a cut-off frame as well
            os.ftruncate(self._fd, self._size)

    def _failure(self, error: OSError, total: int) -> str:
        last = f"The last complete window in it is {self.frames - 1}." if self.frames else "It holds no window yet."
        return (
            f"The recording {self.path} cannot take the {total} bytes of window {self.frames}: {error.strerror} "
            f"(errno {error.errno}, after {self._size} bytes). {last} Free space on this file system or choose a run "
            f"directory on another one, then start again; --set exchange.record=false runs without a recording."
        )


class FrameIndex:
    """The frames of a log, read on demand. Payloads are read when they are asked for; of the headers those that the
    log's index does not spare.

    `torn_bytes`: length of a frame at the end that was cut off (or is just being written). ``refresh()`` takes in
    what a running program has added since. Raises FrameError naming the frame when a header does not fit; with
    `tolerant` the log ends before that frame instead, and `damage` says why. A header that the index spared is checked
    when its frame is asked for, and is a FrameError then. scan: look at all headers, whatever the index says.
    """

    def __init__(self, path: Path, address: Address, tolerant: bool = False, scan: bool = False) -> None:
        self.path = path
        self.address = address
        self.torn_bytes = 0
        self.damage: FrameError | None = None
        self._tolerant = tolerant
        self._offsets = array("q", [0])  # of each frame, and of the end of the last
        self._seen: tuple[int, tuple] = (-1, ())  # the frame whose header was checked last, and its fields
        # The part of the header that never changes is compared in one go; frame.decode does it field by field later.
        self._prefix = _prefix(address)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RunDirectoryError(f"The recording {path} cannot be read: {error.strerror}.") from None
        try:
            if not scan:
                self._take_index()
            self.refresh()
        except FrameError:
            self.close()
            raise

    def refresh(self) -> int:
        """Find the frames added since the last look; returns how many there are now."""
        size = os.fstat(self._fd).st_size
        offset = self._offsets[-1]
        while size - offset >= HEADER_BYTES:
            header = os.pread(self._fd, HEADER_BYTES, offset)
            if len(header) < HEADER_BYTES:  # cut back by its writer, whose disk is full
                break
            try:
                fields = self._checked(header, len(self))
            except FrameError as error:
                if not self._tolerant:
                    raise
                self.damage = error
                return len(self)
            end = offset + HEADER_BYTES + fields[10]
            if end > size:
                break
            offset = end
            self._offsets.append(offset)
        self.torn_bytes = size - offset if size > offset else 0
        return len(self)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def ticks(self, k: int) -> tuple[int, int]:
        """``[t0, t1)`` of frame `k` in ticks. Raises FrameError when its header was altered."""
        fields = self._fields(k)
        return fields[7], fields[8]

    def rows(self, k: int) -> int:
        """Steps of a dense frame, or the number of spikes, from the header alone. Raises FrameError as `ticks`."""
        return self._fields(k)[9]

    @property
    def total_rows(self) -> int:
        """Rows of all frames together, from the size of the log."""
        if not self._row_bytes:  # without columns a row takes no room
            return sum(self.rows(k) for k in range(len(self)))
        return (self._offsets[-1] - HEADER_BYTES * len(self)) // self._row_bytes

    def frame(self, k: int) -> tuple[memoryview, memoryview]:
        """Header and body of window `k` as they were written.

        Raises FrameError when the header was altered, IndexError when the log has no such window.
        """
        data = memoryview(self._bytes(k))
        self._checked(data[:HEADER_BYTES], k)
        return data[:HEADER_BYTES], data[HEADER_BYTES:]

    def payload(self, k: int) -> Payload:
        """The payload of window `k`, checked in full (a read-only array, or Spikes).

        Raises FrameError when it was altered, IndexError when the log has no such window.
        """
        return frame.decode(*self.frame(k), self.address, k, *self.ticks(k))

    def verified(self) -> FrameIndex:
        """This index after all payloads were read once: it ends before the first altered frame, and `damage` says why.

        Raises FrameError instead when the index is not tolerant. It is not to be refreshed afterwards.
        """
        for k in range(len(self)):
            try:
                self.payload(k)
            except FrameError as error:
                if not self._tolerant:
                    raise
                self.damage = error
                del self._offsets[k + 1 :]
                self._seen = -1, ()
                break
        return self

    def __iter__(self) -> Iterator[Payload]:
        for k in range(len(self)):
            yield self.payload(k)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FrameIndex:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def _take_index(self) -> None:
        """Begin with what the log's index says, as far as it fits the log."""
        size = os.fstat(self._fd).st_size
        if size < HEADER_BYTES:
            return
        try:
            with open(index_of(self.path), "rb", buffering=0) as file:  # no more of it than such a log can have
                data = file.read((size // HEADER_BYTES // _BLOCK + 1) * 8 * (_BLOCK + 1)) or b""
        except OSError:
            return
        blocks = np.frombuffer(data[: len(data) // (8 * (_BLOCK + 1)) * 8 * (_BLOCK + 1)], "<i8")
        blocks = blocks.reshape(-1, _BLOCK + 1)
        crc = zlib.crc32(self._prefix)
        whole = 0
        while whole < len(blocks) and zlib.crc32(blocks[whole, :-1].tobytes(), crc) == blocks[whole, -1]:
            whole += 1
        found = blocks[:whole, :-1].ravel()
        found = found[: np.argmax(found < 0)] if (found < 0).any() else found
        if not len(found) or found[0]:
            return
        lengths = np.diff(found) - HEADER_BYTES
        if (lengths < 0).any() or (lengths > MAX_PAYLOAD_BYTES).any() or (lengths % max(self._row_bytes, 1)).any():
            return
        found = found[: np.searchsorted(found, size - HEADER_BYTES, "right")]  # the log may have been cut since
        self._offsets = array("q", found.astype(np.int64).tobytes())
        try:
            self._checked(os.pread(self._fd, HEADER_BYTES, self._offsets[-1]), len(self))
        except FrameError:
            self._offsets = array("q", [0])

    def _forget_last(self) -> None:
        self._offsets.pop()
        self._seen = -1, ()

    def _fields(self, k: int) -> tuple:
        """The fields of the header of frame `k`, checked."""
        self._known(k)
        if self._seen[0] != k:
            self._checked(os.pread(self._fd, HEADER_BYTES, self._offsets[k]), k)
        return self._seen[1]

    def _bytes(self, k: int) -> bytes:
        self._known(k)
        start, end = self._offsets[k], self._offsets[k + 1]
        return os.pread(self._fd, end - start, start)

    def _whole(self, k: int) -> bool:
        """Whether frame `k` is what its CRC-32 says."""
        try:
            frame.decode(*self.frame(k), self.address._replace(gaps=True), k, *self.ticks(k))
        except FrameError:
            return False
        return True

    def _known(self, k: int) -> None:
        if not 0 <= k < len(self):
            held = f"windows 0 to {len(self) - 1}" if len(self) else "no window"
            raise IndexError(f"{self.path} holds {held}, not {k}.")

    def _checked(self, header: bytes | memoryview, k: int) -> tuple:
        """The fields of the header of frame `k`. Raises FrameError naming the frame when one does not fit."""
        fields = self._alone(header, k)
        if (k, fields) == self._seen:
            return fields
        end = self._end_before(k)
        if end is not None and end != fields[7]:
            raise self._refused(k, "t0", end, fields[7])
        if k < len(self) and self._offsets[k] + HEADER_BYTES + fields[10] != self._offsets[k + 1]:
            room = self._offsets[k + 1] - self._offsets[k] - HEADER_BYTES
            raise self._refused(k, "payload length", room, fields[10])
        self._seen = k, fields
        return fields

    def _alone(self, header: bytes | memoryview, k: int) -> tuple:
        """`_checked`, without a look at the frame before."""
        try:
            if len(header) != HEADER_BYTES:
                frame.payload_bytes(header, self.address)
            fields = HEADER.unpack(header)
            length = fields[10]
            if (
                header[:_PREFIX_BYTES] != self._prefix
                or length != fields[9] * self._row_bytes
                or length > MAX_PAYLOAD_BYTES
                or fields[12]
            ):
                frame.payload_bytes(header, self.address)
        except FrameError as error:
            raise FrameError(f"{self.path}, window {k} at byte {self._offsets[k]}: {error}") from None
        if fields[6] != k:
            raise self._refused(k, "sequence", k, fields[6])
        if fields[8] <= fields[7]:
            raise self._refused(k, "t1", f"after {fields[7]}", fields[8])
        return fields

    def _end_before(self, k: int) -> int | None:
        """t1 of the frame before frame `k`; None when there is none, or when it was altered itself."""
        if self._seen[0] == k - 1:
            return self._seen[1][8] if k else None
        try:
            return self._alone(os.pread(self._fd, HEADER_BYTES, self._offsets[k - 1]), k - 1)[8] if k else None
        except FrameError:
            return None

    def _refused(self, k: int, field: str, expected: object, found: object) -> FrameError:
        return FrameError(
            f"{self.path}, window {k} at byte {self._offsets[k]}: {field}: expected {expected}, found {found}. The log "
            f"was altered or mixed with another."
        )

    @property
    def _row_bytes(self) -> int:
        return 8 * self.address.columns if self.address.kind == frame.DENSE else frame.SPIKE_RECORD.itemsize


def path_of(run_dir: Path, address: Address) -> Path:
    return run_dir / "record" / f"{address.name}.frames"


def index_of(log: Path) -> Path:
    return log.with_suffix(".index")


def read(path: Path, address: Address) -> FrameIndex:
    """The log at `path`, to be read while it grows or after its writer has ended, in whatever way."""
    return FrameIndex(path, address)


def _prefix(address: Address) -> bytes:
    nothing = np.empty((0, address.columns)) if address.kind == frame.DENSE else frame.Spikes.none()
    return frame.encode(address, 0, 0, 0, nothing)[0][:_PREFIX_BYTES]
