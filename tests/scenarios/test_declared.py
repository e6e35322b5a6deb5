"""A network that is declared as lists, and prepared by a function, in a whole run."""

import shutil

import h5py
import numpy as np
from running import differing, run, run_in_one_process
from tvb_lockstep.bridges.experiment import load

PREPARE = """
def prepare(network):
    network.brain_regions["r_precuneus", "E"][:10].set(I_e=5000.0)
    assert network.input_proxies["tvb_to_spikenet.0"]["r_precuneus"].outgoing().weight.tolist() == [5.0] * 80
"""


def spikes_of(run_dir, label):
    with h5py.File(run_dir / "spikes.h5") as file:
        population = file[f"spikes/{label}"]
        return list(zip(population["timestamps"][:], population["node_ids"][:], strict=True))


def test_a_declared_network_runs_whatever_the_order_of_its_rows_and_prepare_sets_what_it_says(tmp_path):
    experiment, path = load("declared_network")
    section = experiment.program("spikenet")
    given = [row.model_dump(exclude_none=True) for row in reversed(section.connections)]
    shipped, turned = tmp_path / "shipped", tmp_path / "turned"
    run_in_one_process(
        "declared_network", {shipped: {"duration": 20}, turned: {"duration": 20, "spikenet.connections": given}}
    )
    assert differing(shipped, turned) == []
    own = tmp_path / "own"
    shutil.copytree(path.parent, own)
    (own / "network.py").write_text(PREPARE)
    prepared = run(own, tmp_path / "prepared", {"duration": 20, "exchange.transport": "memory"})
    before, after = (spikes_of(run_dir, "E@r_precuneus") for run_dir in (shipped, prepared))
    driven = {neuron for _, neuron in before + after} & set(range(10))
    assert len(after) > len(before) + 20 and len(driven) == 10
    # the first neurons have fired every few ms, t_ref being 2 ms
    counts = np.bincount([int(neuron) for _, neuron in after], minlength=80)
    assert (counts[:10] >= 5).all() and counts[10:].max() < 5
