"""Frames between threads of one process: for tests, and for the run with everything in one environment."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any

from ..errors import RunDirectoryError
from ..frame import Address
from .base import CHECK_S, Check, Place


class _Channel:
    """Frames on their way, and as many tokens as there is room for further ones."""

    def __init__(self, depth: int) -> None:
        self.frames: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
        self.free: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self.free.put(None)


# channels created and not yet attached, by run id, channel number and link
_channels: dict[tuple[bytes, int, str], _Channel] = {}
_lock = threading.Lock()


def create(
    address: Address, place: Place, depth: int, slot_bytes: int, describe: dict[str, Any] | None = None
) -> MemorySender:
    """The producing end of a channel that holds `depth` frames of any size."""
    with _lock:
        if (address.run_id, address.channel, place.link) in _channels:
            raise RunDirectoryError(
                f"channel {address.name}: another producer in this process has already created it. Each channel of "
                f"a run has one producer; end the other one first."
            )
        channel = _channels[address.run_id, address.channel, place.link] = _Channel(depth)
    return MemorySender(channel)


def attach(address: Address, place: Place) -> MemoryReceiver:
    with _lock:
        channel = _channels.pop((address.run_id, address.channel, place.link), None)
    if channel is None:
        raise RunDirectoryError(
            f"channel {address.name}: there is no producer of run {address.run_id.hex()}, channel {address.channel} in "
            f"this process, or it already has its consumer. With exchange.transport = \"memory\" all programs run in "
            f"one process (lockstep run); choose shm or file for programs of their own."
        )
    return MemoryReceiver(channel)


def cleanup(place: Place, dry_run: bool = False) -> list[str]:
    with _lock:
        left = [key for key in _channels if key[0] == place.run_id]
        for key in [] if dry_run else left:
            del _channels[key]
    return [f"memory channel {number}" for _, number, _ in left]


class _End:
    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self.waited_s = 0.0

    def _get(self, queue: SimpleQueue[Any], check: Check) -> Any:
        if not queue.empty():  # each queue has one reader
            return queue.get()
        begun = perf_counter()
        try:
            while True:
                try:
                    return queue.get(timeout=CHECK_S)
                except Empty:
                    check(perf_counter() - begun)
        finally:
            self.waited_s += perf_counter() - begun

    def close(self) -> None:
        pass


class MemorySender(_End):
    def start_at(self, sequence: int) -> None:
        """A channel is always a new one."""

    def send(self, header: bytes, body: memoryview, sequence: int, t0: int, t1: int, check: Check) -> None:
        self._get(self._channel.free, check)
        self._channel.frames.put((header, bytes(body)))


class MemoryReceiver(_End):
    def receive(self, sequence: int, t0: int, t1: int, check: Check) -> tuple[bytes, bytes]:
        frame = self._get(self._channel.frames, check)
        self._channel.free.put(None)
        return frame
