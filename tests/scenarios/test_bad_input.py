"""Experiments and command lines that cannot be: who caused it reads why, nothing hangs, and nothing is half-written."""

from __future__ import annotations

import json
import os
import re
import shutil

import programs
import pytest
import running
from programs import ENDLESS, MODEL, NETWORK, SHORT, write_experiment
from tvb_lockstep.bridges.experiment import shipped
from tvb_lockstep.scripts.main import main

EXPERIMENT = "wilson_cowan"
OUT, BACK = "interfaces.tvb_to_spikenet.0", "interfaces.spikenet_to_tvb.0"


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


# ---- found before the start: no run directory, and the same message from `lockstep check` ----------------------------

# what is set, and what the message has to say: the key, the value, what is allowed or what to do
IN_THE_FILE = [
    (["tvb.modle=X"], "tvb.modle = 'X'", "Did you mean 'model'?"),
    (["exchange.transprot=shm"], "exchange.transprot", "Did you mean 'transport'?"),
    ([f"{OUT}.transformer_param=3"], f"{OUT}.transformer_param = 3", "Did you mean 'transformer_params'?"),
    (["duration=-1"], "duration = -1", "greater than 0"),
    (["duration=nan"], "duration = nan", "finite"),
    (["duration=inf"], "duration = inf", "finite"),
    (["tvb.dt=nan"], "tvb.dt = nan", "finite"),
    (["spikenet.params.neuron.C_m=nan"], "spikenet.0.params.neuron.C_m = nan", "finite"),
    ([f"{OUT}.transformer_params.scale_factor=-inf"], f"{OUT}.transformer_params.scale_factor = -inf", "finite"),
    ([f"{OUT}.proxy_params.weight=nan"], f"{OUT}.proxy_params.weight = nan", "finite"),
    (["exchange.depth=1000000000"], "exchange.depth = 1000000000", "1024"),
    (["exchange.transport=tcp"], "exchange.transport = 'tcp'", "'shm', 'file' or 'memory'"),
    ([f"{OUT}.model=VOLTAGE"], f"{OUT}.model = 'VOLTAGE'", "'RATE', 'SPIKES' or 'CURRENT'"),
    ([f'{BACK}.voi=["E","I","E"]'], "voi = ['E', 'I', 'E'] and populations = ['E', 'I']", "same length"),
    ([f"{OUT}.spikenet=cortex"], "spikenet = 'cortex'", "['spikenet']"),
    (["spikenet.simulator=brian"], "simulator = 'brian'", "'nest', 'annarchy' or 'netpyne'"),
    (["seed=1.5"], "seed = 1.5", "integer"),
    (["name=../../x"], "name = '../../x'", "pattern"),
    (["duration"], "--set duration", "KEY=VALUE"),
    (["=5"], "--set =5", "KEY=VALUE"),
    (["tvb.dt.x=5"], "tvb.dt is a value", "no key 'x'"),
    (["interfaces.tvb_to_spikenet.7.voi=E"], "list of 1", "from 0 to 0"),
]  # fmt: skip


@pytest.mark.parametrize("command", ["run", "tvb", "check"])
@pytest.mark.parametrize(("overrides", "what", "allowed"), IN_THE_FILE, ids=lambda value: str(value)[:50])
def test_a_value_that_cannot_be_is_refused_before_there_is_a_run_directory(
    command, overrides, what, allowed, tmp_path, capfd
):
    where = [] if command == "check" else ["--run-dir", str(tmp_path / "run")]
    sets = [part for override in overrides for part in ("--set", override)]
    assert main([command, EXPERIMENT, *where, *sets]) == 2
    err = flat(capfd.readouterr().err)
    assert err.startswith(f"lockstep {command}: ")
    assert what in err and allowed in err
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_toml_and_an_experiment_that_is_nowhere_are_refused(tmp_path):
    (tmp_path / "experiment.toml").write_text("duration = = 5\n")
    for command in ("run", "spikenet"):
        broken = running.lockstep(command, tmp_path, "--run-dir", tmp_path / "run")
        assert broken.code == 2 and "is not valid TOML" in broken.err and "line 1" in broken.err, broken.text
        nowhere = running.lockstep(command, "wilson_cowen", "--run-dir", tmp_path / "run")
        assert nowhere.code == 2 and "There is no experiment 'wilson_cowen'" in nowhere.err
        for name in shipped():
            assert name in nowhere.err
    assert not (tmp_path / "run").exists()


def test_an_environment_that_is_missing_and_cannot_be_made_says_what_to_do(tmp_path):
    """No simulator, and no folder to put one into (a file is in its place)."""
    (tmp_path / "file").write_text("")
    for command in ("spikenet", "check"):
        where = [] if command == "check" else ["--run-dir", tmp_path / "run"]
        nowhere = {"LOCKSTEP_ENVS": str(tmp_path / "file" / "envs")}
        other = ["--simulator", "annarchy", "--spikenet-env", "ANNarchy==5.0.4.1"]
        refused = running.lockstep(command, EXPERIMENT, *where, *other, env=nowhere)
        assert refused.code == 7, refused.text
        assert "cannot be made: Not a directory" in refused.err and "LOCKSTEP_ENVS" in refused.err
    assert not (tmp_path / "run").exists()


# ---- found by TVB's side ---------------------------------------------------------------------------------------------

IN_TVB = [
    (["tvb.model=WilsonCowen"], "tvb.model = 'WilsonCowen'", "WilsonCowan"),
    (["tvb.model_params.c_eee=1"], "tvb.model_params.c_eee", "c_ee,"),
    (["tvb.model_params.c_ee=[1,2,3]"], "tvb.model_params.c_ee: 3 values", "68"),
    (["tvb.coupling=Linaer"], "tvb.coupling = 'Linaer'", "Linear, Difference"),
    (["tvb.coupling_params.z=1"], "tvb.coupling_params.z", "a, b"),
    (["tvb.integrator=Heun"], "tvb.integrator = 'Heun'", "HeunStochastic"),
    (['tvb.monitors=[{name="TempAverage"}]'], "tvb.monitors.0.name = 'TempAverage'", "TemporalAverage"),
    (['tvb.monitors=[{name="TemporalAverage", perod=1.0}]'], "tvb.monitors.0.perod", "period"),
    (["tvb.connectivity=nofile.zip"], "tvb.connectivity = 'nofile.zip'", "connectivity_68.zip"),
    (["tvb.initial_state.Q=1"], "tvb.initial_state.Q", "E, I"),
    (["tvb.build=nomodule:f"], "tvb.build = 'nomodule:f'", "no such module"),
    ([f'{OUT}.voi=["X"]'], f"{OUT}.voi = 'X'", "WilsonCowan has no such state variable; it has E, I"),
    (['spikenet.regions=["r_precuneuss"]'], "'r_precuneuss' does not exist", "Did you mean r_precuneus"),
    (["spikenet.regions=[68]"], "region 68", "0 to 67"),
    ([f'{OUT}.regions=["l_insula"]'], "l_insula: not a spiking region", "r_precuneus"),
    ([f'{BACK}.voi=["E","E"]'], "E of r_precuneus is written twice", "Remove one"),
    ([f"{OUT}.transformer=lineer"], f"{OUT}.transformer = 'lineer'", "there are linear, "),
    ([f"{OUT}.transformer_params.scale_facto=1"], "unknown parameter 'scale_facto'", "Did you mean 'scale_factor'?"),
    ([f"{OUT}.transformer_params.unit=mV"], "unit 'mV' cannot be converted to 'Hz'", "Hz, kHz, 1/s, 1/ms"),
    (["exchange.synchronization_time=20"], "r_precuneus -> r_isthmuscingulate", "window these delays allow is 6.3"),
    (["exchange.synchronization_time=0.25"], "exchange.synchronization_time = 0.25 ms", "multiple of TVB's dt = 0.1"),
    (["spikenet.resolution=0.03"], "dt = 0.1 ms is not a multiple of the resolution of spikenet = 0.03", "0.05"),
    (["duration=100.05"], "duration = 100.05 ms is not a multiple of TVB's dt", "100"),
    (["duration=1e12"], "duration = 1e+12 ms is 1e+13 steps", "1e+08 ms"),
    (["duration=1e300"], "duration = 1e+300 ms", "1e+08 ms"),
    ([f"{OUT}.coupling_mode=spikeNet", f"{OUT}.proxy_params={{}}", "tvb.speed=1000"],
     "r_paracentral -> r_precuneus (0 ms) is too", "tvb.speed"),
    ([f"{OUT}.proxy_params.number_of_neurons=0"], "number_of_neurons = 0", "at least 1"),
    ([f"{OUT}.proxy_params.number_of_neurons=true"], "number_of_neurons = True", "at least 1"),
    ([f"{OUT}.proxy_params.weight=heavy"], "weight = 'heavy'", "must be a number"),
    ([f"{OUT}.proxy_params.delay=0"], "delay = 0", "positive"),
    ([f"{OUT}.proxy_params.wieght=1"], "proxy_params.wieght", "weight"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "what", "allowed"), IN_TVB, ids=lambda value: str(value)[:50])
def test_what_tvb_cannot_do_is_found_by_check_without_running(overrides, what, allowed, capfd):
    sets = [part for override in overrides for part in ("--set", override)]
    assert main(["check", EXPERIMENT, "--tvb-only", *sets]) == 2
    err = flat(capfd.readouterr().err)
    assert what in err and allowed in err


# ---- found by the network's side, or by both -------------------------------------------------------------------------

IN_THE_NETWORK = [
    (["spikenet.params.n_excitatry=3"], "spikenet.params.n_excitatry", "n_excitatory"),
    (["spikenet.build=network:nothing"], "spikenet.build = 'network:nothing'", "build"),
    ([f'{OUT}.populations=["X"]'], "'X' does not exist at r_precuneus in spikenet", "E, I"),
    ([f"{BACK}.transformer_params.tau_ms=-1"], "tau_ms = -1", "must not be negative"),
    (["spikenet.min_delay=50"], "min_delay of spikenet = 50.0 ms", "Choose one of"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "what", "allowed"), IN_THE_NETWORK, ids=lambda value: str(value)[:50])
def test_what_the_network_cannot_do_is_found_by_check_without_running(overrides, what, allowed, capfd):
    sets = [part for override in overrides for part in ("--set", override)]
    assert main(["check", EXPERIMENT, *sets]) == 2
    err = flat(capfd.readouterr().err)
    assert what in err and allowed in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("exchange.synchronization_time=20", "r_precuneus -> r_isthmuscingulate"),
        (f"{BACK}.transformer_params.unit=mV", "unit 'mV' cannot be converted to 'Hz'"),
    ],
)
def test_a_run_that_cannot_be_says_so_on_both_sides_and_its_directory_can_be_used_at_once(
    override, what, tmp_path
):
    run_dir = tmp_path / "run"
    refused = running.lockstep("run", EXPERIMENT, "--run-dir", run_dir, "--set", override, "--quiet")
    assert refused.code == 2, refused.text
    assert "Traceback" not in refused.text
    for name in ("tvb", "spikenet"):
        assert what in (run_dir / "log" / f"{name}.log").read_text()
    left = {path.name for path in run_dir.iterdir()}
    assert left <= {"log", "peers", "run.json", "experiment.json", "run.lock", "record", "initial_history.npy"}
    assert not (run_dir / "record").exists() or all(not log.stat().st_size for log in (run_dir / "record").iterdir())
    if override.startswith(BACK):
        running.run(EXPERIMENT, run_dir, SHORT)  # no --overwrite
        assert running.provenance(run_dir)["complete"]


def test_rates_below_zero_are_refused_with_the_window_and_played_as_zero_with_clip(tmp_path):
    values = {**SHORT, f"{OUT}.transformer_params.scale_factor": -100.0}
    where = ["--run-dir", tmp_path / "run", "--no-report"]
    refused = running.lockstep("run", EXPERIMENT, *where, *running.settings(values))
    assert refused.code == 2
    assert "window 0" in refused.text and "Rates cannot be negative" in refused.text and "clip = true" in refused.text
    clipped = running.run(EXPERIMENT, tmp_path / "clipped", {**values, f"{OUT}.transformer_params.clip": True})
    content = running.content(clipped)
    raw = content["tvb_to_spikenet.0.raw"][0]
    assert (raw > 0).all() and not content["tvb_to_spikenet.0.transformed"][0].any()
    channel = json.loads((clipped / "provenance.json").read_text())["channels"]["tvb_to_spikenet.0"]
    assert channel["values_clipped"] == raw.size and channel["balanced"]


# ---- two sides that do not fit ---------------------------------------------------------------------------------------


def test_two_sides_with_different_experiments_show_the_difference_on_both_terminals(tmp_path):
    run_dir = tmp_path / "run"
    tvb = programs.program("tvb", EXPERIMENT, run_dir, {"duration": 40.0, "seed": 3}, tmp_path / "tvb")
    spikenet = programs.program("spikenet", EXPERIMENT, run_dir, {"duration": 30.0, "seed": 3}, tmp_path / "spikenet")
    assert tvb.end() == 3 and spikenet.end() == 3
    for own, other, values in (("tvb", "spikenet", "40.0 30.0"), ("spikenet", "tvb", "30.0 40.0")):
        text = flat({"tvb": tvb, "spikenet": spikenet}[own].text)
        assert f"{own} and {other} were started with different experiments" in text
        assert f"{own} {other} duration {values}" in text, "two columns, and no other key"
    assert not (run_dir / "contract.json").exists()


def test_programs_of_experiments_that_name_each_other_differently_do_not_wait_for_ever(tmp_path):
    run_dir = tmp_path / "run"
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "", tmp_path / "spikenet")
    values = {**ENDLESS, "spikenet.name": "cortex"}
    cortex = programs.double(EXPERIMENT, run_dir, values, "", tmp_path / "cortex", "cortex")
    assert spikenet.end() == 3 and cortex.end() == 3
    for terminal in (spikenet, cortex):
        assert "were started with different experiments" in terminal.text
        assert "spikenet.0.name" in terminal.text and '"cortex"' in terminal.text and '"spikenet"' in terminal.text


def test_two_sides_with_no_wire_version_in_common_name_both_versions_of_the_toolkit(tmp_path):
    run_dir = tmp_path / "run"
    spikenet = programs.double(EXPERIMENT, run_dir, ENDLESS, "wire 99", tmp_path / "spikenet")
    tvb = programs.program("tvb", EXPERIMENT, run_dir, ENDLESS, tmp_path / "tvb")
    assert tvb.end() == 3 and spikenet.end() == 3
    for terminal in (tvb, spikenet):
        assert "no wire version in common" in terminal.text
        assert "speaks [1]" in terminal.text and "speaks [99]" in terminal.text and "9.9" in terminal.text


# ---- functions of one's own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "what"),
    [
        ("def build(request):\n    return [1, 2]\n", "list"),
        ("def build(request):\n    return {}\n", "A"),
        ("def make(request):\n    return {}\n", "network has no such function"),
        (NETWORK.format(broken="return {'A': {'E': 3}}"), "E"),
        ("def build(request):\n    raise RuntimeError('no licence for the GPU')\n", "no licence for the GPU"),
    ],
)
def test_a_network_function_that_is_missing_or_returns_something_else_is_named(network, what, tmp_path, capfd):
    write_experiment(tmp_path / "own", network=network)
    assert main(["check", str(tmp_path / "own")]) == 2
    err = capfd.readouterr().err
    assert "spikenet.build = 'network:build'" in err or "build" in err
    assert what in err


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("def build(section):\n    return 3\n", "has to return a TVB Simulator, it returned int"),
        ("def make(section):\n    pass\n", "model has no such function; it has make"),
    ],
)
def test_a_model_function_that_is_missing_or_returns_something_else_is_named(model, what, tmp_path, capfd):
    write_experiment(tmp_path / "own", tvb=model)
    assert main(["check", str(tmp_path / "own"), "--tvb-only"]) == 2
    err = capfd.readouterr().err
    assert "tvb.build = 'model:build'" in err and what in err


# ---- odd, but right --------------------------------------------------------------------------------------------------


def test_odd_region_names_and_paths_are_carried_through_to_the_results(tmp_path, monkeypatch, capfd):
    labels = ["Gyrus öder/links @1", "b, 'c' \"d\"", "[bold]%s{0}"]
    folder = tmp_path / "mein Gehirn é"
    write_experiment(folder, tvb=MODEL.format(broken="pass").replace('["A", "B", "C"]', repr(labels)))
    file = folder / "experiment.toml"
    text = file.read_text().replace('regions = ["A"]', f"regions = [0, '{labels[2]}']")
    file.write_text(text.replace("400.0", "20.0"))
    run_dir = tmp_path / "läufe hier" / "eins zwei"
    ended = running.lockstep("run", folder, "--run-dir", run_dir)
    assert ended.code == 0, ended.text
    assert (run_dir / "report.html").exists()
    contract = running.contract_of(run_dir)
    assert [channel.raw.labels for channel in contract.channels] == [(f"E@{labels[0]}", f"E@{labels[2]}")] * 2
    import h5py

    with h5py.File(run_dir / "tvb.h5") as tvb:
        assert [label.decode() for label in tvb["regions/label"][()]] == labels
    with h5py.File(run_dir / "spikes.h5") as spikes:
        assert len(spikes["spikes"]) == 4, sorted(spikes["spikes"])
    monkeypatch.setenv("COLUMNS", "300")
    for command, target in (("status", run_dir), ("inspect", run_dir), ("check", folder)):
        assert main([command, str(target)]) == 0
    out = capfd.readouterr().out
    assert labels[0] in out and labels[2] in out


def test_a_run_needs_no_more_room_than_it_has(tmp_path):
    """A timing of 48 bytes a window for ever so many windows is refused before it is written."""
    from tvb_lockstep.bridges.errors import RunDirectoryError
    from tvb_lockstep.bridges.timing import Timing

    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(RunDirectoryError, match=f"of {free} windows takes {48 * free} bytes"):
        Timing.create(tmp_path, "tvb", free)
    assert os.listdir(tmp_path / "timing") == []
