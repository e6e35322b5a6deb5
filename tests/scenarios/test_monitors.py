"""TVB's monitors show the spiking regions with what their networks sent, and nothing else."""

import h5py
import numpy as np
import pytest
from running import content, contract_of, differing, run


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


def test_mean_potentials_reach_tvb_from_a_stated_potential_before_the_start(tmp_path):
    rows = [
        {"voi": "E", "populations": "E", "transformer_params": {"scale_factor": 0.01, "tau_ms": 10.0}},
        {"voi": "I", "populations": "I", "model": "POTENTIAL", "initial_rate": -60.0,
         "transformer_params": {"scale_factor": 0.01, "translation_factor": 0.7}},
    ]  # fmt: skip
    values = {"duration": 20, "interfaces.spikenet_to_tvb": rows}
    one, other = (
        run("wilson_cowan", tmp_path / way, {**values, "exchange.transport": way}) for way in ("shm", "memory")
    )
    assert differing(one, other) == []
    raw, transformed = (content(one)[f"spikenet_to_tvb.1.{stage}"][0] for stage in ("raw", "transformed"))
    assert raw.shape == (200, 2) and (raw > -80.0).all() and (raw < -50.0).all()  # mV: between E_in and the threshold
    assert np.array_equal(transformed, 0.01 * raw + 0.7)
    history = np.load(one / "initial_history.npy")  # (steps, (E, I), regions, modes)
    regions = contract_of(one).tvb["regions"]
    for region in contract_of(one).tvb["coupled"]["spikenet"]:
        assert history[:, 1, regions.index(region), 0] == pytest.approx(0.01 * -60.0 + 0.7)
