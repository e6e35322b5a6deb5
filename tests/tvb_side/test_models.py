"""The models: rates of the reduced Wong-Wang, what follows a delivery, and every model of tvb-library coupled."""

import math

import numpy as np
import plain_tvb as plain
import pytest
from plain_tvb import PROXIED
from tvb_lockstep.bridges.errors import ExperimentError, LockstepError
from tvb_lockstep.bridges.experiment import TvbSection
from tvb_lockstep.tvb_side import library as tvb
from tvb_lockstep.tvb_side.build import build_simulator, seed_simulator
from tvb_lockstep.tvb_side.models import ABOUT, CONVERTED, OWN, VOI_UNITS, model_class, model_names
from tvb_lockstep.tvb_side.simulation import RegionSimulation

pytestmark = pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")  # TVB's random initial states
RATES = "ReducedWongWangExcInhRates"
N = 120


def model(name):
    made = model_class(name)()
    watchable = type(made).variables_of_interest.element_choices
    made.variables_of_interest = [variable for variable in made.state_variables if variable in watchable]
    return made


def simulator(name, integrator="HeunStochastic", coupling="Linear", nsig=(1e-4,), dt=0.1, monitors=(), **params):
    """A plain Simulator of 68 regions with every variable in its monitors."""
    sim = plain.simulator(coupling=coupling, monitors=monitors)
    sim.model = model(name)
    for parameter, value in params.items():
        setattr(sim.model, parameter, np.atleast_1d(value))
    chosen = getattr(tvb.integrators, integrator)
    noise = {"noise": tvb.noise.Additive(nsig=np.array(nsig), noise_seed=5)} if "Stochastic" in integrator else {}
    sim.integrator = chosen(dt=dt, **noise)
    return sim


def states(sim, n_steps):
    """(n_steps + 1, n_variables, n_regions) of TVB's own run."""
    plain.configure(sim)
    initial = sim.current_state.copy()
    return np.concatenate([initial[None], sim.run(n_steps=n_steps)[0][1]])[..., 0]


# ---- the rates of the reduced Wong-Wang model


@pytest.mark.parametrize(
    ("integrator", "coupling", "n_steps", "nsig"),
    [
        ("HeunStochastic", "Linear", 1500, [1e-4]),
        ("HeunStochastic", "Linear", 200, [1e-4, 1e-3]),
        ("EulerStochastic", "Scaling", 600, [1e-2]),
        ("HeunDeterministic", "HyperbolicTangent", 300, []),
        ("EulerDeterministic", "Difference", 300, []),
        ("RungeKutta4thOrderDeterministic", "Sigmoidal", 300, []),
    ],
)
def test_the_gating_of_the_model_with_rates_is_that_of_tvbs_own_bit_for_bit(integrator, coupling, n_steps, nsig):
    own = states(simulator("ReducedWongWangExcInh", integrator, coupling, nsig), n_steps)
    with_rates = states(simulator(RATES, integrator, coupling, nsig), n_steps)
    assert np.array_equal(with_rates[:, :2], own)
    assert own[1:].std() > 1e-3
    assert (with_rates[0, 2:] == 0).all() and (with_rates[1:, 2:] > 0).all() and np.isfinite(with_rates).all()


def test_coloured_noise_and_parameters_per_region_leave_the_gating_the_same():
    found = []
    for name in ("ReducedWongWangExcInh", RATES):
        sim = simulator(name, w_p=np.linspace(1.0, 1.4, 68), lamda=0.5)
        sim.integrator.noise.ntau = 2.0
        found.append(states(sim, 100))
    assert np.array_equal(found[0], found[1][:, :2])


def h(y, d):
    return y / (1 - math.exp(-d * y))


def test_the_rate_of_a_step_is_that_of_the_state_it_sets_out_from():
    found = states(simulator(RATES, "EulerDeterministic", "Linear", G=1.3, J_i=0.9, lamda=0.2), 60)
    sim = plain.configure(simulator(RATES, "EulerDeterministic", "Linear", G=1.3, J_i=0.9, lamda=0.2,
                                    monitors=(tvb.monitors.AfferentCoupling(),)))  # fmt: skip
    received = np.concatenate([sim.coupling(1, sim.history)[None], sim.run(n_steps=60)[0][1]])[..., 0]
    for step, region in ((1, 0), (2, 67), (31, 5), (60, 40)):
        S_e, S_i = found[step - 1, :2, region]
        c = 1.3 * 0.15 * received[step - 1, 0, region]
        # equations 5 to 8 of Deco et al. 2014 with tvb-library's parameters
        I_e = 1.0 * 0.382 + 1.4 * 0.15 * S_e + c - 0.9 * S_i
        I_i = 0.7 * 0.382 + 0.15 * S_e - S_i + 0.2 * c
        assert found[step, 2, region] == pytest.approx(h(310 * I_e - 125, 0.16), rel=1e-9)
        assert found[step, 3, region] == pytest.approx(h(615 * I_i - 177, 0.087), rel=1e-9)
    # and it is the rate that moves S: Euler's step by hand, equations 9 and 10
    (S_e, S_i, _, _), R_e, R_i = found[:-1].swapaxes(0, 1), found[1:, 2], found[1:, 3]
    assert np.allclose(found[1:, 0], S_e + 0.1 * (-S_e / 100 + (1 - S_e) * 0.641e-3 * R_e), rtol=0, atol=1e-15)
    assert np.allclose(found[1:, 1], S_i + 0.1 * (-S_i / 10 + 1e-3 * R_i), rtol=0, atol=1e-15)


def test_a_resting_region_fires_at_the_rate_worked_out_by_hand():
    # I_o = 0.4 nA, S = 0, no input. 310 * 0.4 - 125 = -1 Hz: 1 / (exp(0.16) - 1)
    lone = model(RATES)
    lone.I_o, lone.W_i = np.array([0.4]), np.array([0.7])
    R_e, R_i = lone.rates(np.zeros(3), np.zeros(3), 0.0)
    assert R_e.shape == (3,) and R_e == pytest.approx(5.76332, abs=1e-5)
    # 615 * 0.28 - 177 = -4.8 Hz: 4.8 / (exp(0.087 * 4.8) - 1)
    assert R_i == pytest.approx(9.26081, abs=1e-5)


def test_the_model_is_found_by_name_and_its_noise_has_no_part_for_the_rates(tmp_path):
    sim = build_simulator(TvbSection(model=RATES, nsig=[1e-4, 2e-4], initial_state={"R_e": 3.0}), 3, tmp_path)
    simulation = RegionSimulation(sim, {})
    assert (simulation.initial_history[:, 2] == 3.0).all() and (simulation.initial_history[:, 3] == 0.0).all()
    own = build_simulator(TvbSection(model="ReducedWongWangExcInh", nsig=[1e-4, 2e-4]), 3, tmp_path)
    other = RegionSimulation(own, {})
    for each in (simulation, other):
        each.advance(50)
    assert np.array_equal(simulation.states(-50, 51, range(68), "S_i"), other.states(-50, 51, range(68), "S_i"))
    assert np.array_equal(simulation.coupling(50, 60, range(68), "S_e"), other.coupling(50, 60, range(68), "S_e"))
    with pytest.raises(ExperimentError, match=r"one for each of .* state variables \(S_e, S_i\)"):
        build_simulator(TvbSection(model=RATES, nsig=[1e-4] * 4), 3, tmp_path)
    with pytest.raises(ExperimentError, match="there is ReducedWongWangExcInhRates"):
        build_simulator(TvbSection(model="ReducedWongWangExcInhRate"), 3, tmp_path)


def test_the_delayed_sum_of_rates_is_sent_like_any_coupling():
    delivers = {region: ("S_e", "R_e") for region in PROXIED}
    simulation = RegionSimulation(simulator(RATES, "EulerDeterministic", J_i=0.1), delivers, [PROXIED])
    assert simulation.check_coupling("R_e") == 1
    for first in range(0, 60, 20):
        sent = simulation.coupling(first, first + 20, PROXIED, "R_e")
        simulation.advance(first + 20)
        simulation.deliver(first, np.full((20, 6), 0.3))
    region = PROXIED[0]
    weights, delays = simulation.weights[region], simulation.delay_steps[region]
    by_hand = sum(
        weights[source] * np.float32(simulation.states(59 - delays[source], 60 - delays[source], [source], "R_e")[0, 0])
        for source in np.flatnonzero(weights)
    )
    assert sent[-1, 0] == pytest.approx(by_hand / 256, rel=1e-5) and sent[-1, 0] > 5e-4
    alone = RegionSimulation(simulator(RATES), {r: ("S_e",) for r in PROXIED}, [PROXIED])
    with pytest.raises(ExperimentError, match="the coupling of R_e reads R_e of all regions"):
        alone.check_coupling("R_e")


def test_a_stimulus_acts_on_the_gating_as_in_tvbs_own_model():
    from tvb.datatypes import equations, patterns

    found = []
    for name in ("ReducedWongWangExcInh", RATES):
        sim = simulator(name)
        temporal = equations.PulseTrain()
        temporal.parameters = {"onset": 1.0, "T": 4.0, "tau": 1.5, "amp": 0.05}
        weight = np.zeros(68)
        weight[[2, 30]] = 0.7, 1.0
        sim.stimulus = patterns.StimuliRegion(temporal=temporal, connectivity=sim.connectivity, weight=weight)
        simulation = RegionSimulation(sim, {}, n_steps=60)
        simulation.advance(60)
        found.append(simulation.states(0, 61, range(68), "S_e"))
    assert np.array_equal(*found)
    quiet = RegionSimulation(simulator(RATES), {})
    quiet.advance(25)  # 1.5 ms after the onset, before any delay
    moved = np.abs(quiet.states(25, 26, range(68), "S_e") - found[1][25])[0]
    assert moved[30] > 0.01 and np.flatnonzero(moved).tolist() == [2, 30]


# ---- variables that follow what is delivered


def follow(name, delivers, window, values=None, groups=None, reversed_order=False, **kwargs):
    """A run in windows whose proxied regions deliver `values` (n_steps + 1, n_variables, n_regions)."""
    groups = groups or [PROXIED]
    proxied = {region: set(delivers) for group in groups for region in group}
    np.random.seed(11)
    simulation = RegionSimulation(simulator(name, **kwargs), proxied, groups, undelivered="follow")
    variables = list(model_class(name).state_variables)
    parts = [[c for c in simulation.columns if simulation.region_index(c[0]) in group] for group in groups]
    samples = []
    window = window or simulation.min_delay_steps
    for first in range(0, N, window):
        end = min(first + window, N)
        simulation.advance(end)
        for columns in reversed(parts) if reversed_order else parts:
            index = [(variables.index(v), simulation.region_index(region)) for region, v in columns]
            simulation.deliver(first, np.stack([values[first + 1 : end + 1, v, r] for v, r in index], axis=1), columns)
        samples += simulation.record()[0]
    return simulation, np.array([sample for _, sample in samples])[..., 0]


def plain_states(name, groups=None, **kwargs):
    return states(plain.cut(simulator(name, **kwargs), PROXIED, groups), N)


@pytest.mark.parametrize("window", [1, 7, None])
@pytest.mark.parametrize(
    ("name", "delivers", "kwargs"),
    [
        (RATES, ["S_e", "R_e"], {"lamda": 0.3}),
        (RATES, ["S_e"], {"integrator": "HeunDeterministic"}),
        ("ReducedWongWangExcInh", ["S_e"], {"integrator": "EulerStochastic", "coupling": "Difference"}),
        ("WilsonCowan", ["I"], {}),  # here what follows, E, is what the others read
        ("JansenRit", ["y1", "y2"], {"coupling": "SigmoidalJansenRit"}),
        ("Generic2dOscillator", ["W"], {"integrator": "RungeKutta4thOrderDeterministic"}),
    ],
)
def test_given_the_states_of_a_plain_run_what_follows_is_that_run_too(name, delivers, kwargs, window):
    expected = plain_states(name, **kwargs)
    simulation, found = follow(name, delivers, window, expected, **kwargs)
    assert np.array_equal(found, expected[1:]) and simulation.delivered_step == N
    for i, variable in enumerate(model_class(name).state_variables):
        assert np.array_equal(simulation.states(1, N + 1, PROXIED, variable), expected[1:, i][:, PROXIED])


def test_given_other_values_what_follows_does_not_depend_on_the_window_and_is_computed_from_them():
    values = 0.2 + 0.1 * np.random.default_rng(4).random((N + 1, 4, 68))
    runs = [follow(RATES, ["S_e"], window, values, integrator="EulerDeterministic")[1] for window in (1, 7, None)]
    assert np.array_equal(runs[0], runs[1]) and np.array_equal(runs[0], runs[2])
    own = plain_states(RATES, integrator="EulerDeterministic")[1:]
    assert np.abs(runs[0] - own)[:, 1, PROXIED].max() > 1e-3
    # S_i by Euler's step from the delivered S_e: equations 6, 8 and 10 of Deco et al. 2014
    S_e, S_i = values[1:, 0, PROXIED], runs[0][:, 1, PROXIED]
    y = 615 * (0.7 * 0.382 + 0.15 * S_e[:-1] - S_i[:-1]) - 177
    R_i = y / (1 - np.exp(-0.087 * y))
    assert np.allclose(runs[0][1:, 3, PROXIED], R_i, rtol=1e-12)
    assert np.allclose(S_i[1:], S_i[:-1] + 0.1 * (-S_i[:-1] / 10 + 1e-3 * R_i), rtol=0, atol=1e-15)


@pytest.mark.parametrize("reversed_order", [False, True])
@pytest.mark.parametrize("window", [1, None])
def test_regions_of_several_programs_follow_through_each_other(window, reversed_order):
    groups = [(2, 3), (4,), (5, 6)]
    expected = plain_states("WilsonCowan", groups)
    simulation, found = follow("WilsonCowan", ["I"], window, expected, groups, reversed_order)
    assert simulation.between_proxies_steps is not None
    assert np.array_equal(found, expected[1:])


def test_a_delivery_ahead_of_the_integration_is_followed_as_well():
    expected = plain_states(RATES)
    np.random.seed(11)
    simulation = RegionSimulation(simulator(RATES), {r: ("S_e",) for r in PROXIED}, [PROXIED], undelivered="follow")
    index = [simulation.region_index(region) for region, _ in simulation.columns]
    for first in range(0, N, 20):
        simulation.deliver(first, expected[first + 1 : first + 21, 0, index])
        assert simulation.delivered_step == first
        simulation.advance(first + 20)
        assert simulation.delivered_step == first + 20
    assert np.array_equal(np.array([sample for _, sample in simulation.record()[0]])[..., 0], expected[1:])


def test_what_follows_has_to_stay_finite_and_to_have_a_step_of_its_own():
    simulation = RegionSimulation(simulator("Generic2dOscillator"), {5: ("V",)}, [[5]], undelivered="follow")
    simulation.advance(3)
    with pytest.raises(LockstepError, match=rf"W of region {simulation.region_labels[5]}, which follows .* at 0.2 ms"):
        simulation.deliver(0, np.array([[1e300], [1e300], [1.0]]))
    with pytest.raises(ExperimentError, match="Dop853 chooses its steps for all regions together"):
        RegionSimulation(simulator(RATES, "Dop853"), {5: ("S_e",)}, [[5]], undelivered="follow")


# ---- every model


def test_every_model_of_tvb_library_is_described_and_no_other():
    assert sorted(ABOUT) == model_names()
    assert set(OWN) <= set(ABOUT)


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_what_is_said_of_a_model_is_about_its_state_variables(name):
    variables = set(model_class(name).state_variables)
    assert set(ABOUT[name].units) <= variables and set(ABOUT[name].rates) <= variables
    assert set(VOI_UNITS[name].values()) <= set(CONVERTED)
    assert ABOUT[name].rates or ABOUT[name].rate.startswith("none")


@pytest.mark.parametrize("name", [name for name in sorted(ABOUT) if not name.startswith("ReducedSet")])
def test_every_model_of_one_mode_can_be_coupled(name):
    kwargs = {"integrator": "EulerDeterministic", "dt": 0.01}
    made = model_class(name)()
    coupled = [made.state_variables[i] for i in made.cvar]
    sim = simulator(name, **kwargs)
    seed_simulator(sim, 3, ABOUT[name].initial_state)
    simulation = RegionSimulation(sim, {4: coupled}, [[4]])
    for first in (0, 10):
        assert np.isfinite(simulation.coupling(first, first + 10, [4], coupled[0])).all()
        simulation.advance(first + 10)
        value = simulation.initial_history[-1, [made.state_variables.index(v) for v in coupled], 4, 0]
        simulation.deliver(first, np.tile(value, (10, 1)))
    others = [region for region in range(68) if region != 4]
    for variable in made.state_variables:
        assert np.isfinite(simulation.states(0, 21, others, variable)).all()
    samples = [sample for _, sample in simulation.record()[0]]
    assert len(samples) == 20


@pytest.mark.parametrize("name", ["ReducedSetFitzHughNagumo", "ReducedSetHindmarshRose"])
def test_a_model_of_several_modes_is_refused(name):
    with pytest.raises(ExperimentError, match="3 modes"):
        RegionSimulation(simulator(name, "EulerDeterministic"), {})
