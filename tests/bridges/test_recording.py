"""The logs of frames and of timing: what was appended is what is read, whatever happened to the writer."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import zlib

import numpy as np
import pytest
from tvb_lockstep.bridges import frame, recording, timing
from tvb_lockstep.bridges.errors import FrameError, NotReproduced, RunDirectoryError
from tvb_lockstep.bridges.frame import DENSE, HEADER_BYTES, SPIKES, Address, Spikes

RUN_ID = bytes(range(16))
RATES = Address(RUN_ID, 4, "tvb-E.raw", DENSE, 3)
TRAINS = Address(RUN_ID, 5, "nest-E.raw", SPIKES, 20)


def rates(k):
    """Window k of 2 steps: 100 k + 10 step + column."""
    return 100.0 * k + np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])


def trains(k):
    """Window k of 4 ticks has k spikes, of neurons 0, 1, ..., all in its second tick."""
    return Spikes(np.full(k, 4 * k + 1, np.int64), np.arange(k, dtype=np.int32))


def write_rates(path, n):
    with recording.FrameLog(path, RATES) as log:
        for k in range(n):
            log.append(*frame.encode(RATES, k, 4 * k, 4 * k + 4, rates(k)))
    return path


def write_trains(path, n):
    with recording.FrameLog(path, TRAINS) as log:
        for k in range(n):
            log.append(*frame.encode(TRAINS, k, 4 * k, 4 * k + 4, trains(k)))
    return path


def test_dense_frames_come_back_with_their_windows(tmp_path):
    index = recording.read(write_rates(tmp_path / "a.frames", 3), RATES)
    assert len(index) == 3 and index.torn_bytes == 0
    assert [index.ticks(k) for k in range(3)] == [(0, 4), (4, 8), (8, 12)]
    assert [index.rows(k) for k in range(3)] == [2, 2, 2]
    assert index.payload(2).tolist() == [[200.0, 201.0, 202.0], [210.0, 211.0, 212.0]]
    assert [payload[1, 0] for payload in index] == [10.0, 110.0, 210.0]


def test_spike_frames_of_any_size_come_back_and_the_empty_ones_too(tmp_path):
    index = recording.read(write_trains(tmp_path / "s.frames", 4), TRAINS)
    assert [index.rows(k) for k in range(4)] == [0, 1, 2, 3]
    assert [len(spikes) for spikes in index] == [0, 1, 2, 3]
    assert index.payload(3).times.tolist() == [13, 13, 13]
    assert index.payload(3).senders.tolist() == [0, 1, 2]


def test_a_shorter_last_window_is_found(tmp_path):
    path = tmp_path / "a.frames"
    with recording.FrameLog(path, RATES) as log:
        log.append(*frame.encode(RATES, 0, 0, 4, rates(0)))
        log.append(*frame.encode(RATES, 1, 4, 6, rates(1)[:1]))
    index = recording.read(path, RATES)
    assert index.ticks(1) == (4, 6) and index.payload(1).tolist() == [[100.0, 101.0, 102.0]]


def test_the_log_is_nothing_but_frames_and_only_its_owner_may_read_it(tmp_path):
    path = write_trains(tmp_path / "s.frames", 3)
    expected = b"".join(
        bytes(part) for k in range(3) for part in frame.encode(TRAINS, k, 4 * k, 4 * k + 4, trains(k))
    )
    assert path.read_bytes() == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_window_that_is_not_there_is_named_with_those_that_are(tmp_path):
    index = recording.read(write_rates(tmp_path / "a.frames", 3), RATES)
    with pytest.raises(IndexError, match="holds windows 0 to 2, not 3"):
        index.payload(3)
    with pytest.raises(IndexError, match="not -1"):
        index.payload(-1)


@pytest.mark.parametrize("write, address, full", [(write_rates, RATES, rates), (write_trains, TRAINS, trains)])
def test_a_log_cut_at_any_byte_of_its_last_frame_keeps_all_the_others(tmp_path, write, address, full):
    path = write(tmp_path / "whole.frames", 4)
    whole = path.read_bytes()
    last = HEADER_BYTES + len(frame.encode(address, 3, 12, 16, full(3))[1])
    cut = tmp_path / "cut.frames"
    for kept in range(last):
        cut.write_bytes(whole[: len(whole) - last + kept])
        with recording.read(cut, address) as index:
            assert len(index) == 3 and index.torn_bytes == kept
            assert np.array_equal(index.payload(2), full(2))
    assert len(recording.read(path, address)) == 4


def test_an_empty_log_holds_no_window(tmp_path):
    path = tmp_path / "a.frames"
    recording.FrameLog(path, RATES).close()
    index = recording.read(path, RATES)
    assert len(index) == 0 and index.torn_bytes == 0 and list(index) == []
    with pytest.raises(IndexError, match="holds no window, not 0"):
        index.payload(0)


def test_every_flipped_byte_in_the_middle_is_refused_and_the_window_named(tmp_path):
    path = write_rates(tmp_path / "a.frames", 3)
    whole = path.read_bytes()
    size = len(whole) // 3
    bad = tmp_path / "bad.frames"
    for position in range(size, 2 * size):
        data = bytearray(whole)
        data[position] ^= 0x41
        bad.write_bytes(data)
        with pytest.raises(FrameError, match=r"window 1 |frame 1 |window 2 at byte"):
            for payload in recording.read(bad, RATES):
                assert payload.shape == (2, 3)


def test_a_log_of_another_run_is_refused(tmp_path):
    path = write_rates(tmp_path / "a.frames", 1)
    other = RATES._replace(run_id=bytes(16))
    with pytest.raises(FrameError, match=r"a\.frames, window 0 at byte 0.*run id: expected 0{32}, found 000102"):
        recording.read(path, other)


def test_a_missing_frame_is_noticed(tmp_path):
    path = write_rates(tmp_path / "a.frames", 3)
    whole = path.read_bytes()
    size = len(whole) // 3
    path.write_bytes(whole[:size] + whole[2 * size :])
    with pytest.raises(FrameError, match=r"window 1 at byte .*sequence: expected 1, found 2"):
        recording.read(path, RATES)


def test_a_tolerant_reader_keeps_what_lies_before_the_damage(tmp_path):
    path = write_rates(tmp_path / "a.frames", 3)
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 3] ^= 1  # the magic of window 2
    path.write_bytes(data)
    index = recording.FrameIndex(path, RATES, tolerant=True)
    assert len(index) == 2 and index.payload(1)[0, 0] == 100.0
    assert "window 2 at byte 256" in str(index.damage) and "magic" in str(index.damage)


@pytest.mark.parametrize("position, field", [(0, "magic"), (32, "sequence"), (90, "CRC-32")])
def test_a_verified_log_ends_before_the_first_altered_window(tmp_path, position, field):
    path = write_rates(tmp_path / "a.frames", 5)
    assert len(recording.read(path, RATES).verified()) == 5
    data = bytearray(path.read_bytes())
    for k in (2, 3):
        data[k * 128 + position] ^= 1
    path.write_bytes(data)
    with recording.FrameIndex(path, RATES, tolerant=True).verified() as index:
        assert len(index) == 2 and [payload[0, 0] for payload in index] == [0.0, 100.0]
        assert f"{field}: expected" in str(index.damage) and index.total_rows == 4 and index.ticks(1) == (4, 8)
        with pytest.raises(IndexError, match="holds windows 0 to 1, not 2"):
            index.payload(2)
    with pytest.raises(FrameError, match=f"{field}: expected"):
        recording.read(path, RATES).verified()


def test_a_log_is_read_while_it_grows(tmp_path):
    path = tmp_path / "a.frames"
    log = recording.FrameLog(path, RATES)
    index = recording.read(path, RATES)
    assert len(index) == 0
    for k in range(5):
        log.append(*frame.encode(RATES, k, 4 * k, 4 * k + 4, rates(k)))
        assert index.refresh() == k + 1
        assert np.array_equal(index.payload(k), rates(k))
    header, body = frame.encode(RATES, 5, 20, 24, rates(5))
    with open(path, "ab") as half:
        half.write(header + bytes(body[:7]))
    assert index.refresh() == 5 and index.torn_bytes == HEADER_BYTES + 7
    with open(path, "ab") as half:
        half.write(body[7:])
    assert index.refresh() == 6 and index.torn_bytes == 0
    assert np.array_equal(index.payload(5), rates(5))
    log.close()


def test_a_killed_writer_leaves_every_frame_it_appended(tmp_path):
    path = tmp_path / "a.frames"
    script = f"""
import os, signal
import numpy as np
from pathlib import Path
from tvb_lockstep.bridges import frame, recording
address = frame.Address({RUN_ID!r}, 4, "tvb-E.raw", frame.DENSE, 3)
log = recording.FrameLog(Path({str(path)!r}), address)
for k in range(50):
    log.append(*frame.encode(address, k, 4 * k, 4 * k + 4, np.full((2, 3), float(k))))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    index = recording.read(path, RATES)
    assert len(index) == 50 and index.torn_bytes == 0
    assert [payload[0, 0] for payload in index] == [float(k) for k in range(50)]


def test_a_log_that_holds_frames_is_not_written_again(tmp_path):
    path = write_rates(tmp_path / "a.frames", 1)
    before = path.read_bytes()
    with pytest.raises(RunDirectoryError, match=r"already holds 128 bytes of an earlier run\. Choose a new"):
        recording.FrameLog(path, RATES)
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"nowhere/a\.frames cannot be written: No such file"):
        recording.FrameLog(tmp_path / "nowhere" / "a.frames", RATES)
    with pytest.raises(RunDirectoryError, match=r"a\.frames cannot be read: No such file"):
        recording.read(tmp_path / "a.frames", RATES)


def test_a_full_disk_ends_the_log_with_a_complete_frame_and_says_which(tmp_path):
    """The kernel's own short write and error, by a limit on the size of files: 2 frames of 128 bytes and 44 more."""
    path = tmp_path / "a.frames"
    script = f"""
import resource
import numpy as np
from pathlib import Path
from tvb_lockstep.bridges import frame, recording
from tvb_lockstep.bridges.errors import RunDirectoryError
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
address = frame.Address({RUN_ID!r}, 4, "tvb-E.raw", frame.DENSE, 3)
log = recording.FrameLog(Path({str(path)!r}), address)
for k in range(3):
    try:
        log.append(*frame.encode(address, k, 4 * k, 4 * k + 4, np.full((2, 3), float(k))))
    except RunDirectoryError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "cannot take the 128 bytes of window 2: File too large" in said
    assert "The last complete window in it is 1." in said and "Free space" in said
    assert path.stat().st_size == 256
    assert [payload[0, 0] for payload in recording.read(path, RATES)] == [0.0, 1.0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_an_error_of_the_disk_says_path_error_and_last_window(tmp_path, monkeypatch, number):
    log = recording.FrameLog(tmp_path / "a.frames", RATES)

    def fail(fd, buffers):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", fail)
        with pytest.raises(RunDirectoryError, match=rf"a\.frames .*{os.strerror(number)}.* It holds no window yet"):
            log.append(*frame.encode(RATES, 0, 0, 4, rates(0)))
    log.append(*frame.encode(RATES, 0, 0, 4, rates(0)))  # there is space again
    log.close()
    assert np.array_equal(recording.read(tmp_path / "a.frames", RATES).payload(0), rates(0))


def continued(path, address=RATES):
    return recording.FrameLog(path, address, kept=True)


def append(log, k, payload):
    log.append(*frame.encode(log.address, k, 4 * k, 4 * k + 4, payload))


def test_a_continued_log_compares_what_it_holds_and_grows_from_there_to_the_uninterrupted_one(tmp_path):
    whole = write_rates(tmp_path / "whole.frames", 6).read_bytes()
    path = write_rates(tmp_path / "a.frames", 4)
    with continued(path) as log:
        assert (log.kept, log.frames) == (4, 0)
        for k in range(4):
            append(log, k, rates(k))
            assert log.frames == k + 1 and path.stat().st_size == 4 * 128
        for k in (4, 5):
            append(log, k, rates(k))
            assert log.frames == k + 1 and path.stat().st_size == (k + 1) * 128
    assert path.read_bytes() == whole


def test_a_continued_log_gives_out_the_frames_it_kept(tmp_path):
    with continued(write_trains(tmp_path / "s.frames", 4), TRAINS) as log:
        spikes = frame.decode(*log.frame(3), TRAINS, 3, 12, 16)
        assert spikes.times.tolist() == [13, 13, 13] and spikes.senders.tolist() == [0, 1, 2]
        with pytest.raises(IndexError, match="holds windows 0 to 3, not 4"):
            log.frame(4)


def test_a_log_to_be_continued_that_is_not_there_is_begun(tmp_path):
    with continued(tmp_path / "a.frames") as log:
        assert (log.kept, log.frames) == (0, 0)
        append(log, 0, rates(0))
        with pytest.raises(IndexError, match="keeps no window, hence not 0"):
            log.frame(0)
    assert np.array_equal(recording.read(tmp_path / "a.frames", RATES).payload(0), rates(0))


@pytest.mark.parametrize("write, address, full", [(write_rates, RATES, rates), (write_trains, TRAINS, trains)])
def test_a_log_cut_at_any_byte_is_continued_to_the_uninterrupted_one(tmp_path, write, address, full):
    whole = write(tmp_path / "whole.frames", 4).read_bytes()
    ends = [0]
    for k in range(4):
        ends.append(ends[-1] + HEADER_BYTES + len(frame.encode(address, k, 4 * k, 4 * k + 4, full(k))[1]))
    path = tmp_path / "cut.frames"
    for cut in range(0, len(whole) + 1, 3):
        path.write_bytes(whole[:cut])
        with continued(path, address) as log:
            assert log.kept == sum(end <= cut for end in ends[1:])
            assert path.stat().st_size == ends[log.kept]
            for k in range(4):
                append(log, k, full(k))
        assert path.read_bytes() == whole


def test_zeros_that_a_power_failure_left_are_cut_off(tmp_path):
    path = write_rates(tmp_path / "a.frames", 5)
    data = bytearray(path.read_bytes())
    data[2 * 128 + 100 : 4 * 128] = bytes(2 * 128 - 100)  # the end of the payload of window 2, all of window 3
    path.write_bytes(data)
    with continued(path) as log:
        assert log.kept == 2 and path.stat().st_size == 2 * 128
    path.write_bytes(bytes(300))
    with continued(path) as log:
        assert log.kept == 0 and path.stat().st_size == 0


def test_another_number_in_a_kept_window_is_not_reproduced_and_the_log_stays_as_it_was(tmp_path):
    path = write_rates(tmp_path / "a.frames", 4)
    before = path.read_bytes()
    with continued(path) as log:
        append(log, 0, rates(0))
        other = rates(1)
        other[1, 2] = np.nextafter(other[1, 2], 0.0)
        with pytest.raises(NotReproduced, match=r"a\.frames: window 1, ticks \[4, 8\), is not reproduced") as raised:
            append(log, 1, other)
        assert raised.value.window == 1 and raised.value.exit_code == 8
        assert "recorded were 2 rows for [4, 8) with CRC-32" in str(raised.value)
        with pytest.raises(NotReproduced, match=r"made now were 1 rows for \[4, 8\)"):
            append(log, 1, rates(1)[:1])
        log.explain = lambda k, recorded, now: f"{recorded[1, 2] - now[1, 2]:.2g} more in window {k}"
        with pytest.raises(NotReproduced, match=r"1\.4e-14 more in window 1"):
            append(log, 1, other)
        assert log.frames == 1
    assert path.read_bytes() == before


def test_a_kept_payload_that_was_altered_is_the_fault_of_the_log(tmp_path):
    path = write_rates(tmp_path / "a.frames", 3)
    data = bytearray(path.read_bytes())
    data[128 + 90] ^= 1
    path.write_bytes(data)
    with continued(path) as log:
        assert log.kept == 3
        append(log, 0, rates(0))
        with pytest.raises(FrameError, match=r"altered in window 1: .*frame 1 is refused: CRC-32: .*Start a new run"):
            append(log, 1, rates(1))
    assert path.read_bytes() == data


def test_a_log_of_another_run_is_not_continued_and_not_cut(tmp_path):
    path = write_rates(tmp_path / "a.frames", 2)
    before = path.read_bytes()
    for other in (RATES._replace(run_id=bytes(16)), RATES._replace(columns=4), RATES._replace(channel=5)):
        with pytest.raises(FrameError, match=r"a\.frames, window 0 at byte 0"):
            continued(path, other)
        assert path.read_bytes() == before


def indexed(path, n, address=RATES):
    """A log of `n` windows, of which the index knows all."""
    return write_rates(path, n) if address is RATES else write_trains(path, n)


def block_of(offsets, address=RATES):
    """A block of an index, as the docstring of recording.py has it."""
    empty = np.zeros((0, address.columns)) if address.kind == DENSE else Spikes.none()
    block = np.array([*offsets, *[-1] * (511 - len(offsets))], "<i8").tobytes()
    crc = zlib.crc32(frame.encode(address, 0, 0, 1, empty)[0][:32] + block)
    return block + crc.to_bytes(8, "little")


class Reads:
    """Counts the reads of one kind: of a header alone, or of more."""

    def __init__(self, monkeypatch):
        self.headers = self.frames = 0
        pread = os.pread

        def counted(fd, n, offset):
            if n == HEADER_BYTES:
                self.headers += 1
            else:
                self.frames += 1
            return pread(fd, n, offset)

        monkeypatch.setattr(os, "pread", counted)


def test_the_index_says_where_the_frames_begin(tmp_path):
    index = recording.index_of(indexed(tmp_path / "nest.spikes.frames", 4, TRAINS))
    assert index == tmp_path / "nest.spikes.index"
    assert index.read_bytes() == block_of([0, 80, 80 + 92, 80 + 92 + 104], TRAINS)
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    index = recording.index_of(indexed(tmp_path / "a.frames", 512))
    assert index.read_bytes() == block_of(range(0, 511 * 128, 128)) + block_of([511 * 128])


@pytest.mark.parametrize("closed, most", [(True, 5), (False, 5 + 510)])
def test_the_last_window_of_a_long_log_is_found_with_a_handful_of_reads(tmp_path, monkeypatch, closed, most):
    path = tmp_path / "a.frames"
    log = recording.FrameLog(path, RATES)
    for k in range(3 * 511 - 1):
        append(log, k, rates(k))
    if closed:
        log.close()
    reads = Reads(monkeypatch)
    with recording.read(path, RATES) as index:
        assert len(index) == 3 * 511 - 1 and index.torn_bytes == 0
        assert np.array_equal(index.payload(len(index) - 1), rates(len(index) - 1))
        assert reads.headers <= most and reads.frames == 1
        assert np.array_equal(index.payload(700), rates(700)) and index.ticks(20) == (80, 84) and index.rows(21) == 2
        assert reads.headers <= most + 5 and reads.frames == 2
        reads.headers = 0
        assert index.ticks(40) == (160, 164) and reads.headers == 2  # and that of the window before
        assert np.array_equal(index.payload(40), rates(40)) and index.rows(40) == 2 and reads.headers == 2
    reads.headers = 0
    with recording.FrameIndex(path, RATES, scan=True) as index:
        assert len(index) == 3 * 511 - 1 and reads.headers == 3 * 511 - 1
    log.close()


def test_windows_are_read_one_after_the_other_with_one_read_each(tmp_path, monkeypatch):
    with recording.read(indexed(tmp_path / "a.frames", 600), RATES) as index:
        reads = Reads(monkeypatch)
        assert [payload[0, 0] for payload in index] == [100.0 * k for k in range(600)]
        assert (reads.headers, reads.frames) == (0, 600)


def test_a_log_is_read_the_same_whatever_its_index_holds(tmp_path):
    random = np.random.default_rng(3)
    for address, full, n in ((RATES, rates, 1100), (TRAINS, trains, 20)):
        path = indexed(tmp_path / f"{address.name}.frames", n, address)
        sidecar = recording.index_of(path)
        good = sidecar.read_bytes()
        offsets = [offset for block in range(0, len(good), 4096)
                   for offset in np.frombuffer(good, "<i8", 511, block).tolist() if offset >= 0]  # fmt: skip
        flipped = bytearray(good)
        flipped[4096 * (len(good) // 4096 - 1) + 100] ^= 8
        moved = np.frombuffer(good, "<i8").copy()
        moved[9] += 24  # by whole rows: only the CRC tells
        beyond = block_of([*range(0, 80 * 100, 80), 1 << 62], address)
        contents = [
            good, b"", good[:4095], good[:4096], good[:-1], good + b"x", good + good[:4096], bytes(4096),
            bytes(flipped), moved.tobytes(), b"\xff" * 8192, random.bytes(8192), good + random.bytes(4096), beyond,
            block_of(offsets[:511], address._replace(run_id=bytes(16))), block_of(offsets[1:400], address),
            block_of([0, 0, *offsets[1:400]], address), block_of([*offsets[:9], *offsets[10:400]], address),
            block_of([*offsets[:9], *offsets[8:400]], address),
            block_of([*offsets[:9], *offsets[12:400]], address), block_of([0, -5, 1 << 62], address),
            block_of([], address), block_of([0, 3], address),
        ]  # fmt: skip
        for content in contents:
            sidecar.write_bytes(content)
            with recording.read(path, address) as index:
                assert len(index) == n and index.torn_bytes == 0
                assert index.ticks(n - 1) == (4 * n - 4, 4 * n)
                assert index.total_rows == sum(len(full(k)) for k in range(n))
                for k in (0, 8, 9, 10, n - 2, n - 1):
                    assert np.array_equal(index.payload(k), full(k))
        sidecar.unlink()
        assert len(recording.read(path, address)) == n


@pytest.mark.parametrize("address, full", [(RATES, rates), (TRAINS, trains)])
def test_an_index_that_knows_more_than_the_log_is_used_up_to_the_end_of_the_log(tmp_path, monkeypatch, address, full):
    path = indexed(tmp_path / "a.frames", 20, address)
    whole = path.read_bytes()
    ends = np.cumsum([HEADER_BYTES + len(frame.encode(address, k, 0, 1, full(k))[1]) for k in range(20)]).tolist()
    reads = Reads(monkeypatch)
    for size in [*range(ends[15], ends[17] + 2), 0, 1, 79, 80, 81, len(whole) - 1]:
        path.write_bytes(whole[:size])
        reads.headers = 0
        with recording.read(path, address) as index:
            assert len(index) == sum(end <= size for end in ends)
            assert index.torn_bytes == size - (ends[len(index) - 1] if len(index) else 0)
            if len(index):
                assert np.array_equal(index.payload(len(index) - 1), full(len(index) - 1))
        assert reads.headers <= 6


def test_a_header_altered_in_the_middle_is_refused_when_its_window_is_read_and_the_others_are_not(tmp_path):
    path = indexed(tmp_path / "a.frames", 5)
    whole = path.read_bytes()
    for position in range(HEADER_BYTES):
        data = bytearray(whole)
        data[2 * 128 + position] ^= 0x11
        path.write_bytes(data)
        with recording.read(path, RATES) as index:
            assert len(index) == 5
            with pytest.raises(FrameError, match=r"window 2 at byte 256|frame 2 is refused"):
                index.payload(2)
            for k in (0, 1, 3, 4):
                if k == 3 and 48 <= position < 56:  # t1 of window 2: either it or t0 of window 3 is wrong
                    with pytest.raises(FrameError, match=r"window 3 at byte 384: t0: expected -?\d+, found 12"):
                        index.payload(k)
                else:
                    assert np.array_equal(index.payload(k), rates(k))


def test_a_window_that_overlaps_the_next_is_noticed_even_when_its_crc_fits(tmp_path):
    path = indexed(tmp_path / "a.frames", 5)
    with open(path, "r+b") as file:
        file.seek(2 * 128)
        file.write(frame.encode(RATES, 2, 8, 13, rates(2))[0])
    with recording.read(path, RATES) as index:
        for k in (3, 0, 3):  # in whatever order they are read
            if k:
                with pytest.raises(FrameError, match="window 3 at byte 384: t0: expected 13, found 12"):
                    index.payload(k)
            else:
                index.payload(k)
    with pytest.raises(FrameError, match="window 3 at byte 384: t0: expected 13, found 12"):
        recording.FrameIndex(path, RATES, scan=True)


def test_a_window_that_ends_before_it_begins_is_refused(tmp_path):
    path = tmp_path / "a.frames"
    for t1 in (-4, 0):
        path.write_bytes(b"".join(map(bytes, frame.encode(RATES, 0, 0, t1, rates(0)))))
        with pytest.raises(FrameError, match=f"window 0 at byte 0: t1: expected after 0, found {t1}"):
            recording.read(path, RATES)


def test_a_payload_over_the_cap_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.frames"
    rows = (1 << 30) // 24 + 1
    header = frame.HEADER.pack(b"TVLS", 1, DENSE, RUN_ID, 4, 3, 0, 0, 4, rows, 24 * rows, 0, 0)
    path.write_bytes(header)
    os.truncate(path, HEADER_BYTES + 24 * rows)  # a hole, on a file system that has them
    with pytest.raises(FrameError, match=f"payload length: expected at most 1073741824, found {24 * rows}"):
        recording.read(path, RATES)


@pytest.mark.parametrize("position, field", [(0, "magic"), (32, "sequence"), (40, "t0"), (56, "payload length")])
def test_every_way_to_a_window_with_an_altered_header_names_it(tmp_path, position, field):
    path = indexed(tmp_path / "a.frames", 5)
    data = bytearray(path.read_bytes())
    data[2 * 128 + position] ^= 1
    path.write_bytes(data)
    with recording.read(path, RATES) as index:
        for way in (index.ticks, index.rows, index.frame, index.payload):
            with pytest.raises(FrameError, match=rf"a\.frames, window 2 at byte 256: .*{field}: expected .*, found"):
                way(2)


def test_an_index_that_is_wrong_in_the_middle_gives_no_wrong_payload(tmp_path):
    path = indexed(tmp_path / "a.frames", 5)
    recording.index_of(path).write_bytes(block_of([0, 128, 256 + 24, 384, 512]))  # whole rows apart, CRC and all
    with recording.read(path, RATES) as index:
        assert np.array_equal(index.payload(0), rates(0)) and np.array_equal(index.payload(4), rates(4))
        with pytest.raises(FrameError, match="window 1 at byte 128: payload length: expected 72, found 48"):
            index.payload(1)
        with pytest.raises(FrameError, match=r"window 2 at byte 280: .*magic"):
            index.payload(2)


def test_a_continued_log_ends_with_the_index_of_the_uninterrupted_one(tmp_path):
    whole = recording.index_of(indexed(tmp_path / "whole.frames", 1300)).read_bytes()
    path = indexed(tmp_path / "a.frames", 1100)
    recording.index_of(path).write_bytes(b"of another time")
    os.truncate(path, 1090 * 128 + 5)
    with continued(path) as log:
        assert log.kept == 1090
        assert recording.index_of(path).stat().st_size == 2 * 4096
        for k in range(1300):
            append(log, k, rates(k))
    assert recording.index_of(path).read_bytes() == whole
    assert path.read_bytes() == (tmp_path / "whole.frames").read_bytes()


def test_a_continued_log_finds_an_altered_header_whatever_its_index_says(tmp_path):
    path = indexed(tmp_path / "a.frames", 600)
    with open(path, "r+b") as file:
        file.seek(300 * 128)
        file.write(b"X")
    with continued(path) as log:
        assert log.kept == 300 and path.stat().st_size == 300 * 128


def test_a_log_whose_index_cannot_be_written_is_written_nevertheless(tmp_path, monkeypatch):
    recording.index_of(tmp_path / "a.frames").mkdir()
    path = indexed(tmp_path / "a.frames", 1030)
    assert len(recording.read(path, RATES)) == 1030
    write, written = os.write, []

    def once_full(fd, data):
        written.append(len(data))
        return write(fd, data[:77] if len(written) == 2 else data)

    monkeypatch.setattr(os, "write", once_full)
    path = indexed(tmp_path / "b.frames", 1600)
    assert written == [4096, 4096] and recording.index_of(path).stat().st_size == 4096 + 77
    with recording.read(path, RATES) as index:
        assert len(index) == 1600 and np.array_equal(index.payload(1599), rates(1599))

    def fail(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    path = indexed(tmp_path / "c.frames", 600)
    assert recording.index_of(path).stat().st_size == 0 and len(recording.read(path, RATES)) == 600


def test_timing_rows_are_read_while_they_are_written_and_the_others_are_nan(tmp_path):
    path = tmp_path / "tvb.npy"
    with timing.Timing(path, 4) as writer:
        data = timing.read(path)
        assert data.shape == (4, 6) and np.isnan(data).all()
        writer.row(2, 1000.0, 1000.5, 0.25, 0.125, 0.0625, 0.5)
        assert data[2].tolist() == [1000.0, 1000.5, 0.25, 0.125, 0.0625, 0.5]
        assert timing.recorded(data).tolist() == [2]
        with pytest.raises(IndexError, match="window 4: the run has windows 0 to 3"):
            writer.row(4, 0, 0, 0, 0, 0, 0)
    assert np.load(path)[2, 1] == 1000.5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["tvb.npy"]


def test_timing_of_an_earlier_run_is_not_overwritten_unless_no_window_was_run(tmp_path):
    path = tmp_path / "tvb.npy"
    timing.Timing(path, 2).close()
    with timing.Timing(path, 3) as writer:
        writer.row(0, 1, 2, 3, 4, 5, 6)
    with pytest.raises(RunDirectoryError, match=r"tvb\.npy already holds the timing of an earlier run"):
        timing.Timing(path, 3)
    assert timing.read(path).shape == (3, 6)


def test_a_timing_file_that_is_not_one_is_refused(tmp_path):
    path = tmp_path / "tvb.npy"
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(RunDirectoryError, match=r"tvb\.npy cannot be read"):
        timing.read(path)
    np.save(path, np.zeros((3, 2)))
    with pytest.raises(RunDirectoryError, match=r"shape \(3, 2\)"):
        timing.read(path)
