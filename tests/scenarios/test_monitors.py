"""TVB's monitors show the spiking regions with what their networks sent, and nothing else."""

import h5py
import numpy as np
from running import run


def test_a_variable_that_a_spiking_region_does_not_deliver_is_nan_there_and_known_elsewhere(tmp_path):
    only_e = {
        "duration": 12,
        "interfaces.spikenet_to_tvb.0.voi": ["E"],
        "interfaces.spikenet_to_tvb.0.populations": ["E"],
        "tvb.monitors": [{"name": "Raw", "variables_of_interest": ["E", "I"]}],
    }
    with h5py.File(run("wilson_cowan", tmp_path / "run", only_e) / "tvb.h5") as file:
        data = file["monitors/Raw/data"][:, :, :, 0]
        coupled = file["regions/coupled"][:].astype(bool)
        sent = file["rates/spikenet_to_tvb.0/data"][:]
        labels = [label.decode() for label in file["regions/label"][:]]
    assert data.shape == (120, 2, 68) and coupled.sum() == 2
    assert np.isnan(data[:, 1, coupled]).all() and np.isfinite(data[:, 1, ~coupled]).all()
    regions = ["r_precuneus", "r_caudalmiddlefrontal"]
    assert np.array_equal(data[:, 0, [labels.index(region) for region in regions]], sent)
