"""Other versions on one side only, each in an environment of its own. The first time these are made, a minute each;
where the package index is out of reach, the tests are skipped."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import running
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.scripts import environments

SHORT = {**running.SMALL, "duration": 40.0}


def ready(name: str, requirements: str = "", python: str = "") -> None:
    """Makes the environment unless it is there; skips the test when it cannot be for want of a network."""
    try:
        environments.ensure(name, requirements, python)
    except EnvironmentFailed as error:
        if "package index was not reached" in str(error):
            pytest.skip("the package index is out of reach")
        raise


def alike(a: Path, b: Path) -> list[str]:
    """What differs between two runs of which one side had other versions; there must be something to compare."""
    assert len(running.content(a)["spikenet.spikes"][0]) > 30
    return running.differing(a, b)


def versions(run_dir: Path) -> dict[str, Any]:
    programs = running.provenance(run_dir)["programs"]
    return {name: {**page["versions"], "python": page["python"]} for name, page in programs.items()}


@functools.cache
def other_python() -> str:
    """A Python of another minor version than this one, or ""."""
    found = [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python3.1?"))]
    for python in ("python3.12", "python3.13", *found):
        try:
            if not environments.running(python):
                environments.interpreter(python)
                return python
        except EnvironmentFailed:
            continue
    return ""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return running.run("wilson_cowan", tmp_path_factory.mktemp("plain") / "run", SHORT)


def test_an_older_tvb_on_numpy_1_beside_the_same_nest_gives_the_same_bits(plain: Path, tmp_path: Path) -> None:
    older = "tvb-library==2.9.2 tvb-contrib==2.9.1 numpy<2"
    ready("tvb", older)
    run_dir = running.run("wilson_cowan", tmp_path / "run", SHORT, "--tvb-env", older)
    found = versions(run_dir)
    assert found["tvb"]["tvb-library"] == "2.9.2" and found["tvb"]["numpy"].startswith("1.")
    assert found["spikenet"] == versions(plain)["spikenet"]
    assert alike(plain, run_dir) == []


def test_nest_on_another_python_gives_the_same_bits(plain: Path, tmp_path: Path) -> None:
    python = other_python()
    if not python:
        pytest.skip("there is no Python 3.12 or newer beside the one that runs the tests")
    ready("nest", "", python)
    run_dir = running.run("wilson_cowan", tmp_path / "run", SHORT, "--spikenet-python", python)
    found = versions(run_dir)
    assert found["tvb"] == versions(plain)["tvb"]
    expected = ".".join(map(str, environments.interpreter(python).version))
    assert found["spikenet"]["python"].startswith(f"{expected}.") and not found["tvb"]["python"].startswith(expected)
    assert alike(plain, run_dir) == []


@pytest.mark.skipif(not environments.has("netpyne"), reason="NetPyNE is not installed here")
def test_neuron_8_and_9_give_the_same_bits_on_the_same_spikes(tmp_path: Path) -> None:
    """With lif_comparison, whose input and connections do not come from the simulator."""
    older = "neuron==8.2.7 netpyne==1.0.7"
    ready("netpyne", older)
    settings = {"duration": 40.0, "spikenet.params.neurons": 200, "spikenet.simulator": "netpyne"}
    newer = running.run("lif_comparison", tmp_path / "newer", settings)
    run_dir = running.run("lif_comparison", tmp_path / "older", settings, "--spikenet-env", older)
    found = versions(run_dir)
    assert found["spikenet"]["neuron"] == "8.2.7" and found["tvb"] == versions(newer)["tvb"]
    assert alike(newer, run_dir) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulator", "annarchy", "--spikenet-env", "ANNarchy==4.8.2"], "this toolkit works with ANNarchy<6,>=5"),
        (["--tvb-env", "tvb-library==2.9.2"], "as in 'tvb-library==2.9.2 numpy<2', or for tvb-library>=2.10"),
        (["--spikenet-python", "python2.7.18"], "There is no Python 'python2.7.18' for an environment: nothing on"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    environ = {"LOCKSTEP_ENVS": str(tmp_path / "envs")}
    ended = running.lockstep("run", "wilson_cowan", "--run-dir", tmp_path / "run", *arguments, env=environ)
    assert ended.code == EnvironmentFailed.exit_code and message in ended.err, ended.text
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
