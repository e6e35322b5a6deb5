"""One conformance suite for all transports; then what only shared memory, and only files, have to hold."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import importlib.util
import io
import json
import logging
import mmap
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import posix_ipc
import pytest
from numpy.lib import format as npy
from tvb_lockstep.bridges import transports
from tvb_lockstep.bridges.errors import ExperimentError, FrameError, PeerLost, RunDirectoryError
from tvb_lockstep.bridges.frame import SPIKE_RECORD, SPIKES, Spikes, encode
from tvb_lockstep.bridges.transports import file, shm
from tvb_lockstep.bridges.transports.base import CHECK_S, Place

PEER = Path(__file__).with_name("transport_peer.py")
_spec = importlib.util.spec_from_file_location("transport_peer", PEER)
peer = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(peer)

address_of, payload_of, same, send, receive = (
    peer.address_of, peer.payload_of, peer.same, peer.send, peer.receive,
)  # fmt: skip

BETWEEN_PROCESSES = ["shm", "file"]


@pytest.fixture(params=["memory", "shm", "file"])
def transport(request):
    return request.param


@pytest.fixture(params=["dense", "spikes"])
def kind(request):
    return request.param


@pytest.fixture
def place(tmp_path):
    """A run directory, and a run id nobody else has; the test fails when the run leaves shared memory behind."""
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o700)
    place = Place(run_dir, os.urandom(16), -1)
    yield place
    left = in_shared_memory(place)
    transports.remove_leftovers(place.run_dir, place.run_id)
    assert left == [], "the test left this in /dev/shm"


def in_shared_memory(place: Place) -> list[str]:
    prefix = shm._name(place.run_id, 0, "")[1:-1]
    return sorted(name for name in os.listdir("/dev/shm") if prefix in name)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_channel(transport, place, kind="dense", channel=0, depth=4, slot_bytes=512):
    address = address_of(place.run_id, kind, channel)
    sender = transports.create(transport, address, place, depth, slot_bytes)
    return address, sender, transports.attach(transport, address, place)


def close(*ends):
    for end in ends:
        end.close()


class Program:
    """An end of a channel in a process of its own; for memory, in a thread."""

    def __init__(self, role: str, transport: str, place: Place, n: int, **options) -> None:
        self.process = self.future = None
        if transport == "memory":
            self.words: list[str] = []
            self._word = threading.Condition()
            self._pool = ThreadPoolExecutor(1)
            run = {"produce": peer.produce, "consume": peer.consume}[role]
            self.future: Future | None = self._pool.submit(run, transport, place, n, ready=self._say, **options)
        else:
            options = json.dumps({"n": n, "keep": place.keep, **options})
            self.process = subprocess.Popen(
                [sys.executable, str(PEER), role, transport, str(place.run_dir), place.run_id.hex(), options],
                stdout=subprocess.PIPE, bufsize=0,  # or a readline would keep what communicate looks for
            )  # fmt: skip

    def _say(self, word: str) -> None:
        with self._word:
            self.words.append(word)
            self._word.notify_all()

    def await_word(self, word: str) -> None:
        if self.process:
            assert self.process.stdout.readline().strip() == word.encode()
        else:
            with self._word:
                assert self._word.wait_for(lambda: word in self.words or self.future.done(), 60)

    def result(self) -> dict:
        if self.future:
            return self.future.result(60)
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return json.loads(out.splitlines()[-1])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


# ---- the conformance suite -------------------------------------------------------------------------------------


def test_a_frame_arrives_as_it_was_sent(transport, kind, place):
    address, sender, receiver = open_channel(transport, place, kind)
    for k in range(8):  # among them empty ones, and spikes on the first and on the last tick of the window
        send(sender, address, kind, k)
        assert same(receive(receiver, address, k), payload_of(kind, k))
    close(sender, receiver)


def test_an_array_may_be_changed_as_soon_as_it_was_sent(transport, place):
    address, sender, receiver = open_channel(transport, place)
    data = np.full((3, peer.COLUMNS), 7.0)
    sender.send(*encode(address, 0, 0, 4, data), 0, 0, 4, peer.no_check)
    data[:] = -1.0
    assert (receive(receiver, address, 0) == 7.0).all()
    close(sender, receiver)


def test_thousands_of_frames_arrive_in_order_in_another_program(transport, kind, place):
    n = 3000
    producer = Program("produce", transport, place, n, kind=kind)
    producer.await_word("created")
    consumer = Program("consume", transport, place, n, kind=kind)
    assert consumer.result()["taken"] == n
    producer.result()


@pytest.mark.parametrize("rows", [13, 200, 5000])  # of 40 bytes: larger than a slot, than the ring, than many rings
def test_a_frame_may_be_larger_than_a_slot_and_than_the_ring(transport, kind, place, rows):
    producer = Program("produce", transport, place, 3, kind=kind, rows=rows, depth=2, slot_bytes=128)
    producer.await_word("created")
    Program("consume", transport, place, 3, kind=kind, rows=rows).result()
    producer.result()


def test_small_frames_follow_large_ones_across_the_end_of_the_ring(transport, place):
    address, sender, receiver = open_channel(transport, place, depth=3, slot_bytes=128)
    for k in range(50):
        rows = (1, 3, 4, 7)[k % 4]  # of 40 bytes, beside a header of 80: one, two, two, three slots
        send(sender, address, "dense", k, rows)
        assert same(receive(receiver, address, k), payload_of("dense", k, rows))
    close(sender, receiver)


def test_one_frame_in_flight_is_enough(transport, place):
    producer = Program("produce", transport, place, 300, depth=1)
    producer.await_word("created")
    Program("consume", transport, place, 300).result()
    producer.result()


def test_a_slow_consumer_holds_up_the_producer_and_loses_nothing(transport, place):
    producer = Program("produce", transport, place, 60, depth=2)
    producer.await_word("created")
    Program("consume", transport, place, 60, sleep_s=0.01).result()
    # 58 frames had to wait for the consumer, which took each after 10 ms
    assert producer.result()["waited_s"] > 0.3


def test_no_more_frames_are_in_flight_than_the_depth_says(transport, place):
    address, sender, receiver = open_channel(transport, place, depth=3)

    class Full(Exception):
        pass

    def full(_waited_s):
        raise Full

    for k in range(3):
        send(sender, address, "dense", k, check=full)
    for k in range(3, 6):
        with pytest.raises(Full):
            send(sender, address, "dense", k, check=full)
        assert same(receive(receiver, address, k - 3), payload_of("dense", k - 3))
        send(sender, address, "dense", k, check=full)
    close(sender, receiver)


def test_check_is_called_while_waiting_and_its_exception_comes_out_of_receive(transport, place):
    address, sender, receiver = open_channel(transport, place)
    waits = []

    def check(waited_s):
        waits.append(waited_s)
        if len(waits) == 3:
            raise PeerLost("nest died in window 0")

    begun = time.perf_counter()
    with pytest.raises(PeerLost, match="nest died in window 0"):
        receive(receiver, address, 0, check)
    elapsed = time.perf_counter() - begun
    assert waits == sorted(waits) and waits[0] > 0 and waits[-1] <= elapsed
    assert receiver.waited_s == pytest.approx(elapsed, abs=0.05)
    # and the frame that comes after all is not lost
    send(sender, address, "dense", 0)
    assert same(receive(receiver, address, 0), payload_of("dense", 0))
    close(sender, receiver)


def test_check_is_called_while_waiting_and_its_exception_comes_out_of_send(transport, place):
    address, sender, receiver = open_channel(transport, place, depth=1)
    send(sender, address, "dense", 0)

    def check(waited_s):
        raise PeerLost(f"tvb died; waited {waited_s > 0}")

    with pytest.raises(PeerLost, match="tvb died; waited True"):
        send(sender, address, "dense", 1, check=check)
    assert sender.waited_s >= 0.5 * CHECK_S * 0.9
    close(sender, receiver)


def test_time_spent_waiting_is_counted_and_no_other(transport, place):
    address, sender, receiver = open_channel(transport, place, depth=1)
    send(sender, address, "dense", 0)
    receive(receiver, address, 0)
    assert sender.waited_s == receiver.waited_s == 0.0  # neither had to
    threading.Timer(0.15, send, (sender, address, "dense", 1)).start()
    receive(receiver, address, 1)
    assert receiver.waited_s >= 0.14
    send(sender, address, "dense", 2)
    threading.Timer(0.15, receive, (receiver, address, 2)).start()
    send(sender, address, "dense", 3)
    assert sender.waited_s >= 0.14
    close(sender, receiver)


def test_two_runs_with_the_same_channel_numbers_do_not_meet(transport, place, tmp_path):
    (tmp_path / "other").mkdir(mode=0o700)
    other = Place(tmp_path / "other", os.urandom(16), -1)
    a, sender_a, receiver_a = open_channel(transport, place)
    b, sender_b, receiver_b = open_channel(transport, other)
    for k in range(4):
        send(sender_a, a, "dense", k, rows=1)
        send(sender_b, b, "dense", k, rows=2)
    for k in range(4):
        assert receive(receiver_a, a, k).shape == (1, peer.COLUMNS)
        assert receive(receiver_b, b, k).shape == (2, peer.COLUMNS)
    close(sender_a, receiver_a, sender_b, receiver_b)
    assert in_shared_memory(other) == []


def test_channels_of_one_run_do_not_meet(transport, place):
    first, sender, receiver = open_channel(transport, place, "dense", 0)
    second, sender2, receiver2 = open_channel(transport, place, "spikes", 1)
    send(sender2, second, "spikes", 0, rows=5)
    send(sender, first, "dense", 0, rows=2)
    assert receive(receiver, first, 0).shape == (2, peer.COLUMNS)
    assert len(receive(receiver2, second, 0)) == 5
    close(sender, receiver, sender2, receiver2)


def test_what_a_producer_sent_before_it_ended_is_still_taken(transport, place):
    address = address_of(place.run_id, "dense")
    sender = transports.create(transport, address, place, 4, 512)
    for k in range(3):
        send(sender, address, "dense", k)
    sender.close()
    sender.close()  # twice does no harm
    receiver = transports.attach(transport, address, place)
    for k in range(3):
        assert same(receive(receiver, address, k), payload_of("dense", k))
    close(receiver, receiver)


def test_a_channel_that_nobody_created_is_named(transport, place):
    with pytest.raises(RunDirectoryError, match=r"dense0\.raw.*producer"):
        transports.attach(transport, address_of(place.run_id, "dense"), place)


def test_a_channel_of_another_run_is_not_found(transport, place, tmp_path):
    address, sender, receiver = open_channel(transport, place)
    other = place._replace(run_id=os.urandom(16))
    with pytest.raises(RunDirectoryError) as refusal:
        transports.attach(transport, address._replace(run_id=other.run_id), other)
    assert other.run_id.hex() in str(refusal.value)
    close(sender, receiver)


def test_an_unknown_transport_is_refused_with_those_that_there_are(place):
    with pytest.raises(ExperimentError, match=r"'pigeon'.*memory, shm, file"):
        transports.create("pigeon", address_of(place.run_id, "dense"), place, 1, 1)


def test_a_header_with_a_senseless_length_is_refused_before_anything_is_allocated(transport, place):
    address, sender, receiver = open_channel(transport, place)
    header, body = encode(address, 0, 0, 4, payload_of("dense", 0, 2))
    lying = bytearray(header)
    lying[64:72] = (1 << 60).to_bytes(8, "little")
    sender.send(bytes(lying), body, 0, 0, 4, peer.no_check)
    if transport == "memory":  # nothing is allocated there; decode refuses
        with pytest.raises(FrameError, match="payload length"):
            receive(receiver, address, 0)
    else:
        with pytest.raises(FrameError, match=f"payload length: expected at most 1073741824, found {1 << 60}"):
            receiver.receive(0, 0, 4, peer.no_check)
    close(sender, receiver)


def test_descriptors_and_memory_stay_flat_over_twenty_thousand_frames(transport, place):
    address, sender, receiver = open_channel(transport, place._replace(keep=0))
    encoded = encode(address, 0, 0, 4, payload_of("dense", 0, 2))

    def frames(start, end):
        for k in range(start, end):
            sender.send(*encoded, k, 0, 4, peer.no_check)
            receiver.receive(k, 0, 4, peer.no_check)
        gc.collect()

    frames(0, 2_000)
    descriptors, memory = len(os.listdir("/proc/self/fd")), resident_bytes()
    frames(2_000, 22_000)
    assert resident_bytes() - memory < 1_000_000  # 50 bytes per frame; a frame has 160
    assert len(os.listdir("/proc/self/fd")) == descriptors
    close(sender, receiver)


def test_a_hundred_channels_opened_and_closed_leave_no_descriptor(transport, place):
    def once(channel):
        address, sender, receiver = open_channel(transport, place, channel=channel)
        send(sender, address, "dense", 0)
        receive(receiver, address, 0)
        close(sender, receiver)

    once(0)
    descriptors = len(os.listdir("/proc/self/fd"))
    for channel in range(1, 100):
        once(channel)
    assert len(os.listdir("/proc/self/fd")) == descriptors


# ---- deaths, between processes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", BETWEEN_PROCESSES)
@pytest.mark.parametrize("victims", [(), ("producer",), ("consumer",), ("producer", "consumer")])
def test_nothing_stays_behind_whoever_is_killed_once_both_are_attached(transport, place, victims):
    producer = Program("produce", transport, place, 3, linger=bool(victims))
    producer.await_word("created")
    consumer = Program("consume", transport, place, 3, linger=bool(victims))
    consumer.await_word("attached")
    assert in_shared_memory(place) == []  # already
    if victims:
        producer.await_word("sent")
        consumer.await_word("taken")
        programs = {"producer": producer, "consumer": consumer}
        for name in [*victims, *(name for name in programs if name not in victims)]:
            programs[name].kill()
            assert in_shared_memory(place) == []
    else:
        consumer.result()
        producer.result()
    assert in_shared_memory(place) == []
    assert transports.remove_leftovers(place.run_dir, place.run_id) == []


@pytest.mark.parametrize("transport", BETWEEN_PROCESSES)
@pytest.mark.parametrize("where", ["payload", "publish"])
def test_a_writer_killed_while_it_writes_has_sent_nothing(transport, place, where):
    producer = Program("produce", transport, place, 3, die=where, rows=4)
    producer.await_word("created")
    address = address_of(place.run_id, "dense")
    receiver = transports.attach(transport, address, place)
    for k in range(2):
        assert same(receive(receiver, address, k), payload_of("dense", k, 4))
    assert producer.process.wait(60) == -signal.SIGKILL
    producer.kill()
    looks = []

    def check(waited_s):
        looks.append(waited_s)
        if len(looks) == 3:
            raise PeerLost("the producer died")

    with pytest.raises(PeerLost):
        receive(receiver, address, 2, check)
    receiver.close()
    left = transports.remove_leftovers(place.run_dir, place.run_id)
    assert left == (["exchange/tmp/dense0.raw.npy"] if transport == "file" else [])
    assert len(list(place.run_dir.glob("exchange/*/*.npy"))) == (2 if transport == "file" else 0)


def test_a_writer_killed_between_the_pieces_of_a_frame_has_not_sent_it(place):
    producer = Program("produce", "shm", place, 1, rows=100, depth=2, slot_bytes=128)  # fills the ring and waits
    producer.await_word("created")
    address = address_of(place.run_id, "dense")
    receiver = transports.attach("shm", address, place)
    while receiver._filled.value < 2:
        time.sleep(0.001)
    producer.kill()

    def check(_waited_s):
        raise PeerLost("the producer died")

    with pytest.raises(PeerLost):
        receive(receiver, address, 0, check)
    with pytest.raises(RunDirectoryError, match="frame 0 was left in the middle"):
        receive(receiver, address, 0, check)
    receiver.close()


def test_cleanup_removes_what_a_run_killed_before_it_was_attached_left_and_nothing_else(place, tmp_path):
    others = [place._replace(run_id=os.urandom(16)) for _ in range(2)]
    dead = Program("produce", "shm", place, 1, linger=True)
    dead.await_word("created")
    dead_other = Program("produce", "shm", others[0], 1, linger=True)
    dead_other.await_word("created")
    live_other = Program("produce", "shm", others[1], 1, linger=True)
    live_other.await_word("created")
    dead.kill()
    dead_other.kill()
    three = [in_shared_memory(each) for each in (place, *others)]
    assert [len(names) for names in three] == [3, 3, 3]  # a segment and two semaphores each
    removed = shm.cleanup(place)
    assert len(removed) == 3 and in_shared_memory(place) == []
    assert [in_shared_memory(each) for each in others] == three[1:]
    assert shm.cleanup(others[1]) == []  # of its own run, but alive
    live_other.kill()
    assert len(shm.cleanup(others[1])) == len(shm.cleanup(others[0])) == 3


def test_a_producer_takes_the_place_of_a_dead_one_and_not_of_a_live_one(place):
    first = Program("produce", "shm", place, 1, linger=True)
    first.await_word("created")
    address = address_of(place.run_id, "dense")
    with pytest.raises(RunDirectoryError, match=f"pid {first.process.pid} is alive"):
        shm.create(address, place, 4, 512)
    first.kill()
    sender = shm.create(address, place, 4, 512)
    receiver = shm.attach(address, place)
    send(sender, address, "dense", 5)
    assert same(receive(receiver, address, 5), payload_of("dense", 5))  # and not frame 0 of the dead one
    close(sender, receiver)


# ---- shared memory ---------------------------------------------------------------------------------------------


def test_shared_memory_belongs_to_its_user_alone(place):
    sender = shm.create(address_of(place.run_id, "dense"), place, 4, 512)
    names = in_shared_memory(place)
    assert len(names) == 3
    for name in names:
        status = os.stat(f"/dev/shm/{name}")
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())
        assert place.run_id.hex() not in name
    sender.close()
    shm.cleanup(place)


@pytest.mark.parametrize(
    ("field", "offset", "new", "message"),
    [
        ("magic", 0, b"X", r"magic: expected b'TVLSRING', found b'XVLSRING'"),
        ("layout version", 8, b"\x02", "layout version: expected 1, found 2"),
        ("channel", 12, b"\x07", "channel: expected 0, found 7"),
        ("run id", 16, bytes(16), f"run id: expected [0-9a-f]{{32}}, found {'0' * 32}"),
        ("depth", 32, b"\0\0\0\0", "depth: expected at least 1, found 0"),
        ("slot bytes", 40, (1000).to_bytes(8, "little"), "slot bytes: expected a multiple of 64, over 80, found 1000"),
        ("size", 40, (1024).to_bytes(8, "little"), r"size \[bytes\]: expected 8192, found 6144"),
    ],
)
def test_a_segment_that_is_not_as_expected_is_refused_with_the_field_and_both_values(
    place, field, offset, new, message
):
    address = address_of(place.run_id, "dense")
    sender = shm.create(address, place, 4, 512)
    path = Path("/dev/shm" + shm._name(place.run_id, 0, ""))
    with open(path, "r+b") as segment:
        segment.seek(offset)
        segment.write(new)
    with pytest.raises(RunDirectoryError, match=message):
        shm.attach(address, place)
    sender.close()
    assert path.exists()  # it may be evidence
    shm.cleanup(place)


def test_a_segment_that_others_may_write_is_refused(place):
    address = address_of(place.run_id, "dense")
    sender = shm.create(address, place, 4, 512)
    path = Path("/dev/shm" + shm._name(place.run_id, 0, ""))
    path.chmod(0o666)
    with pytest.raises(RunDirectoryError, match="mode: expected 0o600, found 0o666"):
        shm.attach(address, place)
    if os.geteuid() == 0:
        path.chmod(0o600)
        os.chown(path, 12345, -1)
        with pytest.raises(RunDirectoryError, match=r"owner \(uid\): expected 0, found 12345"):
            shm.attach(address, place)
    sender.close()
    shm.cleanup(place)


def test_a_truncated_segment_is_refused(place):
    address = address_of(place.run_id, "dense")
    sender = shm.create(address, place, 4, 512)
    os.truncate("/dev/shm" + shm._name(place.run_id, 0, ""), 100)
    with pytest.raises(RunDirectoryError, match=r"size \[bytes\]: expected at least 4096, found 100"):
        shm.attach(address, place)
    sender.close()
    shm.cleanup(place)


def test_shared_memory_that_is_full_is_an_error_at_creation_with_what_is_needed_and_free(place):
    state = os.statvfs("/dev/shm")
    slot = 2 * state.f_blocks * state.f_frsize // 64 * 64
    with pytest.raises(RunDirectoryError) as refusal:
        shm.create(address_of(place.run_id, "dense"), place, 1, slot)
    assert f"needs {slot + 4096} bytes" in str(refusal.value)
    assert "bytes of /dev/shm are free" in str(refusal.value) and "exchange.depth" in str(refusal.value)
    assert in_shared_memory(place) == []


def test_a_second_consumer_finds_the_channel_taken(place):
    address, sender, receiver = open_channel("shm", place)
    with pytest.raises(RunDirectoryError, match="already has its consumer"):
        shm.attach(address, place)
    close(sender, receiver)


def test_a_signal_that_arrives_while_waiting_changes_nothing(place):
    address, sender, receiver = open_channel("shm", place)
    alarms = []
    before = signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        threading.Timer(0.15, send, (sender, address, "dense", 1)).start()
        assert same(receive(receiver, address, 1), payload_of("dense", 1))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(alarms) >= 3 and receiver.waited_s >= 0.14
    close(sender, receiver)


def test_the_counters_of_a_ring_say_what_passed(place):
    address, sender, receiver = open_channel("shm", place, depth=4, slot_bytes=128)
    for k in range(3):
        send(sender, address, "dense", k, rows=3)  # 80 + 120 bytes: two slots of 128
        if k < 2:
            receive(receiver, address, k)
    assert [sender._counters[i] for i in (16, 17, 24, 25)] == [3, 6, 2, 4]
    close(sender, receiver)


def test_a_program_that_knows_only_the_readme_can_read_a_ring(place):
    address = address_of(place.run_id, "dense", channel=4)
    sender = transports.create("shm", address, place, 2, 100)
    name = "/tvls-" + hashlib.sha256(b"tvb-lockstep ring" + place.run_id).hexdigest()[:32] + "-4"
    segment = posix_ipc.SharedMemory(name)
    memory = mmap.mmap(segment.fd, segment.size)
    segment.close_fd()
    filled, free = posix_ipc.Semaphore(f"{name}.filled"), posix_ipc.Semaphore(f"{name}.free")
    for unlink, each in (
        (posix_ipc.unlink_semaphore, f"{name}.filled"),
        (posix_ipc.unlink_semaphore, f"{name}.free"),
        (posix_ipc.unlink_shared_memory, name),
    ):
        unlink(each)
    head = struct.unpack_from("<8sII16sIIQQ", memory)
    assert head == (b"TVLSRING", 1, 4, place.run_id, 2, 0, 128, os.getpid())
    writer = threading.Thread(target=send, args=(sender, address, "dense", 7, 50))  # 80 + 2000 bytes
    writer.start()
    taken, slot, total = b"", 0, 80
    while len(taken) < total:
        filled.acquire(60)
        taken += memory[4096 + slot * 128 : 4096 + (slot + 1) * 128]
        free.release()
        slot = (slot + 1) % 2
        total = 80 + struct.unpack_from("<Q", taken, 64)[0]
    writer.join()
    taken = taken[:total]
    assert struct.unpack_from("<II", taken, 72) == (zlib.crc32(taken[:72] + bytes(8) + taken[80:]), 0)
    assert np.array_equal(np.frombuffer(taken, "<f8", offset=80).reshape(50, 5), payload_of("dense", 7, 50))
    sender.close()
    memory.close()


# ---- files -----------------------------------------------------------------------------------------------------


def folder_of(place: Place, kind: str = "dense") -> Path:
    return place.run_dir / "exchange" / f"{kind}0.raw"


def test_numpy_reads_a_frame_file_without_any_of_our_code(place, kind):
    address, sender, receiver = open_channel("file", place, kind)
    send(sender, address, kind, 5)
    path = folder_of(place, kind) / "000000000005_20-24.npy"
    for mode in (None, "r"):
        data = np.load(path, allow_pickle=False, mmap_mode=mode)
        if kind == "dense":
            assert data.dtype == np.float64 and data.flags.c_contiguous
            assert np.array_equal(data, payload_of(kind, 5))
        else:
            assert data.dtype == SPIKE_RECORD and data.dtype.itemsize == 12
            assert same(Spikes(data["time"], data["sender"]), payload_of(kind, 5))
    close(sender, receiver)


@pytest.mark.parametrize("rows", [0, 1, 10**15])
def test_the_npy_header_has_one_length_whatever_the_shape(rows):
    for number, shape in ((1, (rows, 4294967295)), (SPIKES, (rows,))):
        stream = io.BytesIO(file.npy_header(number, rows, 4294967295))
        assert npy.read_magic(stream) == (1, 0)
        found, fortran, dtype = npy.read_array_header_1_0(stream)
        assert (found, fortran, stream.tell()) == (shape, False, 128)
        assert dtype == (SPIKE_RECORD if number == SPIKES else np.float64)


@pytest.mark.parametrize(("keep", "left"), [(-1, [0, 1, 2, 3, 4]), (2, [3, 4]), (0, [])])
def test_frames_are_kept_as_long_as_the_experiment_says(place, keep, left):
    address, sender, receiver = open_channel("file", place._replace(keep=keep), depth=9)
    for k in range(5):
        send(sender, address, "dense", k)
    for k in range(5):
        receive(receiver, address, k)
    assert sorted(int(path.name[:12]) for path in folder_of(place).glob("*.npy")) == left
    send(sender, address, "dense", 5)  # a frame not yet taken is never removed
    close(sender, receiver)
    assert sorted(int(path.name[:12]) for path in folder_of(place).glob("*.npy")) == [*left, 5]


def test_a_frame_that_a_person_removed_after_it_was_read_is_not_missed(place):
    address, sender, receiver = open_channel("file", place._replace(keep=1))
    for k in range(3):
        send(sender, address, "dense", k)
        receive(receiver, address, k)
        for path in folder_of(place).glob("*.npy"):
            path.unlink()
    close(sender, receiver)


def test_the_cursor_holds_the_frame_that_is_taken_next(place):
    address, sender, receiver = open_channel("file", place)
    assert (folder_of(place) / "cursor").read_bytes() == b""
    for k in range(3):
        send(sender, address, "dense", k)
    for k in range(2):
        receive(receiver, address, k)
    assert (folder_of(place) / "cursor").read_bytes() == (2).to_bytes(8, "little")
    close(sender, receiver)


def test_a_program_that_knows_only_the_readme_can_write_a_frame_file(place):
    address, sender, receiver = open_channel("file", place)
    payload = np.arange(10.0).reshape(2, 5)
    head = struct.pack("<4sHH16sIIQqqQQII", b"TVLS", 1, 1, place.run_id, 0, 5, 0, 0, 4, 2, 80, 0, 0)
    head = head[:72] + struct.pack("<II", zlib.crc32(head + payload.tobytes()), 0)
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 5), }"
    npy_head = (b"\x93NUMPY\x01\x00\x76\x00" + text).ljust(127) + b"\n"
    temporary = place.run_dir / "exchange" / "tmp" / "dense0.raw.npy"
    temporary.write_bytes(npy_head + payload.tobytes() + head)
    temporary.rename(folder_of(place) / "000000000000_0-4.npy")
    assert np.array_equal(receive(receiver, address, 0), payload)
    close(sender, receiver)


def test_channel_json_says_what_the_columns_are(place):
    address = address_of(place.run_id, "dense")
    describe = {"unit": "Hz", "labels": ("E@a", "E@b"), "dt_ms": 0.1, "equation": "y = 2 x"}
    file.create(address, place, 4, 512, describe).close()
    described = json.loads((folder_of(place) / "channel.json").read_text())
    assert described == {
        "run_id": place.run_id.hex(), "channel": 0, "name": "dense0.raw", "kind": "dense", "columns": 5,
        "layout_version": 1, "wire_version": 1, "unit": "Hz", "labels": ["E@a", "E@b"], "dt_ms": 0.1,
        "equation": "y = 2 x",
    }  # fmt: skip


def test_folders_and_files_belong_to_their_user_alone(place):
    before = os.umask(0)
    try:
        address, sender, receiver = open_channel("file", place)
        send(sender, address, "dense", 0)
    finally:
        os.umask(before)
    modes = {str(p.relative_to(place.run_dir)): stat.S_IMODE(p.stat().st_mode) for p in place.run_dir.rglob("*")}
    assert modes == {
        "exchange": 0o700, "exchange/tmp": 0o700, "exchange/dense0.raw": 0o700,
        "exchange/dense0.raw/channel.json": 0o600, "exchange/dense0.raw/cursor": 0o600,
        "exchange/dense0.raw/000000000000_0-4.npy": 0o600,
    }  # fmt: skip
    close(sender, receiver)


def test_a_folder_that_others_may_write_is_refused(place):
    address, sender, receiver = open_channel("file", place)
    folder_of(place).chmod(0o777)
    for open_end in (lambda: file.create(address, place, 4, 512), lambda: file.attach(address, place)):
        with pytest.raises(RunDirectoryError, match="mode: expected 0o40700, found 0o40777"):
            open_end()
    close(sender, receiver)


@pytest.mark.parametrize(
    ("field", "value"), [("layout_version", 2), ("run_id", "00"), ("channel", 9), ("kind", "spikes"), ("columns", 6)]
)
def test_a_folder_that_is_not_as_expected_is_refused_with_the_field_and_both_values(place, field, value):
    address = address_of(place.run_id, "dense")
    file.create(address, place, 4, 512).close()
    path = folder_of(place) / "channel.json"
    described = json.loads(path.read_text())
    expected = described[field]
    path.write_text(json.dumps({**described, field: value}))
    with pytest.raises(RunDirectoryError, match=f"{field}: expected {expected}, found {value}"):
        file.attach(address, place)


def test_a_writer_refuses_a_folder_with_frames_of_another_run(place):
    address, sender, receiver = open_channel("file", place)
    send(sender, address, "dense", 0)
    close(sender, receiver)
    other = place._replace(run_id=os.urandom(16))
    with pytest.raises(RunDirectoryError) as refusal:
        file.create(address._replace(run_id=other.run_id), other, 4, 512)
    assert place.run_id.hex() in str(refusal.value) and other.run_id.hex() in str(refusal.value)
    (folder_of(place) / "channel.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"holds .* without a channel\.json"):
        file.create(address._replace(run_id=other.run_id), other, 4, 512)


def test_a_producer_and_a_consumer_of_the_same_run_go_on_where_their_predecessors_ended(place):
    for start in (0, 3):
        address, sender, receiver = open_channel("file", place, depth=1)
        for k in range(start, start + 3):
            send(sender, address, "dense", k)
            assert same(receive(receiver, address, k), payload_of("dense", k))
        close(sender, receiver)


@pytest.mark.parametrize("cut", [0, 1, 127, 128, 207, 208, 240, 287])
def test_a_truncated_frame_file_is_refused(place, cut):
    address, sender, receiver = open_channel("file", place)
    send(sender, address, "dense", 0, rows=2)  # 128 + 80 + 80 bytes
    path = folder_of(place) / "000000000000_0-4.npy"
    assert path.stat().st_size == 288
    os.truncate(path, cut)
    with pytest.raises(FrameError, match=r"file length|magic|dense0\.raw: a frame is refused"):
        receive(receiver, address, 0)
    assert path.exists()  # it is evidence
    close(sender, receiver)


@pytest.mark.parametrize("at", [0, 6, 8, 10, 40, 127, 128, 200, 207, 208, 287])
def test_a_changed_byte_of_a_frame_file_is_refused(place, at):
    address, sender, receiver = open_channel("file", place)
    send(sender, address, "dense", 0, rows=2)
    path = folder_of(place) / "000000000000_0-4.npy"
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    field = r"\.npy header" if at < 128 else "CRC-32" if at < 208 else "magic|reserved"
    with pytest.raises(FrameError, match=field):
        receive(receiver, address, 0)
    close(sender, receiver)


@contextlib.contextmanager
def tiny_file_system(folder: Path, options: str):
    """A tmpfs on `folder`; skips the test where one may not be mounted."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_partial_file_removed(place):
    with tiny_file_system(place.run_dir, "size=64k,mode=0700"):
        address, sender, receiver = open_channel("file", place, depth=99)
        with pytest.raises(RunDirectoryError, match=r"\.npy: No space left on device \(ENOSPC\).*exchange\.keep"):
            for k in range(99):
                send(sender, address, "dense", k, rows=100)  # of 4 KB
        sent = sorted((place.run_dir / "exchange" / "dense0.raw").glob("*.npy"))
        assert 3 <= len(sent) == k < 16
        assert list((place.run_dir / "exchange" / "tmp").iterdir()) == []
        for i in range(k):  # what was sent before is whole
            assert same(receive(receiver, address, i), payload_of("dense", i, 100))
        close(sender, receiver)


def test_a_read_only_folder_is_named(place):
    with tiny_file_system(place.run_dir, "size=64k,mode=0700"):
        address, sender, receiver = open_channel("file", place)
        receiver.close()
        subprocess.run(["mount", "-o", "remount,ro", str(place.run_dir)], check=True)
        with pytest.raises(RunDirectoryError, match=r"Read-only file system \(EROFS\).*choose another --run-dir"):
            send(sender, address, "dense", 0)
        sender.close()


def test_a_write_that_comes_up_short_is_finished(place, monkeypatch):
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [bytes(parts[0])[:50]]))
    address, sender, receiver = open_channel("file", place)
    send(sender, address, "dense", 0, rows=9)
    assert same(receive(receiver, address, 0), payload_of("dense", 0, 9))
    close(sender, receiver)


def test_a_write_that_fails_halfway_leaves_no_partial_file(place, monkeypatch):
    def full(fd, parts):
        os.write(fd, parts[0])
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "writev", full)
    address, sender, receiver = open_channel("file", place)
    with pytest.raises(RunDirectoryError, match=r"Disk quota exceeded \(EDQUOT\)"):
        send(sender, address, "dense", 0)
    assert list((place.run_dir / "exchange" / "tmp").iterdir()) == []
    close(sender, receiver)


def test_a_folder_that_vanished_is_named_by_both_ends(place):
    address, sender, receiver = open_channel("file", place)
    shutil.rmtree(place.run_dir / "exchange")
    for end in (lambda: send(sender, address, "dense", 0), lambda: receive(receiver, address, 0)):
        with pytest.raises(RunDirectoryError, match=r"ENOENT.*was removed while the run used it"):
            end()
    close(sender, receiver)


@pytest.mark.parametrize("name", ["a/b", "..", "tmp", ""])
def test_a_channel_name_that_is_no_folder_is_refused(place, name):
    with pytest.raises(RunDirectoryError, match="cannot be that of a folder"):
        file.create(address_of(place.run_id, "dense")._replace(name=name), place, 4, 512)


def sent_late(place, caplog, n=3, delay_s=0.03) -> tuple[list[float], list[str], object]:
    """Frames that each make the receiver wait: its waits, what was logged, and the receiver."""
    address, sender, receiver = open_channel("file", place)
    waits = []
    with caplog.at_level(logging.WARNING):
        for k in range(n):
            before = receiver.waited_s
            timer = threading.Timer(delay_s, send, (sender, address, "dense", k))
            timer.start()
            assert same(receive(receiver, address, k), payload_of("dense", k))
            timer.join()
            waits.append(receiver.waited_s - before)
    close(sender, receiver)
    return waits, [record.getMessage() for record in caplog.records], receiver


def test_long_waits_are_ended_by_events_of_the_file_system(place, caplog, monkeypatch):
    # without events the receiver would look again only after half of CHECK_S
    waits, messages, receiver = sent_late(place, caplog, n=5)
    assert sorted(waits)[2] < CHECK_S / 2
    assert messages == [] and receiver._no_events == 0


def test_short_waits_need_no_watching_threads(place):
    address, sender, receiver = open_channel("file", place)
    send(sender, address, "dense", 0)
    receive(receiver, address, 0)
    assert receiver._events is None
    close(sender, receiver)


def test_without_file_events_frames_are_found_by_looking_and_it_is_said_once(place, caplog, monkeypatch):
    monkeypatch.setattr(file, "_told_no_events", False)

    def exhausted(_self, _folder):
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(file._Events, "__init__", exhausted)
    waits, messages, _ = sent_late(place, caplog)
    assert len(messages) == 1 and "inotify watch limit reached" in messages[0]
    assert all(wait >= 0.02 for wait in waits)


def test_a_file_system_whose_events_never_come_is_recognised(place, caplog, monkeypatch):
    monkeypatch.setattr(file, "_told_no_events", False)
    monkeypatch.setattr(file._Events, "dispatch", lambda self, event: None)
    _, messages, receiver = sent_late(place, caplog, n=4)
    assert len(messages) == 1 and "frames came without one" in messages[0]
    assert receiver._events is None


def test_leftovers_of_another_run_in_the_folder_stay(place):
    _address, sender, receiver = open_channel("file", place)
    temporary = place.run_dir / "exchange" / "tmp" / "dense0.raw.npy"
    temporary.write_bytes(b"partial")
    assert file.cleanup(place._replace(run_id=os.urandom(16))) == []
    assert temporary.exists()
    assert file.cleanup(place) == ["exchange/tmp/dense0.raw.npy"]
    assert not temporary.exists()
    close(sender, receiver)
