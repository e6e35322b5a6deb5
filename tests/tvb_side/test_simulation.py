"""RegionSimulation: delays, refusals, what may be asked when, initial history."""

import numpy as np
import plain_tvb as plain
import pytest
from plain_tvb import PROXIED
from tvb_lockstep.bridges.errors import ExperimentError, LockstepError
from tvb_lockstep.tvb_side import library as tvb
from tvb_lockstep.tvb_side.simulation import RegionSimulation


def simulation(delivers=("E", "I"), regions=PROXIED, **kwargs):
    options = {k: kwargs.pop(k) for k in ("undelivered", "n_steps", "exclusive") if k in kwargs}
    groups = kwargs.pop("groups", [regions])
    return RegionSimulation(plain.simulator(**kwargs), {r: set(delivers) for r in regions}, groups, **options)


def small(lengths, weights=None, **kwargs):
    """Four regions a, b, c, d, all connected with weight 1, tract lengths [mm] given, speed 1 mm/ms, dt 0.1 ms."""
    sim = plain.simulator(**{"model": "WilsonCowan", "integrator": "HeunDeterministic", **kwargs})
    lengths = np.asarray(lengths, dtype=float)
    sim.connectivity = tvb.Connectivity(
        weights=np.ones((4, 4)) if weights is None else np.asarray(weights, dtype=float),
        tract_lengths=lengths,
        region_labels=np.array(["a", "b", "c", "d"]),
        centres=np.zeros((4, 3)),
        speed=np.array([1.0]),
    )
    return sim


LENGTHS = [[9, 3, 5, 6], [3, 9, 7, 8], [4, 7, 9, 1], [6, 8, 1, 9]]  # rows: targets a, b, c, d


def test_the_min_delay_is_that_of_the_edges_that_matter():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}, "b": {"E", "I"}}, [["a"], ["b"]])
    # c -> d (1 mm) does not touch a proxied region; a -> c is 4 mm, c -> a 5 mm, a <-> b 3 mm = 30 steps of 0.1 ms
    assert (s.into_proxies_steps, s.out_of_proxies_steps, s.between_proxies_steps) == (50, 40, 30)
    assert s.min_delay_steps == 30
    assert {s.shortest_edge.source, s.shortest_edge.target} == {"a", "b"}
    assert (s.shortest_edge.tract_length_mm, s.shortest_edge.delay_ms, s.shortest_edge.delay_steps) == (3.0, 3.0, 30)


def test_exclusive_regions_of_one_program_lose_the_edges_among_them_and_others_keep_theirs():
    regions = {"a": {"E", "I"}, "b": {"E", "I"}, "c": {"E", "I"}}
    s = RegionSimulation(small(LENGTHS), regions, [["a", "b"], ["c"]], exclusive=True)
    expected = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], dtype=float)
    assert np.array_equal(s.weights, expected)
    assert np.array_equal(s.original_weights, np.ones((4, 4)))
    assert any("3 of the 3 proxied regions (a, b, c)" in note for note in s.notes)
    assert any("Removed 2 edges of TVB among the regions a, b" in note for note in s.notes)
    shared = RegionSimulation(small(LENGTHS), regions, [["a", "b"], ["c"]], exclusive=False)
    assert np.array_equal(shared.weights, 1 - np.diag([1, 1, 1, 0]))
    # TVB's own history integrates the edited weights
    assert np.array_equal(s._sim.history.weights, expected.astype(np.float32))


def test_a_window_longer_than_the_delay_is_refused_with_the_edge_and_the_longest_window():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    s.check_window(30)
    with pytest.raises(ExperimentError, match=r"3\.1 ms \(31 steps\).*b -> a \(3 mm, 3 ms, 30 steps\).* is 3 ms"):
        s.check_window(31)


def test_an_edge_without_delay_is_refused_by_name_when_it_matters():
    labels = tvb.Connectivity.from_file("connectivity_192.zip").region_labels
    conn = plain.simulator(connectivity="connectivity_192.zip").connectivity
    lost = (conn.weights != 0) & (conn.tract_lengths == 0) & ~np.eye(192, dtype=bool)
    target = np.argwhere(lost)[0][0]
    s = simulation(regions=(int(target),), connectivity="connectivity_192.zip")
    assert s.min_delay_steps == 0
    with pytest.raises(ExperimentError, match="No window is short enough") as refusal:
        s.check_window(1)
    assert str(labels[target]) in str(refusal.value)
    untouched = int(np.flatnonzero(~lost.any(axis=0) & ~lost.any(axis=1) & (conn.weights.sum(axis=1) > 0))[0])
    fine = simulation(regions=(untouched,), connectivity="connectivity_192.zip")
    fine.check_window(1)
    assert fine.min_delay_steps > 0
    fine.advance(3)  # and TVB's own edges without delay do not disturb


def test_nothing_proxied_means_no_limit():
    s = RegionSimulation(small(LENGTHS), {})
    assert s.min_delay_steps is None and s.shortest_edge is None
    s.check_window(10_000)


def test_values_not_delivered_in_time_are_an_error_and_never_old_ones():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    s.advance(31)  # reads the state of a up to step 30 - 30 = 0
    with pytest.raises(RuntimeError, match=r"needs \('a', '[EI]'\) at step 1, it was delivered up to step 0"):
        s.advance(32)
    s.deliver(0, np.full((1, 2), 0.3))
    s.advance(32)
    with pytest.raises(RuntimeError, match="complete up to 1 only"):
        s.record(2)
    with pytest.raises(RuntimeError, match="E of a is not known at step 2"):
        s.states(0, 3, ["a"], "E")
    assert s.states(1, 2, ["a"], "E") == [[0.3]]


def test_the_coupling_is_refused_before_tvb_knows_the_states_it_reads():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}, "b": {"E", "I"}}, [["a"], ["b"]])
    # a: 50 steps from c, 30 from b; of which steps up to 0 are known
    assert s.coupling_known(31, ["a"]) and not s.coupling_known(32, ["a"])
    assert s.coupling(0, 31, ["a"], "E").shape == (31, 1)
    with pytest.raises(RuntimeError, match=r"step 31 needs \('b', 'E'\) at step 1"):
        s.coupling(0, 32, ["a"], "E")
    lone = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    assert lone.coupling_known(31, ["a"]) and not lone.coupling_known(32, ["a"])
    with pytest.raises(RuntimeError, match="needs the states of step 1, TVB is at step 0"):
        lone.coupling(0, 32, ["a"], "E")
    lone.advance(1)
    lone.coupling(0, 32, ["a"], "E")


def test_the_coupling_is_the_weighted_sum_of_the_delayed_states():
    weights = np.array([[0, 0.5, 0.25, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]])
    s = RegionSimulation(small(LENGTHS, weights, a=0.1, b=0.02), {"a": {"E", "I"}}, [["a"]])
    s.advance(20)
    term = s.coupling(10, 40, ["a"], "I")[:, 0]
    b, c = s.states(10 - 30, 40 - 30, ["b"], "I")[:, 0], s.states(10 - 50, 40 - 50, ["c"], "I")[:, 0]
    assert np.allclose(term, 0.1 * (0.5 * b + 0.25 * c) + 0.02, rtol=1e-6, atol=0)


def test_deliveries_come_in_order_without_gaps_and_finite():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}, "b": {"E", "I"}}, [["a"], ["b"]])
    assert s.columns == [("a", "E"), ("a", "I"), ("b", "E"), ("b", "I")]
    s.deliver(0, np.zeros((3, 2)), [("b", "I"), ("b", "E")])
    assert s.delivered_step == 0
    for first in (0, 4):
        with pytest.raises(RuntimeError, match="known up to"):
            s.deliver(first, np.zeros((1, 2)), [("b", "I"), ("b", "E")])
    with pytest.raises(RuntimeError, match="expected"):
        s.deliver(3, np.zeros((1, 3)), [("b", "I"), ("b", "E")])
    with pytest.raises(RuntimeError, match="not among"):
        s.deliver(0, np.zeros((1, 1)), [("c", "E")])
    values = np.zeros((2, 2))
    values[1, 0] = np.nan
    with pytest.raises(LockstepError, match=r"delivered nan for E of region a at 0\.2 ms"):
        s.deliver(0, values, [("a", "E"), ("a", "I")])
    s.deliver(0, np.zeros((3, 2)), [("a", "E"), ("a", "I")])
    assert s.delivered_step == 3


def test_what_the_spiking_side_delivers_changes_the_regions_connected_to_it():
    runs = []
    for value in (0.0, 0.5):
        np.random.seed(11)
        s = RegionSimulation(small(LENGTHS, a=0.5), {"a": {"E", "I"}}, [["a"]])
        for first in range(0, 90, 30):
            s.advance(first + 30)
            s.deliver(first, np.full((30, 2), value))
        runs.append(s.states(0, 91, ["b", "c"], "E"))
    # a -> b takes 30 steps, a -> c 40: the state of step 1 acts on step 32 and 42 first
    assert np.array_equal(runs[0][:32, 0], runs[1][:32, 0]) and (runs[0][32:, 0] != runs[1][32:, 0]).all()
    assert np.array_equal(runs[0][:42, 1], runs[1][:42, 1])
    assert np.abs(runs[0] - runs[1]).max() > 1e-3


def test_set_initial_is_what_the_others_receive_before_the_first_delivery_arrives():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    s.set_initial("a", "E", 0.75)
    s.set_initial("a", "I", 0.0)
    # row of c: a (weight 1), b, c and d of TVB's own; only what a adds differs
    other = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    other.set_initial("a", "E", 0.25)
    other.set_initial("a", "I", 0.0)
    other._states[: other.horizon_steps, :, 1:] = s._states[: s.horizon_steps, :, 1:]
    other._history.buffer[: other.horizon_steps, :, 1:] = s._history.buffer[: s.horizon_steps, :, 1:]
    difference = s.coupling(0, 10, ["b"], "E") - other.coupling(0, 10, ["b"], "E")
    assert np.allclose(difference, 0.00390625 * 0.5, rtol=1e-4)
    assert (s.initial_history[:, 0, 0] == 0.75).all()
    assert s.initial_history.shape == (s.horizon_steps, 2, 4, 1)
    assert (s.states(1 - s.horizon_steps, 1, ["a"], "E") == 0.75).all()
    with pytest.raises(ExperimentError, match="not delivered"):
        s.set_initial("b", "E", 0.1)
    s.advance(1)
    with pytest.raises(RuntimeError, match="after the first step"):
        s.set_initial("a", "E", 0.1)


def test_states_are_the_float64_ones_down_to_the_initial_history():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    past = s.states(1 - s.horizon_steps, 1, ["c", "b"], "I")
    assert past.shape == (91, 2) and past.dtype == np.float64
    assert np.array_equal(past, s.initial_history[:, 1, [2, 1], 0])
    assert (past != past.astype(np.float32)).any()
    s.states(1 - s.horizon_steps, 1, ["a"], "E")
    with pytest.raises(RuntimeError, match="no longer kept"):
        s.states(-s.horizon_steps, 1, ["b"], "E")
    with pytest.raises(ExperimentError, match="no state variable of WilsonCowan; it has E, I"):
        s.states(0, 1, ["b"], "V")


def test_a_variable_nobody_delivers_is_refused_only_when_the_equations_read_it():
    # WilsonCowan couples E and I but reads the coupling of E only: E is enough
    only_e = simulation(delivers=("E",))
    only_e.check_coupling("E")
    with pytest.raises(ExperimentError, match=r"the coupling of I reads I .* voi = \['I'\]"):
        only_e.check_coupling("I", "interfaces.tvb_to_spikenet.0")
    with pytest.raises(ExperimentError, match="is unknown"):
        only_e.states(0, 1, PROXIED, "I")
    only_e.advance(20)
    assert np.isfinite(only_e.states(0, 21, [1, 2], "I")).all()
    # MontbrioPazoRoxin reads r and V
    with pytest.raises(ExperimentError, match=r"delivers r, but the other regions also read its V"):
        simulation(delivers=("r",), model="MontbrioPazoRoxin", coupling="Linear")
    # JansenRit with its sigmoid reads y1 - y2
    with pytest.raises(ExperimentError, match=r"delivers y1, but .* read its y2"):
        simulation(delivers=("y1",), model="JansenRit", coupling="SigmoidalJansenRit")
    with pytest.raises(ExperimentError, match=r"Region 5 is to deliver \['Z'\].* E, I"):
        simulation(delivers=("Z",))


def test_an_undelivered_variable_can_be_held_or_left_to_tvb_when_asked_for():
    kwargs = {"model": "MontbrioPazoRoxin", "integrator": "HeunDeterministic"}
    np.random.seed(11)
    held = simulation(delivers=("r",), undelivered="hold_initial", **kwargs)
    held.advance(20)
    at = held._offset
    buffer = held._history.buffer[at : at + 21, 1, PROXIED, 0]
    assert (buffer == buffer[0]).all() and (buffer[0] == held.initial_history[-1, 1, PROXIED, 0].astype("f4")).all()
    np.random.seed(11)
    free = simulation(delivers=("r",), undelivered="free", **kwargs)
    free.advance(20)
    buffer = free._history.buffer[at : at + 21, 1, PROXIED, 0]
    assert (np.diff(buffer, axis=0) != 0).all() and np.isfinite(buffer).all()
    # as the plain run's own, as long as nothing delivered has reached it
    reference = plain.run(160, **kwargs)
    assert np.array_equal(buffer, reference.states[:21, 1][:, PROXIED].astype("f4"))


@pytest.mark.parametrize("name", ["Difference", "Kuramoto"])
def test_a_coupling_that_reads_the_receiving_state_is_not_sent_and_says_why(name):
    s = simulation(delivers=("V",), model="Generic2dOscillator", coupling=name)
    with pytest.raises(ExperimentError, match=rf'{name} coupling cannot be sent.*coupling_mode = "spikeNet"'):
        s.check_coupling("V")
    with pytest.raises(ExperimentError, match="cannot be sent"):
        s.coupling(0, 5, PROXIED, "V")


def test_unknown_names_are_refused_with_the_valid_ones():
    s = simulation()
    with pytest.raises(ExperimentError, match=r"'W' is no coupling variable of WilsonCowan; it has E, I"):
        s.check_coupling("W")
    with pytest.raises(ExperimentError, match=r"Did you mean .*r_precuneus"):
        s.coupling(0, 1, ["r_precuneu"], "E")
    with pytest.raises(ExperimentError, match="regions 0 to 67"):
        simulation(regions=(68,))


def test_surfaces_several_modes_and_simulators_with_a_loop_of_their_own_are_refused():
    with pytest.raises(ExperimentError, match="has 3 modes"):
        simulation(delivers=("xi",), model="ReducedSetFitzHughNagumo")

    class Stepper(tvb.Simulator):
        def __call__(self, **kwargs):
            return iter(())

    with pytest.raises(ExperimentError, match="Stepper has a loop of its own"):
        RegionSimulation(Stepper(), {})
    sim = plain.simulator()
    sim.__dict__["surface"] = object()
    with pytest.raises(ExperimentError, match="region-level"):
        RegionSimulation(sim, {})


def test_a_stimulus_needs_the_number_of_steps_and_ends_with_them():
    from tvb.datatypes import equations, patterns

    def stimulated():
        sim = plain.simulator()
        sim.stimulus = patterns.StimuliRegion(temporal=equations.PulseTrain(), connectivity=sim.connectivity,
                                              weight=np.ones(68))  # fmt: skip
        return sim

    with pytest.raises(ExperimentError, match="n_steps"):
        RegionSimulation(stimulated(), {})
    s = RegionSimulation(stimulated(), {}, n_steps=5)
    s.advance(5)
    with pytest.raises(RuntimeError, match="beyond the 5 steps"):
        s.advance(6)


def test_a_state_that_is_not_finite_ends_the_run_with_region_variable_and_time():
    sim = small(LENGTHS, model="Generic2dOscillator")
    sim.integrator.dt = 0.1
    s = RegionSimulation(sim, {"a": {"V"}}, [["a"]])
    s.set_initial("a", "V", 1e30)
    with np.errstate(all="ignore"), pytest.raises(LockstepError) as stop:
        s.advance(30)
    assert "V of region b is" in str(stop.value) or "V of region c is" in str(stop.value)
    assert " ms. Choose a shorter tvb.dt" in str(stop.value)


def test_a_proxied_region_whose_own_tvb_model_diverges_disturbs_nobody():
    sim = small(LENGTHS, model="Generic2dOscillator")
    s = RegionSimulation(sim, {"a": {"V"}}, [["a"]])
    s._own[0, 0] = 1e30
    with np.errstate(all="ignore"):
        for first in range(0, 90, 30):
            s.advance(first + 30)
            s.deliver(first, np.full((30, 1), 0.2))
    assert np.isfinite(s.states(0, 91, ["b", "c", "d"], "W")).all()
    assert (s.states(1, 91, ["a"], "V") == 0.2).all()


@pytest.mark.parametrize("extra", [0, 40])
def test_given_initial_conditions_hold_and_the_run_starts_at_the_last_of_them(extra):
    sim = small(LENGTHS)
    given = np.random.default_rng(3).random((91 + extra, 2, 4, 1))
    sim.initial_conditions = given
    s = RegionSimulation(sim, {"a": {"E", "I"}}, [["a"]])
    assert s.horizon_steps == 91 and s.current_step == 0
    assert np.array_equal(s.initial_history, given[extra:])
    s.advance(20)
    if not extra:  # TVB itself starts right only when there are not more than it needs
        weights = np.ones((4, 4))
        weights[0, 0] = 0
        reference = small(LENGTHS, weights)
        reference.initial_conditions = given
        reference.configure()
        assert np.array_equal(s.states(1, 21, ["b", "c", "d"], "E"), reference.run(n_steps=20)[0][1][:, 0, 1:, 0])


def test_a_simulator_that_was_configured_and_run_before_starts_afresh():
    used = small(LENGTHS)
    used.initial_conditions = np.random.default_rng(3).random((91, 2, 4, 1))
    fresh = small(LENGTHS)
    fresh.initial_conditions = used.initial_conditions.copy()
    used.configure()
    used.run(n_steps=30)
    runs = []
    for sim in (used, fresh):
        s = RegionSimulation(sim, {"a": {"E", "I"}, "b": {"E", "I"}}, [["a", "b"]])
        s.advance(30)
        runs.append(s.states(0, 31, ["c", "d"], "E"))
    assert np.array_equal(*runs)


def test_set_initial_counts_also_when_the_coupling_was_asked_for_before():
    s = RegionSimulation(small(LENGTHS), {"a": {"E", "I"}}, [["a"]])
    before = s.coupling(0, 5, ["b"], "E")
    s.set_initial("a", "E", 40.0)
    assert (s.coupling(0, 5, ["b"], "E") > before + 0.1).all()
