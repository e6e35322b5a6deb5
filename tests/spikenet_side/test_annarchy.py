"""ANNarchy, window by window, against values known by hand and against ANNarchy's own synapses.

One network serves all tests that simulate, so that it is compiled once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError, LockstepError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import Connectome
from tvb_lockstep.spikenet_side.annarchy import Annarchy, AnnarchyRequest, requirements, toolchain
from tvb_lockstep.spikenet_side.annarchy.adapter import rectified

try:
    toolchain.check_requirements()
    ANNarchy = toolchain.import_annarchy()
except EnvironmentFailed as missing:
    pytest.skip(str(missing), allow_module_level=True)

REGION = "V1"
SOURCE_STEPS = {"exc": [0, 7, 19, 20, 33], "inh": [4, 25]}  # of ANNarchy's own spike sources
N_COUNTERS, N_NOISY = 50, 20
made: dict[str, Any] = {}  # the populations of the network opened last


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    """`own` hears ANNarchy's own spike sources; `fed`, the same neurons, what comes from outside; `counter` adds up
    what reaches it; `noisy` fires by itself, from random initial values."""
    net = request.network
    cell = ANNarchy.IF_cond_exp(tau_refrac=0.5)
    populations = {
        "own": net.create(2, cell),
        "fed": net.create(2, cell),
        "counter": net.create(N_COUNTERS, ANNarchy.Neuron(
            parameters="i_offset = 0.25", equations="v += g_exc + i_offset : init = 0.0", spike="v > 1e9")),
        "noisy": net.create(N_NOISY, ANNarchy.Neuron(
            parameters="I = 12.0 : population", equations="5.0 * du/dt = I - u + Normal(0.0, 20.0)", spike="u > 10.0",
            reset="u = 0.0", refractory=1.0)),
    }  # fmt: skip
    populations["noisy"].u = ANNarchy.Uniform(0.0, 10.0)
    for receptor, weight, delay in (("exc", 0.7, 0.3), ("inh", 0.2, 0.1)):
        source = net.create(ANNarchy.SpikeSourceArray([0.1 * step for step in SOURCE_STEPS[receptor]]))
        net.connect(source, populations["own"], receptor).all_to_all(weights=weight, delays=delay)
    weights = ANNarchy.Uniform(0.0, 0.01)
    to_fed = net.connect(populations["noisy"], populations["fed"], "exc")
    to_fed.fixed_probability(request.params.get("probability", 0.5), weights=weights, delays=0.1)
    made.clear()
    made.update(populations)
    return {REGION: populations}


def channel(
    model: str, out: Signal, edges: tuple[Edge, ...] = (), name: str | None = None, **proxy_params: Any
) -> Channel:
    return Channel(0, name or f"{model}-channel", "tvb", "spikenet", model, "TVB", ("E",), ("E",), (REGION,), (), (),
                   proxy_params, out, out, edges)  # fmt: skip


def opened(
    build: Callable = build, dt: float = 0.1, resolution: float = 0.1, duration: float = 5.0, window: int = 1,
    inputs: tuple[Channel, ...] = (), outputs: tuple[Channel, ...] = (), seed: int = 1, **section: Any,
) -> Annarchy:  # fmt: skip
    simulator = Annarchy()
    simulator.grid = Grid.of(dt, {"spikenet": resolution}, duration, window)
    simulator.open(
        SpikenetSection(simulator="annarchy", regions=[REGION], resolution=resolution, **section),
        simulator.grid, Connectome((REGION,), np.zeros((1, 1)), np.zeros((1, 1))), seed, build,
    )  # fmt: skip
    simulator.connect(list(inputs), list(outputs))
    return simulator


def edge(population: str, weight: float = 1.0, delay: float = 0.1, group: int = 0) -> Edge:
    return Edge(group, REGION, population, weight, delay)


def potentials(*labels: str) -> Channel:
    return channel("POTENTIAL", Signal.dense("mV", [f"{label}@{REGION}" for label in labels]))


def all_windows(simulator: Annarchy, feed: Callable[[int, int], None] = lambda first, end: None) -> Spikes:
    found = [Spikes.none()]
    for k in range(simulator.grid.n_windows):
        first, end = simulator.grid.steps(k)
        feed(first, end)
        simulator.run(first, end)
        found.append(simulator.spikes())
    return Spikes(np.concatenate([s.times for s in found]), np.concatenate([s.senders for s in found]))


def counted() -> np.ndarray:
    """What has reached each counter so far, its own 0.25 of every step included."""
    return np.array(made["counter"].v)


# ------------------------------------------------------------------------------------------------------------ input


@pytest.mark.parametrize("window", [1, 7, 50])
def test_a_spike_from_outside_acts_bit_for_bit_as_by_a_synapse_of_annarchy(window):
    trains = Signal("spikes", "", ("A", "B"), (2, 1))
    edges = (edge("fed", 0.7, 0.3), edge("fed", -0.2, 0.1, group=1))  # a negative weight is one of g_inh
    spikes, potential = channel("SPIKES", trains, edges), potentials("own", "fed")
    given = sorted([(s, 1) for s in SOURCE_STEPS["exc"]] + [(s, 2) for s in SOURCE_STEPS["inh"]])

    def silent(request):  # without the noise that the others hear
        network = build(request)
        made["noisy"].I = 0.0
        made["noisy"].u = -1e6
        return network

    simulator = opened(silent, window=window, inputs=(spikes,), outputs=(potential,))
    found, fired = [], []
    for k in range(simulator.grid.n_windows):
        first, end = simulator.grid.steps(k)
        now = [each for each in given if first <= each[0] < end]
        times, senders = np.array(now, np.int64).reshape(-1, 2).T
        simulator.feed(spikes, Spikes(times, senders.astype(np.int32)), first, end)
        simulator.run(first, end)
        found.append(simulator.potential(potential))
        fired += zip(*(part.tolist() for part in simulator.spikes()), strict=True)
    own, fed = np.concatenate(found).T
    assert own.tobytes() == fed.tobytes() and own.std() > 1.0
    assert own[0] == own[3] == -65.0 < own[4]  # fired in step 0, arrives in step 3: v is higher at the start of step 4
    assert [(t, i) for t, i in fired if i < 2] == [(t, i - 2) for t, i in fired if i in (2, 3)] != []


def test_rates_make_poisson_spikes_of_every_number_in_a_step():
    """30 neurons of 1000 Hz are 3 spikes in a step; the mean and the variance of 50 x 400 counts within 5 sigma."""
    rate = channel("RATE", Signal.dense("Hz", ["A"]), (edge("counter", 1.0, 0.2),), number_of_neurons=30)
    simulator = opened(duration=40.3, window=1, inputs=(rate,))
    before, counts = np.zeros(N_COUNTERS), []
    for k in range(403):
        simulator.feed(rate, np.full((1, 1), 1000.0 if k < 400 else 0.0), k, k + 1)
        simulator.run(k, k + 1)
        counts.append(counted() - before - 0.25)
        before = counted()
    counts = np.array(counts)
    assert (counts[:2] == 0).all() and (counts[402:] == 0).all()  # step 399 acts in step 401
    counts = counts[2:402]
    n = counts.size
    assert (counts == counts.round()).all()
    assert abs(counts.mean() - 3.0) < 5 * np.sqrt(3.0 / n)
    assert abs(counts.var() - 3.0) < 5 * np.sqrt((3.0 + 2 * 9.0) / n)  # variance of the sample variance of a Poisson
    assert np.abs(np.corrcoef(counts.T) - np.eye(N_COUNTERS)).max() < 5.5 / np.sqrt(400)  # trains of their own


def test_currents_of_several_edges_add_to_what_the_neuron_has_and_leave_it_as_it_was():
    edges = (edge("counter", 2.0, 0.1), edge("counter", 1.0, 0.3, group=1), edge("noisy", 0.5, 0.2))
    first = channel("CURRENT", Signal.dense("pA", ["A", "B"]), edges[:2], "first")
    second = channel("CURRENT", Signal.dense("pA", ["A"]), (edge("counter", -1.0, 0.1),), "second")
    other = channel("CURRENT", Signal.dense("pA", ["A"]), edges[2:], "other", receptor_type="I")
    simulator = opened(duration=1.0, window=5, inputs=(first, second, other))
    given = {"first": np.zeros((10, 2)), "second": np.zeros((10, 1)), "other": np.zeros((10, 1))}
    given["first"][[1, 4], 0], given["first"][2, 1], given["second"][1, 0] = [0.1, 0.7], 1.3, 0.3
    given["other"][:3] = 0.1
    sums = [0.0]
    for start in (0, 5):
        for each in (first, second, other):
            simulator.feed(each, given[each.name][start : start + 5], start, start + 5)
        simulator.run(start, start + 5)
        sums.append(counted()[0])
    assert (counted() == counted()[0]).all()
    # step 2: 2 x 0.1 - 0.3; step 5: 2 x 0.7 + 1.3. Each of the 10 steps adds 0.25.
    assert sums == pytest.approx([0.0, 5 * 0.25 + 0.2 - 0.3, 10 * 0.25 + 0.2 - 0.3 + 1.4 + 1.3], rel=1e-12)
    assert made["noisy"].I == 12.0 and (np.array(made["counter"].i_offset) == 0.25).all()


@pytest.mark.parametrize(
    ("model", "population", "params", "message"),
    [
        ("RATE", "counter", {"receptor_type": "inh"}, "no conductance g_inh for spikes.*one of: exc"),
        ("SPIKES", "noisy", {}, "edge A -> noisy@V1: the neuron has no conductance g_exc .*none; it has no var"),
        ("CURRENT", "noisy", {}, "no parameter 'i_offset' for a CURRENT. .*receptor_type, one of: I"),
        ("CURRENT", "counter", {"receptor_type": "v"}, "no parameter 'v' for a CURRENT"),
        ("SPIKES", "fed", {"correlation": 0.2, "correlation_tau_ms": 5.0}, "correlation: only with model RATE"),
        ("RATE", "fed", {"correlation": 1.2, "correlation_tau_ms": 5.0}, "correlation = 1.2: .* than 0, at most 1"),
        ("RATE", "fed", {"correlation": 0.2}, "correlation_tau_ms = None: it must be a number greater than 0"),
    ],
)
def test_an_input_that_the_neurons_cannot_take_is_refused_with_those_that_they_can(model, population, params, message):
    out = Signal("spikes", "", ("A",), (1,)) if model == "SPIKES" else Signal.dense("Hz", ["A"])
    with pytest.raises(ExperimentError, match=message):
        opened(inputs=(channel(model, out, (edge(population),), **params),))


def test_a_potential_of_neurons_without_v_names_what_they_have():
    with pytest.raises(ExperimentError, match=r"population noisy@V1: the neuron has no variable v .*: I, u"):
        opened(outputs=(potentials("noisy"),))


# ------------------------------------------------------------------------------------------- correlated spike trains


def test_a_rectified_rate_has_the_mean_and_the_variance_that_were_asked_for():
    """Mean and variance of max(0, mu + sigma N(0, 1)) by numerical integration."""
    rates = np.array([[0.5, 10.0], [80.0, 3000.0]])
    mean, deviation = (each / 100 for each in rectified(rates, correlation=0.3, tau_ms=10.0, trains=100))
    x = np.linspace(-9, 9, 400_001)
    weight = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    for at in np.ndindex(rates.shape):
        values = np.maximum(0.0, mean[at] + deviation[at] * x)
        found = (weight * values).sum()
        assert found == pytest.approx(rates[at], rel=1e-4)
        assert (weight * (values - found) ** 2).sum() == pytest.approx(0.3 * rates[at] / 0.02, rel=1e-3)
    assert (np.concatenate(rectified(np.zeros((3, 1)), 0.3, 10.0, 100)) == 0).all()


def test_correlated_trains_have_the_rate_and_the_correlation_that_were_asked_for():
    """100 trains of 20 Hz, correlation 0.5, tau 5 ms: the variance of their sum in 100 ms, against that of the theory.

    var = n r T + n (n - 1) c r T (1 - (1 - exp(-T / tau)) tau / T), plus each train's own fluctuation: n c r T (…).
    """
    n, rate_hz, c, tau_ms, bin_ms, n_bins = 100, 20.0, 0.5, 5.0, 100.0, 2000
    params = {"number_of_neurons": n, "correlation": c, "correlation_tau_ms": tau_ms}
    rate = channel("RATE", Signal.dense("Hz", ["A"]), (edge("counter", 1.0, 0.5),), **params)
    steps = round(bin_ms / 0.1)
    simulator = opened(duration=n_bins * bin_ms, window=steps, inputs=(rate,))
    sums = [0.0]
    payload = np.full((steps, 1), rate_hz)
    for k in range(n_bins):
        simulator.feed(rate, payload, k * steps, (k + 1) * steps)
        simulator.run(k * steps, (k + 1) * steps)
        assert (counted() == counted()[0]).all()  # all neurons hear the same trains
        sums.append(counted()[0] - 0.25 * (k + 1) * steps)
    counts = np.diff(sums)[1:]
    expected = n * rate_hz * bin_ms / 1000
    fluctuation = n * n * c * rate_hz * bin_ms / 1000 * (1 - (1 - np.exp(-bin_ms / tau_ms)) * tau_ms / bin_ms)
    variance = expected + fluctuation
    assert abs(counts.mean() - expected) < 5 * np.sqrt(variance / n_bins)
    assert counts.var() == pytest.approx(variance, rel=0.2)  # 5 sigma of a skewed distribution's variance
    assert fluctuation > 40 * expected


def test_correlated_trains_follow_their_rate_at_once_and_what_is_under_way_arrives():
    """A rate for steps 10 to 29 of 0.1 ms, delay 2.5 ms, cut into windows in three ways: the same spikes, in the steps
    35 to 54 alone."""
    found = []
    for window in (1, 7, 60):
        rate = channel("RATE", Signal.dense("Hz", ["A"]), (edge("counter", 1.0, 2.5),), number_of_neurons=100,
                       correlation=0.1, correlation_tau_ms=20.0)  # fmt: skip
        simulator = opened(duration=6.0, window=window, inputs=(rate,))
        rates = np.zeros((60, 1))
        rates[10:30] = 100.0
        at = {}
        for k in range(simulator.grid.n_windows):
            first, end = simulator.grid.steps(k)
            simulator.feed(rate, rates[first:end], first, end)
            simulator.run(first, end)
            at[end] = round(counted()[0] - 0.25 * end)
        found.append(at)
    by_step = [found[0][step] for step in range(1, 61)]
    assert by_step[34] == 0 and by_step[35] < by_step[45] < by_step[54] == by_step[59]
    assert all(found[0][end] == n for other in found[1:] for end, n in other.items())


# --------------------------------------------------------------------------------------------------- reproducibility


def test_everything_random_follows_the_seed():
    """Noise; initial values and weights drawn from distributions of ANNarchy, which have generators of their own."""

    def run(seed: int) -> tuple[list[int], bytes, bytes]:
        simulator = opened(duration=100.0, window=100, seed=seed)
        initial = np.array(made["noisy"].u).tobytes()
        weights = [dendrite.w for dendrite in simulator._network.get_projections()[-1]]
        return all_windows(simulator).times.tolist(), initial, repr(weights).encode()

    first, again, other = run(3), run(3), run(4)
    assert first == again and len(first[0]) > 50
    assert all(mine != others for mine, others in zip(first, other, strict=True))


def test_something_else_that_simulates_is_noticed():
    simulator = opened()
    simulator.run(0, 1)
    simulator._network.simulate(0.1)
    with pytest.raises(LockstepError, match="ANNarchy's clock shows step 2, not 1: something else has simulated"):
        simulator.run(1, 2)


def test_a_network_that_another_took_the_place_of_does_not_run_on():
    first = opened()
    second = opened()
    with pytest.raises(LockstepError, match="another network of ANNarchy was opened in this process"):
        first.run(0, 1)
    first.close()
    second.run(0, 1)


# ------------------------------------------------------------------------------------------- what is refused, at once


def relay(request: AnnarchyRequest) -> Any:
    return request.network.create(1, ANNarchy.Neuron(equations="v = g_exc", spike="v > 0.5"))


def elsewhere(request: AnnarchyRequest) -> Any:
    """As in ANNarchy 4: in the network that is there when none is named."""
    return ANNarchy.core.Population.Population(1, ANNarchy.Izhikevich)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda request: None, "the build function returned NoneType"),
        (lambda request: {}, "returned nothing for V1"),
        (lambda request: {REGION: {"E": relay(request)}, "V7": {}}, "not of this program: V7"),
        (lambda request: {REGION: relay(request)}, "returned Population .* for region V1"),
        (lambda request: {REGION: {}}, "an empty dict for region V1"),
        (lambda request: {REGION: {"E": [1, 2]}}, "returned list .* for population 'E' of V1"),
        (lambda request: {REGION: {"E": relay(request)[:1]}}, "returned PopulationView for population 'E' of V1"),
        (lambda request: {REGION: {"E": elsewhere(request)}}, "a population of another network for population 'E'"),
        (lambda request: {REGION: dict.fromkeys("EI", relay(request))}, "population is returned twice: E@V1, I@V1"),
        (lambda request: {REGION: {"E": request.network.create(1, ANNarchy.Neuron(equations="r = 1.0"))}},
         "a population without spikes for population 'E' of V1"),
    ],
)  # fmt: skip
def test_a_build_function_that_returns_nonsense_is_told_what_is_expected(returned, message):
    with pytest.raises(ExperimentError, match=f"network:build: .*{message}.*It must return a dictionary of"):
        opened(returned)


def test_a_build_function_that_changes_the_set_up_is_refused():
    def change(**settings):
        def function(request):
            request.network.config(**settings)
            return {REGION: {"E": relay(request)}}

        return function

    with pytest.raises(ExperimentError, match=r"changed the set-up of request.network: dt = 0.5 ms, num_threads = 1"):
        opened(change(dt=0.5))
    with pytest.raises(ExperimentError, match=r"num_threads = 2.*create and connect populations only"):
        opened(change(num_threads=2))


def test_a_projection_without_synapses_is_refused_before_annarchy_crashes_with_it():
    with pytest.raises(ExperimentError, match=r"projection from pop3 to pop1 \(exc\) has no synapses"):
        opened(params={"probability": 0.0})


def test_more_threads_are_refused():
    with pytest.raises(ExperimentError, match="threads of spikenet = 2: ANNarchy runs with one thread here"):
        opened(threads=2)


def test_annarchy_4_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(toolchain.importlib.metadata, "version", lambda name: "4.8.2.7")
    with pytest.raises(EnvironmentFailed, match=r"ANNarchy 4.8.2.7 cannot be used.*Supported: ANNarchy 5"):
        Annarchy()


def test_missing_tools_are_named_in_one_line_with_the_cure(monkeypatch, tmp_path):
    assert requirements() == []
    for tool in ("g++", "make"):
        (tmp_path / tool).symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    (problem,) = requirements()
    assert "and cmake cannot be found" in problem and "apt install g++ cmake make" in problem and "\n" not in problem
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EnvironmentFailed, match=r"g\+\+ and cmake and make cannot be found"):
        Annarchy()


# ---------------------------------------------------------------------------------------------------------- the cache


def test_a_network_that_does_not_compile_names_the_error_and_the_file_and_leaves_nothing_half_made(
    monkeypatch, tmp_path
):
    """g_L for a leak: to ANNarchy, what begins with g_ is a synapse, and its C++ does not compile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def wrong(request):
        neuron = ANNarchy.Neuron(
            parameters="g_L = 0.1 : population", equations="dv/dt = -g_L * v + g_exc", spike="v > 1.0"
        )
        return {REGION: {"E": request.network.create(1, neuron)}}

    with pytest.raises(EnvironmentFailed, match=r"make failed to compile the network .*g_L.*that it said is in") as no:
        opened(wrong)
    kept = Path(str(no.value).split(" is in ")[1].rstrip("."))
    assert "g_L" in kept.read_text()
    left = {path.suffix for path in kept.parent.iterdir()}
    assert left == {".log", ".lock"}


def test_two_that_start_at_once_compile_once_and_leave_nothing_but_the_cache(tmp_path):
    """Two processes with an empty cache and arguments that ANNarchy would take for its own; then a third one."""
    program = """
import sys
import numpy as np
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import Connectome
from tvb_lockstep.spikenet_side.annarchy import Annarchy

def build(request):
    import ANNarchy
    neuron = ANNarchy.Neuron(parameters="rate = 0.2", equations="v += rate", spike="v > 1.0", reset="v = 0.0")
    return {"V1": {"E": request.network.create(1, neuron)}}

simulator = Annarchy()
grid = Grid.of(0.1, {"spikenet": 0.1}, 2.0, 20)
section = SpikenetSection(simulator="annarchy", regions=["V1"])
simulator.open(section, grid, Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1))), 1, build)
simulator.connect([], [])
simulator.run(0, 20)
assert simulator.spikes().times.tolist() == [5, 11, 17], simulator.spikes()
"""
    cache, here = tmp_path / "cache", tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", program, "--help", "-d", "-c", "--report", "x.md"]
    both = [
        subprocess.Popen(command, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [(*process.communicate(timeout=900), process.returncode) for process in both]
    third = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=900)
    ended.append((third.stdout, third.stderr, third.returncode))
    assert [(out, code) for out, _, code in ended] == [("", 0)] * 3, ended
    said = [error.count("compiling the network") for _, error, _ in ended]
    assert sorted(said[:2]) == [0, 1] and said[2] == 0
    assert list(here.iterdir()) == []
    folder = cache / "tvb-lockstep" / "annarchy"
    (network,) = [path for path in folder.iterdir() if path.is_dir()]
    assert sorted(path.name for path in network.iterdir()) == ["build.log", "network.so"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([network.name, f"{network.name}.lock"])
