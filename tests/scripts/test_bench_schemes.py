"""`lockstep bench schemes` and `bench modes`: their arithmetic, and short real runs. No time is tested here."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.scripts import bench_schemes
from tvb_lockstep.scripts.bench_schemes import PHASES, SCHEMES, Found, Trace, figures_of, modes, smoothed
from tvb_lockstep.scripts.main import main

REAL = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("tvb", "nest")), reason="needs TVB and NEST in one place"
)
SMALL = ["spikenet.params.n_excitatory=40", "spikenet.params.n_inhibitory=40"]
SPIKING = ("r_precuneus", "r_caudalmiddlefrontal")


def found(rate_hz: float, state: float, delivered: tuple[str, ...] = ("A",), proxies: int = 1) -> Found:
    """A run with region A spiking and B, C hearing it, in 100 ms."""
    time_ms = np.arange(100) + 0.5
    states = np.outer(np.ones(100), [state, 2 * state, 3 * state])
    trace = Trace(time_ms, states, np.linspace(0, 100, 21), {"E@A": np.full(20, rate_hz)})
    return Found(
        "nest 3", "E", ["A", "B", "C"], {"E@A": rate_hz}, {"A": state, "B": 2 * state, "C": 3 * state},
        list(delivered), [("A", "B", 0.5), ("A", "C", 0.25)], proxies, 100 * proxies,
        {"spikenet": [rate_hz * 1e-3, 0.0, 1e-4], "tvb": [2e-3, 1e-4, 0.0]}, 3e-3, trace,
    )  # fmt: skip


def test_an_effect_is_the_difference_to_the_first_way_by_the_larger_standard_deviation():
    runs = {"both": [found(10.0, 0.1), found(12.0, 0.1)], "one": [found(20.0, 0.1), found(24.0, 0.3)]}
    rates, own, *hearing = figures_of(runs, 100.0)["rows"]
    assert (rates["title"], rates["of"]) == ("rate of the neurons [Hz]", "E@A")
    both, one = rates["ways"]  # standard deviations of 2 numbers: their distance / sqrt(2)
    assert both["mean"] == 11.0 and both["sd"] == pytest.approx(2**0.5) and both["effect"] is None
    assert one["mean"] == 22.0 and one["effect"] == pytest.approx(11 / (4 / 2**0.5))
    assert own["ways"][1]["effect"] == pytest.approx(0.1 / (0.2 / 2**0.5))
    assert [(row["of"], row["text"]) for row in hearing] == [("B", "B (0.50)"), ("C", "C (0.25)")]
    assert hearing[1]["ways"][1]["mean"] == pytest.approx(0.6)


def test_without_a_spread_over_the_seeds_there_is_no_effect():
    one_seed = figures_of({"both": [found(10.0, 0.1)], "one": [found(20.0, 0.2)]}, 100.0)["rows"]
    assert all(row["ways"][1]["effect"] is None for row in one_seed)
    same = figures_of({"both": [found(10.0, 0.1)] * 2, "one": [found(10.0, 0.2)] * 2}, 100.0)["rows"]
    assert all(row["ways"][1]["effect"] is None for row in same)


def test_the_first_bins_are_averaged_over_those_that_are_there():
    assert smoothed(np.array([1.0, 2.0, 6.0, 4.0]), 3).tolist() == [1.5, 3.0, 4.0, 5.0]
    assert smoothed(np.array([5.0]), 3).tolist() == [5.0]


def test_all_ways_have_the_same_seeds_and_what_is_compared_cannot_be_undone(tmp_path, capsys, monkeypatch):
    asked = []

    def one_run(simulator, values, more):
        asked.append((simulator, values, more))
        spiking = () if "interfaces.spikenet_to_tvb" in values else ("A",)
        return found({1: 10.0, 2: 11.0}[values["seed"]], 0.1, spiking)

    monkeypatch.setattr(bench_schemes, "one_run", one_run)
    file = tmp_path / "figures.json"
    options = ["--simulator", "netpyne", "--seeds", "2", "--duration", "100", "--set", "tvb.dt=0.2"]
    assert main(["bench", "schemes", *options, "--json", str(file), "--plot", str(tmp_path / "to")]) == 0
    assert asked == [
        ("netpyne", {"duration": 100.0, **values, "seed": seed}, ["tvb.dt=0.2"])
        for seed in (1, 2) for values in SCHEMES.values()
    ]  # fmt: skip
    figures = json.loads(file.read_text())
    assert [way["name"] for way in figures["ways"]] == list(SCHEMES)
    assert figures["ways"][0]["costs"]["spikenet"]["simulate"] == 0.010  # the quicker one
    assert figures["plot"] == str(tmp_path / "to" / "schemes_netpyne.png")
    assert (tmp_path / "to" / "schemes_netpyne.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "10.5 ± 0.7" in printed and "TVB → network" in printed and "C (0.25)" in printed

    seen = []
    monkeypatch.undo()
    monkeypatch.setattr(bench_schemes, "measure", lambda arguments, look: seen.append(arguments) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench_schemes.one_run("nest", {"seed": 3}, ["seed=9"])
    assert seen[0][-4:] == ["--set", "seed=9", "--set", "seed=3"]


def test_no_seeds_and_a_folder_that_cannot_be_made_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_schemes, "one_run", lambda *_: pytest.fail("nothing is to be run"))
    assert main(["bench", "modes", "--seeds", "0"]) != 0
    assert "--seeds 0: there must be at least 1" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["bench", "modes", "--plot", str(tmp_path / "file" / "plots")]) != 0
    assert "cannot be made" in capsys.readouterr().err


def test_the_modes_have_the_same_proxies_but_for_the_delays_which_are_the_connectomes():
    overrides = [f"{key}={value}" for key, value in modes([])["mode spikeNet"].items()]
    (base,), (row,) = (load("wilson_cowan", given)[0].interfaces.tvb_to_spikenet for given in ([], overrides))
    assert (base.coupling_mode, row.coupling_mode) == ("TVB", "spikeNet")
    assert base.proxy_params == {**row.proxy_params, "delay": 1.0}
    of_one = modes(["interfaces.tvb_to_spikenet.0.proxy_params={ number_of_neurons = 1, delay = 2.0 }"])
    assert "{ number_of_neurons = 1 }" in of_one["mode spikeNet"].values()


@REAL
def test_where_the_network_only_listens_tvb_computes_what_it_computes_alone(tmp_path, monkeypatch):
    """One option, `--set interfaces.spikenet_to_tvb=[]`; bit for bit TVB's own Simulator.run, proxied regions, too."""
    from tvb_lockstep.tvb_side.build import build_simulator

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    kept = {}

    def keep(run_dir: Path) -> Found:
        with h5py.File(run_dir / "tvb.h5") as file:
            kept["data"] = file["monitors/TemporalAverage/data"][:]
        return looked(run_dir)

    looked = bench_schemes.look
    monkeypatch.setattr(bench_schemes, "look", keep)
    run = bench_schemes.one_run("nest", {"duration": 50.0, **SCHEMES["TVB → network"], "seed": 2}, SMALL)
    experiment, source = load("wilson_cowan", ["seed=2"])
    simulator = build_simulator(experiment.tvb, 2, source.parent).configure()
    ((time_ms, data),) = simulator.run(simulation_length=50.0)
    assert np.array_equal(kept["data"], data) and np.ptp(data) > 0
    assert run.delivered == [] and (run.proxies, run.synapses) == (2, 80)
    labels = [str(label) for label in simulator.connectivity.region_labels]
    for region in SPIKING:
        assert run.states[region] == pytest.approx(data[time_ms >= 10.0, 0, labels.index(region), 0].mean())
    assert run.rates_hz["E@r_precuneus"] > 1.0


@REAL
def test_in_the_mode_spikenet_every_region_that_is_heard_has_a_proxy_and_its_synapses(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = bench_schemes.one_run("nest", {"duration": 20.0, **modes(SMALL)["mode spikeNet"], "seed": 1}, SMALL)
    # 23 and 16 regions have a weight to the two, one of them to both; 40 E neurons hear each
    assert (run.proxies, run.synapses) == (38, 1560)
    assert run.delivered == list(SPIKING)
    assert all(len(costs) == len(PHASES) and costs[0] > 0 for costs in run.costs.values()) and run.wall_s > 0
    assert list(run.costs) == ["spikenet", "tvb"] and len(run.neighbours) == 6
    assert list(tmp_path.iterdir()) == []
