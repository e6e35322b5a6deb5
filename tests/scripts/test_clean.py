"""`lockstep clean` after real programs were really killed: what they left is found and removed, and nothing else."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from make_run import Recipe, make_run
from tvb_lockstep.bridges.run_dir import read_run
from tvb_lockstep.bridges.transports import remove_leftovers, shm
from tvb_lockstep.scripts.commands import clean
from tvb_lockstep.scripts.main import main

PEERS = Path(__file__).parent.parent / "bridges"
# A TVB program that has taken its place, with the producing end of a channel; it says "created" and "sent".
PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import transport_peer
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.session import Session
from tvb_lockstep.bridges.transports.base import Place
run_dir, transport, die = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
session = Session(run_dir, "tvb", load("wilson_cowan")[0])
if die == "page":
    os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    session.publish("hello", {})
transport_peer.produce(transport, Place(run_dir, session.run_id, -1), 2, rows=2, die=die, linger=True)
"""
# What `lockstep plot` does, killed at the end of its first file.
RESULTS = """
import os, signal, sys
from pathlib import Path
from tvb_lockstep.bridges import results
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
results.finish(Path(sys.argv[1]))
"""


@pytest.fixture
def start():
    """Starts a program in a run directory, waits for its word, and ends it after the test."""
    started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(run_dir: Path, transport: str = "shm", die: str = "", word: bytes = b"sent") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", PROGRAM, str(PEERS), str(run_dir), transport, die]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
        started.append((process, run_dir))
        assert process.stdout is not None
        if die:
            assert process.wait(60) == -signal.SIGKILL
        else:
            assert b"created" in process.stdout.readline() and word in process.stdout.readline()
        return process

    yield start
    for process, run_dir in started:
        kill(process)
        remove_leftovers(run_dir, run_id(run_dir))


def kill(process):
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def ended_run(run_dir):
    """A run that has ended, with its run.json whole."""
    contract = make_run(run_dir, Recipe())
    run = {"run_id": contract.run_id, "created": "2026-01-31 12:00:00", "experiment": "made_up"}
    (run_dir / "run.json").write_text(json.dumps(run))


def run_id(run_dir):
    return bytes.fromhex(read_run(run_dir)["run_id"])


def in_shared_memory(*run_dirs):
    """The names of these runs' segments and semaphores; bridges/README.md says what they are called."""
    keys = [hashlib.sha256(b"tvb-lockstep ring" + run_id(run_dir)).hexdigest()[:32] for run_dir in run_dirs]
    return sorted(name for name in os.listdir("/dev/shm") if any(f"tvls-{key}-" in name for key in keys))


def files(run_dir):
    return sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())


def test_the_ring_of_a_killed_program_is_shown_and_then_removed(start, tmp_path, capsys):
    run_dir = tmp_path / "run"
    kill(start(run_dir))
    before, kept = in_shared_memory(run_dir), files(run_dir)
    assert len(before) == 3  # a segment and two semaphores
    assert main(["clean", str(run_dir), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"{run_dir}: would remove 3" in shown and all(f"  {name}  (" in shown for name in before)
    assert in_shared_memory(run_dir) == before
    assert main(["clean", str(run_dir)]) == 0
    assert f"{run_dir}: removed 3" in capsys.readouterr().out
    assert in_shared_memory(run_dir) == [] and files(run_dir) == kept
    assert main(["clean", str(run_dir)]) == 0
    assert f"{run_dir}: nothing was left behind" in capsys.readouterr().out


def test_a_live_run_is_named_and_nothing_of_it_is_touched(start, tmp_path, capsys):
    live, dead = tmp_path / "live", tmp_path / "dead"
    process = start(live)
    kill(start(dead))
    page = f"peers/tvb.ready.json.{process.pid}.1.tmp"
    (live / page).touch()  # which it is about to rename
    names, kept = in_shared_memory(live), files(live)
    assert main(["clean", str(live), str(dead)]) == 0
    shown = capsys.readouterr().out
    assert f"{live}: left alone, tvb (pid {process.pid} on " in shown
    assert in_shared_memory(live) == names and files(live) == kept and process.poll() is None
    assert in_shared_memory(dead) == []
    kill(process)
    assert main(["clean", str(live)]) == 0
    assert in_shared_memory(live) == [] and set(kept) - set(files(live)) == {page}


def test_without_a_run_every_dead_ring_goes_and_every_live_one_stays(start, tmp_path, capsys, monkeypatch):
    live, dead, other = (tmp_path / name for name in ("live", "dead", "other"))
    process = start(live)
    kill(start(dead))
    kill(start(other))
    names = in_shared_memory(live, dead, other)
    listdir = os.listdir  # tests that run beside this one leave rings of their own on purpose
    monkeypatch.setattr(os, "listdir", lambda path: [name for name in listdir(path) if name in names])
    assert main(["clean", "--dry-run"]) == 0
    assert "would remove 6" in capsys.readouterr().out and in_shared_memory(live, dead, other) == names
    assert main(["clean"]) == 0
    shown = capsys.readouterr().out
    assert "removed 6" in shown and f"left alone: 1 ring of live runs, of pid {process.pid}\n" in shown
    assert in_shared_memory(dead) == in_shared_memory(other) == [] and len(in_shared_memory(live)) == 3
    assert main(["clean"]) == 0
    assert "nothing was left behind" in capsys.readouterr().out


def test_a_ring_of_a_dead_program_stays_while_another_ring_of_its_run_lives(start, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    process = start(run_dir)
    (ring,) = [name for name in in_shared_memory(run_dir) if not name.startswith("sem.")]
    names = {*in_shared_memory(run_dir), f"{ring}1"}
    Path(f"/dev/shm/{ring}1").touch()  # channel 01, of nobody
    monkeypatch.setattr(os, "listdir", lambda path: sorted(names))
    assert main(["clean"]) == 0
    monkeypatch.undo()
    assert set(in_shared_memory(run_dir)) == names
    kill(process)
    assert main(["clean", str(run_dir)]) == 0
    assert in_shared_memory(run_dir) == []


def test_rings_of_other_users_and_those_made_at_this_moment_are_not_touched(start, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    kill(start(run_dir))
    names = in_shared_memory(run_dir)
    (ring,) = [name for name in names if not name.startswith("sem.")]
    fresh, foreign = f"{ring}1", f"{ring}2"
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [name for name in listdir(path) if ring in name])
    # a producer that has made its segment, and is about to lock it, while the list is looked at
    monkeypatch.setattr(shm, "sleep", lambda seconds: Path("/dev/shm", fresh).touch())
    if os.geteuid() == 0:
        Path("/dev/shm", foreign).touch()
        os.chown(f"/dev/shm/{foreign}", 65534, 65534)
    try:
        assert main(["clean"]) == 0
        left = {fresh, foreign} if os.geteuid() == 0 else {fresh}
        assert set(in_shared_memory(run_dir)) == left and "removed 3" in capsys.readouterr().out
    finally:
        for name in (fresh, foreign):
            Path("/dev/shm", name).unlink(missing_ok=True)


def test_a_semaphore_without_its_segment_is_left_over(start, tmp_path):
    run_dir = tmp_path / "run"
    kill(start(run_dir))
    (segment,) = [name for name in in_shared_memory(run_dir) if not name.startswith("sem.")]
    os.unlink(f"/dev/shm/{segment}")
    assert main(["clean", str(run_dir)]) == 0
    assert in_shared_memory(run_dir) == []


def test_a_frame_that_was_being_written_goes_and_complete_ones_stay(start, tmp_path, capsys):
    run_dir = tmp_path / "run"
    start(run_dir, "file", die="payload")
    before = files(run_dir)
    assert main(["clean", str(run_dir)]) == 0
    assert set(before) - set(files(run_dir)) == {"exchange/tmp/dense0.raw.npy"}
    assert "exchange/dense0.raw/000000000000_0-4.npy" in files(run_dir)
    assert "exchange/tmp/dense0.raw.npy  (" in capsys.readouterr().out


def test_a_page_that_was_being_published_goes(start, tmp_path):
    run_dir = tmp_path / "run"
    process = start(run_dir, die="page")
    left = [name for name in files(run_dir) if name.endswith(".tmp")]
    assert len(left) == 1 and left[0].startswith(f"peers/tvb.hello.json.{process.pid}.")
    before = files(run_dir)
    assert main(["clean", str(run_dir)]) == 0
    assert set(before) - set(files(run_dir)) == set(left)


def test_a_result_that_was_being_written_goes_with_its_writer_and_not_before(tmp_path, capsys):
    run_dir = tmp_path / "run"
    ended_run(run_dir)
    before = files(run_dir)
    done = subprocess.run([sys.executable, "-c", RESULTS, str(run_dir)])
    assert done.returncode == -signal.SIGKILL
    (left,) = set(files(run_dir)) - set(before)
    assert left.startswith(".tvb.h5.")
    # the same of a program of lockstep that is alive, and of a process that only has its number by now
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    plotting, other = subprocess.Popen([*sleep, "tvb_lockstep"]), subprocess.Popen(sleep)
    try:
        (run_dir / f".report.html.{plotting.pid}").touch()
        (run_dir / "timing" / f".tvb.npy.{other.pid}").touch()
        assert main(["clean", str(run_dir)]) == 0
        assert "removed 2" in capsys.readouterr().out
        assert set(files(run_dir)) - set(before) == {f".report.html.{plotting.pid}", "run.lock"}
    finally:
        kill(plotting)
        kill(other)


def test_names_that_only_look_alike_stay(tmp_path):
    run_dir = tmp_path / "run"
    ended_run(run_dir)
    mine = ["notes.tmp", ".hidden.7", "data.12.txt", "spikes.h5.1", "table.7.csv.tmp"]
    for name in mine:
        (run_dir / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.1.tmp").touch()
    (run_dir / "link").symlink_to(tmp_path / "elsewhere")
    before = files(run_dir)
    assert main(["clean", str(run_dir)]) == 0
    assert set(files(run_dir)) - {"run.lock"} == set(before) and (tmp_path / "elsewhere" / "a.1.tmp").exists()


def test_a_program_that_takes_its_place_at_this_moment_is_not_disturbed(start, tmp_path, capsys, monkeypatch):
    run_dir = tmp_path / "run"
    kill(start(run_dir))
    monkeypatch.setattr(clean, "PATIENCE_S", 0.1)
    names = in_shared_memory(run_dir)
    with open(run_dir / "run.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["clean", str(run_dir)]) == 0
        assert "run.lock is held" in capsys.readouterr().out and in_shared_memory(run_dir) == names


def test_all_runs_are_looked_at_before_anything_is_removed(start, tmp_path, capsys):
    run_dir, stranger = tmp_path / "run", tmp_path / "stranger"
    kill(start(run_dir))
    stranger.mkdir()
    names = in_shared_memory(run_dir)
    for bad, words in ((stranger, "is not a run directory"), (tmp_path / "none", "There is no run directory")):
        assert main(["clean", str(run_dir), str(bad)]) == 5
        assert words in capsys.readouterr().err and in_shared_memory(run_dir) == names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_run_of_another_user_is_refused(tmp_path, capsys):
    run_dir = tmp_path / "run"
    ended_run(run_dir)
    (run_dir / "a.1.tmp").touch()
    os.chown(run_dir, 65534, 65534)
    assert main(["clean", str(run_dir)]) == 5
    assert "belongs to user 65534" in capsys.readouterr().err and (run_dir / "a.1.tmp").exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (3 * 86400, "3 d"), (-5, "0 s")]
)
def test_an_age_is_told_in_its_largest_unit(seconds, text):
    assert clean._age(seconds) == text


@pytest.mark.parametrize(("n", "text"), [(32, "32 bytes"), (4096, "4 KiB"), (3 << 19, "1.5 MiB")])
def test_a_size_is_told_in_its_largest_unit(n, text):
    assert clean._bytes(n) == text
