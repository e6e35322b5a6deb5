"""One program of a run again, alone, on the recording of the others; and two runs side by side. TVB and NEST."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
from running import MODEL, SMALL, WINDOW, Ended, lockstep
from tvb_lockstep.bridges import frame
from tvb_lockstep.bridges.compare import compare_runs
from tvb_lockstep.bridges.frame import HEADER_BYTES
from tvb_lockstep.bridges.peers import hold_place
from tvb_lockstep.bridges.recording import path_of, read
from tvb_lockstep.bridges.replay import Recorded, replay
from tvb_lockstep.scripts import environments
from tvb_lockstep.scripts.main import main

WAYS: dict[str, dict[str, Any]] = {
    "shm": {},
    "files": {"exchange.transport": "file"},
    "a bridge of its own": {"exchange.bridge": "own"},
    "spikes": {MODEL: "SPIKES"},
}
SHIPPED = Path(environments.ROOT) / "scripts" / "experiments" / "wilson_cowan"


def values(way: str) -> dict[str, Any]:
    return {**SMALL, MODEL: "RATE", **WAYS[way]}


def replayed(run_dir: Path, tmp_path: Path, *sides: str, **options: Any) -> list[Ended]:
    """`lockstep replay` of each side, at the same time; what each makes lies in ``tmp_path/SIDE``."""
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(lockstep, "replay", run_dir, "--side", side, "--run-dir", tmp_path / side, "--quiet", **options)
            for side in sides
        ]
        return [job.result() for job in jobs]


def address_of(run_dir: Path, name: str) -> frame.Address:
    return next(each for each in running.addresses(running.contract_of(run_dir)) if each.name == name)


def rewrite(run_dir: Path, name: str, window: int, change: Any) -> None:
    """Put another payload of the same length into one frame of a recording, with a CRC that fits."""
    address = address_of(run_dir, name)
    path = path_of(run_dir, address)
    with read(path, address) as log:
        t0, t1 = log.ticks(window)
        start = sum(HEADER_BYTES + len(log.frame(k)[1]) for k in range(window))
        header, body = frame.encode(address, window, t0, t1, change(log.payload(window)))
        assert len(body) == len(log.frame(window)[1])
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(header + bytes(body))


@pytest.mark.parametrize("way", WAYS)
def test_each_side_alone_on_the_recording_of_the_other_is_bit_identical(way: str, run_once, tmp_path: Path) -> None:
    run_dir = run_once("wilson_cowan", values(way))
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    tvb, spikenet = replayed(run_dir, tmp_path, "tvb", "spikenet")
    assert (tvb.code, spikenet.code) == (0, 0), tvb.text + spikenet.text
    assert tvb.out.endswith("bit-identical: 26 windows of 2 channels, and its monitors\n")
    assert spikenet.out.endswith("bit-identical: 26 windows of 2 channels, and its spikes\n")
    assert "versions: the same" in tvb.out and "versions: the same" in spikenet.out
    assert before == {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    # not by the word of the command alone: the logs are the same bytes, run id included
    for side, names in (("tvb", ["tvb_to_spikenet.0.raw", "tvb.monitor0"]),
                        ("spikenet", ["spikenet_to_tvb.0.raw", "spikenet.spikes"])):  # fmt: skip
        for name in names:
            mine, of_run = (folder / "record" / f"{name}.frames" for folder in (tmp_path / side, run_dir))
            assert mine.read_bytes() == of_run.read_bytes() != b""


def test_each_of_two_spiking_programs_can_be_replayed(run_once, tmp_path: Path) -> None:
    run_dir = run_once(Path(__file__).parent / "experiments" / "two_programs", {"duration": 40.2})
    tvb, back = replayed(run_dir, tmp_path, "tvb", "back")
    assert tvb.out.endswith("bit-identical: 21 windows of 4 channels, and its monitors\n"), tvb.text
    assert back.out.endswith("bit-identical: 21 windows of 2 channels, and its spikes\n"), back.text
    (neither,) = replayed(run_dir, tmp_path, "middle")
    assert neither.code == 2 and "--side middle: this run has tvb, front, back" in neither.err


def test_a_number_changed_in_the_recording_is_named_with_window_label_and_both_values(run_once, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(run_once("wilson_cowan", values("shm")), run_dir)
    address = address_of(run_dir, "tvb_to_spikenet.0.raw")
    with read(path_of(run_dir, address), address) as log:
        true = float(log.payload(7)[3, 1])

    def wrong(payload: np.ndarray) -> np.ndarray:
        payload = payload.copy()
        payload[3, 1] = 0.125
        return payload

    rewrite(run_dir, address.name, 7, wrong)
    (tvb,) = replayed(run_dir, tmp_path, "tvb")
    label = running.contract_of(run_dir).channels[0].raw.labels[1]
    said = f"window 7 [14, 16) ms, at 14.3 ms, {label}: 0.125 in the recording, {true!r} in the replay"
    assert tvb.code == 1
    assert f"tvb: first difference of {address.name}: {said}" in tvb.err  # told at once
    assert f"{address.name}: differs: 1 value of 1022, in 1 window\n  first:   {said}" in tvb.out
    assert tvb.out.endswith("different: 1 log of 3, in up to 1 window\n")


def test_a_spike_changed_in_the_recording_is_named_with_window_and_neuron(run_once, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(run_once("wilson_cowan", values("shm")), run_dir)
    address = address_of(run_dir, "spikenet_to_tvb.0.raw")
    with read(path_of(run_dir, address), address) as log:
        window = next(k for k in range(10, len(log)) if log.rows(k))
        tick, sender = (int(each[0]) for each in log.payload(window))

    def other_neuron(spikes: frame.Spikes) -> frame.Spikes:
        senders = spikes.senders.copy()
        senders[0] ^= 1  # the neighbour within the same population of 40
        return frame.Spikes(spikes.times, senders)

    rewrite(run_dir, address.name, window, other_neuron)
    (spikenet,) = replayed(run_dir, tmp_path, "spikenet")
    assert spikenet.code == 1
    label = running.contract_of(run_dir).channels[1].raw.labels[sender // 40]
    lower = min(sender, sender ^ 1)
    where = f"window {window} [{2 * window}, {2 * window + 2}) ms, at {tick / 10:g} ms, neuron {lower % 40} of {label}"
    said = f"{where}: fires in {'the replay' if lower == sender else 'the recording'} alone"
    assert f"spikenet: first difference of {address.name}: {said}" in spikenet.err
    assert f"{address.name}: differs: 2 spikes " in spikenet.out and f"  first:   {said}" in spikenet.out
    assert f"  most:    window {window} [" in spikenet.out and "of the recording: 2 differing spikes" in spikenet.out
    assert spikenet.out.endswith("different: 1 log of 3, in up to 1 window\n")


def test_a_changed_network_is_found_out_and_another_contract_is_refused(tmp_path: Path) -> None:
    experiment = tmp_path / "mine"
    shutil.copytree(SHIPPED, experiment)
    run_dir = running.run(experiment, tmp_path / "run", {**SMALL, "duration": 30.0})
    network = experiment / "network.py"
    before = network.read_text()
    (same,) = replayed(run_dir, tmp_path, "spikenet")
    assert same.code == 0, same.text
    network.write_text(before.replace('{"rate": background_rate}', '{"rate": 2 * background_rate}'))
    assert network.read_text() != before
    other = lockstep("replay", run_dir, "--side", "spikenet", "--quiet")
    assert other.code == 1
    assert "spikenet: first difference of spikenet_to_tvb.0.raw: window" in other.err
    assert "spikenet.spikes: differs: " in other.out and "  first:   window" in other.out
    assert "tvb_to_spikenet.0.transformed: identical: 15 windows" in other.out  # its input is still that of the run
    assert "different: 2 logs of 3" in other.out
    made = list((run_dir / "replays").iterdir())
    assert [path.name[:9] for path in made] == ["spikenet-"] and f"replay: {made[0]}" in other.out
    network.write_text(before.replace('"iaf_cond_exp", p.n_inhibitory', '"iaf_cond_exp", p.n_inhibitory + 1'))
    refused = lockstep("replay", run_dir, "--side", "spikenet", "--run-dir", tmp_path / "refused", "--quiet")
    assert refused.code == 3 and "no longer makes the contract" in refused.err
    assert any("40" in line and "41" in line for line in refused.err.splitlines()), refused.err
    shutil.rmtree(experiment)
    gone = lockstep("replay", run_dir, "--side", "spikenet", "--run-dir", tmp_path / "gone", "--quiet")
    assert gone.code == 2 and f"{experiment / 'experiment.toml'}, is no longer there" in gone.err


def test_an_interrupted_run_is_replayed_as_far_as_its_recording_goes(run_once, tmp_path: Path) -> None:
    """The logs of a run that was killed: each ends somewhere, one of them in the middle of a frame."""
    run_dir = tmp_path / "run"
    shutil.copytree(run_once("wilson_cowan", values("shm")), run_dir)
    kept = {"tvb_to_spikenet.0.raw": 12, "tvb_to_spikenet.0.transformed": 12, "spikenet_to_tvb.0.raw": 9,
            "spikenet_to_tvb.0.transformed": 9, "tvb.monitor0": 8, "spikenet.spikes": 11}  # fmt: skip
    for name, windows in kept.items():
        address = address_of(run_dir, name)
        with read(path_of(run_dir, address), address) as log:
            size = sum(HEADER_BYTES + len(log.frame(k)[1]) for k in range(windows))
        os.truncate(path_of(run_dir, address), size + (33 if name == "spikenet_to_tvb.0.raw" else 0))
    tvb, spikenet = replayed(run_dir, tmp_path, "tvb", "spikenet")
    assert (tvb.code, spikenet.code) == (0, 0), tvb.text + spikenet.text
    assert "the recording of this run ends after 9 of 26 windows" in tvb.err
    assert "tvb.monitor0: identical: 8 " in tvb.out and "bit-identical: 9 windows" in tvb.out
    assert "the recording of this run ends after 12 of 26 windows" in spikenet.err
    assert "spikenet_to_tvb.0.raw: identical: 9 windows, 18 ms" in spikenet.out
    assert "spikenet.spikes: identical: 11 and 12 windows, 22 ms" in spikenet.out
    # what was altered is not fed to any simulator
    path = path_of(run_dir, address_of(run_dir, "tvb_to_spikenet.0.raw"))
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 5] ^= 1
    path.write_bytes(data)
    altered = lockstep("replay", run_dir, "--side", "spikenet", "--run-dir", tmp_path / "altered", "--quiet")
    assert altered.code == 4 and "CRC-32" in altered.err


def test_a_side_that_takes_nothing_is_replayed_as_far_as_it_was_heard(tmp_path: Path) -> None:
    run_dir, one_way = tmp_path / "run", {**SMALL, "duration": 20.0, "interfaces.tvb_to_spikenet": []}
    running.run_in_one_process("wilson_cowan", {run_dir: one_way})
    path = path_of(run_dir, address_of(run_dir, "spikenet_to_tvb.0.raw"))
    os.truncate(path, path.stat().st_size - 1)
    (spikenet,) = replayed(run_dir, tmp_path, "spikenet")
    assert spikenet.code == 0, spikenet.text
    assert "the recording of this run ends after 9 of 10 windows" in spikenet.err
    assert spikenet.out.endswith("bit-identical: 9 windows of 1 channel, and its spikes\n")


def test_a_run_that_was_not_recorded_is_refused_with_what_to_do(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    running.run_in_one_process("wilson_cowan", {run_dir: {**SMALL, "duration": 6.0, "exchange.record": False}})
    (refused,) = replayed(run_dir, tmp_path, "tvb")
    assert refused.code == 5
    assert "has no recording of spikenet_to_tvb.0.raw, tvb_to_spikenet.0.raw (exchange.record = false)" in refused.err
    assert "Run the experiment again with --set exchange.record=true" in refused.err
    assert not (tmp_path / "tvb").exists()


def test_what_cannot_be_replayed_is_said(run_once, tmp_path: Path, capsys) -> None:
    run_dir = run_once("wilson_cowan", values("shm"))

    def refused(*arguments: str | Path) -> str:
        assert main(["replay", *map(str, arguments), "--quiet"]) in (2, 5)
        return capsys.readouterr().err

    assert "There is no run directory" in refused(tmp_path / "none", "--side", "tvb")
    assert "it is not a run directory" in refused(tmp_path, "--side", "tvb")
    assert "--tvb-env: only spikenet is replayed" in refused(run_dir, "--side", "spikenet", "--tvb-env", "numpy")
    assert "holds a run already" in refused(run_dir, "--side", "tvb", "--run-dir", run_dir)
    place = hold_place(run_dir, "tvb")
    assert place is not None
    try:
        assert "tvb still runs" in refused(run_dir, "--side", "spikenet")
    finally:
        os.close(place)
    joined = tmp_path / "joined"
    shutil.copytree(run_dir, joined)
    page = json.loads((joined / "peers" / "tvb.json").read_text())
    assert Path(page.pop("experiment_file")) == SHIPPED / "experiment.toml"
    (joined / "peers" / "tvb.json").write_text(json.dumps(page))
    assert "a script of its own joined the run" in refused(joined, "--side", "tvb")


def test_a_script_can_replay_what_it_joined(run_once, tmp_path: Path) -> None:
    from tvb_lockstep.tvb_side.program import run as run_tvb

    run_dir = run_once("wilson_cowan", values("shm"))
    logs = replay(run_dir, "tvb", lambda session: run_tvb(session, SHIPPED), tmp_path / "again")
    assert [(log.name, log.identical, log.windows) for log in logs] == [
        ("tvb_to_spikenet.0.raw", True, (26, 26)), ("spikenet_to_tvb.0.transformed", True, (26, 26)),
        ("tvb.monitor0", True, (26, 26)),
    ]  # fmt: skip
    # and a replay can be compared as any run
    compared = compare_runs(run_dir, tmp_path / "again")
    assert compared.identical and compared.experiment == compared.versions == compared.contract == ({}, {})
    assert [log.name for log in compared.logs if not log.comparable] == [
        "tvb_to_spikenet.0.transformed", "spikenet.spikes"
    ]  # fmt: skip


def test_another_version_of_the_simulator_is_a_matter_of_one_option(run_once, monkeypatch) -> None:
    run_dir = run_once("wilson_cowan", values("shm"))
    asked, started = [], []

    class Replaced(BaseException):
        """In place of os.execv, which does not come back."""

    def ensure(name: str, requirements: str = "", python: str = "") -> Path:
        asked.append((name, requirements))
        return Path("/elsewhere/bin/python")

    def execv(python: Path, command: list[str]) -> None:
        started.append(command)
        raise Replaced

    monkeypatch.setattr(environments, "ensure", ensure)
    monkeypatch.setattr(os, "execv", execv)
    for side, name, wanted in (("spikenet", "nest", "nest-simulator==3.9.0"), ("tvb", "tvb", "tvb-library==2.9.1")):
        command = ["replay", str(run_dir), "--side", side, f"--{side}-env", wanted]
        monkeypatch.setattr("sys.argv", ["lockstep", *command])
        with pytest.raises(Replaced):
            main(command)
        assert asked.pop() == (name, wanted)
        assert started.pop() == ["/elsewhere/bin/python", "-P", "-m", "tvb_lockstep.scripts.main", *command]
    assert Recorded(run_dir, "spikenet").windows == 26


def test_runs_of_rings_files_and_other_windows_are_the_same_and_another_seed_is_not(run_all) -> None:
    shm, files, windows, seed = run_all(
        "wilson_cowan", [values("shm"), values("files"), {**values("shm"), WINDOW: 0.3}, {**values("shm"), "seed": 2}]
    )
    equal = lockstep("diff", shm, files)
    assert equal.code == 0 and equal.out.endswith("identical: 6 logs\n"), equal.text
    assert ["exchange.transport", '"shm"', '"file"'] in [line.split() for line in equal.out.splitlines()]
    by_time = lockstep("diff", shm, windows)
    assert by_time.code == 0 and by_time.out.endswith("identical: 6 logs\n"), by_time.text
    assert "identical: 26 and 171 windows, 51.1 ms, 1022 values" in by_time.out
    other = lockstep("diff", shm, seed)
    assert other.code == 1 and other.out.endswith("different: 6 of 6 logs\n"), other.text
    assert ["seed", "1", "2"] in [line.split() for line in other.out.splitlines()]
    assert "tvb.monitor0: differs: " in other.out and "  first:   window 0 [0, 2) ms, at " in other.out
