"""Scripts of a person's own that join a run, with a TVB Simulator and a network at hand; as README.md shows them."""

import os
import subprocess
import sys
from pathlib import Path

from running import digests, run

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
