"""What `lockstep status` says of programs in every state."""

import os
import signal
import subprocess
import sys

import pytest
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.peers import read_page
from tvb_lockstep.bridges.session import Session
from tvb_lockstep.scripts.commands.status import explain, is_stopped, state_of
from tvb_lockstep.scripts.main import main


@pytest.fixture
def tvb(tmp_path):
    session = Session(tmp_path / "run", "tvb", load("wilson_cowan")[0], tell=lambda line: None)
    yield session
    session.release()


def test_chains_of_waiting_are_followed_to_who_holds_everybody_up():
    states = {"tvb": "waiting", "bridge": "waiting", "spikenet": "computing"}
    assert explain({"tvb": "bridge", "bridge": "spikenet"}, states) == [
        "tvb → bridge → spikenet: spikenet is computing",
        "bridge → spikenet: spikenet is computing",
    ]
    assert explain({"tvb": "spikenet"}, {"tvb": "waiting"}) == ["tvb → spikenet: spikenet is not there yet"]
    assert explain({"tvb": "spikenet", "spikenet": "tvb"}, {"tvb": "waiting", "spikenet": "waiting"}) == [
        "tvb → spikenet → tvb: they wait for each other",
        "spikenet → tvb → spikenet: they wait for each other",
    ]
    assert explain({}, {"tvb": "computing"}) == []


def test_a_stopped_process_is_told_from_a_sleeping_one():
    process = subprocess.Popen([sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
                               stdout=subprocess.PIPE)  # fmt: skip
    try:
        process.stdout.readline()
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert is_stopped(process.pid)
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)


def test_a_live_program_a_dead_one_and_one_that_has_ended_are_told_apart(tvb, capsys):
    run_dir = tvb.run_dir
    tvb.page.update("waiting", 3, "spikenet")
    assert state_of(run_dir, "tvb", read_page(run_dir, "tvb")) == "waiting"
    assert main(["status", str(run_dir)]) == 0
    printed = capsys.readouterr().out
    assert "waiting for spikenet" in printed and "tvb → spikenet: spikenet is not there yet" in printed
    tvb.release()  # as the kernel does for a process that dies
    assert state_of(run_dir, "tvb", read_page(run_dir, "tvb")) == "dead (was waiting)"
    page = read_page(run_dir, "tvb")
    capsys.readouterr()
    assert main(["status", str(run_dir)]) == 0
    assert f"To start tvb and spikenet again and go on:\n    lockstep resume {run_dir}\n" in capsys.readouterr().out
    page["now"]["state"] = "finished"
    assert state_of(run_dir, "tvb", page) == "finished"


def test_a_directory_without_programs_is_refused(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) != 0
    assert "is not a run directory" in capsys.readouterr().err
