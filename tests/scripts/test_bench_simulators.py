"""`lockstep bench simulators`: its arithmetic, and one short real run. No time is tested here."""

from __future__ import annotations

import importlib.util
import json
import tempfile

import numpy as np
import pytest
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.scripts import bench_simulators
from tvb_lockstep.scripts.bench_simulators import Agreement, Found, Population, agreement, figures_of, statistics
from tvb_lockstep.scripts.main import main

INPUT = Spikes(np.array([0, 3]), np.array([1, 0], np.int32))


def found(rate: float, cv: float, spikes: list[tuple[int, int]], given: Spikes = INPUT, works_s: float = 2.0) -> Found:
    """A run of 10 neurons in steps of 0.1 ms; spikes: (step, neuron)."""
    numbers = np.array([step * 10 + neuron for step, neuron in spikes], np.int64)
    return Found("1.0", {"E@V1": Population(rate, cv)}, numbers, given, 10, 0.1, works_s, 1.6, 5.0, 0.01)


def test_rate_and_cv_are_those_of_the_neurons_in_the_time_that_counts():
    # neuron 0: intervals of 10 and 20 ms, standard deviation 5 of mean 15; neuron 1: of 10, 10 and 10; 2: two spikes
    times = np.array([90.0, 100.0, 110.0, 110.0, 120.0, 130.0, 130.0, 140.0, 150.0, 160.0, 200.0])
    nodes = np.array([0, 0, 0, 1, 1, 1, 0, 1, 2, 2, 0])
    assert statistics(times, nodes, 4, 100.0, 200.0) == (pytest.approx(9 / 4 / 0.1), pytest.approx((1 / 3 + 0) / 2))
    assert np.isnan(statistics(times[:2], nodes[:2], 4, 0.0, 200.0).cv)


def test_spikes_agree_up_to_the_first_that_only_one_of_them_has():
    one = found(1.0, 1.0, [(3, 9), (4, 0), (7, 5), (7, 6)])
    assert agreement(one, found(1.0, 1.0, [(3, 9), (4, 0), (8, 5)])) == Agreement(4, 2, pytest.approx(0.7))
    assert agreement(one, one) == (4, 4, None)


def test_means_may_differ_by_the_spread_over_the_seeds_and_in_any_case_by_5_percent():
    def failures(others, reference=(10.0, 10.8)):  # mean 10.4, standard deviation 0.57: 5 % are the smaller
        runs = {"nest": [found(rate, 1.0, [(1, 1)]) for rate in reference],
                "netpyne": [found(rate, 1.0, [(1, 1)]) for rate in others]}  # fmt: skip
        return figures_of(runs, 1000.0)["failures"]

    assert failures((10.5, 11.3)) == []  # 10.9: by 0.5
    assert failures((10.6, 11.4)) == ["rate_hz of E@V1: netpyne 11, nest 10.4; they may differ by 0.52"]
    assert failures((10.3, 10.5), (10.0, 10.2)) == [  # by 0.3, and a standard deviation of 0.14
        "rate_hz of E@V1: netpyne 10.4, nest 10.1; they may differ by 0.14"
    ]
    assert failures((10.4,), (10.0,)) == [] and len(failures((10.6,), (10.0,))) == 1  # no spread with one seed


def test_a_simulator_without_intervals_is_not_taken_for_one_that_agrees():
    silent = found(0.0, float("nan"), [])
    figures = figures_of({"nest": [found(10.0, 1.0, [(1, 1)])], "annarchy": [silent]}, 1000.0)
    assert [line.split(" of ")[0] for line in figures["failures"]] == ["rate_hz", "cv"]
    assert figures_of({"nest": [silent], "annarchy": [silent]}, 1000.0)["failures"] == []


def test_other_input_before_the_first_difference_is_told():
    other = found(1.0, 1.0, [(1, 1)], Spikes(np.array([0, 4]), np.array([1, 0], np.int32)))
    figures = figures_of({"nest": [found(1.0, 1.0, [(1, 1)])], "annarchy": [other]}, 1000.0)
    assert figures["failures"] == ["seed 1: annarchy and nest were given different spikes"]


def test_what_is_printed_and_written_is_that_of_the_runs(tmp_path, capsys, monkeypatch):
    asked = []

    def one_run(simulator, values):
        asked.append((simulator, values))
        return found({1: 10.0, 2: 11.0}[values["seed"]], 0.5, [(1, 1), (2, 5 + (simulator == "netpyne"))])

    monkeypatch.setattr(bench_simulators, "one_run", one_run)
    file = tmp_path / "figures.json"
    options = ["--simulators", "nest", "netpyne", "--seeds", "2", "--duration", "50", "--neurons", "10"]
    assert main(["bench", "simulators", *options, "--json", str(file)]) == 0
    values = {"duration": 50.0, "spikenet.params.neurons": 10}
    assert asked == [(name, values | {"seed": seed}) for seed in (1, 2) for name in ("nest", "netpyne")]
    figures = json.loads(file.read_text())
    nest, netpyne = figures["results"]
    assert netpyne["ratio"] == 1.25 and netpyne["populations"][0]["rate_hz"] == 10.5
    assert netpyne["seeds"] == [{"spikes": 2, "common": 1, "first_ms": 0.2, "same_input": True}] * 2
    assert nest["seeds"][0]["first_ms"] is None and figures["failures"] == []
    printed = capsys.readouterr().out
    assert "10.50 ± 0.71" in printed and "0.500 ± 0.000" in printed and "1.250" in printed
    assert "the spikes are the same up to 0.2 ms" in printed


def test_the_same_spikes_are_counted_and_too_large_a_difference_is_a_failure(capsys, monkeypatch):
    rates = {"nest": 10.0, "netpyne": 10.0}
    monkeypatch.setattr(bench_simulators, "one_run", lambda name, values: found(rates[name], 0.5, [(1, 1), (2, 2)]))
    options = ["bench", "simulators", "--simulators", "nest", "netpyne", "--seeds", "1"]
    assert main(options) == 0
    assert "each in the same step, on nest, netpyne: 2 of them" in capsys.readouterr().out
    rates["netpyne"] = 9.4
    assert main(options) == 1
    assert "rate_hz of E@V1: netpyne 9.4, nest 10" in capsys.readouterr().out


def test_no_seeds_are_refused_and_a_simulator_named_twice_is_run_once(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_simulators, "one_run", lambda name, _: asked.append(name) or found(9.0, 0.5, [(1, 1)]))
    assert main(["bench", "simulators", "--seeds", "0"]) != 0
    assert "--seeds 0: there must be at least 1" in capsys.readouterr().err
    assert main(["bench", "simulators", "--seeds", "2", "--simulators", "nest", "nest"]) == 0
    assert asked == ["nest", "nest"]  # once for each seed


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tvb", "nest")), reason="needs TVB and NEST in one place"
)
def test_a_real_run_and_nest_alone_on_its_input_give_the_same_spikes(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = tmp_path / "figures.json"
    options = ["--simulators", "nest", "--seeds", "1", "--duration", "60", "--neurons", "100", "--json", str(file)]
    assert main(["bench", "simulators", *options]) == 0  # it compares them, and raises
    (nest,) = json.loads(file.read_text())["results"]
    assert nest["seeds"][0]["spikes"] > 20 and nest["seeds"][0]["same_input"]
    assert nest["ratio"] == nest["works_s"] / nest["alone_s"] and nest["wall_s"] > nest["works_s"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
