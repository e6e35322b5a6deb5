"""What the lock step costs a real run: TVB and NEST as programs of their own, by the command that people use.

`bench_run`: the wall time of the lock step beside the time in which the slower of the two programs simulates (of NEST,
its own `Simulate`), and the share of the lock step that each program waits for the other. Two networks of 500 + 500
neurons make NEST the slower side of wilson_cowan.

Times are those that each program notes for every window (timing/NAME.npy): start-up, network building, results and
report do not count, since they do not grow with the run.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from ..bridges import __version__, timing
from ..bridges.errors import LockstepError
from .program import interpreter

ASKED = 1.05
SIMULATE, WAIT = timing.COLUMNS.index("simulate"), timing.COLUMNS.index("wait")


class Measured(NamedTuple):
    """One run [s]. wall: of the lock step; command: of the whole command; simulate, wait: by program."""

    wall: float
    command: float
    simulate: dict[str, float]
    wait: dict[str, float]


def measure(run: list[str], look: Callable[[Path], None] = lambda run_dir: None) -> Measured:
    """`lockstep run` of these arguments, in a run directory that is gone afterwards; `look` looks at it before.

    Raises LockstepError with what the run printed when it fails.
    """
    with tempfile.TemporaryDirectory(prefix="lockstep-bench-") as folder:
        run_dir = Path(folder, "run")
        command = [*interpreter(Path(sys.executable)), "run", *run, "--run-dir", str(run_dir), "--quiet", "--no-report"]
        begun = perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace", env=os.environ)  # fmt: skip
        taken = perf_counter() - begun
        if done.returncode != 0:
            raise LockstepError(f"bench: the run ended with exit status {done.returncode}:\n{done.stdout.strip()}")
        look(run_dir)
        data = {path.stem: np.array(timing.read(path)) for path in sorted((run_dir / "timing").glob("*.npy"))}
    return measured(data, taken)


def measured(data: dict[str, np.ndarray], command_s: float) -> Measured:
    """From the timing of each program, (n_windows, 6): the lock step goes from the start of the first window of any
    program to the end of the last."""
    starts = [rows[0, 0] for rows in data.values()]
    ends = [rows[-1, 0] + rows[-1, 2:].sum() for rows in data.values()]
    return Measured(
        float(max(ends) - min(starts)),
        command_s,
        {name: float(rows[:, SIMULATE].sum()) for name, rows in data.items()},
        {name: float(rows[:, WAIT].sum()) for name, rows in data.items()},
    )


def sets(values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def bench_run(duration_ms: float, rounds: int, neurons: int, transport: str) -> dict[str, Any]:
    """The figures, ready for JSON; times in seconds."""
    values: dict[str, object] = {
        "duration": duration_ms, "exchange.transport": transport, "spikenet.params.n_excitatory": neurons,
        "spikenet.params.n_inhibitory": neurons,
    }  # fmt: skip
    return figures_of([measure(["wilson_cowan", *sets(values)]) for _ in range(rounds)], values)


def figures_of(runs: list[Measured], values: dict[str, object]) -> dict[str, Any]:
    programs = list(runs[0].simulate)
    simulate = {name: float(np.median([run.simulate[name] for run in runs])) for name in programs}
    slower = max(programs, key=lambda name: simulate[name])
    ratios = [run.wall / run.simulate[slower] for run in runs]
    return {
        "experiment": "wilson_cowan", "values": values, "rounds": len(runs), "tvb-lockstep": __version__,
        "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "slower": slower,
        "wall_s": float(np.median([run.wall for run in runs])), "ratio": float(np.median(ratios)),
        "ratio_of_rounds": ratios, "simulate_s": simulate,
        "waiting": {name: float(np.median([run.wait[name] / run.wall for run in runs])) for name in programs},
        "command_s": float(np.median([run.command for run in runs])),
    }  # fmt: skip


def print_run(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    values = figures["values"]
    console = Console()
    console.print(
        f"{figures['experiment']}, {values['duration']:g} ms, 2 x ({values['spikenet.params.n_excitatory']} + "
        f"{values['spikenet.params.n_inhibitory']}) neurons, {values['exchange.transport']}: lock step of "
        f"{figures['wall_s']:.3f} s", highlight=False, soft_wrap=True,
    )  # fmt: skip
    table = Table("program")
    for heading in ("simulates [s]", "waits"):
        table.add_column(escape(heading), justify="right")
    for name, seconds in figures["simulate_s"].items():
        table.add_row(name, f"{seconds:.3f}", f"{100 * figures['waiting'][name]:.2f} %")
    console.print(table)
    console.print(
        f"Wall time of the lock step: {figures['ratio']:.3f} times what {figures['slower']}, the slower, simulates "
        f"(asked: at most {ASKED:g}). Median of {figures['rounds']} rounds, {figures['cores']} cores; "
        f"{figures['command_s']:.1f} s each with start-up and results.", highlight=False, soft_wrap=True,
    )  # fmt: skip
