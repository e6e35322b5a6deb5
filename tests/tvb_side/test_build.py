"""A Simulator from the [tvb] section: what it holds, its seeding, and what is refused."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.bridges.experiment import TvbSection
from tvb_lockstep.tvb_side import library as tvb
from tvb_lockstep.tvb_side.build import build_simulator
from tvb_lockstep.tvb_side.simulation import RegionSimulation


def build(folder, seed=3, **section):
    return build_simulator(TvbSection(**section), seed, folder)


def refusal(folder, **section):
    with pytest.raises(ExperimentError) as error:
        build(folder, **section)
    return str(error.value)


def test_the_section_becomes_a_simulator(tmp_path):
    sim = build(
        tmp_path, model="Generic2dOscillator", model_params={"a": 1.5, "tau": np.linspace(1, 2, 76).tolist()},
        connectivity="connectivity_76", speed=5.0, coupling="HyperbolicTangent", coupling_params={"sigma": 2.0},
        integrator="HeunStochastic", dt=0.05, nsig=[1e-3, 2e-3],
        monitors=[{"name": "SubSample", "period": 0.5}, {"name": "Bold", "period": 500.0, "hrf_length": 10000.0}],
    )  # fmt: skip
    sim.configure()
    assert type(sim.model).__name__ == "Generic2dOscillator" and sim.model.a == 1.5
    assert np.array_equal(sim.model.tau.ravel(), np.linspace(1, 2, 76))
    assert sim.connectivity.number_of_regions == 76
    assert np.allclose(sim.connectivity.delays, sim.connectivity.tract_lengths / 5.0)
    assert (type(sim.coupling).__name__, sim.coupling.sigma) == ("HyperbolicTangent", 2.0)
    assert sim.integrator.dt == 0.05 and sim.integrator.noise.nsig.ravel().tolist() == [1e-3, 2e-3]
    assert [type(monitor).__name__ for monitor in sim.monitors] == ["SubSample", "Bold"]
    assert (sim.monitors[1].period, sim.monitors[1].hrf_length) == (500.0, 10000.0)


def test_weights_are_normalised_by_the_maximum_or_by_the_row_sums_or_not(tmp_path):
    raw = tvb.Connectivity.from_file("connectivity_68.zip").weights
    weights = {mode: build(tmp_path, normalize_weights=mode).connectivity.weights for mode in ("none", "max", "region")}
    assert np.array_equal(weights["none"], raw)
    assert np.array_equal(weights["max"], raw / raw.max()) and weights["max"].max() == 1
    assert np.allclose(weights["region"].sum(axis=1), 1)
    assert np.allclose(weights["region"][3], raw[3] / raw[3].sum())


def test_a_connectivity_file_beside_the_experiment_is_found(tmp_path):
    import shutil
    from importlib.resources import files

    shutil.copy(str(files("tvb_data.connectivity") / "connectivity_66.zip"), tmp_path / "mine.zip")
    assert len(build(tmp_path, connectivity="mine.zip").connectivity.weights) == 66
    assert len(build(tmp_path, connectivity=str(tmp_path / "mine.zip")).connectivity.weights) == 66
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    assert "cannot be read as a TVB connectivity" in refusal(tmp_path, connectivity="broken.zip")


@pytest.mark.parametrize("integrator", ["HeunDeterministic", "HeunStochastic", "EulerStochastic"])
def test_the_seed_alone_determines_initial_history_and_noise(tmp_path, integrator):
    nsig = {"nsig": 1e-4} if "Stochastic" in integrator else {}
    runs = []
    for seed, disturbance in ((3, 1), (3, 2), (4, 1)):
        np.random.seed(disturbance)
        sim = build(tmp_path, seed=seed, integrator=integrator, monitors=[{"name": "Raw"}], **nsig)
        before = np.random.get_state()[1].copy()
        simulation = RegionSimulation(sim, {}, [])
        simulation.advance(20)
        assert np.array_equal(np.random.get_state()[1], before)  # numpy's global generator is left alone
        runs.append((simulation.initial_history, np.array([data for _, data in simulation.record()[0]])))
    assert np.array_equal(runs[0][0], runs[1][0]) and np.array_equal(runs[0][1], runs[1][1])
    assert (runs[0][0] != runs[2][0]).mean() > 0.99 and (runs[0][1] != runs[2][1]).mean() > 0.99


def test_with_a_stochastic_integrator_the_run_is_tvbs_own_of_that_noise_seed(tmp_path):
    sim = build(tmp_path, seed=42, nsig=1e-5, monitors=[{"name": "Raw"}])
    conn = tvb.Connectivity.from_file("connectivity_68.zip")
    conn.speed = np.array([4.0])
    conn.weights = conn.weights / conn.weights.max()
    noise = tvb.noise.Additive(nsig=np.array([1e-5]), noise_seed=42)
    own = tvb.Simulator(
        connectivity=conn, model=tvb.models.WilsonCowan(), coupling=tvb.coupling.Linear(),
        integrator=tvb.integrators.HeunStochastic(dt=0.1, noise=noise), monitors=[tvb.monitors.Raw()],
    )  # fmt: skip
    assert np.array_equal(sim.configure().run(n_steps=30)[0][1], own.configure().run(n_steps=30)[0][1])


def test_the_initial_state_is_a_constant_history_of_the_variables_named(tmp_path):
    sim = build(tmp_path, initial_state={"I": 0.25}, integrator="HeunDeterministic")
    history = RegionSimulation(sim, {}).initial_history
    assert (history[:, 1] == 0.25).all() and history[:, 0].std() > 0.1
    assert "initial_state.Q: unknown state variable 'Q'; there is E, I." in refusal(tmp_path, initial_state={"Q": 1.0})


def test_monitors_take_variables_by_name_and_the_others_keep_the_models_own(tmp_path):
    sim = build(tmp_path, monitors=[
        {"period": 1.0}, {"name": "SubSample", "period": 0.5, "variables_of_interest": ["I", "E"]},
        {"name": "AfferentCoupling", "variables_of_interest": "I"},
    ])  # fmt: skip
    simulation = RegionSimulation(sim, {})
    assert [monitor["voi"] for monitor in simulation.monitors] == [["E"], ["I", "E"], ["I"]]
    assert [monitor["shape"] for monitor in simulation.monitors] == [[1, 68, 1], [2, 68, 1], [1, 68, 1]]
    simulation.advance(10)
    averages, samples, _ = simulation.record()
    assert [time for time, _ in samples] == [0.5, 1.0] and [time for time, _ in averages] == [0.5]
    assert np.array_equal(samples[1][1][0, :, 0], simulation.states(10, 11, range(68), "I")[0])


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ({"model": "WilsonCowen"}, ["tvb.model = 'WilsonCowen'", "there is WilsonCowan, ", "JansenRit"]),
        ({"model_params": {"ce": 1.0}}, ["tvb.model_params.ce", "unknown parameter of WilsonCowan", "c_ee"]),
        ({"model_params": {"c_ee": [1.0, 2.0]}}, ["tvb.model_params.c_ee", "2 values", "one per region (68)"]),
        ({"coupling": "Lineal"}, ["tvb.coupling = 'Lineal'", "there is Linear, ", "SigmoidalJansenRit"]),
        ({"coupling_params": {"c": 1.0}}, ["tvb.coupling_params.c", "there is a, b."]),
        ({"integrator": "Heun"}, ["tvb.integrator = 'Heun'", "HeunStochastic", "EulerDeterministic"]),
        ({"integrator": "HeunDeterministic", "nsig": 0.1}, ["HeunDeterministic has no noise", "HeunStochastic"]),
        ({"nsig": [1.0, 2.0, 3.0]}, ["tvb.nsig", "(E, I)"]),
        ({"nsig": -1.0}, ["tvb.nsig", "none below zero"]),
        ({"connectivity": "connectivity_67.zip"}, ["tvb.connectivity = 'connectivity_67.zip'", "connectivity_68.zip"]),
        ({"monitors": [{"name": "TempAverage"}]}, ["tvb.monitors.0.name", "there is TemporalAverage, "]),
        ({"monitors": [{"name": "EEG"}]}, ["tvb.monitors.0.name = 'EEG'", "tvb.build", "TemporalAverage"]),
        ({"monitors": [{"period": 0.25}]}, ["monitors.0.period = 0.25 ms", "multiple of tvb.dt = 0.1 ms", "0.2"]),
        ({"monitors": [{}, {"perod": 1.0}]}, ["tvb.monitors.1.perod", "there is period"]),
        ({"monitors": [{"variables_of_interest": ["J"]}]}, ["variables_of_interest", "unknown variable 'J'", "E, I"]),
        ({"monitors": [{"variables_of_interest": [1]}]}, ["variables_of_interest", "count through E"]),
        ({"monitors": [{"name": "Bold", "hrf_length": "long"}]}, ["tvb.monitors.0.hrf_length = 'long'", "TVB refuses"]),
    ],
)
def test_what_is_wrong_is_named_with_what_there_is(tmp_path, section, parts):
    message = refusal(tmp_path, **section)
    for part in parts:
        assert part in message


def test_a_value_outside_the_range_tvb_suggests_is_taken_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        sim = build(tmp_path, coupling_params={"a": 3.0})
    assert sim.coupling.a == 3.0
    assert "tvb.coupling_params.a = 3.0 lies outside the range TVB suggests for it, 0 to 1" in caplog.text


def test_a_function_of_ones_own_returns_the_simulator_and_the_seed_still_counts(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from tvb.simulator import integrators, models, noise\n"
        "from tvb.simulator.simulator import Simulator\n"
        "from tvb.datatypes.connectivity import Connectivity\n"
        "import numpy as np\n"
        "def build(section):\n"
        "    sim = Simulator(connectivity=Connectivity.from_file('connectivity_68.zip'), model=models.Linear(),\n"
        "        integrator=integrators.EulerStochastic(dt=section.dt,\n"
        "            noise=noise.Additive(nsig=np.array([section.params['nsig']]))))\n"
        "    sim.configure()\n"
        "    return sim\n"
        "def other(section):\n"
        "    return 3\n"
    )
    histories = []
    for seed in (1, 1, 2):
        sim = build(tmp_path, seed=seed, build="mine:build", params={"nsig": 1e-4}, dt=0.2)
        simulation = RegionSimulation(sim, {0: {"x"}}, [[0]])
        simulation.advance(5)
        histories.append(simulation.states(-5, 6, range(1, 68), "x"))
    assert simulation.dt_ms == 0.2
    assert np.array_equal(histories[0], histories[1]) and (histories[0] != histories[2]).all()
    assert "it has to return a TVB Simulator, it returned int" in refusal(tmp_path, build="mine:other")
    assert "no such function" in refusal(tmp_path, build="mine:missing")


@pytest.mark.parametrize(
    "model", ["Epileptor", "ReducedWongWang", "SupHopf", "Linear", "ZerlautAdaptationFirstOrder", "CoombesByrne2D"]
)
def test_further_models_of_tvb_step_with_a_region_that_delivers(tmp_path, model):
    sim = build(tmp_path, model=model, integrator="EulerDeterministic", dt=0.01)
    variables = [sim.model.state_variables[i] for i in sim.model.cvar]
    simulation = RegionSimulation(sim, {4: set(variables)}, [[4]])
    assert np.isfinite(simulation.coupling(0, 20, [4], variables[0])).all()
    simulation.advance(20)
    others = [region for region in range(68) if region != 4]
    assert np.isfinite(simulation.states(0, 21, others, variables[0])).all()


def test_importing_and_building_prints_nothing_and_leaves_the_plotters_out(tmp_path):
    script = (
        "import sys, pathlib\n"
        "from tvb_lockstep.tvb_side.build import build_simulator\n"
        "from tvb_lockstep.bridges.experiment import TvbSection\n"
        "from tvb_lockstep.tvb_side.simulation import RegionSimulation\n"
        "simulation = RegionSimulation(build_simulator(TvbSection(), 1, pathlib.Path('.')), {0: ['E']}, [[0]])\n"
        "simulation.advance(3)\n"
        "assert 'tvb.simulator.lab' not in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
