"""Several spiking programs, taking turns and at the same time, for many windows; and what a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from running import MODEL, SMALL, WINDOW, content, contract_of, differing, provenance, start, wait_until, window_of
from tvb_lockstep.spikenet_side.program import program_seed

TWO = Path(__file__).with_name("experiments") / "two_programs"


# ---- two spiking programs ------------------------------------------------------------------------------------------


def test_two_nest_programs_beside_tvb_are_the_same_through_rings_files_and_a_bridge(
    run_all: Callable[..., list[Path]],
) -> None:
    ways: list[dict[str, str]] = [
        {}, {"exchange.transport": "file"}, {"exchange.bridge": "own", "exchange.mode": "serial"}
    ]  # fmt: skip
    base, *others = run_all(TWO, ways)
    assert set(provenance(base)["programs"]) == {"tvb", "front", "back"}
    pids = [about["pid"] for about in provenance(base)["programs"].values()]
    assert len(set(pids)) == 3
    for other in others:
        assert differing(base, other) == []
        assert provenance(other)["channels"] == provenance(base)["channels"]
    assert provenance(base)["balanced"]
    logs = content(base)
    assert len(logs["front.spikes"][0]) > 50 and len(logs["back.spikes"][0]) > 50
    assert not np.array_equal(logs["front.spikes"][0], logs["back.spikes"][0])


def test_two_programs_meet_through_the_connectome_of_tvb(run_once: Callable[..., Path]) -> None:
    """TVB's coupling of each region, a · sum_j w_nj E_j(t - tau_nj), from the states that its monitor shows and the
    files of the connectome: the edge between the two programs is in it, with its weight and its delay."""
    from tvb.datatypes.connectivity import Connectivity

    run_dir = run_once(TWO, {})
    file = Connectivity.from_file("connectivity_68.zip")
    labels = [str(label) for label in file.region_labels]
    weights = file.weights / file.weights.max()
    delays = np.rint(file.tract_lengths / 4.0 / 0.1).astype(int)
    logs = content(run_dir)
    states = logs["tvb.monitor0"][0][:, 1:]  # row s: E at the end of step s
    regions = {"front": labels.index("r_isthmuscingulate"), "back": labels.index("r_precuneus")}
    steps = np.arange(delays[list(regions.values())].max() + 1, len(states))  # all that they hear is in the states
    assert len(steps) > 200
    for program, other in (("front", "back"), ("back", "front")):
        target, source = regions[program], regions[other]
        assert weights[target, source] > 0.4
        heard = weights[target].copy()
        heard[target] = 0.0  # the network has connections of its own
        expected = sum(
            1.5 * heard[j] * states[steps - delays[target, j] - 1, j] for j in np.flatnonzero(heard)
        )
        found = logs[f"tvb_to_{program}.0.raw"][0][steps, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)  # TVB's history is in single precision
        share = 1.5 * weights[target, source] * states[steps - delays[target, source] - 1, source]
        assert share.mean() > 0.05 * found.mean(), "the edge between the two would not be missed"


def test_each_of_two_programs_has_a_seed_of_its_own() -> None:
    assert program_seed(1, "front") != program_seed(1, "back") != program_seed(2, "back")


# ---- at the same time, or taking turns -----------------------------------------------------------------------------


def intervals(run_dir: Path, program: str) -> np.ndarray:
    """(n_windows, 2): when the program began and ended to simulate each window [unix s]."""
    rows = np.load(run_dir / "timing" / f"{program}.npy")
    return np.stack([rows[:, 1], rows[:, 1] + rows[:, 2]], axis=1)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Total time in which an interval of `a` and one of `b` hold at once [s]; those of each do not overlap."""
    common = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    return float(np.clip(common, 0.0, None).sum())


def test_overlap_is_that_of_the_intervals() -> None:
    a, b = np.array([[0.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 3.5], [5.0, 6.0]])
    assert overlap(a, b) == 1.5 and overlap(b, a) == 1.5 and overlap(a, a) == 3.0


def test_both_programs_compute_at_the_same_time_in_parallel_mode_and_never_when_taking_turns(
    run_once: Callable[..., Path],
) -> None:
    parallel = run_once("wilson_cowan", {**SMALL, MODEL: "RATE"})
    serial = run_once("wilson_cowan", {**SMALL, MODEL: "RATE", "exchange.mode": "serial"})
    found = {}
    for name, run_dir in (("parallel", parallel), ("serial", serial)):
        tvb, nest = intervals(run_dir, "tvb"), intervals(run_dir, "spikenet")
        for each in (tvb, nest):
            assert (each[1:, 0] >= each[:-1, 1] - 1e-5).all(), "windows of one program follow each other"
        found[name] = overlap(tvb, nest) / min(np.diff(tvb).sum(), np.diff(nest).sum())
    assert found["serial"] == 0.0
    assert found["parallel"] > 0.05, found  # of the time that the quicker one simulates


# ---- many windows --------------------------------------------------------------------------------------------------


def test_memory_stays_flat_over_ten_thousand_windows(tmp_path: Path) -> None:
    """Everything is recorded meanwhile; from a fifth of the run to nearly its end no program grows by 5 MiB, that is by
    700 bytes a window. Measured: TVB 2.7 MiB, of which 2.4 at once, and NEST 0.9 MiB; 0.4 MiB of each are the mapped
    file of its timing. That nothing is left in /dev/shm and of processes is looked at after every scenario."""
    run_dir = tmp_path / "run"
    values = {
        "duration": 1000, WINDOW: 0.1, "spikenet.params.n_excitatory": 20, "spikenet.params.n_inhibitory": 20,
    }  # fmt: skip
    programs = {name: start(name, "wilson_cowan", run_dir, values) for name in ("tvb", "spikenet")}
    processes = {name: psutil.Process(program.pid) for name, program in programs.items()}
    resident = []

    def ended_or_reached(window: int) -> bool:
        ended = not all(program.running for program in programs.values())
        return ended or all(window_of(run_dir, name) >= window for name in programs)

    for window in (2000, 9500):
        wait_until(partial(ended_or_reached, window), f"window {window}", 200.0)
        if all(program.running for program in programs.values()):
            reached = min(window_of(run_dir, name) for name in programs)
            resident.append({name: process.memory_info().rss for name, process in processes.items()})
            assert reached < window + 3000, "sampled in time"
    for program in programs.values():
        ended = program.wait()
        assert ended.code == 0, ended.text
    assert len(resident) == 2
    assert contract_of(run_dir).grid.n_windows == 10_000
    for name in programs:
        grown = (resident[1][name] - resident[0][name]) / 2**20
        assert grown < 5.0, f"{name} grew by {grown:.1f} MiB"
    assert provenance(run_dir)["complete"] and provenance(run_dir)["balanced"]


# ---- what a run leaves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["RATE", "SPIKES"])
def test_counters_and_result_files_agree_with_each_other(model: str, run_once: Callable[..., Path]) -> None:
    run_dir = run_once("wilson_cowan", {**SMALL, MODEL: model})
    told = provenance(run_dir)
    assert told["complete"] and told["balanced"] and told["interruptions"] == []
    windows = contract_of(run_dir).grid.n_windows
    assert windows == 26  # 51.1 ms in windows of 2 ms
    down, up = told["channels"]["tvb_to_spikenet.0"], told["channels"]["spikenet_to_tvb.0"]
    for channel in (down, up):
        assert channel["balanced"]
        assert channel["frames_sent"] == channel["frames_received"] == channel["frames_delivered"] == windows
        assert channel["spikes_sent"] == channel["spikes_received"] == channel["spikes_delivered"]
    assert up["spikes_sent"] > 100 and (down["spikes_sent"] > 100) == (model == "SPIKES")

    with h5py.File(run_dir / "spikes.h5") as file:
        stored = {name: len(group["timestamps"]) for name, group in file["spikes"].items()}
        for group in file["spikes"].values():
            times = group["timestamps"][()]
            assert (np.diff(times) >= 0).all() and times.min() >= 0 and times.max() < 51.1
            assert group["node_ids"][()].max() < 40
    assert set(stored) == {f"{name}@{region}" for name in "EI" for region in ("r_precuneus", "r_caudalmiddlefrontal")}
    assert sum(stored.values()) == up["spikes_sent"] == up["recorded"]["raw_spikes"]  # the channel carries all neurons

    with h5py.File(run_dir / "exchange.h5") as file:
        raw = file["spikenet_to_tvb.0/raw"]
        groups = np.repeat(np.arange(4), raw.attrs["sizes"])[raw["senders"][()]]
        for i, label in enumerate(raw.attrs["labels"]):
            assert stored[label] == (groups == i).sum()
        assert len(raw["window_offsets"]) == windows + 1 and raw["window_offsets"][-1] == up["spikes_sent"]
        rates = file["spikenet_to_tvb.0/transformed/data"][()]
        coupling, sent = (file[f"tvb_to_spikenet.0/{stage}"] for stage in ("raw", "transformed"))
        if model == "RATE":
            np.testing.assert_allclose(sent["data"][()], 100.0 * coupling["data"][()], rtol=1e-15)
        else:
            assert len(sent["times"]) == down["spikes_sent"] == down["recorded"]["transformed_spikes"]

    with h5py.File(run_dir / "tvb.h5") as file:
        assert (file["rates/spikenet_to_tvb.0/data"][()] == rates).all() and rates.shape == (511, 4)
        labels = [label.decode() for label in file["regions/label"][()]]
        assert len(labels) == 68 and file["regions/coupled"][()].sum() == 2
        data = file["monitors/TemporalAverage/data"][()]
        assert data.shape == (51, 1, 68, 1) and np.isfinite(data).all()
        # the average over each ms of what came in for the region, in TVB's own words
        came_in = rates[:510, 0].reshape(51, 10).mean(axis=1)
        np.testing.assert_allclose(data[:, 0, labels.index("r_precuneus"), 0], came_in, rtol=1e-12)

    timing = json.loads((run_dir / "timing.json").read_text())["programs"]
    for name in ("tvb", "spikenet"):
        rows = np.load(run_dir / "timing" / f"{name}.npy")
        assert rows.shape == (windows, 6) and not np.isnan(rows).any() and (rows >= 0).all()
        assert timing[name]["n_windows"] == windows
        for key, column in zip(("simulate", "transform", "exchange", "wait"), rows.T[2:], strict=True):
            assert timing[name]["totals"][key] == pytest.approx(column.sum())
