"""Models of the user's own in NEST, and the cache in which they are kept once they are compiled."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import Connectome
from tvb_lockstep.spikenet_side.cache import cache_folder, made_once
from tvb_lockstep.spikenet_side.nest import Nest, install
from tvb_lockstep.spikenet_side.nest.adapter import import_nest
from tvb_lockstep.spikenet_side.nest.modules import PACKAGES, _run

nest = import_nest()

LEAKY = """
model leaky_neuron:
    state:
        V_m mV = E_L
    equations:
        kernel G = delta(t)
        V_m' = (E_L - V_m) / tau_m + convolve(G, spikes) * (1 mV / 1 ms) + I_e / C_m
    parameters:
        tau_m ms = 10 ms
        C_m pF = 100 pF
        E_L mV = -70 mV
        V_th mV = -55 mV
        I_e pA = 200 pA
    input:
        spikes <- spike
    output:
        spike
    update:
        integrate_odes()
    onCondition(V_m >= V_th):
        V_m = E_L
        emit_spike()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tvb-lockstep"


def missing_for_nestml() -> str:
    """What is not here of what NESTML models need; "" when all is."""
    if importlib.util.find_spec("pynestml") is None:
        return "NESTML is not installed"
    if shutil.which("g++") is None:
        return "there is no g++"
    headers = "#include <boost/type_index.hpp>\n#include <gsl/gsl_odeiv.h>\n#include <ltdl.h>\n"
    done = subprocess.run(["g++", "-E", "-x", "c++", "-"], input=headers, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"headers are missing ({', '.join(PACKAGES.values())})"


@pytest.mark.skipif(bool(missing_for_nestml()), reason=missing_for_nestml())
def test_a_nestml_model_is_compiled_once_and_behaves_as_its_equations_say(tmp_path, cache, capfd):
    """V = -70 + 20 (1 - exp(-t / 10)) mV reaches -55 at 13.86 ms, in step 138 of 0.1 ms; and so on from rest."""
    (tmp_path / "leaky_neuron.nestml").write_text(LEAKY)

    def build(request):
        install(tmp_path / "leaky_neuron.nestml")
        return {"V1": {"E": nest.Create("leaky_neuron", 2)}}

    for compiled in (True, False):  # opening resets NEST's kernel, which forgets the model
        simulator = Nest()
        grid = Grid.of(0.1, {"spikenet": 0.1}, 30.0, 20)
        simulator.open(SpikenetSection(simulator="nest", regions=["V1"]), grid,
                       Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1))), 1, build)  # fmt: skip
        simulator.connect([], [])
        found = []
        for k in range(grid.n_windows):
            simulator.run(*grid.steps(k))
            found += zip(*map(np.ndarray.tolist, simulator.spikes()), strict=True)
        assert found == [(138, 0), (138, 1), (277, 0), (277, 1)]
        assert ("compiling NESTML" in capfd.readouterr().err) == compiled
    assert len(list((cache / "nest").glob("*/*.so"))) == 1


@pytest.mark.skipif(bool(missing_for_nestml()), reason=missing_for_nestml())
def test_a_mistake_in_a_nestml_model_is_told_in_its_words(tmp_path):
    (tmp_path / "wrong.nestml").write_text(LEAKY.replace("V_m >= V_th", "V_m >= nowhere"))
    with pytest.raises(ExperimentError, match=r"wrong.nestml: cannot be compiled: .*nowhere(.|\n)*failed.log"):
        install(tmp_path / "wrong.nestml")


def test_files_that_are_no_models_are_refused_with_what_is_expected(tmp_path):
    (tmp_path / "a.nestml").touch()
    (tmp_path / "b.so").touch()
    (tmp_path / "c.py").touch()
    with pytest.raises(ExperimentError, match=r"there is no file .*/d.so"):
        install(tmp_path / "d.so")
    for files in (["a.nestml", "b.so"], ["c.py"], ["b.so", "b.so"], []):
        with pytest.raises(ExperimentError, match=r"expected one compiled module \(.so\), or NESTML models"):
            install(*(tmp_path / file for file in files))


def test_a_module_that_cannot_be_loaded_is_refused_with_the_reason_that_nest_does_not_give(tmp_path):
    (tmp_path / "broken.so").write_bytes(b"not a library" * 1000)
    with pytest.raises(ExperimentError, match=r"broken.so: NEST cannot load it: .*invalid ELF header.* for NEST 3"):
        install(tmp_path / "broken.so")


def test_what_is_missing_to_compile_is_said_with_the_cure(tmp_path, monkeypatch):
    (tmp_path / "a.nestml").write_text(LEAKY)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFailed, match=r'pip install nestml.*environments.spikenet = "nestml"'):
        install(tmp_path / "a.nestml")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentFailed, match=r"g\+\+ is not on the PATH. .*apt install g\+\+ libboost-dev"):
        install(tmp_path / "a.nestml")
    said = "a.h:1:2: fatal error: gsl/gsl_errno.h: No such file or directory"
    with pytest.raises(EnvironmentFailed, match=r"need gsl/gsl_errno.h, which is not on this machine \(libgsl-dev\)"):
        _run([sys.executable, "-c", f"import sys; sys.exit({said!r})"], [tmp_path / "a.nestml"], tmp_path, "key")


# --------------------------------------------------------------------------------------------------------- the cache


def test_the_cache_belongs_to_its_user_alone(cache, tmp_path, monkeypatch):
    folder = cache_folder("nest")
    assert folder == cache / "nest" and stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o770)
    with pytest.raises(EnvironmentFailed, match=r"with mode 0770: code is loaded from it.*chmod 700"):
        cache_folder("nest")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    with pytest.raises(EnvironmentFailed, match=r"cannot be made: .* Set XDG_CACHE_HOME"):
        cache_folder("nest")


def test_what_fails_or_is_killed_while_it_is_made_leaves_nothing_that_is_taken_for_it(cache):
    def fails(work):
        (work / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        made_once("nest", "key", fails)
    assert [path.name for path in (cache / "nest").iterdir()] == ["key.lock"]

    def dies(work):
        (work / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context("fork").Process(target=made_once, args=("nest", "key", dies))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and len(list((cache / "nest").glob("key.making-*"))) == 1
    made = made_once("nest", "key", lambda work: (work / "all").touch())
    assert [path.name for path in made.iterdir()] == ["all"]
    assert sorted(path.name for path in (cache / "nest").iterdir()) == ["key", "key.lock"]


def test_of_programs_that_want_the_same_at_once_one_makes_it_and_all_get_it(cache, tmp_path):
    def make(work):
        with open(tmp_path / "makers", "a") as file:
            file.write(f"{os.getpid()}\n")
        (work / "first").touch()
        time.sleep(0.2)
        (work / "last").touch()

    def want():
        sys.exit(not (made_once("nest", "key", make) / "last").exists())

    children = [multiprocessing.get_context("fork").Process(target=want) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert len((tmp_path / "makers").read_text().split()) == 1
