"""Programs that start at the same moment, and one of them that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import SMALL, lockstep, settings
from tvb_lockstep.bridges import run_dir as directory
from tvb_lockstep.bridges.peers import hold_place

RUN = {"run_id": "0" * 32, "created": "2026-01-01 00:00:00", "experiment": "demo", "wire_version": 1}


def test_a_run_that_appears_while_one_looks_is_not_somebody_elses_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "run.lock").touch()
    (tmp_path / "run.json.17.42.tmp").touch()  # being written
    read = directory.read_run

    def read_just_before_it_is_written(run_dir: Path) -> dict | None:
        found = read(run_dir)
        (run_dir / "run.json").write_text(json.dumps(RUN))
        return found

    monkeypatch.setattr(directory, "read_run", read_just_before_it_is_written)
    directory.refuse_foreign(tmp_path)  # does not raise


def test_in_one_process_a_program_that_cannot_take_its_place_ends_the_others(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "peers").mkdir(parents=True)
    held = hold_place(run_dir, "tvb")
    assert held is not None
    ended = lockstep("run", "wilson_cowan", "--run-dir", run_dir, "--quiet", "--no-report",
                     *settings({**SMALL, "exchange.transport": "memory"}), watchdog_s=60)  # fmt: skip
    assert ended.code == 5, ended.text
    assert "is in use: its tvb is alive" in ended.err
