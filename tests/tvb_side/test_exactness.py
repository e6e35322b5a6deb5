"""Proxied regions fed with the states of a plain TVB run leave every other region bitwise equal to it."""

import numpy as np
import plain_tvb as plain
import pytest
from plain_tvb import PROXIED
from tvb_lockstep.tvb_side import library as tvb
from tvb_lockstep.tvb_side.simulation import RegionSimulation

MODELS = ["ReducedWongWangExcInh", "WilsonCowan", "Generic2dOscillator", "MontbrioPazoRoxin", "JansenRit"]
INTEGRATORS = ["HeunDeterministic", "HeunStochastic"]
N = 160


def proxied_simulation(reference, monitors=(), proxied=PROXIED, **kwargs):
    sim = plain.simulator(monitors=monitors, **{k: v for k, v in kwargs.items() if k not in ("undelivered", "n_steps")})
    options = {k: v for k, v in kwargs.items() if k in ("undelivered", "n_steps")}
    state = np.random.get_state()
    np.random.seed(11)
    try:
        return RegionSimulation(sim, {r: set(reference.cvars) for r in proxied}, [list(proxied)], True, **options)
    finally:
        np.random.set_state(state)


def delivered(reference, simulation, first, end):
    """Rows for `deliver`: the reference's states first + 1 … end in the order of the simulation's columns."""
    index = [(reference.variables.index(v), simulation.region_index(r)) for r, v in simulation.columns]
    return np.stack([reference.states[first + 1 : end + 1, v, r] for v, r in index], axis=1)


def drive(simulation, reference, window, n_steps=N, lag=1):
    """Run in windows, each window's delivery `lag` windows after it was integrated (0: before). Returns the coupling
    sent to the proxied regions, per coupling variable, and the samples of the monitors."""
    sent = {v: [] for v in reference.cvars} if not simulation._x_dependent else {}
    samples = [[] for _ in simulation.monitors]
    edges = [(first, min(first + window, n_steps)) for first in range(0, n_steps, window)]
    pending = []

    def deliver(until):
        while len(pending) > until:
            first, end = pending.pop(0)
            simulation.deliver(first, delivered(reference, simulation, first, end))
            for all_samples, new in zip(samples, simulation.record(), strict=True):
                all_samples += new

    for first, end in edges:
        deliver(max(lag - 1, 0))
        for variable, rows in sent.items():
            rows.append(simulation.coupling(first, end, PROXIED, variable))
        pending.append((first, end))
        if lag == 0:
            deliver(0)
        simulation.advance(end)
    deliver(0)
    for all_samples, new in zip(samples, simulation.record(n_steps), strict=True):
        all_samples += new
    return {variable: np.concatenate(rows) for variable, rows in sent.items()}, samples


def assert_equals(simulation, reference, n_steps=N):
    others = [r for r in range(len(simulation.region_labels)) if r not in PROXIED]
    for i, variable in enumerate(reference.variables):
        found = simulation.states(0, n_steps + 1, others, variable)
        assert np.array_equal(found, reference.states[: n_steps + 1, i][:, others])
        assert np.isfinite(found).all()


@pytest.mark.parametrize("window", [1, 7, None], ids=["dt", "7dt", "min_delay"])
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("model", MODELS)
def test_other_regions_equal_the_plain_run_and_the_coupling_sent_equals_its_coupling(model, integrator, window):
    reference = plain.run(N, model=model, integrator=integrator)
    simulation = proxied_simulation(reference, model=model, integrator=integrator)
    assert simulation.min_delay_steps == reference.min_delay
    sent, _ = drive(simulation, reference, window or simulation.min_delay_steps)
    assert_equals(simulation, reference)
    for i, variable in enumerate(reference.cvars):
        assert np.array_equal(sent[variable], reference.coupling[:, i, PROXIED])
        assert np.abs(sent[variable]).max() > 0


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
def test_it_does_not_matter_how_early_or_late_the_delivery_comes_as_long_as_the_delays_allow_it(lag):
    reference = plain.run(N, model="WilsonCowan")
    simulation = proxied_simulation(reference, model="WilsonCowan")
    drive(simulation, reference, simulation.min_delay_steps // max(lag, 1), lag=lag)
    assert_equals(simulation, reference)


@pytest.mark.parametrize(
    ("model", "coupling", "params"),
    [
        ("JansenRit", "SigmoidalJansenRit", {}),
        ("WilsonCowan", "Sigmoidal", {"sigma": 1.0}),
        ("WilsonCowan", "HyperbolicTangent", {"a": 0.1}),
        ("ReducedWongWangExcInh", "Scaling", {"a": 0.3}),
        ("Generic2dOscillator", "Difference", {"a": 0.05}),
        ("Generic2dOscillator", "Kuramoto", {"a": 0.3}),
    ],
)
@pytest.mark.parametrize("window", [7, 15])
def test_every_kind_of_coupling_is_exact(model, coupling, params, window):
    kwargs = {"model": model, "coupling": coupling, **params}
    reference = plain.run(N, **kwargs)
    simulation = proxied_simulation(reference, **kwargs)
    sent, _ = drive(simulation, reference, window)
    assert_equals(simulation, reference)
    assert bool(sent) == (coupling not in ("Difference", "Kuramoto"))
    for i, variable in enumerate(reference.cvars if sent else ()):
        assert np.array_equal(sent[variable], reference.coupling[:, i, PROXIED])


@pytest.mark.parametrize("window", [1, 7])
def test_a_coupling_with_one_parameter_per_region_takes_the_slow_way_and_stays_exact(window):
    def scaled(sim):
        sim.coupling.a = np.linspace(0.001, 0.01, 68).reshape(68, 1)
        return sim

    plain_sim = scaled(plain.cut(plain.simulator(model="ReducedWongWangExcInh")))
    plain.configure(plain_sim)
    states = [plain_sim.current_state[..., 0].copy()]
    states += list(plain_sim.run(n_steps=40)[0][1][..., 0])
    sim = scaled(plain.simulator(model="ReducedWongWangExcInh"))
    simulation = RegionSimulation(sim, {r: {"S_e"} for r in PROXIED}, [PROXIED])
    assert not simulation._vectorised
    reference = plain.run(N, model="ReducedWongWangExcInh")
    reference = type(reference)(**{**vars(reference), "states": np.array(states)})
    drive(simulation, reference, window, n_steps=40)
    assert_equals(simulation, reference, 40)


@pytest.mark.parametrize("window", [1, 7, None])
def test_regions_of_several_programs_meet_through_tvb_and_each_program_delivers_by_itself(window):
    groups = ((2, 3), (4,), (5, 6))
    regions = tuple(region for group in groups for region in group)
    reference = plain.run(N, proxied=regions, groups=groups, model="WilsonCowan")
    simulation = RegionSimulation(plain.simulator(model="WilsonCowan"), {r: {"E", "I"} for r in regions}, groups)
    assert simulation.between_proxies_steps is not None
    window = window or simulation.min_delay_steps
    columns = [[column for column in simulation.columns if simulation.region_index(column[0]) in g] for g in groups]
    values = delivered(reference, simulation, 0, N)
    sent = []
    for first in range(0, N, window):
        end = min(first + window, N)
        sent.append(np.concatenate([simulation.coupling(first, end, group, "E") for group in groups], axis=1))
        simulation.advance(end)
        for of_program in reversed(columns):  # in any order
            at = [simulation.columns.index(column) for column in of_program]
            simulation.deliver(first, values[first:end, at], of_program)
    assert np.array_equal(np.concatenate(sent), reference.coupling[:, 0, regions])
    others = [region for region in range(68) if region not in regions]
    assert np.array_equal(simulation.states(0, N + 1, others, "E"), reference.states[:, 0][:, others])


@pytest.mark.parametrize("window", [1, 7, 12])
def test_zero_length_self_connections_of_tvbs_regions_stay_and_do_not_limit_the_window(window):
    kwargs = {"model": "ReducedWongWangExcInh", "connectivity": "connectivity_76.zip"}
    reference = plain.run(N, **kwargs)
    simulation = proxied_simulation(reference, **kwargs)
    assert simulation.min_delay_steps == reference.min_delay > 12
    assert any("self-connections of regions that TVB computes have no length" in note for note in simulation.notes)
    sent, _ = drive(simulation, reference, window)
    assert_equals(simulation, reference)
    assert np.array_equal(sent["S_e"], reference.coupling[:, 0, PROXIED])


def test_monitors_equal_those_of_the_plain_run_in_every_region_that_tvb_computes():
    def monitors():
        return (
            tvb.monitors.Raw(),
            tvb.monitors.TemporalAverage(period=1.0),
            tvb.monitors.SubSample(period=0.7, variables_of_interest=np.array([1])),
            tvb.monitors.GlobalAverage(period=0.5, variables_of_interest=np.array([0])),
            tvb.monitors.Bold(period=20.0, variables_of_interest=np.array([0])),
            tvb.monitors.AfferentCoupling(),
            tvb.monitors.AfferentCouplingTemporalAverage(period=0.3, variables_of_interest=np.array([0])),
        )

    n, kwargs = 600, {"model": "WilsonCowan"}
    reference = plain.run(n, **kwargs)
    sim = plain.cut(plain.simulator(monitors=monitors(), **kwargs))
    plain.configure(sim)
    expected = sim.run(n_steps=n)
    simulation = proxied_simulation(reference, monitors=monitors(), **kwargs)
    _, samples = drive(simulation, reference, 13, n_steps=n)
    for info, (times, data), found in zip(simulation.monitors, expected, samples, strict=True):
        assert [time for time, _ in found] == list(times)
        found_data = np.array([sample for _, sample in found])
        assert found_data.shape == data.shape == (len(times), *info["shape"])
        # everything that couples was delivered, so even the proxied regions and the averages over all are the same
        assert np.array_equal(found_data, data)
    assert [info["name"] for info in simulation.monitors][:2] == ["Raw", "TemporalAverage"]
    assert simulation.monitors[2]["voi"] == ["I"]
    assert simulation.monitors[3]["shape"] == [1, 1, 1]


def test_a_proxied_regions_undelivered_variables_are_nan_in_the_monitors():
    reference = plain.run(N, model="Generic2dOscillator")
    assert reference.cvars == ["V"]
    simulation = proxied_simulation(reference, model="Generic2dOscillator")
    _, (raw,) = drive(simulation, reference, 7)
    data = np.array([sample for _, sample in raw])[..., 0]
    assert np.isnan(data[:, 1, PROXIED]).all()
    assert np.isnan(data).sum() == N * len(PROXIED)
    assert np.array_equal(data[:, 0], reference.states[1:, 0])


@pytest.mark.parametrize("window", [1, 7, 20])
def test_a_stimulus_goes_on_through_the_windows(window):
    from tvb.datatypes import equations, patterns

    def stimulated(sim):
        temporal = equations.PulseTrain()
        temporal.parameters = {"onset": 1.0, "T": 4.0, "tau": 1.5, "amp": 0.8}
        weight = np.zeros(68)
        weight[[2, 30]] = 0.7, 1.0
        sim.stimulus = patterns.StimuliRegion(temporal=temporal, connectivity=sim.connectivity, weight=weight)
        return sim

    plain_sim = stimulated(plain.cut(plain.simulator(model="WilsonCowan")))
    plain.configure(plain_sim)
    plain_sim.simulation_length = N * 0.1
    initial = plain_sim.current_state.copy()  # run overwrites it in place
    states = np.concatenate([initial[None], plain_sim.run(n_steps=N)[0][1]])[..., 0]
    quiet = plain.run(N, model="WilsonCowan")
    assert np.abs(states - quiet.states).max() > 0.01
    reference = type(quiet)(**{**vars(quiet), "states": states})
    simulation = RegionSimulation(
        stimulated(plain.simulator(model="WilsonCowan")), {r: {"E", "I"} for r in PROXIED}, [PROXIED], n_steps=N
    )
    drive(simulation, reference, window)
    assert_equals(simulation, reference)


def test_without_proxied_regions_it_is_a_plain_run():
    sim = plain.simulator(model="MontbrioPazoRoxin")
    plain.configure(sim)
    expected = sim.run(n_steps=N)[0][1]
    simulation = RegionSimulation(plain.simulator(model="MontbrioPazoRoxin"), {})
    for end in range(10, N + 1, 10):
        simulation.advance(end)
    assert simulation.min_delay_steps is None
    assert np.array_equal(np.array([sample for _, sample in simulation.record()[0]]), expected)


def test_a_region_that_only_listens_stays_tvbs_own():
    sim = plain.cut(plain.simulator(model="WilsonCowan"))
    plain.configure(sim)
    expected = sim.run(n_steps=N)[0][1]
    simulation = RegionSimulation(plain.simulator(model="WilsonCowan"), {r: () for r in PROXIED}, [PROXIED])
    assert simulation.out_of_proxies_steps is simulation.between_proxies_steps is None
    assert simulation.into_proxies_steps == simulation.min_delay_steps
    reference = plain.run(N, model="WilsonCowan")
    for first in range(0, N, 16):
        term = simulation.coupling(first, first + 16, PROXIED, "E")
        assert np.array_equal(term, reference.coupling[first : first + 16, 0, PROXIED])
        simulation.advance(first + 16)
    assert np.array_equal(np.array([sample for _, sample in simulation.record()[0]]), expected)


def test_more_steps_than_are_kept_at_once_change_nothing():
    n = 6000
    reference = plain.run(n, model="ReducedWongWangExcInh", integrator="EulerStochastic")
    simulation = proxied_simulation(reference, model="ReducedWongWangExcInh", integrator="EulerStochastic")
    assert len(simulation._states) < n
    sent, (raw,) = drive(simulation, reference, simulation.min_delay_steps, n_steps=n)
    assert len(simulation._states) < n
    data = np.array([sample for _, sample in raw])[..., 0]
    assert np.array_equal(data[:, 0], reference.states[1:, 0])
    assert np.array_equal(sent["S_e"], reference.coupling[:, 0, PROXIED])
