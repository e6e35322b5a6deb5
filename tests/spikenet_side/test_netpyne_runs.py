"""Whole runs with NetPyNE beside TVB, as real processes: the equalities that hold for every simulator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("netpyne", reason="NetPyNE is not installed here")
pytest.importorskip("tvb", reason="TVB is not installed beside NetPyNE")

from tvb_lockstep.spikenet_side.netpyne import requirements

COMMAND = [sys.executable, "-P", "-m", "tvb_lockstep.scripts.main"]
WILSON_COWAN = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "wilson_cowan"
SMALL = ["--simulator", "netpyne", "--quiet", "--no-report", "--set", "duration=40",
         "--set", "spikenet.params.n_excitatory=20", "--set", "spikenet.params.n_inhibitory=20"]  # fmt: skip

EXPERIMENT = """
name = "hippocampus"
duration = 30.0
[tvb]
model = "WilsonCowan"
initial_state = { E = 0.15, I = 0.1 }
[spikenet]
simulator = "netpyne"
regions = ["r_precuneus"]
resolution = 0.05
[[interfaces.tvb_to_spikenet]]
voi = ["E"]
populations = ["pyramidal"]
proxy_params = { number_of_neurons = 100, weight = 0.002, receptor_type = "dend(0.7).AMPA" }
transformer_params = { scale_factor = 200.0 }
[[interfaces.spikenet_to_tvb]]
voi = ["E", "I"]
populations = ["pyramidal", "pyramidal"]
transformer_params = { scale_factor = 0.01 }
"""
NETWORK = """
def build(request):
    from netpyne import specs
    net = specs.NetParams()
    net.cellParams["PYR"] = {"secs": {
        "soma": {"geom": {"diam": 18.8, "L": 18.8}, "mechs": {"hh": {}}},
        "dend": {"geom": {"diam": 2.0, "L": 100.0, "nseg": 3}, "mechs": {"pas": {"g": 1e-4, "e": -65.0}},
                 "topol": {"parentSec": "soma", "parentX": 1.0, "childX": 0}}}}
    net.popParams["PYR_CA1"] = {"cellType": "PYR", "numCells": 5}
    net.synMechParams["AMPA"] = {"mod": "Exp2Syn", "tau1": 0.1, "tau2": 3.0, "e": 0.0}
    net.synMechParams["GABA"] = {"mod": "Exp2Syn", "tau1": 0.1, "tau2": 9.0, "e": -80.0}
    net.connParams["recurrent"] = {
        "preConds": {"pop": "PYR_CA1"}, "postConds": {"pop": "PYR_CA1"}, "probability": 0.5, "weight": 0.001,
        "delay": 2.0, "sec": "dend", "synMech": "AMPA"}
    return {"netParams": net, "simConfig": specs.SimConfig(),
            "populations": {request.regions[0]: {"pyramidal": "PYR_CA1"}}}
"""


def together(cwd: Path, *runs: list[str]) -> list[str]:
    """Run these commands at the same time; what they said, all of them having ended well."""
    environ = {key: value for key, value in os.environ.items() if key != "NEURON_MODULE_OPTIONS"}
    started = [subprocess.Popen([*COMMAND, *run], cwd=cwd, env=environ, stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.STDOUT) for run in runs]  # fmt: skip
    said = [program.communicate(timeout=300)[0] for program in started]
    for run, program, text in zip(runs, started, said, strict=True):
        assert program.returncode == 0, f"{run}: {text}"
    return said


@pytest.mark.skipif(bool(requirements(WILSON_COWAN)), reason=" ".join(requirements(WILSON_COWAN)))
def test_transports_turns_windows_and_processes_make_no_difference_to_wilson_cowan(tmp_path):
    together(
        tmp_path,
        ["run", "wilson_cowan", *SMALL, "--run-dir", "shm"],
        ["run", "wilson_cowan", *SMALL, "--run-dir", "file", "--set", "exchange.transport=file",
         "--set", "exchange.mode=serial", "--set", "exchange.synchronization_time=0.7"],
        ["run", "wilson_cowan", *SMALL, "--run-dir", "memory", "--set", "exchange.transport=memory"],
    )  # fmt: skip
    for text in together(tmp_path, ["diff", "shm", "file"], ["diff", "shm", "memory"]):
        assert "identical: 6 logs" in text
        assert " 0 spikes" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "memory", "shm"]


def test_an_ordinary_netpyne_model_joins_by_naming_its_populations(tmp_path):
    folder = tmp_path / "hippocampus"
    folder.mkdir()
    (folder / "experiment.toml").write_text(EXPERIMENT)
    (folder / "network.py").write_text(NETWORK)
    (said,) = together(tmp_path, ["run", str(folder), "--quiet", "--no-report", "--run-dir", "run"])
    assert "finished in" in said
    (told,) = together(tmp_path, ["inspect", "run"])
    assert "pyramidal@r_precuneus" in told
    assert (tmp_path / "run" / "log" / "spikenet.log").read_text().count("\n") <= 1  # where the results are
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hippocampus", "run"]
