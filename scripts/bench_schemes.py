"""`lockstep bench schemes` and `bench modes`: the ways to couple the two scales, side by side on wilson_cowan.

Schemes: both ways, TVB to the network alone, the network to TVB alone. Modes: what goes to the network is TVB's summed
coupling, or the states of its regions, which the network connects itself. Compared over several seeds: the rates of the
populations, TVB's mean state of the spiking regions and of those that hear them, what a window costs each program.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..bridges import __version__, timing
from ..bridges.errors import LockstepError
from ..bridges.experiment_file import read
from ..bridges.results import coupled, population_group, read_contract
from .bench_run import measure, sets
from .bench_simulators import LEFT_OUT, mean_and_sd

EXPERIMENT = "wilson_cowan"
SCHEMES: dict[str, dict[str, object]] = {
    "both ways": {},
    "TVB → network": {"interfaces.spikenet_to_tvb": "[]"},
    "network → TVB": {"interfaces.tvb_to_spikenet": "[]"},
}
NEIGHBOURS = 3  # of each spiking region, those that hear it most
PHASES = ("simulate", "transform", "exchange")


class Trace(NamedTuple):
    """What is drawn of a run. states: of TVB, (n_samples, n_regions); rates_hz: by population, one a bin."""

    time_ms: np.ndarray
    states: np.ndarray
    bins_ms: np.ndarray
    rates_hz: dict[str, np.ndarray]


class Found(NamedTuple):
    """Of one run. rates_hz: by population, per neuron; states: by region, TVB's mean; delivered: the spiking regions
    whose state comes from the network. neighbours: (spiking region, region that hears it, weight). Of a window [s]:
    costs, by program those of PHASES, medians of all windows; wall_s, of the lock step, mean."""

    simulator: str
    voi: str
    regions: list[str]
    rates_hz: dict[str, float]
    states: dict[str, float]
    delivered: list[str]
    neighbours: list[tuple[str, str, float]]
    proxies: int
    synapses: int
    costs: dict[str, list[float]]
    wall_s: float
    trace: Trace


def modes(more: list[str]) -> dict[str, dict[str, object]]:
    """The values of the two coupling modes. In "spikeNet" delays are the connectome's, so that the proxies' go.
    more: KEY=VALUE for every run."""
    row = "interfaces.tvb_to_spikenet.0"
    proxies = read(EXPERIMENT, more)[0]["interfaces"]["tvb_to_spikenet"][0]["proxy_params"]
    kept = ", ".join(f"{key} = {json.dumps(value)}" for key, value in proxies.items() if key != "delay")
    return {
        "mode TVB": {f"{row}.coupling_mode": "TVB"},
        "mode spikeNet": {f"{row}.coupling_mode": "spikeNet", f"{row}.proxy_params": f"{{ {kept} }}"},
    }


def check_request(seeds: int, plot: Path | None) -> None:
    """Make the folder of `plot`. Raises LockstepError, before anything runs, when it cannot be, or without a seed."""
    if seeds < 1:
        raise LockstepError(f"bench: --seeds {seeds}: there must be at least 1.")
    if plot is not None:
        try:
            plot.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LockstepError(f"bench: the folder {plot.parent} cannot be made: {error.strerror}.") from None


def bench(
    ways: dict[str, dict[str, object]], simulator: str, seeds: int, duration_ms: float, more: list[str],
    plot: Path | None, tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The figures, ready for JSON. ways: by name, the values that each sets. more: KEY=VALUE for every run. plot: the
    PNG to be drawn of the runs of the first seed."""
    check_request(seeds, plot)
    found: dict[str, list[Found]] = {way: [] for way in ways}
    for seed in range(1, seeds + 1):
        for way, values in ways.items():
            tell(f"seed {seed} of {seeds}, {way} …")
            found[way].append(one_run(simulator, {"duration": duration_ms, **values, "seed": seed}, more))
        if seed == 1 and plot is not None:
            draw({way: runs[0] for way, runs in found.items()}, plot)
    return figures_of(found, duration_ms) | {"plot": None if plot is None else str(plot)}


def one_run(simulator: str, values: dict[str, object], more: list[str]) -> Found:
    seen: list[Found] = []
    # what the person sets comes first, so that it cannot undo what is compared
    given = [part for override in more for part in ("--set", override)]
    run = measure([EXPERIMENT, "--simulator", simulator, *given, *sets(values)], lambda at: seen.append(look(at)))
    return seen[0]._replace(wall_s=run.wall * seen[0].wall_s)


def look(run_dir: Path) -> Found:
    """What a run left; for wall_s the share of one window in the run."""
    from .report import read_population  # matplotlib takes a second to import

    contract = read_contract(run_dir)
    grid, (about,) = contract.grid, contract.spikenet.values()
    from_ms = LEFT_OUT * grid.duration_ms
    sizes = {f"{name}@{region}": size for region, name, size in about["populations"]}
    with h5py.File(run_dir / "spikes.h5") as file:
        groups = [file[f"spikes/{population_group(label)}"] for label in sizes]
        populations = [read_population(group, grid.duration_ms) for group in groups]  # in bins, to be drawn
        rates_hz = {
            label: int((group["timestamps"][:] >= from_ms).sum()) / size / (grid.duration_ms - from_ms) * 1000.0
            for (label, size), group in zip(sizes.items(), groups, strict=True)
        }
    with h5py.File(run_dir / "tvb.h5") as file:
        monitor = next(iter(file["monitors"].values()))
        time_ms, states = monitor["time_ms"][:], monitor["data"][:, 0].mean(axis=-1)  # over the modes
        voi = monitor.attrs["voi"][0]
        regions = list(file["regions/label"].asstr())
    means = states[time_ms >= from_ms].mean(axis=0)
    mine = list(coupled(contract))
    pairs = [
        (region, other, weight)
        for region in mine
        for other, weight in [each for each in contract.tvb["neighbours"][region] if each[0] not in mine][:NEIGHBOURS]
    ]
    inputs = [channel for channel in contract.channels if channel.producer == "tvb"]
    outputs = [channel for channel in contract.channels if channel.consumer == "tvb"]
    rows = {path.stem: timing.read(path) for path in sorted((run_dir / "timing").glob("*.npy"))}
    at = [timing.COLUMNS.index(phase) for phase in PHASES]
    return Found(
        f"{about['simulator']} {about['version']}", str(voi), regions, rates_hz,
        dict(zip(regions, means.tolist(), strict=True)),
        [region for region in mine if any(region in channel.regions for channel in outputs)], pairs,
        sum(channel.out.columns for channel in inputs),
        sum(sizes[f"{edge.population}@{edge.region}"] for channel in inputs for edge in channel.edges),
        {name: np.median(each[:, at], axis=0).tolist() for name, each in rows.items()}, 1.0 / grid.n_windows,
        Trace(time_ms, states, populations[0].bins_ms, {each.label: each.rates_hz for each in populations}),
    )  # fmt: skip


# ---- figures ---------------------------------------------------------------------------------------------------


def figures_of(found: dict[str, list[Found]], duration_ms: float) -> dict[str, Any]:
    """The figures of all runs, by way the same seeds. "effect": difference to the first way, in units of the larger of
    the two standard deviations over the seeds; None where there is none. Costs are those of the quickest seed: other
    work on the machine only adds to them."""
    reference, *_ = next(iter(found.values()))
    voi = reference.voi
    quantities = [("rate of the neurons [Hz]", label, label, 1) for label in reference.rates_hz]
    spiking = list(dict.fromkeys(region for region, _, _ in reference.neighbours))
    quantities += [(f"{voi} of the spiking regions in TVB", region, region, 4) for region in spiking]
    quantities += [
        (f"{voi} of those that hear {region} (weight)", other, f"{other} ({weight:.2f})", 4)
        for region, other, weight in reference.neighbours
    ]
    rows = []
    for title, key, text, digits in quantities:
        row: dict[str, Any] = {"title": title, "of": key, "text": text, "digits": digits, "ways": []}
        for runs in found.values():
            values = [(run.rates_hz | run.states)[key] for run in runs]
            mean, sd = mean_and_sd(values)
            base = row["ways"][0] if row["ways"] else {"mean": mean, "sd": sd}
            spread = max(sd, base["sd"])
            effect = (mean - base["mean"]) / spread if spread and row["ways"] else None
            row["ways"].append({"values": values, "mean": mean, "sd": sd, "effect": effect})
        rows.append(row)
    ways = [
        {
            "name": way, "proxies": runs[0].proxies, "synapses": runs[0].synapses, "delivered": runs[0].delivered,
            "wall_s": min(run.wall_s for run in runs),
            "costs": {
                name: dict(zip(PHASES, np.min([run.costs[name] for run in runs], axis=0).tolist(), strict=True))
                for name in runs[0].costs
            },
        }
        for way, runs in found.items()
    ]  # fmt: skip
    return {
        "experiment": EXPERIMENT, "simulator": reference.simulator, "voi": voi, "duration_ms": duration_ms,
        "left_out_ms": LEFT_OUT * duration_ms, "seeds": len(next(iter(found.values()))), "tvb-lockstep": __version__,
        "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0],
        "ways": ways, "rows": rows,
    }  # fmt: skip


def print_tables(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file or a pipe need not be as narrow as a terminal
    seeds, ways = figures["seeds"], figures["ways"]

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    def table_of(*headings: str) -> Table:
        table = Table("")
        for heading in headings:
            table.add_column(escape(heading), justify="right")
        return table

    say(f"{figures['experiment']}, {figures['simulator']}, {figures['duration_ms']:g} ms, the first "
        f"{figures['left_out_ms']:g} left out; "
        + (f"mean ± standard deviation of {seeds} seeds; effect: difference to {ways[0]['name']}, in units of the "
           f"larger standard deviation" if seeds > 1 else "one seed"))  # fmt: skip
    first, *others = [way["name"] for way in ways]
    table = table_of(first, *(part for other in others for part in (other, "effect")))
    title = ""
    for row in figures["rows"]:
        if row["title"] != title:
            title = row["title"]
            table.add_section()
            table.add_row(f"[bold]{escape(title)}")
        cells = []
        for i, way in enumerate(row["ways"]):
            spread = f" ± {way['sd']:.{row['digits']}f}" if seeds > 1 else ""
            cells.append(f"{way['mean']:.{row['digits']}f}{spread}")
            if i:
                cells.append("–" if way["effect"] is None else f"{way['effect']:+.1f}")
        table.add_row(escape(row["text"]), *cells)
    console.print(table)
    programs = list(ways[0]["costs"])
    cost = table_of(first, *others)
    cost.add_row("proxies", *(str(way["proxies"]) for way in ways))
    cost.add_row("their synapses", *(str(way["synapses"]) for way in ways))
    for name in programs:
        for phase in PHASES:
            cost.add_row(f"{name}: {phase} [ms]", *(f"{1e3 * way['costs'][name][phase]:.3f}" for way in ways))
    cost.add_row("lock step [ms]", *(f"{1e3 * way['wall_s']:.3f}" for way in ways))
    console.print(cost)
    say(f"A window, wall time: of the programs the median of the windows, of the lock step the mean; of the "
        f"quickest seed each. {figures['cores']} cores, load {figures['load']:.1f}.")  # fmt: skip
    if figures["plot"]:
        say(f"plot: {figures['plot']}")


# ---- the plot --------------------------------------------------------------------------------------------------


def draw(runs: dict[str, Found], path: Path) -> None:
    """The ways side by side: TVB's regions, the spiking ones and who hears them most, the populations' rates."""
    from .report import OTHER, REGION_COLOURS, STYLE, plt

    reference = next(iter(runs.values()))
    spiking = list(dict.fromkeys(region for region, _, _ in reference.neighbours))
    colours = dict(zip(spiking, REGION_COLOURS, strict=False))
    strongest = {region: next(other for of, other, _ in reference.neighbours if of == region) for region in spiking}
    at = reference.regions.index
    settled = np.concatenate([run.trace.states[run.trace.time_ms >= 50.0].ravel() for run in runs.values()])
    low, high = np.percentile(settled, [0.5, 99.5])
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(4, len(runs), figsize=(1.2 + 3.7 * len(runs), 8.6), sharex=True, sharey="row",
                                 squeeze=False, height_ratios=[1.5, 1, 1, 1])  # fmt: skip
        for column, (way, run) in zip(axes.T, runs.items(), strict=True):
            heat, own, hearing, rates = column
            trace = run.trace
            extent = (trace.time_ms[0], trace.time_ms[-1], len(run.regions) - 0.5, -0.5)
            image = heat.imshow(trace.states.T, cmap="cividis", vmin=low, vmax=high, aspect="auto",
                                interpolation="nearest", extent=extent)  # fmt: skip
            for region, colour in colours.items():
                heat.annotate("", (0, at(region)), (-0.045, at(region)), xycoords=("axes fraction", "data"),
                              annotation_clip=False, arrowprops={"arrowstyle": "simple,head_width=.7,head_length=.7,"
                              "tail_width=.1", "lw": 0, "color": colour})  # fmt: skip
            heat.set_title(f"{way}, {run.simulator}\n{run.voi} of all {len(run.regions)} regions")
            heat.tick_params(axis="y", pad=8)
            whose = "the network's" if run.delivered else "TVB's own"
            own.set_title(f"{run.voi} of the spiking regions: {whose}")
            hearing.plot(trace.time_ms, np.delete(trace.states, [at(region) for region in spiking], axis=1),
                         color=OTHER, lw=0.4, alpha=0.3, rasterized=True)  # fmt: skip
            for region, colour in colours.items():
                own.plot(trace.time_ms, trace.states[:, at(region)], color=colour, lw=1.0, label=region)
                other = strongest[region]
                hearing.plot(trace.time_ms, trace.states[:, at(other)], color=colour, lw=1.0, label=other)
            hearing.set_title(f"{run.voi} of those that hear them most")
            centres_ms = (trace.bins_ms[:-1] + trace.bins_ms[1:]) / 2
            for label, rates_hz in trace.rates_hz.items():
                name, _, region = label.partition("@")
                dotted = name != next(iter(trace.rates_hz)).partition("@")[0]
                rates.plot(centres_ms, smoothed(rates_hz), color=colours[region], lw=1.0,
                           ls=(0, (1.5, 1)) if dotted else "-", label=f"{name}, {region}")  # fmt: skip
            rates.set(title="rates of the populations", xlabel="time [ms]", xlim=(0, trace.bins_ms[-1]))
        fig.colorbar(image, cax=axes[0, -1].inset_axes((1.03, 0, 0.04, 1)), label=reference.voi)
        for row, label in zip(axes[1:], (reference.voi, reference.voi, "rate [Hz]"), strict=True):
            row[0].set_ylabel(label)
            row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), handlelength=1.4)
        axes[0, 0].set_ylabel("region number")
        try:
            fig.savefig(path, dpi=100, facecolor="white")
        except OSError as error:
            raise LockstepError(f"bench: the plot {path} cannot be written: {error.strerror}.") from None
        finally:
            plt.close(fig)


def smoothed(rates_hz: np.ndarray, bins: int = 5) -> np.ndarray:
    """Means of neighbouring bins; of fewer at the ends."""
    bins = min(bins, len(rates_hz))
    window = np.ones(bins)
    return np.convolve(rates_hz, window, "same") / np.convolve(np.ones(len(rates_hz)), window, "same")
