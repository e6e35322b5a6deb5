"""wilson_cowan: the coupling matters in both directions, by far more than one seed differs from another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from running import content, contract_of, run_in_one_process

SEEDS = (1, 2, 3)
SILENT = {
    "coupled": {},
    "no TVB -> NEST": {"interfaces.tvb_to_spikenet.0.transformer_params.scale_factor": 0.0},
    "no NEST -> TVB": {"interfaces.spikenet_to_tvb.0.transformer_params.scale_factor": 0.0},
}
FROM_MS = 100.0  # what comes before is not looked at

Runs = dict[str, list[Path]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("coupling")
    directories = {(name, seed): folder / f"{i}-{seed}" for i, name in enumerate(SILENT) for seed in SEEDS}
    run_in_one_process(
        "wilson_cowan",
        {run_dir: {"duration": 400, "seed": seed, **SILENT[name]} for (name, seed), run_dir in directories.items()},
    )
    return {name: [directories[name, seed] for seed in SEEDS] for name in SILENT}


def network_rates(run_dir: Path) -> dict[str, float]:
    """Spikes per neuron and second of each population."""
    contract = contract_of(run_dir)
    ticks, senders = content(run_dir)["spikenet.spikes"]
    late = ticks * contract.grid.tick_ms >= FROM_MS
    found, start = {}, 0
    for region, name, size in contract.spikenet["spikenet"]["populations"]:
        spikes = np.count_nonzero(late & (senders >= start) & (senders < start + size))
        found[f"{name}@{region}"] = spikes / size / (contract.grid.duration_ms - FROM_MS) * 1000.0
        start += size
    return found


def mean_e(run_dir: Path) -> dict[str, float]:
    """Mean E of each region of TVB."""
    samples = content(run_dir)["tvb.monitor0"][0]
    late = samples[samples[:, 0] >= FROM_MS]
    return dict(zip(contract_of(run_dir).tvb["regions"], late[:, 1:].mean(axis=0), strict=True))


def distances(coupled: list[dict[str, float]], silenced: list[dict[str, float]]) -> dict[str, float]:
    """(mean coupled - mean silenced) / SD between the seeds, pooled over both, for each key."""
    found = {}
    for key in coupled[0]:
        a, b = (np.array([run[key] for run in runs]) for runs in (coupled, silenced))
        found[key] = float((a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2))
    return found


def test_without_tvb_the_networks_fire_less_by_far_more_than_between_seeds(runs: Runs) -> None:
    coupled, silenced = (list(map(network_rates, runs[name])) for name in ("coupled", "no TVB -> NEST"))
    found = distances(coupled, silenced)
    assert len(found) == 4
    assert min(found.values()) > 5.0, found


def test_without_the_networks_the_regions_that_hear_them_change_by_far_more_than_between_seeds(runs: Runs) -> None:
    coupled, silenced = (list(map(mean_e, runs[name])) for name in ("coupled", "no NEST -> TVB"))
    found = distances(coupled, silenced)
    neighbours = contract_of(runs["coupled"][0]).tvb["neighbours"]
    strongest = {label for heard in neighbours.values() for label, _ in heard[:3]}
    assert len(strongest) == 6
    assert min(found[label] for label in strongest) > 5.0, {label: found[label] for label in strongest}
