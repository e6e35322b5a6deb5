"""Starts, stops, slow consumers and full disks in such numbers as programs without simulators allow, see nulls.py.

Every run has to give the numbers that `nulls.alone` computes in one loop, and to leave nothing behind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import running

if "nulls" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("nulls", Path(__file__).with_name("nulls.py"))
    assert _spec is not None and _spec.loader is not None
    sys.modules["nulls"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["nulls"])

from nulls import Part, Program, Programs, Shape, alone, check, leftovers, rings
from tvb_lockstep.bridges.peers import alive, pages
from tvb_lockstep.bridges.transports.base import CHECK_S
from tvb_lockstep.scripts.commands.status import state_of
from tvb_lockstep.scripts.main import main

# Who is waited for is looked at every CHECK_S and believed dead at the second look; who finds a place taken tries for
# 0.3 s. Two programs in two terminals have no other deadlines.
STOPPED_S = 3 * max(2 * CHECK_S, 0.3)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    with Programs(tmp_path) as programs:
        yield programs


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs; skips the test where mounting is not allowed."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_one_spike_that_is_lost_changes_the_numbers_of_both_sides(programs, tmp_path):
    """What all the other tests rely on."""
    shape = Shape()
    started = programs.run(shape, tmp_path / "run", {"spikenet": {"loses_in": 20}})
    assert [program.end() for program in started.values()] == [0, 0]
    for name, program in started.items():
        assert program.said["digest"] != alone(shape)[name][0]


# ---- starting --------------------------------------------------------------------------------------------------------


def test_a_hundred_starts_in_any_order_and_with_any_delay_come_to_the_same_numbers(programs, tmp_path):
    """Four runs at a time, which hinder each other. A third of them go through files, some have a bridge of its own,
    some two spiking programs. Seeded."""
    draw = random.Random(20261123)
    under_way: list[tuple[Shape, Path, dict[str, Program]]] = []
    for i in range(100):
        shape = Shape(n_steps=61, programs=("cortex", "thalamus") if i % 10 == 7 else ("spikenet",))
        exchange = {"transport": "file" if i % 3 == 0 else "shm", "bridge": "own" if i % 10 == 4 else "receiver"}
        names = ["tvb", *shape.programs, *(["bridge"] if exchange["bridge"] == "own" else [])]
        draw.shuffle(names)
        parts = {name: {"delay_s": draw.uniform(0.0, draw.choice([0.003, 0.3]))} for name in names}
        run_dir = tmp_path / f"run{i}"
        under_way.append((shape, run_dir, programs.run(shape, run_dir, parts, **exchange)))
        while under_way and (len(under_way) == 4 or i == 99):
            shape, run_dir, started = under_way.pop(0)
            check(shape, started)
            assert leftovers(run_dir) == set()
            assert (run_dir / "finished_by").read_text() in started


def test_of_programs_that_claim_one_place_at_the_same_moment_one_gets_it_and_the_others_name_it(programs, tmp_path):
    shape, run_dir = Shape(), tmp_path / "run"
    claimants = [programs.start(Part("spikenet", str(run_dir), shape.experiment())) for _ in range(6)]
    running.wait_until(lambda: [each.code for each in claimants].count(5) == 5, "five refusals")
    (winner,) = [each for each in claimants if each.code is None]
    for each in claimants:
        assert each is winner or f"is in use: its spikenet is alive as pid {winner.pid} on " in each.text
    check(shape, {"spikenet": winner, "tvb": programs.start(Part("tvb", str(run_dir), shape.experiment()))})
    assert leftovers(run_dir) == set()


@pytest.mark.parametrize("transport", ["shm", "file"])
def test_a_run_is_not_disturbed_by_programs_that_want_its_places(transport, programs, tmp_path):
    """Whether they would replace it or not, and whether who holds the place runs, or is stopped."""
    shape, run_dir = Shape(n_steps=1001), tmp_path / "run"
    started = programs.run(shape, run_dir, {"tvb": {"at": {"200": "SIGSTOP"}}}, transport=transport)
    started["tvb"].stopped()
    for name, holder in started.items():
        for overwrite in (False, True):
            part = Part(name, str(run_dir), shape.experiment(transport=transport), overwrite=overwrite)
            refused = programs.start(part)
            assert refused.end() == 5
            assert f"is in use: its {name} is alive as pid {holder.pid} on " in refused.text
    started["tvb"].send(signal.SIGCONT)
    check(shape, started)
    assert leftovers(run_dir) == set()


def inodes(run_dir: Path) -> dict[str, int]:
    return {name: os.stat(f"/dev/shm/{name}").st_ino for name in rings(run_dir)}


def stalled(programs: Programs, shape: Shape, run_dir: Path) -> dict[str, Program]:
    """A run that has rings in /dev/shm: its spiking program was stopped before it could attach."""
    started = programs.run(shape, run_dir, {"spikenet": {"at": {"ready": "SIGSTOP"}}})
    started["spikenet"].stopped()
    running.wait_until((run_dir / "peers" / "tvb.ready.json").exists, "readiness of tvb")
    running.wait_until(lambda: len(rings(run_dir)) >= 3, "a ring with its semaphores")
    return started


def test_runs_of_one_experiment_at_once_leave_each_others_rings_alone(programs, tmp_path):
    """While one stands at its start, another runs to its end, and a third is killed and replaced."""
    shape = Shape()
    one, dead = stalled(programs, shape, tmp_path / "one"), stalled(programs, shape, tmp_path / "three")
    before, left = inodes(tmp_path / "one"), rings(tmp_path / "three")
    check(shape, programs.run(shape, tmp_path / "two"))
    assert inodes(tmp_path / "one") == before and rings(tmp_path / "three") == left
    for program in dead.values():
        program.send(signal.SIGKILL)
        assert program.end() == -signal.SIGKILL
    check(shape, programs.run(shape, tmp_path / "three"))
    assert not left & set(os.listdir("/dev/shm")), "the killed run is cleaned up"
    assert inodes(tmp_path / "one") == before
    one["spikenet"].send(signal.SIGCONT)
    check(shape, one)
    for name in ("one", "two", "three"):
        assert leftovers(tmp_path / name) == set()


# ---- a pid that now belongs to somebody else -------------------------------------------------------------------------


def hand_on_pid(run_dir: Path, name: str, pid: int) -> None:
    """As if the kernel had given the pid of the dead program `name` to another process: in its page and its rings."""
    page = run_dir / "peers" / f"{name}.json"
    old = json.loads(page.read_text())["pid"]
    page.write_text(re.sub(r'"pid": \d+', f'"pid": {pid}', page.read_text()))
    for ring in rings(run_dir):
        if not ring.startswith("sem."):
            with open(f"/dev/shm/{ring}", "r+b") as segment:  # bridges/README.md: the producer's pid is at byte 48
                segment.seek(48)
                if struct.unpack("<Q", segment.read(8))[0] == old:
                    segment.seek(48)
                    segment.write(struct.pack("<Q", pid))


def test_dead_programs_whose_pids_belong_to_others_now_are_dead_and_replaced(programs, tmp_path, capsys):
    """One pid is that of this pytest, the other that of a stopped program of another run."""
    shape, run_dir = Shape(), tmp_path / "run"
    dead = stalled(programs, shape, run_dir)
    other = stalled(programs, shape, tmp_path / "other")
    for program in dead.values():
        program.send(signal.SIGKILL)
        assert program.end() == -signal.SIGKILL
    left = rings(run_dir)
    pids = {"tvb": os.getpid(), "spikenet": other["spikenet"].pid}
    for name, pid in pids.items():
        hand_on_pid(run_dir, name, pid)
    for name, page in pages(run_dir).items():
        assert page["pid"] == pids[name]
        assert not alive(run_dir, name)
        assert state_of(run_dir, name, page).startswith("dead (was ")
    assert main(["status", str(run_dir)]) == 0
    said = capsys.readouterr().out
    assert said.count("dead") >= 2 and "stopped" not in said
    check(shape, programs.run(shape, run_dir))
    assert not left & set(os.listdir("/dev/shm"))
    assert leftovers(run_dir) == set()
    other["spikenet"].send(signal.SIGCONT)
    check(shape, other)


def test_a_program_whose_peer_died_and_whose_pid_belongs_to_another_ends(programs, tmp_path):
    shape, run_dir = Shape(n_steps=1001), tmp_path / "run"
    stops = {name: {"at": {"200": "SIGSTOP"}} for name in ("tvb", "spikenet")}
    started = programs.run(shape, run_dir, stops)
    for program in started.values():
        program.stopped()
    started["spikenet"].send(signal.SIGKILL)
    assert started["spikenet"].end() == -signal.SIGKILL
    hand_on_pid(run_dir, "spikenet", os.getpid())
    late = programs.start(Part("spikenet", str(run_dir), shape.experiment()))
    assert late.end() == 5 and "which has ended" in late.text
    started["tvb"].send(signal.SIGCONT)
    assert started["tvb"].end() == 6
    assert "spikenet (pid " in started["tvb"].text and " died in window 199" in started["tvb"].text
    assert leftovers(run_dir) == set()


# ---- stopped ---------------------------------------------------------------------------------------------------------


def test_programs_stopped_for_longer_than_any_deadline_come_to_the_same_numbers(programs, tmp_path):
    """Either side, through rings and files, before its hello, after its offer, when it is ready, at the edge of a
    window, wherever the signal hits it, and at its end; and a bridge while it carries frames. Five runs at once."""
    shape, draw = Shape(n_steps=2001), random.Random(20261123)
    points = dict.fromkeys(["claimed", "offered", "ready", "30", "ended"], "SIGSTOP")
    runs: list[tuple[str, Path, dict[str, Program]]] = []
    for name in ("tvb", "spikenet"):
        for transport in ("shm", "file"):
            run_dir = tmp_path / f"{transport} {name}"
            runs.append((name, run_dir, programs.run(shape, run_dir, {name: {"at": points}}, transport=transport)))

    def all_stay_stopped(may_have_ended: bool = False) -> None:
        time.sleep(STOPPED_S)
        for name, run_dir, started in runs:
            assert state_of(run_dir, name, pages(run_dir)[name]) == "stopped"
            for other, program in started.items():
                assert program.code is None or (may_have_ended and program.code == 0), f"{other}: {program.text}"

    for point in points:
        for name, _, started in runs:
            started[name].stopped()
        all_stay_stopped(may_have_ended=point == "ended")
        if point == "30":
            run_dir = tmp_path / "bridge"
            bridged = programs.run(shape, run_dir, {"tvb": {"at": {"30": "SIGSTOP"}}}, bridge="own")
            bridged["tvb"].stopped()
            runs.append(("bridge", run_dir, bridged))
            for name, _, started in runs:
                started["tvb" if name == "bridge" else name].send(signal.SIGCONT)
                time.sleep(draw.uniform(0.0, 0.01))
                started[name].send(signal.SIGSTOP)
                started[name].stopped()
            all_stay_stopped()
            bridged["bridge"].send(signal.SIGCONT)
            check(shape, runs.pop()[2])
        for name, _, started in runs:
            started[name].send(signal.SIGCONT)
    for _, run_dir, started in [*runs, ("bridge", tmp_path / "bridge", bridged)]:
        check(shape, started)
        assert leftovers(run_dir) == set()


# ---- too much for the channel, and for the disk ----------------------------------------------------------------------


def test_a_slow_consumer_behind_a_channel_of_one_frame_holds_up_its_producer_and_loses_nothing(programs, tmp_path):
    """A window takes the consumer 20 ms and the producer 2 ms. A frame of spikes is larger than the ring: 8192 neurons
    fire 8192 spikes of 12 bytes in a window of 8 ticks, and the one slot has 64 KiB."""
    shape, pause_s = Shape(n_steps=100, window_steps=4, neurons=4096), 0.02
    assert alone(shape)["spikenet"][1] == 8192 * shape.n_windows
    runs = {}
    for transport in ("shm", "file"):
        for slow, quick in (("tvb", "spikenet"), ("spikenet", "tvb")):
            run_dir, parts = tmp_path / f"{transport} {slow}", {slow: {"pause_s": pause_s}, quick: {"pause_s": 0.002}}
            runs[run_dir] = quick, programs.run(shape, run_dir, parts, transport=transport, depth=1)
    for run_dir, (quick, started) in runs.items():
        check(shape, started)
        assert leftovers(run_dir) == set()
        assert started[quick].said["put_wait_s"] > 0.5 * pause_s * shape.n_windows, run_dir


@pytest.mark.parametrize(("transport", "record"), [("file", False), ("file", True), ("shm", True)])
def test_a_disk_that_fills_up_at_any_moment_ends_both_and_with_room_the_run_is_made_again(
    transport, record, mounted, programs, tmp_path
):
    """From no room for the first page to almost enough for the run. Who got no place leaves the other one waiting."""
    shape, exchange = Shape(n_steps=401), {"transport": transport, "record": record}
    run_dir, parts = mounted / "run", {name: {"overwrite": True} for name in ("tvb", "spikenet")}
    for kib in (8, 24, 40, 56, 72, 88, 104, 120, 160):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", mounted], check=True)
        started = programs.run(shape, run_dir, parts, **exchange)
        for program in started.values():
            running.wait_until(lambda each=program: each.code is not None or "waiting for" in each.text, "an end")
        for program in started.values():
            if program.code is None and not pages(run_dir).keys() >= started.keys():
                program.send(signal.SIGINT)
            assert program.end() in (5, 6, 130), program.text
            assert "Traceback" not in program.text
        said = "".join(program.text for program in started.values())
        assert "No space left on device" in said or "are free there" in said
    subprocess.run(["mount", "-o", "remount,size=32m", mounted], check=True)
    check(shape, programs.run(shape, run_dir, parts, **exchange))
    assert leftovers(run_dir) == set()
