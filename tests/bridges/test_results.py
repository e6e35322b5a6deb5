"""The result files hold what the logs hold, in the units and conventions that they state."""

from __future__ import annotations

import hashlib
import json
import stat

import h5py
import numpy as np
import pytest
from make_run import Recipe, make_run
from tvb_lockstep.bridges import results
from tvb_lockstep.bridges.errors import RunDirectoryError
from tvb_lockstep.bridges.peers import hold_place


def provenance(run_dir):
    return json.loads((run_dir / "provenance.json").read_text())


def texts(values):
    return [value.decode() if isinstance(value, bytes) else value for value in values]


@pytest.fixture
def finished(tmp_path):
    make_run(tmp_path / "run")
    results.finish(tmp_path / "run")
    return tmp_path / "run"


def test_tvb_h5_has_the_samples_of_the_monitor_with_their_times(finished):
    with h5py.File(finished / "tvb.h5") as file:
        monitor = file["monitors/TemporalAverage"]
        assert monitor["time_ms"][:].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
        assert monitor["time_ms"].attrs["units"] == "ms"
        assert monitor["data"].shape == (5, 2, 4, 1)
        # time + 10 region + 100 voi
        assert monitor["data"][0, 0, :, 0].tolist() == pytest.approx([0.1, 10.1, 20.1, 30.1])
        assert monitor["data"][0, 1, :, 0].tolist() == pytest.approx([100.1, 110.1, 120.1, 130.1])
        assert monitor["data"][4, 1, 3, 0] == pytest.approx(130.9)
        assert texts(monitor.attrs["voi"]) == ["E", "I"] and monitor.attrs["period_ms"] == 0.2
        assert texts(monitor["data"].attrs["dimensions"]) == ["time", "voi", "region", "mode"]
        assert texts(file["regions/label"][:]) == ["L_a", "L_b", "R_a", "R_b"]
        assert file["regions/coupled"][:].tolist() == [False, True, False, True]
        assert texts(file["regions/program"][:]) == ["", "nest", "", "nest"]


def test_tvb_h5_has_the_rates_that_the_spiking_regions_gave_to_tvb(finished):
    with h5py.File(finished / "tvb.h5") as file:
        assert list(file["rates"]) == ["nest_to_tvb.0"]
        rates = file["rates/nest_to_tvb.0"]
        assert rates["time_ms"][:].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        one = 1 / (3 * 0.1)  # one spike among 3 neurons in a step of 0.1 ms, in 1/ms
        assert rates["data"][:, 0] == pytest.approx(one * np.array([1, 1, 3, 0, 0, 1, 1, 0, 0, 0]))
        assert rates["data"][:, 1] == pytest.approx(one * np.array([0, 0, 3, 1, 0, 0, 0, 0, 1, 0]))
        assert texts(rates.attrs["labels"]) == ["E@L_b", "E@R_b"] and rates.attrs["units"] == "kHz"


def test_spikes_h5_has_every_spike_of_every_population_in_sonata_form(finished):
    with h5py.File(finished / "spikes.h5") as file:
        assert file.attrs["magic"] == 0x0A7A and file.attrs["version"].tolist() == [0, 1]
        assert "start of the simulation step" in file.attrs["spike_time_convention"]
        expected = {
            "E@L_b": ([0.0, 0.1, 0.25, 0.25, 0.25, 0.5, 0.6], [0, 2, 0, 1, 2, 0, 2]),
            "I@L_b": ([0.2, 0.25, 0.25, 0.7], [1, 0, 1, 1]),
            "E@R_b": ([0.25, 0.25, 0.25, 0.3, 0.8], [0, 1, 2, 1, 1]),
            "I@R_b": ([0.25, 0.25, 0.4, 0.9], [0, 1, 0, 0]),
        }
        assert set(file["spikes"]) == set(expected)
        for name, (times, nodes) in expected.items():
            population = file[f"spikes/{name}"]
            assert population["timestamps"][:].tolist() == times
            assert population["node_ids"][:].tolist() == nodes
            assert population["timestamps"].dtype == np.float64 and population["node_ids"].dtype == np.uint64
            assert population["timestamps"].attrs["units"] == "milliseconds"
            # an HDF5 enumeration, as readers of the format in C++ insist on
            sorting = population.attrs.get_id("sorting")
            assert h5py.check_enum_dtype(sorting.dtype) == {"none": 0, "by_id": 1, "by_time": 2}
            assert population.attrs["sorting"] == 2


def test_a_population_with_a_slash_in_its_name_stays_one_group(tmp_path):
    make_run(tmp_path / "run", Recipe(populations=(("E", 3), ("L2/3", 2))))
    results.finish(tmp_path / "run")
    with h5py.File(tmp_path / "run" / "spikes.h5") as file:
        assert set(file["spikes"]) == {"E@L_b", "L2_3@L_b", "E@R_b", "L2_3@R_b"}
        assert file["spikes/L2_3@L_b"].attrs["population"] == "L2/3"
        assert file["spikes/L2_3@L_b/timestamps"][:].tolist() == [0.2, 0.25, 0.25, 0.7]


def test_exchange_h5_has_both_sides_of_each_transformer_cut_in_windows(finished):
    with h5py.File(finished / "exchange.h5") as file:
        assert set(file) == {"tvb_to_nest.0", "nest_to_tvb.0"}
        down = file["tvb_to_nest.0"]
        assert down.attrs["producer"] == "tvb" and down.attrs["transformer"] == "linear"
        assert down.attrs["equation"] == "y = 1000·x + 0" and json.loads(down.attrs["transformer_params"]) == {
            "linear": {"scale_factor": 1000.0}
        }
        assert down["raw/data"][:, 1] == pytest.approx(1 + 0.01 * np.arange(10))
        assert down["transformed/data"][9].tolist() == pytest.approx([90.0, 1090.0])
        assert down["raw"].attrs["units"] == "kHz" and down["transformed"].attrs["units"] == "Hz"
        assert down["raw/window_offsets"][:].tolist() == [0, 4, 8, 10]
        assert down["raw/window_start_ms"][:].tolist() == [0.0, 0.4, 0.8]
        up = file["nest_to_tvb.0"]
        assert up["raw/times"][:].tolist() == [0, 2, 5, 5, 5, 5, 5, 5, 6, 10, 12, 16]
        assert up["raw/senders"][:].tolist() == [0, 2, 0, 1, 2, 3, 4, 5, 4, 0, 2, 4]
        assert up["raw/window_offsets"][:].tolist() == [0, 9, 11, 12]
        assert up["raw"].attrs["sizes"].tolist() == [3, 3] and up["raw/times"].attrs["tick_ms"] == 0.05


def test_timing_json_sums_up_each_program(finished):
    timing = json.loads((finished / "timing.json").read_text())
    assert set(timing["programs"]) == {"tvb", "nest"}
    tvb = timing["programs"]["tvb"]
    assert tvb["n_windows"] == 3 and tvb["per_window"]["window"] == [0, 1, 2]
    assert tvb["totals"]["simulate"] == pytest.approx(0.015) and tvb["totals"]["wait"] == pytest.approx(0.0045)
    # from the start of window 0 at 1000 s to the end of window 2: 0.02 + 0.008
    assert tvb["totals"]["elapsed"] == pytest.approx(0.028)
    assert tvb["per_window"]["window_start"] == pytest.approx([1000.0, 1000.01, 1000.02])
    assert tvb["per_window"]["transform"] == [0.001, 0.001, 0.001]


def test_provenance_has_versions_seed_hashes_and_balanced_counters(finished):
    content = provenance(finished)
    assert content["seed"] == 42 and content["complete"] is True and content["interruptions"] == []
    assert content["programs"]["nest"]["versions"]["nest-simulator"] == "3.10.0"
    assert content["programs"]["tvb"]["versions"]["tvb-library"] == "2.9.2"
    assert content["simulators"] == {"nest": {"simulator": "nest", "version": "3.10.0"}}
    assert content["contract"] == json.loads((finished / "contract.json").read_text())
    for name in ("experiment.json", "contract.json", "tvb.h5", "spikes.h5", "exchange.h5", "timing.json"):
        assert content["sha256"][name] == hashlib.sha256((finished / name).read_bytes()).hexdigest()
    up = content["channels"]["nest_to_tvb.0"]
    assert (up["frames_sent"], up["frames_received"], up["frames_delivered"]) == (3, 3, 3)
    assert (up["spikes_sent"], up["spikes_received"]) == (12, 12)
    assert up["recorded"] == {"raw_frames": 3, "raw_spikes": 12, "transformed_frames": 3}
    assert up["balanced"] and content["balanced"]
    assert content["notes"] == ["3 regions have connections of length zero to themselves; left out of the min delay."]


@pytest.mark.parametrize(
    "program, channel, key",
    [
        ("tvb", "tvb_to_nest.0", "frames_sent"),
        ("nest", "tvb_to_nest.0", "frames_received"),
        ("nest", "tvb_to_nest.0", "frames_delivered"),
        ("tvb", "nest_to_tvb.0", "spikes_received"),
    ],
)
def test_one_lost_frame_or_spike_unbalances_the_channel_and_no_other(tmp_path, program, channel, key):
    make_run(tmp_path / "run")
    path = tmp_path / "run" / "peers" / f"{program}.summary.json"
    summary = json.loads(path.read_text())
    summary["counters"][channel][key] -= 1
    path.write_text(json.dumps(summary))
    results.finish(tmp_path / "run")
    content = provenance(tmp_path / "run")
    assert not content["balanced"]
    assert [name for name, what in content["channels"].items() if not what["balanced"]] == [channel]


def test_a_bridge_of_its_own_is_counted_on_both_of_its_sides(tmp_path):
    contract = make_run(tmp_path / "run")
    run_dir = tmp_path / "run"
    data = contract.to_json()
    data["experiment"]["exchange"]["bridge"] = "own"
    (run_dir / "contract.json").write_text(json.dumps(data))
    carried = {name: {"frames_received": 3, "frames_sent": 3, "spikes_received": spikes, "spikes_sent": 0}
               for name, spikes in (("tvb_to_nest.0", 0), ("nest_to_tvb.0", 12))}  # fmt: skip
    for lost in (0, 1):
        carried["nest_to_tvb.0"]["spikes_received"] -= lost
        summary = {"peer": "bridge", "state": "finished", "windows": 3, "counters": carried}
        (run_dir / "peers" / "bridge.summary.json").write_text(json.dumps(summary))
        assert [what["balanced"] for what in results.counters(run_dir, results.read_contract(run_dir)).values()] == [
            True, not lost
        ]  # fmt: skip


def test_two_equal_runs_have_result_files_with_equal_hashes(tmp_path):
    hashes = []
    for i in range(2):
        make_run(tmp_path / f"run{i}", Recipe(run_id=bytes([i] * 16).hex()))
        results.finish(tmp_path / f"run{i}")
        hashes.append(provenance(tmp_path / f"run{i}")["sha256"])
    for name in ("tvb.h5", "spikes.h5", "exchange.h5"):
        assert hashes[0][name] == hashes[1][name]


def test_an_interrupted_run_has_the_results_so_far_and_says_who_ended_it(tmp_path):
    run_dir = tmp_path / "run"
    why = "nest: interrupted by Ctrl-C in window 1."
    make_run(run_dir, Recipe(ended={"tvb": "failed", "nest": "interrupted"}, errors={"nest": why}, windows=2))
    results.finish(run_dir)
    content = provenance(run_dir)
    assert content["complete"] is False
    assert [(i["program"], i["state"], i["window"]) for i in content["interruptions"]] == [
        ("tvb", "failed", 1), ("nest", "interrupted", 1)
    ]  # fmt: skip
    assert content["interruptions"][1]["error"] == why
    with h5py.File(run_dir / "tvb.h5") as file:
        assert file["monitors/TemporalAverage/time_ms"][:].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert json.loads((run_dir / "timing.json").read_text())["programs"]["nest"]["n_windows"] == 2


def test_a_program_that_died_without_a_word_and_its_cut_off_frame_are_named(tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": "failed", "nest": None}))
    log = run_dir / "record" / "nest.spikes.frames"
    log.write_bytes(log.read_bytes()[:-5])  # of window 2: 80 of header, 24 for spikes at ticks 16 and 18
    results.finish(run_dir)
    content = provenance(run_dir)
    assert [(i["program"], i["state"]) for i in content["interruptions"]] == [("tvb", "failed"), ("nest", "died")]
    assert "nest.spikes ends with 99 bytes of a frame that was cut off; they are left out." in content["notes"]
    assert not content["balanced"]  # nobody knows what nest had been given
    with h5py.File(run_dir / "spikes.h5") as file:
        assert file["spikes/E@R_b/timestamps"][:].tolist() == [0.25, 0.25, 0.25, 0.3]
        assert file["spikes/I@R_b/timestamps"][:].tolist() == [0.25, 0.25, 0.4]


@pytest.mark.parametrize("position", [0, 90])  # in the header and in the payload of window 1
def test_a_damaged_log_is_used_up_to_the_damage(tmp_path, position):
    run_dir = tmp_path / "run"
    make_run(run_dir)
    for name, window in (("tvb_to_nest.0.raw", 80 + 64), ("nest.spikes", 80 + 12 * 14)):
        log = run_dir / "record" / f"{name}.frames"
        data = bytearray(log.read_bytes())
        data[window + position] ^= 1
        log.write_bytes(data)
    results.finish(run_dir)
    notes = provenance(run_dir)["notes"]
    assert any(note.startswith("tvb_to_nest.0.raw is used up to window 0: ") for note in notes)
    assert any(note.startswith("nest.spikes is used up to window 0: ") for note in notes)
    with h5py.File(run_dir / "exchange.h5") as file:
        assert file["tvb_to_nest.0/raw/data"].shape == (4, 2)
        assert file["tvb_to_nest.0/raw/window_offsets"][:].tolist() == [0, 4]
        assert file["tvb_to_nest.0/transformed/data"].shape == (10, 2)
    with h5py.File(run_dir / "spikes.h5") as file:
        assert file["spikes/E@L_b/timestamps"][:].tolist() == [0.0, 0.1, 0.25, 0.25, 0.25]


def test_missing_logs_and_timing_are_said_and_not_raised(tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir)
    for path in [*(run_dir / "record").iterdir(), *(run_dir / "timing").iterdir()]:
        path.unlink()
    results.finish(run_dir)
    notes = provenance(run_dir)["notes"]
    assert "tvb_to_nest.0.raw was not recorded: record/tvb_to_nest.0.raw.frames is missing." in notes
    assert "nest has no timing: timing/nest.npy is missing." in notes
    with h5py.File(run_dir / "spikes.h5") as file:
        assert file["spikes/E@L_b/timestamps"].shape == (0,)


def test_a_run_that_never_had_a_contract_still_gets_its_provenance(tmp_path):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": "failed", "nest": None}))
    (run_dir / "contract.json").unlink()
    results.finish(run_dir)
    content = provenance(run_dir)
    assert content["contract"] is None and not content["complete"]
    assert "its programs never came to agree" in content["notes"][0]
    assert content["programs"]["tvb"]["state"] == "failed"
    assert not (run_dir / "tvb.h5").exists()


def test_a_folder_that_is_no_run_directory_is_named(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"holds no contract\.json: it is not a run directory"):
        results.read_contract(tmp_path)


def test_a_program_that_holds_its_place_is_running(tmp_path):
    import os

    contract = make_run(tmp_path / "run", Recipe(ended={"tvb": None, "nest": None}))
    place = hold_place(tmp_path / "run", "nest")
    states = {name: about["state"] for name, about in results.programs(tmp_path / "run", contract).items()}
    assert states == {"tvb": "died", "nest": "running"}
    os.close(place)


def test_results_are_whole_private_and_nothing_else_is_left(finished):
    before = {path.name for path in finished.iterdir()}
    results.finish(finished)  # again, over the old ones
    assert {path.name for path in finished.iterdir()} == before
    assert set(results.RESULTS) < before
    for name in results.RESULTS:
        assert stat.S_IMODE((finished / name).stat().st_mode) == 0o600


def test_results_that_cannot_be_written_say_where_and_leave_nothing_half_done(tmp_path):
    make_run(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match=r"cannot be written to .*nowhere.*lockstep plot"):
        results.finish(tmp_path / "run", into=tmp_path / "nowhere")


def test_a_long_run_is_written_in_pieces_that_fit_together(tmp_path):
    """40 000 steps: several blocks of every dataset."""
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(n_steps=40_000, window_steps=39))
    results.finish(run_dir)
    with h5py.File(run_dir / "exchange.h5") as file:
        assert np.array_equal(file["tvb_to_nest.0/raw/data"][:, 0], 0.01 * np.arange(40_000))
        assert file["tvb_to_nest.0/raw/window_offsets"][-2:].tolist() == [39_975, 40_000]
    with h5py.File(run_dir / "spikes.h5") as file:
        total = sum(len(file[f"spikes/{name}/timestamps"]) for name in file["spikes"])
        assert total == 40_000 + 10
        times = file["spikes/E@L_b/timestamps"][:]
        # every 10 ticks neuron 0 and, two ticks later, neuron 2; and the three of tick 5
        assert len(times) == 2 * 8_000 + 3 and times[-1] == (79_992 * 50_000) / 1e6
        assert (np.diff(times) >= 0).all()
