"""Scripts of a person's own that join a run, with a TVB Simulator and a network at hand; as README.md shows them."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import programs
import running
from running import digests, run
from tvb_lockstep.scripts.main import main

README = Path(__file__).parents[2] / "README.md"

MODEL = """
import numpy as np
from tvb.simulator.lab import connectivity, coupling, integrators, models, monitors, simulator

def build(section):
    return simulator.Simulator(
        model=models.WilsonCowan(), connectivity=connectivity.Connectivity.from_file("connectivity_68.zip"),
        coupling=coupling.Linear(a=np.array([section.params["G"]])), integrator=integrators.HeunDeterministic(dt=0.1),
        monitors=(monitors.TemporalAverage(period=1.0),))
"""

NETWORK = """
import nest

def build(request):
    network = {}
    for region in request.regions:
        E, I = nest.Create("iaf_psc_exp", request.params["n"]), nest.Create("iaf_psc_exp", request.params["n"])
        noise = nest.Create("poisson_generator", params={"rate": 8000.0})
        nest.Connect(noise, E + I, syn_spec={"weight": 50.0, "delay": 1.0})
        network[region] = {"E": E, "I": I}
    return network
"""

JOIN_TVB = """
import types, model
from tvb_lockstep.tvb_side.program import join
join(model.build(types.SimpleNamespace(params={"G": 0.8})), "experiment.toml", "joined", ["duration=30"])
"""

JOIN_NEST = """
import network
from tvb_lockstep.spikenet_side.program import join
join(network.build, "experiment.toml", "joined", overrides=["duration=30"])
"""


def test_the_experiment_of_the_readme_runs_and_scripts_that_join_give_the_same_numbers(tmp_path):
    toml = README.read_text().split("```toml\n")[1].split("```")[0]
    files = {"experiment.toml": toml, "model.py": MODEL, "network.py": NETWORK}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    alone = run(tmp_path, tmp_path / "run", {"duration": 30})
    scripts = [
        subprocess.Popen(
            [sys.executable, "-c", text], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for text in (JOIN_TVB, JOIN_NEST)
    ]  # fmt: skip
    for script in scripts:
        out, _ = script.communicate(timeout=240)
        assert script.returncode == 0, out
    assert digests(tmp_path / "joined") == digests(alone)
    assert (tmp_path / "joined" / "spikes.h5").exists()


def test_a_simulator_of_ones_own_joins_a_run_by_the_name_of_its_class(tmp_path, capfd):
    programs.write_experiment(tmp_path / "own", network="def build(request):\n    raise AssertionError\n")
    (tmp_path / "own" / "mine.py").write_text(
        "from tvb_lockstep.spikenet_side.null import Null\n"
        "class Mine(Null):\n    name, version = 'mine', '0.1'\n"
        "class Half:\n    def open(self): pass\n"
    )
    values = {"spikenet.simulator": "mine:Mine", "duration": 40.0}
    checked = running.lockstep("check", tmp_path / "own", *running.settings(values))
    assert checked.code == 0 and "mine 0.1, resolution 0.1 ms" in checked.out, checked.text
    run_dir = running.run(tmp_path / "own", tmp_path / "run", values)
    with h5py.File(run_dir / "spikes.h5") as file:
        n_spikes = sum(len(population["timestamps"]) for population in file["spikes"].values())
    assert n_spikes == 200 * 4  # 200 neurons, each in every 100th step of 400
    (program,) = running.provenance(run_dir)["contract"]["spikenet"].values()
    assert (program["simulator"], program["version"]) == ("mine", "0.1")
    for name, said in (("mine:Half", "Half has no connect, feed, run"), ("mine:Other", "it has Null, Mine, Half"),
                       ("mine", "or 'module:Class' for an adapter of your own")):  # fmt: skip
        assert main(["check", str(tmp_path / "own"), *running.settings({"spikenet.simulator": name})]) == 2
        assert said in capfd.readouterr().err
