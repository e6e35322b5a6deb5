"""The place of a program in a run directory, and its page."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tvb_lockstep.bridges.peers import Page, alive, hold_place, pages, read_page, read_summary

HOLD = """
import sys, time
from pathlib import Path
from tvb_lockstep.bridges.peers import hold_place
assert hold_place(Path(sys.argv[1]), "tvb") is not None
print("held", flush=True)
time.sleep(3600)
"""


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "peers").mkdir()
    return tmp_path


def test_a_place_is_held_once_and_free_again_when_it_is_closed(run_dir):
    assert not alive(run_dir, "tvb")
    held = hold_place(run_dir, "tvb")
    assert alive(run_dir, "tvb") and not alive(run_dir, "spikenet")
    assert hold_place(run_dir, "tvb") is None
    other = hold_place(run_dir, "spikenet")
    os.close(held)
    assert not alive(run_dir, "tvb") and alive(run_dir, "spikenet")
    os.close(other)


def test_looking_whether_a_program_lives_never_keeps_it_from_taking_its_place(run_dir):
    stop = threading.Event()

    def look():
        while not stop.is_set():
            alive(run_dir, "tvb")

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(50):
            held = hold_place(run_dir, "tvb")
            assert held is not None
            assert alive(run_dir, "tvb")
            os.close(held)
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_kernel_frees_the_place_of_a_killed_program_and_not_that_of_a_stopped_one(number, run_dir):
    child = subprocess.Popen([sys.executable, "-c", HOLD, run_dir], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        assert alive(run_dir, "tvb")
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert alive(run_dir, "tvb") and hold_place(run_dir, "tvb") is None
        child.send_signal(number)
        child.send_signal(signal.SIGCONT)
        assert child.wait() == -number
        assert not alive(run_dir, "tvb")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_program_started_by_the_holder_does_not_hold_the_place(run_dir):
    held = hold_place(run_dir, "tvb")
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    os.close(held)
    try:
        assert not alive(run_dir, "tvb")
    finally:
        child.kill()
        child.wait()


def test_a_page_says_who_and_what_now_and_keeps_its_length(run_dir):
    page = Page(run_dir, "tvb", "ab" * 16, {"toolkit": "0.1", "versions": {"naïve": "1"}})
    file = run_dir / "peers" / "tvb.json"
    length = file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    found = read_page(run_dir, "tvb")
    assert found["pid"] == os.getpid() and found["run_id"] == "ab" * 16 and found["versions"] == {"naïve": "1"}
    assert found["now"]["state"] == "starting" and found["now"]["window"] == -1 and found["now"]["waiting_for"] == ""
    for state, window, waiting in (("waiting", 10**11, "x" * 31), ("computing", 0, ""), ("interrupted", 7, "")):
        page.update(state, window, waiting)
        now = read_page(run_dir, "tvb")["now"]
        assert (now["state"], now["window"], now["waiting_for"]) == (state, window, waiting)
        assert file.stat().st_size == length
    page.close()
    assert read_page(run_dir, "tvb")["now"]["window"] == 7, "it stays when its program is gone"


def test_a_page_that_is_read_while_it_is_written_is_always_whole(run_dir):
    page = Page(run_dir, "tvb", "ab" * 16, {})
    stop = threading.Event()

    def write():
        k = 0
        while not stop.is_set():
            k += 1
            page.update("waiting" if k % 2 else "computing", k, "spikenet" if k % 2 else "")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            now = read_page(run_dir, "tvb")["now"]
            assert now["state"] in ("starting", "waiting", "computing")
            assert isinstance(now["window"], int)
    finally:
        stop.set()
        writer.join()
        page.close()


def test_pages_are_those_of_programs_and_not_what_else_they_publish(run_dir):
    for name in ("tvb", "spikenet"):
        Page(run_dir, name, "ab" * 16, {}).close()
    (run_dir / "peers" / "tvb.hello.json").write_text("{}")
    (run_dir / "peers" / "tvb.summary.json").write_text(json.dumps({"state": "finished"}))
    assert sorted(pages(run_dir)) == ["spikenet", "tvb"]
    assert read_page(run_dir, "bridge") is None
    assert read_summary(run_dir, "tvb") == {"state": "finished"} and read_summary(run_dir, "spikenet") is None


def test_a_summary_that_was_cut_off_is_none(run_dir):
    (run_dir / "peers" / "tvb.summary.json").write_text('{"state": "fin')
    assert read_summary(run_dir, "tvb") is None


def test_since_is_when_a_program_began_to_do_what_it_does(tmp_path):
    (tmp_path / "peers").mkdir()
    page = Page(tmp_path, "tvb", "ab" * 16, {})
    page.update("waiting", 3, "spikenet")
    first = read_page(tmp_path, "tvb")["now"]["since"]
    time.sleep(0.01)
    page.update("waiting", 3, "spikenet")
    assert read_page(tmp_path, "tvb")["now"]["since"] == first
    page.update("computing", 3)
    assert read_page(tmp_path, "tvb")["now"]["since"] > first
    page.close()
