"""A run directory made up by hand, through the real writers, in which every number is known beforehand.

TVB steps are 0.1 ms, ticks 0.05 ms, windows 4 steps; 10 steps make windows of 4, 4 and 2 steps. Four regions; L_b and
R_b are computed by "nest" (populations E of 3 and I of 2 neurons each).

    tvb_to_nest.0   E@L_b, E@R_b: step s, column c is 0.01 s + c; transformed 1000 times that, Hz
    nest_to_tvb.0   spikes of the E populations; transformed: spikes of the step / (3 neurons · 0.1 ms), as 1/ms
    monitor         TemporalAverage of E and I, one sample per 2 steps: at 0.1, 0.3, … ms: time + 10 region + 100 voi
    spikes          at tick t neuron t mod 10 fires when t is even; and at tick 5 all ten of them do
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tvb_lockstep.bridges import frame, peers, results
from tvb_lockstep.bridges.contract import Channel, Contract, Signal
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.bridges.recording import FrameLog
from tvb_lockstep.bridges.timing import Timing


def known_coupling(steps: np.ndarray, n: int) -> np.ndarray:
    return 0.01 * steps[:, None] + np.arange(n)


def known_state(time_ms: np.ndarray, n_regions: int) -> np.ndarray:
    """(time, voi, region, mode)"""
    voi, region = np.arange(2)[:, None, None], np.arange(n_regions)[:, None]
    return time_ms[:, None, None, None] + 10.0 * region + 100.0 * voi


def known_spikes(t0: int, t1: int, n_neurons: int) -> Spikes:
    pairs = [(t, t % n_neurons) for t in range(t0, t1) if t % 2 == 0]
    pairs += [(5, n) for n in range(n_neurons)] if t0 <= 5 < t1 else []
    pairs.sort()
    return Spikes(np.array([t for t, _ in pairs], np.int64), np.array([n for _, n in pairs], np.int32))


@dataclass
class Recipe:
    """What to make up. ended: state of each program's summary; None for a program that died without one."""

    regions: tuple[str, ...] = ("L_a", "L_b", "R_a", "R_b")
    coupled: tuple[str, ...] = ("L_b", "R_b")
    populations: tuple[tuple[str, int], ...] = (("E", 3), ("I", 2))
    dt_ticks: int = 2
    tick_ns: int = 50_000
    window_steps: int = 4
    n_steps: int = 10
    period_steps: int = 2
    ended: dict[str, str | None] = field(default_factory=lambda: {"tvb": "finished", "nest": "finished"})
    errors: dict[str, str] = field(default_factory=dict)
    windows: int | None = None  # recorded; all of them when None
    neighbours: dict[str, list[tuple[str, float]]] | None = None
    run_id: str = bytes(range(16)).hex()
    title: str = "made_up"
    coupling: Callable[[np.ndarray, int], np.ndarray] = known_coupling
    state: Callable[[np.ndarray, int], np.ndarray] = known_state
    spikes: Callable[[int, int, int], Spikes] = known_spikes
    timing: Callable[[str, int], tuple[float, ...]] = lambda name, k: (
        1000.0 + 0.01 * k, 1000.002 + 0.01 * k, 0.005, 0.001, 0.0005, 0.0015
    )  # fmt: skip


def contract_of(recipe: Recipe) -> Contract:
    grid = Grid(recipe.tick_ns, recipe.dt_ticks, recipe.window_steps, recipe.n_steps)
    labels = tuple(f"E@{region}" for region in recipe.coupled)
    size = dict(recipe.populations)["E"]
    down = Channel(
        0, "tvb_to_nest.0", "tvb", "nest", "RATE", "TVB", ("E",), ("E",), recipe.coupled, ("linear",),
        ({"scale_factor": 1000.0},), {}, Signal.dense("kHz", list(labels)), Signal.dense("Hz", list(labels)),
        equation="y = 1000·x + 0",
    )  # fmt: skip
    up = Channel(
        1, "nest_to_tvb.0", "nest", "tvb", "SPIKES", "", ("E",), ("E",), recipe.coupled, ("spikes_to_rates",),
        ({"unit": "kHz"},), {}, Signal("spikes", "", labels, (size,) * len(labels)), Signal.dense("kHz", list(labels)),
    )  # fmt: skip
    notes = ["3 regions have connections of length zero to themselves; left out of the min delay."]
    tvb = {
        "model": "WilsonCowan", "regions": list(recipe.regions), "coupled": {"nest": list(recipe.coupled)},
        "dt_ms": grid.dt_ms, "min_delay_ms": 0.4, "notes": notes,
        "monitors": [{"name": "TemporalAverage", "period_ms": recipe.period_steps * grid.dt_ms, "voi": ["E", "I"],
                      "regions": list(recipe.regions), "shape": [2, len(recipe.regions), 1]}],
    }  # fmt: skip
    if recipe.neighbours is not None:
        tvb["neighbours"] = {region: [list(pair) for pair in pairs] for region, pairs in recipe.neighbours.items()}
    populations = [[region, name, size] for region in recipe.coupled for name, size in recipe.populations]
    nest = {"simulator": "nest", "version": "3.10.0", "resolution_ms": grid.tick_ms, "min_delay_ms": 0.1,
            "populations": populations}  # fmt: skip
    experiment = {"name": recipe.title, "seed": 42, "duration": grid.duration_ms, "tvb": {"model": "WilsonCowan"},
                  "exchange": {"transport": "shm", "mode": "parallel", "bridge": "receiver"}}  # fmt: skip
    return Contract(recipe.run_id, grid, (down, up), experiment, tvb, {"nest": nest})


def make_run(run_dir: Path, recipe: Recipe | None = None) -> Contract:
    """Write the run directory of `recipe`, as the programs would have left it; results are not made."""
    recipe = recipe or Recipe()
    contract = contract_of(recipe)
    grid = contract.grid
    n_windows = grid.n_windows if recipe.windows is None else recipe.windows
    (run_dir / "peers").mkdir(parents=True, mode=0o700)
    (run_dir / "run.json").write_text(json.dumps({"run_id": recipe.run_id, "created": "2026-01-31 12:00:00"}))
    (run_dir / "contract.json").write_text(json.dumps(contract.to_json()))
    (run_dir / "experiment.json").write_text(json.dumps(contract.experiment))
    kept = {log.name: FrameLog.create(run_dir, log.address) for log in results.logs(run_dir, contract)}
    sizes = [size for _, _, size in contract.spikenet["nest"]["populations"]]
    first = np.concatenate(([0], np.cumsum(sizes)))
    down, up = contract.channels
    e_populations = [i for i, (_, name, _) in enumerate(contract.spikenet["nest"]["populations"]) if name == "E"]
    n_spikes = 0
    for k in range(n_windows):
        (t0, t1), (step, end) = grid.ticks(k), grid.steps(k)

        def write(name, payload, k=k, t0=t0, t1=t1):
            kept[name].append(*frame.encode(kept[name].address, k, t0, t1, payload))

        raw = recipe.coupling(np.arange(step, end), len(recipe.coupled))
        write(f"{down.name}.raw", raw)
        write(f"{down.name}.transformed", 1000.0 * raw)
        spikes = recipe.spikes(t0, t1, int(first[-1]))
        write("nest.spikes", spikes)
        # the E populations, renumbered as the channel's senders
        which = np.searchsorted(first, spikes.senders, "right") - 1
        mine = np.isin(which, e_populations)
        group = np.searchsorted(e_populations, which[mine])
        sent = Spikes(spikes.times[mine], (spikes.senders[mine] - first[which[mine]]
                                           + group * up.raw.sizes[0]).astype(np.int32))  # fmt: skip
        write(f"{up.name}.raw", sent)
        counts = np.zeros((end - step, len(recipe.coupled)))
        np.add.at(counts, ((sent.times - t0) // grid.dt_ticks, group), 1)
        write(f"{up.name}.transformed", counts / (up.raw.sizes[0] * grid.dt_ms))
        n_spikes += len(sent)
        sampled = np.array([s for s in range(step, end) if (s + 1) % recipe.period_steps == 0])
        time_ms = grid.dt_ms * (sampled + 1 - recipe.period_steps / 2)
        values = recipe.state(time_ms, len(recipe.regions)).reshape(len(time_ms), 2 * len(recipe.regions))
        write("tvb.monitor0", np.column_stack((time_ms, values)))
    for log in kept.values():
        log.close()
    n = n_windows
    counters = {
        "tvb": {down.name: {"frames_sent": n, "spikes_sent": 0},
                up.name: {"frames_received": n, "spikes_received": n_spikes, "frames_delivered": n}},
        "nest": {down.name: {"frames_received": n, "spikes_received": 0, "frames_delivered": n, "spikes_delivered": 0},
                 up.name: {"frames_sent": n, "spikes_sent": n_spikes}},
    }  # fmt: skip
    for name, state in recipe.ended.items():
        versions = {"tvb": {"tvb-library": "2.9.2"}, "nest": {"nest-simulator": "3.10.0"}}[name] | {"numpy": "2.4.6"}
        page = peers.Page(run_dir, name, recipe.run_id, {"toolkit": "0.1.0", "python": "3.11.2", "versions": versions})
        page.update(state or "computing", n_windows - 1)
        page.close()
        with Timing.create(run_dir, name, grid.n_windows) as timing:
            for k in range(n_windows):
                timing.row(k, *recipe.timing(name, k))
        if state is not None:
            summary = {
                "peer": name, "state": state, "error": recipe.errors.get(name), "windows": n_windows, "started": 999.0,
                "ended": 1001.0, "wall_s": 2.0, "cpu_s": 1.5, "peak_memory_mib": 123.0, "versions": versions,
                "python": "3.11.2", "counters": counters[name], "run_id": recipe.run_id, "pid": os.getpid(),
            }  # fmt: skip
            (run_dir / "peers" / f"{name}.summary.json").write_text(json.dumps(summary))
    return contract
