"""The benchmark gives all its rows, checks the data it moved, and leaves nothing behind. It measures nothing here."""

from __future__ import annotations

import json
import os
import tempfile

import pytest
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.scripts import bench_transport
from tvb_lockstep.scripts.main import main


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    shared, cores = set(os.listdir("/dev/shm")), os.sched_getaffinity(0)
    yield
    ours = [name for name in set(os.listdir("/dev/shm")) - shared if "tvls-bench" in name]
    assert ours == []
    assert [path for path in tmp_path.iterdir() if path.name.startswith("lockstep-bench-")] == []
    assert os.sched_getaffinity(0) == cores


def test_a_short_run_has_all_rows_and_ratios(tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert main(["bench", "transport", "--windows", "5", "--rounds", "2", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    for word in ("bare semaphore", "ZeroMQ", "memory", "shm", "file", "20 steps", "1 step "):
        assert word in shown
    figures = json.loads(file.read_text())
    placements = ["apart", "together"] if len(os.sched_getaffinity(0)) > 1 else ["together"]
    rows = {(row["steps"], row["placement"], row["way"]): row for row in figures["results"]}
    ways = ["bare", "zeromq", "memory", "shm", "file"]
    assert set(rows) == {(n, p, w) for n in (20, 1) for p in placements for w in ways}
    for (steps, _, way), row in rows.items():
        # dense frames of 68 float64 per step behind 80 bytes; back also 40 spikes of 12 bytes behind 80
        assert row["bytes_each_way"] == [80 + 544 * steps, 80 + 544 * steps + 80 + 480]
        assert len(row["medians_of_rounds_us"]) == 2
        assert 0 < row["median_us"] <= row["p99_us"]
        assert row["ratio_to_bare"] == 1.0 if way == "bare" else row["ratio_to_bare"] > 0


@pytest.mark.parametrize("way", ["bare", "zeromq", "memory", "shm", "file"])
def test_a_way_that_brought_other_data_would_be_noticed(way, monkeypatch):
    kind = {"bare": bench_transport.Bare, "zeromq": bench_transport.ZeroMQ}.get(way, bench_transport.Toolkit)
    window = kind._ping_window if way == "bare" else kind.window

    def spoiled(self, k):
        window(self, k)
        self._got = list(reversed(self._got))

    monkeypatch.setattr(kind, "_ping_window" if way == "bare" else "window", spoiled)
    with pytest.raises(LockstepError, match=f"{way} brought other data than was sent"):
        bench_transport.bench(windows=1, rounds=1, steps=[2], ways=(way,))


def test_a_partner_that_dies_is_noticed(monkeypatch):
    started = []
    partner = bench_transport._Partner.__init__

    def remembered(self):
        partner(self)
        started.append(self._process)

    window = bench_transport.Toolkit.window

    def kill_then_wait(self, k):
        if k == 3:
            started[0].kill()
        window(self, k)

    monkeypatch.setattr(bench_transport._Partner, "__init__", remembered)
    monkeypatch.setattr(bench_transport.Toolkit, "window", kill_then_wait)
    with pytest.raises(LockstepError, match="the other process ended early"):
        bench_transport.bench(windows=2000, rounds=1, steps=[1], ways=("shm",))
