"""`lockstep bench replacement`: a brain with spiking regions beside the same brain of TVB alone.

For each seed the experiment in lock step, and the brain of its [tvb] section alone in a program of its own, where the
code of a run gives the bits of TVB's own `Simulator.run`. The seed is the same, and so is the noise of all regions that
are not replaced. Compared, from TVB's first monitor: mean and variance in time of what the spiking regions deliver, in
them and in all others, and the functional connectivity.

Functional connectivity (FC) is Pearson's correlation in time, of the first variable that is delivered: S_e in
reduced_wong_wang. It is what regions send each other, and slow (100 ms), in mean field and network alike; of R_e, the
same in the mean field but for its non-linearity, a network has the noise of its single spikes besides.

Runs are short, so that one brain has another FC with each seed. How similar those of two seeds are, with no region
replaced, is the yardstick for those of two seeds with and without; and so for the means of half of the seeds each.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..bridges import __version__
from ..bridges.errors import LockstepError
from ..bridges.experiment import load
from ..bridges.results import monitor_name, read_contract
from .bench_run import measure
from .bench_schemes import check_request
from .bench_simulators import mean_and_sd
from .program import interpreter, python_for, requirements_of

LEFT_OUT = 0.1  # of the run, at its beginning
BATCH = 200  # steps of TVB alone between two looks at its monitors
WAYS = ("without", "with")  # spiking regions
PARTS = ("all pairs of regions", "pairs of the others", "pairs with a replaced region")
SEEDS = ("two seeds without", "one with, one without", "two seeds with", "the same seed, with and without")
HALVES = ("halves of the seeds without", "one half with, one without")


class Course(NamedTuple):
    """What a monitor recorded. data: (n_samples, n_variables, n_regions), mean of the modes."""

    time_ms: np.ndarray
    data: np.ndarray
    variables: list[str]
    regions: list[str]


class Alone(NamedTuple):
    """TVB's own run. units: by variable. connected: the pairs of regions with a weight, (n_regions, n_regions)."""

    course: Course
    units: dict[str, str]
    connected: np.ndarray


class About(NamedTuple):
    """Of the runs with spiking regions. delivered: variables of these, those of the first interface row first; drawn:
    how many these are."""

    simulators: list[str]
    replaced: list[str]
    delivered: list[str]
    drawn: int
    monitor: str


class Found(NamedTuple):
    """Of one run, of the delivered variables: mean and variance in time, (n_variables, n_regions) each; fc of the
    first, (n_regions, n_regions)."""

    mean: np.ndarray
    variance: np.ndarray
    fc: np.ndarray


def bench(
    experiment: str, simulator: str | None, seeds: int, duration_ms: float, more: list[str], plot: Path | None,
    tell: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """The figures, ready for JSON. simulator: None, the experiment's. more: KEY=VALUE for every run. plot: the PNG."""
    check_request(seeds, plot)
    given = [*more] if simulator is None else [*more, f"spikenet.simulator={simulator}"]
    found: dict[str, list[Found]] = {way: [] for way in WAYS}
    for seed in range(1, seeds + 1):
        tell(f"seed {seed} of {seeds} …")
        # what the person sets comes first, so that it cannot undo what is compared
        about, tvb, pair = one_seed(experiment, [*given, f"duration={duration_ms}", f"seed={seed}"])
        for way, run in zip(WAYS, pair, strict=True):
            found[way].append(run)
    figures = figures_of(found, about, tvb, experiment, duration_ms)
    if plot is not None:
        draw(figures, plot)
    return figures | {"plot": None if plot is None else str(plot)}


def one_seed(experiment: str, overrides: list[str]) -> tuple[About, Alone, list[Found]]:
    """Both runs of one seed: what there is to compare, TVB's own run, and what was found without and with."""
    load(experiment, overrides)  # errors before anything is started
    seen: list[tuple[About, Course]] = []
    given = [part for override in overrides for part in ("--set", override)]
    with ThreadPoolExecutor(1) as pool:  # at the same time: coupled, TVB waits for half of the time
        plain = pool.submit(alone, experiment, overrides)
        measure([experiment, *given], lambda run_dir: seen.append(look(run_dir)))
        tvb = plain.result()
    ((about, coupled_course),), course = seen, tvb.course
    if (course.regions, course.variables) != (coupled_course.regions, coupled_course.variables):
        raise LockstepError(
            f"bench: TVB alone records {', '.join(course.variables)} of {len(course.regions)} regions; in the coupled "
            f"run it was {', '.join(coupled_course.variables)} of {len(coupled_course.regions)}."
        )
    if not np.array_equal(course.time_ms, coupled_course.time_ms):
        raise LockstepError(f"bench: {len(course.time_ms)} samples of TVB alone, up to {course.time_ms[-1]} ms; of the "
                            f"coupled run {len(coupled_course.time_ms)}, up to {coupled_course.time_ms[-1]} ms, or "
                            f"others.")  # fmt: skip
    runs = [statistics(each, about.delivered) for each in (course, coupled_course)]
    return about, tvb, runs


def look(run_dir: Path) -> tuple[About, Course]:
    """What a coupled run left."""
    contract = read_contract(run_dir)
    channels = [channel for channel in contract.channels if channel.consumer == "tvb"]
    if not channels:
        raise LockstepError("bench: no spiking region is heard by TVB (interfaces.spikenet_to_tvb): none is replaced.")
    monitors = contract.tvb["monitors"]
    if not monitors or not monitors[0].get("regions"):
        raise LockstepError("bench: TVB's first monitor must record its regions, as TemporalAverage and Raw do.")
    name, recorded = monitor_name(contract, 0), list(monitors[0]["voi"])
    by_row = [[voi for voi in channel.voi if voi in recorded] for channel in channels]
    delivered = list(dict.fromkeys(voi for row in by_row for voi in row))
    if not delivered:
        raise LockstepError(
            f"bench: the monitor {name} records {', '.join(recorded)}; the spiking regions deliver "
            f"{', '.join(voi for channel in channels for voi in channel.voi)}. Let it record one of these."
        )
    about = About(
        [f"{each['simulator']} {each['version']}" for each in contract.spikenet.values()],
        list(dict.fromkeys(region for channel in channels for region in channel.regions)),
        delivered, max(len(by_row[0]), 1), name,
    )  # fmt: skip
    with h5py.File(run_dir / "tvb.h5") as file:
        group = file[f"monitors/{name}"]
        data = group["data"][:].mean(axis=-1)
        return about, Course(group["time_ms"][:], data, recorded, list(group["data"].attrs["regions"]))


def statistics(course: Course, variables: list[str]) -> Found:
    """Of a run without its beginning."""
    settled = course.time_ms > LEFT_OUT * course.time_ms[-1]
    data = course.data[settled][:, [course.variables.index(each) for each in variables]]
    still = [course.regions[i] for i in np.flatnonzero(np.ptp(data[:, 0], axis=0) == 0)]
    if still:
        raise LockstepError(
            f"bench: {variables[0]} of {', '.join(still)} does not change in time, and has no functional connectivity. "
            f"Give TVB noise, or the run a longer duration."
        )
    return Found(data.mean(axis=0), data.var(axis=0), np.corrcoef(data[:, 0].T))


# ---- TVB alone, in its own environment ------------------------------------------------------------------------


def alone(experiment: str, overrides: list[str]) -> Alone:
    """TVB's own run of the experiment's [tvb] section."""
    loaded, _ = load(experiment, overrides)
    python = interpreter(python_for(*requirements_of("tvb", loaded)))[:-1]
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
        file = Path(folder, "course.npz")
        done = subprocess.run([*python, __name__, str(file), experiment, *overrides], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, errors="replace", env=os.environ)  # fmt: skip
        if done.returncode != 0:
            raise LockstepError(f"bench: TVB alone ended with exit status {done.returncode}:\n{done.stderr.strip()}")
        with np.load(file) as found:
            variables = found["variables"].tolist()
            course = Course(found["time_ms"], found["data"], variables, found["regions"].tolist())
            units = dict(zip(variables, found["units"].tolist(), strict=True))
            weighted = found["weights"] != 0
            return Alone(course, units, weighted | weighted.T)


def run_alone(file: Path, experiment: str, overrides: list[str]) -> None:
    """What `alone` lets another program do."""
    from ..tvb_side.build import build_simulator
    from ..tvb_side.models import VOI_UNITS
    from ..tvb_side.simulation import RegionSimulation

    loaded, path = load(experiment, overrides)
    simulator = build_simulator(loaded.tvb, loaded.seed, path.parent)
    n_steps = round(loaded.duration / simulator.integrator.dt)
    # TVB's own run counts on from the initial conditions that it may be given; this one begins at 0, as the coupled one
    simulation = RegionSimulation(simulator, proxied={}, n_steps=n_steps)
    samples = []
    for end_step in range(BATCH, n_steps + BATCH, BATCH):
        simulation.advance(min(end_step, n_steps))
        samples += simulation.record()[0]
    variables = simulation.monitors[0]["voi"]
    units = VOI_UNITS.get(type(simulator.model).__name__, {})
    np.savez(
        file, time_ms=[time_ms for time_ms, _ in samples], data=[each.mean(axis=-1) for _, each in samples],
        variables=variables, regions=simulation.region_labels, units=[units.get(voi, "") for voi in variables],
        weights=simulation.weights,
    )  # fmt: skip


# ---- figures ---------------------------------------------------------------------------------------------------


def similarity(one: np.ndarray, other: np.ndarray, mask: np.ndarray) -> float:
    """Pearson's correlation over the pairs of regions in `mask`, (n_regions, n_regions), each pair once; NaN for fewer
    than three."""
    chosen = np.triu(mask, 1)
    return float(np.corrcoef(one[chosen], other[chosen])[0, 1]) if chosen.sum() > 2 else float("nan")


def parts_of(regions: list[str], replaced: list[str]) -> dict[str, np.ndarray]:
    """Masks of the pairs of regions."""
    own = np.isin(regions, replaced)
    touched = own[:, None] | own[None, :]
    return dict(zip(PARTS, (np.ones_like(touched), ~touched, touched), strict=True))


def _spread(values: list[float] | np.ndarray) -> dict[str, Any]:
    values = [float(value) for value in values if not np.isnan(value)]
    if not values:
        return {"values": [], "mean": None, "sd": None}
    mean, sd = mean_and_sd(values)
    return {"values": values, "mean": mean, "sd": sd}


def figures_of(
    found: dict[str, list[Found]], about: About, tvb: Alone, experiment: str, duration_ms: float
) -> dict[str, Any]:
    """The figures of all seeds. "change": with less without, of the same seed."""
    plain, spiking = (found[way] for way in WAYS)
    regions = tvb.course.regions
    own = np.isin(regions, about.replaced)
    others = [label for label in regions if label not in about.replaced]
    variables = []
    for i, voi in enumerate(about.delivered):
        mean, variance = (
            {way: np.array([getattr(run, key)[i] for run in found[way]]) for way in WAYS}
            for key in ("mean", "variance")
        )  # (n_seeds, n_regions) each
        change = mean["with"] - mean["without"]
        at_others = change[:, ~own]
        row: dict[str, Any] = {"variable": voi, "unit": tvb.units.get(voi, ""), "replaced": {}}
        for region in about.replaced:
            j = regions.index(region)
            row["replaced"][region] = {
                key: {way: _spread(values[way][:, j]) for way in WAYS}
                for key, values in (("mean", mean), ("variance", variance))
            }
        if others:
            most = int(np.argmax(np.abs(at_others.mean(axis=0))))
            j = regions.index(others[most])
            ratios = variance["with"][:, ~own].mean(axis=0) / variance["without"][:, ~own].mean(axis=0)
            row["others"] = {
                "mean": {way: _spread(mean[way][:, ~own].mean(axis=1)) for way in WAYS},
                "change": _spread(at_others.mean(axis=1)),
                "variance": {way: _spread(variance[way][:, ~own].mean(axis=1)) for way in WAYS},
                "variance_ratios": {"lowest": float(ratios.min()), "median": float(np.median(ratios)),
                                    "highest": float(ratios.max())},
                "most_changed": {"region": others[most], "change": _spread(at_others[:, most]),
                                 "without": _spread(mean["without"][:, j])},
            }  # fmt: skip
        row["regions"] = {
            key: {way: {"mean": values[way].mean(axis=0).tolist(), "sd": _sd(values[way])} for way in WAYS}
            for key, values in (("mean", mean), ("variance", variance))
        }
        variables.append(row)
    n = len(plain)
    once = [(a, b) for a in range(n) for b in range(a + 1, n)]
    both = [(a, b) for a in range(n) for b in range(n) if a != b]
    first, second = (
        {way: np.mean([run.fc for run in found[way][half]], axis=0) for way in WAYS} if n > 1 else {}
        for half in (slice(n // 2), slice(n // 2, n))
    )
    parts = []
    for name, mask in parts_of(regions, about.replaced).items():
        upper = np.triu(mask, 1)
        if not upper.any():
            continue  # all regions are replaced

        def similar(one: list[Found], other: list[Found], pairs: Any, mask: np.ndarray = mask) -> dict[str, Any]:
            return _spread([similarity(one[a].fc, other[b].fc, mask) for a, b in pairs])

        def level(chosen: np.ndarray) -> dict[str, Any]:
            values = {way: [run.fc[chosen].mean() if chosen.any() else np.nan for run in found[way]] for way in WAYS}
            return {
                "pairs": int(chosen.sum()), **{way: _spread(values[way]) for way in WAYS},
                "change": _spread(np.subtract(values["with"], values["without"])),
            }  # fmt: skip

        of_halves: list[list[tuple[str, str]]] = [[], []]
        if n > 1:
            of_halves = [[("without", "without")], [("with", "without"), ("without", "with")]]
        parts.append({
            "part": name, "level": level(upper), "level_of_connected": level(upper & tvb.connected),
            "similarity": dict(zip((*SEEDS, *HALVES), (
                similar(plain, plain, once), similar(spiking, plain, both), similar(spiking, spiking, once),
                similar(spiking, plain, [(a, a) for a in range(n)]),
                *(_spread([similarity(first[a], second[b], mask) for a, b in ways]) for ways in of_halves),
            ), strict=True)),
        })  # fmt: skip
    fc = {way: np.mean([run.fc for run in found[way]], axis=0) for way in WAYS}
    return {
        "experiment": experiment, "simulators": about.simulators, "replaced": about.replaced, "regions": regions,
        "monitor": about.monitor, "duration_ms": duration_ms, "left_out_ms": LEFT_OUT * duration_ms,
        "seeds": n, "tvb-lockstep": __version__, "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "variables": variables,
        "drawn": about.drawn, "fc_of": about.delivered[0], "fc": {way: np.round(fc[way], 6).tolist() for way in WAYS},
        "fc_parts": parts,
    }  # fmt: skip


def _sd(values: np.ndarray) -> list[float]:
    """By region; 0 for one seed."""
    return (values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])).tolist()


def text_of(spread: dict[str, Any], digits: int | None = None, sign: str = "") -> str:
    """Mean ± SD; "–" where there is no value. digits: after the point; None: three significant ones of the larger."""
    mean, sd = spread["mean"], spread["sd"]
    if mean is None:
        return "–"
    largest, power = max(abs(mean), sd), ""
    if digits is None:
        exponent = int(np.floor(np.log10(largest))) if largest > 0 else 0
        digits = max(0, 2 - exponent, int(np.ceil(-np.log10(sd))) if sd > 2e-4 * largest else 0)
        if exponent < -3:
            mean, sd, digits, power = mean / 10.0**exponent, sd / 10.0**exponent, 2, f"e{exponent}"
    text = f"{mean:{sign}.{digits}f}" + (f" ± {sd:.{digits}f}" if spread["values"][1:] else "")
    return f"({text}){power}" if power else text


def verdict(figures: dict[str, Any]) -> str:
    """The last line: how similar functional connectivity is, and to what that compares."""
    of = figures["fc_parts"][0]["similarity"]
    if figures["seeds"] == 1:
        return f"FC of {figures['fc_of']} with and without, the same seed: r = {text_of(of[SEEDS[3]], 3)}."
    return (
        f"FC of {figures['fc_of']}, of two seeds: r = {text_of(of[SEEDS[1]], 3)} with and without spiking regions, "
        f"{text_of(of[SEEDS[0]], 3)} both without; means of half of the seeds each: {text_of(of[HALVES[1]], 3)} and "
        f"{text_of(of[HALVES[0]], 3)}."
    )


def print_tables(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file or a pipe need not be as narrow as a terminal
    seeds = figures["seeds"]

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True)

    def table_of(first: str, *headings: str) -> Table:
        table = Table(escape(first))
        for heading in headings:
            table.add_column(escape(heading), justify="right")
        return table

    def named(row: dict[str, Any]) -> str:
        return f"{row['variable']} [{row['unit']}]" if row["unit"] else str(row["variable"])

    n_others = len(figures["regions"]) - len(figures["replaced"])
    say(f"{figures['experiment']}, {', '.join(figures['simulators'])}, {figures['duration_ms']:g} ms, the first "
        f"{figures['left_out_ms']:g} left out; with spiking regions, and TVB alone; "
        + (f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"))  # fmt: skip
    table = table_of("replaced regions", *(f"{key}, {way}" for key in ("mean", "variance") for way in WAYS))
    for region in figures["replaced"]:
        table.add_section()
        table.add_row(f"[bold]{escape(region)}")
        for row in figures["variables"]:
            of = row["replaced"][region]
            table.add_row(escape(named(row)), *(text_of(of[key][way]) for key in ("mean", "variance") for way in WAYS))
    console.print(table)
    if n_others:
        table = table_of(f"the other {n_others} regions", *(named(row) for row in figures["variables"]))
        others = [row["others"] for row in figures["variables"]]
        for way in WAYS:
            table.add_row(f"mean, {way}", *(text_of(of["mean"][way]) for of in others))
        table.add_row("change", *(text_of(of["change"], sign="+") for of in others))
        table.add_row("the region that changes most", *(escape(of["most_changed"]["region"]) for of in others))
        table.add_row("its change", *(text_of(of["most_changed"]["change"], sign="+") for of in others))
        table.add_row("variance, by that without: median", *(f"{of['variance_ratios']['median']:.3f}" for of in others))
        extremes = [(of["variance_ratios"]["lowest"], of["variance_ratios"]["highest"]) for of in others]
        table.add_row("lowest, highest", *(f"{low:.2f}, {high:.2f}" for low, high in extremes))
        console.print(table)
    table = table_of(f"FC of {figures['fc_of']}", *(part["part"] for part in figures["fc_parts"]))
    for key, text in (("level", "all pairs"), ("level_of_connected", "connected pairs")):
        table.add_row(f"[bold]{text}", *(str(part[key]["pairs"]) for part in figures["fc_parts"]))
        for way in WAYS:
            table.add_row(f"mean, {way}", *(text_of(part[key][way], 4) for part in figures["fc_parts"]))
        table.add_row("change", *(text_of(part[key]["change"], 4, "+") for part in figures["fc_parts"]))
        table.add_section()
    table.add_row("[bold]similarity of two matrices")
    for name in (*SEEDS, *HALVES):
        table.add_row(name, *(text_of(part["similarity"][name], 3) for part in figures["fc_parts"]))
    console.print(table)
    say("change: with less without, of the same seed, which has the same noise in all regions that are not replaced. "
        "Similarity: Pearson's correlation over the pairs of regions.")  # fmt: skip
    say(verdict(figures), style="bold")
    if figures["plot"]:
        say(f"plot: {figures['plot']}")


# ---- the plot --------------------------------------------------------------------------------------------------


def draw(figures: dict[str, Any], path: Path) -> None:
    """Mean and variance of each region, the two FC matrices and their difference, similarities."""
    from .report import INK, OTHER, REGION_COLOURS, STYLE, plt

    regions, rows = figures["regions"], figures["variables"][: figures["drawn"]]
    colours = dict(zip(figures["replaced"], REGION_COLOURS * len(regions), strict=False))
    with plt.rc_context(STYLE):
        fig = plt.figure(figsize=(14.0, 2.3 * len(rows) + 4.1))
        (upper,), (lower,) = fig.subfigures(2, 1, squeeze=False, height_ratios=[2.3 * len(rows), 4.1])
        axes = upper.subplots(len(rows), 2, squeeze=False, sharex=True)
        for pair, row in zip(axes, rows, strict=True):
            for ax, key in zip(pair, ("mean", "variance"), strict=True):
                _draw_regions(ax, row, key, regions, colours, INK)
        for ax in axes[-1]:
            ax.set_xlabel("region number")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside upper center", ncols=2 + 2 * min(len(colours), 2), handlelength=1.0)
        *matrices, dots = lower.subplots(1, 4, width_ratios=[1, 1, 1, 0.95])
        fc = {way: np.array(figures["fc"][way]) for way in WAYS}
        change = fc["with"] - fc["without"]
        between = ~np.eye(len(regions), dtype=bool)
        low, high = np.percentile([each[between] for each in fc.values()], [0.5, 99.5])
        widest = max(np.abs(change[between]).max(), 1e-12)
        for ax, title, values, colour_map, limits in (
            (matrices[0], f"FC of {figures['fc_of']} without spiking regions", fc["without"], "cividis", (low, high)),
            (matrices[1], "with spiking regions", fc["with"], "cividis", (low, high)),
            (matrices[2], "with less without", change, "RdBu_r", (-widest, widest)),
        ):
            image = ax.imshow(np.where(between, values, np.nan), cmap=colour_map, vmin=limits[0], vmax=limits[1],
                              interpolation="nearest")  # fmt: skip
            for region, colour in colours.items():
                j = regions.index(region)
                for tip, end, coords in (
                    ((j, -0.012), (j, -0.065), ("data", "axes fraction")),
                    ((-0.012, j), (-0.065, j), ("axes fraction", "data")),
                ):
                    ax.annotate("", tip, end, xycoords=coords, annotation_clip=False,
                                arrowprops={"arrowstyle": "simple,head_width=.6,head_length=.6,tail_width=.1", "lw": 0,
                                            "color": colour})  # fmt: skip
            ax.set(title=title, xlabel="region number", ylabel="region number" if ax is matrices[0] else "")
            ax.tick_params(pad=9)
            lower.colorbar(image, ax=ax, shrink=0.62, pad=0.02)
        _draw_similarities(dots, figures, REGION_COLOURS[2], INK, OTHER)
        try:
            fig.savefig(path, dpi=100, facecolor="white")
        except OSError as error:
            raise LockstepError(f"bench: the plot {path} cannot be written: {error.strerror}.") from None
        finally:
            plt.close(fig)


def _draw_regions(
    ax: Any, row: dict[str, Any], key: str, regions: list[str], colours: dict[str, str], ink: str
) -> None:  # fmt: skip
    """Mean or variance of a variable in each region, mean ± SD over the seeds."""
    x, of = np.arange(len(regions)), row["regions"][key]
    for way, shift, colour, marker in (("without", -0.17, "#9aa1aa", "o"), ("with", 0.17, ink, "D")):
        mean, sd = np.array(of[way]["mean"]), np.array(of[way]["sd"])
        rest = ~np.isin(regions, list(colours))
        ax.errorbar(x[rest] + shift, mean[rest], sd[rest], fmt=marker, ms=2.4, lw=0.7, color=colour,
                    label=f"{way} spiking regions")  # fmt: skip
        for region, own in colours.items():
            j = regions.index(region)
            ax.errorbar(x[j] + shift, mean[j], sd[j], fmt=marker, ms=6.5, lw=1.6, color=own, zorder=3,
                        mfc="white" if way == "without" else own,
                        label=f"{region}, {'spiking' if way == 'with' else 'mean field'}")  # fmt: skip
    power = "²" if key == "variance" else ""
    unit = f" [{row['unit']}{power}]" if row["unit"] else ""
    ax.set(title=f"{key} of {row['variable']} in each region{unit}", xlim=(-1, len(regions)))
    values = np.concatenate([of[way]["mean"] for way in WAYS])
    if key == "variance" and values.min() > 0 and values.max() > 5 * values.min():
        ax.set_yscale("log")


def _draw_similarities(ax: Any, figures: dict[str, Any], yardstick: str, ink: str, pale: str) -> None:
    """One dot for each two matrices, and the mean of the dots."""
    ticks, labels, start = [], [], 0.0
    texts = ("without, without", "with, without", "with, with", "same seed", "halves without", "halves, one with")
    for part in figures["fc_parts"]:
        for i, (name, text) in enumerate(zip((*SEEDS, *HALVES), texts, strict=True)):
            values = np.array(part["similarity"][name]["values"])
            ticks.append(start - i)
            labels.append(text)
            if len(values):
                across = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else 0.0
                ax.scatter(values, start - i + across, s=5, color=pale, lw=0)
                ax.plot([values.mean()] * 2, [start - i - 0.36, start - i + 0.36], lw=2.2,
                        color=yardstick if i in (0, 4) else ink)  # fmt: skip
        ax.text(0.0, start + 0.8, part["part"], transform=ax.get_yaxis_transform(), va="center", fontsize=8.5)
        start -= len(texts) + 1.2
    ax.set_yticks(ticks, labels, fontsize=7)
    ax.set(title="similarity of two matrices", xlabel="Pearson's correlation", ylim=(start + 1.5, 1.4))
    ax.grid(axis="x", color="#e5e7eb", lw=0.6)
    ax.set_axisbelow(True)


if __name__ == "__main__":
    run_alone(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
