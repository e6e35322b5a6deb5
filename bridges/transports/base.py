"""The one interface of all transports: a sender and a receiver per channel, bounded, in order, one of each.

``create`` is called by the producer, ``attach`` by the consumer, once the producer's ready page is out.

    sender = shm.create(address, place, depth=8, slot_bytes=…)     receiver = shm.attach(address, place)
    sender.send(frame_header, frame_body, sequence, t0, t1, check) receiver.receive(sequence, t0, t1, check)

Waiting: both calls block as long as it takes. `check(waited_s)` is called from time to time while they wait (at least
every CHECK_S seconds); it returns, or raises when the peer is gone or this program was interrupted. A time-out never
leads to other data. `waited_s` sums up what was spent blocked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

Check = Callable[[float], None]

CHECK_S = 0.2  # longest sleep between two looks at whether the peer still lives


class Place(NamedTuple):
    """Where a channel's frames meet: the run directory, and the run's id (which also names shared memory)."""

    run_dir: Path
    run_id: bytes
    keep: int  # file transport: frames kept after they were read; -1 keeps all


class Sender(Protocol):
    waited_s: float

    def send(self, header: bytes, body: memoryview, sequence: int, t0: int, t1: int, check: Check) -> None:
        """Publish one frame; blocks while the channel is full."""

    def close(self) -> None: ...


class Receiver(Protocol):
    waited_s: float

    def receive(self, sequence: int, t0: int, t1: int, check: Check) -> tuple[bytes | memoryview, bytes | memoryview]:
        """Header and body of the next frame, unchecked but for the length that the header promises."""

    def close(self) -> None: ...
