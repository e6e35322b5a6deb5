"""Four programs in lock-step: TVB with one region in NEST, one in ANNarchy, one in NetPyNE. The same bits, however they
meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.scripts import environments
from tvb_lockstep.spikenet_side.annarchy import toolchain

missing = [name for name in ("tvb", "nest", "annarchy", "netpyne") if not environments.has(name)]
if missing:
    pytest.skip(f"{', '.join(missing)} not installed here", allow_module_level=True)
try:
    toolchain.check_requirements()
except EnvironmentFailed as lacking:
    pytest.skip(str(lacking), allow_module_level=True)

EXPERIMENT = "three_simulators"
# NEST draws its random numbers slice by slice; 60.3 ms, so that the last window is a shorter one
SHORT = {"duration": 60.3, "spikenet.0.min_delay": 0.1}
OTHERWISE = {
    "in one process": {"exchange.transport": "memory"},
    "files, taking turns, shorter windows": {
        "exchange.transport": "file", "exchange.mode": "serial", "exchange.synchronization_time": 0.7,
    },
    "a bridge of its own, windows as long as the delays allow": {
        "exchange.bridge": "own", "exchange.synchronization_time": "min_delay",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return running.run(EXPERIMENT, tmp_path_factory.mktemp("three") / "first", SHORT)


def test_every_network_hears_tvb_and_tvb_hears_every_network(first: Path) -> None:
    content = running.content(first)
    for name, neurons in (("cortex", 200), ("caudate", 120), ("hippocampus", 50)):
        ticks, senders = content[f"{name}.spikes"]
        assert len(ticks) > neurons / 4 and len(set(senders.tolist())) > neurons / 10
    # one low-pass filtered spike is worth 1 / (neurons 10 ms) in Hz: none of the regions is left at its steady rate
    for channel in ("cortex_to_tvb.0", "caudate_to_tvb.1", "caudate_to_tvb.2", "hippocampus_to_tvb.3"):
        (values,) = content[f"{channel}.transformed"]
        assert len(set(values[:, 0].tolist())) > 100
    assert content["caudate_to_tvb.1.transformed"][0].max() <= 0.0  # its projection neurons inhibit
    for i, name in enumerate(("cortex", "caudate", "caudate", "hippocampus")):
        (values,) = content[f"tvb_to_{name}.{i}.raw"]
        assert len(values) == 603 and values.min() > 0.0
    assert list(running.provenance(first)["contract"]["spikenet"]) == ["cortex", "caudate", "hippocampus"]


@pytest.mark.parametrize("how", OTHERWISE)
def test_it_makes_no_difference_how_they_meet(how: str, first: Path, tmp_path: Path) -> None:
    other: dict[str, Any] = OTHERWISE[how]
    run_dir = running.run(EXPERIMENT, tmp_path / "run", {**SHORT, **other})
    assert running.differing(first, run_dir) == []
    assert len(running.contract_of(run_dir).channels) == 8
