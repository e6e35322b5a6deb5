"""NEURON itself, and the mod files of an experiment: compiled once for what they hold, and loaded.

Compiled mechanisms lie in the user's cache, one folder for each content of a `mod` folder and version of NEURON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from ...bridges.errors import EnvironmentFailed, ExperimentError
from ..cache import cache_folder, made_once

CACHE = "netpyne"
BUILD_TOOLS = ("g++", "make")  # what NEURON's nrnivmodl calls
DECLARATION = re.compile(r"\b(?:SUFFIX|POINT_PROCESS|ARTIFICIAL_CELL)\s+(\w+)")
NO_RUBBISH = "-nogui -nobanner"  # else NEURON says at every start that it has no display, and what it loads

_loaded: dict[str, str] = {}  # mechanism -> key of the library that it is from; NEURON cannot unload any


def requirements(folder: Path) -> list[str]:
    """What this machine lacks to compile the mod files beside an experiment in `folder`: one line each, with the cure.

    Empty where there are no mod files, or where they are compiled already.
    """
    mod = folder / "mod"
    if not _files(mod) or (cache_folder(CACHE) / _key(mod)).is_dir():
        return []
    return [
        f"{tool} is missing, which NEURON needs to compile {mod}: install it (Debian, Ubuntu: apt install {tool}; "
        f"conda: conda install {'gxx' if tool == 'g++' else tool})."
        for tool in BUILD_TOOLS
        if shutil.which(tool) is None
    ]  # fmt: skip


def import_neuron() -> Any:
    """NEURON's interpreter `h`, imported without its messages and without what lies in the current folder.

    NEURON loads ./x86_64/libnrnmech.so of wherever it is started, built from who knows which mod files.
    """
    if "neuron" not in sys.modules:
        os.environ.setdefault("NEURON_MODULE_OPTIONS", NO_RUBBISH)
        before = os.getcwd()
        os.chdir(os.path.dirname(os.path.abspath(__file__)))
        try:
            import neuron  # noqa: F401
        finally:
            os.chdir(before)
    from neuron import h

    return h


def load(mod: Path) -> None:
    """Compile the mod files in the folder `mod`, unless that was done before, and load them. Without any, nothing.

    Raises EnvironmentFailed when they cannot be compiled, ExperimentError when NEURON has other mechanisms of the same
    name.
    """
    files = _files(mod)
    if not files:
        return
    key = _key(mod)
    names = [name for file in files if file.suffix == ".mod" for name in DECLARATION.findall(_without_comments(file))]
    if names and all(_loaded.get(name) == key for name in names):
        return
    h = import_neuron()
    for name in names:
        if name in _loaded or _exists(h, name):
            raise ExperimentError(
                f"{mod}: NEURON has a mechanism {name} already" + (", of another version of this or another experiment"
                if name in _loaded else "") + ", and cannot unload it. Rename it, or use a process of its own "
                "(exchange.transport = 'shm')."
            )  # fmt: skip
    made = made_once(CACHE, key, lambda folder: _compile(mod, files, folder))
    h.nrn_load_dll(str(_library(made)))
    if missing := [name for name in names if not _exists(h, name)]:
        raise EnvironmentFailed(
            f"{mod}: NEURON has loaded {_library(made)}, but does not know {', '.join(missing)}. Remove {made} and try "
            f"again."
        )
    _loaded.update(dict.fromkeys(names, key))


def _compile(mod: Path, files: list[Path], folder: Path) -> None:
    if lacking := requirements(mod.parent):
        raise EnvironmentFailed("\n".join(lacking))
    source = folder / "mod"
    source.mkdir()
    for file in files:
        shutil.copy(file, source)
    done = subprocess.run(
        [*_nrnivmodl(), "mod"], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    if done.returncode or not _library(folder).is_file():
        log = cache_folder(CACHE) / f"{_key(mod)}.log"
        log.write_text(done.stdout)
        before = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).partition("make: ***")[0].splitlines()
        last = [f"  {line.strip()}" for line in before if line.strip(" ^\n")][-5:]
        raise EnvironmentFailed("\n".join([
            f"{mod}: the mod files cannot be compiled (NEURON {_neuron_version()}):", *last,
            f"All that the compiler said: {log}",
        ]))  # fmt: skip


def _nrnivmodl() -> list[str]:
    """The command of the NEURON that is imported here, not of another one in the PATH."""
    own = Path(sysconfig.get_path("scripts")) / "nrnivmodl"
    found = str(own) if own.is_file() else shutil.which("nrnivmodl")
    if found is None:
        raise EnvironmentFailed(
            f"nrnivmodl is not where NEURON's installation puts it ({own}): install neuron again in this environment."
        )
    return [sys.executable, found] if _is_python(Path(found)) else [found]


def _is_python(script: Path) -> bool:
    with script.open("rb") as file:
        return b"python" in file.readline()


def _files(mod: Path) -> list[Path]:
    """The mod files and what they include; nothing when there is no mod file."""
    files = sorted(file for file in mod.glob("*") if file.suffix in (".mod", ".inc", ".h", ".hpp"))
    return files if any(file.suffix == ".mod" for file in files) else []


def _key(mod: Path) -> str:
    """What decides the compiled library: the files, NEURON's version, the machine."""
    digest = hashlib.sha256(f"{_neuron_version()} {platform.machine()}".encode())
    for file in _files(mod):
        content = file.read_bytes()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:24]


def _neuron_version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("neuron")
    return "not installed"


def _library(folder: Path) -> Path:
    return folder / platform.machine() / "libnrnmech.so"


def _without_comments(file: Path) -> str:
    text = re.sub(r"\bCOMMENT\b.*?\bENDCOMMENT\b", "", file.read_text(errors="replace"), flags=re.S)
    return re.sub(r"[:?].*", "", text)


def _exists(h: Any, name: str) -> bool:
    for kind in (0, 1):  # density mechanisms, point processes
        types, found = h.MechanismType(kind), h.ref("")
        types.select(name)
        types.selected(found)
        if found[0] == name:
            return True
    return False
