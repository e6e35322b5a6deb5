"""Cost of one window of each transformer, in µs: what the receiver of a channel adds to its own simulation.

Beside `rates_to_spikes` stands the obvious way to do the same with numpy: one Philox stream per column, one uniform
number per train and bin.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from ..bridges.frame import Spikes
from ..transformers import Clock, End, make

CLOCK = Clock(tick_ns=100_000, dt_ticks=1, resolution_ticks=1)


class Cost(NamedTuple):
    transformer: str
    size: str
    median_us: float
    mean_us: float
    slowest_us: float


def measure(transformer: str, size: str, function: Any, payloads: list[Any], steps: int) -> Cost:
    """`function(payload, first_step, end_step)` for window after window; the first tenth only warms up."""
    windows = len(payloads)
    warm_up = windows // 10
    took = np.empty(windows)
    for k, payload in enumerate(payloads):
        begin = time.perf_counter()
        function(payload, k * steps, (k + 1) * steps)
        took[k] = time.perf_counter() - begin
    took = took[warm_up:] * 1e6
    return Cost(transformer, size, float(np.median(took)), float(took.mean()), float(took.max()))


def costs(windows: int, steps: int) -> list[Cost]:
    rng = np.random.default_rng(0)
    found = []
    for columns in (2, 66):
        labels = tuple(f"E@{i}" for i in range(columns))
        dense, rates = End("dense", "", labels, (1,) * columns), End("dense", "Hz", labels, (1,) * columns)
        trains = End("spikes", "", labels, (100,) * columns)
        x = [rng.random((steps, columns))] * windows
        linear = make("linear", {"scale_factor": 100.0}, dense, rates, CLOCK, seed=1, key="k")
        found.append(measure("linear", f"{columns} columns", linear, x, steps))
        low_pass = make("low_pass", {"scale_factor": 100.0}, dense, rates, CLOCK, seed=1, key="k")
        found.append(measure("low_pass", f"{columns} columns", low_pass, x, steps))
        voi = tuple(f"{name}@{i}" for name in ("y1", "y2") for i in range(columns))
        potentials = End("dense", "", voi, (1,) * 2 * columns)
        y = [rng.normal(0.0, 5.0, (steps, 2 * columns))] * windows
        sigmoid = make("jansen_rit_sigmoid", {}, potentials, rates, CLOCK, seed=1, key="k")
        found.append(measure("jansen_rit_sigmoid", f"{columns} columns", sigmoid, y, steps))
        inverse = make("jansen_rit_inverse", {}, dense, dense, CLOCK, seed=1, key="k")
        found.append(measure("jansen_rit_inverse", f"{columns} columns", inverse, x, steps))
        for hz in (10.0, 100.0):
            size = f"{columns} x 100 trains, {hz:g} Hz"
            params = {"scale_factor": 0.0, "translation_factor": hz}
            poisson = make("rates_to_spikes", params, dense, trains, CLOCK, seed=1, key="k")
            found.append(measure("rates_to_spikes", size, poisson, x, steps))
            found.append(measure("  numpy's Philox, per train", size, _numpy_trains(columns, 100, hz), x, steps))
            dead = {**params, "refractory_ms": 2.0}
            refractory = make("rates_to_spikes", dead, dense, trains, CLOCK, seed=1, key="k")
            found.append(measure("rates_to_spikes, refractory 2 ms", size, refractory, x, steps))
            for interaction, jitter_ms in (("single", 0.0), ("multiple", 0.0), ("multiple", 5.0)):
                its = {**params, "correlation": 0.1, "interaction": interaction, "jitter_ms": jitter_ms}
                correlated = make("rates_to_correlated_spikes", its, dense, trains, CLOCK, seed=1, key="k")
                name = f"correlated 0.1, {interaction}" + (f", jitter {jitter_ms:g} ms" if jitter_ms else "")
                found.append(measure(name, size, correlated, x, steps))
            spikes = [Spikes(*poisson(x[0], k * steps, (k + 1) * steps)) for k in range(windows)]
            for tau_ms in (0.0, 10.0):
                to_rates = make("spikes_to_rates", {"tau_ms": tau_ms}, trains, dense, CLOCK, seed=1, key="k")
                name = "spikes_to_rates" + (f", tau_ms = {tau_ms:g}" if tau_ms else "")
                found.append(measure(name, size, to_rates, spikes, steps))
            for kernel in ("gaussian", "exponential"):
                smooth = make("instantaneous_rates", {"kernel": kernel}, trains, dense, CLOCK, seed=1, key="k")
                found.append(measure(f"instantaneous_rates, {kernel}, 10 ms", size, smooth, spikes, steps))
            states = End("dense", "", tuple(f"{voi}{label}" for voi in "SR" for label in labels), (1,) * 2 * columns)
            for name in ("wong_wang_exc", "wong_wang_inh"):
                wong_wang = make(name, {}, trains, states, CLOCK, seed=1, key="k")
                found.append(measure(name, size, wong_wang, spikes, steps))
    return found


def _numpy_trains(columns: int, trains: int, hz: float) -> Any:
    """The draws alone: no scaling, no second spike in a bin, no sorting."""
    generator = np.random.Philox(key=0)
    draw = np.random.Generator(generator).random
    state: Any = generator.state
    silent = np.exp(-hz * CLOCK.resolution_ms / 1000.0)

    def window(payload: np.ndarray, first_step: int, end_step: int) -> list[np.ndarray]:
        result = []
        for column in range(columns):
            state["state"]["key"][0] = column
            state["state"]["counter"][0] = first_step * trains // 4
            state["buffer_pos"] = 4
            generator.state = state
            result.append(np.flatnonzero(draw((end_step - first_step) * trains) >= silent))
        return result

    return window


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lockstep bench transformers", description=__doc__)
    parser.add_argument("--windows", type=int, default=500, help="windows measured (default: 500)")
    parser.add_argument("--steps", type=int, default=20, help="TVB steps of 0.1 ms in a window (default: 20)")
    args = parser.parse_args(argv)
    if args.windows < 10 or args.steps < 1:
        parser.error(
            f"--windows {args.windows} --steps {args.steps}: at least 10 windows of at least 1 step are needed"
        )
    table = Table(title=f"µs per window of {args.steps} steps, {args.windows} windows")
    table.add_column("transformer")
    table.add_column("size")
    for heading in ("median", "mean", "slowest"):
        table.add_column(heading, justify="right")
    for cost in costs(args.windows, args.steps):
        table.add_row(cost.transformer, cost.size, *(f"{value:.0f}" for value in cost[2:]))
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
