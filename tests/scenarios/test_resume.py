"""Programs that are killed at every point of their work and resumed: the run ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import running
from killed import POINTS
from nursery import Nursery
from programs import NETWORK, Terminal, died, program, window, write_experiment
from running import SMALL, differing, lockstep, settings

KILLED = Path(__file__).with_name("killed.py")
HOLD = {"exchange.hold_s": 120.0}
COMMAND_BELOW = re.compile(r"^ {4}(\S.* resume .*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery(dict(os.environ))
    yield made
    made.close()


def victim(point: str, at: int, arguments: list[str], screen: Path) -> Terminal:
    """A program that dies at `point`."""
    return Terminal([sys.executable, str(KILLED), point, str(at), *arguments], screen)


def first_arguments(name: str, run_dir: Path, values: dict[str, Any]) -> list[str]:
    return [name, "wilson_cowan", "--run-dir", str(run_dir), *settings(values), "--quiet", "--no-report"]


def resumed_arguments(name: str, run_dir: Path) -> list[str]:
    return ["resume", str(run_dir), "--side", name, "--quiet", "--no-report"]


def told_of_death(survivor: Terminal, name: str, pid: int) -> float:
    """Waits until the survivor has named the dead one, and says that it holds; how long that took [s]."""
    begun = time.monotonic()
    running.wait_until(lambda: f"{name} (pid {pid} on " in survivor.text, f"the death of {name} on the other screen")
    took = time.monotonic() - begun
    line = next(line for line in survivor.text.splitlines() if f"{name} (pid {pid} on " in line)
    assert "died in window " in line or "died before the first window" in line
    assert "Holding " in line and "for up to 120 s" in line
    return took


@pytest.mark.parametrize("transport", ["shm", "file"])
@pytest.mark.parametrize("name", ["tvb", "spikenet", "bridge"])
def test_a_program_killed_at_every_point_and_resumed_each_time_ends_with_the_numbers_of_one_that_lived(
    name: str, transport: str, run_once: Any, nursery: Nursery, tmp_path: Path
) -> None:
    """One run in which the same program dies ten times; the others hold for it. It is the last to end, and so also dies
    while it makes the results."""
    whole = run_once("wilson_cowan", SMALL)
    values = {**SMALL, **HOLD, "exchange.transport": transport, "exchange.depth": 3 if transport == "shm" else 1}
    names = ["tvb", "spikenet"]
    if name == "bridge":
        names, values["exchange.bridge"] = [*names, "bridge"], "own"
    run_dir = tmp_path / "run"
    others = {
        other: program(other, "wilson_cowan", run_dir, values, tmp_path / other) for other in names if other != name
    }
    neighbour = others["spikenet" if name == "tvb" else "tvb"]
    for other in others:  # a run that nobody else came to, yet, would be begun anew
        running.wait_until((run_dir / "peers" / f"{other}.json").exists, f"{other} takes its place")
    arguments, dead, longest = first_arguments(name, run_dir, values), [], 0.0
    for i, point in enumerate(POINTS):
        terminal = nursery.start(point, 2 * i, arguments, tmp_path / f"{name}.{i}")
        assert terminal.end() == -signal.SIGKILL, f"{point}: {terminal.text}"
        dead.append(terminal.pid)
        if point != "saving":
            longest = max(longest, told_of_death(neighbour, name, terminal.pid))
            if i == 5:
                shown = lockstep("status", run_dir).out
                assert "dead (was " in shown and f"To start {name} again and go on:" in shown
                (line,) = COMMAND_BELOW.findall(shown)
                assert line.split()[-4:] == COMMAND_BELOW.findall(neighbour.text)[-1].split()[-4:]
            assert resumed_arguments(name, run_dir)[:4] == COMMAND_BELOW.findall(neighbour.text)[-1].split()[-4:]
        arguments = resumed_arguments(name, run_dir)
    print(f"{name}, {transport}: named after at most {longest:.2f} s")
    for other in others.values():
        assert other.end() == 0, other.text
    assert not (run_dir / "exchange.h5").exists()
    ended = lockstep("resume", run_dir, "--quiet", "--no-report")  # only the results are left to be made
    assert ended.code == 0, ended.text
    assert differing(whole, run_dir) == []
    provenance = running.provenance(run_dir)
    assert provenance["complete"] and provenance["balanced"]
    deaths = [what for what in provenance["interruptions"] if what["program"] == name]
    assert [what["pid"] for what in deaths] == dead[:-1] and all(what["resumed"] for what in deaths)
    assert {what["program"] for what in provenance["interruptions"]} == {name}
    assert [path for path in run_dir.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"] == []
    again = lockstep("resume", run_dir)
    assert again.code == 0 and "is complete" in again.out


@pytest.mark.parametrize(
    ("name", "point", "values"),
    [
        ("tvb", "recording", {"exchange.mode": "serial"}),
        ("spikenet", "taken", {"exchange.transport": "file", "exchange.keep": 0}),
        ("bridge", "recording", {"exchange.bridge": "own"}),
    ],
)
def test_without_hold_the_others_end_with_what_there_is_and_all_are_resumed_together(
    name: str, point: str, values: dict[str, Any], run_once: Any, tmp_path: Path
) -> None:
    whole = run_once("wilson_cowan", SMALL)
    run_dir, values = tmp_path / "run", {**SMALL, **values}
    names = ["tvb", "spikenet", *(["bridge"] if name == "bridge" else [])]
    others = {
        other: program(other, "wilson_cowan", run_dir, values, tmp_path / other) for other in names if other != name
    }
    terminal = victim(point, 12, first_arguments(name, run_dir, values), tmp_path / name)
    assert terminal.end() == -signal.SIGKILL
    for other in others.values():
        assert other.end() == 6
    assert any(f"{name} (pid {terminal.pid} on " in other.text for other in others.values())
    assert all(f"resume {run_dir}" in other.text for other in others.values())
    assert not running.provenance(run_dir)["complete"]
    ended = lockstep("resume", run_dir, "--quiet", "--no-report")
    assert ended.code == 0, ended.text
    assert differing(whole, run_dir) == []
    states = {what["program"]: what["state"] for what in running.provenance(run_dir)["interruptions"]}
    assert states == {other: "failed" for other in others} | {name: "died"}


def test_a_run_whose_programs_are_all_killed_at_once_is_resumed(run_once: Any, tmp_path: Path) -> None:
    whole, run_dir = run_once("wilson_cowan", SMALL), tmp_path / "run"
    values = {**SMALL, "exchange.mode": "serial"}
    terminals = {
        name: victim("taken", 9, first_arguments(name, run_dir, values), tmp_path / name)
        for name in ("tvb", "spikenet")
    }
    codes = [terminal.end() for terminal in terminals.values()]
    assert -signal.SIGKILL in codes and set(codes) <= {-signal.SIGKILL, 6}  # the second may have noticed the first
    tvb = Terminal([*running.COMMAND, *resumed_arguments("tvb", run_dir)], tmp_path / "tvb2")
    tvb.says(f"resume {run_dir} --side spikenet")
    spikenet = Terminal([*running.COMMAND, *resumed_arguments("spikenet", run_dir)], tmp_path / "spikenet2")
    assert tvb.end() == 0 and spikenet.end() == 0
    assert differing(whole, run_dir) == []


def test_an_interrupted_run_in_one_process_is_resumed_in_one_process(run_once: Any, tmp_path: Path) -> None:
    whole, run_dir = run_once("wilson_cowan", SMALL), tmp_path / "run"
    values = {**SMALL, "exchange.transport": "memory"}
    terminal = victim("recording", 9, first_arguments("run", run_dir, values), tmp_path / "screen")
    assert terminal.end() == -signal.SIGKILL
    ended = lockstep("resume", run_dir, "--quiet", "--no-report")
    assert ended.code == 0, ended.text
    assert differing(whole, run_dir) == []


def test_lockstep_run_says_how_to_go_on_when_a_program_is_killed_and_ends_well_when_it_was_resumed(
    run_once: Any, tmp_path: Path
) -> None:
    whole, run_dir = run_once("wilson_cowan", SMALL), tmp_path / "run"
    values = {**SMALL, **HOLD}
    terminal = Terminal([*running.COMMAND, *first_arguments("run", run_dir, values)], tmp_path / "run.screen")
    running.wait_until((run_dir / "peers" / "spikenet.json").exists, "NEST takes its place")
    os.kill(json.loads((run_dir / "peers" / "spikenet.json").read_text())["pid"], signal.SIGKILL)
    terminal.says("was killed by SIGKILL")
    (command,) = COMMAND_BELOW.findall(terminal.text)
    again = Terminal(f"{command} --quiet --no-report", tmp_path / "again")
    assert again.end() == 0, again.text
    assert terminal.end() == 0, terminal.text
    assert "spikenet was killed by SIGKILL, and was resumed." in terminal.text
    assert differing(whole, run_dir) == []


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_side_that_does_not_reproduce_itself_says_where_and_the_other_goes_on_holding(tmp_path: Path) -> None:
    """The network is changed while it is dead: it refuses to join. Put back, it joins."""
    folder, run_dir = tmp_path / "own", tmp_path / "run"

    def change(current_pA: float, neurons: int = 3) -> None:
        made = f'nest.Create("iaf_psc_delta", {neurons}, {{"I_e": {current_pA}}})'
        write_experiment(folder, network=NETWORK.format(broken="").replace('nest.Create("parrot_neuron", 3)', made))

    change(400.0)
    values = {**HOLD, "duration": 200.0}
    whole = running.run(folder, tmp_path / "whole", values)
    tvb = program("tvb", folder, run_dir, values, tmp_path / "tvb")
    arguments = ["spikenet", str(folder), "--run-dir", str(run_dir), *settings(values), "--quiet", "--no-report"]
    dead = victim("recording", 8, arguments, tmp_path / "spikenet")
    assert dead.end() == -signal.SIGKILL
    told_of_death(tvb, "spikenet", dead.pid)
    change(401.0)
    ended = lockstep(*resumed_arguments("spikenet", run_dir))
    assert ended.code == 8
    assert re.search(r"window \d+ \[[\d.]+, [\d.]+\) ms, at [\d.]+ ms, E@A|fires in", ended.err), ended.err
    assert "does not make the numbers again that it sent" in tvb.says(") failed in window ")
    assert tvb.process.poll() is None
    change(400.0, neurons=4)
    ended = lockstep(*resumed_arguments("spikenet", run_dir))
    assert ended.code == 3 and "no longer makes the contract" in ended.err and "populations" in ended.err
    assert tvb.process.poll() is None
    change(400.0)
    ended = lockstep(*resumed_arguments("spikenet", run_dir))
    assert ended.code == 0, ended.text
    assert tvb.end() == 0
    assert differing(whole, run_dir) == []


def test_who_holds_gives_up_after_hold_s_with_results_so_far(tmp_path: Path) -> None:
    run_dir, values = tmp_path / "run", {**SMALL, "exchange.hold_s": 0.5}
    tvb = program("tvb", "wilson_cowan", run_dir, values, tmp_path / "tvb")
    dead = victim("published", 9, first_arguments("spikenet", run_dir, values), tmp_path / "spikenet")
    assert dead.end() == -signal.SIGKILL and tvb.end() == 6
    assert "Held for it for 0.5 s, in vain." in tvb.text
    assert not running.provenance(run_dir)["complete"] and (run_dir / "tvb.h5").exists()


def test_ctrl_c_on_one_side_ends_both_though_they_would_hold(tmp_path: Path) -> None:
    run_dir, values = tmp_path / "run", {"duration": 200000.0, **HOLD}
    terminals = {name: program(name, "wilson_cowan", run_dir, values, tmp_path / name) for name in ("tvb", "spikenet")}
    for name in terminals:
        window(run_dir, name, 3)
    terminals["tvb"].send(signal.SIGINT)
    assert terminals["tvb"].end() == 130 and terminals["spikenet"].end() == 6


def test_what_cannot_be_resumed_is_refused_in_one_line(run_once: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for where in ("empty", "nowhere"):
        ended = lockstep("resume", tmp_path / where)
        assert ended.code == 5 and "nothing to resume" in ended.err and "Traceback" not in ended.err
    whole = shutil.copytree(run_once("wilson_cowan", SMALL), tmp_path / "whole")
    ended = lockstep("resume", whole, "--side", "nest")
    assert ended.code == 2 and "this run has tvb, spikenet" in ended.err
    run_dir = tmp_path / "silent"
    values = {**SMALL, "exchange.record": False}
    tvb = program("tvb", "wilson_cowan", run_dir, values, tmp_path / "tvb")
    dead = victim("published", 9, first_arguments("spikenet", run_dir, values), tmp_path / "spikenet")
    assert dead.end() == -signal.SIGKILL and tvb.end() == 6
    ended = lockstep("resume", run_dir)
    assert ended.code == 5 and "exchange.record = false" in ended.err
    ended = lockstep("check", "wilson_cowan", *settings({"exchange.record": False, **HOLD}))
    assert ended.code == 2 and "hold_s needs record = true" in ended.err


def test_a_living_program_cannot_be_resumed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    terminals = {
        name: program(name, "wilson_cowan", run_dir, {"duration": 200000.0}, tmp_path / name)
        for name in ("tvb", "spikenet")
    }
    for name in terminals:
        window(run_dir, name, 3)
    ended = lockstep("resume", run_dir, "--side", "tvb")
    assert ended.code == 5 and f"its tvb is alive as pid {terminals['tvb'].pid}" in ended.err
    ended = lockstep("resume", run_dir)
    assert ended.code == 5 and "no program is missing" in ended.err
    terminals["tvb"].send(signal.SIGINT)
    assert terminals["tvb"].end() == 130 and terminals["spikenet"].end() == 6
    died(run_dir, "tvb")
