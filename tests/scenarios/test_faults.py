"""Programs that are killed, interrupted, or raise: the other one says who and when, saves what there is, and ends."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import h5py
import programs
import pytest
import running
from programs import ENDLESS, MODEL, NETWORK, Terminal, write_experiment

EXPERIMENT = "wilson_cowan"


def others_of(name: str, all_names: list[str]) -> list[str]:
    return [other for other in all_names if other != name]


def window_in(text: str, start: str) -> int:
    """The window that a message starting with `start` names."""
    found = re.search(re.escape(start) + r".*? in window (\d+)", text)
    assert found, text
    return int(found.group(1))


def check_results(run_dir: Path, at_least_windows: int) -> dict:
    """What a run that ended early left can be opened, and holds the windows that it should; gives its provenance."""
    provenance = running.provenance(run_dir)
    assert not provenance["complete"]
    with h5py.File(run_dir / "tvb.h5") as tvb:
        (monitor,) = tvb["monitors"].values()
        assert len(monitor["time_ms"]) == len(monitor["data"]) > 0
    with h5py.File(run_dir / "spikes.h5") as spikes:
        assert sum(len(population["timestamps"]) for population in spikes["spikes"].values()) > 0
    with h5py.File(run_dir / "exchange.h5") as exchange:
        assert {"tvb_to_spikenet.0", "spikenet_to_tvb.0"} <= set(exchange)
    for channel in provenance["channels"].values():
        assert channel["recorded"]["raw_frames"] >= at_least_windows - 8, "8 windows may be on their way"
    return provenance


@pytest.mark.parametrize("victim", ["tvb", "spikenet", "bridge"])
def test_the_others_name_a_killed_program_and_its_window_and_save_what_there_is(victim, tmp_path):
    run_dir, names = tmp_path / "run", ["tvb", "spikenet"]
    values = ENDLESS
    if victim == "bridge":
        names, values = [*names, "bridge"], {**ENDLESS, "exchange.bridge": "own"}
    terminals = {name: programs.program(name, EXPERIMENT, run_dir, values, tmp_path / name) for name in names}
    for name in names:
        programs.window(run_dir, name, 12)
    terminals[victim].send(signal.SIGKILL)
    killed = time.monotonic()
    for name in others_of(victim, names):
        text = terminals[name].says(" died ")
        print(f"{name} noticed the death of {victim} after {time.monotonic() - killed:.2f} s")  # pytest -s shows it
        # of three programs, one may see that the second gave up before it sees that the third died
        assert f"{victim} (pid {terminals[victim].pid} on " in text
        assert window_in(text, f"{victim} (pid {terminals[victim].pid}") >= 12
    assert terminals[victim].end() == -signal.SIGKILL
    assert [terminals[name].end() for name in others_of(victim, names)] == [6] * (len(names) - 1)
    provenance = check_results(run_dir, 12)
    assert provenance["programs"][victim]["state"] == "died"
    assert provenance["programs"][victim]["window"] >= 12
    for name in others_of(victim, names):
        assert provenance["programs"][name]["state"] == "failed"
        assert victim in provenance["programs"][name]["error"]


def test_a_tvb_killed_before_its_hello_is_named(tmp_path):
    """It has taken its place, and is loading TVB."""
    run_dir = tmp_path / "run"
    tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / "tvb")
    running.wait_until((run_dir / "peers" / "tvb.json").exists, "place of tvb")
    tvb.send(signal.SIGKILL)
    programs.died(run_dir, "tvb")
    # without a live tvb the next program begins a new run, and waits for a new one
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "", tmp_path / "spikenet")
    spikenet.says("waiting for tvb")
    spikenet.send(signal.SIGINT)
    assert spikenet.end() == 130


def test_a_tvb_killed_while_it_builds_is_named(tmp_path):
    run_dir = tmp_path / "run"
    (tmp_path / "slow").mkdir()
    write_experiment(tmp_path / "slow", tvb="import time\n\ndef build(section):\n    time.sleep(3600)\n")
    values = {**ENDLESS, "tvb.build": "model:build"}
    tvb = programs.program("tvb", tmp_path / "slow", run_dir, values, tmp_path / "tvb")
    spikenet = programs.double(tmp_path / "slow", run_dir, values, "", tmp_path / "spikenet")
    for name in ("tvb", "spikenet"):
        running.wait_until((run_dir / "peers" / f"{name}.hello.json").exists, f"hello of {name}")
    time.sleep(0.2)
    tvb.send(signal.SIGKILL)
    text = spikenet.says(" died ")
    assert f"tvb (pid {tvb.pid} on " in text and "died before the first window" in text
    assert spikenet.end() == 6
    assert not (run_dir / "contract.json").exists()


@pytest.mark.parametrize("page", ["hello", "offer", "ready", "attached"])
def test_a_spiking_program_killed_on_its_way_to_the_first_window_is_named_and_leaves_no_shared_memory(page, tmp_path):
    run_dir = tmp_path / "run"
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, f"die before {page}", tmp_path / "spikenet")
    if page == "hello":  # its place has to be seen while it lives: let it find tvb there
        assert spikenet.end() == -signal.SIGKILL
        tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / "tvb")
        running.wait_until((run_dir / "peers" / "tvb.hello.json").exists, "hello of tvb")
        spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, f"die before {page}", tmp_path / "spikenet")
    else:
        tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / "tvb")
    text = tvb.says(" died ")
    assert f"spikenet (pid {spikenet.pid} on " in text and "died before the first window" in text
    assert tvb.end() == 6 and spikenet.end() == -signal.SIGKILL
    assert not (run_dir / "contract.json").exists() and not (run_dir / "tvb.h5").exists()


@pytest.mark.parametrize(("victim", "number"), [("spikenet", "SIGINT"), ("tvb", "SIGTERM")])
def test_an_interrupted_program_ends_both_in_order_with_results_so_far(victim, number, tmp_path):
    run_dir = tmp_path / "run"
    terminals = {
        name: programs.program(name, EXPERIMENT, run_dir, ENDLESS, tmp_path / name) for name in ("tvb", "spikenet")
    }
    for name in terminals:
        programs.window(run_dir, name, 12)
    terminals[victim].send(signal.Signals[number])
    (other,) = others_of(victim, list(terminals))
    assert terminals[victim].end() == 130 and terminals[other].end() == 6
    word = "Ctrl-C" if number == "SIGINT" else number
    assert window_in(terminals[victim].text, f"interrupted by {word}") >= 12
    assert f"{victim} (pid {terminals[victim].pid} on " in terminals[other].text
    assert window_in(terminals[other].text, "was interrupted") >= 12
    assert "Traceback" not in terminals[victim].text + terminals[other].text
    provenance = check_results(run_dir, 12)
    assert provenance["programs"][victim]["state"] == "interrupted"


def test_ctrl_c_while_waiting_for_the_other_program_ends_at_once_and_the_directory_can_be_used_again(tmp_path):
    run_dir = tmp_path / "run"
    for _ in range(2):
        spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "", tmp_path / "spikenet")
        spikenet.says("waiting for tvb")
        spikenet.send(signal.SIGINT)
        assert spikenet.end() == 130
        assert "interrupted by Ctrl-C before the first window" in spikenet.text
        assert not (run_dir / "contract.json").exists()


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_lockstep_run_passes_an_interruption_on_and_ends_with_130_and_results(number, tmp_path):
    run_dir = tmp_path / "run"
    whole = programs.program("run", EXPERIMENT, run_dir, ENDLESS, tmp_path / "screen")
    for name in ("tvb", "spikenet"):
        programs.window(run_dir, name, 12)
    whole.send(signal.Signals[number])
    assert whole.end() == 130
    word = "Ctrl-C" if number == "SIGINT" else number
    assert f"interrupted by {word}" in whole.text and f"run directory: {run_dir}" in whole.text
    assert "Traceback" not in whole.text
    check_results(run_dir, 12)


def test_the_programs_end_in_order_when_lockstep_run_itself_is_killed(tmp_path):
    run_dir = tmp_path / "run"
    whole = programs.program("run", EXPERIMENT, run_dir, ENDLESS, tmp_path / "screen")
    for name in ("tvb", "spikenet"):
        programs.window(run_dir, name, 12)
    pids = [json.loads((run_dir / "peers" / f"{name}.json").read_text())["pid"] for name in ("tvb", "spikenet")]
    whole.send(signal.SIGKILL)
    assert whole.end() == -signal.SIGKILL
    for name in ("tvb", "spikenet"):
        programs.died(run_dir, name)
    running.wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "end of the children")
    provenance = check_results(run_dir, 12)
    assert {"interrupted"} <= {program["state"] for program in provenance["programs"].values()}


def test_lockstep_run_names_a_killed_program_and_says_which_signal(tmp_path):
    run_dir = tmp_path / "run"
    whole = programs.program("run", EXPERIMENT, run_dir, ENDLESS, tmp_path / "screen")
    programs.window(run_dir, "spikenet", 12)
    page = json.loads((run_dir / "peers" / "spikenet.json").read_text())
    os.kill(page["pid"], signal.SIGKILL)
    assert whole.end() != 0
    assert "--- spikenet was killed by SIGKILL" in whole.text
    assert f"spikenet (pid {page['pid']} on " in whole.text and "died in window" in whole.text
    check_results(run_dir, 12)


def test_a_stopped_program_is_not_taken_for_dead_and_the_numbers_stay_the_same(tmp_path):
    values = {"duration": 700.0}
    reference = running.run(EXPERIMENT, tmp_path / "reference", values)
    run_dir = tmp_path / "run"
    terminals = {
        name: programs.program(name, EXPERIMENT, run_dir, values, tmp_path / name) for name in ("tvb", "spikenet")
    }
    stopped_at = {}
    for name in ("spikenet", "tvb"):
        programs.window(run_dir, name, 10)
        terminals[name].send(signal.SIGSTOP)
        stopped_at[name] = running.window_of(run_dir, name)
        time.sleep(1.5)  # liveness is looked at every 0.2 s
        assert terminals["tvb"].process.poll() is None and terminals["spikenet"].process.poll() is None
        assert running.window_of(run_dir, name) <= stopped_at[name] + 1
        terminals[name].send(signal.SIGCONT)
    assert terminals["tvb"].end() == 0 and terminals["spikenet"].end() == 0
    assert all(window < 349 for window in stopped_at.values()), "it was stopped in the middle"
    assert running.differing(reference, run_dir) == []


def test_a_transfer_of_the_last_windows_is_not_lost_when_a_program_dies_just_after(tmp_path):
    """Tvb takes all that was sent before the death: its own part ends as late as it can."""
    run_dir = tmp_path / "run"
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "die in window 30", tmp_path / "spikenet")
    tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / "tvb")
    assert tvb.end() == 6 and spikenet.end() == -signal.SIGKILL
    assert window_in(tvb.text, f"spikenet (pid {spikenet.pid}") == 30
    channel = running.provenance(run_dir)["channels"]["spikenet_to_tvb.0"]
    assert channel["frames_received"] == channel["recorded"]["raw_frames"] == 30


# ---- errors of the user's own code -----------------------------------------------------------------------------------

def both(folder: Path, run_dir: Path, tmp_path: Path, **values: float) -> dict[str, Terminal]:
    return {name: programs.program(name, folder, run_dir, values, tmp_path / name) for name in ("tvb", "spikenet")}


def test_an_error_in_the_network_function_is_named_on_both_terminals(tmp_path):
    write_experiment(tmp_path / "own", network=NETWORK.format(broken="raise ValueError('no such cell type: Purkinje')"))
    terminals = both(tmp_path / "own", tmp_path / "run", tmp_path)
    assert terminals["spikenet"].end() == 1 and terminals["tvb"].end() == 6
    said = terminals["spikenet"].text
    assert "Traceback" in said and "network.py" in said and "in spikenet.build = 'network:build'" in said
    assert (
        "failed before the first window: ValueError: no such cell type: Purkinje (in spikenet.build = 'network:build')"
        in terminals["tvb"].text
    )
    assert not (tmp_path / "run" / "contract.json").exists()


def test_an_error_in_the_model_function_is_named_on_both_terminals(tmp_path):
    write_experiment(tmp_path / "own", tvb="def build(section):\n    return {}['connectome']\n")
    terminals = both(tmp_path / "own", tmp_path / "run", tmp_path)
    assert terminals["tvb"].end() == 1 and terminals["spikenet"].end() == 6
    assert "model.py" in terminals["tvb"].text and "in tvb.build = 'model:build'" in terminals["tvb"].text
    assert "failed before the first window: KeyError: 'connectome' (in tvb.build" in terminals["spikenet"].text


@pytest.mark.parametrize(
    ("broken", "said"),
    [("raise FloatingPointError('it blew up')", "FloatingPointError: it blew up"), ("derivative[0] = np.nan", "nan")],
)
def test_an_error_in_the_middle_of_the_run_is_named_on_both_terminals_with_its_window(broken, said, tmp_path):
    write_experiment(tmp_path / "own", tvb=MODEL.format(broken=broken))
    terminals = both(tmp_path / "own", tmp_path / "run", tmp_path)
    codes = {name: terminal.end() for name, terminal in terminals.items()}
    assert 0 not in codes.values() and -signal.SIGKILL not in codes.values()
    assert said in terminals["tvb"].text and said in terminals["spikenet"].text
    assert "in window" in terminals["tvb"].text + terminals["spikenet"].text
    # Heun calls dfun twice a step of 0.1 ms: the fault is in the step from 50.0 ms, and the samples before it are kept
    with h5py.File(tmp_path / "run" / "tvb.h5") as tvb:
        (monitor,) = tvb["monitors"].values()
        assert 20 <= len(monitor["time_ms"]) <= 50


def test_in_one_process_a_program_that_cannot_start_or_ctrl_c_ends_the_others_too(tmp_path):
    values = {"exchange.transport": "memory"}
    write_experiment(tmp_path / "own", network="def build(request):\n    return 1 / 0\n")
    ended = running.lockstep("run", tmp_path / "own", "--run-dir", tmp_path / "a", *running.settings(values))
    assert ended.code != 0 and "division by zero" in ended.text
    slow = MODEL.format(broken="pass").replace("    conn =", "    import time\n    time.sleep(3)\n    conn =")
    write_experiment(tmp_path / "slow", tvb=slow)
    waiting = running.Program("run", tmp_path / "slow", "--run-dir", tmp_path / "b", *running.settings(values))
    running.wait_until((tmp_path / "b" / "peers" / "spikenet.json").exists, "NEST takes its place")
    waiting.send(signal.SIGINT)
    ended = waiting.wait()
    assert ended.code == 130 and "interrupted by Ctrl-C" in ended.text
