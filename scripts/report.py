"""The report of a run: one HTML file without external resources, with the plots and tables that a neuroscientist wants.

Works from the result files (made first when they are missing), for runs that finished, were interrupted, died or still
go on. Long runs are averaged in bins while reading, so that memory, time and size of the report stay bounded.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Patch

from ..bridges import results, timing
from ..bridges.contract import Channel, Contract, Signal
from ..bridges.errors import RunDirectoryError

RATE_BIN_MS = 5.0
MAX_BINS = 1500  # time bins in a plot; more samples than that are averaged
EXCERPT_MS = 2000.0  # what the plots of activity show of a run longer than twice that: its end
MAX_RASTER_NEURONS = 120  # per population
MAX_RASTER_SPIKES = 25_000  # per population
MAX_CV_NEURONS = 300  # per population
MIN_SPIKES_FOR_CV = 4
MAX_REGIONS = 8  # coupled regions with panels of their own
MAX_LINES = 8  # labels with lines of their own; of more, mean and spread are drawn
GANTT_WINDOWS = 15

# Colours of the coupled regions, distinguishable without red-green vision; the same region has the same one everywhere.
REGION_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#8c564b")
OTHER, INK = "#b9bec5", "#24292f"
PHASES = {"simulate": "#2f6690", "transform": "#81a88d", "exchange": "#e09f3e", "wait": "#dfe3e8"}
STYLE: Any = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#6b7280", "axes.labelcolor": INK,
    "xtick.color": "#4b5563", "ytick.color": "#4b5563", "text.color": INK, "axes.linewidth": 0.8, "axes.titlepad": 5,
    "legend.frameon": False, "legend.fontsize": 8, "figure.dpi": 130, "savefig.dpi": 130,
    "figure.constrained_layout.use": True, "lines.linewidth": 1.1,
}  # fmt: skip
WIDTH = 10.6  # inches


def write_report(run_dir: Path) -> Path:
    """Make ``report.html`` in `run_dir` and give its path; the result files it needs are made first if there are none.

    Raises RunDirectoryError when `run_dir` is not a run directory or cannot be written.
    """
    if not (run_dir / "peers").is_dir():
        raise RunDirectoryError(f"{run_dir} is not a run directory: it has no folder peers.")
    try:
        contract: Contract | None = results.read_contract(run_dir)
    except RunDirectoryError:
        contract = None
    running = any(about["state"] == "running" for about in results.programs(run_dir, contract).values())
    settled = (run_dir / "provenance.json").exists()
    with tempfile.TemporaryDirectory(prefix="lockstep-") as scratch:
        if running and not settled:
            source = Path(scratch)
            results.finish(run_dir, into=source)
        else:
            source = run_dir
            if not all((run_dir / name).exists() for name in results.RESULTS):
                results.finish(run_dir)
        with plt.rc_context(STYLE):
            page = _Report(run_dir, source, contract).page()
    path = run_dir / "report.html"
    new = path.with_name(f".report.html.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(page)
        os.replace(new, path)
    except OSError as error:
        raise RunDirectoryError(f"The report {path} cannot be written: {error.strerror}.") from None
    finally:
        new.unlink(missing_ok=True)
    return path


# ---- numbers, without drawing --------------------------------------------------------------------------------


@dataclass
class Binned:
    """A time series averaged in bins: centres [ms] (n_bins,), mean and standard deviation within a bin (n_bins, …)."""

    time_ms: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    per_bin: int  # samples in a bin


def binned(time_ms: h5py.Dataset, data: h5py.Dataset, max_bins: int = MAX_BINS, begin: int = 0) -> Binned:
    """At most about `max_bins` averages of consecutive samples from number `begin` on, read piece by piece."""
    n = len(data) - begin
    per_bin = max(1, -(-n // max_bins))
    n_bins = -(-n // per_bin)
    shape = data.shape[1:]
    time, mean, sd = np.empty(n_bins), np.empty((n_bins, *shape)), np.zeros((n_bins, *shape))
    bins_at_once = max(1, (1 << 22) // (8 * per_bin * max(1, int(np.prod(shape)))))
    for first in range(0, n_bins, bins_at_once):
        last = min(first + bins_at_once, n_bins)
        piece = slice(begin + first * per_bin, begin + last * per_bin)
        rows, times = data[piece], time_ms[piece]
        starts = np.arange(0, len(rows), per_bin)
        counts = np.diff(np.append(starts, len(rows)))
        counts_like = counts.reshape(-1, *[1] * len(shape))
        mean[first:last] = np.add.reduceat(rows, starts) / counts_like
        time[first:last] = np.add.reduceat(times, starts) / counts
        if per_bin > 1:
            deviation = rows - np.repeat(mean[first:last], counts, axis=0)
            sd[first:last] = np.sqrt(np.add.reduceat(deviation**2, starts) / counts_like)
    return Binned(time, mean, sd, per_bin)


@dataclass
class Population:
    """What the report says of one population."""

    region: str
    name: str
    size: int
    n_spikes: int
    rate_hz: float  # mean over neurons and time
    cv: float  # mean over neurons of the coefficient of variation of their intervals; NaN when none fired often enough
    n_cv: int  # neurons it is taken over
    bins_ms: np.ndarray  # edges of the bins in which rates are taken, (n_bins + 1,)
    rates_hz: np.ndarray  # (n_bins,)
    shown: int  # neurons in the raster
    raster: tuple[np.ndarray, np.ndarray]  # times [ms] and rows, 0 to shown - 1

    @property
    def label(self) -> str:
        return f"{self.name}@{self.region}"


def read_population(group: h5py.Group, duration_ms: float, begin_ms: float = 0.0) -> Population:
    """The statistics of one population of spikes.h5 over ``[0, duration_ms)``; raster and rates from `begin_ms` on."""
    size, n_spikes = int(group.attrs["size"]), len(group["timestamps"])
    edges = rate_bins(begin_ms, duration_ms)
    per_neuron = max(n_spikes / size * (duration_ms - begin_ms) / duration_ms, 1e-9)
    shown = int(max(1, min(size, MAX_RASTER_NEURONS, MAX_RASTER_SPIKES / per_neuron)))
    row_of = np.full(size, -1)
    row_of[np.linspace(0, size - 1, shown).astype(int)] = np.arange(shown)
    measured = np.linspace(0, size - 1, min(size, MAX_CV_NEURONS)).astype(int)
    wanted = np.zeros(size, bool)
    wanted[measured] = True
    histogram = np.zeros(len(edges) - 1)
    raster: list[tuple[np.ndarray, np.ndarray]] = []
    trains: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, n_spikes, 1 << 20):
        times = group["timestamps"][start : start + (1 << 20)]
        nodes = group["node_ids"][start : start + (1 << 20)].astype(np.int64)
        histogram += np.bincount(_bin_of(times, edges), minlength=len(edges) + 1)[1:-1]
        rows = np.where(times >= begin_ms, row_of[nodes], -1)
        raster.append((times[rows >= 0], rows[rows >= 0]))
        trains.append((times[wanted[nodes]], nodes[wanted[nodes]]))
    cv, n_cv = _mean_cv(*_joined(trains))
    return Population(
        str(group.attrs["region"]), str(group.attrs["population"]), size, n_spikes,
        n_spikes / size / (duration_ms / 1000), cv, n_cv, edges,
        histogram / size / (np.diff(edges) / 1000), shown, _joined(raster),
    )  # fmt: skip


def rate_bins(begin_ms: float, end_ms: float) -> np.ndarray:
    """Edges of bins of RATE_BIN_MS from `begin_ms` to `end_ms`, where the last bin may be shorter."""
    n_bins = max(1, int(np.ceil((end_ms - begin_ms) / RATE_BIN_MS - 1e-9)))
    return np.append(begin_ms + RATE_BIN_MS * np.arange(n_bins), end_ms)


def _bin_of(times_ms: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each time, counted from 1; 0 is before the first. A time at an edge belongs to the bin it begins, in
    spite of rounding."""
    return np.searchsorted(edges, times_ms + 1e-9, "right")


def _mean_cv(times: np.ndarray, nodes: np.ndarray) -> tuple[float, int]:
    """Mean over neurons with enough spikes of the CV of their interspike intervals, and how many they are.

    As elephant.statistics.cv(isi(train)) of each neuron, all at once, without the seconds that importing it takes.
    """
    order = np.argsort(nodes, kind="stable")
    nodes = nodes[order]
    same = np.diff(nodes) == 0
    intervals, of = np.diff(times[order])[same], nodes[1:][same]
    n = np.bincount(of)
    enough = n >= MIN_SPIKES_FOR_CV - 1
    if not enough.any():
        return float("nan"), 0
    mean = np.bincount(of, intervals) / np.maximum(n, 1)
    sd = np.sqrt(np.bincount(of, (intervals - mean[of]) ** 2) / np.maximum(n, 1))
    return float(np.mean(sd[enough] / mean[enough])), int(enough.sum())


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if not pieces:
        return np.zeros(0), np.zeros(0, int)
    return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])


def group_rates(group: h5py.Group, tick_ms: float, edges: np.ndarray) -> np.ndarray:
    """The rate of each group of senders [Hz], (n_bins, n_groups), of spikes in exchange.h5, in the bins of `edges`."""
    sizes = group.attrs["sizes"]
    first = np.concatenate(([0], np.cumsum(sizes)))
    counts = np.zeros((len(edges) + 1) * len(sizes))
    for start in range(0, len(group["times"]), 1 << 20):
        times = group["times"][start : start + (1 << 20)] * tick_ms
        which = np.searchsorted(first, group["senders"][start : start + (1 << 20)], "right") - 1
        counts += np.bincount(_bin_of(times, edges) * len(sizes) + which, minlength=len(counts))
    return counts.reshape(-1, len(sizes))[1:-1] / (sizes * np.diff(edges)[:, None] / 1000)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Time [s] in which both programs simulate; (n, 2) starts and lengths, each in order and without overlap."""
    if not len(one) or not len(other):
        return 0.0
    edges = np.concatenate([one[:, 0], one.sum(1), other[:, 0], other.sum(1)])
    steps = np.concatenate([np.ones(len(one)), -np.ones(len(one)), np.ones(len(other)), -np.ones(len(other))])
    order = np.argsort(edges, kind="stable")
    depth = np.cumsum(steps[order])[:-1]
    return float(np.diff(edges[order])[depth >= 2].sum())


def segments(row: np.ndarray) -> list[tuple[str, float, float]]:
    """(phase, start, length) [s] of one window of timing. When the simulation ran is measured; waiting, exchange and
    transformation are laid around it in this order, as far as there is room before it, the rest after."""
    start, simulate_start, simulate, transform, exchange, wait = row
    found, at = [], start
    for phase, left in (("wait", wait), ("exchange", exchange), ("transform", transform)):
        before = min(left, max(0.0, simulate_start - at)) if at < simulate_start else 0.0
        if before > 0:
            found.append((phase, at, before))
            at += before
            left -= before
        if at >= simulate_start - 1e-12:
            if not any(name == "simulate" for name, _, _ in found):
                found.append(("simulate", simulate_start, simulate))
                at = simulate_start + simulate
            if left > 1e-9:
                found.append((phase, at, left))
                at += left
    if not any(name == "simulate" for name, _, _ in found):
        found.append(("simulate", simulate_start, simulate))
    return found


# ---- the report ----------------------------------------------------------------------------------------------


class _Report:
    def __init__(self, run_dir: Path, source: Path, contract: Contract | None) -> None:
        self.run_dir, self.source, self.contract = run_dir, source, contract
        self.provenance = json.loads((source / "provenance.json").read_text())
        self.programs = self.provenance["programs"]
        self.timing: dict[str, np.ndarray] = {}
        for name in self.programs:
            try:
                data = results.read_timing(run_dir, name)
            except RunDirectoryError:
                continue  # provenance.json says so
            if data is not None and len(windows := timing.recorded(data)):
                self.timing[name] = np.asarray(data[windows])
        if contract is not None:
            self.of_region = results.coupled(contract)
            self.colours = {
                region: REGION_COLOURS[i % len(REGION_COLOURS)] for i, region in enumerate(self.of_region)
            }
            begun = max((int(about["window"]) for about in self.programs.values()), default=-1) + 1
            done = max([len(rows) for rows in self.timing.values()], default=begun)
            grid = contract.grid
            self.windows_done = min(done, grid.n_windows)
            self.done_ms = grid.ms(grid.ticks(self.windows_done - 1)[1]) if self.windows_done else 0.0
            long = self.done_ms > 2 * EXCERPT_MS
            self.begin_ms = RATE_BIN_MS * ((self.done_ms - EXCERPT_MS) // RATE_BIN_MS) if long else 0.0
            self.populations = self._populations()

    def _populations(self) -> list[Population]:
        if not self.done_ms:
            return []
        with h5py.File(self.source / "spikes.h5") as file:
            groups = list(file["spikes"].values())
            assert self.contract is not None
            order = [
                (region, name) for about in self.contract.spikenet.values() for region, name, _ in about["populations"]
            ]
            groups.sort(key=lambda group: order.index((group.attrs["region"], group.attrs["population"])))
            return [read_population(group, self.done_ms, self.begin_ms) for group in groups]

    def page(self) -> str:
        name = self.contract.experiment.get("name", "run") if self.contract is not None else self.run_dir.name
        sections = list(self._sections())
        navigation = " ".join(f'<a href="#{key}">{_text(title)}</a>' for key, title, _ in sections)
        body = "\n".join(
            f'<section id="{key}"><h2>{_text(title)}</h2>\n{text}</section>' for key, title, text in sections
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<title>{_text(name)} · lockstep report</title>'
            f'<meta name="viewport" content="width=device-width"><style>{CSS}</style></head>\n<body><header>'
            f"<h1>{_text(name)}</h1>{self._head()}<nav>{navigation}</nav></header>\n<main>{body}</main>\n"
            f"<footer>Made by lockstep from {_text(', '.join(results.RESULTS[:-1]))} in the run directory, "
            f"{_text(self.provenance['written'])}.</footer></body></html>\n"
        )

    def _sections(self) -> Iterator[tuple[str, str, str]]:
        warnings = self._warnings()
        resumed = [
            f"{_interruption(what)}, and was resumed."
            for what in self.provenance["interruptions"] if what.get("resumed")
        ]  # fmt: skip
        if warnings or resumed or self.provenance["notes"]:
            items = "".join(f'<li class="warning">{_text(text)}</li>' for text in warnings)
            items += "".join(f"<li>{_text(text)}</li>" for text in [*resumed, *self.provenance["notes"]])
            yield "notes", "Notes", f"<ul>{items}</ul>"
        if self.contract is not None and self.done_ms:
            yield from self._plots(self.contract)
        yield "programs", "Programs", self._program_table()
        if self.contract is not None:
            yield "contract", "Contract", self._contract_tables(self.contract)
            yield "counters", "Counters", self._counter_table()

    def _plots(self, contract: Contract) -> Iterator[tuple[str, str, str]]:
        with h5py.File(self.source / "tvb.h5") as file:
            text = "".join(self._tvb_figure(contract, name, group) for name, group in file["monitors"].items())
            if text:
                yield "tvb", "TVB", text
        if self.populations:
            yield "spikes", "Spiking populations", self._raster_figures() + self._rate_table()
        with h5py.File(self.source / "exchange.h5") as file:
            text = "".join(self._channel_figure(contract, c, file[c.name]) for c in contract.channels if c.name in file)
            if text:
                yield "bridge", "What crossed the bridge", text
        if self.timing:
            yield "time", "Where the time went", self._time_figures() + self._time_table()

    # ---- head and notes ------------------------------------------------------------------------------------------

    def _head(self) -> str:
        facts: list[tuple[str, str]] = []
        if self.contract is not None:
            grid, experiment = self.contract.grid, self.contract.experiment
            simulators = " + ".join(f"{a['simulator']} {a['version']}" for a in self.contract.spikenet.values())
            tvb = (self.programs.get("tvb", {}).get("versions") or {}).get("tvb-library", "")
            facts += [("TVB", f"{tvb} {self.contract.tvb.get('model', '')}".strip()), ("Spiking", simulators)]
            facts.append(("Simulated", f"{self.done_ms:g} of {grid.duration_ms:g} ms"))
            facts.append(("Window", f"{grid.window_ms:g} ms ({grid.window_steps} × {grid.dt_ms:g})"))
            elapsed = [(rows[-1, 0] + np.nansum(rows[-1, 2:])) - rows[0, 0] for rows in self.timing.values()]
            if elapsed and self.done_ms:
                factor = max(elapsed) / (self.done_ms / 1000)
                facts.append(("In lock-step", f"{max(elapsed):.3g} s ({factor:.3g} × real time)"))
            exchange = experiment.get("exchange", {})
            facts.append(("Exchange", f"{exchange.get('transport', '?')}, {exchange.get('mode', '?')}"))
            facts.append(("Seed", str(experiment.get("seed"))))
        states = {about["state"] for about in self.programs.values()}
        state = "finished" if self.provenance["complete"] else "running" if "running" in states else "incomplete"
        run = self.provenance.get("run") or {}
        cells = "".join(f"<div><dt>{_text(key)}</dt><dd>{_text(value)}</dd></div>" for key, value in facts)
        return (
            f'<p class="sub"><span class="state {state}">{state}</span> run {_text(str(run.get("run_id", "?"))[:12])}, '
            f"{_text(run.get('created', '?'))}</p><dl>{cells}</dl>"
        )

    def _warnings(self) -> list[str]:
        found = []
        for what in self.provenance["interruptions"]:
            if not what.get("resumed"):
                text = _interruption(what)
                found.append(f"{text}: {what['error']}" if what["error"] else f"{text}.")
        if self.provenance["complete"]:
            found += [
                f"{name}: what was sent, received and delivered differs, see Counters."
                for name, counted in self.provenance.get("channels", {}).items() if not counted["balanced"]
            ]  # fmt: skip
        if self.contract is not None:
            found += [f"{silent.label} fired no spike." for silent in self.populations if not silent.n_spikes]
        return found

    # ---- TVB -----------------------------------------------------------------------------------------------------

    def _tvb_figure(self, contract: Contract, name: str, group: h5py.Group) -> str:
        data = group["data"]
        if not len(data):
            return ""
        vois = [_str(v) for v in group.attrs["voi"]]
        whole = binned(group["time_ms"], data)
        series = binned(group["time_ms"], data, begin=self._first_row(len(data))) if self.begin_ms else whole
        values, all_values = series.mean.mean(axis=3), whole.mean.mean(axis=3)  # (time, voi, region)
        regions = [_str(r) for r in data.attrs["regions"]] if "regions" in data.attrs else []
        scale, unit = self._time_axis()
        time = series.time_ms * scale
        mine = [regions.index(region) for region in self.colours if region in regions]
        neighbours = self._neighbours(contract, regions)
        n_lines = 2 if mine else 1
        shown = vois[:3]
        height = 2.6 + 1.45 * n_lines * len(shown)
        fig, axes = plt.subplots(
            1 + n_lines * len(shown), 1, figsize=(WIDTH, height), squeeze=False,
            height_ratios=[1.75] + [1] * (n_lines * len(shown)), layout="none",
        )  # fmt: skip
        # Margins by hand, so that time runs alike in all panels and colour bar and legends share one column.
        fig.subplots_adjust(left=0.065, right=0.84, bottom=0.42 / height, top=1 - 0.25 / height, hspace=0.42)
        heat = axes[0, 0]
        low, high = np.percentile(all_values[:, 0], [0.5, 99.5])
        all_time = whole.time_ms * scale
        half = (all_time[1] - all_time[0]) / 2 if len(time) > 1 else 0.5
        image = heat.imshow(
            all_values[:, 0].T, cmap="cividis", vmin=low, vmax=high if high > low else low + 1e-9,
            aspect="auto", interpolation="nearest",
            extent=(all_time[0] - half, all_time[-1] + half, values.shape[2] - 0.5, -0.5),
        )  # fmt: skip
        fig.colorbar(image, cax=heat.inset_axes((1.015, 0, 0.014, 1)), label=vois[0])
        what = "region" if regions else "sensor"
        heat.set(title=f"{vois[0]} of all {values.shape[2]} {what}s" + (", the whole run" if self.begin_ms else ""),
                 ylabel=f"{what} number", xlim=(0, self.done_ms * scale))  # fmt: skip
        for i in mine:
            heat.annotate("", (0, i), (-0.012, i), xycoords=("axes fraction", "data"), annotation_clip=False,
                          arrowprops={"arrowstyle": "simple,head_width=.7,head_length=.7,tail_width=.1", "lw": 0,
                                      "color": self.colours[regions[i]]})  # fmt: skip
        if mine and len(mine) <= MAX_REGIONS:
            heat.tick_params(axis="y", pad=8)
        for v, voi in enumerate(shown):
            lines = list(axes[1 + n_lines * v : 1 + n_lines * (v + 1), 0])
            rest = lines[-1]
            others = [i for i in range(values.shape[2]) if i not in mine]
            rest.plot(time, values[:, v, others], color=OTHER, rasterized=True,
                      lw=0.5 if len(others) > 12 else 0.9, alpha=0.4 if len(others) > 12 else 1)
            if others:
                rest.plot(time, values[:, v, others].mean(axis=1), color=INK, lw=1.2, label=f"mean of {len(others)}")
            for i, region, of in neighbours:
                style = "-" if [r for _, r, o in neighbours if o == of].index(region) == 0 else (0, (3, 1.2))
                rest.plot(time, values[:, v, i], color=_mix(self.colours[of], 0.15), lw=1.0, ls=style, label=region)
            title = f"{voi}: the regions that TVB computes" if mine else voi
            if neighbours:
                title = f"{voi}: their strongest neighbours, in the same colours; all other regions in grey"
            rest.set(ylabel=voi, title=title)
            rest.legend(loc="upper left", bbox_to_anchor=(1.0, 1.08), handlelength=1.4, labelspacing=0.3)
            _robust_limits(rest, values[:, v, others])
            if mine:
                top = lines[0]
                for i in mine[:MAX_REGIONS]:
                    top.plot(time, values[:, v, i], color=self.colours[regions[i]], lw=1.0, label=regions[i])
                by = "computed by spiking populations" if voi in self._delivered() else "computed by TVB"
                top.set(ylabel=voi, title=f"{voi}: coupled regions, {by}")
                top.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), handlelength=1.4)
        for axis in axes[1:, 0]:
            axis.set_xlim(self.begin_ms * scale, self.done_ms * scale)
        for axis in axes[1:-1, 0] if self.begin_ms else axes[:-1, 0]:
            axis.tick_params(labelbottom=False)
        axes[-1, 0].set_xlabel(f"time [{unit}]")
        note = f"Monitor {name}, period {float(group.attrs['period_ms']):g} ms."
        for what, per_bin in (("All regions", whole.per_bin), ("Lines", series.per_bin)):
            note += f" {what}: averages of {per_bin} samples." if per_bin > 1 else ""
        note += self._excerpt("The lines show")
        if mine:
            note += " Triangles mark the coupled regions."
            note += "" if neighbours else " The contract of this run names no neighbours."
        if len(vois) > len(shown):
            note += f" Not drawn: {', '.join(vois[len(shown):])}; tvb.h5 has all."
        return _figure(fig, f"TVB time series, monitor {name}", note)

    def _neighbours(self, contract: Contract, regions: list[str]) -> list[tuple[int, str, str]]:
        """(index, region, the coupled region it neighbours), the strongest first: two for each, six in all at most."""
        found: list[tuple[int, str, str]] = []
        for of, pairs in contract.tvb.get("neighbours", {}).items():
            fresh = [
                region for region, _ in pairs
                if region in regions and region not in self.colours and region not in {f[1] for f in found}
            ]  # fmt: skip
            found += [(regions.index(region), region, of) for region in fresh[:2] if of in self.colours]
        return found[:6]

    # ---- spikes --------------------------------------------------------------------------------------------------

    def _raster_figures(self) -> str:
        regions = list(dict.fromkeys(population.region for population in self.populations))
        shown = regions[:MAX_REGIONS]
        columns = len(shown) if len(shown) <= 3 else 2
        scale, unit = self._time_axis()
        text = ""
        for first in range(0, len(shown), columns):
            row = shown[first : first + columns]
            fig, axes = plt.subplots(
                2, columns, figsize=(WIDTH, 4.9), sharex=True, squeeze=False, height_ratios=[1.9, 1]
            )  # fmt: skip
            for j, region in enumerate(row):
                self._raster(axes[0, j], axes[1, j], region, scale)
                axes[1, j].set(xlabel=f"time [{unit}]", xlim=(self.begin_ms * scale, self.done_ms * scale))
            highest = max(axis.get_ylim()[1] for axis in axes[1, : len(row)])
            for axis in axes[1, : len(row)]:
                axis.set_ylim(0, 1.15 * highest)  # room for the legend
            for j in range(len(row), columns):
                axes[0, j].axis("off")
                axes[1, j].axis("off")
            caption = f"Each dot is a spike. Beneath, the population rate in bins of {RATE_BIN_MS:g} ms."
            caption += self._excerpt("Shown are")
            text += _figure(fig, f"Spikes and rates of {', '.join(row)}", caption if first == 0 else "")
        if len(regions) > len(shown):
            text += f"<p>Not drawn: {_text(', '.join(regions[len(shown):]))}. spikes.h5 has all.</p>"
        return text

    def _raster(self, top: Any, bottom: Any, region: str, scale: float) -> None:
        populations = [population for population in self.populations if population.region == region]
        base, ticks, names = 0.0, [], []
        total = sum(population.shown for population in populations)
        for i, population in enumerate(populations):
            colour = _shade(self.colours.get(region, REGION_COLOURS[0]), i)
            times, rows = population.raster
            most = max(len(other.raster[0]) for other in self.populations)
            size = 6.0 if most < 500 else 3.0 if most < 4000 else 1.6 if most < 12_000 else 0.7
            top.scatter(times * scale, rows + base, s=size, color=colour, linewidths=0, rasterized=True)
            ticks.append(base + (population.shown - 1) / 2)
            some = f"{population.shown} of " if population.shown < population.size else ""
            names.append(f"{population.name}\n{some}{population.size}")
            base += population.shown + max(1.0, 0.03 * total)
            bottom.stairs(population.rates_hz, population.bins_ms * scale, color=colour, lw=1.1, label=population.name)
        top.set(title=self._where(region), ylim=(base - 0.5, -1.5))
        top.set_yticks(ticks, names)
        top.tick_params(axis="y", length=0)
        bottom.set(ylabel="rate [Hz]")
        bottom.legend(loc="upper right", ncols=len(populations), handlelength=1.2)

    def _delivered(self) -> set[str]:
        """The variables of TVB that spiking populations replace."""
        channels = [] if self.contract is None else self.contract.of("tvb")[0]
        return {label.partition("@")[0] for channel in channels for label in channel.out.labels}

    def _where(self, region: str) -> str:
        """The region, and with several spiking programs the one that computes it."""
        programs = self.contract.spikenet if self.contract is not None else {}
        for name, about in programs.items():
            if len(programs) > 1 and any(region == each for each, _, _ in about["populations"]):
                return f"{region} ({name}: {about['simulator']})"
        return region

    def _rate_table(self) -> str:
        rows = [
            [p.region, p.name, p.size, p.n_spikes, _number(p.rate_hz), _number(p.cv), p.n_cv] for p in self.populations
        ]
        head = ["region", "population", "neurons", "spikes", "mean rate [Hz]", "CV of ISI", "neurons in CV"]
        return _table(head, rows, number_from=2) + (
            f'<p class="note">Over the whole run. CV: mean over neurons with at least {MIN_SPIKES_FOR_CV} spikes, '
            f"of at most {MAX_CV_NEURONS} neurons per population.</p>"
        )

    # ---- the bridge ----------------------------------------------------------------------------------------------

    def _channel_figure(self, contract: Contract, channel: Channel, group: h5py.Group) -> str:
        scale, unit = self._time_axis()
        fig, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.5), sharex=True)
        sides = (
            ("raw", channel.raw, f"{channel.producer} sends"),
            ("transformed", channel.out, f"{channel.consumer} receives"),
        )
        spread = ""
        for axis, (stage, signal, what) in zip(axes, sides, strict=True):
            axis.set_title(f"{what}: {_quantity(channel, stage)}")
            axis.set_xlabel(f"time [{unit}]")
            axis.set_xlim(self.begin_ms * scale, self.done_ms * scale)
            if stage not in group:
                axis.text(0.5, 0.5, "not recorded", transform=axis.transAxes, ha="center", color="#6b7280")
                continue
            spread = self._draw_signal(axis, signal, group[stage], contract.grid.tick_ms, scale) or spread
        right: dict[str, Any] = {}  # of the axis there, and where it has two scales of both
        for axis in fig.axes:
            handles, labels = axis.get_legend_handles_labels()
            place = axis.get_subplotspec()
            right |= zip(labels, handles, strict=True) if place is not None and place.colspan.start else ()
        if right:
            fig.legend(list(right.values()), list(right), loc="outside right upper", handlelength=1.4)
        caption = f"Transformer {', '.join(channel.transformer)}: {channel.equation}. {spread}".strip()
        caption += self._excerpt("Shown are")
        voi, populations = ", ".join(channel.voi), ", ".join(channel.populations)
        what = f"{voi} → {populations}" if channel.producer == "tvb" else f"{populations} → {voi}"
        direction = f"{channel.producer} → {channel.consumer}: {what}"
        return f"<h3>{_text(direction)} <small>{_text(channel.name)}</small></h3>" + _figure(
            fig, f"Channel {channel.name} before and after the transformer", caption
        )

    def _draw_signal(self, axis: Any, signal: Signal, group: h5py.Group, tick_ms: float, scale: float) -> str:
        """Draw one side of a channel; returns what the shaded band means, if there is one."""
        edges = rate_bins(self.begin_ms, self.done_ms)
        if signal.kind == "spikes":
            values = group_rates(group, tick_ms, edges)
            time, sd, per_bin = (edges[:-1] + edges[1:]) / 2, np.zeros_like(values), 1
            axis.set_ylabel("rate [Hz]")
            axis.set_ylim(0, 1.08 * max(values.max(initial=0.0), 1e-9))
        else:
            if not len(group["data"]):
                return ""
            series = binned(group["time_ms"], group["data"], 250, self._first_row(len(group["data"])))
            time, values, sd, per_bin = series.time_ms, series.mean, series.sd, series.per_bin
            axis.set_ylabel(f"{_axis_name(signal)} [{signal.unit}]" if signal.unit else _axis_name(signal))
        time = time * scale
        labels = list(signal.labels)
        if len(labels) <= MAX_LINES:
            axis_of = _axes_by_variable(axis, labels, values) if signal.kind == "dense" else {}
            for i, label in enumerate(labels):
                name, _, region = label.partition("@")
                axis = axis_of.get(name, axis)
                same = [other for other in labels if other.split("@", 1)[-1] == region]
                colour = _shade(self.colours.get(region, INK), same.index(label))
                if signal.kind == "spikes":
                    axis.stairs(values[:, i], edges * scale, color=colour, label=label, lw=0.8)
                    continue
                axis.plot(time, values[:, i], color=colour, label=label, lw=1.0)
                if per_bin > 1:
                    low, high = values[:, i] - sd[:, i], values[:, i] + sd[:, i]
                    axis.fill_between(time, low, high, color=colour, alpha=0.18, lw=0)
            bin_ms = (time[1] - time[0]) / scale if len(time) > 1 else 0
            return f"Band: ± 1 SD of the {per_bin} steps averaged ({bin_ms:.3g} ms)." if per_bin > 1 else ""
        mean, across = values.mean(axis=1), values.std(axis=1)
        axis.plot(time, mean, color=INK, lw=1.1, label=f"mean of {len(labels)}")
        axis.fill_between(time, mean - across, mean + across, color=INK, alpha=0.15, lw=0, label="± 1 SD across")
        return ""

    # ---- time ----------------------------------------------------------------------------------------------------

    def _time_figures(self) -> str:
        names = list(self.timing)
        fig, axis = plt.subplots(figsize=(WIDTH, 0.95 + 0.55 * len(names)))
        reference = self.timing[names[0]]
        n = min(GANTT_WINDOWS, len(reference))
        first = max(0, len(reference) // 2 - n // 2)
        start, last = reference[first, 0], reference[first + n - 1]
        end = max(last[0] + np.nansum(last[2:]), last[1] + last[2])
        unit, factor = ("ms", 1e3) if end - start < 10 else ("s", 1.0)
        for y, name in enumerate(names):
            rows = self.timing[name]
            ends = np.maximum(rows[:, 1] + rows[:, 2], rows[:, 0] + np.nansum(rows[:, 2:], axis=1))
            visible = np.flatnonzero((rows[:, 0] < end) & (ends > start))
            bars: dict[str, list[tuple[float, float]]] = {phase: [] for phase in PHASES}
            for k in visible:
                for phase, at, length in segments(rows[k]):
                    bars[phase].append(((at - start) * factor, length * factor))
                x = (rows[k, 1] + rows[k, 2] / 2 - start) * factor
                wide = rows[k, 2] / (end - start) > 0.02
                if wide and 0 < x < (end - start) * factor:
                    axis.text(x, y, str(k), ha="center", va="center", color="white", fontsize=7.5)
            for phase, spans in bars.items():
                axis.broken_barh(spans, (y - 0.36, 0.72), color=PHASES[phase], lw=0.4, edgecolor="white")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(f"Windows {first} to {first + n - 1} of {names[0]}, and what the others did meanwhile")
        axis.set(ylim=(len(names) - 0.5, -0.5), xlim=(0, (end - start) * factor), xlabel=f"wall time [{unit}]")
        axis.tick_params(axis="y", length=0)
        handles = [Patch(color=colour, label=phase) for phase, colour in PHASES.items()]
        fig.legend(handles=handles, loc="outside right upper")
        text = _figure(
            fig, "Time line of the programs",
            "Numbers are windows. When each simulation ran is measured; waiting, exchange and transformation are drawn "
            "around it in this order. White: anything else.",
        )  # fmt: skip
        fig, axes = plt.subplots(1, len(names), figsize=(WIDTH, 2.1), sharey=True, squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            rows = self.timing[name]
            per_bin = max(1, -(-len(rows) // 120))
            starts = np.arange(0, len(rows), per_bin)
            sums = np.stack([np.add.reduceat(np.nan_to_num(rows[:, timing.COLUMNS.index(p)]), starts) for p in PHASES])
            share = 100 * sums / np.maximum(sums.sum(axis=0), 1e-12)
            edges = np.append(starts, len(rows))
            floor = np.zeros(len(starts))
            for phase, values in zip(PHASES, share, strict=True):
                axis.stairs(floor + values, edges, baseline=floor, fill=True, color=PHASES[phase])
                floor = floor + values
            axis.set(title=name, xlabel="window", xlim=(0, len(rows)), ylim=(0, 100))
        axes[0, 0].set_ylabel("share of time [%]")
        return text + _figure(fig, "Shares of simulate, transform, exchange and wait over the run", "")

    def _time_table(self) -> str:
        rows, simulations = [], {}
        for name, data in self.timing.items():
            elapsed = max(data[-1, 0] + np.nansum(data[-1, 2:]), data[-1, 1] + data[-1, 2]) - data[0, 0]
            totals = [float(np.nansum(data[:, timing.COLUMNS.index(phase)])) for phase in PHASES]
            simulations[name] = data[:, 1:3]
            median = f"{1e3 * float(np.nanmedian(np.nansum(data[:, 2:], axis=1))):.3g}"
            shares = [f"{total:.3f} ({100 * total / elapsed:.1f} %)" for total in totals]
            rows.append([name, len(data), f"{elapsed:.3f}", *shares, median])
        head = ["program", "windows", "elapsed [s]", *(f"{phase} [s]" for phase in PHASES), "median window [ms]"]
        text = _table(head, rows, number_from=1)
        tvb = simulations.pop("tvb", None)
        for name, spans in simulations.items():
            if tvb is not None and name != "bridge":
                both = overlap(tvb, spans)
                less = min(tvb[:, 1].sum(), spans[:, 1].sum())
                if less > 0:
                    text += (f'<p class="note">tvb and {_text(name)} simulate at the same time for {both:.3f} s, '
                             f"{100 * both / less:.0f} % of the time of the faster one.</p>")  # fmt: skip
        return text

    # ---- tables --------------------------------------------------------------------------------------------------

    def _program_table(self) -> str:
        rows: list[list[Any]] = []
        for name, about in self.programs.items():
            windows = about.get("windows")
            versions = ", ".join(f"{package} {version}" for package, version in (about.get("versions") or {}).items())
            rows.append([
                name, about["state"], max(0, about["window"]) if windows is None else windows,
                _seconds(about.get("wall_s")), _seconds(about.get("cpu_s")), _number(about.get("peak_memory_mib")),
                about.get("host") or "–", about.get("python") or "–", versions or "–",
            ])  # fmt: skip
        head = ["program", "state", "windows", "wall [s]", "CPU [s]", "peak memory [MiB]", "host", "Python", "packages"]
        return _table(head, rows)

    def _contract_tables(self, contract: Contract) -> str:
        grid, tvb = contract.grid, contract.tvb
        facts = [
            ["windows", f"{grid.n_windows} of {grid.window_ms:g} ms = {grid.window_steps} steps of {grid.dt_ms:g} ms"],
            ["tick", f"{grid.tick_ms:g} ms"],
            ["shortest delay at the proxies", f"{tvb['min_delay_ms']:g} ms" if tvb.get("min_delay_ms") else "–"],
            ["TVB", f"{tvb.get('model', '?')}, {len(tvb.get('regions', []))} regions, of which coupled: "
                    f"{', '.join(f'{region} ({program})' for region, program in self.of_region.items()) or 'none'}"],
        ]  # fmt: skip
        for name, about in contract.spikenet.items():
            size = sum(size for _, _, size in about["populations"])
            parts = [f"{about['simulator']} {about['version']}", f"resolution {about.get('resolution_ms', '?')} ms"]
            parts += [f"min delay {about['min_delay_ms']} ms"] if about.get("min_delay_ms") else []
            parts += [f"{len(about['populations'])} populations", f"{size} neurons"]
            facts.append([name, ", ".join(parts)])
        channels = []
        for c in contract.channels:
            delays = sorted({edge.delay_ms for edge in c.edges})
            shown = "–" if not delays else f"{delays[0]:g}" if len(delays) == 1 else f"{delays[0]:g} … {delays[-1]:g}"
            channels.append([
                c.name, f"{c.producer} → {c.consumer}", " ".join(part for part in (c.model, c.coupling_mode) if part),
                f"{', '.join(c.voi)} ↔ {', '.join(c.populations)}", f"{_form(c.raw)} → {_form(c.out)}",
                c.equation, len(c.edges) or "–", shown,
            ])  # fmt: skip
        head = ["channel", "direction", "model", "voi ↔ populations", "signal", "transformer", "edges", "delay [ms]"]
        return _table([], facts) + _table(head, channels)

    def _counter_table(self) -> str:
        keys = [f"{thing}_{leg}" for thing in ("frames", "spikes") for leg in ("sent", "received", "delivered")]
        channels = self.provenance.get("channels", {})
        if any("values_clipped" in counted for counted in channels.values()):
            keys.append("values_clipped")
        rows = []
        for name, counted in channels.items():
            values = ["–" if counted.get(key) is None else counted[key] for key in keys]
            rows.append([name, *values, "yes" if counted["balanced"] else "NO"])
        return _table(["channel", *(key.replace("_", " ") for key in keys), "balanced"], rows, number_from=1)

    def _first_row(self, n: int) -> int:
        """Of `n` samples over the run, the first that the excerpt shows."""
        return int(n * self.begin_ms / self.done_ms)

    def _excerpt(self, what: str) -> str:
        return f" {what} the last {self.done_ms - self.begin_ms:g} ms of the run." if self.begin_ms else ""

    def _time_axis(self) -> tuple[float, str]:
        return (1e-3, "s") if self.done_ms > 5000 else (1.0, "ms")


# ---- small things --------------------------------------------------------------------------------------------


def _axes_by_variable(axis: Any, labels: list[str], values: np.ndarray) -> dict[str, Any]:
    """The axis of each variable: a second scale where there are two of them, one much larger than the other."""
    names = list(dict.fromkeys(label.partition("@")[0] for label in labels))
    largest = [
        np.abs(values[:, [i for i, label in enumerate(labels) if label.partition("@")[0] == name]]).max(initial=0.0)
        for name in names
    ]
    if len(names) != 2 or max(largest) < 5 * min(largest):
        return dict.fromkeys(names, axis)
    second = axis.twinx()
    axis.set_ylabel(names[0])
    second.set_ylabel(names[1])
    second.spines["right"].set_visible(True)
    return {names[0]: axis, names[1]: second}


def _figure(fig: Any, alt: str, caption: str) -> str:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", facecolor="white")
    plt.close(fig)
    image = base64.b64encode(buffer.getvalue()).decode()
    text = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{_text(alt)}" src="data:image/png;base64,{image}">{text}</figure>\n'


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], number_from: int | None = None) -> str:
    """number_from: the first column that holds numbers, set to the right."""

    def cells(row: Sequence[Any], tag: str) -> str:
        right = [number_from is not None and i >= number_from for i in range(len(row))]
        return "".join(
            f"<{tag}{' class=n' if n else ''}>{_text(cell)}</{tag}>" for cell, n in zip(row, right, strict=True)
        )

    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<div class="table"><table{"" if head else " class=facts"}>{top}<tbody>{body}</tbody></table></div>\n'


def _interruption(what: dict[str, Any]) -> str:
    """How a program ended before the run did."""
    how = {"died": "died without a word", "interrupted": "was interrupted", "absent": "never came"}
    text = f"{what['program']} {how.get(what['state'], what['state'])}"
    if what["state"] == "absent":
        return text
    return f"{text} in window {what['window']}" if what["window"] >= 0 else f"{text} before the first window"


def _text(value: Any) -> str:
    return html.escape(str(value), quote=True)


def _str(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _rgb(parts: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = parts
    return red, green, blue


def _mix(colour: str, white: float) -> str:
    return to_hex(_rgb(c + (1 - c) * white for c in to_rgb(colour)))


def _shade(colour: str, i: int) -> str:
    """The i-th shade of a colour: itself, dark, light."""
    if i % 3 == 1:
        return to_hex(_rgb(0.45 * c for c in to_rgb(colour)))
    return _mix(colour, 0.0 if i % 3 == 0 else 0.45)


def _robust_limits(axis: Any, values: np.ndarray) -> None:
    low, high = values.min(), values.max()
    if high > low:
        axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))


def _axis_name(signal: Signal) -> str:
    names = list(dict.fromkeys(label.split("@", 1)[0] for label in signal.labels))
    return ", ".join(names[:3])


def _quantity(channel: Channel, stage: str) -> str:
    signal = channel.raw if stage == "raw" else channel.out
    if signal.kind == "spikes":
        return "spikes"
    if channel.consumer == "tvb":
        return "membrane potential" if stage == "raw" else ", ".join(channel.voi)
    if stage == "raw":
        return "large-scale coupling" if channel.coupling_mode == "TVB" else "state of the proxies"
    return {"RATE": "rate", "CURRENT": "current"}.get(channel.model, channel.model.lower())


def _form(signal: Signal) -> str:
    if signal.kind == "spikes":
        return f"spikes of {signal.columns}"
    return f"{signal.columns} × {signal.unit}" if signal.unit else f"{signal.columns} values"


CSS = """
:root{--ink:#24292f;--soft:#57606a;--line:#d8dee4;--paper:#fff;--tint:#f6f8fa}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
header,main,footer{max-width:1140px;margin:0 auto;padding:0 28px}
header{padding-top:26px}
h1{font-size:28px;margin:0;letter-spacing:-.01em}
h2{font-size:19px;margin:34px 0 10px;padding-top:10px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:20px 0 4px} h3 small{font-weight:400;color:var(--soft);margin-left:6px}
.sub{margin:4px 0 14px;color:var(--soft)}
.state{display:inline-block;padding:1px 10px;border-radius:11px;color:#fff;font-size:13px;margin-right:6px;
background:#b35900}
.state.finished{background:#1a7f52}.state.running{background:#2f6690}
dl{display:flex;flex-wrap:wrap;gap:8px 25px;margin:0 0 14px;padding:12px 16px;background:var(--tint);border-radius:8px}
dl div{min-width:90px} dt{font-size:12px;color:var(--soft)} dd{margin:0;font-weight:600}
nav a{color:#2f6690;text-decoration:none;margin-right:16px;font-size:14px} nav a:hover{text-decoration:underline}
figure{margin:8px 0 14px} figure img{width:100%;height:auto;display:block}
figcaption,.note{color:var(--soft);font-size:13px;margin:4px 0 0}
.table{overflow-x:auto;margin:10px 0} table{border-collapse:collapse;font-size:13px;width:100%}
th{text-align:left;font-weight:600;border-bottom:1.5px solid #8c959f;padding:5px 10px 5px 0;vertical-align:bottom}
td{border-bottom:1px solid var(--line);padding:5px 10px 5px 0;vertical-align:top}
th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;padding-right:14px}
tbody td:first-child{white-space:nowrap}
.facts td:first-child{color:var(--soft);width:220px}
ul{padding-left:20px;margin:6px 0} li{margin:3px 0;overflow-wrap:anywhere} li.warning{color:#9a3412;font-weight:600}
footer{color:var(--soft);font-size:12.5px;padding:26px 28px 40px}
@media print{nav{display:none} section{break-inside:avoid-page}}
"""
