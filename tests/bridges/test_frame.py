"""Frames: what arrives is what was sent, and everything else is refused with the field that gives it away."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest
from tvb_lockstep.bridges import frame
from tvb_lockstep.bridges.errors import FrameError
from tvb_lockstep.bridges.frame import DENSE, HEADER, SPIKES, Address, Spikes, decode, encode, payload_bytes

RUN_ID = bytes(range(16))
RATES = Address(RUN_ID, 6, "rates", DENSE, 3)
TRAINS = Address(RUN_ID, 7, "trains", SPIKES, 10)
DENSE_PAYLOAD = np.array([[1.0, -2.5, 0.0], [3.0, 1e-300, 1e300]])
SPIKES_PAYLOAD = Spikes(np.array([40, 40, 59]), np.array([9, 0, 9], np.int32))

# Frames as wire version 1 wrote them on the day it was fixed: they decode for ever.
DENSE_V1 = bytes.fromhex(
    "54564c5301000100000102030405060708090a0b0c0d0e0f0600000003000000020000000000000028000000000000003c00000000000000"
    "0200000000000000300000000000000082cb3c2100000000000000000000f03f00000000000004c000000000000000000000000000000840"
    "59f3f8c21f6ea5019c7500883ce4377e"
)
SPIKES_V1 = bytes.fromhex(
    "54564c5301000200000102030405060708090a0b0c0d0e0f070000000a000000020000000000000028000000000000003c00000000000000"
    "0300000000000000240000000000000025a46c9c000000002800000000000000090000002800000000000000000000003b00000000000000"
    "09000000"
)


def sealed(address: Address, body: bytes, **changes: object) -> bytes:
    """A header with `changes` and a CRC-32 that fits: only the changed field is wrong."""
    names = ["magic", "version", "kind", "run_id", "channel", "columns", "sequence", "t0", "t1", "rows", "length"]
    good, _ = encode(address, 2, 40, 60, DENSE_PAYLOAD if address.kind == DENSE else SPIKES_PAYLOAD)
    fields = dict(zip(names, HEADER.unpack(good)[:11], strict=True)) | changes
    head = HEADER.pack(*fields.values(), 0, 0)
    return head[:72] + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + bytes(4)


def dense_frame() -> tuple[bytes, bytes]:
    header, body = encode(RATES, 2, 40, 60, DENSE_PAYLOAD)
    return header, bytes(body)


def spike_frame(times=SPIKES_PAYLOAD.times, senders=SPIKES_PAYLOAD.senders) -> tuple[bytes, bytes]:
    header, body = encode(TRAINS, 2, 40, 60, Spikes(np.asarray(times), np.asarray(senders)))
    return header, bytes(body)


def take(address, header, body, sequence=2, t0=40, t1=60, **more):
    return decode(header, body, address, sequence, t0, t1, **more)


# ---- what goes through -----------------------------------------------------------------------------------------


def test_a_dense_frame_returns_the_same_bits():
    data = take(RATES, *dense_frame(), rows=2)
    assert data.dtype == np.float64 and data.tobytes() == DENSE_PAYLOAD.tobytes() and data.shape == (2, 3)


def test_a_frame_of_spikes_returns_the_same_times_and_senders():
    times, senders = take(TRAINS, *spike_frame())
    assert (times.dtype, senders.dtype) == (np.int64, np.int32)
    assert times.tolist() == [40, 40, 59] and senders.tolist() == [9, 0, 9]


@pytest.mark.parametrize("data", [np.zeros((0, 3)), np.asfortranarray(DENSE_PAYLOAD), np.ones((2, 3), np.float32),
                                  np.ones((4, 6))[::2, ::2], [[1, 2, 3]]])  # fmt: skip
def test_any_layout_and_number_type_is_sent_as_float64_in_c_order(data):
    header, body = encode(RATES, 2, 40, 60, data)
    assert np.array_equal(take(RATES, header, body), np.asarray(data, np.float64))


def test_no_spikes_are_a_frame_too():
    header, body = encode(TRAINS, 2, 40, 60, Spikes.none())
    assert len(header) == 80 and len(body) == 0
    assert len(take(TRAINS, header, body)) == 0


def test_spikes_on_the_first_and_on_the_last_tick_are_inside_the_window():
    assert take(TRAINS, *spike_frame([40, 59], [0, 0])).times.tolist() == [40, 59]


def test_times_beyond_32_bits_and_before_zero_are_exact():
    for t0 in (2**62, -(2**62)):
        header, body = encode(TRAINS, 2, t0, t0 + 1, Spikes(np.array([t0]), np.array([3])))
        assert take(TRAINS, header, body, t0=t0, t1=t0 + 1).times.tolist() == [t0]


def test_the_layout_is_the_one_that_the_readme_has():
    header, body = spike_frame()
    assert header[:4] == b"TVLS"
    assert np.frombuffer(header, "<u2", 2, 4).tolist() == [1, SPIKES]
    assert header[8:24] == RUN_ID
    assert np.frombuffer(header, "<u4", 2, 24).tolist() == [7, 10]
    assert np.frombuffer(header, "<u8", 1, 32).tolist() == [2]
    assert np.frombuffer(header, "<i8", 2, 40).tolist() == [40, 60]
    assert np.frombuffer(header, "<u8", 2, 56).tolist() == [3, 36]
    crc = zlib.crc32(header[:72] + bytes(8) + body)
    assert np.frombuffer(header, "<u4", 2, 72).tolist() == [crc, 0]
    assert [int.from_bytes(body[i : i + 8], "little") for i in (0, 12, 24)] == [40, 40, 59]
    assert [int.from_bytes(body[i : i + 4], "little") for i in (8, 20, 32)] == [9, 0, 9]


def test_frames_recorded_with_wire_version_1_still_decode():
    data = take(RATES, DENSE_V1[:80], DENSE_V1[80:])
    assert data.tobytes() == DENSE_PAYLOAD.tobytes()
    times, senders = take(TRAINS, SPIKES_V1[:80], SPIKES_V1[80:])
    assert times.tolist() == [40, 40, 59] and senders.tolist() == [9, 0, 9]


def test_frames_written_today_are_those_of_wire_version_1():
    assert b"".join(dense_frame()) == DENSE_V1
    assert b"".join(spike_frame()) == SPIKES_V1


# ---- what was damaged ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [RATES, TRAINS], ids=lambda a: a.name)
def test_every_bit_of_the_header_is_guarded(address):
    header, body = dense_frame() if address is RATES else spike_frame()
    for at in range(80):
        for bit in range(8):
            bad = bytearray(header)
            bad[at] ^= 1 << bit
            with pytest.raises(FrameError):
                take(address, bytes(bad), body)


@pytest.mark.parametrize("address", [RATES, TRAINS], ids=lambda a: a.name)
def test_every_bit_of_the_payload_is_guarded(address):
    header, body = dense_frame() if address is RATES else spike_frame()
    for at in range(len(body)):
        for bit in range(8):
            bad = bytearray(body)
            bad[at] ^= 1 << bit
            with pytest.raises(FrameError, match=r"frame 2 is refused: CRC-32: expected 0x[0-9a-f]{8}, found 0x"):
                take(address, header, bytes(bad))


def test_random_damage_in_a_long_payload_is_found():
    random = np.random.default_rng(1)
    address = RATES._replace(columns=68)
    header, body = encode(address, 2, 40, 60, random.random((20, 68)))
    for _ in range(300):
        bad = bytearray(body)
        for bit in random.integers(0, 8 * len(bad), random.integers(1, 9)):
            bad[bit // 8] ^= 1 << (bit % 8)
        if bytes(bad) != bytes(body):
            with pytest.raises(FrameError, match="CRC-32"):
                take(address, header, bytes(bad))


@pytest.mark.parametrize("address", [RATES, TRAINS], ids=lambda a: a.name)
def test_a_frame_cut_anywhere_is_refused_with_both_lengths(address):
    header, body = dense_frame() if address is RATES else spike_frame()
    for length in range(80):
        with pytest.raises(FrameError, match=f"header length: expected 80, found {length}"):
            take(address, header[:length], body)
    for length in range(len(body)):
        with pytest.raises(FrameError, match=f"payload length: expected {len(body)}, found {length}"):
            take(address, header, body[:length])
    with pytest.raises(FrameError, match=f"payload length: expected {len(body)}, found {len(body) + 1}"):
        take(address, header, body + b"\0")


# ---- what belongs elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": b"XVLS"}, r"magic: expected b'TVLS', found b'XVLS'"),
        ({"version": 2}, "wire version: expected 1, found 2"),
        ({"kind": SPIKES}, r"kind: expected 1 \(dense\), found 2 \(spikes\)"),
        ({"kind": 77}, r"kind: expected 1 \(dense\), found 77 \(unknown\)"),
        ({"run_id": b"\xff" * 16}, f"run id: expected {RUN_ID.hex()}, found {'ff' * 16}"),
        ({"channel": 8}, "channel: expected 6, found 8"),
        ({"columns": 4}, "columns: expected 3, found 4"),
        ({"sequence": 3}, "frame 2 is refused: sequence: expected 2, found 3"),
        ({"sequence": 1}, "frame 2 is refused: sequence: expected 2, found 1"),
        ({"sequence": (1 << 64) - 1}, f"frame 2 is refused: sequence: expected 2, found {(1 << 64) - 1}"),
        ({"t0": 39}, "t0: expected 40, found 39"),
        ({"t1": 61}, "t1: expected 60, found 61"),
        ({"rows": 3}, "payload length: expected that of 3 rows, found 48"),
        ({"length": 56}, "payload length: expected that of 2 rows, found 56"),
        ({"rows": 1 << 40, "length": 3 << 43}, f"payload length: expected at most 1073741824, found {3 << 43}"),
        ({"rows": 1 << 63, "length": 0}, f"payload length: expected that of {1 << 63} rows, found 0"),
    ],
)
def test_a_whole_frame_that_is_not_the_one_expected_is_refused_by_field(change, message):
    _, body = dense_frame()
    with pytest.raises(FrameError, match=message) as refusal:
        take(RATES, sealed(RATES, body, **change), body)
    assert str(refusal.value).startswith("channel rates: ")


def test_a_reserved_field_that_is_used_is_refused():
    header, body = dense_frame()
    with pytest.raises(FrameError, match="reserved field: expected 0, found 1"):
        take(RATES, header[:76] + b"\x01\0\0\0", body)


def test_an_unchanged_sealed_header_is_accepted():
    _, body = dense_frame()
    assert np.array_equal(take(RATES, sealed(RATES, body), body), DENSE_PAYLOAD)


def test_a_length_beyond_the_cap_is_refused_without_allocating_it():
    _, body = dense_frame()
    header = sealed(RATES, body, rows=1 << 40, length=3 << 43)
    tracemalloc.start()
    try:
        with pytest.raises(FrameError, match="payload length: expected at most"):
            payload_bytes(header, RATES)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_dense_frame_must_have_as_many_steps_as_the_window():
    with pytest.raises(FrameError, match="rows: expected 20, found 2"):
        take(RATES, *dense_frame(), rows=20)


# ---- what makes no sense ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_place(value):
    data = DENSE_PAYLOAD.copy()
    data[1, 2] = value
    header, body = encode(RATES, 2, 40, 60, data)
    with pytest.raises(FrameError, match=f"value at step 1, column 2: expected finite, found {value}"):
        take(RATES, header, body)


@pytest.mark.parametrize(
    ("times", "senders", "message"),
    [
        ([41, 40, 59], [0, 0, 0], "spike times: expected sorted, found descending at 0"),
        ([39, 40], [0, 0], r"spike time: expected in \[40, 60\) ticks, found 39"),
        ([40, 60], [0, 0], r"spike time: expected in \[40, 60\) ticks, found 60"),
        ([40, 41], [0, 10], "sender: expected 0 to 9, found 10"),
        ([40, 41], [-1, 0], "sender: expected 0 to 9, found -1"),
    ],
)
def test_spikes_unsorted_outside_the_window_or_of_nobody_are_refused(times, senders, message):
    with pytest.raises(FrameError, match=message):
        take(TRAINS, *spike_frame(times, senders))
    # a transformer's output is checked alike, before it becomes a frame
    with pytest.raises(FrameError, match=message):
        frame.check_spikes(Spikes(np.array(times), np.array(senders)), TRAINS, 2, 40, 60)


@pytest.mark.parametrize("shape", [(2, 4), (3,), (1, 2, 3), (2, 0)])
def test_a_payload_of_another_shape_is_not_encoded(shape):
    with pytest.raises(FrameError, match=r"channel rates, frame 2: .*expected \(n_steps, 3\)"):
        encode(RATES, 2, 40, 60, np.zeros(shape))


@pytest.mark.parametrize(
    ("times", "senders"), [([1, 2], [0]), ([1, 2], 0), ([40.5], [0]), ([40], [0.0]), ([[40]], [[0]]), ([True], [0])]
)
def test_spikes_that_are_not_pairs_of_integers_are_not_encoded(times, senders):
    with pytest.raises(FrameError, match=r"channel trains, frame 2: .*two arrays of integers of equal length"):
        spike_frame(times, senders)


def test_a_payload_over_the_cap_is_not_encoded(monkeypatch):
    monkeypatch.setattr(frame, "MAX_PAYLOAD_BYTES", 47)
    with pytest.raises(FrameError, match="48 bytes was given, a frame holds at most 47"):
        encode(RATES, 2, 40, 60, DENSE_PAYLOAD)


def test_what_nobody_knows_may_be_nan_only_where_the_channel_has_gaps():
    address = Address(bytes(16), 1, "tvb.monitor0", DENSE, 2, gaps=True)
    header, body = encode(address, 0, 0, 1, np.array([[1.0, np.nan]]))
    assert np.isnan(decode(header, body, address, 0, 0, 1)[0, 1])
    with pytest.raises(FrameError, match="expected finite, found nan"):
        decode(header, body, address._replace(gaps=False), 0, 0, 1)
