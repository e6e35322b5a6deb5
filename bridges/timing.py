"""Where the time of each window went: one row per window in a memory-mapped .npy file, to be read meanwhile."""

from __future__ import annotations

import math
import mmap
import os
import shutil
import struct
from pathlib import Path

import numpy as np

from .errors import RunDirectoryError

# window_start and simulate_start are points in time [unix s]; the others are durations [s].
COLUMNS = ("window_start", "simulate_start", "simulate", "transform", "exchange", "wait")
DURATIONS = COLUMNS[2:]

_ROW = struct.Struct(f"<{len(COLUMNS)}d")
_FILL_ROWS = 8192


class Timing:
    """The writer. Rows of windows that were not run stay NaN.

    path: the file to make, (n_windows, 6) float64. kept: a file that is there is continued, and the rows that it has
    stay: a resumed program goes through those windows again, but that is not when they were run. Raises
    RunDirectoryError when the file cannot be made, or holds windows already and is not to be kept.
    """

    def __init__(self, path: Path, n_windows: int, kept: bool = False) -> None:
        self._kept: set[int] = set()
        before = read(path) if path.exists() else None
        if before is not None and len(recorded(before)):
            if not kept:
                raise RunDirectoryError(
                    f"{path} already holds the timing of an earlier run. Choose a new run directory."
                )
            self._kept = set(recorded(before).tolist())
        try:
            if before is None or len(before) != n_windows:
                self._start = _make(path, n_windows)
            else:
                self._start = path.stat().st_size - n_windows * _ROW.size
            with open(path, "r+b") as file:
                self._map = mmap.mmap(file.fileno(), 0)
        except OSError as error:
            raise RunDirectoryError(
                f"The timing {path} cannot be written: {error.strerror}. Choose a run directory with free space on a "
                f"file system that this user can write to."
            ) from None
        self.n_windows = n_windows

    @classmethod
    def create(cls, run_dir: Path, peer: str, n_windows: int, kept: bool = False) -> Timing:
        """The timing of program `peer` at its place in a run directory, ``timing/NAME.npy``."""
        (run_dir / "timing").mkdir(mode=0o700, exist_ok=True)
        return cls(run_dir / "timing" / f"{peer}.npy", n_windows, kept)

    def row(
        self, k: int, window_start: float, simulate_start: float, simulate: float, transform: float, exchange: float,
        wait: float,
    ) -> None:  # fmt: skip
        """Write window `k`: two points in time [unix s] and four durations [s]."""
        if not 0 <= k < self.n_windows:
            raise IndexError(f"window {k}: the run has windows 0 to {self.n_windows - 1}.")
        if k in self._kept:
            return
        at = self._start + k * _ROW.size
        _ROW.pack_into(self._map, at, window_start, simulate_start, simulate, transform, exchange, wait)

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Timing:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(path: Path) -> np.ndarray:
    """The file as a read-only memory map, (n_windows, 6) float64; rows of windows not (yet) run are NaN."""
    try:
        data = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"The timing {path} cannot be read: {error}.") from None
    if data.ndim != 2 or data.shape[1] != len(COLUMNS) or data.dtype != np.dtype("<f8"):
        raise RunDirectoryError(
            f"The timing {path} has shape {data.shape} and type {data.dtype}, expected (n_windows, {len(COLUMNS)}) "
            f"float64: {', '.join(COLUMNS)}."
        )
    return data


def recorded(data: np.ndarray) -> np.ndarray:
    """The windows that have a row, ascending."""
    return np.flatnonzero(~np.isnan(data[:, 0]))


def _make(path: Path, n_windows: int) -> int:
    """Write the file full of NaN and give where its rows start. It is written, not only mapped, so that a full disk is
    an error here and not a SIGBUS in the middle of the run; and renamed, so that no reader sees half of it."""
    size, free = n_windows * _ROW.size, shutil.disk_usage(path.parent).free
    if size > free:
        raise RunDirectoryError(
            f"The timing {path} of {n_windows} windows takes {size} bytes, and {free} are free there. Choose a run "
            f"directory with more space, a shorter duration, or a longer exchange.synchronization_time."
        )
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f8", "fortran_order": False, "shape": (n_windows, len(COLUMNS))}
            )
            start = file.tell()
            empty = _ROW.pack(*[math.nan] * len(COLUMNS))
            for first in range(0, n_windows, _FILL_ROWS):
                file.write(empty * min(_FILL_ROWS, n_windows - first))
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return start
