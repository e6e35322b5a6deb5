"""The experiment file: every message names the key, the value and what is allowed."""

from __future__ import annotations

import sys

import pytest
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.bridges.experiment import find, load, user_function

MINIMAL = """
duration = 100.0
[tvb]
[spikenet]
simulator = "nest"
regions = [0, "rA1"]
[[interfaces.tvb_to_spikenet]]
voi = "E"
populations = ["E", "I"]
"""
TWO_PROGRAMS = MINIMAL.replace("[spikenet]", '[[spikenet]]\nname = "cortex"') + """
[[spikenet]]
name = "ganglia"
simulator = "annarchy"
regions = 3
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        folder = tmp_path / "demo"
        folder.mkdir(exist_ok=True)
        (folder / "experiment.toml").write_text(text)
        return str(folder)

    return write


def refusal(path: str, *overrides: str) -> str:
    with pytest.raises(ExperimentError) as caught:
        load(path, list(overrides))
    return str(caught.value)


# ---- what is read ----------------------------------------------------------------------------------------------


def test_a_short_file_is_filled_up_with_defaults(write):
    experiment, path = load(write(MINIMAL))
    assert path.name == "experiment.toml"
    assert (experiment.name, experiment.duration, experiment.seed) == ("demo", 100.0, 0)
    assert (experiment.exchange.transport, experiment.exchange.mode) == ("shm", "parallel")
    assert experiment.exchange.synchronization_time == "min_delay" and experiment.exchange.keep == -1
    assert experiment.spikenet[0].name == "spikenet" and experiment.spikenet[0].regions == [0, "rA1"]
    assert experiment.peers == ["tvb", "spikenet"]


def test_tracts_that_would_be_there_twice_are_refused(write):
    overrides = [
        'spikenet.populations=[{label = "E", model = "iaf_psc_exp", size = 2}]',
        'spikenet.region_connections=[{source = "E", target = "E", factor = 1.0}]',
    ]
    load(write(MINIMAL), overrides)
    text = refusal(write(MINIMAL), *overrides, "interfaces.exclusive_nodes=false")
    assert "exclusive_nodes = false, and spikenet has region_connections" in text and "twice" in text


def test_several_spiking_programs_and_a_bridge_are_peers_tvb_first(write):
    experiment, _ = load(write(TWO_PROGRAMS), ["exchange.bridge=own"])
    assert experiment.peers == ["tvb", "cortex", "ganglia", "bridge"]
    assert experiment.program("ganglia").regions == [3]


def test_flat_names_every_value_by_its_dotted_key(write):
    flat = load(write(MINIMAL))[0].flat()
    assert flat["tvb.dt"] == 0.1 and flat["spikenet.0.simulator"] == "nest" and flat["seed"] == 0
    assert flat["interfaces.tvb_to_spikenet.0.populations"] == ["E", "I"]
    assert flat["interfaces.spikenet_to_tvb"] == []


def test_an_experiment_is_found_by_folder_file_and_shipped_name(write):
    folder = write(MINIMAL)
    assert find(folder) == find(f"{folder}/experiment.toml")
    message = refusal("nowhere")
    assert "There is no experiment 'nowhere'" in message and "come with lockstep" in message


# ---- overrides -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("exchange.transport=file", "exchange.transport", "file"),
        ('exchange.transport="file"', "exchange.transport", "file"),
        ("duration=200", "duration", 200.0),
        ("exchange.synchronization_time=0.5", "exchange.synchronization_time", 0.5),
        ("exchange.record=false", "exchange.record", False),
        ("spikenet.simulator=netpyne", "spikenet.0.simulator", "netpyne"),  # one program: its number may be left out
        ("spikenet.0.regions=[5, 6]", "spikenet.0.regions", [5, 6]),
        ("interfaces.tvb_to_spikenet.0.model=CURRENT", "interfaces.tvb_to_spikenet.0.model", "CURRENT"),
        ("tvb.params.a.b=3", "tvb.params.a.b", 3),
        ('environments.spikenet=neuron==8.2.7 netpyne==1.0.7', "environments.spikenet", "neuron==8.2.7 netpyne==1.0.7"),
        ("environments.python.spikenet=python3.12", "environments.python.spikenet", "python3.12"),
    ],
)  # fmt: skip
def test_any_value_can_be_overridden(write, override, key, value):
    assert load(write(MINIMAL), [override])[0].flat()[key] == value


def test_the_last_of_several_overrides_counts(write):
    assert load(write(MINIMAL), ["seed=1", "seed=2"])[0].seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("duration", "--set duration: expected KEY=VALUE, for example --set exchange.transport=file"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("a..b=3", "--set a..b=3: expected KEY=VALUE"),
        ("duration.x=3", "--set duration.x=3: duration is a value, it has no key 'x'"),
        ("spikenet.7.name=x", "spikenet is a list of 1; go on with a number from 0 to 0, as in spikenet.0.name"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused_with_what_was_typed(write, override, words):
    assert words in refusal(write(MINIMAL), override)


def test_with_several_programs_an_override_has_to_say_which(write):
    message = refusal(write(TWO_PROGRAMS), "spikenet.simulator=nest")
    assert "spikenet is a list of 2; go on with a number from 0 to 1, as in spikenet.0.simulator" in message


def test_an_override_is_validated_like_the_file(write):
    assert "exchange.depth = 0" in refusal(write(MINIMAL), "exchange.depth=0")


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("exchange.transprt=shm", ["exchange.transprt = 'shm'", "unknown key", "Did you mean 'transport'?", "keep"]),
        ("spikenet.resolutoin=1", ["spikenet.0.resolutoin = 1", "Did you mean 'resolution'?", "threads"]),
        ("nonsense=1", ["nonsense = 1", "unknown key", "duration", "interfaces"]),
        ("environments.nest=numpy<2", ["environments.nest = 'numpy<2'", "unknown key", "tvb, spikenet, python"]),
        ("environments.python.cortex=python3.12", ["environments.python.cortex = 'python3.12'", "here: tvb, spikenet"]),
        ("environments.python.tvb=3.12", ["environments.python.tvb = 3.12", "string"]),
        ("interfaces.tvb_to_spikenet.0.modle=RATE", ["interfaces.tvb_to_spikenet.0.modle", "Did you mean 'model'?"]),
        ("exchange.transport=pigeon", ["exchange.transport = 'pigeon'", "'shm', 'file' or 'memory'"]),
        ("exchange.mode=both", ["exchange.mode = 'both'", "'parallel' or 'serial'"]),
        ("exchange.keep=-2", ["exchange.keep = -2", "greater than or equal to -1"]),
        ("spikenet.simulator=brian", ["spikenet.0.simulator = 'brian'", "'nest', 'annarchy' or 'netpyne'"]),
        ("duration=-5", ["duration = -5", "greater than 0"]),
        ("duration=nan", ["duration", "finite"]),
        ("duration=long", ["duration = 'long'", "valid number"]),
        ("tvb.dt=0", ["tvb.dt = 0", "greater than 0"]),
        ("seed=1.5", ["seed = 1.5", "integer"]),
        ("spikenet.name=tvb", ["spikenet.name = 'tvb' is reserved"]),
        ("spikenet.name=7up", ["spikenet.0.name = '7up'", "match pattern"]),
        ("interfaces.tvb_to_spikenet.0.model=VOLTAGE", ["model = 'VOLTAGE'", "'RATE', 'SPIKES' or 'CURRENT'"]),
        ("interfaces.tvb_to_spikenet.0.spikenet=thalamus", ["'thalamus'", "no such spiking program", "spikenet"]),
        ('interfaces.tvb_to_spikenet.0.voi=["a", "b", "c"]', ["voi = ['a', 'b', 'c']", "same length"]),
        ("interfaces.tvb_to_spikenet.0.populations=[]", ["interfaces.tvb_to_spikenet.0.populations", "at least 1"]),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_key_value_and_what_is_allowed(write, override, words):
    message = refusal(write(MINIMAL), override)
    assert "is not a valid experiment" in message
    for word in words:
        assert word in message


def test_all_mistakes_are_told_at_once(write):
    message = refusal(write(MINIMAL), "duration=0", "tvb.dt=0", "exchange.transport=x")
    assert len(message.splitlines()) == 4


def test_a_missing_key_is_named(write):
    assert "duration: missing." in refusal(write(MINIMAL.replace("duration = 100.0", "")))
    assert "spikenet.0.simulator: missing." in refusal(write(MINIMAL.replace('simulator = "nest"', "")))


def test_an_experiment_that_exchanges_nothing_is_refused(write):
    message = refusal(write(MINIMAL.split("[[interfaces")[0] + "[interfaces]\n"))
    assert "no row in either direction; add [[interfaces.tvb_to_spikenet]]" in message


def test_two_programs_of_one_name_are_refused(write):
    assert "spikenet.name must differ" in refusal(write(TWO_PROGRAMS.replace("ganglia", "cortex")))


def test_a_file_that_is_no_toml_is_refused_with_the_line(write):
    message = refusal(write("duration = = 3\n"))
    assert "is not valid TOML" in message and "line 1" in message


# ---- functions of the user's own -------------------------------------------------------------------------------


def test_a_function_beside_the_experiment_is_found_and_may_import_its_neighbours(tmp_path):
    (tmp_path / "lockstep_test_neighbour.py").write_text("VALUE = 7\n")
    (tmp_path / "network.py").write_text(
        "from lockstep_test_neighbour import VALUE\ndef build(section):\n    return VALUE + section\n"
    )
    assert user_function("network:build", tmp_path, "spikenet.build")(1) == 8


def test_two_experiments_may_both_have_a_file_of_the_same_name(tmp_path):
    for number in (1, 2):
        folder = tmp_path / f"experiment{number}"
        folder.mkdir()
        (folder / "model.py").write_text(f"def build():\n    return {number}\n")
    built = [user_function("model:build", tmp_path / f"experiment{number}", "tvb.build")() for number in (1, 2)]
    assert built == [1, 2]


def test_a_function_of_an_installed_module_is_found(tmp_path):
    import json

    assert user_function("json:dumps", tmp_path, "tvb.build") is json.dumps


@pytest.mark.parametrize("reference", ["model", "model:", "model:a b", "model:1"])
def test_a_reference_that_is_not_module_and_function_is_refused(tmp_path, reference):
    with pytest.raises(ExperimentError) as caught:
        user_function(reference, tmp_path, "tvb.build")
    assert f"tvb.build = {reference!r}: expected 'module:function'" in str(caught.value)


def test_a_module_that_is_nowhere_is_named_with_the_file_that_was_looked_for(tmp_path):
    with pytest.raises(ExperimentError) as caught:
        user_function("lockstep_no_such_module:build", tmp_path, "tvb.build")
    assert f"there is no file {tmp_path / 'lockstep_no_such_module.py'} and no such module" in str(caught.value)


def test_a_function_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "model.py").write_text("def make():\n    pass\nbuild = 3\n")
    with pytest.raises(ExperimentError) as caught:
        user_function("model:build", tmp_path, "tvb.build")
    assert "tvb.build = 'model:build': model has no such function; it has make." in str(caught.value)


def test_an_error_inside_the_users_module_is_not_hidden(tmp_path):
    (tmp_path / "model.py").write_text("import lockstep_missing_dependency\n")
    with pytest.raises(ModuleNotFoundError, match="lockstep_missing_dependency"):
        user_function("model:build", tmp_path, "tvb.build")


def test_modules_of_two_experiments_may_have_the_same_names_and_neighbours(tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sizes.py").write_text(f"which = {name!r}\n")
        (folder / "network.py").write_text("import sizes\n\ndef build(request):\n    return sizes.which\n")
    builds = [user_function("network:build", tmp_path / name, "build") for name in ("first", "second", "first")]
    assert [build(None) for build in builds] == ["first", "second", "first"]
    assert str(tmp_path / "second") not in sys.path
