"""linear_probe: TVB, the exchange and each simulator against numbers that are computed by hand, to rounding.

Both coupling modes, in windows of one step and in the longest that the delays allow.
"""

from __future__ import annotations

import importlib.util
import json
import math
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from running import content, contract_of, differing, run, run_in_one_process, skip_without
from tvb_lockstep.bridges.experiment import load

EXPERIMENT = "linear_probe"
SIMULATORS, MODES, WINDOWS = ("nest", "annarchy", "netpyne"), ("TVB", "spikeNet"), (0.1, "min_delay")
SINGLE = 2.0**-24  # the largest relative error of a number in single precision
ROUNDED = 4 * SINGLE  # of a coupling: its weight, state, product and sum are rounded

Runs = dict[tuple[str, float | str], Path]


@pytest.fixture(scope="module")
def by_hand() -> ModuleType:
    spec = importlib.util.spec_from_file_location("linear_probe_by_hand", load(EXPERIMENT)[1].with_name("by_hand.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=SIMULATORS)
def simulator(request: pytest.FixtureRequest) -> str:
    skip_without(request.param, load(EXPERIMENT)[1].parent)
    return request.param


def values(simulator: str, mode: str, window: float | str) -> dict[str, Any]:
    found: dict[str, Any] = {"spikenet.simulator": simulator, "exchange.synchronization_time": window}
    for row in ("interfaces.tvb_to_spikenet.0", "interfaces.tvb_to_spikenet.1"):
        found[f"{row}.coupling_mode"] = mode
    return found


@pytest.fixture(scope="module")
def runs(simulator: str, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp(simulator)
    made = {(mode, window): folder / f"{mode}-{window}" for mode, window in product(MODES, WINDOWS)}
    run_in_one_process(EXPERIMENT, {path: values(simulator, *which) for which, path in made.items()})
    return made


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("mode", MODES)
def test_every_number_of_a_run_is_its_closed_form(mode: str, window: float | str, runs: Runs, by_hand: Any) -> None:
    run_dir = runs[mode, window]
    experiment = json.loads((run_dir / "experiment.json").read_text())
    found = by_hand.simulated(run_dir)
    exact, single = (by_hand.closed_form(experiment, 500, each) for each in (False, True))
    for expected in (exact, single):
        assert np.array_equal(found.spikes.steps, expected.spikes.steps)
        assert np.array_equal(found.spikes.neurons, expected.spikes.neurons)
    for kind in ("x", "potential"):
        assert getattr(found, kind).keys() == getattr(exact, kind).keys()
        for region, numbers in getattr(found, kind).items():
            assert numbers.shape == (500,)
            assert by_hand.difference(numbers, getattr(single, kind)[region]) < 1e-12, (kind, region)
            # TVB's coupling is in single precision; nothing else is
            coupled = region == "L" or (region == "P" and mode == "TVB")
            tolerance = ROUNDED if coupled else 1e-12
            assert by_hand.difference(numbers, getattr(exact, kind)[region]) < tolerance, (kind, region)


def test_the_windows_are_those_that_the_delays_allow_and_make_no_difference(runs: Runs) -> None:
    # the shortest edge, S -> P, has 2 ms; a proxy's current needs two steps of it besides the window
    assert contract_of(runs["TVB", "min_delay"]).grid.window_steps == 20
    assert contract_of(runs["spikeNet", "min_delay"]).grid.window_steps == 18
    assert differing(runs["TVB", 0.1], runs["TVB", "min_delay"]) == []
    # the states for the proxies are sent a window late, and their synapses have that much less
    late = differing(runs["spikeNet", 0.1], runs["spikeNet", "min_delay"])
    assert {name.rpartition(".")[0] for name in late} == {"tvb_to_spikenet.0", "tvb_to_spikenet.1"}


@pytest.mark.parametrize("simulator", ["nest"], indirect=True)  # what crosses is the same for all of them
def test_through_shared_memory_between_two_programs_it_is_the_same(runs: Runs, simulator: str, tmp_path: Path) -> None:
    assert differing(run(EXPERIMENT, tmp_path / "run", values("nest", "spikeNet", 0.1)), runs["spikeNet", 0.1]) == []


def test_a_few_numbers_worked_out_on_paper(runs: Runs) -> None:
    for mode in MODES:
        logs = content(runs[mode, "min_delay"])
        states = logs["tvb.monitor0"][0]  # time, S, P, Q, K, L
        assert states[199, 1] == pytest.approx(0.99**200, rel=1e-12)
        # P: -70, -66 and -62 mV, and in TVB's mode no current before step 10: its mean decays with 5 ms from 4 mV
        potential = logs["spikenet_to_tvb.0.raw"][0][:, 0]
        assert potential[10] == pytest.approx(-70.0 + 4.0 * math.exp(-0.2), rel=1e-12)
        # then, all at x0 = 1, 1000 pA 0.5 0.8 + 50 pA = 450 pA, which is 9 mV, until x decays in step 30
        if mode == "TVB":
            at_10 = 4.0 * math.exp(-0.2)
            expected = -70.0 + 9.0 + (at_10 - 9.0) * math.exp(-0.4)
            assert potential[30] == pytest.approx(expected, abs=9.0 * ROUNDED)
        # Q, neuron 6: from -58 mV to 1600 pA, 32 mV: above -55 mV when exp(-n / 50) < 17 / 20, n = 9 > 8.1
        times, senders = logs["spikenet_to_tvb.1.raw"]
        assert (times[0], senders[0]) == (8, 6)
        # one of 7 neurons in 0.1 ms is 1000 / 0.7 Hz, in units of 0.01 per Hz, as the state at the end of the step
        assert states[8, 3] == pytest.approx(10.0 / 0.7, rel=1e-12)
        # K: that spike arrives in step 10 and is in the potential before step 11, the state at its end
        assert list(states[10:12, 4]) == [0.0, 1.0]
        # L hears 0.5 (0.3 0 + 0.7 0.05) until P's state of step 1 arrives in step 26; 0.25 decays to 0.0175 / 0.4
        assert states[25, 5] == pytest.approx(0.04375 + (0.25 - 0.04375) * 0.96**26, abs=ROUNDED)


@pytest.mark.parametrize("mode", MODES)
def test_the_closed_forms_solve_the_equations_step_by_step(mode: str, by_hand: Any) -> None:
    experiment = load(EXPERIMENT, [f"interfaces.tvb_to_spikenet.{i}.coupling_mode={mode}" for i in (0, 1)])[0]
    exact = by_hand.closed_form(experiment.model_dump(mode="json"), 500)
    n, dt, P, G = 500, 0.1, math.exp(-0.02), 0.02 * (1 - math.exp(-0.02))
    S, x_p, x_q, x_k, L = (np.full(n + 1, start) for start in (1.0, 0.0, 0.05, 0.0, 0.25))
    V_p, V_q, V_k = np.array([-70.0, -66.0, -62.0]), np.array([-70.0, -70, -70, -70, -62, -60, -58]), 0.0
    I_q = np.array([700.0, 800, 900, 1000, 1200, 1400, 1600])
    waits, arriving, spikes = np.zeros(7, int), np.zeros(n + 10), []
    V_of: dict[str, list[float]] = {"P": [], "K": []}

    def past(x: np.ndarray, step: int) -> float:
        return float(x[max(step, 0)])

    def current(step: int, scale: float, shift: float, weight: float, edge: float, delay: int) -> float:
        """Of the network's step: TVB's coupling of 1 ms before, or the state that a synapse has delayed."""
        if mode == "TVB":
            return 0.0 if step < 10 else weight * (scale * 0.5 * edge * past(S, step - 10 - delay) + shift)
        return 0.0 if step < delay else weight * 0.5 * edge * (scale * past(S, step - delay) + shift)

    for s in range(n):
        S[s + 1] = S[s] + dt * -0.1 * S[s]
        L[s + 1] = L[s] + dt * (-0.4 * L[s] + 0.5 * (0.3 * past(x_p, s - 25) + 0.7 * past(x_q, s - 40)))
        V_of["P"].append(V_p.mean())
        V_of["K"].append(V_k)
        x_p[s + 1], x_k[s + 1] = 0.05 * V_p.mean() + 3.5, V_k
        V_p = -70.0 + P * (V_p + 70.0) + G * current(s, 1000.0, 50.0, 1.0, 0.8, 20)
        moved = -70.0 + P * (V_q + 70.0) + G * (current(s, 500.0, 0.0, 2.0, 0.6, 35) + I_q)
        V_q, waits = np.where(waits > 0, V_q, moved), np.maximum(waits - 1, 0)
        fired = np.flatnonzero(V_q >= -55.0)
        V_q[fired], waits[fired] = -70.0, 10
        V_k += arriving[s]
        arriving[s + 2] += len(fired)
        x_q[s + 1] = 0.01 * 1000.0 * len(fired) / (7 * dt)
        spikes += [(s, i) for i in fired]
    assert len(spikes) >= 50 and spikes == list(zip(*map(np.ndarray.tolist, exact.spikes), strict=True))
    for region, x in {"S": S, "P": x_p, "Q": x_q, "K": x_k, "L": L}.items():
        np.testing.assert_allclose(exact.x[region], x[1:], rtol=1e-11, atol=1e-13, err_msg=region)
    for region, V in V_of.items():
        np.testing.assert_allclose(exact.potential[region], V, rtol=1e-12, atol=1e-12, err_msg=region)


def test_a_delay_of_one_step_more_or_another_digit_of_a_weight_would_be_seen(runs: Runs, by_hand: Any) -> None:
    """The closed forms of slightly other experiments are no closed forms of this run."""
    run_dir = runs["TVB", 0.1]
    found = by_hand.simulated(run_dir)
    for region, change in (("P", (0, "length", 8.4)), ("L", (3, "length", 10.4)), ("L", (4, "weight", 0.7001))):
        experiment = json.loads((run_dir / "experiment.json").read_text())
        edge, key, value = change
        experiment["tvb"]["params"]["edges"][edge][key] = value
        assert by_hand.difference(found.x[region], by_hand.closed_form(experiment, 500, True).x[region]) > 1e-6, change
