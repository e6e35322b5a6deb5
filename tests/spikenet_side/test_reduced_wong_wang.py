"""The network of reduced_wong_wang on each simulator, against the same network in numpy: spike for spike.

The reference is written from the equations; of the experiment's own Python it takes parameters, initial potentials and
external spikes only, and these are tested by themselves.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from simulating import request_of, simulated
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError
from tvb_lockstep.bridges.experiment import load
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.program import build_of

SIMULATORS = {"nest": "nest", "annarchy": "ANNarchy", "netpyne": "netpyne"}
SEED, N_STEPS, WINDOW, H_MS = 7, 3000, 20, 0.1  # steps of 0.1 ms
TRAINS, WEIGHT, DELAY_MS = 50, 1.0, 1.5  # nS
SETS = ["spikenet.params.n_excitatory=40", "spikenet.params.n_inhibitory=10", 'spikenet.regions=["r_precuneus"]',
        "spikenet.params.J_i=0.8", f"spikenet.params.drawn_ms={N_STEPS * H_MS}"]  # fmt: skip


@pytest.fixture
def rww() -> Any:
    """The experiment's own rww_network.py."""
    experiment, path = load("reduced_wong_wang")
    build_of(experiment.program("spikenet"), path.parent)
    return sys.modules["rww_network"]


def given() -> Spikes:
    """Poisson trains of 60 Hz; the times of some of them are the same."""
    steps, senders = np.nonzero(np.random.default_rng(3).random((N_STEPS, TRAINS)) < 0.006)
    return Spikes(steps.astype(np.int64), senders.astype(np.int32))


@functools.cache
def in_numpy() -> tuple[np.ndarray, np.ndarray]:
    """Steps and neurons of all spikes: E first, then I.

    C dV/dt = -g_L (V - E_L) - (s_AMPA + s_NMDA / (1 + Mg e^(-0.062 V) / 3.57)) (V - E_ex) - s_GABA (V - E_in) and
    ds/dt = -s / tau. What arrives in a step is added at its end. A spike adds k_0 + k_1 s to the gating s of its
    neuron's NMDA synapses; everything is connected to everything but itself.
    """
    experiment, path = load("reduced_wong_wang", SETS)
    section = experiment.program("spikenet")
    build_of(section, path.parent)
    rww, p = sys.modules["rww_network"], section.params
    (drawn,) = rww.draw(request_of(section, SEED)).values()
    sizes = {"E": p["n_excitatory"], "I": p["n_inhibitory"]}
    n_e = sizes["E"]

    def of_each(name: str) -> np.ndarray:
        return np.repeat([p["E"][name], p["I"][name]], list(sizes.values()))

    V = np.concatenate([drawn.V_m["E"], drawn.V_m["I"]])
    C_m, g_L, t_ref = of_each("C_m"), of_each("g_L"), of_each("t_ref")
    own = p["E"]  # the rest is the same for E and I
    tau = np.array([own["tau_AMPA"], own["tau_decay_NMDA"], own["tau_GABA"]])[:, None]
    to_e = np.arange(len(V)) < n_e
    excitation = np.where(to_e, p["w_plus"], 1.0) * 160 / n_e
    weights = np.array([
        of_each("g_AMPA") * excitation, of_each("g_NMDA") * excitation,
        of_each("g_GABA") * np.where(to_e, p["J_i"], 1.0) * 40 / sizes["I"],
    ])  # fmt: skip
    delay = round(p["delay"] / H_MS)
    arriving = np.zeros((N_STEPS + 100, 3, len(V)))
    external = np.concatenate(
        [rww.external_spikes(drawn.generators[name], p["external_rate"], H_MS, N_STEPS) for name in sizes], axis=1
    )
    arriving[delay : N_STEPS + delay, 0] += external * of_each("g_AMPA_ext")
    for step in given().times:
        arriving[step + round(DELAY_MS / H_MS), 0, :n_e] += WEIGHT
    k_0, k_1 = rww.nmda_jump(own)

    def slope(V: np.ndarray, s: np.ndarray) -> np.ndarray:
        unblocked = 1.0 / (1.0 + own["conc_Mg2"] * np.exp(-0.062 * V) / 3.57)
        I_syn = (s[0] + s[1] * unblocked) * (V - own["E_ex"]) + s[2] * (V - own["E_in"])
        return (-g_L * (V - own["E_L"]) - I_syn) / C_m

    s, gating, waits = np.zeros((3, len(V))), np.zeros(len(V)), np.zeros(len(V), int)
    steps, neurons = [], []
    for step in range(N_STEPS):
        middle, end = s * np.exp(-H_MS / 2 / tau), s * np.exp(-H_MS / tau)
        k1 = slope(V, s)
        k2 = slope(V + H_MS / 2 * k1, middle)
        k3 = slope(V + H_MS / 2 * k2, middle)
        k4 = slope(V + H_MS * k3, end)
        V = np.where(waits > 0, own["V_reset"], V + H_MS / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        waits = np.maximum(waits - 1, 0)
        s = end + arriving[step]
        gating *= np.exp(-H_MS / own["tau_decay_NMDA"])
        fired = own["V_th"] <= V
        V[fired], waits[fired] = own["V_reset"], np.round(t_ref[fired] / H_MS).astype(int)
        jump = np.where(fired, k_0 + k_1 * gating, 0.0)
        gating += jump
        e = fired & to_e
        received = np.array([e.sum() - e, (jump * e).sum() - jump * e, (fired & ~to_e).sum() - (fired & ~to_e)])
        arriving[step + delay] += received * weights
        steps.append(np.full(fired.sum(), step))
        neurons.append(np.flatnonzero(fired))
    return np.concatenate(steps), np.concatenate(neurons)


@pytest.mark.parametrize("name", SIMULATORS)
def test_every_spike_is_that_of_the_equations(name):
    if importlib.util.find_spec(SIMULATORS[name]) is None:
        pytest.skip(f"{name} is not installed in this environment")
    experiment, path = load("reduced_wong_wang", [f"spikenet.simulator={name}", *SETS])
    section = experiment.program("spikenet")
    grid = Grid.of(H_MS, {"spikenet": section.resolution}, N_STEPS * H_MS, WINDOW)
    try:
        times, senders = simulated(
            section, path.parent, grid, given(), TRAINS, WEIGHT, DELAY_MS, SEED, receptor_type="AMPA"
        )
    except EnvironmentFailed as missing:  # no compiler
        pytest.skip(str(missing).splitlines()[0])
    steps, neurons = in_numpy()
    assert (neurons < 40).sum() > 60 and (neurons >= 40).sum() > 20
    np.testing.assert_array_equal(times, steps)
    np.testing.assert_array_equal(senders, neurons)


def test_the_nmda_jump_is_what_the_gating_rises_to_carried_back_to_the_spike(rww):
    neuron = {"alpha": 0.5, "tau_rise_NMDA": 2.0, "tau_decay_NMDA": 100.0}
    h, t_end = 0.001, 60.0  # ms: x is 1e-13 then
    for before in (0.0, 0.3):
        x, s = 1.0, before
        for _ in range(round(t_end / h)):  # dx/dt = -x / 2, ds/dt = -s / 100 + 0.5 x (1 - s), midpoint rule
            middle, at = x * np.exp(-h / 4), s + h / 2 * (-s / 100 + 0.5 * x * (1 - s))
            s += h * (-at / 100 + 0.5 * middle * (1 - at))
            x *= np.exp(-h / 2)
        k_0, k_1 = rww.nmda_jump(neuron)
        assert s * np.exp(t_end / 100) == pytest.approx(before + k_0 + k_1 * before, rel=1e-6)


def test_external_spikes_are_poisson_and_of_lecuyers_generator(rww):
    counts = rww.external_spikes(np.array([[12345.0, 1.0], [67890.0, 2.0]]), 2400.0, 0.1, 4)
    levels, x, y = rww.poisson_levels(0.24), 12345, 67890
    for row in counts:
        x, y = 40014 * x % 2147483563, 40692 * y % 2147483399
        z = (x - y) % 2147483562 or 2147483562
        assert row[0] == sum(z > level for level in levels)
    starts = np.random.default_rng(1).integers(1, 2147483398, (2, 500)).astype(float)
    many = rww.external_spikes(starts, 2400.0, 0.1, 1000)
    assert many.mean() == pytest.approx(0.24, abs=5 * np.sqrt(0.24 / many.size))
    assert many.var() == pytest.approx(0.24, rel=0.01)
    for lag in (1, 2):  # of one neuron in time, of neighbours
        assert abs(np.corrcoef(many[:-lag].ravel(), many[lag:].ravel())[0, 1]) < 5 / np.sqrt(many.size)
        assert abs(np.corrcoef(many[:, :-lag].ravel(), many[:, lag:].ravel())[0, 1]) < 5 / np.sqrt(many.size)


def test_the_mean_input_does_not_depend_on_the_sizes(rww):
    def totals(n_excitatory: int, n_inhibitory: int) -> list[float]:
        experiment, _ = load("reduced_wong_wang", [f"spikenet.params.n_excitatory={n_excitatory}",
                                                   f"spikenet.params.n_inhibitory={n_inhibitory}"])  # fmt: skip
        p = rww.Params.of(experiment.program("spikenet").params)
        return [each.weight * p.sizes[each.source] for each in rww.projections(p, "r_precuneus")]

    np.testing.assert_allclose(totals(160, 40), totals(400, 100), rtol=1e-12)
    assert totals(160, 40)[1] == pytest.approx(1.4 * 0.20 * 160)  # w_plus g_NMDA of 160 E neurons


def test_wrong_parameters_are_named(rww):
    params = load("reduced_wong_wang")[0].program("spikenet").params
    for change, message in (
        ({"J_e": 1.0}, "spikenet.params.J_e: unknown key"),
        ({"E": params["E"] | {"g_KCa": 1.0}}, "spikenet.params.E: g_KCa"),
        ({"n_inhibitory": 1}, "1 neurons in I"),
    ):
        with pytest.raises(ExperimentError, match=message):
            rww.Params.of(params | change)
    with pytest.raises(ExperimentError, match="J_i: nothing for l_insula; it has r_precuneus"):
        rww.Params.of(params | {"J_i": {"r_precuneus": 1.0}}).inhibition("l_insula")


def test_feedback_inhibition_control_holds_every_region_of_tvb_at_its_fixed_point():
    pytest.importorskip("tvb.simulator")
    experiment, path = load("reduced_wong_wang")
    sys.path.insert(0, str(path.parent))
    try:
        model = importlib.import_module("model")
        simulator = model.build(SimpleNamespace(params=experiment.tvb.params))
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("model", None)
    state = simulator.initial_conditions[-1]
    # I_e = 125 / 310 - 0.026 nA, y = 310 I_e - 125 = -8.06, H = y / (1 - exp(-0.16 y)) = 3.0631 Hz
    np.testing.assert_allclose(state[2], 3.0631, atol=1e-4)
    np.testing.assert_allclose(state[0], 0.0641 * 3.06308542 / (1 + 0.0641 * 3.06308542), rtol=1e-8)
    coupling = np.zeros((2, 68, 1))
    coupling[0] = simulator.connectivity.weights @ state[0]
    derivative = simulator.model.dfun(state[:2], coupling)
    assert np.abs(derivative).max() < 1e-15
    assert simulator.model.J_i.min() > 1.0  # all receive something from the others


def test_after_the_drawn_external_spikes_nest_goes_on_with_its_own():
    if importlib.util.find_spec("nest") is None:
        pytest.skip("nest is not installed in this environment")
    from tvb_lockstep.spikenet_side.nest.adapter import import_nest

    nest = import_nest()
    experiment, path = load(
        "reduced_wong_wang", [*SETS, "spikenet.params.n_inhibitory=100", "spikenet.params.drawn_ms=20"]
    )
    section = experiment.program("spikenet")
    nest.ResetKernel()
    nest.set(resolution=H_MS, rng_seed=3)
    (network,) = build_of(section, path.parent)(request_of(section, SEED)).values()
    meter = nest.Create("multimeter", params={"record_from": ["s_AMPA"], "interval": H_MS})
    nest.Connect(meter, network["I"])  # AMPA spikes of E weigh 50 times less
    nest.Simulate(60.0)
    events = meter.events
    s = np.zeros((600, 100))
    s[np.rint(events["times"] / H_MS).astype(int), events["senders"] - min(network["I"].tolist())] = events["s_AMPA"]
    arrived = np.rint((s[1:] - s[:-1] * np.exp(-H_MS / 2.0)) / section.params["I"]["g_AMPA_ext"])
    (drawn,) = sys.modules["rww_network"].draw(request_of(section, SEED)).values()
    expected = sys.modules["rww_network"].external_spikes(drawn.generators["I"], 2400.0, H_MS, 200)
    np.testing.assert_array_equal(arrived[5:205], expected)  # sample k is the state at the end of step k - 1
    for begin, end in ((205, 206), (205, 590)):  # at once, and in all: 0.24 for each neuron and step
        mean = 0.24 * 100 * (end - begin)
        assert abs(arrived[begin:end].sum() - mean) < 4 * np.sqrt(mean)
