"""`lockstep bench run` and `bench recording`: their arithmetic, and short real runs. No time is tested here."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.scripts import bench_recording, bench_run
from tvb_lockstep.scripts.bench_run import Measured, figures_of, measure, measured
from tvb_lockstep.scripts.main import main


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert [path for path in tmp_path.iterdir() if path.name.startswith("lockstep-bench-")] == []


def test_the_lock_step_goes_from_the_first_window_of_any_program_to_the_last_end_of_any():
    # window_start, simulate_start, simulate, transform, exchange, wait
    tvb = np.array([[100.0, 100.1, 0.5, 0.1, 0.1, 0.3], [101.0, 101.1, 0.5, 0.0, 0.0, 0.25]])
    nest = np.array([[99.5, 99.6, 1.0, 0.0, 0.0, 0.0], [101.5, 101.5, 1.25, 0.125, 0.125, 0.0]])
    found = measured({"tvb": tvb, "nest": nest}, 7.0)
    assert found.wall == 103.0 - 99.5 and found.command == 7.0
    assert found.simulate == {"tvb": 1.0, "nest": 2.25} and found.wait == {"tvb": pytest.approx(0.55), "nest": 0.0}


def test_the_ratio_is_that_to_the_slower_program_and_waiting_a_share_of_the_lock_step(capsys):
    runs = [
        Measured(wall, 9.0, {"tvb": 1.0, "nest": nest}, {"tvb": wait, "nest": 0.0})
        for wall, nest, wait in ((4.0, 4.0, 2.0), (5.0, 4.0, 4.0), (6.0, 5.0, 3.0))
    ]
    values = {"duration": 1000.0, "exchange.transport": "shm", "spikenet.params.n_excitatory": 500,
              "spikenet.params.n_inhibitory": 500}  # fmt: skip
    figures = figures_of(runs, values)
    assert figures["slower"] == "nest" and figures["wall_s"] == 5.0
    assert figures["ratio_of_rounds"] == [1.0, 1.25, 1.2] and figures["ratio"] == 1.2
    assert figures["waiting"] == {"tvb": 0.5, "nest": 0.0}
    bench_run.print_run(figures)
    printed = capsys.readouterr().out
    assert "1.200 times what nest" in printed and "50.00 %" in printed and "2 x (500 + 500) neurons" in printed


def test_recorded_and_not_recorded_runs_are_compared_round_by_round(capsys):
    def runs(*walls):
        return [Measured(wall, 2.0 * wall, {}, {}) for wall in walls]

    figures = bench_recording.figures_of(runs(1.0, 6.0, 2.0), runs(1.0, 5.0, 2.5), 2_000_000)
    assert figures["ratio_of_rounds"] == [1.0, 1.2, 0.8] and figures["ratio"] == figures["command_ratio"] == 1.0
    assert (figures["recorded_s"], figures["not_recorded_s"]) == (2.0, 2.5)
    bench_recording.print_figures(figures | {"duration_ms": 1000.0, "transport": "shm"})
    printed = capsys.readouterr().out
    assert "1.000 times as long" in printed and "2.00 MB" in printed and "from 0.800 to 1.200" in printed


def test_each_round_has_both_in_turn_about_and_what_was_recorded_is_looked_at(tmp_path, monkeypatch):
    asked, wrong = [], False

    def run(arguments, look):
        record = "exchange.record=true" in arguments
        asked.append(record)
        run_dir = tmp_path / f"run{len(asked)}"
        (run_dir / "record").mkdir(parents=True)
        (run_dir / "record" / "spikenet.spikes.frames").write_bytes(b"0" * 99)  # of the results, with or without
        if record or wrong:
            (run_dir / "record" / "tvb_to_spikenet.0.raw.frames").write_bytes(b"0" * 10)
        look(run_dir)
        return Measured(1.0, 2.0, {}, {})

    monkeypatch.setattr(bench_recording, "measure", run)
    assert bench_recording.bench(20.0, 2, "shm")["recorded_bytes"] == 10
    assert asked == [True, False, False, True]
    wrong = True
    with pytest.raises(LockstepError, match=r"1 recordings with exchange\.record=False"):
        bench_recording.bench(20.0, 1, "shm")


def test_a_run_that_fails_is_told_with_what_it_said():
    with pytest.raises(LockstepError, match=r"(?s)exit status 2:.*'nowhere'"):
        measure(["nowhere"])


def test_the_run_asked_for_is_measured_and_the_figures_are_written(tmp_path, capsys, monkeypatch):
    asked = []

    def run(arguments):
        asked.append(arguments)
        return Measured(2.0, 5.0, {"tvb": 0.5, "spikenet": 1.6}, {"tvb": 1.0, "spikenet": 0.1})

    monkeypatch.setattr(bench_run, "measure", run)
    file = tmp_path / "figures.json"
    options = ["--duration", "20", "--rounds", "2", "--neurons", "30", "--transport", "file", "--json", str(file)]
    assert main(["bench", "run", *options]) == 0
    sets = ["duration=20.0", "exchange.transport=file", "spikenet.params.n_excitatory=30",
            "spikenet.params.n_inhibitory=30"]  # fmt: skip
    assert asked == [["wilson_cowan", *(part for each in sets for part in ("--set", each))]] * 2
    assert json.loads(file.read_text())["ratio"] == 1.25
    assert "2 x (30 + 30) neurons, file" in capsys.readouterr().out


def test_real_runs_with_and_without_recording_are_measured(tmp_path, monkeypatch):
    runs = []

    def watched(run, look):
        runs.append(measure(run, look))
        return runs[-1]

    monkeypatch.setattr(bench_recording, "measure", watched)
    file = tmp_path / "figures.json"
    assert main(["bench", "recording", "--duration", "20", "--rounds", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    # 10 windows of 20 steps x 2 regions x 8 bytes behind 80, before and after the transformer; and the spikes' channel
    assert figures["recorded_bytes"] > 10 * 2 * (80 + 320)
    assert figures["ratio"] == runs[0].wall / runs[1].wall
    for run in runs:
        assert set(run.simulate) == set(run.wait) == {"tvb", "spikenet"}
        assert max(run.simulate.values()) < run.wall < run.command  # each contains the one before
