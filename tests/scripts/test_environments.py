"""Environments: names, what makes one unusable, interrupted set-ups; and which of them a command line needs.

The real set-ups here have one requirement, a wheel of one module written by the test, and need no package index.
"""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError
from tvb_lockstep.scripts import bootstrap, environments
from tvb_lockstep.scripts.commands import env
from tvb_lockstep.scripts.main import main

ROOT = Path(__file__).resolve().parent.parent.parent
BOOTSTRAP = ROOT / "scripts" / "lockstep"


def wheel(folder: Path, version: str) -> str:
    """A requirement on a wheel of one module, tiny.py."""
    path = folder / f"tiny-{version}-py3-none-any.whl"
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return f"tiny @ {path.as_uri()}"


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed toolkit whose set `nest` is the one small wheel, and a folder for its environments."""
    root = tmp_path / "site" / "tvb_lockstep"
    generated = shutil.ignore_patterns("__pycache__")
    for folder in ("bridges", "scripts"):
        shutil.copytree(ROOT / folder, root / folder, ignore=generated)
    require(root, wheel(tmp_path, "1.0"))
    monkeypatch.setattr(environments, "ROOT", root)
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path / "envs"))
    return root


def require(root: Path, requirement: str) -> None:
    info = root.parent / "tvb_lockstep-0.1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tvb-lockstep\nVersion: 0.1.0\n"
        f'Requires-Dist: {requirement} ; extra == "nest"\nRequires-Dist: tvb-library>=2.9; extra == "tvb"\n'
    )


def maker(root: Path) -> subprocess.Popen[str]:
    """Another program that makes the environment nest of `toolkit`."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tvb_lockstep.scripts import bootstrap\n"
        "sys.exit(bootstrap.main(['env', 'make', 'nest']))\n"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(root.parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 120.0
    while not path.exists():
        assert time.monotonic() < end, f"waited in vain for {path}"
        time.sleep(0.01)


def version_in(python: Path | str) -> str:
    code = "import tiny, tvb_lockstep.bridges; print(tiny.version)"
    return subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def ready(wanted: environments.Environment) -> None:
    """What a finished set-up leaves, as far as it is looked at."""
    (wanted.path / "bin").mkdir(parents=True)
    wanted.python.symlink_to(os.path.realpath(sys.executable))
    marker = {
        "requirements": list(wanted.requirements),
        "interpreter": os.path.realpath(sys.executable),
        "toolkit": str(environments.ROOT),
        "path": str(wanted.path),
    }
    (wanted.path / environments.MARKER).write_text(json.dumps(marker))


# -- real set-ups


def test_a_killed_setup_is_made_again_by_one_of_two_programs_while_the_other_waits(toolkit: Path) -> None:
    first = maker(toolkit)
    wait_for(environments.folder() / "nest" / "pyvenv.cfg")
    first.kill()
    _, said = first.communicate()
    assert "first time" in said
    assert environments.environment("nest").trouble() == "its set-up was interrupted or failed"
    assert "broken: its set-up was interrupted" in env.table()

    programs = [maker(toolkit), maker(toolkit)]
    outputs = [program.communicate() for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    (pythons,) = {out for out, _ in outputs}
    assert version_in(pythons.strip()) == "1.0"
    making = [said for _, said in outputs if "making environment nest" in said]
    assert len(making) == 1
    assert "again, because its set-up was interrupted or failed" in making[0]
    assert "ready in" in making[0]
    (waiting,) = [said for _, said in outputs if said not in making]
    maker_pid = programs[[said for _, said in outputs].index(making[0])].pid
    assert f"environment nest is being made by process {maker_pid}; waiting for it" in waiting


def test_changed_requirements_make_the_environment_again_and_only_then(
    toolkit: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    python = environments.ensure("nest")
    assert version_in(python) == "1.0"
    made = (python.parent.parent / environments.MARKER).stat().st_mtime_ns
    capfd.readouterr()
    assert environments.ensure("nest") == environments.make("nest") == python
    assert (python.parent.parent / environments.MARKER).stat().st_mtime_ns == made
    assert capfd.readouterr().err == ""

    require(toolkit, wheel(tmp_path, "2.0"))
    assert environments.ensure("nest") == python
    assert version_in(python) == "2.0"
    assert "again, because the requirements changed: tiny @ file" in capfd.readouterr().err
    environments.remove("nest")
    assert list(environments.folder().iterdir()) == []


def test_ctrl_c_during_a_setup_ends_it_with_a_message_and_no_marker(toolkit: Path) -> None:
    program = maker(toolkit)
    wait_for(environments.folder() / "nest" / "pyvenv.cfg")
    program.send_signal(signal.SIGINT)
    _, said = program.communicate()
    assert program.returncode == 130
    assert "Interrupted at the set-up of environment nest. Nothing needs cleaning" in said
    assert "Traceback" not in said
    assert not (environments.folder() / "nest" / environments.MARKER).exists()


def test_a_failed_installation_shows_the_end_of_the_log_and_what_to_do(toolkit: Path, tmp_path: Path) -> None:
    missing = (tmp_path / "missing-1.0-py3-none-any.whl").as_uri()
    require(toolkit, f"missing @ {missing}")
    with pytest.raises(EnvironmentFailed) as failure:
        environments.make("nest")
    assert "The environment nest could not be made: installing missing @" in str(failure.value)
    assert "No such file or directory" in str(failure.value)
    assert f"All of it is in {environments.folder() / 'nest.log'}" in str(failure.value)
    assert environments.environment("nest").trouble() == "its set-up was interrupted or failed"


# -- names, requirements, states


def test_a_wrong_name_lists_the_valid_ones() -> None:
    with pytest.raises(EnvironmentFailed, match="'nets' is not one of the requirement sets tvb, nest, annarchy"):
        environments.environment("tvb+nets")


def test_several_sets_have_one_name_whatever_their_order() -> None:
    both = environments.environment("nest+tvb")
    assert both.name == "tvb+nest"
    assert {"tvb-library>=2.9", "nest-simulator>=3.10", "numpy"} <= set(both.requirements)


def test_requirements_of_ones_own_replace_those_of_the_set_and_have_an_environment_of_their_own() -> None:
    plain = environments.environment("netpyne")
    swapped = environments.environment("netpyne", "neuron==8.2.7 NetPyNE==1.0.7")
    assert swapped.name.startswith("netpyne-")
    assert {"neuron==8.2.7", "NetPyNE==1.0.7"} <= set(swapped.requirements)
    projects = [sorted(map(environments.project, each.requirements)) for each in (plain, swapped)]
    assert projects[0] == projects[1]
    assert environments.environment("netpyne", "NetPyNE==1.0.7  neuron==8.2.7").name == swapped.name
    assert environments.environment("netpyne", "neuron==9.0.2").name != swapped.name


@pytest.mark.parametrize("text", ["neuron == 8.2.7", "--index-url=http://x", "'neuron"])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFailed):
        environments.environment("netpyne", text)


@pytest.mark.parametrize(
    ("sets", "asked", "message"),
    [
        ("annarchy", "ANNarchy==4.8.2", "ANNarchy==4.8.2 cannot be used: this toolkit works with ANNarchy<6,>=5."),
        ("annarchy", "annarchy~=4.8", "annarchy~=4.8 cannot be used"),
        ("annarchy", "annarchy==4.*", "annarchy==4.* cannot be used"),
        ("annarchy", "annarchy<5.0.0", "annarchy<5.0.0 cannot be used"),
        ("annarchy", "annarchy>=6", "annarchy>=6 cannot be used"),
        ("tvb+nest", "TVB_library==2.8.2", "works with tvb-library>=2.9"),
        ("tvb", "tvb-library==2.9.2", "as in 'tvb-library==2.9.2 numpy<2', or for tvb-library>=2.10"),
        ("tvb", "tvb-library<2.10 numpy<2.1", "tvb-library<2.10 works with numpy<2 only"),
        ("tvb", "tvb-library==2.9.2 numpy==2.0.1", "works with numpy<2 only"),
    ],
)
def test_a_version_that_cannot_work_is_refused_with_what_is_supported(sets: str, asked: str, message: str) -> None:
    with pytest.raises(EnvironmentFailed) as refused:
        environments.environment(sets, asked)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("sets", "asked"),
    [
        ("annarchy", "annarchy==5.0.3"), ("annarchy", "annarchy<=5.0.4 sympy"), ("annarchy", "annarchy!=5.0.1"),
        ("tvb", "tvb-library==2.9.2 tvb-contrib==2.9.1 numpy<2"), ("tvb", "tvb-library<2.10,>=2.9 numpy==1.26.4"),
        ("tvb", "tvb-library~=2.9"), ("tvb", "numpy<2"), ("tvb", "tvb-library==2.10.0"),
        ("netpyne", "neuron==8.2.7 netpyne==1.0.7"), ("nest", "nest-simulator@file:///some.whl"),
    ],
)  # fmt: skip
def test_a_version_that_may_work_is_taken(sets: str, asked: str) -> None:
    assert set(asked.split()) <= set(environments.environment(sets, asked).requirements)


def test_what_is_installed_is_looked_at_when_a_program_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"tvb-library": "2.9.2", "numpy": "2.4.6", "ANNarchy": "4.8.2.7", "netpyne": "1.1.1", "neuron": "9.0.2"}
    there = {environments.project(name): version for name, version in there.items()}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    environments.check_installed(["netpyne"])
    environments.check_installed(["nest"])  # not as a Python package: nothing to look at
    with pytest.raises(EnvironmentFailed, match=r"In .*: tvb-library==2.9.2 works with numpy<2 only.*env make tvb\."):
        environments.check_installed(["tvb"])
    with pytest.raises(EnvironmentFailed, match=r"annarchy==4.8.2.7 cannot be used: this toolkit"):
        environments.check_installed(["annarchy"])


def fake_python(path: Path, version: str) -> Path:
    """What answers as a Python of that version."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version} {path}\n")
    path.chmod(0o700)
    return path


def test_another_python_has_an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environments.interpreter.cache_clear()
    python = fake_python(tmp_path / "bin" / "python3.77", "3 77")
    monkeypatch.setenv("PATH", f"{tmp_path / 'nothing'}{os.pathsep}{python.parent}")
    named, by_path = (environments.environment("nest", "", text) for text in ("python3.77", str(python)))
    assert named == by_path
    assert named.name.startswith("nest-py3.77-")
    assert named.interpreter == str(python)
    with_version = environments.environment("nest", "nest-simulator==3.10.0", "python3.77")
    assert len({environments.environment("nest").name, named.name, with_version.name}) == 3
    assert environments.running(sys.executable) and not environments.running("python3.77")


def test_a_python_that_cannot_be_used_is_refused_with_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments.interpreter.cache_clear()
    old = fake_python(tmp_path / "bin" / "python3.10", "3 10")
    shim = tmp_path / "bin" / "python3.78"
    shim.write_text("#!/bin/sh\necho 'no version is set' >&2\nexit 127\n")
    shim.chmod(0o700)
    monkeypatch.setenv("PATH", str(old.parent))
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == ">=" + ".".join(map(str, environments.OLDEST_PYTHON))
    for python, found in (
        ("python3.10", f"{old} is Python 3.10"), ("python3.78", f"{shim} does not run (no version is set)"),
        ("python3.79", "nothing on the PATH"), (str(tmp_path / "none"), "nothing on that path"),
    ):  # fmt: skip
        with pytest.raises(EnvironmentFailed) as refused:
            environments.environment("nest", "", python)
        assert f"There is no Python {python!r} for an environment: {found}. It takes one of 3.11" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_one_process_cannot_have_two_pythons() -> None:
    table = {"python": {"tvb": "python3.11", "cortex": "python3.12"}}
    assert environments.asked_of_all(table, ["tvb", "other"]) == ("", "python3.11")
    with pytest.raises(ExperimentError, match=r"one Python, .* python3.11 \(tvb\), python3.12 \(cortex\)\. Use"):
        environments.asked_of_all(table, ["tvb", "cortex"])


def test_a_moved_checkout_a_removed_interpreter_and_half_a_marker_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path / "envs"))
    wanted = environments.environment("nest")
    assert wanted.trouble() == "first time"
    ready(wanted)
    assert wanted.trouble() is None
    (tmp_path / "envs").rename(tmp_path / "moved")
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path / "moved"))
    moved = environments.environment("nest")
    assert moved.trouble() == f"it was made in {wanted.path} for the toolkit in {environments.ROOT}"
    shutil.rmtree(moved.path)
    ready(moved)
    moved.python.unlink()
    moved.python.symlink_to(tmp_path / "python3.11-that-was-removed")
    assert "its interpreter" in str(moved.trouble())
    (moved.path / environments.MARKER).write_text('{"requirements": [')
    assert moved.trouble() == "its set-up was interrupted or failed"


def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path / "file" / "envs"))
    with pytest.raises(EnvironmentFailed, match=r"Not a directory .*set LOCKSTEP_ENVS=FOLDER"):
        environments.make("nest")


def test_a_full_disk_while_writing_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "lib")

    monkeypatch.setattr(environments, "_build", full)
    with pytest.raises(EnvironmentFailed, match=r"No space left on device .*Make room"):
        environments.make("nest")


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError: Temporary failure in name resolution\nNo matching distribution", "was not reached"),
        ("ERROR: ResolutionImpossible: for help visit …", "exclude each other"),
        ("ERROR: Could not find a version that satisfies the requirement nest-simulatr", "no such package or version"),
        ("error: command 'gcc' failed: No such file or directory\nFailed building wheel for posix_ipc", "a compiler"),
        ("The virtual environment was not created successfully because ensurepip is not", "python3-venv"),
        ("something else", "may tell more"),
    ],
)
def test_the_causes_of_a_failure_are_told_apart(
    output: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_ENVS", str(tmp_path))
    wanted = environments.environment("nest")
    wanted.log.write_text(f"$ venv\nensurepip worked\n$ pip\n{output}\n")
    assert advice in environments._failure(wanted, "installing", 1)


def test_has_says_what_the_running_python_can_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ANNarchy").mkdir()
    (tmp_path / "ANNarchy" / "__init__.py").write_text("raise RuntimeError('looking must not import it')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "Editable" not in repr(finder)])
    for name in ("ANNarchy", "netpyne"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert environments.has("annarchy")
    assert not environments.has("netpyne")


# -- what a command line needs


PINNED = "nest-simulator==3.10.0"


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.toml").write_text(f'[spikenet]\nsimulator = "nest"\n[environments]\nspikenet = "{PINNED}"\n')
    (tmp_path / "two.toml").write_text(
        '[[spikenet]]\nname = "cortex"\nsimulator = "nest"\n[[spikenet]]\nname = "ganglia"\nsimulator = "annarchy"\n'
        '[exchange]\ntransport = "file"\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tvb one.toml --run-dir runs/a", [("tvb", "")]),
        ("bridge --run-dir runs/a one.toml", [("tvb", "")]),
        ("status runs/a", [("tvb", "")]),
        ("bench transport", [("tvb", "")]),
        ("spikenet one.toml --run-dir runs/a", [("nest", PINNED)]),
        ("spikenet --run-dir runs/a one.toml", [("nest", PINNED)]),
        ("spikenet --run-dir=runs/a --quiet one.toml", [("nest", PINNED)]),
        ("spikenet one.toml --simulator annarchy", [("annarchy", PINNED)]),
        ("spikenet one.toml --set spikenet.simulator=netpyne", [("netpyne", PINNED)]),
        ("spikenet one.toml --set=spikenet.0.simulator=netpyne --set duration=1", [("netpyne", PINNED)]),
        ("spikenet one.toml --set environments.spikenet=nest-simulator==3.9", [("nest", "nest-simulator==3.9")]),
        ("spikenet two.toml --name ganglia", [("annarchy", "")]),
        ("spikenet one.toml --simulator mine:Adapter --spikenet-env brian2", [("own", "brian2")]),
        ("spikenet --name cortex two.toml", [("nest", "")]),
        ("run one.toml", [("tvb", ""), ("nest", PINNED)]),
        ("run one.toml --spikenet-env nest-simulator==3.9", [("tvb", ""), ("nest", "nest-simulator==3.9")]),
        ("run one.toml --set exchange.transport=memory", [("tvb+nest", PINNED)]),
        ("run two.toml", [("tvb", ""), ("nest", ""), ("annarchy", "")]),
        ("run two.toml --set exchange.transport=memory", [("tvb+nest+annarchy", "")]),
        ("check two.toml", [("tvb", ""), ("nest", ""), ("annarchy", "")]),
        ("check two.toml --tvb-only", [("tvb", "")]),
    ],
)
def test_a_command_line_needs_these_environments(line: str, expected: list, experiments: Path) -> None:
    assert [(name, asked.requirements) for name, asked in bootstrap.needed(line.split())] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run two.toml --tvb-python python3.13 --tvb-env numpy<2", ["tvb numpy<2 python3.13", "nest", "annarchy"]),
        ("run two.toml --spikenet-python python3.12", ["tvb", "nest python3.12", "annarchy python3.12"]),
        ("run two.toml --set environments.cortex=nest-simulator==3.10.0", ["tvb", "nest " + PINNED, "annarchy"]),
        ("run two.toml --set environments.python.ganglia=/a/python", ["tvb", "nest", "annarchy /a/python"]),
        ("run two.toml --spikenet-env sympy --set environments.ganglia=attrs", ["tvb", "nest sympy", "annarchy attrs"]),
        ("spikenet two.toml --name cortex --set environments.cortex=sympy", ["nest sympy"]),
        ("spikenet two.toml --name ganglia --set environments.cortex=sympy", ["annarchy"]),
        ("bridge two.toml --spikenet-python python3.12", ["tvb"]),
        ("run one.toml --set exchange.transport=memory --tvb-python python3.12", [f"tvb+nest {PINNED} python3.12"]),
        ("run two.toml --tvb-env sympy --set environments.cortex=sympy --set exchange.transport=memory",
         ["tvb+nest+annarchy sympy"]),
    ],
)  # fmt: skip
def test_versions_and_pythons_are_those_of_the_program(line: str, expected: list, experiments: Path) -> None:
    assert [" ".join(filter(None, [name, *asked])) for name, asked in bootstrap.needed(line.split())] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run nowhere", "There is no experiment 'nowhere'"),
        ("run", "Which experiment"),
        ("run one.toml --set", "expected one argument"),
        ("spikenet two.toml", "has several spiking programs; say --name with one of: cortex, ganglia"),
        ("spikenet two.toml --name thalamus", "no spiking program 'thalamus'.*cortex, ganglia"),
        ("spikenet one.toml --simulator brian", "simulator = 'brian': must be one of .*netpyne, or 'module:Class'"),
    ],
)
def test_what_no_environment_can_serve_is_said_before_one_is_made(line: str, message: str, experiments: Path) -> None:
    with pytest.raises(ExperimentError, match=message):
        bootstrap.needed(line.split())


def test_the_bootstrap_knows_every_option_with_a_value_of_the_commands_of_an_experiment() -> None:
    for command in bootstrap.OF_AN_EXPERIMENT:
        parser = argparse.ArgumentParser()
        importlib.import_module(f"tvb_lockstep.scripts.commands.{command}").add_arguments(parser)
        with_value = [action for action in parser._actions if action.option_strings and action.nargs != 0]
        assert {action.option_strings[0] for action in with_value} <= set(bootstrap.VALUE_OPTIONS)


def run_bootstrap(*arguments: str, script: Path = BOOTSTRAP, envs: Path) -> subprocess.CompletedProcess[str]:
    """With neither site-packages nor anything else than the standard library."""
    environ = {**os.environ, "LOCKSTEP_ENVS": str(envs)}
    return subprocess.run([sys.executable, "-S", script, *arguments], capture_output=True, text=True, env=environ)


def test_the_bootstrap_answers_on_the_standard_library_alone_and_makes_nothing(tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    result = run_bootstrap("--help", envs=envs)
    assert result.returncode == 0
    for command in ("run", "tvb", "spikenet", "bridge", "env", "check", "inspect", "status", "bench"):
        assert f"\n    {command} " in result.stdout
    result = run_bootstrap("spikenet", "--help", envs=envs)
    assert result.returncode == 0 and "env make" in result.stdout
    result = run_bootstrap("spikent", envs=envs)
    assert result.returncode != 0 and "'spikenet'" in result.stderr
    result = run_bootstrap("run", "nowhere", envs=envs)
    assert result.returncode == ExperimentError.exit_code and "wilson_cowan" in result.stderr
    result = run_bootstrap("env", "list", envs=envs)
    assert result.returncode == 0 and "There is no environment" in result.stdout
    assert not envs.exists()


def test_a_file_in_scripts_with_the_name_of_a_standard_module_does_no_harm(tmp_path: Path) -> None:
    for folder in ("bridges", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("inspect", "types", "argparse", "tomllib", "json"):
        (tmp_path / "scripts" / f"{name}.py").write_text("raise SystemExit('this is not the standard library')\n")
    result = run_bootstrap("env", "list", script=tmp_path / "scripts" / "lockstep", envs=tmp_path / "envs")
    assert result.returncode == 0, result.stderr


def test_the_bootstrap_parses_on_an_old_python() -> None:
    tree = ast.parse(BOOTSTRAP.read_text(), feature_version=(3, 4))
    newer = (ast.JoinedStr, ast.NamedExpr, ast.AnnAssign, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]


def test_a_missing_compiler_is_said_in_one_line_before_anything_is_made_or_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", "wilson_cowan", "--simulator", "annarchy", "--run-dir", str(tmp_path / "run")]) == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert "g++ and cmake and make cannot be found: install what is missing" in line
    assert not (tmp_path / "run").exists()
