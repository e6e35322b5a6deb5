"""Spikes at the very edges of the windows, several in one step, none for a thousand windows: all arrive once.

What is expected is written down step by step in experiments/edges/network.py; NEST alone, in one Simulate, agrees.
NEST steps by TVB's dt, by a half and by a quarter of it; "step" is NEST's step, which is the tick here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from running import TAG, content, contract_of, differing, provenance

EDGES = Path(__file__).with_name("experiments") / "edges"
_spec = importlib.util.spec_from_file_location("edges_network", EDGES / "network.py")
assert _spec is not None and _spec.loader is not None
network = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(network)

N_STEPS = 1051  # of TVB
ROWS = {  # by channel, (population, region) of each of its columns
    "spikenet_to_tvb.0": [("edge", "r_precuneus"), ("several", "r_precuneus")],
    "spikenet_to_tvb.1": [("always", "r_caudalmiddlefrontal"), ("silent", "r_caudalmiddlefrontal")],
    "spikenet_to_tvb.2": [("late", "r_cuneus"), ("late", "r_fusiform"), ("relay", "r_cuneus"), ("relay", "r_fusiform")],
}
NEST_ALONE = """
import json, sys
from types import SimpleNamespace
import nest
sys.path.insert(0, sys.argv[1])
import network
given = json.load(sys.stdin)
nest.ResetKernel()
nest.set(resolution=given["h"], rng_seed=1)
nodes = network.build(SimpleNamespace(regions=given["regions"], resolution_ms=given["h"], params=given["params"]))
relayed = nest.Create("spike_generator")
relayed.set(spike_times=given["times"], spike_multiplicities=given["counts"])
nest.Connect(relayed, nodes["r_fusiform"]["relay"], syn_spec={"delay": 0.7})
recorders = {}
for region, populations in nodes.items():
    for name, neurons in populations.items():
        recorders[name + "@" + region] = (nest.Create("spike_recorder"), neurons)
        nest.Connect(neurons, recorders[name + "@" + region][0])
nest.Simulate(105.1)
print("RESULT" + json.dumps({
    name: sorted(zip((recorder.events["times"]).tolist(), (recorder.events["senders"] - neurons[0].global_id).tolist()))
    for name, (recorder, neurons) in recorders.items()
}))
"""

Steps = dict[tuple[int, int], int]  # spikes by (step, neuron within its population)


def values(window_ms: float, finer: int) -> dict[str, Any]:
    """finer: NEST's steps in one of TVB's. The spikes of `several` stay in the first step of windows of 0.3 ms."""
    return {
        "exchange.synchronization_time": window_ms,
        "spikenet.resolution": 0.1 / finer,
        "spikenet.params.steps": N_STEPS * finer,
        "spikenet.params.period": 3 * finer,
    }


@pytest.fixture(
    scope="module",
    params=[(0.1, 1), (0.3, 1), (0.3, 2), (0.3, 4)],
    ids=["windows of dt", "windows of 3 dt", "windows of 6 half dt", "windows of 12 quarter dt"],
)
def run_dir(request: pytest.FixtureRequest, run_once: Callable[..., Path]) -> Path:
    return run_once(EDGES, values(*request.param))


def finer(run_dir: Path) -> int:
    """NEST's steps (here also ticks) in one step of TVB."""
    return contract_of(run_dir).grid.dt_ticks


def params(run_dir: Path) -> dict[str, int]:
    return contract_of(run_dir).experiment["spikenet"][0]["params"]


def relayed_from_tvb(run_dir: Path) -> Counter[int]:
    """Spikes that TVB sent to the relay, by the step in which its proxies fired."""
    times, _ = content(run_dir)["tvb_to_spikenet.0.transformed"]
    return Counter(times.tolist())


def expected(name: str, region: str, run_dir: Path) -> Steps:
    steps: dict[int, int] = network.spikes_of(name, **params(run_dir))
    if (name, region) == ("relay", "r_fusiform"):
        delay = 7 * finer(run_dir)  # proxy_params.delay = 0.7 ms
        steps = {s + delay: n for s, n in relayed_from_tvb(run_dir).items() if s + delay < params(run_dir)["steps"]}
    return {(s, neuron): n for s, n in steps.items() for neuron in range(network.SIZES[name])}


def populations(run_dir: Path) -> list[tuple[str, str, slice]]:
    """Name, region and numbers of the neurons of each population, in the order of the log of all spikes."""
    found, start = [], 0
    for region, name, size in contract_of(run_dir).spikenet["spikenet"]["populations"]:
        found.append((name, region, slice(start, start + size)))
        start += size
    return found


def of(times: np.ndarray, senders: np.ndarray, numbers: slice) -> Steps:
    inside = (senders >= numbers.start) & (senders < numbers.stop)
    return dict(Counter(zip(times[inside].tolist(), (senders[inside] - numbers.start).tolist(), strict=True)))


def test_every_spike_is_recorded_once_and_in_its_step(run_dir: Path) -> None:
    times, senders = content(run_dir)["spikenet.spikes"]
    found = {(name, region): of(times, senders, numbers) for name, region, numbers in populations(run_dir)}
    assert len(found) == 8
    for (name, region), spikes in found.items():
        assert spikes == expected(name, region, run_dir), f"{name}@{region}"
    counts = {name: sum(spikes.values()) for (name, region), spikes in found.items() if region != "r_fusiform"}
    # 351 windows of 0.3 ms have a first step, one of them step 0: 350; and 350 have a last one; 1 + 2 late spikes
    steps = 1051 * finer(run_dir) - 1
    assert counts == {"edge": 4 * 700, "several": 2 * 3 * 350, "always": steps, "silent": 0, "late": 3 * 3, "relay": 0}


def test_every_spike_is_sent_once(run_dir: Path) -> None:
    logs = content(run_dir)
    for channel, rows in ROWS.items():
        times, senders = logs[f"{channel}.raw"]
        start = 0
        for name, region in rows:
            numbers = slice(start, start := start + network.SIZES[name])
            assert of(times, senders, numbers) == expected(name, region, run_dir), f"{channel}: {name}@{region}"


def test_every_spike_counts_once_in_the_rates_of_its_step_in_tvb(run_dir: Path) -> None:
    """TVB's rate [kHz] in its step s is the number of spikes in that step over the neurons and 0.1 ms."""
    with h5py.File(run_dir / "tvb.h5") as file:
        for channel, rows in ROWS.items():
            rates = file[f"rates/{channel}/data"][()]
            assert rates.shape == (N_STEPS, len(rows))
            for (name, region), column in zip(rows, rates.T, strict=True):
                counts = np.zeros(N_STEPS)
                for (step, _), n in expected(name, region, run_dir).items():
                    counts[step // finer(run_dir)] += n
                size = network.SIZES[name]
                np.testing.assert_allclose(column * size * 0.1, counts, rtol=1e-12, atol=0, err_msg=f"{name}@{region}")
            assert (rates == content(run_dir)[f"{channel}.transformed"][0]).all()


def test_tvb_has_these_rates_as_the_state_of_its_regions(run_dir: Path) -> None:
    """The monitor shows the E of the replaced regions as what came in for the step that ends at its time stamp."""
    logs = content(run_dir)
    contract = contract_of(run_dir)
    raw = logs["tvb.monitor0"][0]
    labels = contract.tvb["regions"]
    assert raw[:, 0] == pytest.approx(0.1 * np.arange(1, N_STEPS + 1))
    assert contract.tvb["monitors"][0]["voi"] == ["E"]
    for i, region in ((0, "r_precuneus"), (1, "r_caudalmiddlefrontal")):
        rates = logs[f"spikenet_to_tvb.{i}.transformed"][0][:, 0]
        assert (raw[:, 1 + labels.index(region)] == rates).all(), region


def test_the_spikes_are_those_of_nest_alone_in_one_simulate(run_dir: Path) -> None:
    sent, h = sorted(relayed_from_tvb(run_dir).items()), 0.1 / finer(run_dir)
    given: dict[str, Any] = {
        "regions": list(network.AT), "params": params(run_dir), "h": h,
        "times": [round((step + 1) * h, 9) for step, _ in sent], "counts": [count for _, count in sent],
    }  # fmt: skip
    name, value = TAG.split("=")
    alone = subprocess.run(
        [sys.executable, "-c", NEST_ALONE, str(EDGES)], input=json.dumps(given), capture_output=True, text=True,
        env={**os.environ, "PYNEST_QUIET": "1", name: value}, timeout=120, check=True,
    )  # fmt: skip
    result = json.loads(alone.stdout.partition("RESULT")[2])
    times, senders = content(run_dir)["spikenet.spikes"]
    assert sum(map(len, result.values())) == len(times) > 7000
    for name, region, numbers in populations(run_dir):
        found = Counter((round(time / h) - 1, neuron) for time, neuron in result[f"{name}@{region}"])
        assert found == of(times, senders, numbers), f"{name}@{region}"
    with h5py.File(run_dir / "spikes.h5") as file:
        for label, spikes in result.items():
            stored = file[f"spikes/{label}"]
            steps = np.rint(stored["timestamps"][()] / h).astype(int) if len(spikes) else []
            assert list(zip(steps, stored["node_ids"][()], strict=True)) == [
                (round(time / h) - 1, neuron) for time, neuron in spikes
            ], label  # fmt: skip


def test_all_counters_balance(run_dir: Path) -> None:
    channels = provenance(run_dir)["channels"]
    windows = contract_of(run_dir).grid.n_windows
    assert windows in (1051, 351)
    sent = {"spikenet_to_tvb.0": 2800 + 2100, "spikenet_to_tvb.1": 1051 * finer(run_dir) - 1}
    for name, channel in channels.items():
        assert channel["balanced"], name
        assert channel["frames_sent"] == channel["frames_received"] == channel["frames_delivered"] == windows
        assert channel["spikes_sent"] == channel["spikes_received"] == channel["spikes_delivered"]
        assert channel["spikes_sent"] == sent.get(name, channel["spikes_sent"])
    assert channels["tvb_to_spikenet.0"]["spikes_sent"] == sum(relayed_from_tvb(run_dir).values()) > 900


def test_spikes_from_tvb_come_in_the_first_and_the_last_step_of_windows_and_several_in_one(run_dir: Path) -> None:
    sent, period = relayed_from_tvb(run_dir), params(run_dir)["period"]
    assert {step % period for step in sent} == set(range(period))
    assert max(sent.values()) > 2
    assert 0 in sent or min(sent) < 10


def test_both_window_lengths_give_the_same_bits(run_once: Callable[..., Path]) -> None:
    one, three = (run_once(EDGES, values(window, 1)) for window in (0.1, 0.3))
    assert differing(one, three) == []


@pytest.mark.parametrize("steps, transport", [(2, "file"), (4, "memory")])
def test_finer_steps_of_nest_give_the_same_bits_through(
    transport: str, steps: int, run_once: Callable[..., Path]
) -> None:
    base = run_once(EDGES, values(0.3, steps))
    assert contract_of(base).grid.tick_ns == 100_000 // steps
    assert differing(base, run_once(EDGES, {**values(0.3, steps), "exchange.transport": transport})) == []
