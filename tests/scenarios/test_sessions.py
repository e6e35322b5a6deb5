"""Two programs that find each other in a run directory, which is theirs alone, and what they find there."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import programs
import pytest
import running
from programs import ENDLESS, PASTE, SHORT, Terminal
from tvb_lockstep.bridges.transports.shm import _name

EXPERIMENT = "wilson_cowan"


def listing(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Mode, time of change, and content of everything in `folder`, and of itself."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_size, content)
    return found


def content_of(found: dict[str, tuple[int, int, int, bytes]]) -> dict[str, bytes]:
    return {path: each[3] for path, each in found.items()}


def segments_of(run_dir: Path) -> set[str]:
    """The rings and semaphores of this run in /dev/shm."""
    run_id = bytes.fromhex(json.loads((run_dir / "run.json").read_text())["run_id"])
    prefix = _name(run_id, 0, "")[1:-1]
    return {name for name in os.listdir("/dev/shm") if name.removeprefix("sem.").startswith(prefix)}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator:
    """Mounts a small tmpfs: ``mounted("size=1m")``; skips the test where that is not allowed."""
    folders = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"mount{len(folders)}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    running.kill_everything_started()
    for folder in folders:
        subprocess.run(["umount", "-l", folder], check=True)


# ---- finding each other ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["tvb", "spikenet"])
def test_either_program_starts_first_and_prints_the_command_that_starts_the_other(first, tmp_path):
    """Also with a relative run directory, with spaces and letters of other languages, and a shell somewhere else."""
    second = {"tvb": "spikenet", "spikenet": "tvb"}[first]
    here, elsewhere = tmp_path / "my räume", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    waiting = programs.program(first, EXPERIMENT, Path("runs/d'accord 1"), SHORT, tmp_path / first, cwd=here)
    run_dir = here / "runs" / "d'accord 1"
    text = waiting.says(f"waiting for {second} in {run_dir}")
    (line,) = PASTE.findall(text)
    assert line.startswith(f"{shlex.join(running.COMMAND)} {second} {EXPERIMENT} ")
    pasted = Terminal(line, tmp_path / second, cwd=elsewhere)
    assert pasted.end() == 0, pasted.text
    assert waiting.end() == 0, waiting.text
    assert running.provenance(run_dir)["complete"]
    assert run_dir.stat().st_mode & 0o777 == 0o700
    for path in run_dir.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_two_runs_at_once_of_one_experiment_do_not_meet_and_give_the_same_numbers(tmp_path):
    runs = [programs.program("run", EXPERIMENT, tmp_path / f"run{i}", SHORT, tmp_path / f"{i}") for i in (1, 2)]
    assert [each.end() for each in runs] == [0, 0], [each.text for each in runs]
    ids = {json.loads((tmp_path / f"run{i}" / "run.json").read_text())["run_id"] for i in (1, 2)}
    assert len(ids) == 2
    assert running.differing(tmp_path / "run1", tmp_path / "run2") == []


# ---- a place that is taken -------------------------------------------------------------------------------------------


def test_the_place_of_a_live_program_is_refused_with_its_pid_and_nothing_of_it_is_touched(tmp_path):
    run_dir = tmp_path / "run"
    holder = programs.double(EXPERIMENT, run_dir, ENDLESS, "", tmp_path / "holder")
    holder.says("waiting for tvb")
    (run_dir / "log").mkdir()
    (run_dir / "log" / "tvb.log").write_text("of the live run\n")

    def stable() -> dict:  # the live program goes on publishing what it does
        return {path: each for path, each in listing(run_dir).items() if not path.endswith(("spikenet.json", ".lock"))}

    before = stable()
    for command in ("spikenet", "run"):
        for more in ([], ["--overwrite"]):
            refused = running.lockstep(command, EXPERIMENT, "--run-dir", run_dir, *more)
            assert refused.code == 5, refused.text
            assert f"is in use: its spikenet is alive as pid {holder.pid} on " in refused.err
            assert "--run-dir" in refused.err
    assert stable() == before
    status = running.lockstep("status", run_dir)
    assert status.code == 0 and str(holder.pid) in status.out and "waiting for tvb" in status.out
    holder.send(signal.SIGINT)
    assert holder.end() == 130


def test_a_live_run_does_not_take_a_program_that_it_already_had(tmp_path):
    """Spikenet died; before tvb has noticed, somebody starts another one."""
    run_dir = tmp_path / "run"
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "", tmp_path / "spikenet")
    tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / "tvb")
    programs.window(run_dir, "tvb", 3)
    tvb.send(signal.SIGSTOP)
    spikenet.send(signal.SIGKILL)
    assert spikenet.end() == -signal.SIGKILL
    again = running.lockstep("spikenet", EXPERIMENT, "--run-dir", run_dir, *running.settings(ENDLESS))
    assert again.code == 5
    assert f"the run of tvb already had its spikenet (pid {spikenet.pid}), which has ended" in again.err
    tvb.send(signal.SIGCONT)
    assert tvb.end() == 6


# ---- directories that cannot be used ---------------------------------------------------------------------------------


def test_a_finished_run_is_replaced_with_overwrite_alone(tmp_path):
    run_dir = running.run(EXPERIMENT, tmp_path / "run", SHORT)
    before = listing(run_dir)
    for command in ("tvb", "spikenet", "run"):
        refused = running.lockstep(command, EXPERIMENT, "--run-dir", run_dir, *running.settings(SHORT))
        assert refused.code == 5 and "--overwrite" in refused.err and EXPERIMENT in refused.err, refused.text
        assert content_of(listing(run_dir)) == content_of(before)
    terminals = [
        programs.program(name, EXPERIMENT, run_dir, {**SHORT, "seed": 5}, tmp_path / name, "--overwrite")
        for name in ("spikenet", "tvb")
    ]
    assert [terminal.end() for terminal in terminals] == [0, 0], [terminal.text for terminal in terminals]
    assert running.provenance(run_dir)["seed"] == 5 and running.provenance(run_dir)["complete"]
    assert running.content(run_dir)  # and every log is of the new run


@pytest.mark.parametrize("stranger", ["thesis.tex", "run.json"])
def test_somebody_elses_directory_is_refused_and_stays_as_it_is(stranger, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    (folder / stranger).write_text('{"name": "ten years of work"}')
    before = listing(folder)
    for command in ("tvb", "spikenet", "run"):
        refused = running.lockstep(command, EXPERIMENT, "--run-dir", folder)
        assert refused.code == 5 and stranger in refused.err and "not a run directory" in refused.err, refused.text
        assert listing(folder) == before


@pytest.mark.parametrize("where", ["below a file", "in /proc", "on a read-only file system"])
def test_a_directory_that_cannot_be_made_is_a_message_with_the_reason(where, tmp_path, mounted):
    (tmp_path / "file").write_text("")
    if where == "on a read-only file system":
        run_dir, reason = mounted("ro") / "run", "Read-only file system"
    else:
        run_dir, reason = {
            "below a file": (tmp_path / "file" / "run", "Not a directory"),
            "in /proc": (Path("/proc/run"), "No such file or directory"),
        }[where]
    for command in ("spikenet", "run"):
        refused = running.lockstep(command, EXPERIMENT, "--run-dir", run_dir)
        assert refused.code == 5 and reason in refused.err and str(run_dir) in refused.err, refused.text
        assert "Traceback" not in refused.err


def test_a_disk_that_is_full_from_the_start_is_a_message(mounted):
    full = mounted("size=64k")
    refused = running.lockstep("run", EXPERIMENT, "--run-dir", full / "run", *running.settings(SHORT), "--quiet")
    assert refused.code != 0, refused.text
    assert "No space left on device" in refused.err and "Traceback" not in refused.err


def test_a_disk_that_fills_up_in_the_middle_ends_both_with_a_message(mounted, tmp_path):
    small = mounted("size=2500k")
    terminals = {
        name: programs.program(name, EXPERIMENT, small / "run", {"duration": 10000.0}, tmp_path / name)
        for name in ("tvb", "spikenet")
    }
    codes = {name: terminal.end() for name, terminal in terminals.items()}
    assert sorted(codes.values()) in ([5, 5], [5, 6]), {name: terminal.text for name, terminal in terminals.items()}
    for name, terminal in terminals.items():
        assert "No space left on device" in terminal.text or codes[name] == 6, terminal.text
        assert "Traceback" not in terminal.text


# ---- what a dead run left --------------------------------------------------------------------------------------------


def stalled(run_dir: Path, tmp_path: Path, name: str) -> tuple[Terminal, Terminal]:
    """A run whose spiking program was stopped just before it is ready: TVB's ring is there, and nobody has attached."""
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "stop before ready", tmp_path / f"{name} spikenet")
    tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / f"{name} tvb")
    running.wait_until((run_dir / "peers" / "tvb.ready.json").exists, "readiness of tvb")
    running.wait_until(lambda: len(segments_of(run_dir)) == 3, "a ring with its semaphores")
    return spikenet, tvb


def test_a_run_killed_before_its_first_window_is_cleaned_up_by_the_next_and_another_live_run_is_not_touched(tmp_path):
    dead, live = tmp_path / "dead", tmp_path / "live"
    of_dead, of_live = stalled(dead, tmp_path, "dead"), stalled(live, tmp_path, "live")
    for each in of_dead:
        each.send(signal.SIGKILL)
        each.end()
    left, of_others = segments_of(dead), segments_of(live)
    assert len(left) == 3, "both were killed, so that nobody has cleaned up"
    running.run(EXPERIMENT, dead, SHORT)  # without --overwrite
    assert running.provenance(dead)["complete"]
    assert not left & set(os.listdir("/dev/shm"))
    assert segments_of(live) == of_others
    of_live[0].send(signal.SIGCONT)  # and it goes on
    programs.window(live, "tvb", 3)
    of_live[1].send(signal.SIGINT)
    assert (of_live[1].end(), of_live[0].end()) == (130, 6)


def test_a_run_killed_in_the_middle_can_be_plotted_and_then_replaced(tmp_path):
    run_dir = tmp_path / "run"
    terminals = {
        name: programs.program(name, EXPERIMENT, run_dir, ENDLESS, tmp_path / name) for name in ("tvb", "spikenet")
    }
    for name in terminals:
        programs.window(run_dir, name, 10)
    for terminal in terminals.values():
        terminal.send(signal.SIGSTOP)  # so that neither notices the death of the other
    for terminal in terminals.values():
        terminal.send(signal.SIGKILL)
        assert terminal.end() == -signal.SIGKILL
    status = running.lockstep("status", run_dir)
    assert status.out.count("dead") == 2
    refused = running.lockstep("run", EXPERIMENT, "--run-dir", run_dir)
    assert refused.code == 5 and "--overwrite" in refused.err
    plotted = running.lockstep("plot", run_dir)
    assert plotted.code == 0, plotted.text
    assert {program["state"] for program in running.provenance(run_dir)["programs"].values()} == {"died"}
    running.run(EXPERIMENT, run_dir, SHORT, "--overwrite")
    assert running.provenance(run_dir)["complete"]
    assert running.content(run_dir)
