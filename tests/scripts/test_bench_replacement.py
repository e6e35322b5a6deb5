"""`lockstep bench replacement`: its arithmetic, and a short real run. No time is tested here."""

from __future__ import annotations

import importlib.util
import json
import tempfile

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.scripts import bench_replacement
from tvb_lockstep.scripts.bench_replacement import (
    HALVES,
    PARTS,
    SEEDS,
    About,
    Alone,
    Course,
    Found,
    figures_of,
    parts_of,
    similarity,
    statistics,
    text_of,
)
from tvb_lockstep.scripts.main import main

REAL = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tvb", "nest")), reason="needs TVB and NEST in one place"
)
ABOUT = About(["nest 3"], ["B"], ["S", "R"], 2, "TemporalAverage")
REGIONS = ["A", "B", "C", "D"]
CONNECTED = np.eye(4, k=1) + np.eye(4, k=-1) > 0  # AB, BC, CD
TVB = Alone(Course(np.empty(0), np.empty(0), ["S", "R"], REGIONS), {"S": "", "R": "Hz"}, CONNECTED)


def matrix(*upper: float) -> np.ndarray:
    """A symmetric matrix of REGIONS with these above the diagonal: AB, AC, AD, BC, BD, CD."""
    fc = np.eye(4)
    fc[np.triu_indices(4, 1)] = upper
    return fc + np.triu(fc, 1).T


def found(S: list[float], fc: np.ndarray, variance: float = 1.0) -> Found:
    """A run in which R is 10 times S, and so 100 times as variable."""
    mean = np.array([S, np.multiply(S, 10.0)])
    return Found(mean, variance * np.outer([1.0, 100.0], np.ones(4)), fc)


def spread(*values: float) -> dict:
    return {"values": list(values), "mean": np.mean(values), "sd": np.std(values, ddof=1) if values[1:] else 0.0}


def test_the_first_tenth_of_a_run_is_left_out_of_mean_variance_and_correlation():
    data = np.zeros((20, 3, 2))
    data[:2] = 1e6
    data[2:, 1, 0] = [1.0, 3.0] * 9
    data[2:, 1, 1] = [6.0, 2.0] * 9
    data[2:, 2] = 5.0
    run = statistics(Course(np.arange(20) + 0.5, data, ["x", "S", "R"], ["A", "B"]), ["S", "R"])
    assert run.mean.tolist() == [[2.0, 4.0], [5.0, 5.0]]
    assert run.variance.tolist() == [[1.0, 4.0], [0.0, 0.0]]
    assert np.allclose(run.fc, [[1.0, -1.0], [-1.0, 1.0]])


def test_a_region_that_does_not_change_has_no_functional_connectivity():
    data = np.random.default_rng(1).normal(size=(20, 1, 3))
    data[2:, 0, 1] = 0.25
    with pytest.raises(LockstepError, match="S of B does not change"):
        statistics(Course(np.arange(20) + 0.5, data, ["S"], ["A", "B", "C"]), ["S"])


def test_each_pair_of_regions_counts_once_and_pairs_with_a_replaced_region_are_apart():
    masks = parts_of(REGIONS, ["B"])
    assert [int(np.triu(masks[part], 1).sum()) for part in PARTS] == [6, 3, 3]
    one, other = matrix(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), matrix(-0.1, 0.4, 0.6, -0.4, -0.5, 1.2)
    assert similarity(one, other, masks[PARTS[1]]) == pytest.approx(1.0)  # AC, AD, CD: twice as much
    assert similarity(one, other, masks[PARTS[2]]) == pytest.approx(-1.0)  # AB, BC, BD: the negative
    upper = np.triu_indices(4, 1)
    assert similarity(one, other, masks[PARTS[0]]) == pytest.approx(np.corrcoef(one[upper], other[upper])[0, 1])
    assert np.isnan(similarity(one, other, np.eye(4) > 0))


def test_changes_are_those_of_the_same_seed_and_the_yardstick_has_two_seeds():
    up, down = matrix(1, 2, 3, 4, 5, 6) / 10, matrix(6, 5, 4, 3, 2, 1) / 10
    runs = {
        "without": [found([1.0, 2.0, 3.0, 4.0], up), found([2.0, 4.0, 3.0, 4.0], down)],
        "with": [found([1.0, 7.0, 3.5, 3.0], up, 2.0), found([2.0, 5.0, 3.5, 1.0], up, 4.0)],
    }
    figures = figures_of(runs, ABOUT, TVB, "mine", 100.0)
    S, R = figures["variables"]
    assert S["replaced"]["B"]["mean"] == {"without": spread(2.0, 4.0), "with": spread(7.0, 5.0)}
    assert R["replaced"]["B"]["variance"] == {"without": spread(100.0, 100.0), "with": spread(200.0, 400.0)}
    of = S["others"]  # A, C, D: without 8 / 3 and 3, with 2.5 and 6.5 / 3
    assert of["change"]["values"] == pytest.approx([-0.5 / 3, -2.5 / 3])
    assert of["most_changed"] == {"region": "D", "change": spread(-1.0, -3.0), "without": spread(4.0, 4.0)}
    assert of["variance_ratios"] == {"lowest": 3.0, "median": 3.0, "highest": 3.0}
    assert (R["unit"], S["regions"]["mean"]["with"]["mean"]) == ("Hz", [1.5, 6.0, 3.5, 2.0])
    every, others, touched = figures["fc_parts"]
    assert (every["part"], others["level"]["pairs"], touched["level"]["pairs"]) == (PARTS[0], 3, 3)
    without_two, one_each, with_two, same_seed = (every["similarity"][name] for name in SEEDS)
    assert without_two["values"] == pytest.approx([-1.0])
    assert one_each["values"] == pytest.approx([-1.0, 1.0])  # seed 1 with, 2 without; seed 2 with, 1 without
    assert with_two["values"] == pytest.approx([1.0]) and same_seed["values"] == pytest.approx([1.0, -1.0])
    assert touched["level"]["without"]["values"] == pytest.approx([1.0 / 3, 1.1 / 3])  # AB, BC, BD
    assert others["level"]["change"]["values"] == pytest.approx([0.0, 0.1 / 3])  # AC, AD, CD: 1.1 / 3 less 1.0 / 3
    assert touched["level_of_connected"]["with"]["values"] == pytest.approx([0.25, 0.25])  # AB, BC
    assert [part["level_of_connected"]["pairs"] for part in figures["fc_parts"]] == [3, 1, 2]


def test_means_of_half_of_the_seeds_are_compared_with_those_of_the_other_half():
    up, down, S = matrix(1, 2, 3, 4, 5, 6) / 10, matrix(6, 5, 4, 3, 2, 1) / 10, [0.1, 0.2, 0.3, 0.4]
    runs = {way: [found(S, fc) for fc in each] for way, each in {
        "without": [up, down / 2, down, down],  # half of 1 and 2: rises; of 3 and 4: falls
        "with": [down, up / 2, up, down / 2],  # falls; rises
    }.items()}  # fmt: skip
    four = figures_of(runs, ABOUT, TVB, "mine", 100.0)["fc_parts"][0]["similarity"]
    assert four[HALVES[0]]["values"] == pytest.approx([-1.0])
    assert four[HALVES[1]]["values"] == pytest.approx([1.0, 1.0])  # with 1, 2 and without 3, 4; the other way round
    assert four[SEEDS[3]]["values"] == pytest.approx([-1.0, -1.0, -1.0, 1.0])
    runs = {way: each[:1] for way, each in runs.items()}
    one = figures_of(runs, ABOUT, TVB, "mine", 100.0)["fc_parts"]
    assert [len(one[0]["similarity"][name]["values"]) for name in (*SEEDS, *HALVES)] == [0, 0, 0, 1, 0, 0]
    # of regions that are all replaced nothing is left to compare but their pairs
    every = figures_of(runs, ABOUT._replace(replaced=REGIONS), TVB, "mine", 100.0)
    assert [part["part"] for part in every["fc_parts"]] == [PARTS[0], PARTS[2]]
    assert "others" not in every["variables"][0]


def test_figures_are_shown_with_their_spread_and_small_ones_by_their_power_of_ten():
    assert text_of(spread(3.0, 3.2)) == "3.10 ± 0.14"
    assert text_of(spread(2e-4, 4e-4)) == "(3.00 ± 1.41)e-4"
    assert text_of(spread(-1e-5), sign="+") == "(-1.00)e-5"
    assert text_of(spread(0.5, 0.7), 3, "+") == "+0.600 ± 0.141"
    assert text_of({"values": [], "mean": None, "sd": None}) == "–"
    assert text_of(spread(0.0)) == "0.00"
    assert text_of(spread(0.1414, 0.1426)) == "0.1420 ± 0.0008"


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_seed_has_both_runs_and_what_is_compared_cannot_be_undone(seeds, tmp_path, capsys, monkeypatch):
    asked, random = [], np.random.default_rng(1)

    def one_seed(experiment, overrides):
        asked.append((experiment, overrides))
        runs = [found([0.1, 0.2, 0.3, 0.4], matrix(*random.uniform(-1, 1, 6))) for _ in range(2)]
        return ABOUT, TVB, runs

    monkeypatch.setattr(bench_replacement, "one_seed", one_seed)
    file = tmp_path / "figures.json"
    options = ["--experiment", "mine", "--simulator", "netpyne", "--seeds", str(seeds), "--duration", "100"]
    more = ["--set", "seed=9", "--json", str(file), "--plot", str(tmp_path / "to")]
    assert main(["bench", "replacement", *options, *more]) == 0
    assert asked == [
        ("mine", ["seed=9", "spikenet.simulator=netpyne", "duration=100.0", f"seed={seed}"])
        for seed in range(1, seeds + 1)
    ]
    figures = json.loads(file.read_text())
    assert (figures["seeds"], figures["left_out_ms"], figures["fc_of"]) == (seeds, 10.0, "S")
    assert figures["plot"] == str(tmp_path / "to" / "replacement.png")
    assert (tmp_path / "to" / "replacement.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "R [Hz]" in printed and "the other 3 regions" in printed
    assert ("of two seeds" in printed) == (seeds > 1)


def test_no_seeds_and_a_folder_that_cannot_be_made_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_replacement, "one_seed", lambda *_: pytest.fail("nothing is to be run"))
    assert main(["bench", "replacement", "--seeds", "0"]) != 0
    assert "--seeds 0: there must be at least 1" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["bench", "replacement", "--plot", str(tmp_path / "file" / "plots")]) != 0
    assert "cannot be made" in capsys.readouterr().err


@REAL
def test_tvb_alone_is_its_own_run_and_has_the_noise_of_the_coupled_run(tmp_path, monkeypatch):
    from tvb_lockstep.tvb_side.build import build_simulator

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    courses = []
    computed = bench_replacement.statistics

    def keep(course, variables):
        courses.append(course)
        return computed(course, variables)

    monkeypatch.setattr(bench_replacement, "statistics", keep)
    overrides = ["duration=30.0", "seed=2"]
    about, tvb, runs = bench_replacement.one_seed("reduced_wong_wang", overrides)
    alone, coupled = courses
    assert about.replaced == ["r_precuneus", "r_caudalmiddlefrontal"]
    assert (about.delivered, about.drawn, about.monitor) == (["S_e", "R_e", "S_i", "R_i"], 2, "TemporalAverage")
    regions = tvb.course.regions
    assert [tvb.units[voi] for voi in about.delivered] == ["", "Hz", "", "Hz"]

    experiment, source = load("reduced_wong_wang", overrides)
    simulator = build_simulator(experiment.tvb, 2, source.parent).configure()
    # TVB counts on from the end of its initial conditions; here from 0, so that samples have the same 10 steps
    history, simulator.current_step, at = simulator.history, 0, simulator.current_step
    history.buffer = np.roll(history.buffer, -at, axis=0)
    ((time_ms, data),) = simulator.run(simulation_length=30.0)
    assert np.array_equal(alone.time_ms, time_ms) and np.array_equal(alone.data, data[..., 0])

    weights = simulator.connectivity.weights
    assert np.array_equal(tvb.connected, weights + weights.T > 0)
    mine = [regions.index(region) for region in about.replaced]
    unheard = np.setdiff1d(np.flatnonzero((weights[:, mine] == 0).all(axis=1)), mine)
    heard = np.setdiff1d(np.arange(68), [*unheard, *mine])
    assert len(unheard) > 20 and len(heard) > 20
    # no delay is shorter than 1 ms: in the first ms the noise is all that those who do not hear a network can notice
    assert np.array_equal(alone.data[0][:, unheard], coupled.data[0][:, unheard])
    assert (alone.data[-1, 0, heard] != coupled.data[-1, 0, heard]).all()
    assert runs[1].mean[1, mine[0]] == pytest.approx(coupled.data[3:, 2, mine[0]].mean())
    assert list(tmp_path.iterdir()) == []
