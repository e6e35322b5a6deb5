"""What one lock-step window costs through each transport, without any simulator.

Two programs exchange, per window, a dense frame of 68 regions in each direction, and a frame of spikes from the
spiking to the TVB side. Both send, then both receive (parallel mode). Beside the transports, with the same bytes: two
bare POSIX semaphores and a mapped segment, in ping-pong (one side writes and posts; the other reads, writes, posts; the
first reads), and ZeroMQ PAIR sockets over ipc://. All ways take turns within each round; what is shown is the median of
rounds.

Where the two programs run decides what a wake-up costs, by a factor of six for the bare semaphores. So both cases are
measured: each program on a core of its own, as busy simulators are, and both on one core.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ..bridges import __version__, transports
from ..bridges.errors import LockstepError, PeerLost
from ..bridges.frame import DENSE, SPIKES, Address, Spikes, decode, encode
from ..bridges.transports.base import Place

REGIONS = 68
NEURONS, SPIKES_PER_WINDOW = 1000, 40
WAYS = ("bare", "zeromq", "memory", "shm", "file")
NAMES = {"bare": "bare semaphore + mmap", "zeromq": "ZeroMQ ipc://", "memory": "memory (threads)"}
PLACEMENTS = {"apart": "each program on a core of its own", "together": "both programs on one core"}
WARM_UP = 20  # windows, not counted
DEPTH = 8
PATIENCE_S = 60

Say = Callable[[Any], None]
Hear = Callable[[], Any]


class Job(NamedTuple):
    """One measurement: what both sides have to know."""

    way: str
    steps: int
    windows: int
    placement: str
    folder: str
    run_id: str

    def addresses(self) -> list[Address]:
        """TVB's dense channel, the spiking program's dense channel, and its spikes."""
        run_id = bytes.fromhex(self.run_id)
        return [
            Address(run_id, 0, "tvb.raw", DENSE, REGIONS),
            Address(run_id, 1, "spikenet.raw", DENSE, REGIONS),
            Address(run_id, 2, "spikes.raw", SPIKES, NEURONS),
        ]

    def payloads(self, k: int) -> list[Any]:
        """What the three channels carry in window `k`."""
        dense = np.random.default_rng(1).random((self.steps, REGIONS))
        first = k * self.steps
        times = np.sort(np.random.default_rng(2).integers(0, self.steps, SPIKES_PER_WINDOW))
        senders = np.random.default_rng(3).integers(0, NEURONS, SPIKES_PER_WINDOW, dtype=np.int32)
        return [dense, dense + 1.0, Spikes(first + times, senders)]


class Toolkit:
    """The product itself: frames encoded, sent, received, checked and decoded."""

    def __init__(self, job: Job, side: str, check: Callable[[float], None]) -> None:
        self._place = Place(Path(job.folder), bytes.fromhex(job.run_id), -1)
        self._job, self._check, self._steps = job, check, job.steps
        addresses = job.addresses()
        mine = slice(0, 1) if side == "tvb" else slice(1, 3)
        self._mine, self._theirs = addresses[mine], [a for a in addresses if a not in addresses[mine]]
        self._transport = transports.TRANSPORTS[job.way]
        slot_bytes = 80 + 8 * REGIONS * job.steps
        self._senders = [self._transport.create(a, self._place, DEPTH, slot_bytes) for a in self._mine]
        self._out = list(zip(self._senders, self._mine, job.payloads(0)[mine], strict=True))

    def attach(self) -> None:
        self._in = [(self._transport.attach(a, self._place), a) for a in self._theirs]

    def window(self, k: int) -> None:
        t0, t1, check = k * self._steps, (k + 1) * self._steps, self._check
        for sender, address, payload in self._out:
            if address.kind == SPIKES:
                payload = Spikes(payload.times + t0, payload.senders)
            header, body = encode(address, k, t0, t1, payload)
            sender.send(header, body, k, t0, t1, check)
        self._got = []
        for receiver, address in self._in:
            self._got.append(decode(*receiver.receive(k, t0, t1, check), address, k, t0, t1))

    def verify(self, k: int) -> bool:
        """Whether the last window brought what the other side sent in window `k`."""
        expected = self._job.payloads(k)
        expected = [expected[address.channel] for address in self._theirs]
        return all(
            np.array_equal(e, g) if isinstance(e, np.ndarray) else all(map(np.array_equal, tuple(e), tuple(g)))
            for e, g in zip(expected, self._got, strict=True)
        )

    def close(self) -> None:
        for end in [*self._senders, *(receiver for receiver, _ in getattr(self, "_in", []))]:
            end.close()
        self._transport.cleanup(self._place)


class _Bytes:
    """The bytes that the product's frames have, for the ways that know of bytes only."""

    def __init__(self, job: Job, side: str, check: Callable[[float], None]) -> None:
        self._job, self._side = job, side
        self._out = self._frames(0, side)
        self._got: list[bytes] = []
        self._sizes = [len(each) for each in self._frames(0, "spikenet" if side == "tvb" else "tvb")]

    def _frames(self, k: int, side: str) -> list[bytes]:
        frames = []
        for address, payload in zip(self._job.addresses(), self._job.payloads(k), strict=True):
            if (address.channel == 0) == (side == "tvb"):
                frames.append(b"".join(encode(address, k, k * self._job.steps, (k + 1) * self._job.steps, payload)))
        return frames

    def verify(self, k: int) -> bool:
        return self._got == self._frames(0, "spikenet" if self._side == "tvb" else "tvb")


class Bare(_Bytes):
    """Two semaphores and a segment, nothing else: the floor that a shared-memory transport stands on."""

    def __init__(self, job: Job, side: str, check: Callable[[float], None]) -> None:
        super().__init__(job, side, check)
        self._name = f"/tvls-bench-{job.run_id}"
        self._half = sum(map(len, self._frames(0, "tvb") + self._frames(0, "spikenet")))
        if side == "tvb":
            self._open(create=True)

    def _open(self, create: bool) -> None:
        import fcntl
        import mmap

        import posix_ipc

        flags = posix_ipc.O_CREX if create else 0
        segment = posix_ipc.SharedMemory(self._name, flags, mode=0o600, size=2 * self._half if create else 0)
        self._memory = mmap.mmap(segment.fd, 2 * self._half)
        if create:  # as a ring's producer: `lockstep clean` tells a left-over by it
            fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        segment.close_fd()
        self._ping = posix_ipc.Semaphore(f"{self._name}.ping", flags, mode=0o600)
        self._pong = posix_ipc.Semaphore(f"{self._name}.pong", flags, mode=0o600)

    def attach(self) -> None:
        if self._side == "spikenet":
            self._open(create=False)
            self._unlink()
            self.window = self._pong_window
        else:
            self.window = self._ping_window

    def _write(self, at: int) -> None:
        for data in self._out:
            self._memory[at : at + len(data)] = data
            at += len(data)

    def _read(self, at: int) -> None:
        self._got = []
        for size in self._sizes:
            self._got.append(self._memory[at : at + size])
            at += size

    def _ping_window(self, k: int) -> None:
        self._write(0)
        self._ping.release()
        self._pong.acquire(PATIENCE_S)
        self._read(self._half)

    def _pong_window(self, k: int) -> None:
        self._ping.acquire(PATIENCE_S)
        self._read(0)
        self._write(self._half)
        self._pong.release()

    def _unlink(self) -> None:
        import posix_ipc

        for unlink, name in (
            (posix_ipc.unlink_shared_memory, self._name),
            (posix_ipc.unlink_semaphore, f"{self._name}.ping"),
            (posix_ipc.unlink_semaphore, f"{self._name}.pong"),
        ):
            with contextlib.suppress(posix_ipc.ExistentialError):
                unlink(name)

    def close(self) -> None:
        self._unlink()
        self._memory.close()


class ZeroMQ(_Bytes):
    """PAIR sockets over ipc://, one message per frame."""

    def __init__(self, job: Job, side: str, check: Callable[[float], None]) -> None:
        super().__init__(job, side, check)
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, 1000 * PATIENCE_S)
        if side == "tvb":
            self._socket.bind(f"ipc://{job.folder}/zmq")

    def attach(self) -> None:
        if self._side == "spikenet":
            self._socket.connect(f"ipc://{self._job.folder}/zmq")

    def window(self, k: int) -> None:
        for data in self._out:
            self._socket.send(data)
        self._got = [self._socket.recv() for _ in self._sizes]

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def measure(job: Job, side: str, say: Say, hear: Hear, check: Callable[[float], None]) -> list[float]:
    """Run one side of `job`, in step with the other; seconds per window."""
    kind: type[Any] = {"bare": Bare, "zeromq": ZeroMQ}.get(job.way, Toolkit)
    with _on_core(job.placement, side):
        end = kind(job, side, check)
        try:
            say("created")
            hear()
            end.attach()
            say("attached")
            hear()
            window, seconds = end.window, []
            for k in range(WARM_UP):
                window(k)
            before = perf_counter()
            for k in range(WARM_UP, WARM_UP + job.windows):
                window(k)
                now = perf_counter()
                seconds.append(now - before)
                before = now
            if not end.verify(k):
                raise LockstepError(f"bench: {job.way} brought other data than was sent.")
            say("done")
            hear()
        finally:
            end.close()
    return seconds


@contextlib.contextmanager
def _on_core(placement: str, side: str) -> Iterator[None]:
    """This thread on the core that the placement wants for this side."""
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    os.sched_setaffinity(0, {cores[-1] if placement == "apart" and side == "spikenet" else cores[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Partner:
    """The spiking side, in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, word: Any) -> None:
        try:
            print(json.dumps(word), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._lost() from None

    def hear(self) -> Any:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise self._lost()
        return json.loads(line)

    def check(self, _waited_s: float) -> None:
        if self._process.poll() is not None:
            raise self._lost()

    def _lost(self) -> PeerLost:
        return PeerLost("bench: the other process ended early; its message is above.")

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]


def serve() -> None:
    """The spiking side: jobs on stdin, one JSON line each, until there are no more."""

    def hear() -> Any:
        line = sys.stdin.readline()
        if not line:
            sys.exit(1)
        return json.loads(line)

    def check(_waited_s: float) -> None:
        if os.getppid() != parent:
            sys.exit("bench: the first process ended early")

    parent = os.getppid()
    for line in iter(sys.stdin.readline, ""):
        measure(Job(*json.loads(line)), "spikenet", lambda word: print(json.dumps(word), flush=True), hear, check)


def _in_threads(job: Job) -> list[float]:
    """Both sides of `job` in this process."""
    there: SimpleQueue[Any] = SimpleQueue()
    back: SimpleQueue[Any] = SimpleQueue()

    def check(waited_s: float) -> None:
        if waited_s > PATIENCE_S:
            raise PeerLost("bench: the other thread ended early; its message is above.")

    other = threading.Thread(target=measure, args=(job, "spikenet", back.put, there.get, check), daemon=True)
    other.start()
    seconds = measure(job, "tvb", there.put, lambda: back.get(timeout=PATIENCE_S), check)
    other.join()
    return seconds


def bench(windows: int, rounds: int, steps: list[int], ways: tuple[str, ...] = WAYS) -> dict[str, Any]:
    """All ways, in turn within each round. Returns the figures, ready for JSON; times in microseconds per window."""
    placements = [p for p in PLACEMENTS if p != "apart" or len(os.sched_getaffinity(0)) > 1]
    seconds: dict[tuple[int, str, str], list[np.ndarray]] = {}
    partner = _Partner()
    try:
        for _ in range(rounds):
            for n_steps in steps:
                for placement in placements:
                    for way in ways:
                        with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
                            job = Job(way, n_steps, windows, placement, folder, os.urandom(16).hex())
                            if way == "memory":
                                taken = _in_threads(job)
                            else:
                                partner.say(job)
                                taken = measure(job, "tvb", partner.say, partner.hear, partner.check)
                        seconds.setdefault((n_steps, placement, way), []).append(np.array(taken) * 1e6)
    finally:
        partner.close()
    results = []
    for (n_steps, placement, way), per_round in seconds.items():
        medians = np.array([np.median(each) for each in per_round])
        bare = np.array([np.median(each) for each in seconds[n_steps, placement, "bare"]])
        results.append({
            "steps": n_steps, "placement": placement, "way": way,
            "bytes_each_way": [80 + 8 * REGIONS * n_steps, 160 + 8 * REGIONS * n_steps + 12 * SPIKES_PER_WINDOW],
            "median_us": float(np.median(medians)),
            "p99_us": float(np.median([np.percentile(each, 99) for each in per_round])),
            "ratio_to_bare": float(np.median(medians / bare)),
            "medians_of_rounds_us": [float(each) for each in medians],
        })  # fmt: skip
    return {
        "windows": windows, "rounds": rounds, "regions": REGIONS, "spikes_per_window": SPIKES_PER_WINDOW,
        "tvb-lockstep": __version__, "python": platform.python_version(), "numpy": np.__version__,
        "machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "results": results,
    }  # fmt: skip


def print_tables(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    results = figures["results"]
    for n_steps, placement in dict.fromkeys((r["steps"], r["placement"]) for r in results):
        rows = [r for r in results if (r["steps"], r["placement"]) == (n_steps, placement)]
        there, back = rows[0]["bytes_each_way"]
        table = Table(
            title=f"One window of {n_steps} step{'s' * (n_steps > 1)} x {REGIONS} regions both ways + "
            f"{SPIKES_PER_WINDOW} spikes ({there} + {back} bytes), {PLACEMENTS[placement]}",
            title_justify="left",
        )
        table.add_column("way")
        for heading in ("median [µs]", "p99 [µs]", "x bare"):
            table.add_column(escape(heading), justify="right")
        for row in rows:
            table.add_row(
                NAMES.get(row["way"], row["way"]), f"{row['median_us']:.1f}", f"{row['p99_us']:.1f}",
                f"{row['ratio_to_bare']:.2f}",
            )  # fmt: skip
        console.print(table)
    console.print(f"Median of {figures['rounds']} rounds of {figures['windows']} windows; {figures['cores']} cores.")


def write_json(figures: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    serve()
