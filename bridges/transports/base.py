"""The one interface of all transports: a sender and a receiver per channel, bounded, in order, one of each.

``create`` is called by the producer, ``attach`` by the consumer, once the producer's ready page is out.

    sender = shm.create(address, place, depth=8, slot_bytes=…)     receiver = shm.attach(address, place)
    sender.send(frame_header, frame_body, sequence, t0, t1, check) receiver.receive(sequence, t0, t1, check)

Waiting: both calls block as long as it takes. `check(waited_s)` gets the seconds that the call has waited so far; it
is called from time to time while they wait (at least every CHECK_S seconds); it returns, or raises when the peer is
gone or this program was interrupted. A time-out never leads to other data. `waited_s` sums up what was spent blocked.

After an exception in the middle of a frame (it takes several slots) an end is of no further use, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..frame import Address

Check = Callable[[float], None]

CHECK_S = 0.2  # longest sleep between two looks at whether the peer still lives


class Place(NamedTuple):
    """Where a channel's frames meet: the run directory, and the run's id (which also names shared memory)."""

    run_dir: Path
    run_id: bytes
    keep: int  # file transport: frames kept after they were read; -1 keeps all
    link: str = ""  # tells the channel of two programs from the one before, when either of them was resumed


class Sender(Protocol):
    waited_s: float

    def send(self, header: bytes, body: memoryview, sequence: int, t0: int, t1: int, check: Check) -> None:
        """Publish one frame; blocks while the channel is full. `body` may be reused as soon as this returns."""

    def start_at(self, sequence: int) -> None:
        """The first frame to be sent is `sequence`; called before the consumer reads. What a predecessor of this end
        left of it and of later ones is removed."""

    def close(self) -> None:
        """What was sent stays readable, also for a receiver that attaches later."""


class Receiver(Protocol):
    waited_s: float

    def receive(self, sequence: int, t0: int, t1: int, check: Check) -> tuple[bytes | memoryview, bytes | memoryview]:
        """Header and body of the next frame, unchecked but for the length that the header promises."""

    def close(self) -> None: ...


class Transport(Protocol):
    """What each module of this package offers."""

    def create(
        self, address: Address, place: Place, depth: int, slot_bytes: int, describe: dict[str, Any] | None = None
    ) -> Sender:
        """The producing end. depth: frames (of at most slot_bytes, header included) that may wait for the consumer.

        describe: units, labels, dt and equation, for people; only the file transport writes it down.
        Raises RunDirectoryError when there is no room, or when a live producer already holds the channel.
        """

    def attach(self, address: Address, place: Place) -> Receiver:
        """The consuming end. Raises RunDirectoryError when the channel is missing, foreign or of another layout."""

    def cleanup(self, place: Place, dry_run: bool = False) -> list[str]:
        """Remove what dead programs of this run left, and nothing of any other run; the names of what was removed.

        dry_run: only name it.
        """
