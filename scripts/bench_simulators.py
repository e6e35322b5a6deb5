"""`lockstep bench simulators`: the network of lif_comparison on each spiking simulator, beside the same brain in TVB.

Every simulator gets the same spikes, made by the bridge, and has the same connections and initial potentials. Compared
with the first simulator: rates and coefficients of variation of the intervals between spikes, over several seeds, and
the spikes themselves, one by one. Then what a window costs the spiking program: in the run (simulating, transforming,
exchanging; not waiting for TVB, which computes at the same time), and when the simulator is driven alone, in a program
of its own, by the same windows of the recorded input, with nothing exchanged. Alone it must give the same spikes. Its
CPU time is taken there: where other work shares the cores, wall time would tell of that. The ratio is an upper bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..bridges import __version__, timing
from ..bridges.errors import LockstepError
from ..bridges.frame import Spikes
from ..bridges.replay import Recorded
from ..bridges.results import logs, population_group, read_contract
from .bench_run import measure, sets
from .program import interpreter, python_for

EXPERIMENT = "lif_comparison"
LEFT_OUT = 0.2  # of the run, at its beginning, for rates and CVs
ASKED = 0.05  # by how much means may differ, and in any case by no more than the standard deviation over the seeds


class Population(NamedTuple):
    """rate_hz: per neuron. cv: of the intervals between spikes, mean of the neurons with at least 3 spikes; NaN when
    there are none."""

    rate_hz: float
    cv: float


class Found(NamedTuple):
    """Of one run. spikes: a number for each, time step by time step, and in each neuron by neuron. given: to the
    simulator, by the bridge. Of a window [s]: works_s, wall time of the spiking program in the run, without waiting,
    and alone_s, CPU time of the simulator alone: medians of all windows; wall_s, of the lock step of the run: mean.
    exchange: in the run, the time in which the spiking program transforms and exchanges, by that of simulating."""

    version: str
    populations: dict[str, Population]
    spikes: np.ndarray
    given: Spikes
    neurons: int
    resolution_ms: float
    works_s: float
    alone_s: float
    wall_s: float
    exchange: float


class Agreement(NamedTuple):
    """Of the spikes of two runs. first_ms: time of the first that only one of them has; None when there is none."""

    spikes: int
    common: int
    first_ms: float | None


def bench(
    simulators: list[str], seeds: int, duration_ms: float, neurons: int | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The figures, ready for JSON. neurons: of the network; None: as the experiment has it."""
    if seeds < 1:
        raise LockstepError(f"bench: --seeds {seeds}: there must be at least 1.")
    values: dict[str, object] = {"duration": duration_ms}
    if neurons is not None:
        values["spikenet.params.neurons"] = neurons
    found: dict[str, list[Found]] = {name: [] for name in simulators}
    for seed in range(1, seeds + 1):
        for name in found:
            tell(f"seed {seed} of {seeds}, {name} …")
            found[name].append(one_run(name, values | {"seed": seed}))
    return figures_of(found, duration_ms)


def one_run(simulator: str, values: dict[str, object]) -> Found:
    """One run of the experiment, and then of the simulator alone."""
    seen: list[Found] = []
    run = measure([EXPERIMENT, "--simulator", simulator, *sets(values)], lambda run_dir: seen.append(look(run_dir)))
    return seen[0]._replace(wall_s=run.wall * seen[0].wall_s)


def look(run_dir: Path) -> Found:
    """What a run left, and the simulator alone on its input; for wall_s the share of one window in the run."""
    contract = read_contract(run_dir)
    grid, about = contract.grid, contract.spikenet["spikenet"]
    populations, numbers, first = {}, [], 0
    neurons = sum(size for _, _, size in about["populations"])
    with h5py.File(run_dir / "spikes.h5") as file:
        for region, name, size in about["populations"]:
            group = file[f"spikes/{population_group(f'{name}@{region}')}"]
            times_ms, nodes = group["timestamps"][:], group["node_ids"][:].astype(np.int64)
            populations[f"{name}@{region}"] = statistics(
                times_ms, nodes, size, LEFT_OUT * grid.duration_ms, grid.duration_ms
            )
            steps = np.rint(times_ms / about["resolution_ms"]).astype(np.int64)
            numbers.append(steps * neurons + nodes + first)
            first += size
    spikes = np.sort(np.concatenate(numbers))
    alone = driven_alone(run_dir, about["simulator"])
    if alone["digest"] != digest(spikes):
        raise LockstepError(
            f"bench: {about['simulator']} alone, on the input that was recorded of its run, gave {alone['spikes']} "
            f"spikes; in the run {len(spikes)}, or others. `lockstep replay` finds the first that differs."
        )
    rows = timing.read(run_dir / "timing" / "spikenet.npy")
    work = np.array([rows[:, timing.COLUMNS.index(name)] for name in ("simulate", "transform", "exchange")])
    return Found(
        about["version"], populations, spikes, given_to(run_dir), neurons, about["resolution_ms"],
        works_s=float(np.median(work.sum(axis=0))), alone_s=alone["window_s"], wall_s=1.0 / grid.n_windows,
        exchange=float(np.median(work[1:].sum(axis=0)) / np.median(work[0])),
    )  # fmt: skip


def statistics(times_ms: np.ndarray, nodes: np.ndarray, size: int, start_ms: float, end_ms: float) -> Population:
    """Rate and CV of the neurons 0 … size - 1, from their spikes in ``[start_ms, end_ms)``."""
    from elephant.statistics import cv, isi  # takes a second to import

    counted = (times_ms >= start_ms) & (times_ms < end_ms)
    times_ms, nodes = times_ms[counted], nodes[counted]
    order = np.lexsort((times_ms, nodes))
    trains = np.split(times_ms[order], np.cumsum(np.bincount(nodes, minlength=size))[:-1])
    cvs = [cv(isi(train)) for train in trains if len(train) >= 3]
    rate_hz = 1000.0 * len(times_ms) / (size * (end_ms - start_ms))
    return Population(rate_hz, float(np.mean(cvs)) if cvs else float("nan"))


def given_to(run_dir: Path) -> Spikes:
    """The spikes that the bridge gave to the simulator."""
    (log,) = (log for log in logs(run_dir, read_contract(run_dir))
              if log.channel and log.channel.producer == "tvb" and log.stage == "transformed")  # fmt: skip
    with log.open() as index:
        frames = [index.payload(k) for k in range(len(index))]
    return Spikes(*(np.concatenate(part) for part in zip(*frames, strict=True)))


def agreement(one: Found, other: Found) -> Agreement:
    """How far the spikes of two runs are the same."""
    differing = np.setxor1d(one.spikes, other.spikes, assume_unique=True)
    first_ms = float(differing[0] // one.neurons * one.resolution_ms) if len(differing) else None
    n = max(len(one.spikes), len(other.spikes))
    return Agreement(n, (len(one.spikes) + len(other.spikes) - len(differing)) // 2, first_ms)


# ---- the simulator alone, in its own environment --------------------------------------------------------------


def driven_alone(run_dir: Path, simulator: str) -> dict[str, Any]:
    """What `alone` finds in a program of its own."""
    python = interpreter(python_for([simulator]))[:-1]
    done = subprocess.run([*python, __name__, str(run_dir)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", env=os.environ)  # fmt: skip
    if done.returncode != 0:
        raise LockstepError(f"bench: {simulator} alone ended with exit status {done.returncode}:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def alone(run_dir: Path) -> dict[str, Any]:
    """Drive the network of a run by its recorded input, window after window, with no other program: CPU time of a
    window [s], the median; number of spikes, and the digest of what `Found.spikes` has of a run."""
    from ..spikenet_side.program import open_network, simulator_of

    recorded = Recorded(run_dir, "spikenet")
    section, grid = recorded.experiment.program(recorded.side), recorded.contract.grid
    simulator = simulator_of(section, recorded.folder)
    open_network(simulator, section, recorded.page("tvb", "offer"), recorded.folder)
    inputs, outputs = recorded.consumed, recorded.produced
    simulator.connect(inputs, outputs)
    payloads = []
    for channel in inputs:
        with recorded.logs[f"{channel.name}.transformed"].open() as index:
            payloads.append([index.payload(k) for k in range(len(index))])
    fired, marks = [], [process_time()]
    for k in range(grid.n_windows):
        first, end = grid.steps(k)
        for channel, frames in zip(inputs, payloads, strict=True):
            simulator.feed(channel, frames[k], first, end)
        simulator.run(first, end)
        fired.append(simulator.spikes())
        marks.append(process_time())
    simulator.close()
    neurons = sum(population.size for population in simulator.populations)
    step_ticks = round(section.resolution / grid.tick_ms)
    spikes = np.concatenate([times // step_ticks * neurons + senders for times, senders in fired])
    return {"window_s": float(np.median(np.diff(marks))), "spikes": len(spikes), "digest": digest(spikes)}


def digest(spikes: np.ndarray) -> str:
    return hashlib.sha256(spikes.astype("<i8").tobytes()).hexdigest()


# ---- figures ---------------------------------------------------------------------------------------------------


def mean_and_sd(values: list[float]) -> tuple[float, float]:
    """Mean, and standard deviation over the seeds (0 of a single one)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def figures_of(found: dict[str, list[Found]], duration_ms: float) -> dict[str, Any]:
    """The figures of all runs, by simulator the same seeds. "failures": what is not as it should be, in words."""
    reference = next(iter(found))
    failures: list[str] = []
    results = []
    for name, runs in found.items():
        populations = []
        for label in runs[0].populations:
            row: dict[str, Any] = {"population": label}
            for key in Population._fields:
                mean, sd = mean_and_sd([getattr(run.populations[label], key) for run in runs])
                base, base_sd = mean_and_sd([getattr(run.populations[label], key) for run in found[reference]])
                row |= {key: mean, f"{key}_sd": sd, f"{key}_difference": mean / base - 1.0 if base else 0.0}
                allowed = min(ASKED * base, max(sd, base_sd)) if len(runs) > 1 else ASKED * base
                if np.isnan(mean) and np.isnan(base):
                    continue  # too few spikes for an interval
                if not abs(mean - base) <= allowed:
                    failures.append(
                        f"{key} of {label}: {name} {mean:.4g}, {reference} {base:.4g}; they may differ by {allowed:.2g}"
                    )
            populations.append(row)
        pairs = list(zip(runs, found[reference], strict=True))
        seeds = [{**agreement(run, base)._asdict(), "same_input": _equal(run.given, base.given)} for run, base in pairs]
        for seed, each in enumerate(seeds, 1):
            if not each["same_input"] and each["first_ms"] is None:
                failures.append(f"seed {seed}: {name} and {reference} were given different spikes")
        results.append({
            "simulator": name, "version": runs[0].version, "populations": populations, "seeds": seeds,
            **{key: float(np.median([getattr(run, key) for run in runs])) for key in Found._fields[-4:]},
            "ratio": float(np.median([run.works_s / run.alone_s for run in runs])),
            "wall_ratio": float(np.median([run.wall_s / run.alone_s for run in runs])),
        })  # fmt: skip
    first = found[reference][0]
    return {
        "experiment": EXPERIMENT, "duration_ms": duration_ms, "left_out_ms": LEFT_OUT * duration_ms,
        "seeds": len(found[reference]), "neurons": first.neurons, "tvb-lockstep": __version__,
        "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "results": results,
        "failures": failures,
    }  # fmt: skip


def _equal(one: Spikes, other: Spikes) -> bool:
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def verdict(figures: dict[str, Any]) -> str:
    """The last line: how far the simulators agree."""
    reference, *others = figures["results"]
    if figures["failures"]:
        return "\n".join(["Not as it should be:", *figures["failures"]])
    if not others:
        return f"There is only {reference['simulator']}: nothing to compare."
    apart = [each for other in others for each in other["seeds"] if each["first_ms"] is not None]
    names = ", ".join(other["simulator"] for other in others)
    if not apart:
        spikes = sum(each["spikes"] for each in others[0]["seeds"])
        return f"The same spikes, each in the same step, on {reference['simulator']}, {names}: {spikes} of them."
    return (
        f"Rates and CVs of {names} differ from those of {reference['simulator']} by at most {100 * ASKED:g} %"
        + (" and the standard deviation over the seeds" if figures["seeds"] > 1 else "")
        + f"; the spikes are the same up to {min(each['first_ms'] for each in apart):g} ms."
    )


def print_tables(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    seeds, results = figures["seeds"], figures["results"]
    reference = results[0]["simulator"]

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, highlight=False, soft_wrap=True)

    say(f"{figures['experiment']}, {figures['neurons']} neurons, {figures['duration_ms']:g} ms, the first "
        f"{figures['left_out_ms']:g} left out; "
        + (f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed")
        + f", and the difference to {reference}")  # fmt: skip
    say(", ".join(f"{result['simulator']} {result['version']}" for result in results))
    table = Table("", "")
    for heading in ("rate [Hz]", "", "CV of intervals", ""):
        table.add_column(escape(heading), justify="right", no_wrap=True)
    for i in range(len(results[0]["populations"])):
        for result in results:
            row, cells = result["populations"][i], []
            for key, digits in (("rate_hz", 2), ("cv", 3)):
                spread = f" ± {row[f'{key}_sd']:.{digits}f}" if seeds > 1 else ""
                cells.append(f"{row[key]:.{digits}f}{spread}")
                cells.append(f"{100 * row[f'{key}_difference']:+.2f} %")
            table.add_row(row["population"].partition("@")[0], result["simulator"], *cells)
        table.add_section()
    console.print(table)
    spikes, cost = Table(), Table()
    for table, headings in (
        (spikes, ("spikes", f"also in {reference}", "first difference")),
        (cost, ("alone [ms]", "in the run [ms]", "ratio", "exchange", "lock step [ms]")),
    ):
        table.add_column("", no_wrap=True)
        for heading in headings:
            table.add_column(escape(heading), justify="right", no_wrap=True)
    for result in results:
        total, common = (sum(each[key] for each in result["seeds"]) for key in ("spikes", "common"))
        apart = [each["first_ms"] for each in result["seeds"] if each["first_ms"] is not None]
        spikes.add_row(result["simulator"], str(total), str(common), f"{min(apart):g} ms" if apart else "none")
        alone_ms, works_ms, wall_ms = (f"{1e3 * result[key]:.3f}" for key in ("alone_s", "works_s", "wall_s"))
        exchange = f"{100 * result['exchange']:.1f} %"
        cost.add_row(result["simulator"], alone_ms, works_ms, f"{result['ratio']:.3f}", exchange, wall_ms)
    console.print(spikes)
    say("A window: the simulator alone on the recorded input, CPU time; the spiking program in the run, wall time "
        "without waiting for TVB, which computes at the same time; of that exchange, by simulating; the lock step of "
        f"both, wall time. Medians, {figures['cores']} cores.")  # fmt: skip
    console.print(cost)
    say(verdict(figures), style="bold")


if __name__ == "__main__":
    print(json.dumps(alone(Path(sys.argv[1]))))
