"""Frames: one window of one channel, self-describing and self-checking. Wire version 1; README.md here has the table.

A frame is an 80-byte header and a payload, little-endian. The CRC-32 covers all of it, so that no flipped bit
is ever taken for data. Nothing is ever unpickled or evaluated.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

from .errors import FrameError

MAGIC = b"TVLS"
WIRE_VERSION = 1
DENSE, SPIKES = 1, 2
KINDS = {DENSE: "dense", SPIKES: "spikes"}
MAX_PAYLOAD_BYTES = 1 << 30

# magic, wire version, kind | run id | channel, columns | sequence, t0, t1, rows, payload bytes | CRC-32, zero
HEADER = struct.Struct("<4sHH16sIIQqqQQII")
HEADER_BYTES = HEADER.size
_FIELDS, _CHECK = struct.Struct("<4sHH16sIIQqqQQ"), struct.Struct("<II")  # the same in two parts
_NO_CHECK = bytes(_CHECK.size)
_CRC_AT = HEADER_BYTES - _CHECK.size
_F8 = np.dtype("<f8")

SPIKE_RECORD = np.dtype([("time", "<i8"), ("sender", "<i4")])  # packed, 12 bytes


class Spikes(NamedTuple):
    """Spikes of one window: times in ticks (int64, sorted), senders as indices into the channel's columns (int32)."""

    times: np.ndarray
    senders: np.ndarray

    def __len__(self) -> int:  # number of spikes, not of fields
        return len(self.times)

    @classmethod
    def none(cls) -> Spikes:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int32))


Payload = np.ndarray | Spikes  # (n_steps, n_columns) float64, or spikes


class Address(NamedTuple):
    """What every frame of a channel has in common, and what a reader therefore demands of each."""

    run_id: bytes  # 16 bytes
    channel: int  # number of the channel in the contract
    name: str
    kind: int  # DENSE or SPIKES
    columns: int  # signals, or senders
    gaps: bool = False  # NaN may stand for what nobody knows: in TVB's monitors, never in what is exchanged


def encode(address: Address, sequence: int, t0: int, t1: int, payload: Payload) -> tuple[bytes, memoryview]:
    """Header and payload bytes of a frame for window ``[t0, t1)`` ticks.

    The bytes of a dense payload are those of the array itself, where its layout allows. Raises FrameError.
    """
    if address.kind == DENSE:
        data = np.ascontiguousarray(payload, _F8)
        if data.ndim != 2 or data.shape[1] != address.columns:
            raise FrameError(
                f"channel {address.name}, frame {sequence}: a payload of shape {data.shape} was given, "
                f"expected (n_steps, {address.columns})."
            )
    else:
        data = _records(address, sequence, payload)  # type: ignore[arg-type]
    body = memoryview(data).cast("B") if data.size else memoryview(b"")  # type: ignore[arg-type]
    if body.nbytes > MAX_PAYLOAD_BYTES:
        raise FrameError(
            f"channel {address.name}, frame {sequence}: a payload of {body.nbytes} bytes was given, a frame holds at "
            f"most {MAX_PAYLOAD_BYTES}. Choose a shorter exchange.synchronization_time."
        )
    head = _FIELDS.pack(
        MAGIC, WIRE_VERSION, address.kind, address.run_id, address.channel, address.columns,
        sequence, t0, t1, data.shape[0], body.nbytes,
    )  # fmt: skip
    return head + _CHECK.pack(zlib.crc32(body, zlib.crc32(head + _NO_CHECK)), 0), body


def _records(address: Address, sequence: int, spikes: Spikes) -> np.ndarray:
    """Spikes as records, after a look at whether they are what a frame can hold."""
    times, senders = np.asarray(spikes[0]), np.asarray(spikes[1])
    integers = not times.size or (times.dtype.kind in "iu" and senders.dtype.kind in "iu")
    if times.ndim != 1 or times.shape != senders.shape or not integers:
        raise FrameError(
            f"channel {address.name}, frame {sequence}: spikes with times of shape {times.shape}, {times.dtype}, and "
            f"senders of shape {senders.shape}, {senders.dtype}, were given, expected two arrays of integers of equal "
            f"length."
        )
    records = np.empty(len(times), SPIKE_RECORD)
    records["time"] = times
    records["sender"] = senders
    return records


def payload_bytes(header: bytes | memoryview, address: Address) -> int:
    """Payload length that a header promises, checked before anything is allocated for it."""
    return _fields(header, address)[10]


def _fields(header: bytes | memoryview, address: Address) -> tuple:
    if len(header) != HEADER_BYTES:
        raise _refused(address, "header length", HEADER_BYTES, len(header))
    fields = HEADER.unpack(header)
    magic, version, kind, run_id, channel, columns, _, _, _, rows, length, _, zero = fields
    if (magic, version, kind, run_id, channel, columns, zero) != (
        MAGIC, WIRE_VERSION, address.kind, address.run_id, address.channel, address.columns, 0,
    ):  # fmt: skip
        for field, expected, found in (
            ("magic", MAGIC, magic),
            ("wire version", WIRE_VERSION, version),
            ("kind", f"{address.kind} ({KINDS[address.kind]})", f"{kind} ({KINDS.get(kind, 'unknown')})"),
            ("run id", address.run_id.hex(), run_id.hex()),
            ("channel", address.channel, channel),
            ("columns", address.columns, columns),
            ("reserved field", 0, zero),
        ):
            if expected != found:
                raise _refused(address, field, expected, found)
    if length > MAX_PAYLOAD_BYTES:
        raise _refused(address, "payload length", f"at most {MAX_PAYLOAD_BYTES}", length)
    if length != rows * (8 * columns if kind == DENSE else SPIKE_RECORD.itemsize):
        raise _refused(address, "payload length", f"that of {rows} rows", length)
    return fields


def decode(
    header: bytes | memoryview, body: bytes | memoryview, address: Address, sequence: int, t0: int, t1: int,
    rows: int | None = None,
) -> Payload:  # fmt: skip
    """The payload of frame `sequence` for ``[t0, t1)``; `rows`: the number of steps a dense frame must have.

    A dense array is a view of `body`. Raises FrameError with the field, the expected and the found value.
    """
    fields = _fields(header, address)
    if (sequence, t0, t1, len(body)) != (fields[6], fields[7], fields[8], fields[10]):
        for field, expected, found in (
            ("sequence", sequence, fields[6]),
            ("t0", t0, fields[7]),
            ("t1", t1, fields[8]),
            ("payload length", fields[10], len(body)),
        ):
            if expected != found:
                raise _refused(address, field, expected, found, sequence)
    crc = zlib.crc32(body, zlib.crc32(_NO_CHECK, zlib.crc32(header[:_CRC_AT])))
    if crc != fields[11]:
        raise _refused(address, "CRC-32", f"{crc:#010x}", f"{fields[11]:#010x}", sequence)
    if address.kind == DENSE:
        if rows is not None and rows != fields[9]:
            raise _refused(address, "rows", rows, fields[9], sequence)
        return check_dense(np.frombuffer(body, _F8).reshape(fields[9], address.columns), address, sequence)
    records = np.frombuffer(body, SPIKE_RECORD)
    return check_spikes(Spikes(records["time"].copy(), records["sender"].copy()), address, sequence, t0, t1)


def check_dense(data: np.ndarray, address: Address, sequence: int) -> np.ndarray:
    """`data` itself when every value is finite, or the channel has gaps."""
    if not address.gaps and np.count_nonzero(np.isfinite(data)) != data.size:  # three times faster than .all()
        row, column = np.argwhere(~np.isfinite(data))[0]
        raise _refused(address, f"value at step {row}, column {column}", "finite", data[row, column], sequence)
    return data


def check_spikes(spikes: Spikes, address: Address, sequence: int, t0: int, t1: int) -> Spikes:
    """`spikes` themselves when sorted in time, inside ``[t0, t1)`` and of known senders."""
    times, senders = spikes
    if len(times):
        descents = times[1:] < times[:-1]
        if np.count_nonzero(descents):
            raise _refused(address, "spike times", "sorted", f"descending at {int(np.argmax(descents))}", sequence)
        if times[0] < t0 or times[-1] >= t1:
            bad = times[(times < t0) | (times >= t1)][0]
            raise _refused(address, "spike time", f"in [{t0}, {t1}) ticks", int(bad), sequence)
        if senders.dtype == np.int32:
            unknown = senders.view(np.uint32) >= address.columns  # negative ones are the largest of all
        else:
            unknown = (senders < 0) | (senders >= address.columns)
        if np.count_nonzero(unknown):
            raise _refused(
                address, "sender", f"0 to {address.columns - 1}", int(senders[np.argmax(unknown)]), sequence
            )  # fmt: skip
    return spikes


def _refused(address: Address, field: str, expected: object, found: object, sequence: int | None = None) -> FrameError:
    frame = "a frame" if sequence is None else f"frame {sequence}"
    return FrameError(f"channel {address.name}: {frame} is refused: {field}: expected {expected}, found {found}.")
