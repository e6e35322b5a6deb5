"""How frames get from producer to consumer: `memory`, `shm` or `file`, each with the interface in base.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ExperimentError
from ..frame import Address
from . import file, memory, shm
from .base import Place, Receiver, Sender, Transport

TRANSPORTS: dict[str, Transport] = {"memory": memory, "shm": shm, "file": file}


def create(
    transport: str, address: Address, place: Place, depth: int, slot_bytes: int, describe: dict[str, Any] | None = None
) -> Sender:
    """The producing end of a channel; see `base.Transport.create`."""
    return _named(transport).create(address, place, depth, slot_bytes, describe)


def attach(transport: str, address: Address, place: Place) -> Receiver:
    """The consuming end of a channel; see `base.Transport.attach`."""
    return _named(transport).attach(address, place)


def remove_leftovers(run_dir: Path, run_id: bytes, dry_run: bool = False) -> list[str]:
    """Remove what dead programs of run `run_id` left in shared memory and in its run directory; their names.

    dry_run: only name it.
    """
    place = Place(run_dir, run_id, -1)
    return [name for transport in TRANSPORTS.values() for name in transport.cleanup(place, dry_run)]


def _named(transport: str) -> Transport:
    if transport not in TRANSPORTS:
        raise ExperimentError(
            f"exchange.transport = {transport!r}: no such transport; there is {', '.join(TRANSPORTS)}."
        )
    return TRANSPORTS[transport]
