"""`lockstep inspect` shows what the logs hold, of finished, dead and running runs, and touches nothing."""

from __future__ import annotations

import csv
import os

import h5py
import numpy as np
import pytest
from make_run import Recipe, make_run
from tvb_lockstep.bridges import frame, results
from tvb_lockstep.bridges.peers import hold_place
from tvb_lockstep.scripts.main import main


@pytest.fixture
def run_dir(tmp_path):
    make_run(tmp_path / "run")
    return tmp_path / "run"


def inspect(capsys, *arguments):
    """Exit status, lines of stdout split at tabs, and stderr."""
    status = main(["inspect", *map(str, arguments)])
    said = capsys.readouterr()
    return status, [line.split("\t") for line in said.out.splitlines()], said.err


def test_the_listing_has_every_program_and_every_log(run_dir, capsys):
    status, lines, _ = inspect(capsys, run_dir)
    assert status == 0
    assert lines[0] == ["made_up: 3 windows of 0.4 ms, run 000102030405"]
    assert ["tvb", "finished", "2 of 3", "tvb-library 2.9.2"] in lines
    assert ["nest", "finished", "2 of 3", "nest-simulator 3.10.0"] in lines
    assert lines[lines.index(["# Channels and logs"]) + 2 :] == [
        ["tvb_to_nest.0", "raw", "tvb → nest", "dense", "kHz", "3", "whole", "E@L_b, E@R_b"],
        ["tvb_to_nest.0", "transformed", "tvb → nest", "dense", "Hz", "3", "whole", "E@L_b, E@R_b"],
        ["nest_to_tvb.0", "raw", "nest → tvb", "spikes", "", "3", "whole", "E@L_b (3), E@R_b (3)"],
        ["nest_to_tvb.0", "transformed", "nest → tvb", "dense", "kHz", "3", "whole", "E@L_b, E@R_b"],
        ["tvb.monitor0", "", "", "dense", "", "3", "whole",
         "E@L_a, E@L_b, E@R_a, E@R_b, I@L_a, I@L_b, I@R_a, I@R_b"],
        ["nest.spikes", "", "", "spikes", "", "3", "whole", "E@L_b (3), I@L_b (2), E@R_b (3), I@R_b (2)"],
    ]  # fmt: skip


def test_a_channel_without_a_window_is_summed_up_window_by_window(run_dir, capsys):
    _, lines, _ = inspect(capsys, run_dir, "tvb_to_nest.0")
    # window 0: steps 0 to 3, columns 0.01 s + 0 and 0.01 s + 1
    assert lines[1:3] == [["window", "time [ms]", "steps", "min", "mean", "max"],
                          ["0", "[0, 0.4)", "4", "0", "0.515", "1.03"]]  # fmt: skip
    _, lines, _ = inspect(capsys, run_dir, "nest_to_tvb.0")
    assert lines[2:] == [["0", "[0, 0.4)", "9"], ["1", "[0.4, 0.8)", "2"], ["2", "[0.8, 1)", "1"]]


def test_a_dense_window_is_printed_with_times_and_labels_before_and_after_the_transformer(run_dir, capsys):
    _, lines, _ = inspect(capsys, run_dir, "tvb_to_nest.0", "--window", "2")
    assert lines == [["# tvb_to_nest.0.raw [kHz]"], ["window", "time [ms]", "E@L_b", "E@R_b"],
                     ["2", "0.8", "0.08", "1.08"], ["2", "0.9", "0.09", "1.09"]]  # fmt: skip
    _, lines, _ = inspect(capsys, run_dir, "tvb_to_nest.0", "--window", "2", "--stage", "transformed")
    assert lines[0] == ["# tvb_to_nest.0.transformed [Hz]"] and lines[2:] == [["2", "0.8", "80", "1080"],
                                                                              ["2", "0.9", "90", "1090"]]  # fmt: skip


def test_spikes_are_printed_with_time_population_and_neuron(run_dir, capsys):
    _, lines, _ = inspect(capsys, run_dir, "nest_to_tvb.0", "--windows", "1:3")
    assert lines[1:] == [["window", "time [ms]", "population", "neuron"], ["1", "0.5", "E@L_b", "0"],
                         ["1", "0.6", "E@L_b", "2"], ["2", "0.8", "E@R_b", "1"]]  # fmt: skip
    _, lines, _ = inspect(capsys, run_dir, "nest.spikes", "--window", "-1")
    assert lines[2:] == [["2", "0.8", "E@R_b", "1"], ["2", "0.9", "I@R_b", "0"]]


def test_a_monitor_is_printed_with_its_own_time_stamps(run_dir, capsys):
    _, lines, _ = inspect(capsys, run_dir, "tvb.monitor0", "--window", "1")
    assert lines[2] == ["1", "0.5", "0.5", "10.5", "20.5", "30.5", "100.5", "110.5", "120.5", "130.5"]
    assert lines[3][:2] == ["1", "0.7"] and len(lines) == 4


def test_csv_holds_every_value_exactly(run_dir, tmp_path, capsys):
    status, lines, _ = inspect(capsys, run_dir, "tvb_to_nest.0", "--export", tmp_path / "a.csv")
    assert status == 0 and lines == [[f"{tmp_path / 'a.csv'}: 10 steps of tvb_to_nest.0.raw"]]
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["window", "time_ms", "E@L_b [kHz]", "E@R_b [kHz]"]
    assert [int(row[0]) for row in rows[1:]] == [0] * 4 + [1] * 4 + [2] * 2
    assert np.array_equal([[float(x) for x in row[2:]] for row in rows[1:]], 0.01 * np.arange(10)[:, None] + [0, 1])
    inspect(capsys, run_dir, "nest.spikes", "--windows", "2:", "--export", tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "window,time_ms,population,neuron", "2,0.8,E@R_b,1", "2,0.9,I@R_b,0"
    ]  # fmt: skip


def test_npz_and_h5_hold_the_same_as_the_logs(run_dir, tmp_path, capsys):
    which = ("--stage", "transformed", "--windows", "0:2")
    inspect(capsys, run_dir, "nest_to_tvb.0", *which, "--export", tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        assert file["data"].shape == (8, 2) and file["labels"].tolist() == ["E@L_b", "E@R_b"] and file["unit"] == "kHz"
        assert file["data"][2].tolist() == pytest.approx([10.0, 10.0])  # all three neurons of each in step 2
        assert file["time_ms"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    inspect(capsys, run_dir, "nest.spikes", "--export", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert len(file["time_ms"]) == 20 and file["time_ms"].attrs["units"] == "ms"
        assert file["time_ms"][-1] == 0.9 and file["population"][-1] == 3 and file["neuron"][-1] == 0
        assert list(file.attrs["labels"]) == ["E@L_b", "I@L_b", "E@R_b", "I@R_b"]
    assert {path.name for path in tmp_path.iterdir()} == {"run", "a.npz", "a.h5"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nest_to_tvb.7"], "There is no channel 'nest_to_tvb.7'. This run has tvb_to_nest.0, nest_to_tvb.0, tvb."),
        (["nest_to_tvb.0", "--window", "3"], "--window 3: nest_to_tvb.0.raw holds windows 0 to 2."),
        (["nest_to_tvb.0", "--windows", "2:9"], "holds windows 0 to 2, so A:B must lie within 0:3"),
        (["nest_to_tvb.0", "--windows", "7"], "--windows 7: expected A:B, for example 10:20"),
        (["nest.spikes", "--stage", "raw"], "nest.spikes has no transformer"),
        (["nest_to_tvb.0", "--export", "a.xls"], "--export a.xls: the ending says the format, and must be one of .csv"),
        (["--window", "1"], "--window needs a channel. This run has tvb_to_nest.0"),
    ],
)
def test_what_is_not_there_is_refused_with_the_choices(run_dir, capsys, arguments, message):
    status, lines, error = inspect(capsys, run_dir, *arguments)
    assert status == 2 and lines == [] and message in error


def test_a_dead_run_is_shown_up_to_its_last_whole_frame(tmp_path, capsys):
    run_dir = tmp_path / "run"
    make_run(run_dir, Recipe(ended={"tvb": "failed", "nest": None}, errors={"tvb": "nest died in window 2."}))
    path = run_dir / "record" / "nest_to_tvb.0.raw.frames"
    path.write_bytes(path.read_bytes()[:-1])
    (run_dir / "record" / "tvb_to_nest.0.raw.frames").unlink()
    _, lines, _ = inspect(capsys, run_dir)
    assert ["nest", "died", "2 of 3", "nest-simulator 3.10.0"] in lines and ["tvb: nest died in window 2."] in lines
    states = {(line[0], line[1]): line[5:7] for line in lines if len(line) == 8}
    assert states["nest_to_tvb.0", "raw"] == ["2", "91 bytes torn"]  # 80 of header and 12 of one spike, less one
    assert states["tvb_to_nest.0", "raw"] == ["–", "not recorded"]
    status, lines, error = inspect(capsys, run_dir, "nest_to_tvb.0")
    assert status == 0 and [line[0] for line in lines[2:]] == ["0", "1"]
    assert "nest_to_tvb.0.raw ends with 91 bytes of a frame that is not complete." in error
    status, _, error = inspect(capsys, run_dir, "tvb_to_nest.0")
    assert status == 5 and "cannot be read: No such file" in error


def test_a_running_run_is_read_while_it_grows_and_not_disturbed(tmp_path, capsys):
    run_dir = tmp_path / "run"
    contract = make_run(run_dir, Recipe(windows=1, ended={"tvb": None, "nest": None}))
    log = next(log for log in results.logs(run_dir, contract) if log.name == "tvb_to_nest.0.raw")
    places = [hold_place(run_dir, name) for name in ("tvb", "nest")]
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    _, lines, _ = inspect(capsys, run_dir)
    assert ["tvb", "running", "0 of 3", "tvb-library 2.9.2"] in lines
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before
    with open(log.path, "ab") as file:
        for part in frame.encode(log.address, 1, 8, 16, np.full((4, 2), 7.0)):
            file.write(part)
    _, lines, _ = inspect(capsys, run_dir, "tvb_to_nest.0", "--window", "1")
    assert lines[2] == ["1", "0.4", "7", "7"]
    for place in places:
        os.close(place)


def test_a_damaged_window_is_named_and_those_before_it_can_be_read(run_dir, capsys):
    path = run_dir / "record" / "tvb_to_nest.0.raw.frames"
    data = bytearray(path.read_bytes())
    data[144 + 85] ^= 4  # in the payload of window 1; frames are 80 + 64 bytes long
    path.write_bytes(data)
    assert inspect(capsys, run_dir, "tvb_to_nest.0", "--window", "0")[0] == 0
    status, _, error = inspect(capsys, run_dir, "tvb_to_nest.0", "--window", "1")
    assert status == 4 and "channel tvb_to_nest.0.raw: frame 1 is refused: CRC-32" in error


@pytest.mark.parametrize("position, field", [(3, "magic"), (32, "sequence"), (85, "CRC-32")])
def test_what_comes_before_a_damaged_window_is_shown_and_exported_with_a_note(
    run_dir, tmp_path, capsys, position, field
):
    path = run_dir / "record" / "tvb_to_nest.0.raw.frames"
    data = bytearray(path.read_bytes())
    data[144 + position] ^= 4
    path.write_bytes(data)
    said = "tvb_to_nest.0.raw is shown up to window 0: "
    status, lines, error = inspect(capsys, run_dir, "tvb_to_nest.0")
    assert status == 4 and error.startswith(said) and f"{field}: expected" in error
    assert [line[0] for line in lines[2:]] == ["0"]
    status, lines, error = inspect(capsys, run_dir, "tvb_to_nest.0", "--export", tmp_path / "a.csv")
    assert status == 4 and error.startswith(said) and lines[0][0].endswith(": 4 steps of tvb_to_nest.0.raw")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 5
    for window in ("0", "2"):
        assert inspect(capsys, run_dir, "tvb_to_nest.0", "--window", window)[0] == 0
    status, lines, error = inspect(capsys, run_dir, "tvb_to_nest.0", "--windows", "1:3")
    assert status == 4 and lines == [] and f"{field}: expected" in error


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path, capsys):
    status, _, error = inspect(capsys, tmp_path)
    assert status == 5 and "it is not a run directory" in error
