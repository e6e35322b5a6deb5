"""No spike is lost or doubled on any leg: what the network fires is what is recorded, sent, received, delivered, and
counted in TVB, region by region; and what is played to it arrives once.

linear_probe with other numbers. Two witnesses that know nothing of the exchange: the network's own count (K, a neuron
without leak that hears P, Q and its own proxies: each spike adds 2^14, 1 or 2^28 mV to its potential), and spikes
computed from the equations. Q holds two neurons that fire every 20 steps, one in the first and one in the last of them.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from running import content, contract_of, provenance, run_in_one_process, skip_without
from tvb_lockstep.bridges.experiment import load

EXPERIMENT = "linear_probe"
SIMULATORS = ("nest", "annarchy", "netpyne")
MODELS, MODES, WINDOWS = ("RATE", "SPIKES", "CURRENT"), ("TVB", "spikeNet"), (0.1, "min_delay")
N_STEPS, DT_MS = 300, 0.1
NEURONS = {"P": slice(0, 3), "Q": slice(3, 10)}  # by region, their numbers in the log of all spikes
SIZES = {region: numbers.stop - numbers.start for region, numbers in NEURONS.items()}
TRAINS = 10  # behind each proxy
I_P = [600.0, 650.0, 700.0]  # pA: 12, 13 and 14 of the 15 mV to the threshold
# 4200 pA are 84 mV: 84 (1 - exp(-10 / 50)) = 15.2 mV, and 13.8 in 9 steps; with 10 refractory ones, 20 between spikes.
# From -55.5 mV the first one comes in step 0, from -88.5 mV (102.5 exp(-20 / 50) = 68.7 below 84 mV) in step 19.
I_Q = [4200.0, 4200.0, 800.0, 1000.0, 1200.0, 1400.0, 1600.0]
V_Q = [-55.5, -88.5, -70.0, -70.0, -62.0, -60.0, -58.0]
DIGIT = {"Q": 1, "P": 2**14, "in": 2**28}

Scheme = tuple[str, str, float | str]


class Counts(NamedTuple):
    """Steps of the spikes of each neuron of the log, by region, and how many there are."""

    steps: np.ndarray
    neurons: np.ndarray

    def of(self, region: str) -> np.ndarray:
        numbers = NEURONS[region]
        return self.steps[(self.neurons >= numbers.start) & (self.neurons < numbers.stop)]


@pytest.fixture(scope="module", params=SIMULATORS)
def simulator(request: pytest.FixtureRequest) -> str:
    skip_without(request.param, load(EXPERIMENT)[1].parent)
    return request.param


def values(simulator: str, model: str, mode: str, window: float | str) -> dict[str, Any]:
    def row(region: str, population: str, weight: float, scale: float) -> dict[str, Any]:
        proxies: dict[str, Any] = {"weight": weight}
        if model != "CURRENT":
            proxies["number_of_neurons"] = TRAINS
        return {
            "voi": "x", "populations": population, "regions": region, "model": model, "coupling_mode": mode,
            "proxy_params": proxies, "transformer_params": {"scale_factor": scale},
        }  # fmt: skip

    # through a synapse of a proxy the weight of the connectome, 1 to K, and a = 0.5 come on top
    to_k = DIGIT["in"] / (0.5 if mode == "spikeNet" else 1.0)
    rows = [row("P", "probe", 1.0, 1000.0)]
    if model != "CURRENT":
        rows.append(row("K", "counter", to_k, 5000.0))
    return {
        "duration": N_STEPS * DT_MS,
        "spikenet.simulator": simulator,
        "exchange.synchronization_time": window,
        "spikenet.params.P.I_e": I_P,
        "spikenet.params.Q.I_e": I_Q,
        "spikenet.params.Q.V_m": V_Q,
        "spikenet.params.K.weight.P": float(DIGIT["P"]),
        "interfaces.tvb_to_spikenet": rows,
        "interfaces.spikenet_to_tvb": [
            {"voi": "x", "populations": "probe", "regions": ["P", "Q"]},  # Hz
            {"voi": "x", "populations": "counter", "regions": "K", "model": "POTENTIAL"},
        ],
    }


@pytest.fixture(scope="module")
def runs(simulator: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Scheme, Path]:
    folder = tmp_path_factory.mktemp(simulator)
    made = {scheme: folder / "-".join(map(str, scheme)) for scheme in product(MODELS, MODES, WINDOWS)}
    run_in_one_process(EXPERIMENT, {path: values(simulator, *scheme) for scheme, path in made.items()})
    return made


@pytest.fixture(params=product(MODELS, MODES, WINDOWS), ids=lambda scheme: "-".join(map(str, scheme)))
def run_dir(request: pytest.FixtureRequest, runs: dict[Scheme, Path]) -> Path:
    return runs[request.param]


def recorded(logs: dict[str, list[np.ndarray]]) -> Counts:
    return Counts(*logs["spikenet.spikes"])


def so_far(steps: np.ndarray, later: int) -> np.ndarray:
    """How many of the spikes in `steps` are in a potential `later` steps after theirs, before each step of the run."""
    return np.searchsorted(np.sort(steps) + later, np.arange(N_STEPS), side="right")


def counted_by_k(logs: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Spikes that have reached K before each step of the run: of P, of Q, and of its own proxies ("in")."""
    potential = logs["spikenet_to_tvb.1.raw"][0][:, 0]
    number = potential.astype(np.int64)
    assert (number == potential).all()
    rest, q = np.divmod(number, DIGIT["P"])
    own, p = np.divmod(rest, DIGIT["in"] // DIGIT["P"])
    return {"P": p, "Q": q, "in": own}


def test_the_network_fires_on_both_edges_of_the_windows_and_in_the_first_and_last_step_of_all(run_dir: Path) -> None:
    spikes, window = recorded(content(run_dir)), contract_of(run_dir).grid.window_steps
    assert spikes.steps[spikes.neurons == 3].tolist() == list(range(0, N_STEPS, 20))
    assert spikes.steps[spikes.neurons == 4].tolist() == list(range(19, N_STEPS, 20))
    assert {0, window - 1} <= set((spikes.of("Q") % window).tolist())
    assert len(spikes.of("P")) >= 3 and len(spikes.of("P")) + len(spikes.of("Q")) == len(spikes.steps)


def test_what_the_network_counts_of_its_own_spikes_is_what_is_recorded_of_them(run_dir: Path) -> None:
    logs = content(run_dir)
    own = counted_by_k(logs)
    for region in NEURONS:  # 2 steps on the way; in the potential one step after that in which it arrives
        np.testing.assert_array_equal(own[region], so_far(recorded(logs).of(region), 3), err_msg=region)


def test_what_is_recorded_is_sent_received_and_delivered(run_dir: Path) -> None:
    logs = content(run_dir)
    times, senders = logs["spikenet_to_tvb.0.raw"]
    spikes = recorded(logs)
    assert np.array_equal(times, spikes.steps) and np.array_equal(senders, spikes.neurons)
    n, windows = len(spikes.steps), contract_of(run_dir).grid.n_windows
    channels = provenance(run_dir)["channels"]
    channel = channels["spikenet_to_tvb.0"]
    assert [channel[f"spikes_{leg}"] for leg in ("sent", "received", "delivered")] == [n, n, n]
    for name, each in channels.items():
        assert [each[f"frames_{leg}"] for leg in ("sent", "received", "delivered")] == [windows] * 3, name
        assert each["balanced"], name
    with h5py.File(run_dir / "spikes.h5") as file:
        for region in NEURONS:
            assert len(file[f"spikes/probe@{region}/node_ids"]) == len(spikes.of(region))


def test_tvb_counts_every_spike_once_in_the_region_and_step_that_it_belongs_to(run_dir: Path) -> None:
    logs = content(run_dir)
    rates = logs["spikenet_to_tvb.0.transformed"][0]
    states = logs["tvb.monitor0"][0]  # time, S, P, Q, K, L
    for column, (region, state) in enumerate((("P", 2), ("Q", 3))):
        steps, n = recorded(logs).of(region), SIZES[region]
        per_step = np.bincount(steps, minlength=N_STEPS)
        for seen in (rates[:, column], states[:, state]):  # Hz
            np.testing.assert_allclose(seen * n * DT_MS / 1000.0, per_step, rtol=1e-13, atol=0, err_msg=region)
            total = math.fsum(seen * (n * DT_MS / 1000.0))
            assert total == pytest.approx(len(steps), rel=1e-13)
            # the mean rate that TVB sees, and that of the network in spikes, neurons and seconds
            assert seen.mean() == pytest.approx(len(steps) / n / (N_STEPS * DT_MS / 1000.0), rel=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
def test_every_spike_that_the_bridge_draws_is_received_and_arrives_once(
    mode: str, window: float | str, runs: dict[Scheme, Path]
) -> None:
    run_dir = runs["SPIKES", mode, window]
    logs, channels = content(run_dir), provenance(run_dir)["channels"]
    for name in ("tvb_to_spikenet.0", "tvb_to_spikenet.1"):
        n = len(logs[f"{name}.transformed"][0])
        assert n > 30
        assert [channels[name][f"spikes_{leg}"] for leg in ("sent", "received", "delivered")] == [n, n, n], name
    np.testing.assert_array_equal(
        counted_by_k(logs)["in"], so_far(logs["tvb_to_spikenet.1.transformed"][0], delay(run_dir, 1) + 1)
    )


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
def test_the_simulators_own_trains_have_the_rate_that_is_sent(
    mode: str, window: float | str, runs: dict[Scheme, Path]
) -> None:
    run_dir = runs["RATE", mode, window]
    logs = content(run_dir)
    rates = logs["tvb_to_spikenet.1.transformed"][0][:, 0]  # Hz, of each train
    arrived = counted_by_k(logs)["in"]
    heard = rates[: N_STEPS - 1 - delay(run_dir, 1)] * TRAINS * DT_MS / 1000.0
    assert arrived[-1] > 200 and (np.diff(arrived) >= 0).all()
    assert abs(arrived[-1] - heard.sum()) < 4.0 * math.sqrt(heard.sum())
    assert not arrived[: delay(run_dir, 1) + 1].any()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", ["SPIKES", "CURRENT"])
def test_the_network_fires_as_its_equations_do_when_each_input_acts_once(
    model: str, mode: str, window: float | str, runs: dict[Scheme, Path]
) -> None:
    """V moves by the exact solution of a step and jumps by the weight of the spikes that arrive in it."""
    run_dir = runs[model, mode, window]
    logs = content(run_dir)
    current, jump, late = np.zeros(N_STEPS + 100), np.zeros(N_STEPS + 100), delay(run_dir, 0)
    weight = 1.0 if mode == "TVB" else 0.5 * 0.8
    sent = logs["tvb_to_spikenet.0.transformed"]
    if model == "CURRENT":
        current[late : late + N_STEPS] = weight * sent[0][:, 0]
    else:
        np.add.at(jump, sent[0] + late, weight)
    expected = []
    for i, (start, constant) in enumerate(zip([-70.0, -66.0, -62.0, *V_Q], [*I_P, *I_Q], strict=True)):
        v, waits, heard = start + 70.0, 0, i < 3
        for step in range(N_STEPS):
            if waits:
                waits -= 1
                continue
            v = math.exp(-0.02) * v + 0.02 * (1 - math.exp(-0.02)) * (constant + heard * current[step])
            v += heard * jump[step]
            if v >= 15.0:
                expected.append((step, i))
                v, waits = 0.0, 10
    spikes = recorded(logs)
    assert sorted(expected) == list(zip(spikes.steps.tolist(), spikes.neurons.tolist(), strict=True))


def delay(run_dir: Path, row: int) -> int:
    """Steps from a frame of row 0 (to P) or 1 (to K) to where it acts: proxy_params.delay, 1 ms; or the edge of the
    connectome, 2 or 3 ms, less the window, by which the states of a proxy are late."""
    contract = contract_of(run_dir)
    return 10 if contract.channels[row].coupling_mode == "TVB" else (20, 30)[row] - contract.grid.window_steps
