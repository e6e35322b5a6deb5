"""`lockstep bench kills`: what is drawn, compared and counted; and one real run whose NEST is killed and resumed."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile

import h5py
import numpy as np
import pytest
from tvb_lockstep.bridges.errors import LockstepError
from tvb_lockstep.bridges.peers import read_page
from tvb_lockstep.scripts import bench_kills
from tvb_lockstep.scripts.bench_kills import AFTER, BEFORE, IN, MARK, NO_PLACE, Drawn, Failed, Kill, Run, Strike
from tvb_lockstep.scripts.main import main

PROGRAMS = ("tvb", "spikenet", "bridge")
EXCHANGE = {"transport": "shm", "bridge": "receiver", "mode": "parallel", "depth": 8, "hold_s": 0.0}


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_seed_always_draws_the_same_run_and_many_seeds_draw_everything():
    runs = [bench_kills.draw(seed) for seed in range(200)]
    assert runs == [bench_kills.draw(seed) for seed in range(200)]
    for key, choices in {
        "transport": {"shm", "file"}, "bridge": {"receiver", "own"}, "mode": {"parallel", "serial"}, "depth": {1, 8},
        "hold_s": {0.0, bench_kills.HOLD_S},
    }.items():  # fmt: skip
        assert {run.exchange[key] for run in runs} == choices
    strikes = [strike for run in runs for strike in run.strikes]
    assert {len(run.strikes) for run in runs} == {1, 2, 3, 4, 5}
    assert {strike.order[0] for strike in strikes} == set(PROGRAMS)
    assert all(0 <= strike.at < 1 for strike in strikes)
    counts, _ = np.histogram([strike.at for strike in strikes], 4, (0, 1))
    assert min(counts) > len(strikes) / 6  # a quarter each, if they are spread evenly
    for kind in ("power", "at_once"):
        assert {getattr(strike, kind) for strike in strikes} == {False, True}
    for run in runs:
        there = set(PROGRAMS) if run.exchange["bridge"] == "own" else {"tvb", "spikenet"}
        assert all(set(strike.order) == there for strike in run.strikes)


@pytest.mark.parametrize(
    ("page", "summary", "phase"),
    [
        (None, None, NO_PLACE),
        ({"pid": 6, "now": {"state": "computing", "window": 3}}, None, NO_PLACE),
        ({"pid": 7, "now": {"state": "waiting", "window": -1}}, None, BEFORE),
        ({"pid": 7, "now": {"state": "catching up", "window": 0}}, None, IN),
        ({"pid": 7, "now": {"state": "computing", "window": 9}}, {"state": "finished"}, AFTER),
        ({"pid": 7, "now": {"state": "finished", "window": 9}}, None, AFTER),
    ],
)
def test_where_a_killed_program_was_is_read_from_its_page(page, summary, phase):
    assert bench_kills.phase_of(7, page, summary) == phase


def results(folder, changed=None):
    folder.mkdir()
    for name in bench_kills.COMPARED:
        values = np.array([1.0, 2.0, 3.0])
        if name == changed:
            values[1] = np.nextafter(2.0, 3.0)
        with h5py.File(folder / name, "w") as file:
            file["group/values"] = values
            file["label"] = np.array(["a", "b"], h5py.string_dtype())
    return bench_kills.results_of(folder)


@pytest.mark.parametrize("name", bench_kills.COMPARED)
def test_results_that_differ_in_one_bit_are_found_and_named(name, tmp_path):
    expected = results(tmp_path / "a")
    assert len(expected) == 6 and bench_kills.differing(expected, results(tmp_path / "b")) == []
    found = results(tmp_path / "c", changed=name)
    assert bench_kills.differing(expected, found) == [f"{name}:group/values"]
    del found[f"{name}:label"]
    assert bench_kills.differing(expected, found) == [f"{name}:group/values", f"{name}:label"]


def test_kills_are_counted_by_all_that_they_hit(capsys):
    runs = [
        (Drawn(4, EXCHANGE), [Kill("tvb", 1, IN, 5, 1, False, 0.25), Kill("tvb", 2, BEFORE, -1, 2, False, 0.75)]),
        (Drawn(5, {**EXCHANGE, "transport": "file", "hold_s": 9.0}), [Kill("spikenet", 3, IN, 2, 1, True)]),
        (Drawn(6, EXCHANGE), []),
    ]
    failure = {"why": "the results differ: tvb.h5:x", "story": ["1 s  it began"], "drawn": {}, "folder": "there",
               "again": "so"}  # fmt: skip
    figures = bench_kills.figures_of(runs, [failure])
    assert (figures["kills"], figures["runs"], figures["resumed"], figures["different"]) == (3, 3, 2, 1)
    kills = {group: row["kills"] for group, row in figures["by"].items() if row["kills"]}
    assert kills == {
        "all": 3, "tvb": 2, "spikenet": 1, BEFORE: 1, IN: 2, "in a first life": 2, "in a resumed life": 1, "alone": 2,
        "all at once": 1, "transport = shm": 2, "transport = file": 1, "bridge = receiver": 3, "mode = parallel": 3,
        "depth = 8": 3, "others hold": 1, "others end": 2,
    }  # fmt: skip
    assert figures["by"]["tvb"] == {"kills": 2, "named": 2, "named_s_median": 0.5, "named_s_max": 0.75}
    assert figures["by"][IN]["named"] == 1 and figures["by"]["spikenet"]["named_s_max"] is None
    about = {"experiment": "wilson_cowan", "duration_ms": 50.0, "seed": 4, "life_s": {"own": 6.0}, "wall_s": 90.0,
             "cores": 2}  # fmt: skip
    bench_kills.print_kills(figures | about)
    printed = capsys.readouterr().out
    assert "3 kills in 3 runs" in printed and "2 resumed without fault, 1 with different results. 1.5 min" in printed
    assert "0.75 s, tvb killed before the windows (seed 4)" in printed
    assert "FAILED: the results differ: tvb.h5:x\n1 s  it began" in printed and "again: so" in printed


class Pretended:
    """In the place of a run: two kills each; that of seed 8 gives other results, that of seed 9 hangs."""

    def __init__(self, folder, drawn, duration_ms, life_s):
        self.folder, self.run_dir, self.drawn, self.duration_ms = folder, folder / "run", drawn, duration_ms
        self.kills = [Kill("tvb", 1, IN, 5, 1, False)] * (2 if drawn.strikes else 0)
        self.story = []

    def go(self):
        self.folder.mkdir()
        if self.drawn.seed == 9:
            raise Failed("it does not end")
        results(self.run_dir, "tvb.h5" if self.drawn.seed == 8 else None)
        return 1.5


def test_runs_that_fail_are_told_and_kept_with_what_is_needed_to_see_them_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_kills, "Run", Pretended)
    file = tmp_path / "figures.json"
    assert main(["bench", "kills", "--kills", "5", "--seed", "8", "--duration", "40", "--json", str(file)]) == 1
    figures = json.loads(file.read_text())
    assert (figures["kills"], figures["runs"], figures["resumed"], figures["different"]) == (6, 3, 1, 1)
    assert [failure["why"] for failure in figures["failures"]] == [
        "the results differ: tvb.h5:group/values", "it does not end",
    ]  # fmt: skip
    (folder,) = tmp_path.glob("lockstep-bench-*")
    assert sorted(path.name for path in folder.iterdir()) == ["seed8", "seed9"]
    again = "lockstep bench kills --kills 1 --seed 9 --duration 40"
    assert json.loads((folder / "seed9" / "failure.json").read_text())["again"] == again
    assert again in capsys.readouterr().out


def test_nothing_is_kept_when_nothing_fails_and_a_failing_uninterrupted_run_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_kills, "Run", Pretended)
    assert main(["bench", "kills", "--kills", "2", "--seed", "1"]) == 0
    monkeypatch.setattr(Pretended, "go", lambda self: (_ for _ in ()).throw(Failed("no NEST")))
    with pytest.raises(LockstepError, match="the uninterrupted run failed: no NEST"):
        bench_kills.bench(2, 1, 40.0)
    assert list(tmp_path.glob("lockstep-bench-*")) == []


class StruckInTheWindows(Run):
    """Struck when NEST has gone through five windows, however long that takes here."""

    def _step(self):
        page = read_page(self.run_dir, "spikenet")
        self.life_s = 0.0 if page is not None and page["now"]["window"] >= 5 else math.inf
        super()._step()


def test_a_real_run_whose_nest_is_killed_is_resumed_to_the_same_results_and_its_leavings_are_found(tmp_path):
    undisturbed = Run(tmp_path / "undisturbed", Drawn(0, EXCHANGE), 400.0, 20.0)
    undisturbed.go()
    strike = Strike(0.5, ("spikenet", "tvb"), power=False, at_once=False)
    run = StruckInTheWindows(tmp_path / "struck", Drawn(0, {**EXCHANGE, "depth": 1}, (strike,), True), 400.0, 20.0)
    run.go()
    (kill,) = run.kills
    assert (kill.program, kill.phase, kill.life) == ("spikenet", IN, 1) and kill.window >= 5
    assert kill.named_s is not None and kill.named_s > 0
    assert any(f"kill -9 spikenet (pid {kill.pid})" in event for event in run.story)
    assert bench_kills.differing(bench_kills.results_of(undisturbed.run_dir), bench_kills.results_of(run.run_dir)) == []

    other = subprocess.Popen(["sleep", "60"], env={**os.environ, MARK: run._mark})
    try:
        with pytest.raises(Failed, match=f"process {other.pid}"):
            run.check()
    finally:
        other.kill()
        other.wait()
    left = run.run_dir / "tvb.h5.4194305.tmp"  # of a pid that cannot be
    left.write_bytes(b"")
    with pytest.raises(Failed, match=left.name):
        run.check()
