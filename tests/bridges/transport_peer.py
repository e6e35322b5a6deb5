"""One end of a channel as a program of its own, for test_transports.py: produce or consume numbered frames.

    python transport_peer.py produce|consume TRANSPORT RUN_DIR RUN_ID_HEX JSON_OPTIONS

What frame `k` holds follows from `k` alone, so that the consumer can tell every one of them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tvb_lockstep.bridges import transports
from tvb_lockstep.bridges.frame import DENSE, HEADER_BYTES, SPIKES, Address, Spikes, decode, encode
from tvb_lockstep.bridges.transports import file, shm
from tvb_lockstep.bridges.transports.base import Place

COLUMNS = 5
TICKS = 4  # per window


def address_of(run_id: bytes, kind: str, channel: int = 0) -> Address:
    number = {"dense": DENSE, "spikes": SPIKES}[kind]
    return Address(run_id, channel, f"{kind}{channel}.raw", number, COLUMNS)


def payload_of(kind: str, k: int, rows: int | None = None):
    """Frame `k`: k % 3 rows of k + 0.25 j, or k % 7 spikes at the window's first and last tick."""
    if kind == "dense":
        return k + np.arange((k % 3 if rows is None else rows) * COLUMNS).reshape(-1, COLUMNS) * 0.25
    n = k % 7 if rows is None else rows
    times = np.where(np.arange(n) < n // 2, k * TICKS, k * TICKS + TICKS - 1)
    return Spikes(times.astype(np.int64), ((np.arange(n) + k) % COLUMNS).astype(np.int32))


def same(a, b) -> bool:
    if isinstance(a, Spikes):
        return np.array_equal(a.times, b.times) and np.array_equal(a.senders, b.senders)
    return a.shape == b.shape and np.array_equal(a, b)


def no_check(waited_s: float) -> None:
    if waited_s > 60:
        raise TimeoutError(f"waited {waited_s} s: the other end does not answer")


def send(sender, address: Address, kind: str, k: int, rows: int | None = None, check=no_check) -> None:
    t0, t1 = k * TICKS, (k + 1) * TICKS
    sender.send(*encode(address, k, t0, t1, payload_of(kind, k, rows)), k, t0, t1, check)


def receive(receiver, address: Address, k: int, check=no_check):
    t0, t1 = k * TICKS, (k + 1) * TICKS
    return decode(*receiver.receive(k, t0, t1, check), address, k, t0, t1)


def produce(transport: str, place: Place, n: int, *, kind: str = "dense", channel: int = 0, depth: int = 4,
            slot_bytes: int = 512, rows: int | None = None, sleep_s: float = 0.0, die: str = "", linger: bool = False,
            ready=None) -> dict:  # fmt: skip
    address = address_of(place.run_id, kind, channel)
    sender = transports.create(transport, address, place, depth, slot_bytes)
    (ready or tell)("created")
    for k in range(n):
        if die and k == n - 1:
            arrange_death(transport, die)
        send(sender, address, kind, k, rows)
        time.sleep(sleep_s)
    if linger:
        (ready or tell)("sent")
        time.sleep(600)
    sender.close()
    return {"waited_s": sender.waited_s}


def consume(transport: str, place: Place, n: int, *, kind: str = "dense", channel: int = 0, rows: int | None = None,
            sleep_s: float = 0.0, linger: bool = False, ready=None) -> dict:  # fmt: skip
    address = address_of(place.run_id, kind, channel)
    receiver = transports.attach(transport, address, place)
    (ready or tell)("attached")
    for k in range(n):
        time.sleep(sleep_s)
        assert same(receive(receiver, address, k), payload_of(kind, k, rows)), f"frame {k} differs"
    if linger:
        (ready or tell)("taken")
        time.sleep(600)
    receiver.close()
    return {"waited_s": receiver.waited_s, "taken": n}


def arrange_death(transport: str, where: str) -> None:
    """Have the next frame's write end in SIGKILL: in its middle ("payload"), or when all is written ("publish")."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if transport == "shm" and where == "publish":
        shm.ShmSender._post = die
    elif transport == "shm":

        def half(self, header, body, *_):
            self._wait(self._free, no_check)
            self._memory[self._at : self._at + HEADER_BYTES] = header
            self._memory[self._at + HEADER_BYTES : self._at + HEADER_BYTES + len(body) // 2] = body[: len(body) // 2]
            die()

        shm.ShmSender.send = half
    elif where == "publish":
        os.rename = die
    else:

        def half_write(fd, parts):
            os.write(fd, parts[0] + bytes(parts[1][: len(parts[1]) // 2]))
            die()

        file._write_all = half_write


def tell(word: str) -> None:
    print(word, flush=True)


if __name__ == "__main__":
    role, transport, run_dir, run_id, options = sys.argv[1:]
    place = Place(Path(run_dir), bytes.fromhex(run_id), -1)
    options = json.loads(options)
    place = place._replace(keep=options.pop("keep", -1))
    tell(json.dumps({"produce": produce, "consume": consume}[role](transport, place, **options)))
