"""What is left of a run: from its logs to files that any tool of the field reads. Works for runs that finished, were
interrupted or died; what is missing or damaged is said in provenance.json. Memory stays flat however long the run.

    tvb.h5           /monitors/NAME/{time_ms, data}, /regions/{label, coupled, program}, /rates/CHANNEL/{time_ms, data}
    spikes.h5        SONATA: /spikes/POPULATION@REGION/{timestamps, node_ids}
    exchange.h5      /CHANNEL/{raw, transformed}/…: what crossed the bridge
    timing.json      per program and window: simulate / transform / exchange / wait
    provenance.json  versions, contract, seeds, hashes, counters, how each program ended
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import timing
from .contract import Channel, Contract, Signal
from .errors import FrameError, RunDirectoryError
from .frame import DENSE, SPIKES, Address, Payload
from .grid import NS_PER_MS
from .peers import alive, pages, read_page, read_summary
from .recording import FrameIndex, path_of
from .session import Session

RESULTS = ("tvb.h5", "spikes.h5", "exchange.h5", "timing.json", "provenance.json")
INPUTS = ("experiment.json", "contract.json")
MONITOR_NUMBER, SPIKES_NUMBER = 1_000_000, 2_000_000  # channel numbers of the logs that no channel has

SONATA_MAGIC, SONATA_VERSION = 0x0A7A, (0, 1)
SONATA_SORTING = h5py.enum_dtype({"none": 0, "by_id": 1, "by_time": 2}, basetype="u1")
SPIKE_TIME = (
    "timestamps are the start of the simulation step in which the neuron fired: a spike at t lies in "
    "[t, t + resolution_ms), t = tick * tick_ms"
)

_BLOCK_BYTES = 1 << 18  # gathered before each write to HDF5
_CHUNK_BYTES = 1 << 16
_TEXT = h5py.string_dtype()


def finish_if_last(session: Session) -> None:
    """Make the results of a run when its last program has ended."""
    if session.last:
        finish(session.run_dir)


_OF_SUMMARY = ("state", "error", "windows", "started", "ended", "wall_s", "cpu_s", "peak_memory_mib", "versions",
               "python")  # fmt: skip


@dataclass(frozen=True)
class Log:
    """A log of a run. channel, stage: of the channel that it records, or None and ""; signal: what its columns are."""

    path: Path
    address: Address
    signal: Signal
    channel: Channel | None = None
    stage: str = ""

    @property
    def name(self) -> str:
        return self.address.name

    def open(self) -> FrameIndex:
        """Its frames up to the first damage. Raises RunDirectoryError when there is no such file."""
        return FrameIndex(self.path, self.address, tolerant=True)


def read_contract(run_dir: Path) -> Contract:
    """The contract of a run. Raises RunDirectoryError when there is none (yet)."""
    try:
        return Contract.from_json(json.loads((run_dir / "contract.json").read_text()))
    except FileNotFoundError:
        hint = "its programs never came to agree" if (run_dir / "peers").is_dir() else "it is not a run directory"
        raise RunDirectoryError(f"{run_dir} holds no contract.json: {hint}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{run_dir / 'contract.json'} cannot be read: {error!r}.") from None


def monitor_name(contract: Contract, i: int) -> str:
    """The name of monitor `i`; when several are of one class, numbered from the second on."""
    names = [monitor["name"] for monitor in contract.tvb.get("monitors", [])]
    earlier = names[:i].count(names[i])
    return f"{names[i]}_{earlier + 1}" if earlier else names[i]


def logs(run_dir: Path, contract: Contract) -> list[Log]:
    """All logs that the run should have: of each channel before and after its transformer, TVB's monitors, and the
    spikes of each spiking program."""
    run_id = bytes.fromhex(contract.run_id)
    found = []
    for channel in contract.channels:
        for stage, signal in (("raw", channel.raw), ("transformed", channel.out)):
            address = channel.address(run_id, stage)
            found.append(Log(path_of(run_dir, address), address, signal, channel, stage))
    for i, monitor in enumerate(contract.tvb.get("monitors", [])):
        columns = monitor_columns(contract, monitor)
        address = Address(run_id, MONITOR_NUMBER + i, f"tvb.monitor{i}", DENSE, len(columns), gaps=True)
        found.append(Log(path_of(run_dir, address), address, Signal.dense("", columns)))
    for program, about in contract.spikenet.items():
        signal = Signal(
            "spikes", "",
            tuple(f"{name}@{region}" for region, name, _ in about["populations"]),
            tuple(size for _, _, size in about["populations"]),
        )  # fmt: skip
        address = Address(run_id, SPIKES_NUMBER, f"{program}.spikes", SPIKES, signal.columns)
        found.append(Log(path_of(run_dir, address), address, signal))
    return found


def monitor_columns(contract: Contract, monitor: dict[str, Any]) -> list[str]:
    """The columns of a monitor's log: its time stamp, then voi by region by mode."""
    _, n_regions, n_modes = monitor["shape"]
    regions = monitor.get("regions") or [f"sensor {i}" for i in range(n_regions)]
    return ["time_ms"] + [
        f"{voi}@{region}" + (f"/mode {mode}" if n_modes > 1 else "")
        for voi in monitor["voi"] for region in regions for mode in range(n_modes)
    ]  # fmt: skip


def coupled(contract: Contract) -> dict[str, str]:
    """The spiking program that each coupled region belongs to, by region label."""
    return {region: program for program, regions in contract.tvb.get("coupled", {}).items() for region in regions}


def programs(run_dir: Path, contract: Contract | None) -> dict[str, dict[str, Any]]:
    """What is known of each program of a run, TVB first.

    "state" is running, finished, interrupted, failed, died (it ended without a word) or absent (it never came);
    "window" the last it was in, -1 before the first; "error" what it said at its end, or None; "earlier" its lives
    before it was resumed, each with its last state.
    """
    names = list(pages(run_dir))
    if contract is not None:
        own_bridge = contract.experiment.get("exchange", {}).get("bridge") == "own"
        expected = ["tvb", *contract.spikenet, *(["bridge"] if own_bridge else [])]
        names = expected + [name for name in names if name not in expected]
    found = {}
    for name in names:
        page, summary = read_page(run_dir, name), read_summary(run_dir, name)
        about: dict[str, Any] = {"state": "absent", "window": -1, "error": None}
        if page is not None:
            about |= {key: page.get(key) for key in ("pid", "host", "toolkit", "python", "versions")}
            about["earlier"] = page.get("earlier", [])
            about |= {"window": page["now"]["window"], "waiting_for": page["now"]["waiting_for"] or None}
            about["state"] = "running" if alive(run_dir, name) else "died"
        if summary is not None:
            about |= {key: summary.get(key) for key in _OF_SUMMARY}
            if page is None:
                about["window"] = (summary.get("windows") or 0) - 1
        found[name] = about
    return found


def counters(run_dir: Path, contract: Contract) -> dict[str, dict[str, Any]]:
    """Frames and spikes of each channel, as its producer sent, its consumer received and its simulator was given them.
    Spikes that a transformer makes are sent there; those that it turns into rates are received and delivered there.

    "values_clipped", where it is not 0: what a transformer has cut off, such as rates below 0 (`clip`).
    "balanced" is true when nothing was lost or doubled on any leg of the way: all frames, and all spikes on those legs
    that carry spikes (before the transformer, after it, or both).
    """
    told = {name: (read_summary(run_dir, name) or {}).get("counters") or {} for name in programs(run_dir, contract)}
    found = {}
    for channel in contract.channels:
        sent = told.get(channel.producer, {}).get(channel.name, {})
        taken = told.get(channel.consumer, {}).get(channel.name, {})
        carried = told["bridge"].get(channel.name, {}) if "bridge" in told else None
        first = taken if carried is None else carried  # who has the raw frames, and transforms them
        from_spikes, to_spikes = (signal.kind == "spikes" for signal in (channel.raw, channel.out))
        what = {
            "frames_sent": sent.get("frames_sent"),
            "spikes_sent": (first if to_spikes and not from_spikes else sent).get("spikes_sent"),
            "frames_received": taken.get("frames_received"),
            "spikes_received": (first if from_spikes and not to_spikes else taken).get("spikes_received"),
            "frames_delivered": taken.get("frames_delivered"),
            "spikes_delivered": (first if from_spikes and not to_spikes else taken).get("spikes_delivered"),
        }
        if clipped := first.get("values_clipped"):
            what["values_clipped"] = clipped
        legs = [("frames", sent, "sent", first, "received"), ("frames", taken, "received", taken, "delivered")]
        if carried is not None:
            legs.append(("frames", carried, "sent", taken, "received"))
        if from_spikes:
            legs.append(("spikes", sent, "sent", first, "received"))
            if first.get("spikes_delivered") is not None:  # the spikes that a rate was made of
                legs.append(("spikes", first, "received", first, "delivered"))
        if to_spikes:
            legs.append(("spikes", first, "sent", taken, "received"))
            legs.append(("spikes", taken, "received", taken, "delivered"))
        what["balanced"] = all(
            before.get(f"{thing}_{start}") is not None and before.get(f"{thing}_{start}") == after.get(f"{thing}_{end}")
            for thing, before, start, after, end in legs
        )
        found[channel.name] = what
    return found


def finish(run_dir: Path, into: Path | None = None) -> None:
    """Make the result files of a run from its logs, each written aside and renamed when complete.

    run_dir: of a run that has ended, in whatever way. into: another folder for the files, to look at a run that still
    goes on. Raises RunDirectoryError when the files cannot be written; what the run lacks is said in provenance.json.
    """
    into = into or run_dir
    notes: list[str] = []
    try:
        contract = read_contract(run_dir)
    except RunDirectoryError as error:
        _write_provenance(run_dir, into, None, {}, [str(error)])
        return
    recorded: dict[str, dict[str, int]] = {}
    try:
        for name, write in (("tvb.h5", _write_tvb), ("spikes.h5", _write_spikes), ("exchange.h5", _write_exchange)):
            with _hdf5(into / name) as file:
                write(file, run_dir, contract, recorded, notes)
        _write_timing(run_dir, into, contract, notes)
        _write_provenance(run_dir, into, contract, recorded, list(dict.fromkeys(notes)))
    except OSError as error:
        raise RunDirectoryError(
            f"The results of {run_dir} cannot be written to {into}: {error}. The recording is complete; free space "
            f"there, then make them with: lockstep plot {run_dir}"
        ) from None


# ---- tvb.h5 --------------------------------------------------------------------------------------------------


def _write_tvb(file: h5py.File, run_dir: Path, contract: Contract, recorded: dict, notes: list[str]) -> None:
    file.attrs["dt_ms"] = contract.grid.dt_ms
    regions, of = contract.tvb.get("regions", []), coupled(contract)
    group = file.create_group("regions")
    group["label"] = np.array(regions, _TEXT)
    group["coupled"] = np.array([region in of for region in regions], bool)
    group["program"] = np.array([of.get(region, "") for region in regions], _TEXT)
    group["program"].attrs["meaning"] = "the spiking program that computes the region; empty for TVB's own"
    here = {log.name: log for log in logs(run_dir, contract)}
    for i, monitor in enumerate(contract.tvb.get("monitors", [])):
        shape = tuple(monitor["shape"])
        group = file.create_group(f"monitors/{monitor_name(contract, i)}")
        group.attrs["period_ms"] = monitor["period_ms"]
        group.attrs["voi"] = np.array(monitor["voi"], _TEXT)
        index = _open(here[f"tvb.monitor{i}"], notes)
        n = _total_rows(index)
        time_ms = _Column(group, "time_ms", n, units="ms")
        data = _Column(group, "data", n, shape, units=monitor.get("unit", "as the model's state variable"))
        where = "region" if monitor.get("regions") else "sensor"
        data.attrs["dimensions"] = np.array(["time", "voi", where, "mode"], _TEXT)
        if monitor.get("regions"):
            data.attrs["regions"] = np.array(monitor["regions"], _TEXT)
        for _, rows in _frames(index, notes):
            time_ms.add(rows[:, 0])
            data.add(rows[:, 1:].reshape(-1, *shape))
        time_ms.end()
        data.end()
    rates = file.create_group("rates")
    rates.attrs["meaning"] = "what the spiking regions gave to TVB, after the transformer"
    for log in here.values():
        if log.channel is not None and log.channel.consumer == "tvb" and log.stage == "transformed":
            group = rates.create_group(log.channel.name)
            _write_dense(group, log, contract, notes)
            group.attrs["program"] = log.channel.producer
            group.attrs["voi"] = np.array(log.channel.voi, _TEXT)
            group.attrs["populations"] = np.array(log.channel.populations, _TEXT)


# ---- spikes.h5 -----------------------------------------------------------------------------------------------


def population_group(label: str) -> str:
    """The name of a population as an HDF5 group: a slash would open a group of its own."""
    return label.replace("/", "_")


def _write_spikes(file: h5py.File, run_dir: Path, contract: Contract, recorded: dict, notes: list[str]) -> None:
    file.attrs["magic"] = np.uint32(SONATA_MAGIC)
    file.attrs["version"] = np.array(SONATA_VERSION, np.uint32)
    file.attrs["spike_time_convention"] = SPIKE_TIME
    file.attrs["tick_ms"] = contract.grid.tick_ms
    file.create_group("spikes")
    for log in logs(run_dir, contract):
        if log.channel is not None or log.address.kind != SPIKES:
            continue
        program = log.name.removesuffix(".spikes")
        about = contract.spikenet[program]
        first = np.concatenate(([0], np.cumsum(log.signal.sizes))).astype(np.int64)
        index = _open(log, notes)
        # Once to count and once to write: each population then has a dataset of just its length.
        totals = np.zeros(len(log.signal.sizes), np.int64)
        intact = 0
        for _, spikes in _frames(index, notes):
            which = np.searchsorted(first, spikes.senders, "right") - 1
            totals += np.bincount(which, minlength=len(totals))
            intact += 1
        columns = []
        for (region, name, size), n in zip(about["populations"], totals.tolist(), strict=True):
            title = population_group(f"{name}@{region}")
            if title in file["spikes"]:
                title = f"{title}.{program}"
            group = file.create_group(f"spikes/{title}")
            group.attrs.create("sorting", 2, dtype=SONATA_SORTING)
            group.attrs["region"], group.attrs["population"], group.attrs["program"] = region, name, program
            group.attrs["size"] = size
            if about.get("resolution_ms") is not None:
                group.attrs["resolution_ms"] = about["resolution_ms"]
            times = _Column(group, "timestamps", n, units="milliseconds")
            times.attrs["convention"] = SPIKE_TIME
            columns.append((times, _Column(group, "node_ids", n, dtype="<u8")))
        for times_ticks, senders in _gathered(index, intact):
            which = np.searchsorted(first, senders, "right") - 1
            order = np.argsort(which, kind="stable")  # keeps each population in the order of time
            ends = np.cumsum(np.bincount(which, minlength=len(totals)))
            for i, (times, nodes) in enumerate(columns):
                mine = order[ends[i - 1] if i else 0 : ends[i]]
                times.add(times_ticks[mine] * contract.grid.tick_ns / NS_PER_MS)
                nodes.add((senders[mine] - first[i]).astype("<u8"))
        for times, nodes in columns:
            times.end()
            nodes.end()


def _gathered(index: FrameIndex | None, n_frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Times and senders of the first `n_frames` windows, in large pieces."""
    times, senders, held = [], [], 0
    for k in range(n_frames):
        assert index is not None
        spikes = index.payload(k)
        times.append(spikes[0])
        senders.append(spikes[1])
        held += len(spikes)
        if held * 12 >= _BLOCK_BYTES or k == n_frames - 1:
            yield np.concatenate(times), np.concatenate(senders)
            times, senders, held = [], [], 0


# ---- exchange.h5 ---------------------------------------------------------------------------------------------


def _write_exchange(file: h5py.File, run_dir: Path, contract: Contract, recorded: dict, notes: list[str]) -> None:
    grid = contract.grid
    file.attrs["dt_ms"], file.attrs["tick_ms"], file.attrs["window_ms"] = grid.dt_ms, grid.tick_ms, grid.window_ms
    file.attrs["window_offsets"] = "window k of a stage is rows [window_offsets[k], window_offsets[k + 1])"
    for log in logs(run_dir, contract):
        channel = log.channel
        if channel is None:
            continue
        group = file.require_group(channel.name)
        for key in ("producer", "consumer", "model", "coupling_mode", "equation"):
            group.attrs[key] = getattr(channel, key)
        group.attrs["transformer"] = ", ".join(channel.transformer)
        params = dict(zip(channel.transformer, channel.transformer_params, strict=True))
        group.attrs["transformer_params"] = json.dumps(params, sort_keys=True)
        for key in ("voi", "populations", "regions"):
            group.attrs[key] = np.array(getattr(channel, key), _TEXT)
        write = _write_dense if log.address.kind == DENSE else _write_exchanged_spikes
        counted = write(group.create_group(log.stage), log, contract, notes)
        if counted is not None:
            recorded.setdefault(channel.name, {}).update({f"{log.stage}_{key}": n for key, n in counted.items()})


def _describe(group: h5py.Group, log: Log) -> None:
    group.attrs["kind"], group.attrs["units"] = log.signal.kind, log.signal.unit
    group.attrs["labels"] = np.array(log.signal.labels, _TEXT)
    group.attrs["sizes"] = np.array(log.signal.sizes, np.int64)


def _write_dense(group: h5py.Group, log: Log, contract: Contract, notes: list[str]) -> dict[str, int] | None:
    grid = contract.grid
    _describe(group, log)
    index = _open(log, notes)
    n = _total_rows(index)
    time_ms = _Column(group, "time_ms", n, units="ms")
    time_ms.attrs["meaning"] = "start of the TVB step that the row holds for"
    if log.stage == "raw" and log.channel is not None and log.channel.coupling_mode == "spikeNet":
        time_ms.attrs["meaning"] += "; the states themselves are those of one window before"
    data = _Column(group, "data", n, (log.address.columns,), units=log.signal.unit)
    windows = _Windows(group, index, contract)
    for k, rows in _frames(index, notes):
        steps = np.arange(len(rows)) + grid.steps(k)[0]
        time_ms.add(steps * (grid.dt_ticks * grid.tick_ns) / NS_PER_MS)
        data.add(rows)
        windows.add(k, len(rows))
    for column in (time_ms, data, windows):
        column.end()
    return None if index is None else {"frames": windows.n}


def _write_exchanged_spikes(group: h5py.Group, log: Log, contract: Contract, notes: list[str]) -> dict[str, int] | None:
    _describe(group, log)
    index = _open(log, notes)
    n = _total_rows(index)
    times = _Column(group, "times", n, dtype="<i8", units="ticks")
    times.attrs["tick_ms"], times.attrs["convention"] = contract.grid.tick_ms, SPIKE_TIME
    senders = _Column(group, "senders", n, dtype="<i4")
    senders.attrs["meaning"] = "index into the groups `labels`, each of `sizes` senders, one after the other"
    windows = _Windows(group, index, contract)
    for k, spikes in _frames(index, notes):
        times.add(spikes.times)
        senders.add(spikes.senders)
        windows.add(k, len(spikes))
    for column in (times, senders, windows):
        column.end()
    return None if index is None else {"frames": windows.n, "spikes": windows.rows}


# ---- timing.json, provenance.json ----------------------------------------------------------------------------


def read_timing(run_dir: Path, name: str) -> np.ndarray | None:
    """The timing of a program, (n_windows, 6) memory-mapped; None when it has none."""
    path = run_dir / "timing" / f"{name}.npy"
    return timing.read(path) if path.exists() else None


def _write_timing(run_dir: Path, into: Path, contract: Contract, notes: list[str]) -> None:
    with _text(into / "timing.json") as file:
        file.write('{"units": "s; window_start and simulate_start in unix time", "programs": {')
        separator = ""
        for name in programs(run_dir, contract):
            try:
                data = read_timing(run_dir, name)
            except RunDirectoryError as error:
                notes.append(str(error))
                continue
            if data is None:
                if name != "bridge":
                    notes.append(f"{name} has no timing: timing/{name}.npy is missing.")
                continue
            windows = timing.recorded(data)
            totals = {key: float(np.nansum(data[:, timing.COLUMNS.index(key)])) for key in timing.DURATIONS}
            if len(windows):
                last = data[windows[-1]]
                end = max(last[0] + np.nansum(last[2:]), np.nansum(last[1:3]))
                totals["elapsed"] = float(end - data[windows[0], 0])
            file.write(f'{separator}\n "{name}": {{"n_windows": {len(windows)}, "totals": {json.dumps(totals)},\n')
            file.write('  "per_window": {"window": [')
            _write_numbers(file, windows, "%d")
            for i, key in enumerate(timing.COLUMNS):
                file.write(f'],\n   "{key}": [')
                _write_numbers(file, windows, "%.9g" if key in timing.DURATIONS else "%.6f", data[:, i])
            file.write("]}}")
            separator = ","
        file.write("\n}}\n")


def _write_numbers(file: Any, windows: np.ndarray, form: str, column: np.ndarray | None = None) -> None:
    for start in range(0, len(windows), 4096):
        piece = windows[start : start + 4096]
        numbers = piece if column is None else column[piece]
        text = ("null" if number != number else form % number for number in numbers.tolist())
        file.write((", " if start else "") + ", ".join(text))


def _write_provenance(
    run_dir: Path, into: Path, contract: Contract | None, recorded: dict[str, dict[str, int]], notes: list[str]
) -> None:
    of = programs(run_dir, contract)
    content: dict[str, Any] = {"run": _read_json(run_dir / "run.json"), "programs": of}
    content["interruptions"] = [
        {"program": name, "pid": life["pid"], "state": life["state"], "window": life["window"], "resumed": True}
        for name, about in of.items()
        for life in about.get("earlier", [])
    ] + [
        {"program": name, "pid": about.get("pid"), "state": about["state"], "window": about["window"],
         "error": about["error"], "resumed": False}
        for name, about in of.items()
        if about["state"] not in ("finished", "running")
    ]  # fmt: skip
    content["complete"] = contract is not None and all(about["state"] == "finished" for about in of.values())
    if contract is not None:
        content["seed"] = contract.experiment.get("seed")
        content["simulators"] = {
            name: {key: about.get(key) for key in ("simulator", "version")} for name, about in contract.spikenet.items()
        }
        channels = counters(run_dir, contract)
        for name, counted in recorded.items():
            channels[name]["recorded"] = counted
        content["channels"] = channels
        content["balanced"] = all(what["balanced"] for what in channels.values())
    content["notes"] = [*(contract.tvb.get("notes", []) if contract is not None else []), *notes]
    content["sha256"] = {
        path.name: _sha256(path)
        for path in [*(run_dir / name for name in INPUTS), *(into / name for name in RESULTS[:-1])]
        if path.exists()
    }
    content["contract"] = None if contract is None else contract.to_json()
    content["written"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with _text(into / "provenance.json") as file:
        json.dump(content, file, indent=1)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- reading logs, writing files -----------------------------------------------------------------------------


def _open(log: Log, notes: list[str]) -> FrameIndex | None:
    """The frames of a log; None, with a note, when there is no such log."""
    try:
        index = log.open()
    except RunDirectoryError:
        notes.append(f"{log.name} was not recorded: record/{log.path.name} is missing.")
        return None
    if index.damage is not None:
        notes.append(f"{log.name} is used up to window {len(index) - 1}: {index.damage}")
    elif index.torn_bytes:
        notes.append(f"{log.name} ends with {index.torn_bytes} bytes of a frame that was cut off; they are left out.")
    return index


def _frames(index: FrameIndex | None, notes: list[str]) -> Iterator[tuple[int, Any]]:
    """(window, payload) up to the first frame that is damaged, which is noted."""
    for k in range(len(index) if index is not None else 0):
        assert index is not None
        try:
            payload: Payload = index.payload(k)
        except FrameError as error:
            notes.append(f"{index.address.name} is used up to window {k - 1}: {error}")
            return
        yield k, payload


def _total_rows(index: FrameIndex | None) -> int:
    return 0 if index is None else index.total_rows


class _Column:
    """A dataset filled from its beginning, in large pieces. `n`: rows expected; fewer are cut off at the end."""

    def __init__(
        self, group: h5py.Group, name: str, n: int, shape: tuple[int, ...] = (), dtype: str = "<f8", units: str = ""
    ) -> None:
        row_bytes = np.dtype(dtype).itemsize * max(1, int(np.prod(shape)))
        chunk = (max(1, min(n, _CHUNK_BYTES // row_bytes)), *shape)
        self._data = group.create_dataset(name, (n, *shape), dtype, maxshape=(None, *shape), chunks=chunk)
        self._buffer = np.empty((max(1, min(n, _BLOCK_BYTES // row_bytes)), *shape), dtype)
        self._held = self._at = 0
        if units:
            self._data.attrs["units"] = units

    @property
    def attrs(self) -> h5py.AttributeManager:
        return self._data.attrs

    def add(self, rows: np.ndarray) -> None:
        done = 0
        while done < len(rows):
            n = min(len(rows) - done, len(self._buffer) - self._held)
            self._buffer[self._held : self._held + n] = rows[done : done + n]
            self._held += n
            done += n
            if self._held == len(self._buffer):
                self._write()

    def end(self) -> None:
        self._write()
        if self._at != len(self._data):
            self._data.resize(self._at, 0)

    def _write(self) -> None:
        if self._held:
            self._data[self._at : self._at + self._held] = self._buffer[: self._held]
            self._at += self._held
            self._held = 0


class _Windows:
    """Which rows belong to which window, and when each begins."""

    def __init__(self, group: h5py.Group, index: FrameIndex | None, contract: Contract) -> None:
        n = 0 if index is None else len(index)
        self._grid = contract.grid
        self._offsets = _Column(group, "window_offsets", n + 1, dtype="<i8")
        self._starts = _Column(group, "window_start_ms", n, units="ms")
        self.n = self.rows = 0
        self._offsets.add(np.zeros(1, np.int64))

    def add(self, k: int, rows: int) -> None:
        self.n += 1
        self.rows += rows
        self._offsets.add(np.array([self.rows], np.int64))
        self._starts.add(np.array([self._grid.ms(self._grid.ticks(k)[0])]))

    def end(self) -> None:
        self._offsets.end()
        self._starts.end()


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place at the end, or is removed."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    try:
        yield new
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def _hdf5(path: Path) -> Iterator[h5py.File]:
    with _renamed(path) as new, h5py.File(new, "w") as file:
        yield file


@contextlib.contextmanager
def _text(path: Path) -> Iterator[Any]:
    with _renamed(path) as new, open(new, "w") as file:
        yield file
