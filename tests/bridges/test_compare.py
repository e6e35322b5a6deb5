"""Two runs side by side: made logs whose differences are known by hand, see make_run.py."""

from __future__ import annotations

import math
import os
import shutil

import numpy as np
import pytest
from make_run import Recipe, known_coupling, known_spikes, known_state, make_run
from tvb_lockstep.bridges import compare, results
from tvb_lockstep.bridges.compare import Crowd, compare_runs
from tvb_lockstep.bridges.frame import HEADER_BYTES, Spikes
from tvb_lockstep.scripts.main import main

ALL = {
    "tvb_to_nest.0.raw", "tvb_to_nest.0.transformed", "nest_to_tvb.0.raw", "nest_to_tvb.0.transformed", "tvb.monitor0",
    "nest.spikes",
}  # fmt: skip


def two(tmp_path, one=None, other=None):
    """The comparison of two made runs, by log."""
    make_run(tmp_path / "1", one or Recipe())
    make_run(tmp_path / "2", other or Recipe())
    compared = compare_runs(tmp_path / "1", tmp_path / "2")
    return compared, {log.name: log for log in compared.logs}


def diff(capsys, *arguments):
    status = main(["diff", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def without(tick, neuron):
    """`known_spikes` without one of them."""

    def spikes(t0, t1, n):
        times, senders = known_spikes(t0, t1, n)
        keep = (times != tick) | (senders != neuron)
        return Spikes(times[keep], senders[keep])

    return spikes


def test_equal_runs_are_identical_and_everything_is_counted(tmp_path):
    compared, logs = two(tmp_path, other=Recipe(run_id=bytes(range(1, 17)).hex()))
    assert compared.identical
    assert compared.experiment == compared.versions == compared.contract == ({}, {})
    assert set(logs) == ALL
    assert all(log.identical and log.windows == (3, 3) and log.end_ms == 1.0 and not log.notes for log in logs.values())
    assert logs["tvb_to_nest.0.raw"].compared == (20, 20)  # 10 steps of 2 columns
    assert logs["tvb.monitor0"].compared == (45, 45)  # 5 samples of 8 values and a time stamp
    assert logs["nest.spikes"].compared == (20, 20)  # one in each of 10 even ticks, all ten neurons at tick 5


def test_the_first_and_the_largest_difference_of_a_dense_log_are_named_with_both_values(tmp_path):
    def coupling(steps, n):
        values = known_coupling(steps, n)
        values[steps == 5, 1] += 0.25
        values[steps == 9, 0] -= 2.0
        values[steps == 9, 1] += 1.0
        return values

    compared, logs = two(tmp_path, other=Recipe(coupling=coupling))
    log = logs["tvb_to_nest.0.raw"]
    assert not compared.identical
    assert (log.differing, log.differing_windows) == (3, 2)
    assert log.first.windows == (1, 1) and log.first.intervals_ms[0] == (0.4, 0.8)
    assert (log.first.time_ms, log.first.label, log.first.values, log.first.unit) == (0.5, "E@R_b", (1.05, 1.3), "kHz")
    assert (log.largest.windows, log.largest.time_ms) == ((2, 2), 0.9)
    assert (log.largest.label, log.largest.values) == ("E@L_b", (0.09, -1.91))
    assert log.first.text(("A", "B")) == "window 1 [0.4, 0.8) ms, at 0.5 ms, E@R_b: 1.05 kHz in A, 1.3 kHz in B"
    assert {name for name, each in logs.items() if each.differing} == {
        "tvb_to_nest.0.raw", "tvb_to_nest.0.transformed"
    }  # fmt: skip


def test_the_last_bit_counts_and_nan_is_nan(tmp_path):
    def state(last_bit):
        def state(time_ms, n_regions):
            values = known_state(time_ms, n_regions)
            values[:, 1, 1] = np.nan
            if last_bit:
                values[np.isclose(time_ms, 0.5), 0, 2] = np.nextafter(20.5, 30)
            return values

        return state

    _, logs = two(tmp_path / "equal", Recipe(state=state(False)), Recipe(state=state(False)))
    assert logs["tvb.monitor0"].identical
    _, logs = two(tmp_path / "not", Recipe(state=state(False)), Recipe(state=state(True)))
    log = logs["tvb.monitor0"]
    assert log.differing == 1 and (log.first.label, log.first.time_ms) == ("E@R_a", 0.5)
    assert log.first.values[1] - log.first.values[0] == math.ulp(20.5)


def test_a_number_against_nan_is_the_largest_of_all_differences(tmp_path):
    def state(time_ms, n_regions):
        values = known_state(time_ms, n_regions)
        values[np.isclose(time_ms, 0.1), 0, 0] += 1e6
        values[np.isclose(time_ms, 0.9), 1, 3] = np.nan
        return values

    _, logs = two(tmp_path, other=Recipe(state=state))
    log = logs["tvb.monitor0"]
    assert log.differing == 2
    assert log.first.label == "E@L_a" and log.first.values[1] == 1e6 + 0.1
    assert log.largest.label == "I@R_b" and log.largest.values[0] == 130.9 and math.isnan(log.largest.values[1])


def test_spikes_differ_by_neuron_and_step_and_the_window_with_most_of_them_is_named(tmp_path):
    def spikes(t0, t1, n):
        """without the spike of neuron 2 at tick 2; and neurons 7 and 9 fire at tick 15 as well"""
        times, senders = without(2, 2)(t0, t1, n)
        if t0 <= 15 < t1:
            at = int(np.searchsorted(times, 15))
            times, senders = np.insert(times, at, [15, 15]), np.insert(senders, at, [7, 9])
        return Spikes(times, senders)

    _, logs = two(tmp_path, other=Recipe(spikes=spikes))
    log = logs["nest.spikes"]
    assert (log.compared, log.differing, log.differing_windows) == ((20, 21), 3, 2)
    assert (log.first.time_ms, log.first.label, log.first.values) == (0.1, "neuron 2 of E@L_b", (1, 0))
    assert log.first.text(("A", "B")) == "window 0 [0, 0.4) ms, at 0.1 ms, neuron 2 of E@L_b: fires in A alone"
    assert log.largest == Crowd(1, (0.4, 0.8), 2)
    # the channel carries E neurons alone: of 7 and 9, both of R_b, 7 is its neuron 2 and 9 an I neuron
    channel = logs["nest_to_tvb.0.raw"]
    assert (channel.compared, channel.differing) == ((12, 12), 2)
    assert logs["nest_to_tvb.0.transformed"].first.label == "E@L_b"


def test_a_neuron_that_fires_twice_in_a_step_is_not_one_that_fires_once(tmp_path):
    def twice(t0, t1, n):
        times, senders = known_spikes(t0, t1, n)
        at = np.flatnonzero(times == 8)
        return Spikes(np.insert(times, at, 8), np.insert(senders, at, senders[at]))

    _, logs = two(tmp_path, other=Recipe(spikes=twice))
    log = logs["nest.spikes"]
    assert log.differing == 1 and log.first.values == (1, 2)
    assert log.first.text(("A", "B")).endswith("neuron 0 of I@R_b: fires once in A, 2 times in B")


def test_the_order_of_spikes_within_one_step_does_not_count(tmp_path):
    def backwards(t0, t1, n):
        times, senders = known_spikes(t0, t1, n)
        order = np.lexsort((-senders, times))
        return Spikes(times[order], senders[order])

    compared, logs = two(tmp_path, other=Recipe(spikes=backwards))
    assert compared.identical and logs["nest.spikes"].compared == (20, 20)


@pytest.mark.parametrize("block_bytes", [1, 700, 1 << 20])
@pytest.mark.parametrize("window_steps", [1, 3, 10])
def test_other_windows_are_the_same_in_biological_time_in_blocks_of_any_size(
    window_steps, block_bytes, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, "BLOCK_BYTES", block_bytes)
    compared, logs = two(tmp_path / "equal", other=Recipe(window_steps=window_steps))
    assert compared.identical and set(logs) == ALL
    assert all(log.identical for log in logs.values())
    assert logs["tvb_to_nest.0.raw"].windows == (3, -(-10 // window_steps))
    assert compared.contract[0] == {"grid.window_ms": 0.4}

    def coupling(steps, n):
        values = known_coupling(steps, n)
        values[steps == 6, 0] = 5.0
        return values

    other = Recipe(window_steps=window_steps, coupling=coupling, spikes=without(12, 2))
    _, logs = two(tmp_path / "not", other=other)
    log = logs["tvb_to_nest.0.raw"]
    assert (log.first.windows, log.first.time_ms, log.first.values) == ((1, 6 // window_steps), 0.6, (0.06, 5.0))
    log = logs["nest.spikes"]
    assert (log.differing, log.first.windows, log.first.time_ms) == (1, (1, 6 // window_steps), 0.6)
    assert log.largest == Crowd(1, (0.4, 0.8), 1)


def test_other_ticks_are_compared_in_ms(tmp_path):
    """Ticks of 0.025 ms in place of 0.05: the same steps of 0.1 ms are 4 ticks, and tick t is tick 2 t."""

    def finer(t0, t1, n):
        times, senders = known_spikes(t0 // 2, t1 // 2, n)
        return Spikes(2 * times, senders)

    compared, logs = two(tmp_path, other=Recipe(tick_ns=25_000, dt_ticks=4, spikes=finer))
    assert compared.identical and all(log.identical for log in logs.values())
    assert logs["nest.spikes"].compared == (20, 20)


def test_a_shorter_run_is_compared_as_far_as_it_goes_and_that_is_said(tmp_path):
    compared, logs = two(tmp_path, Recipe(windows=2))
    assert compared.identical
    assert logs["tvb_to_nest.0.raw"].compared == (16, 16) and logs["nest.spikes"].compared == (18, 18)
    for log in logs.values():
        assert log.end_ms == 0.8
        assert log.notes == ["run 1 has 0.8 ms, run 2 1 ms of it; compared up to 0.8 ms"]


def test_logs_of_one_run_alone_and_of_other_columns_are_said_and_left_out(tmp_path):
    make_run(tmp_path / "1", Recipe())
    make_run(tmp_path / "2", Recipe(populations=(("E", 4), ("I", 2))))
    (tmp_path / "2" / "record" / "tvb.monitor0.frames").unlink()
    compared = compare_runs(tmp_path / "1", tmp_path / "2", ("A", "B"))
    notes = {log.name: log.notes for log in compared.logs if not log.comparable}
    assert notes == {
        "tvb.monitor0": ["not in B"],
        "nest_to_tvb.0.raw": ["of different columns: 6 neurons (E@L_b, E@R_b) in A, 8 neurons (E@L_b, E@R_b) in B"],
        "nest.spikes": ["of different columns: 10 neurons (E@L_b, I@L_b, E@R_b, I@R_b) in A, "
                        "12 neurons (E@L_b, I@L_b, E@R_b, I@R_b) in B"],
    }  # fmt: skip
    assert {log.name for log in compared.logs if log.identical} == {"tvb_to_nest.0.raw", "tvb_to_nest.0.transformed"}


def test_what_was_asked_for_and_the_versions_are_set_side_by_side(tmp_path, capsys):
    make_run(tmp_path / "1")
    make_run(tmp_path / "2", Recipe(window_steps=5))
    for name in ("contract.json", "peers/nest.summary.json"):
        path = tmp_path / "2" / name
        path.write_text(path.read_text().replace('"seed": 42', '"seed": 43').replace("3.10.0", "3.9.0"))
    status, out, err = diff(capsys, tmp_path / "1", tmp_path / "2")
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["seed", "42", "43"] in rows
    assert ["nest.nest-simulator", '"3.10.0"', '"3.9.0"'] in rows
    assert ["grid.window_ms", "0.4", "0.5"] in rows
    assert ["run", "1", "run", "2"] in rows
    assert "tvb_to_nest.0.raw: identical: 3 and 2 windows, 1 ms, 20 values" in out
    assert out.endswith("identical: 6 logs\n")


def test_the_command_prints_each_log_and_its_exit_status_says_whether_something_differs(tmp_path, capsys):
    make_run(tmp_path / "1")
    make_run(tmp_path / "2", Recipe(spikes=without(4, 4)))  # neuron 4 is an I neuron: no channel carries it
    status, out, _ = diff(capsys, tmp_path / "1", tmp_path / "1")
    assert status == 0 and "experiment: the same" in out and "versions: the same" in out
    status, out, _ = diff(capsys, tmp_path / "1", tmp_path / "2")
    assert status == 1
    assert "nest.spikes: differs: 1 spike (run 1 has 20, run 2 19), in 1 window\n" in out
    assert "  first:   window 0 [0, 0.4) ms, at 0.2 ms, neuron 1 of I@L_b: fires in run 1 alone" in out
    assert out.endswith("different: 1 of 6 logs\n")


@pytest.mark.parametrize("position, field", [(HEADER_BYTES + 3, "CRC-32"), (0, "magic"), (40, "t0")])
def test_a_damaged_recording_is_compared_up_to_the_damage(tmp_path, position, field):
    make_run(tmp_path / "1")
    shutil.copytree(tmp_path / "1", tmp_path / "2")
    path = tmp_path / "2" / "record" / "tvb_to_nest.0.raw.frames"
    data = bytearray(path.read_bytes())
    second = HEADER_BYTES + 8 * 8
    data[second + position] ^= 1
    path.write_bytes(data)
    spikes = tmp_path / "2" / "record" / "nest.spikes.frames"
    os.truncate(spikes, spikes.stat().st_size - 1)
    logs = {log.name: log for log in compare_runs(tmp_path / "1", tmp_path / "2").logs}
    log = logs["tvb_to_nest.0.raw"]
    assert log.identical and log.compared == (8, 8) and log.windows == (3, 1)
    assert "run 2 is damaged at window 1" in log.notes[0] and f"{field}: expected" in log.notes[0]
    assert "run 2 ends with 103 bytes of a frame that is not complete" in logs["nest.spikes"].notes
    assert logs["nest.spikes"].compared == (18, 18)


def test_what_is_no_run_is_named(tmp_path, capsys):
    make_run(tmp_path / "1")
    status, _, err = diff(capsys, tmp_path / "1", tmp_path / "nowhere")
    assert status == 5 and f"There is no run directory {tmp_path / 'nowhere'}" in err
    (tmp_path / "folder").mkdir()
    status, _, err = diff(capsys, tmp_path / "folder", tmp_path / "1")
    assert status == 5 and "folder holds no contract.json: it is not a run directory" in err


def test_runs_of_which_nothing_was_recorded_are_not_called_identical(tmp_path, capsys):
    make_run(tmp_path / "1")
    shutil.rmtree(tmp_path / "1" / "record")
    status, out, _ = diff(capsys, tmp_path / "1", tmp_path / "1")
    assert status == 1 and "tvb.monitor0: not compared: not recorded in either" in out
    assert out.endswith("nothing could be compared\n")


def test_only_blocks_are_held_however_long_the_runs(tmp_path, monkeypatch):
    """No block has more than one frame beyond the limit."""
    make_run(tmp_path / "1", Recipe(n_steps=4000))
    monkeypatch.setattr(compare, "BLOCK_BYTES", 5000)
    contract = results.read_contract(tmp_path / "1")
    for log in results.logs(tmp_path / "1", contract):
        stream = compare._Stream(log, contract.grid, "run", [])
        blocks = [len(block[0] if log.signal.kind == "dense" else block[1])
                  for block in (stream.dense() if log.signal.kind == "dense" else stream.spikes())]  # fmt: skip
        assert len(blocks) > 10 and max(blocks) < 250
    assert compare_runs(tmp_path / "1", tmp_path / "1").identical
