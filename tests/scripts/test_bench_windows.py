"""`lockstep bench windows` gives all its rows and notices other numbers. No time is tested here."""

from __future__ import annotations

import json

import pytest
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.scripts import bench_windows
from tvb_lockstep.scripts.main import main


def test_a_short_run_has_the_plain_simulator_and_every_window(tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert main(["bench", "windows", "--duration", "10", "--rounds", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "plain Simulator.run" in printed and "Asked: at most 1.1 times the plain run" in printed
    figures = json.loads(file.read_text())
    # wilson_cowan's shortest delay at a spiking region is 6.3 ms, 63 steps
    assert [row["steps"] for row in figures["results"]] == [None, 1, 20, 63]
    for row in figures["results"]:
        assert len(row["wall_s_of_rounds"]) == len(row["cpu_s_of_rounds"]) == 1
        assert min(row["wall_s"], row["cpu_s"], row["wall_ratio"], row["cpu_ratio"]) > 0
    assert figures["results"][0]["wall_ratio"] == figures["results"][0]["cpu_ratio"] == 1.0


def test_ratios_are_taken_within_each_round(monkeypatch, capsys):
    monkeypatch.setattr(bench_windows, "window_lengths", lambda experiment, folder: {"one": 1, "two": 2})
    took = {"plain": iter([(1.0, 2.0), (10.0, 20.0), (2.0, 4.0)]), 1: iter([(2.0, 3.0), (10.0, 20.0), (6.0, 5.0)]),
            2: iter([(1.0, 1.0)] * 3)}  # fmt: skip
    order = []

    def way(key):
        order.append(key)
        return *next(took[key]), "the same bits"

    monkeypatch.setattr(bench_windows, "plain", lambda experiment, folder: way("plain"))
    monkeypatch.setattr(bench_windows, "in_windows", lambda experiment, folder, steps: way(steps))
    figures = bench_windows.bench(10.0, 3)
    assert order == ["plain", 1, 2, 2, 1, "plain", "plain", 1, 2]
    plain, one, two = figures["results"]
    assert (plain["wall_s"], plain["cpu_s"]) == (2.0, 4.0)
    assert (one["wall_s"], one["wall_ratio"], one["cpu_ratio"]) == (6.0, 2.0, 1.25)  # 2, 1, 3; 1.5, 1, 1.25
    assert (two["wall_ratio"], two["cpu_ratio"]) == (0.5, 0.25)  # 1, 0.1, 0.5; 0.5, 0.05, 0.25
    bench_windows.print_table(figures)
    assert "2.000" in capsys.readouterr().out


def test_monitors_that_depend_on_the_window_are_noticed(monkeypatch):
    monkeypatch.setattr(bench_windows, "window_lengths", lambda experiment, folder: {"one": 1, "two": 2})
    monkeypatch.setattr(bench_windows, "plain", lambda experiment, folder: (1.0, 1.0, ""))
    monkeypatch.setattr(bench_windows, "in_windows", lambda experiment, folder, steps: (1.0, 1.0, f"bits {steps}"))
    with pytest.raises(LockstepError, match=r"the monitors depend on the window.*bits 1.*bits 2"):
        bench_windows.bench(10.0, 1)
