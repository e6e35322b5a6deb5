"""wilson_cowan with ANNarchy in the place of NEST: the same bits over transports, modes and windows."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.spikenet_side.annarchy import toolchain

try:
    toolchain.check_requirements()
    toolchain.import_annarchy()
except EnvironmentFailed as missing:
    pytest.skip(str(missing), allow_module_level=True)
if importlib.util.find_spec("tvb") is None:
    pytest.skip("tvb-library is not installed in this environment, and the runs need both", allow_module_level=True)

SHORT = "duration=51.1"  # ms; 511 steps, so that the last window is a shorter one. With its own sizes: compiled once


def lockstep(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tvb_lockstep.scripts.main", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400)


def run(folder: Path, *sets: str) -> Path:
    overrides = [part for each in (SHORT, *sets) for part in ("--set", each)]
    done = lockstep("run", "wilson_cowan", "--simulator", "annarchy", "--run-dir", folder, "--quiet", "--no-report",
                    *overrides)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("model", ["RATE", "SPIKES"])
def test_a_run_has_the_same_bits_over_transports_modes_and_windows(tmp_path, model):
    chosen = f"interfaces.tvb_to_spikenet.0.model={model}"
    first = run(tmp_path / "first", chosen)
    others = {
        "RATE": [
            ("exchange.transport=file", "exchange.mode=serial", "exchange.synchronization_time=0.5"),
            ("exchange.transport=memory", "exchange.synchronization_time=min_delay"),
        ],
        "SPIKES": [("exchange.bridge=own", "exchange.synchronization_time=0.1")],
    }[model]
    for i, sets in enumerate(others):
        done = lockstep("diff", first, run(tmp_path / str(i), chosen, *sets))
        lines = {line.split(":")[0]: line for line in done.stdout.splitlines()}
        assert "identical: 6 logs" in done.stdout, done.stdout
        assert int(lines["spikenet.spikes"].split()[-2]) > 100, "there is nothing to compare"
