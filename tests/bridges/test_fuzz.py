"""Whatever bytes a reader meets: the very payload that was written, or a LockstepError that names the field.

Never another exception, a hang, an allocation beyond what is there, or data that are not valid. Frames are mutated
(bits, fields, cuts, copies, zeros), often with a CRC-32 made to fit again, so that what lies behind that check is
reached too.

The same examples in every run of the suite. For a long run with new ones:

    TVB_LOCKSTEP_FUZZ_EXAMPLES=100000 python -m pytest tests/bridges/test_fuzz.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvb_lockstep.bridges import frame, recording
from tvb_lockstep.bridges.errors import FrameError, LockstepError, NotReproduced, PeerLost, RunDirectoryError
from tvb_lockstep.bridges.frame import DENSE, HEADER_BYTES, SPIKES, Address, Spikes
from tvb_lockstep.bridges.transports import file, shm
from tvb_lockstep.bridges.transports.base import Place

ASKED = os.environ.get("TVB_LOCKSTEP_FUZZ_EXAMPLES")


def fuzzed(share: float = 1.0):
    """How much of the examples a test takes: those that touch files cost more."""
    return settings(
        max_examples=max(10, int(int(ASKED or 400) * share)), derandomize=ASKED is None, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


RUN_ID = bytes(range(16))
RATES = Address(RUN_ID, 6, "rates", DENSE, 3)
MONITOR = Address(RUN_ID, 1_000_000, "monitor", DENSE, 2, gaps=True)
TRAINS = Address(RUN_ID, 7, "trains", SPIKES, 10)
ADDRESSES = [RATES, MONITOR, TRAINS]
TICKS = 20  # per window

# name: (offset, format); the whole header
FIELDS = {
    "magic": (0, "4s"), "version": (4, "<H"), "kind": (6, "<H"), "run_id": (8, "16s"), "channel": (24, "<I"),
    "columns": (28, "<I"), "sequence": (32, "<Q"), "t0": (40, "<q"), "t1": (48, "<q"), "rows": (56, "<Q"),
    "length": (64, "<Q"), "crc": (72, "<I"), "reserved": (76, "<I"),
}  # fmt: skip
BORDERS = [sign * (1 << bits) + d for bits in (0, 8, 30, 31, 32, 62, 63, 64) for d in (-1, 0, 1) for sign in (1, -1)]
NAMED = re.compile(
    r"(header length|magic|wire version|kind|run id|channel|columns|reserved field|payload length|sequence|t0|t1"
    r"|CRC-32|rows|value at step \d+, column \d+|spike times|spike time|sender|file length \[bytes\]|\.npy header"
    r"|layout.version|run_id|depth|slot bytes|size \[bytes\]): expected .*, found ",
    re.DOTALL,
)


# ---- frames, and what befalls them -----------------------------------------------------------------------------


@st.composite
def payloads(draw, address: Address, k: int):
    """What may be in window `k` of a channel."""
    n = draw(st.integers(0, 4))
    if address.kind == SPIKES:
        times = sorted(draw(st.lists(st.integers(TICKS * k, TICKS * k + TICKS - 1), min_size=n, max_size=n)))
        senders = draw(st.lists(st.integers(0, address.columns - 1), min_size=n, max_size=n))
        return Spikes(np.array(times, np.int64), np.array(senders, np.int32))
    value = st.floats(allow_nan=address.gaps, allow_infinity=address.gaps)
    values = draw(st.lists(value, min_size=n * address.columns, max_size=n * address.columns))
    return np.array(values, np.float64).reshape(n, address.columns)


def encoded(address: Address, k: int, payload) -> bytes:
    header, body = frame.encode(address, k, TICKS * k, TICKS * k + TICKS, payload)
    return header + bytes(body)


def sealed(data: bytes) -> bytes:
    """`data` with the CRC-32 that fits, where it is long enough to have one."""
    if len(data) < HEADER_BYTES:
        return data
    crc = zlib.crc32(data[:72] + bytes(8) + data[HEADER_BYTES:])
    return data[:72] + struct.pack("<I", crc) + data[76:]


@st.composite
def changed(draw, data: bytes, header_at: int = 0) -> bytes:
    """`data` after one mutation. header_at: where a frame's header begins in it."""
    what = draw(st.sampled_from(["flip", "field", "field", "cut", "lengthen", "copy", "remove", "zero", "write"]))
    n = len(data)
    borders = [at for at in (0, header_at, header_at + HEADER_BYTES, n - 1, n) if 0 <= at <= n]
    start = draw(st.sampled_from(borders) | st.integers(0, n))
    some = draw(st.integers(1, 40))
    if what == "flip" and n:
        at = start % n
        return data[:at] + bytes([data[at] ^ (1 << draw(st.integers(0, 7)))]) + data[at + 1 :]
    if what == "field" and n >= header_at + HEADER_BYTES:
        return draw(field_changed(data, header_at))
    if what == "cut":
        return data[:start]
    if what == "lengthen":
        return data + draw(st.binary(min_size=1, max_size=100))
    if what == "copy":  # over what is there, or between
        piece, to = data[start : start + some], draw(st.sampled_from(borders) | st.integers(0, n))
        return data[:to] + piece + data[to + draw(st.sampled_from([0, len(piece)])) :]
    if what == "remove":
        return data[:start] + data[start + some :]
    if what == "zero":
        return data[:start] + bytes(min(some, n - start)) + data[start + some :]
    new = draw(st.one_of(st.binary(min_size=1, max_size=16), special_values()))
    return data[:start] + new + data[start + len(new) :]


@st.composite
def field_changed(draw, data: bytes, header_at: int) -> bytes:
    """`data` with another value in one field of the header that begins at `header_at`."""
    offset, code = draw(st.sampled_from(list(FIELDS.values())))
    offset += header_at
    size = struct.calcsize(code)
    if code[-1] == "s":
        new = draw(st.binary(min_size=size, max_size=size) | st.just(bytes(size)))
    else:
        here = int.from_bytes(data[offset : offset + size], "little")
        near = st.integers(-3, 3).map(lambda d: here + d)
        value = draw(st.one_of(st.sampled_from(BORDERS), near, st.integers(0, 60)))
        new = (value % (1 << 8 * size)).to_bytes(size, "little")
    return data[:offset] + new + data[offset + size :]


def special_values():
    floats = st.sampled_from([np.nan, np.inf, -np.inf, -0.0, -1.0, 5e-324, 1.7e308]).map(lambda x: struct.pack("<d", x))
    return st.one_of(floats, st.sampled_from(BORDERS).map(lambda x: (x % (1 << 64)).to_bytes(8, "little")))


@st.composite
def mutated(draw, data: bytes, header_at: int = 0) -> bytes:
    for _ in range(draw(st.integers(0, 3))):
        data = draw(changed(data, header_at))
    return data


@st.composite
def lies(draw, data: bytes, address: Address, k: int) -> bytes:
    """A whole frame with a CRC-32 that fits, and one thing in it that need not: a field, its size, its content."""
    what = draw(st.sampled_from(["field", "size", "content", "content", "content"]))
    row_bytes = 8 * address.columns if address.kind == DENSE else 12
    head, body = data[:56], bytearray(data[HEADER_BYTES:])
    rows, length = len(body) // row_bytes, len(body)
    if what == "content":
        rows = draw(st.integers(1, 4))
        if address.kind == DENSE:
            number = st.floats() | st.sampled_from([0.0, 1.0])
            numbers = draw(st.lists(number, min_size=rows * address.columns, max_size=rows * address.columns))
            body = struct.pack(f"<{len(numbers)}d", *numbers)
        else:
            t0 = TICKS * k
            times = draw(st.lists(st.integers(t0 - draw(st.integers(0, 1)), t0 + TICKS), min_size=rows, max_size=rows))
            times = times if draw(st.booleans()) else sorted(times)
            senders = draw(st.lists(st.integers(-1, address.columns), min_size=rows, max_size=rows))
            body = b"".join(struct.pack("<qi", *each) for each in zip(times, senders, strict=True))
        length = len(body)
    elif what == "size":
        rows = draw(st.integers(0, 6) | st.sampled_from([1 << 20, (1 << 30) // row_bytes, 1 << 27, 1 << 40, 1 << 58]))
        length = rows * row_bytes if draw(st.booleans()) else length
    data = head + struct.pack("<QQ", rows, length % (1 << 64)) + data[72:HEADER_BYTES] + bytes(body)
    if what == "field":
        data = draw(field_changed(data, 0))
    return sealed(data)


@st.composite
def frames(draw, address: Address, k: int) -> tuple[bytes, bytes, bool]:
    """(as written, as found, whether its CRC-32 was made to fit)"""
    original = encoded(address, k, draw(payloads(address, k)))
    what = draw(st.sampled_from(["damaged", "damaged", "lie", "lie", "both"]))
    if what == "damaged":
        return original, draw(mutated(original)), False
    found = draw(lies(original, address, k))
    return original, found if what == "lie" else sealed(draw(mutated(found))), True


def named(error: LockstepError) -> None:
    assert NAMED.search(str(error)), f"this names no field: {error}"


def valid(address: Address, payload, t0: int, t1: int) -> None:
    """What may reach a simulator."""
    if address.kind == DENSE:
        assert payload.dtype == np.float64 and payload.ndim == 2 and payload.shape[1] == address.columns
        assert address.gaps or np.isfinite(payload).all()
    else:
        times, senders = payload
        assert len(times) == len(senders) and (np.diff(times) >= 0).all()
        assert all(t0 <= t < t1 for t in times.tolist()) and all(0 <= s < address.columns for s in senders.tolist())


class Held:
    """Fails when more memory is taken at once than `limit` bytes."""

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        self._own = not tracemalloc.is_tracing()
        if self._own:
            tracemalloc.start(1)
        tracemalloc.reset_peak()
        self._before = tracemalloc.get_traced_memory()[0]

    def __exit__(self, *exception: object) -> None:
        peak = tracemalloc.get_traced_memory()[1] - self._before
        if self._own:
            tracemalloc.stop()
        assert peak < self._limit, f"{peak} bytes were allocated"


# ---- the reader of frames --------------------------------------------------------------------------------------


def decoded(data: bytes, address: Address, k: int, rows: int | None = None):
    """The payload that the reader accepts, or None when it refuses, with the field named."""
    header, body = data[:HEADER_BYTES], data[HEADER_BYTES:]
    try:
        length = frame.payload_bytes(header, address)
        assert 0 <= length <= frame.MAX_PAYLOAD_BYTES
        payload = frame.decode(header, body, address, k, TICKS * k, TICKS * k + TICKS, rows)
    except FrameError as error:
        named(error)
        return None
    valid(address, payload, TICKS * k, TICKS * k + TICKS)
    return payload


def bytes_of(payload) -> bytes:
    if isinstance(payload, Spikes):
        records = np.empty(len(payload), frame.SPIKE_RECORD)
        records["time"], records["sender"] = payload
        return records.tobytes()
    return payload.tobytes()


@fuzzed(2)
@given(data=st.data(), address=st.sampled_from(ADDRESSES), k=st.sampled_from([0, 1, 5, 1 << 40]))
def test_a_frame_is_what_was_written_or_refused_by_field(data, address, k):
    original, found, seal = data.draw(frames(address, k))
    with Held():
        payload = decoded(found, address, k)
    if found == original:
        assert payload is not None
    if payload is not None:
        assert bytes_of(payload) == found[HEADER_BYTES:]
        assert seal or found == original


@fuzzed()
@given(data=st.binary(max_size=200), address=st.sampled_from(ADDRESSES), start=st.booleans())
def test_random_bytes_are_no_frame(data, address, start):
    if start:  # beyond what tells at once that it is none
        data = encoded(address, 0, nothing(address))[:32] + data
    with Held():
        payload = decoded(data, address, 0)
    assert payload is None or len(data) >= HEADER_BYTES


# ---- the reader of recordings ----------------------------------------------------------------------------------


@st.composite
def logs(draw, address: Address) -> tuple[list[bytes], bytes, bool]:
    """(frames as written, the log as found, whether a frame may have been forged)"""
    written = [encoded(address, k, draw(payloads(address, k))) for k in range(draw(st.integers(1, 5)))]
    found, forged = list(written), False
    if draw(st.booleans()):
        return written, b"".join(written), False
    for _ in range(draw(st.integers(0, 2))):
        what = draw(st.sampled_from(["forge", "repeat", "drop", "swap", "bytes", "bytes"]))
        i, j = draw(st.integers(0, len(found) - 1)), draw(st.integers(0, len(found) - 1))
        if what == "forge":
            if len(found[i]) >= HEADER_BYTES:
                found[i] = draw(lies(found[i], address, i))
            found[i], forged = sealed(draw(mutated(found[i]))) if draw(st.booleans()) else found[i], True
        elif what == "repeat":
            found.insert(j, found[i])
        elif what == "drop" and len(found) > 1:
            del found[i]
        elif what == "swap":
            found[i], found[j] = found[j], found[i]
        else:
            found[i] = draw(mutated(found[i]))
    return written, draw(mutated(b"".join(found))), forged


@st.composite
def sidecars(draw, good: bytes, address: Address) -> tuple[bytes | None, bool]:
    """(the index of a log, or None for no file; whether it lies about offsets under a CRC-32 that fits)"""
    what = draw(st.sampled_from(["good", "good", "none", "mutated", "forged", "random"]))
    if what == "none":
        return None, False
    if what == "random":
        return draw(st.binary(max_size=64)) * draw(st.sampled_from([1, 64, 130])), False
    if what == "mutated":
        return draw(mutated(good[:56])) + good[56:], False
    if what == "forged":
        offsets = np.frombuffer(good[:-8], "<i8").copy()
        for _ in range(draw(st.integers(1, 3))):
            i = draw(st.integers(0, 6))
            offsets[i] += draw(st.one_of(st.integers(-200, 200), st.sampled_from([12, 24, 80, -24, 1 << 40])))
        block = offsets.tobytes()
        crc = zlib.crc32(block, zlib.crc32(encoded(address, 0, nothing(address))[:32]))
        return block + crc.to_bytes(8, "little"), True
    return good, False


def nothing(address: Address):
    return Spikes.none() if address.kind == SPIKES else np.zeros((0, address.columns))


def write_log(folder: Path, address: Address, written: list[bytes]) -> Path:
    path = folder / "log.frames"
    for each in (path, recording.index_of(path)):
        each.unlink(missing_ok=True)
    with recording.FrameLog(path, address) as log:
        for each in written:
            log.append(each[:HEADER_BYTES], each[HEADER_BYTES:])
    return path


def read_all(path: Path, address: Address, tolerant: bool) -> list[bytes | None]:
    """All frames of a log that its reader knows of, None for those that it refuses."""
    try:
        index = recording.FrameIndex(path, address, tolerant)
    except FrameError as error:
        assert not tolerant
        named(error)
        return []
    found: list[bytes | None] = []
    with index:
        size = path.stat().st_size
        assert len(index) <= size // HEADER_BYTES and 0 <= index.torn_bytes <= size
        assert index.damage is None or tolerant
        assert 0 <= index.total_rows <= size
        for k in range(len(index)):
            try:
                payload = index.payload(k)
                t0, t1 = index.ticks(k)
                rows = index.rows(k)
            except FrameError as error:
                named(error)
                assert re.search(rf"(window|frame) {k}\b", str(error)), f"this names no window: {error}"
                found.append(None)
                continue
            valid(address, payload, t0, t1)
            assert t0 < t1 and rows == len(payload)
            found.append(b"".join(index.frame(k)))
        with pytest.raises(IndexError):
            index.payload(len(index))
        before = len(index)
        try:
            assert index.refresh() == before
        except FrameError as error:
            named(error)
    return found


@fuzzed(0.7)
@given(data=st.data(), address=st.sampled_from(ADDRESSES))
def test_a_recording_holds_what_was_written_or_names_the_window(tmp_path_factory, data, address):
    written, found, forged = data.draw(logs(address))
    path = write_log(FOLDER.of(tmp_path_factory), address, written)
    sidecar = recording.index_of(path)
    index, lying = data.draw(sidecars(sidecar.read_bytes(), address))
    path.write_bytes(found)
    sidecar.unlink() if index is None else sidecar.write_bytes(index)
    tolerant = data.draw(st.booleans())
    with Held():
        here = read_all(path, address, tolerant)
    if not forged:
        assert all(each in (None, original) for each, original in zip(here, written, strict=False))
        assert all(each is None for each in here[len(written) :])
    if found == b"".join(written) and not lying:
        assert here == written
    if tolerant and not forged and not lying:  # an index spares reading, and changes nothing that is read
        sidecar.unlink(missing_ok=True)
        scanned = read_all(path, address, tolerant=True)
        assert here[: len(scanned)] == scanned


@fuzzed(0.4)
@given(data=st.data(), address=st.sampled_from(ADDRESSES))
def test_a_damaged_recording_is_continued_to_the_uninterrupted_one_or_refused_and_left_alone(
    tmp_path_factory, data, address
):
    written, found, forged = data.draw(logs(address))
    path = write_log(FOLDER.of(tmp_path_factory), address, written)
    path.write_bytes(found)
    try:
        log = recording.FrameLog(path, address, kept=True)
    except FrameError as error:
        named(error)
        assert path.read_bytes() == found
        return
    with log:
        kept = path.read_bytes()
        if not log.kept and len(found) >= HEADER_BYTES and not forged:  # only what is surely ours, or nobody's, is cut
            assert found[:32] == written[0][:32] or found[:HEADER_BYTES] == bytes(HEADER_BYTES)
        assert found.startswith(kept) and log.kept <= len(found) // HEADER_BYTES
        try:
            for each in written:
                log.append(each[:HEADER_BYTES], each[HEADER_BYTES:])
        except FrameError as error:
            named(error)
            assert f"altered in window {log.frames}" in str(error) and path.read_bytes() == kept
            return
        except NotReproduced as error:
            assert forged and error.window == log.frames and path.read_bytes() == kept
            return
    whole = b"".join(written)
    if log.kept > len(written):  # somebody appended whole frames
        assert forged and kept.startswith(whole)
        return
    assert path.read_bytes() == whole
    assert read_all(path, address, tolerant=False) == written


class Folder:
    """One folder for all examples of a test run: making one takes longer than an example."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def of(self, tmp_path_factory) -> Path:
        if self._path is None:
            self._path = tmp_path_factory.mktemp("fuzz")
        return self._path


FOLDER = Folder()


# ---- the transports --------------------------------------------------------------------------------------------


def gone(waited_s: float) -> None:
    raise PeerLost("the producer is gone")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "run").mkdir(mode=0o700)
    place = Place(tmp_path / "run", os.urandom(16), -1)
    yield place
    shm.cleanup(place)


@fuzzed(0.7)
@given(data=st.data(), address=st.sampled_from(ADDRESSES))
def test_a_frame_file_is_what_was_written_or_refused_by_field(place, data, address):
    address = address._replace(run_id=place.run_id)
    original, found, seal = data.draw(frames(address, 3))
    rows = int.from_bytes(original[56:64], "little")
    npy = file.npy_header(address.kind, rows, address.columns)
    content = npy + original[HEADER_BYTES:] + original[:HEADER_BYTES]
    if data.draw(st.booleans()):  # a file as a writer that lies would make it, or one that was mutated as a whole
        rows = int.from_bytes(found[56:64], "little") if len(found) >= HEADER_BYTES else rows
        npy = file.npy_header(address.kind, min(rows, 1 << 64), address.columns)
        mutation = npy + found[HEADER_BYTES:] + found[:HEADER_BYTES]
    else:
        seal, mutation = False, data.draw(mutated(content, len(content) - HEADER_BYTES))
    if (place.run_dir / file.FOLDER / address.name).exists():
        receiver = file.attach(address, place)
    else:
        file.create(address, place, 4, 512).close()
        receiver = file.attach(address, place)
    path = place.run_dir / file.FOLDER / address.name / file.frame_name(3, 3 * TICKS, 4 * TICKS)
    path.write_bytes(mutation)
    try:
        with Held():
            header, body = receiver.receive(3, 3 * TICKS, 4 * TICKS, gone)
    except LockstepError as error:
        assert isinstance(error, FrameError)
        named(error)
        assert mutation != content
        return
    finally:
        receiver.close()
        path.unlink()
    payload = decoded(bytes(header) + bytes(body), address, 3)
    if mutation == content:
        assert payload is not None
    if payload is not None:
        assert seal or mutation == content


def json_values():
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(
        leaf, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=8), each, max_size=3)
    )


@fuzzed(0.5)
@given(data=st.data())
def test_whatever_channel_json_holds_it_is_the_channel_or_refused(place, data):
    address = RATES._replace(run_id=place.run_id)
    path = place.run_dir / file.FOLDER / address.name / "channel.json"
    shutil.rmtree(place.run_dir / file.FOLDER, ignore_errors=True)
    file.create(address, place, 4, 512, {"unit": "Hz"}).close()
    good = path.read_bytes()
    what = data.draw(st.sampled_from(["mutated", "random", "value", "field", "deep"]))
    if what == "mutated":
        new = data.draw(mutated(good))
    elif what == "random":
        new = data.draw(st.binary(max_size=40))
    elif what == "deep":
        new = b"[" * 100_000
    else:
        content = json.loads(good)
        if what == "field":
            content[data.draw(st.sampled_from(sorted(content)))] = data.draw(json_values())
        else:
            content = data.draw(json_values())
        new = json.dumps(content).encode()
    path.write_bytes(new)
    left = place.run_dir / file.FOLDER / file.TEMPORARY / f"{address.name}.npy"
    left.touch()
    try:
        file.attach(address, place).close()
    except RunDirectoryError as error:
        assert "channel.json" in str(error)
    else:
        described = json.loads(new)
        assert {key: described[key] for key in ("run_id", "channel", "kind", "columns", "layout_version")} == {
            "run_id": address.run_id.hex(), "channel": 6, "kind": "dense", "columns": 3, "layout_version": 1,
        }  # fmt: skip
    ours = file.cleanup(place) != []
    try:
        file.create(address, place, 4, 512).close()
    except RunDirectoryError as error:
        assert "channel.json" in str(error) and not ours
    else:
        assert ours


SEGMENT = {"magic": (0, 8), "layout": (8, 4), "channel": (12, 4), "run id": (16, 16), "depth": (32, 4),
           "reserved": (36, 4), "slot bytes": (40, 8), "producer": (48, 8)}  # fmt: skip


@fuzzed(0.5)
@given(data=st.data())
def test_the_head_of_a_segment_is_that_of_the_ring_or_refused_by_field(place, data):
    address = RATES._replace(run_id=place.run_id)
    sender = shm.create(address, place, 4, 256)
    try:
        head = bytes(sender._memory[:64])
        what = data.draw(st.sampled_from(["random", "fields", "fields", "geometry"]))
        new = bytearray(head)
        if what == "random":
            new[:] = data.draw(st.binary(min_size=64, max_size=64))
        elif what == "geometry":  # other slots of the same size altogether
            slot_bytes = 1 << data.draw(st.integers(0, 11))
            new[32:36], new[40:48] = (1024 // slot_bytes).to_bytes(4, "little"), slot_bytes.to_bytes(8, "little")
        else:
            for _ in range(data.draw(st.integers(0, 3))):
                at, size = SEGMENT[data.draw(st.sampled_from(sorted(SEGMENT)))]
                here = int.from_bytes(head[at : at + size], "little")
                value = data.draw(st.one_of(
                    st.sampled_from(BORDERS), st.integers(-3, 3).map(lambda d, here=here: here + d),
                    st.sampled_from([here * 2, here // 2, 0, 64, 128, 256, 1024]),
                ))  # fmt: skip
                new[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
        sender._memory[:64] = bytes(new)
        with Held():
            try:
                receiver = shm.attach(address, place)
            except RunDirectoryError as error:
                named(error)
                assert bytes(new) != head
                return
        receiver.close()
        depth, slot_bytes = int.from_bytes(new[32:36], "little"), int.from_bytes(new[40:48], "little")
        assert bytes(new[:32]) == head[:32] and depth * slot_bytes == 4 * 256
        assert slot_bytes % 64 == 0 and slot_bytes >= 128
    finally:
        sender.close()
        shm.cleanup(place)


@pytest.mark.parametrize("transport", [shm, file])
@pytest.mark.parametrize("sequence", [2, 4, 0, (1 << 64) - 1], ids=["repeated", "skipped", "old", "beyond"])
def test_a_frame_out_of_its_turn_is_refused(place, transport, sequence):
    address = RATES._replace(run_id=place.run_id)
    sender = transport.create(address, place, 4, 256)
    receiver = transport.attach(address, place)
    try:
        for k, number in ((2, 2), (3, sequence)):
            header, body = frame.encode(address, number, TICKS * k, TICKS * k + TICKS, np.ones((2, 3)))
            sender.send(header, body, k, TICKS * k, TICKS * k + TICKS, gone)
        for k in (2, 3):
            header, body = receiver.receive(k, TICKS * k, TICKS * k + TICKS, gone)
            if k == 3:
                with pytest.raises(FrameError, match=f"frame 3 is refused: sequence: expected 3, found {sequence}"):
                    frame.decode(header, body, address, k, TICKS * k, TICKS * k + TICKS)
    finally:
        sender.close()
        receiver.close()


@fuzzed(0.5)
@given(data=st.data(), address=st.sampled_from(ADDRESSES))
def test_what_a_ring_gives_out_is_what_was_sent_or_refused_by_field(place, monkeypatch, data, address):
    monkeypatch.setattr(shm, "CHECK_S", 1e-4)  # until a look finds the producer gone
    monkeypatch.setattr(frame, "MAX_PAYLOAD_BYTES", 1 << 16)
    address = address._replace(run_id=place.run_id)
    original, found, seal = data.draw(frames(address, 3))
    sender = shm.create(address, place, 2, 128)
    receiver = shm.attach(address, place)
    try:
        fits = len(found) <= 2 * 128 and len(found) >= HEADER_BYTES
        sent = found if fits else original[: 2 * 128]
        sender.send(sent[:HEADER_BYTES], memoryview(sent)[HEADER_BYTES:], 3, 3 * TICKS, 4 * TICKS, gone)
        if not fits and data.draw(st.booleans()):
            sender._memory[shm.PAGE_BYTES : shm.PAGE_BYTES + 128] = data.draw(st.binary(min_size=128, max_size=128))
            seal, sent = False, b""
        with Held(1 << 18):
            try:
                header, body = receiver.receive(3, 3 * TICKS, 4 * TICKS, gone)
            except PeerLost:  # the header promises more than was sent, and its writer is gone
                assert sent != original
                return
            except FrameError as error:
                named(error)
                assert sent != original
                return
        payload = decoded(bytes(header) + bytes(body), address, 3)
        assert payload is not None or sent != original
        if payload is not None:
            assert seal or bytes(header) + bytes(body) == original
    finally:
        sender.close()
        receiver.close()
        shm.cleanup(place)
