"""What recording every frame costs a run: wilson_cowan with and without ``exchange.record``, as a ratio.

Real runs, TVB and NEST as programs of their own. Each round has one of each, in the other order than the round before;
what is shown is the median of rounds, and of the ratios within each round.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

from ..bridges import __version__
from ..bridges.errors import LockstepError
from .bench_run import Measured, measure, sets

ASKED = 1.05


def bench(duration_ms: float, rounds: int, transport: str) -> dict[str, Any]:
    """The figures, ready for JSON; times in seconds."""
    runs: dict[bool, list[Measured]] = {True: [], False: []}
    size = 0

    def look(run_dir: Path) -> None:
        """That the frames were recorded, or were not, and how many bytes they are."""
        nonlocal size
        frames = list((run_dir / "record").glob("*_to_*.frames"))
        if bool(frames) != record:
            raise LockstepError(f"bench: there are {len(frames)} recordings with exchange.record={record}.")
        size = max(size, sum(path.stat().st_size for path in frames))

    for i in range(rounds):
        for record in (True, False) if i % 2 == 0 else (False, True):
            values = {"duration": duration_ms, "exchange.transport": transport, "exchange.record": str(record).lower()}
            runs[record].append(measure(["wilson_cowan", *sets(values)], look))
    return figures_of(runs[True], runs[False], size) | {"duration_ms": duration_ms, "transport": transport}


def figures_of(recorded: list[Measured], not_recorded: list[Measured], size: int) -> dict[str, Any]:
    ratios = [a.wall / b.wall for a, b in zip(recorded, not_recorded, strict=True)]
    return {
        "experiment": "wilson_cowan", "rounds": len(ratios), "tvb-lockstep": __version__,
        "python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "recorded_bytes": size,
        "recorded_s": float(np.median([run.wall for run in recorded])),
        "not_recorded_s": float(np.median([run.wall for run in not_recorded])),
        "ratio": float(np.median(ratios)), "ratio_of_rounds": ratios,
        "command_ratio": float(np.median([a.command / b.command for a, b in zip(recorded, not_recorded, strict=True)])),
    }  # fmt: skip


def print_figures(figures: dict[str, Any]) -> None:
    from rich.console import Console

    low, high = min(figures["ratio_of_rounds"]), max(figures["ratio_of_rounds"])
    Console().print(
        f"{figures['experiment']}, {figures['duration_ms']:g} ms, {figures['transport']}: lock step of "
        f"{figures['recorded_s']:.3f} s with recording ({figures['recorded_bytes'] / 1e6:.2f} MB), "
        f"{figures['not_recorded_s']:.3f} s without.\n"
        f"Recording makes it {figures['ratio']:.3f} times as long (asked: at most {ASKED:g}); of the whole command, "
        f"start-up and results included, {figures['command_ratio']:.3f} times.\n"
        f"Median of {figures['rounds']} rounds, from {low:.3f} to {high:.3f}; {figures['cores']} cores.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
