"""What a person sees while a run goes on: one line per program, from what the programs publish in the run directory."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ..bridges import timing
from ..bridges.peers import read_page

REFRESH_S = 0.25
RECENT_WINDOWS = 500


class RunProgress:
    """The progress of some programs of a run. `update` may be called as often as one likes."""

    def __init__(self, run_dir: Path, programs: list[str], duration_ms: float) -> None:
        self._run_dir, self._duration_ms = run_dir, duration_ms
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._last = 0.0
        self._told: dict[str, int] = {}
        self._progress = Progress(
            TextColumn("{task.description:10}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"),
            console=self._console, auto_refresh=False,
        )  # fmt: skip
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(name, total=duration_ms, text="starting") for name in programs
        }
        if self._live:
            self._progress.start()

    def update(self, _waiting_for: str = "", force: bool = False) -> None:
        now = time.monotonic()
        if now - self._last < REFRESH_S and not force:
            return
        self._last = now
        for name, task in self._tasks.items():
            done_ms, text = self._look(name)
            self._progress.update(task, completed=done_ms, text=text)
            tenth = int(10 * done_ms / self._duration_ms)
            if not self._live and tenth > self._told.get(name, 0):
                self._told[name] = tenth
                print(f"{name:10} {text}", file=sys.stderr, flush=True)
        if self._live:
            self._progress.refresh()

    def stop(self) -> None:
        if self._live:
            self._progress.stop()

    def tell(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _look(self, name: str) -> tuple[float, str]:
        """Biological time done [ms], and the line about it."""
        page = read_page(self._run_dir, name)
        if page is None:
            return 0.0, "starting"
        now = page["now"]
        state, waiting = now["state"], now["waiting_for"]
        file = self._run_dir / "timing" / f"{name}.npy"
        if now["window"] < 0 or not file.exists():
            text = f"waiting for {waiting}" if state == "waiting" else state
            return (self._duration_ms if state == "finished" else 0.0), text
        rows = timing.read(file)
        done = now["window"] + (state in ("finished", "finishing"))
        recent = np.array(rows[max(0, done - RECENT_WINDOWS) : done])
        recent = recent[~np.isnan(recent[:, 0])]
        done_ms = self._duration_ms * done / len(rows)
        if not len(recent):
            return done_ms, state
        durations = dict(zip(timing.DURATIONS, recent[:, 2:].sum(axis=0), strict=True))
        total = max(sum(durations.values()), 1e-9)
        bio_s = self._duration_ms / 1000 * len(recent) / len(rows)

        def share(*headings: str) -> str:
            return f"{100 * sum(durations[heading] for heading in headings) / total:.0f} %"

        text = (
            f"{done_ms:7.1f} of {self._duration_ms:g} ms, {total / bio_s:5.1f} x real time: "
            f"computing {share('simulate')}, exchanging {share('transform', 'exchange')}, waiting {share('wait')}"
        )
        blocked_s = time.time() - now["since"]
        if state == "waiting" and blocked_s > 0.5:
            text += f" (for {waiting} since {blocked_s:.0f} s)"
        elif state not in ("computing", "waiting"):
            text += f" ({state})"
        return done_ms, text
