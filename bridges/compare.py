"""Two runs side by side: what was asked for, with which versions, and the first and largest difference of every log.

Runs are compared by biological time, so that neither their windows nor their ticks have to be the same. Values are
equal when their bits are (NaN equals NaN); spikes are equal when the same neurons fire in the same steps, in whatever
order one step lists them. Logs are read in blocks: memory stays flat however long the runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import results
from .contract import Contract, Signal
from .errors import FrameError, RunDirectoryError
from .experiment import flatten
from .frame import DENSE, Spikes
from .grid import NS_PER_MS, Grid
from .peers import pages
from .recording import FrameIndex
from .results import Log

BLOCK_BYTES = 1 << 20
Names = tuple[str, str]  # what the two runs are called in texts


@dataclass(frozen=True)
class Difference:
    """One place where two logs differ.

    windows: its window in each run, and intervals_ms: those windows as [t0, t1); time_ms: start of the step, the time
    stamp of a monitor's sample, or the time of the spike. values: of both runs; how often the neuron fires then.
    """

    windows: tuple[int, int]
    intervals_ms: tuple[tuple[float, float], tuple[float, float]]
    time_ms: float
    label: str
    values: tuple[float, float]
    unit: str = ""
    spike: bool = False

    def text(self, names: Names) -> str:
        where = [
            f"window {k} [{t0:g}, {t1:g}) ms" for k, (t0, t1) in zip(self.windows, self.intervals_ms, strict=True)
        ]
        window = where[0] if where[0] == where[1] else f"{where[0]} of {names[0]}, {where[1]} of {names[1]}"
        at = f"{window}, at {self.time_ms:.10g} ms, {self.label}: "
        a, b = self.values
        if self.spike and 0 in (a, b):
            return f"{at}fires {_times(max(a, b)) if max(a, b) > 1 else ''}in {names[0] if a else names[1]} alone"
        if self.spike:
            return f"{at}fires {_times(a)}in {names[0]}, {_times(b)}in {names[1]}"
        unit = f" {self.unit}" if self.unit else ""
        return f"{at}{a!r}{unit} in {names[0]}, {b!r}{unit} in {names[1]}"


def _times(n: float) -> str:
    return "once " if n == 1 else f"{n:g} times "


def counted(n: int, what: str) -> str:
    """ "1 window", "2 windows" """
    return f"{n} {what}" + ("" if n == 1 else "s")


class Crowd(NamedTuple):
    """The window of the first run in which most spikes differ."""

    window: int
    interval_ms: tuple[float, float]
    spikes: int

    def text(self, names: Names) -> str:
        return (
            f"window {self.window} [{self.interval_ms[0]:g}, {self.interval_ms[1]:g}) ms, of {names[0]}: "
            f"{counted(self.spikes, 'differing spike')}"
        )


@dataclass
class LogComparison:
    """What came of one log. windows: compared of each run; end_ms: up to where both go.

    compared: values of the dense signal, or spikes of each run, before `end_ms`. differing: how many of them differ,
    spikes that only one run has. largest: by absolute value, or the `Crowd`.
    notes: what could not be compared, and why. comparable: whether anything was.
    """

    name: str
    kind: str
    windows: tuple[int, int] = (0, 0)
    end_ms: float = 0.0
    compared: tuple[int, int] = (0, 0)
    differing: int = 0
    differing_windows: int = 0
    first: Difference | None = None
    largest: Difference | Crowd | None = None
    notes: list[str] = field(default_factory=list)
    comparable: bool = True

    @property
    def identical(self) -> bool:
        return self.comparable and not self.differing


@dataclass
class RunComparison:
    """What came of two runs. experiment, versions, contract: by flat key, what differs, as two dicts."""

    experiment: tuple[dict[str, Any], dict[str, Any]]
    versions: tuple[dict[str, Any], dict[str, Any]]
    contract: tuple[dict[str, Any], dict[str, Any]]
    logs: list[LogComparison]

    @property
    def identical(self) -> bool:
        """Whether something could be compared, and all of that is the same."""
        return any(log.comparable for log in self.logs) and not any(log.differing for log in self.logs)


def compare_runs(run_1: Path, run_2: Path, names: Names = ("run 1", "run 2")) -> RunComparison:
    """Compare all that two runs recorded. Raises RunDirectoryError when one of them is no run."""
    contracts = results.read_contract(run_1), results.read_contract(run_2)
    asked = tuple(flatten(contract.experiment) for contract in contracts)
    both = set(pages(run_1)) & set(pages(run_2))  # in a replay one program ran alone
    versions = _versions(run_1, contracts[0], both), _versions(run_2, contracts[1], both)
    agreed = tuple(map(_agreed, contracts))
    return RunComparison(
        differing_keys(*asked), differing_keys(*versions), differing_keys(*agreed),
        compare_logs((run_1, run_2), contracts, names),
    )  # fmt: skip


def compare_logs(
    run_dirs: tuple[Path, Path], contracts: tuple[Contract, Contract], names: Names, only: set[str] | None = None
) -> list[LogComparison]:
    """Every log that one of the runs should have, or those named in `only`."""
    here = [
        {log.name: log for log in results.logs(run_dir, contract)}
        for run_dir, contract in zip(run_dirs, contracts, strict=True)
    ]
    found = []
    for name in dict.fromkeys([*here[0], *here[1]]):
        if only is None or name in only:
            pair = here[0].get(name), here[1].get(name)
            found.append(compare_log(pair, (contracts[0].grid, contracts[1].grid), names))
    return found


def compare_log(logs: tuple[Log | None, Log | None], grids: tuple[Grid, Grid], names: Names) -> LogComparison:
    """Compare one log of two runs; what stands in the way is said in its notes."""
    some = logs[0] or logs[1]
    assert some is not None
    found = LogComparison(some.name, some.signal.kind)
    absent = [name for log, name in zip(logs, names, strict=True) if log is None or not log.path.exists()]
    if absent:
        found.comparable = False
        found.notes.append("not recorded in either" if len(absent) == 2 else f"not in {absent[0]}")
        return found
    a, b = logs
    assert a is not None and b is not None
    if (a.signal.kind, a.signal.labels, a.signal.sizes) != (b.signal.kind, b.signal.labels, b.signal.sizes):
        found.comparable = False
        found.notes.append(
            f"of different columns: {_columns(a.signal)} in {names[0]}, {_columns(b.signal)} in {names[1]}"
        )
        return found
    streams = _Stream(a, grids[0], names[0], found.notes), _Stream(b, grids[1], names[1], found.notes)
    try:
        (_compare_dense if a.address.kind == DENSE else _compare_spikes)(found, *streams)
        ends = [stream.end_ns for stream in streams]
    finally:
        for stream in streams:
            stream.index.close()
    found.windows = streams[0].windows, streams[1].windows
    if found.windows[0] == 0 or found.windows[1] == 0:
        found.comparable = False
    found.end_ms = min(ends) / NS_PER_MS
    if ends[0] != ends[1]:
        found.notes.append(
            f"{names[0]} has {ends[0] / NS_PER_MS:g} ms, {names[1]} {ends[1] / NS_PER_MS:g} ms of it; compared up to "
            f"{found.end_ms:g} ms"
        )
    return found


def differing_keys(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The items of two flat dicts that the other does not have alike."""
    missing = object()
    keys = [key for key in {**a, **b} if a.get(key, missing) != b.get(key, missing)]
    return {key: a[key] for key in keys if key in a}, {key: b[key] for key in keys if key in b}


def _versions(run_dir: Path, contract: Contract, programs: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, about in results.programs(run_dir, contract).items():
        if name not in programs:
            continue
        own = {"toolkit": about.get("toolkit"), "python": about.get("python"), **(about.get("versions") or {})}
        found |= {f"{name}.{package}": version for package, version in own.items() if version is not None}
    for name, about in contract.spikenet.items():
        found[f"{name}.{about.get('simulator')}"] = about.get("version")
    return found


def _agreed(contract: Contract) -> dict[str, Any]:
    """What the programs made of the experiment: window, regions, channels, edges, populations."""
    spikenet = {
        name: {key: value for key, value in about.items() if key not in ("run_id", "version", "simulator")}
        for name, about in contract.spikenet.items()
    }
    grid = contract.grid
    return flatten({
        "grid": {"tick_ms": grid.tick_ms, "dt_ms": grid.dt_ms, "window_ms": grid.window_ms,
                 "duration_ms": grid.duration_ms},
        "tvb": contract.tvb,
        "spikenet": spikenet,
        "channels": {channel.name: channel.to_json() for channel in contract.channels},
    })  # fmt: skip


def _columns(signal: Signal) -> str:
    labels = ", ".join(signal.labels[:4]) + (", …" if len(signal.labels) > 4 else "")
    return f"{signal.columns} {'neurons' if signal.kind == 'spikes' else 'values'} ({labels})"


# ---- streams ---------------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Rows of a dense log in the order of time, and the window of each."""

    times_ns: np.ndarray
    windows: np.ndarray
    values: np.ndarray

    def cut(self, n: int) -> tuple[_Rows, _Rows]:
        return _Rows(*(each[:n] for each in self)), _Rows(*(each[n:] for each in self))

    def take(self, which: np.ndarray) -> _Rows:
        return _Rows(*(each[which] for each in self))


class _Stream:
    """A log read in blocks, up to its end or to the first damage, which is noted."""

    def __init__(self, log: Log, grid: Grid, name: str, notes: list[str]) -> None:
        self.log, self.grid, self.name, self._notes = log, grid, name, notes
        self.index: FrameIndex = log.open()
        self.windows = len(self.index)
        if self.index.damage is not None:
            notes.append(f"{name} ends with window {self.windows - 1}: {self.index.damage}")
        elif self.index.torn_bytes:
            notes.append(f"{name} ends with {self.index.torn_bytes} bytes of a frame that is not complete")

    @property
    def end_ns(self) -> int:
        return self.index.ticks(self.windows - 1)[1] * self.grid.tick_ns if self.windows else 0

    def window_at(self, time_ns: int) -> int:
        return time_ns // (self.grid.window_steps * self.grid.dt_ticks * self.grid.tick_ns)

    def interval_ms(self, k: int) -> tuple[float, float]:
        t0, t1 = self.grid.ticks(k)
        return self.grid.ms(t0), self.grid.ms(t1)

    def _payloads(self) -> Iterator[tuple[int, Any]]:
        for k in range(self.windows):
            try:
                yield k, self.index.payload(k)
            except FrameError as error:
                self._notes.append(f"{self.name} is damaged at window {k}: {error}")
                self.windows = k
                return

    def dense(self) -> Iterator[_Rows]:
        step_ns = self.grid.dt_ticks * self.grid.tick_ns
        parts: list[_Rows] = []
        held = 0
        for k, payload in self._payloads():
            if self.log.channel is None:  # a monitor says when its samples are
                times = np.rint(payload[:, 0] * NS_PER_MS).astype(np.int64)
            else:
                times = (self.grid.steps(k)[0] + np.arange(len(payload), dtype=np.int64)) * step_ns
            parts.append(_Rows(times, np.full(len(payload), k), payload))
            held += payload.nbytes + 16 * len(payload) + 200
            if held > BLOCK_BYTES:
                yield _joined(parts)
                parts, held = [], 0
        if parts:
            yield _joined(parts)

    def spikes(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(end of the block [ns], times [ns], senders)"""
        parts: list[Spikes] = []
        held = end = 0

        def block() -> tuple[int, np.ndarray, np.ndarray]:
            times, senders = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
            return end, times * self.grid.tick_ns, senders

        for k, payload in self._payloads():
            parts.append(payload)
            end = self.index.ticks(k)[1] * self.grid.tick_ns
            held += 12 * len(payload) + 200
            if held > BLOCK_BYTES:
                yield block()
                parts, held = [], 0
        if parts:
            yield block()


def _joined(parts: list[_Rows]) -> _Rows:
    return _Rows(*(np.concatenate(each) for each in zip(*parts, strict=True)))


# ---- dense -----------------------------------------------------------------------------------------------------


def _compare_dense(found: LogComparison, one: _Stream, two: _Stream) -> None:
    signal, unit = one.log.signal, one.log.signal.unit
    unmatched = [0, 0]
    tally = _Tally()
    largest = -1.0
    for a, b in _side_by_side(one.dense(), two.dense()):
        if not np.array_equal(a.times_ns, b.times_ns):
            _, i, j = np.intersect1d(a.times_ns, b.times_ns, return_indices=True)
            unmatched[0] += len(a.times_ns) - len(i)
            unmatched[1] += len(b.times_ns) - len(j)
            a, b = a.take(i), b.take(j)
        found.compared = tuple(n + a.values.size for n in found.compared)  # type: ignore[assignment]
        rows, columns = np.nonzero(differing_values(a.values, b.values))
        if not len(rows):
            continue
        x, y = a.values[rows, columns], b.values[rows, columns]
        with np.errstate(invalid="ignore"):
            distance = np.abs(x - y)
        distance[np.isnan(distance)] = np.inf  # a number in one run, and none in the other

        at = int(np.argmax(distance))
        for here in [0] * (found.first is None) + [at] * bool(distance[at] > largest):
            windows = int(a.windows[rows[here]]), int(b.windows[rows[here]])
            difference = Difference(
                windows, (one.interval_ms(windows[0]), two.interval_ms(windows[1])),
                int(a.times_ns[rows[here]]) / NS_PER_MS, signal.labels[columns[here]],
                (float(x[here]), float(y[here])), unit,
            )  # fmt: skip
            found.first = found.first or difference
        if distance[at] > largest:
            largest, found.largest = float(distance[at]), difference
        tally.add(a.windows[rows])
    tally.close()
    found.differing, found.differing_windows = tally.total, tally.windows
    for n, name, other in ((unmatched[0], one.name, two.name), (unmatched[1], two.name, one.name)):
        if n:
            found.notes.append(f"{n} rows of {name} are at times that {other} has no row for")
    if not found.compared[0]:
        found.comparable = False


def differing_values(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two float64 arrays of one shape differ in any bit, NaN being equal to NaN."""
    different = np.ascontiguousarray(a).view(np.int64) != np.ascontiguousarray(b).view(np.int64)
    if different.any():
        different &= ~(np.isnan(a) & np.isnan(b))
    return different


def frame_difference(signal: Signal, grid: Grid, k: int, one: Any, two: Any) -> Difference | None:
    """The first difference of two payloads of window `k`; None when they are the same."""
    t0, t1 = (grid.ms(tick) for tick in grid.ticks(k))
    here = (k, k), ((t0, t1), (t0, t1))
    if isinstance(one, Spikes):
        times, senders, ours, theirs = spike_counts(*one, *two)
        if not len(times):
            return None
        label = neuron(signal, np.concatenate(([0], np.cumsum(signal.sizes))), int(senders[0]))
        return Difference(*here, grid.ms(int(times[0])), label, (int(ours[0]), int(theirs[0])), spike=True)
    rows, columns = np.nonzero(differing_values(one, two))
    if not len(rows):
        return None
    values = float(one[rows[0], columns[0]]), float(two[rows[0], columns[0]])
    time_ms = grid.ms((grid.steps(k)[0] + int(rows[0])) * grid.dt_ticks)
    return Difference(*here, time_ms, signal.labels[columns[0]], values, signal.unit)


def _side_by_side(one: Iterator[_Rows], two: Iterator[_Rows]) -> Iterator[tuple[_Rows, _Rows]]:
    """Pieces of both streams that span the same time, until one of them ends."""
    a = b = None
    while True:
        a = next(one, None) if a is None else a
        b = next(two, None) if b is None else b
        while a is not None and not len(a.times_ns):
            a = next(one, None)
        while b is not None and not len(b.times_ns):
            b = next(two, None)
        if a is None or b is None:
            return
        horizon = min(a.times_ns[-1], b.times_ns[-1])
        a_now, a = a.cut(int(np.searchsorted(a.times_ns, horizon, "right")))
        b_now, b = b.cut(int(np.searchsorted(b.times_ns, horizon, "right")))
        yield a_now, b_now


# ---- spikes ----------------------------------------------------------------------------------------------------


def _compare_spikes(found: LogComparison, one: _Stream, two: _Stream) -> None:
    first_of = np.concatenate(([0], np.cumsum(one.log.signal.sizes)))
    tally = _Tally()
    streams = one.spikes(), two.spikes()
    held: list[tuple[int, np.ndarray, np.ndarray] | None] = [None, None]
    while True:
        held = [next(stream, None) if block is None else block for stream, block in zip(streams, held, strict=True)]
        if held[0] is None or held[1] is None:
            break
        end = min(held[0][0], held[1][0])
        now = []
        for i in (0, 1):
            block = held[i]
            assert block is not None
            n = int(np.searchsorted(block[1], end, "left"))
            now.append((block[1][:n], block[2][:n]))
            held[i] = None if block[0] == end else (block[0], block[1][n:], block[2][n:])
        (times_a, senders_a), (times_b, senders_b) = now
        found.compared = found.compared[0] + len(times_a), found.compared[1] + len(times_b)
        times, senders, ours, theirs = spike_counts(times_a, senders_a, times_b, senders_b)
        if not len(times):
            continue
        if found.first is None:
            windows = one.window_at(int(times[0])), two.window_at(int(times[0]))
            found.first = Difference(
                windows, (one.interval_ms(windows[0]), two.interval_ms(windows[1])), int(times[0]) / NS_PER_MS,
                neuron(one.log.signal, first_of, int(senders[0])), (int(ours[0]), int(theirs[0])), spike=True,
            )  # fmt: skip
        window_ns = one.grid.window_steps * one.grid.dt_ticks * one.grid.tick_ns
        tally.add(np.repeat(times // window_ns, np.abs(ours - theirs)))
    tally.close()
    found.differing, found.differing_windows = tally.total, tally.windows
    if tally.most:
        found.largest = Crowd(tally.most_in, one.interval_ms(tally.most_in), tally.most)


def spike_counts(
    times_a: np.ndarray, senders_a: np.ndarray, times_b: np.ndarray, senders_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times and senders, sorted, at which two sets of spikes differ; and how often each set has that spike."""
    if np.array_equal(times_a, times_b) and np.array_equal(senders_a, senders_b):
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing, nothing
    times, senders = np.concatenate((times_a, times_b)), np.concatenate((senders_a, senders_b))
    ours = np.concatenate((np.ones(len(times_a), np.int64), np.zeros(len(times_b), np.int64)))
    order = np.lexsort((senders, times))
    times, senders, ours = times[order], senders[order], ours[order]
    starts = np.flatnonzero(np.concatenate(([True], (np.diff(times) != 0) | (np.diff(senders) != 0))))
    a, b = np.add.reduceat(ours, starts), np.add.reduceat(1 - ours, starts)
    keep = a != b
    return times[starts][keep], senders[starts][keep], a[keep], b[keep]


def neuron(signal: Signal, first_of: np.ndarray, sender: int) -> str:
    """A sender as "neuron 3 of E@r_precuneus", counted within its population."""
    group = int(np.searchsorted(first_of, sender, "right")) - 1
    return f"neuron {sender - int(first_of[group])} of {signal.labels[group]}"


class _Tally:
    """How many values differ, in how many windows, and in which window most do. Windows come in order."""

    def __init__(self) -> None:
        self.total = self.windows = self.most = self.most_in = 0
        self._open, self._in_open = -1, 0  # the window that the next block may go on with

    def add(self, windows: np.ndarray) -> None:
        for k, n in zip(*(each.tolist() for each in np.unique(windows, return_counts=True)), strict=True):
            if k != self._open:
                self.close()
                self._open = k
            self._in_open += n

    def close(self) -> None:
        if self._in_open:
            self.total += self._in_open
            self.windows += 1
            if self._in_open > self.most:
                self.most, self.most_in = self._in_open, self._open
        self._in_open = 0


# ---- texts -----------------------------------------------------------------------------------------------------


def describe(log: LogComparison, names: Names) -> list[str]:
    """What came of one log, as lines for a person: the outcome, then what differs and the notes, indented."""
    what = "value" if log.kind == "dense" else "spike"
    if not log.comparable:
        return [f"{log.name}: not compared: {'; '.join(log.notes) or 'nothing is recorded'}"]
    n, m = log.compared
    if log.differing:
        of = f"of {n}" if log.kind == "dense" else f"({names[0]} has {n}, {names[1]} {m})"
        windows = counted(log.differing_windows, "window")
        lines = [f"{log.name}: differs: {counted(log.differing, what)} {of}, in {windows}"]
        if log.first is not None:
            lines.append(f"  first:   {log.first.text(names)}")
        if log.largest is not None and log.differing > 1:
            lines.append(f"  {'largest:' if log.kind == 'dense' else 'most:   '} {log.largest.text(names)}")
    else:
        windows = counted(log.windows[0], "window")
        if log.windows[0] != log.windows[1]:
            windows = f"{log.windows[0]} and {log.windows[1]} windows"
        lines = [f"{log.name}: identical: {windows}, {log.end_ms:g} ms, {counted(n, what)}"]
    return [*lines, *(f"  note:    {note}" for note in log.notes)]


def readable(path: Path) -> Contract:
    """The contract of a run to be compared. Raises RunDirectoryError that also tells a folder from nothing at all."""
    if not path.is_dir():
        raise RunDirectoryError(f"There is no run directory {path}.")
    return results.read_contract(path)
