"""`lockstep inspect`: what was exchanged in a run, straight from its logs. Reads only, also while the run goes on."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ...bridges import results
from ...bridges.contract import Contract
from ...bridges.errors import ExperimentError, FrameError, RunDirectoryError
from ...bridges.frame import DENSE
from ...bridges.recording import FrameIndex
from ...bridges.results import Log

FORMATS = (".csv", ".npz", ".h5")
SUMMARY_WINDOWS = 20  # shown on a terminal when no window is asked for; all of them when piped
COMMON = ("numpy", "scipy", "h5py", "posix_ipc")  # packages that the listing leaves out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the run directory; of a live run, too")
    parser.add_argument("channel", nargs="?", metavar="CHANNEL", help="a channel or log; left out: list them")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--window", type=int, metavar="K", help="print the content of one window; -1 is the last")
    which.add_argument("--windows", metavar="A:B", help="print the windows from A up to, not including, B")
    parser.add_argument(
        "--stage", choices=("raw", "transformed"), help="the side of the transformer (default: raw, what was sent)"
    )  # fmt: skip
    parser.add_argument(
        "--export", type=Path, metavar="FILE",
        help=f"write the content, of all windows by default, to a file: {', '.join(FORMATS)}",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    contract = results.read_contract(args.run)
    logs = results.logs(args.run, contract)
    if args.channel is None:
        for option in ("window", "windows", "stage", "export"):
            if getattr(args, option) is not None:
                raise ExperimentError(f"--{option} needs a channel. {_known(logs)}")
        _list(args.run, contract, logs)
        return 0
    log = find(logs, args.channel, args.stage)
    index = log.open()
    asked = selected(len(index), args.window, args.windows, log.name)
    windows = asked if asked is not None else range(len(index))
    if asked is None and args.export is None and sys.stdout.isatty():
        windows = windows[-SUMMARY_WINDOWS:]
    windows, damage = intact(log, index, windows)
    if args.export is not None:
        n = export(args.export, log, index, contract, windows)
        print(f"{args.export}: {n} {'steps' if log.address.kind == DENSE else 'spikes'} of {log.name}")
    elif asked is None:
        _summarize(log, index, contract, windows)
    else:
        _print(log, index, contract, windows)
    for warning in damage or damage_of(log, index):
        print(warning, file=sys.stderr)
    return FrameError.exit_code if damage or index.damage is not None else 0


# ---- what is meant -------------------------------------------------------------------------------------------


def find(logs: list[Log], name: str, stage: str | None) -> Log:
    """The log of a channel's stage, of a monitor, or of a program's spikes. Raises ExperimentError with the choices."""
    for log in logs:
        if log.name == name:
            if log.channel is None and stage is not None:
                raise ExperimentError(f"{name} has no transformer, hence no --stage.")
            if stage not in (None, log.stage):
                raise ExperimentError(f"{name} is the {log.stage} side; --stage {stage} contradicts it.")
            return log
        if log.channel is not None and log.channel.name == name and log.stage == (stage or "raw"):
            return log
    raise ExperimentError(f"There is no channel {name!r}. {_known(logs)}")


def _known(logs: list[Log]) -> str:
    names = dict.fromkeys(log.name if log.channel is None else log.channel.name for log in logs)
    return f"This run has {', '.join(names)}."


def selected(n: int, window: int | None, windows: str | None, name: str) -> range | None:
    """The windows asked for, None when none were. Raises ExperimentError naming those that there are."""
    held = f"{name} holds windows 0 to {n - 1}" if n else f"{name} holds no window yet"
    if window is not None:
        k = window + n if window < 0 else window
        if not 0 <= k < n:
            raise ExperimentError(f"--window {window}: {held}.")
        return range(k, k + 1)
    if windows is None:
        return None
    first, colon, end = windows.partition(":")
    try:
        if not colon:
            raise ValueError
        a, b = int(first or 0), int(end or n)
    except ValueError:
        raise ExperimentError(f"--windows {windows}: expected A:B, for example 10:20; {held}.") from None
    if not 0 <= a < b <= n:
        raise ExperimentError(f"--windows {windows}: {held}, so A:B must lie within 0:{n}, with A < B.")
    return range(a, b)


def intact(log: Log, index: FrameIndex, windows: range) -> tuple[range, list[str]]:
    """The windows up to the first altered one, and what is said of that. Raises FrameError when none is left."""
    for k in windows:
        try:
            index.payload(k)
        except FrameError as error:
            if k == windows.start:
                raise
            return range(windows.start, k), [f"{log.name} is shown up to window {k - 1}: {error}"]
    return windows, []


def damage_of(log: Log, index: FrameIndex) -> list[str]:
    if index.damage is not None:
        return [f"{log.name} ends with window {len(index) - 1}: {index.damage}"]
    if index.torn_bytes:
        return [f"{log.name} ends with {index.torn_bytes} bytes of a frame that is not complete."]
    return []


# ---- content -------------------------------------------------------------------------------------------------


def dense_rows(
    log: Log, index: FrameIndex, contract: Contract, windows: range
) -> Iterator[tuple[int, float, np.ndarray]]:
    """(window, time [ms], values) of each TVB step; the time is the start of the step, or a monitor's time stamp."""
    grid = contract.grid
    for k in windows:
        payload = index.payload(k)
        for step, row in enumerate(payload, grid.steps(k)[0]):
            if log.channel is None:
                yield k, float(row[0]), row[1:]
            else:
                yield k, grid.ms(step * grid.dt_ticks), row


def spike_rows(
    log: Log, index: FrameIndex, contract: Contract, windows: range
) -> Iterator[tuple[int, float, str, int]]:
    """(window, time [ms], population, neuron counted within it) of each spike."""
    first = np.concatenate(([0], np.cumsum(log.signal.sizes)))
    for k in windows:
        spikes = index.payload(k)
        which = np.searchsorted(first, spikes[1], "right") - 1
        for tick, group, sender in zip(spikes[0].tolist(), which.tolist(), spikes[1].tolist(), strict=True):
            yield k, contract.grid.ms(tick), log.signal.labels[group], sender - int(first[group])


def value_labels(log: Log) -> list[str]:
    """Labels of the values of a row of `dense_rows`."""
    labels = list(log.signal.labels)
    return labels if log.channel is not None else labels[1:]


def export(path: Path, log: Log, index: FrameIndex, contract: Contract, windows: range) -> int:
    """Write the windows to `path`, complete or not at all; returns how many steps or spikes they hold.

    .csv streams; .npz and .h5 hold the content in memory. Raises ExperimentError for any other ending.
    """
    if path.suffix not in FORMATS:
        raise ExperimentError(f"--export {path}: the ending says the format, and must be one of {', '.join(FORMATS)}.")
    dense = log.address.kind == DENSE
    unit = f" [{log.signal.unit}]" if log.signal.unit else ""
    labels = value_labels(log) if dense else list(log.signal.labels)
    new = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    n = 0
    try:
        if path.suffix == ".csv":
            with open(new, "w", newline="") as file:
                writer = csv.writer(file)
                if dense:
                    writer.writerow(["window", "time_ms", *(label + unit for label in labels)])
                    for k, time_ms, row in dense_rows(log, index, contract, windows):
                        writer.writerow([k, time_ms, *row.tolist()])
                        n += 1
                else:
                    writer.writerow(["window", "time_ms", "population", "neuron"])
                    for spike in spike_rows(log, index, contract, windows):
                        writer.writerow(spike)
                        n += 1
        else:
            arrays = _arrays(log, index, contract, windows)
            n = len(arrays["time_ms"])
            if path.suffix == ".npz":
                arrays |= {"labels": np.array(labels), "unit": np.array(log.signal.unit)}
                np.savez(new, allow_pickle=False, **arrays)
            else:
                with h5py.File(new, "w") as file:
                    for name, array in arrays.items():
                        file[name] = array
                    file["time_ms"].attrs["units"] = "ms"
                    if dense:
                        file["data"].attrs["units"] = log.signal.unit
                    file.attrs["channel"], file.attrs["kind"] = log.name, log.signal.kind
                    file.attrs["labels"] = np.array(labels, h5py.string_dtype())
        os.replace(new, path)
    except OSError as error:
        raise RunDirectoryError(f"--export {path}: it cannot be written: {error.strerror or error}.") from None
    finally:
        new.unlink(missing_ok=True)
    return n


def _arrays(log: Log, index: FrameIndex, contract: Contract, windows: range) -> dict[str, np.ndarray]:
    if log.address.kind == DENSE:
        found = list(dense_rows(log, index, contract, windows))
        data = np.array([row for _, _, row in found]).reshape(len(found), len(value_labels(log)))
        return {"window": np.array([k for k, _, _ in found], np.int64),
                "time_ms": np.array([time_ms for _, time_ms, _ in found], float), "data": data}  # fmt: skip
    number = {label: i for i, label in enumerate(log.signal.labels)}
    spikes = list(spike_rows(log, index, contract, windows))
    return {
        "window": np.array([spike[0] for spike in spikes], np.int64),
        "time_ms": np.array([spike[1] for spike in spikes], float),
        "population": np.array([number[spike[2]] for spike in spikes], np.int64),
        "neuron": np.array([spike[3] for spike in spikes], np.int64),
    }  # fmt: skip


# ---- tables --------------------------------------------------------------------------------------------------


def _list(run_dir: Path, contract: Contract, logs: list[Log]) -> None:
    grid = contract.grid
    print(f"{contract.experiment.get('name', run_dir.name)}: {grid.n_windows} windows of {grid.window_ms:g} ms, "
          f"run {contract.run_id[:12]}")  # fmt: skip
    rows, remarks = [], []
    for name, about in results.programs(run_dir, contract).items():
        versions = about.get("versions") or {}
        mine = [f"{key} {version}" for key, version in versions.items() if key not in COMMON]
        window = "" if about["window"] < 0 else f"{about['window']} of {grid.n_windows}"
        rows.append([name, about["state"], window, ", ".join(mine)])
        if about["error"]:
            remarks.append(f"{name}: {about['error'].removeprefix(name + ': ')}")
        elif about["state"] == "running" and about.get("waiting_for"):
            remarks.append(f"{name}: waits for {about['waiting_for']}")
    show("Programs", ["program", "state", "window", "versions"], rows)
    for remark in remarks:
        print(remark)
    rows = []
    for log in logs:
        try:
            index = log.open()
            held = str(len(index))
            notes = f"{index.torn_bytes} bytes torn" if index.torn_bytes else "whole"
            notes = "damaged" if index.damage is not None else notes
        except RunDirectoryError:
            held, notes = "–", "not recorded"
        channel = log.channel
        name = log.name if channel is None else channel.name
        way = "" if channel is None else f"{channel.producer} → {channel.consumer}"
        rows.append([name, log.stage, way, log.signal.kind, log.signal.unit, held, notes, _labels(log)])
    show("Channels and logs", ["channel", "stage", "direction", "kind", "unit", "windows", "state", "labels"], rows)


def _labels(log: Log) -> str:
    labels = value_labels(log) if log.address.kind == DENSE else list(log.signal.labels)
    sizes = log.signal.sizes
    if log.address.kind != DENSE:
        labels = [f"{label} ({size})" for label, size in zip(labels, sizes, strict=True)]
    shown = labels[:3] if len(labels) > 4 and sys.stdout.isatty() else labels
    return ", ".join(shown) + (f", … ({len(labels)} in all)" if len(shown) < len(labels) else "")


def _summarize(log: Log, index: FrameIndex, contract: Contract, windows: range) -> None:
    """One row per window: when, how much, and in which range."""
    rows = []
    for k in windows:
        t0, t1 = (contract.grid.ms(tick) for tick in index.ticks(k))
        row: list[Any] = [k, f"[{t0:g}, {t1:g})", index.rows(k)]
        if log.address.kind == DENSE:
            values = index.payload(k)[:, 0 if log.channel is not None else 1 :]  # type: ignore[call-overload]
            row += [f"{f(values):.6g}" for f in (np.min, np.mean, np.max)] if values.size else ["", "", ""]
        rows.append(row)
    extra = ["min", "mean", "max"] if log.address.kind == DENSE else []
    head = ["window", "time [ms]", "steps" if log.address.kind == DENSE else "spikes", *extra]
    show(f"{log.name}: {len(index)} windows, {log.signal.unit or log.signal.kind}", head, rows)
    if windows.start:
        hidden = f"Windows before {windows.start} are not shown."
        print(f"{hidden} --windows A:B prints the content of any, --export FILE all.")


def _print(log: Log, index: FrameIndex, contract: Contract, windows: range) -> None:
    if log.address.kind != DENSE:
        rows = [[k, f"{t:g}", label, neuron] for k, t, label, neuron in spike_rows(log, index, contract, windows)]
        show(f"{log.name}: {len(rows)} spikes", ["window", "time [ms]", "population", "neuron"], rows)
        return
    labels = value_labels(log)
    shown = len(labels)
    if sys.stdout.isatty():  # as many columns as fit; they are at least as wide as a number
        widths = np.cumsum([max(len(label), 11) + 3 for label in labels])
        shown = max(1, int(np.searchsorted(widths, Console().width - 22, "right")))
    rows = [
        [k, f"{t:g}", *(f"{value:.6g}" for value in row[:shown])]
        for k, t, row in dense_rows(log, index, contract, windows)
    ]
    unit = f" [{log.signal.unit}]" if log.signal.unit else ""
    show(f"{log.name}{unit}", ["window", "time [ms]", *labels[:shown]], rows)
    if shown < len(labels):
        print(f"{len(labels) - shown} more columns: pipe this, or --export FILE.csv.")


def show(title: str, head: list[str], rows: list[list[Any]]) -> None:
    """A table on a terminal; tab-separated lines under a title when piped, so that cut and awk can go on."""
    if not sys.stdout.isatty():
        print(f"# {title}")
        print("\t".join(head).rstrip())
        for row in rows:
            print("\t".join(str(cell) for cell in row).rstrip())
        return
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(escape(name), overflow="fold", no_wrap=name not in ("labels", "versions"))
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console(highlight=False).print(table)

