"""Makes `running` and `programs` importable, and checks after each scenario that it left nothing behind."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

for _name in ("running", "programs", "killed", "nursery"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    assert _spec is not None and _spec.loader is not None
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])

import running  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No process of a scenario outlives it, and none of its shared memory."""
    before = running.shared_memory()
    yield
    for _ in range(200):  # the kernel takes a moment to bury a process
        alive, segments = running.started_and_alive(), running.shared_memory() - before
        if not alive and not segments:
            return
        time.sleep(0.01)
    running.kill_everything_started()
    assert not alive, f"still running after the test: {alive}"
    assert not segments, f"left in /dev/shm: {segments}"


@pytest.fixture(scope="session")
def run_all(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """``run_all(experiment, [values, …])``: the directories of these runs, each made at the first call, two at a time,
    and only looked at later."""
    made: dict[str, Path] = {}

    def run_all(experiment: str | Path, values: list[dict[str, Any]]) -> list[Path]:
        keys = [repr((str(experiment), sorted(each.items()))) for each in values]
        missing = {key: each for key, each in zip(keys, values, strict=True) if key not in made}
        with ThreadPoolExecutor(2) as pool:
            jobs = {
                key: pool.submit(running.run, experiment, tmp_path_factory.mktemp("run") / "run", each)
                for key, each in missing.items()
            }
            for key, job in jobs.items():
                made[key] = job.result()
        return [made[key] for key in keys]

    return run_all


@pytest.fixture(scope="session")
def run_once(run_all: Callable[..., list[Path]]) -> Callable[..., Path]:
    """``run_once(experiment, values)``: the directory of that one run."""
    return lambda experiment, values: run_all(experiment, [values])[0]
