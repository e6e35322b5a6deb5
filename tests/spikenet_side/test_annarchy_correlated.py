"""TVB -> ANNarchy with correlated trains, from the experiment's file to the synapses of the neurons: a group of trains
for every region that is heard, weights normalised, delays of the connectome. Counts are read off a neuron that adds up
what reaches it, and that goes back to TVB as a potential."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.bridges.results import read_contract
from tvb_lockstep.spikenet_side.annarchy import toolchain

try:
    toolchain.check_requirements()
    toolchain.import_annarchy()
except EnvironmentFailed as missing:
    pytest.skip(str(missing), allow_module_level=True)
if importlib.util.find_spec("tvb") is None:
    pytest.skip("tvb-library is not installed in this environment, and the runs need both", allow_module_level=True)

DURATION_MS, TRAINS, CORRELATION, TAU_MS, DELAY_MS = 12_000, 100, 0.3, 10.0, 20
RATES_HZ = {"CTX1": 20.0, "CTX2": 40.0}
FIRST = 4096.0  # weight of a spike of CTX1, CTX2's is 1: the digits of what adds up are the counts

EXPERIMENT = f"""
duration = {DURATION_MS}
seed = 3
[tvb]
build = "model:build"
[spikenet]
simulator = "annarchy"
regions = ["V1"]
build = "network:build"
resolution = 0.1
[[interfaces.tvb_to_spikenet]]
voi = ["x"]
populations = ["counter"]
model = "RATE"
coupling_mode = "spikeNet"
transformer_params = {{ scale_factor = 100.0 }}
[interfaces.tvb_to_spikenet.proxy_params]
normalize_weights = true
weight = {FIRST + 1}
number_of_neurons = {TRAINS}
correlation = {CORRELATION}
correlation_tau_ms = {TAU_MS}
[[interfaces.spikenet_to_tvb]]
voi = ["x"]
populations = ["counter"]
model = "POTENTIAL"
transformer_params = {{ scale_factor = 0.0 }}
[exchange]
synchronization_time = 10.0
"""

MODEL = f"""
import numpy as np

def build(section):
    \"\"\"Two regions that stay at x = 0.2 and 0.4, heard by a third.\"\"\"
    from tvb.datatypes.connectivity import Connectivity
    from tvb.simulator import coupling, integrators, models, monitors
    from tvb.simulator.simulator import Simulator

    weights, lengths = np.zeros((3, 3)), np.zeros((3, 3))
    weights[2, :2], lengths[2, :2] = ({7 * FIRST}, 7.0), {4.0 * DELAY_MS}
    labels = np.array(["CTX1", "CTX2", "V1"])
    before = np.broadcast_to(np.array([0.2, 0.4, 0.0])[:, None], (100, 1, 3, 1)).copy()
    return Simulator(
        connectivity=Connectivity(weights=weights, tract_lengths=lengths, speed=np.array([4.0]),
                                  centres=np.zeros((3, 3)), region_labels=labels),
        model=models.Linear(gamma=np.array([0.0])), coupling=coupling.Linear(a=np.array([1.0])),
        integrator=integrators.EulerDeterministic(dt=1.0), initial_conditions=before,
        monitors=(monitors.TemporalAverage(period=1.0),),
    )
"""

NETWORK = f"""
import importlib.util

# the network of the tests beside this one, so that it is compiled once for both
spec = importlib.util.spec_from_file_location("test_annarchy", {str(Path(__file__).with_name("test_annarchy.py"))!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
build = module.build
"""


def test_trains_of_two_regions_have_rate_correlation_weight_and_delay_in_a_run(tmp_path):
    for name, text in (("experiment.toml", EXPERIMENT), ("model.py", MODEL), ("network.py", NETWORK)):
        (tmp_path / name).write_text(text)
    run_dir = tmp_path / "run"
    command = ["-P", "-m", "tvb_lockstep.scripts.main", "run", str(tmp_path), "--run-dir", str(run_dir), "--quiet",
               "--no-report"]  # fmt: skip
    done = subprocess.run([sys.executable, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=400)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    edges = read_contract(run_dir).channels[0].edges
    # 7 * 4096 / (7 * 4096 + 7) of 4097; the data are one window old
    assert [(edge.weight, edge.delay_ms) for edge in edges] == [(FIRST, DELAY_MS - 10.0), (1.0, DELAY_MS - 10.0)]
    with h5py.File(run_dir / "exchange.h5") as file:
        total = file["spikenet_to_tvb.0/raw/data"][:, 0]  # at the start of each ms
    given = np.diff(total) - 10 * 0.25  # in a ms; 0.25 are the counter's own, in each step of 0.1 ms
    assert np.array_equal(given, np.rint(given)) and given.min() == 0
    assert (given[:DELAY_MS] == 0).all() and (given[DELAY_MS : DELAY_MS + 20] > 0).any()
    both = np.array(np.divmod(given[DELAY_MS:], FIRST))  # counts of CTX1, CTX2
    bin_ms = 50
    n_bins = both.shape[1] // bin_ms
    counts = both[:, : n_bins * bin_ms].reshape(2, n_bins, bin_ms).sum(axis=2)
    # doubly stochastic, Ornstein-Uhlenbeck: var = n r T + n^2 c r T (1 - (1 - exp(-T / tau)) tau / T)
    share = 1 - (1 - np.exp(-bin_ms / TAU_MS)) * TAU_MS / bin_ms
    for row, rate_hz in zip(counts, RATES_HZ.values(), strict=True):
        mean = TRAINS * rate_hz * bin_ms / 1000
        variance = mean * (1 + TRAINS * CORRELATION * share)
        assert abs(row.mean() - mean) < 4.5 * np.sqrt(variance / share / n_bins)
        found = (row.var(ddof=1) / row.mean() - 1) / (TRAINS * share)
        assert found == pytest.approx(CORRELATION, rel=0.4)  # 240 bins: 10 %, more for its skew
    assert abs(np.corrcoef(counts)[0, 1]) < 4.5 / np.sqrt(n_bins)  # regions are independent of each other
