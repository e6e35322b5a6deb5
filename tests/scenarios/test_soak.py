"""A hundred thousand windows: nothing grows but the recording. Programs without simulators, see nulls.py."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if "nulls" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("nulls", Path(__file__).with_name("nulls.py"))
    assert _spec is not None and _spec.loader is not None
    sys.modules["nulls"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["nulls"])

from nulls import Programs, Shape, alone, check, leftovers, rings

TIMING_BYTES = 48  # a window, in a mapped file: it is resident as far as it was written
CODE_BYTES = 1 << 20  # libraries are mapped files, too: what of them is needed for the first time becomes resident
ROOM_BYTES = 1 << 18  # 3 bytes a window in 90 000 windows, 15 in 18 000; an object kept takes 24 or more


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """Some ten megabytes, of no use to anybody later."""
    yield tmp_path / "run"
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


@pytest.mark.parametrize(
    ("transport", "bridge", "n_windows"),
    [("shm", "receiver", 100_000), ("shm", "own", 20_000), ("file", "receiver", 20_000)],
    ids=["rings", "rings and a bridge", "files"],
)
def test_memory_and_open_files_stay_flat_and_only_the_recording_grows(
    transport: str, bridge: str, n_windows: int, run_dir: Path, tmp_path: Path
) -> None:
    shape = Shape(n_steps=2 * n_windows - 1)
    looks = (n_windows // 10, n_windows - 1)
    memory, descriptors = [], []
    with Programs(tmp_path) as programs:
        stops = {str(k): "SIGSTOP" for k in looks}
        started = programs.run(
            shape, run_dir, {name: {"at": stops} for name in ("tvb", "spikenet")},
            transport=transport, bridge=bridge, keep=2,
        )  # fmt: skip
        for _ in looks:
            for name in ("tvb", "spikenet"):
                started[name].stopped()
            memory.append({name: program.memory for name, program in started.items()})
            descriptors.append({name: program.descriptors for name, program in started.items()})
            assert rings(run_dir) == set(), "from the first window on they have no names"
            for folder in (run_dir / "exchange").glob("*_*"):
                assert len(list(folder.glob("*.npy"))) <= 2 + 8, "what is kept, and what is under way"
            for name in ("tvb", "spikenet"):
                started[name].send(signal.SIGCONT)
        check(shape, started)
    windows = looks[1] - looks[0]
    for name in started:
        resident, anonymous = (late - early for early, late in zip(memory[0][name], memory[1][name], strict=True))
        print(f"{name}: {windows} windows, resident {resident / 1024:+.0f} KiB, anonymous {anonymous / 1024:+.0f} KiB, "
              f"{len(descriptors[1][name])} descriptors")  # fmt: skip  # pytest -s shows it
        assert anonymous < ROOM_BYTES, f"{name}: {memory}"
        assert resident < ROOM_BYTES + CODE_BYTES + TIMING_BYTES * windows, f"{name}: {memory}"
        early, late = (each[name] for each in descriptors)
        # files: events of the file system are asked for while waits are long, by an inotify and a pipe per inlet
        assert lasting(early) == lasting(late) and len(late) <= len(lasting(late)) + (3 if transport == "file" else 0)
    assert leftovers(run_dir) == set()
    logs = {path.stem: path.stat().st_size for path in (run_dir / "record").glob("*.frames")}
    dense = 80 * n_windows + 8 * shape.n_steps * shape.regions
    spikes = 80 * n_windows + 12 * alone(shape)["spikenet"][1]
    assert logs == {
        "tvb_to_spikenet.0.raw": dense, "tvb_to_spikenet.0.transformed": dense,
        "spikenet_to_tvb.0.raw": spikes, "spikenet_to_tvb.0.transformed": dense,
    }  # fmt: skip


def lasting(descriptors: list[str]) -> list[str]:
    return [each for each in descriptors if not each.startswith(("anon_inode:", "pipe:"))]
