"""ANNarchy's import, and its compiled networks: made once, kept in a cache, used again when the model is the same.

Nothing here imports ANNarchy before it is asked to; `requirements` runs where there is none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import io
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...bridges.errors import EnvironmentFailed, ExperimentError
from ..cache import made_once

SUPPORTED = "ANNarchy 5 (written for 5.0.4)"
INSTALL = "Debian, Ubuntu: apt install g++ cmake make python3-dev; Fedora: dnf install gcc-c++ cmake make python3-devel"
LIBRARY = "network.so"
# A network's globals are called t, dt and the like, and so are NEURON's, which are visible to all that is loaded after
# it: without this flag both would count the same clock in one process. macOS keeps names apart by itself.
OWN_NAMES = [] if sys.platform == "darwin" else [
    f"-DCMAKE_{kind}_LINKER_FLAGS=-Wl,-Bsymbolic" for kind in ("MODULE", "SHARED")
]  # fmt: skip
OUTPUT = "build.log"

_random = np.random.Generator(np.random.PCG64())  # of all distributions; see seed_distributions
_loaded: dict[str, ModuleType] = {}  # by key; a library is loaded once in a process


def requirements() -> list[str]:
    """What this machine lacks to compile networks, one line each with the cure; nothing when all is there."""
    tools = [_compiler(), "cmake", "make"]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    problems = []
    if missing:
        problems.append(
            f"ANNarchy compiles every network, and {' and '.join(missing)} cannot be found: install what is missing "
            f"({INSTALL}), or put it on the PATH."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        problems.append(
            f"ANNarchy compiles against Python, and its headers are not in {sysconfig.get_path('include')}: install "
            f"them ({INSTALL})."
        )
    return problems


def check_requirements() -> None:
    """Raises EnvironmentFailed with all that is missing."""
    problems = requirements()
    if problems:
        raise EnvironmentFailed("\n".join(problems))


def _compiler() -> str:
    """The C++ compiler that ANNarchy takes: of its own configuration file, or its default."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        settings = json.loads(Path.home().joinpath(".config", "ANNarchy", "annarchy.json").read_text())
        return str(settings["openmp"]["compiler"])
    return "clang++" if sys.platform == "darwin" else "g++"


def import_annarchy() -> ModuleType:
    """The `ANNarchy` module, imported without its banner and without a look at this program's arguments.

    Raises EnvironmentFailed when it is not installed, or of a version that cannot work.
    """
    try:
        version = importlib.metadata.version("ANNarchy")
    except importlib.metadata.PackageNotFoundError:
        raise EnvironmentFailed(
            f"ANNarchy is not installed in {sys.prefix}. Install it there (pip install 'ANNarchy>=5'), or let "
            f"lockstep make an environment: lockstep env make annarchy."
        ) from None
    if version.split(".")[0] != "5":
        raise EnvironmentFailed(
            f"ANNarchy {version} cannot be used: its interface differs (no networks as objects; compiled by Cython). "
            f"Supported: {SUPPORTED}. Install it with pip install 'ANNarchy>=5,<6'."
        )
    argv = sys.argv
    sys.argv = argv[:1] or [""]  # ANNarchy takes -c, -d, -v, --report and others for its own
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            annarchy = importlib.import_module("ANNarchy")
    finally:
        sys.argv = argv
    for kind in annarchy.core.Random.RandomDistribution.__subclasses__():
        init = kind.__init__  # (…, rng=None), and without rng each draws from a generator that nothing seeds
        init.__defaults__ = (*init.__defaults__[:-1], _random)
    return annarchy


def seed_distributions(seed: int) -> None:
    """Begin anew the random numbers of ANNarchy's distributions (Uniform(…) and others) that have no `rng` given."""
    _random.bit_generator.state = np.random.PCG64(seed).state


# ------------------------------------------------------------------------------------------------------ the cache


@functools.cache
def _machine() -> str:
    """What decides the library besides the sources: compiler, Python, and the processor (ANNarchy compiles for it)."""
    done = subprocess.run([_compiler(), "--version"], capture_output=True, text=True)
    processor = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        processor += "".join(sorted(line for line in lines if line.startswith(("model name", "flags", "Features"))))
    versions = [importlib.metadata.version(name) for name in ("ANNarchy", "nanobind")]
    return "\n".join([done.stdout.split("\n")[0], sys.version, sysconfig.get_config_var("SOABI"), processor, *versions])


def instantiate(network: Any) -> None:
    """Compile `network`, or take what was compiled for the same sources before, and make its objects in C++.

    Raises EnvironmentFailed with the compiler's first error, and the file that has all it said; ExperimentError for a
    projection without synapses.
    """
    from ANNarchy.extensions.bold.NormProjection import _update_num_aff_connections
    from ANNarchy.generator import Compiler

    with tempfile.TemporaryDirectory(prefix="lockstep-annarchy-") as work:
        sources = _generate(network, Path(work))
        digest = hashlib.sha256("\n".join([_machine(), *OWN_NAMES]).encode())
        for source in sorted(sources.iterdir()):
            if source.suffix != ".log":
                digest.update(f"\0{source.name}\0".encode() + source.read_bytes())
        key = digest.hexdigest()[:32]
        folder = made_once("annarchy", key, lambda target: _build(sources, target, key, network.id))
    module = _loaded.get(key)
    if module is None:
        name = f"ANNarchyWrapper{network.id}"
        module = _loaded[key] = Compiler.load_cython_lib(name, str(folder / LIBRARY))
    for projection in network.get_projections():
        _refuse_empty(projection)
    # Of ANNarchy's compile() the last part: bind the objects in Python to those in C++. It loads the library itself,
    # from a file whose name it makes up.
    load = Compiler.load_cython_lib
    Compiler.load_cython_lib = lambda *_: module
    try:
        network.directory = str(folder)
        network.compiled = True
        Compiler._instantiate(network.id, cuda_config={"device": 0}, user_config={})
        _update_num_aff_connections(network.id)
    finally:
        Compiler.load_cython_lib = load


def _generate(network: Any, work: Path) -> Path:
    """Write the sources of `network` below `work`: the first part of ANNarchy's compile(), which reads sys.argv and
    works in the current folder. Returns their folder."""
    from ANNarchy.generator.Compiler import Compiler
    from ANNarchy.generator.Sanity import check_experimental_features, check_structure

    sources = work / "generate" / f"net{network.id}"
    sources.mkdir(parents=True)
    populations, projections = network.get_populations(), network.get_projections()
    check_structure(populations, projections)
    check_experimental_features(populations, projections)
    compiler = Compiler(
        annarchy_dir=f"{work}/", clean=True, compiler="default", compiler_flags="default", add_sources="",
        extra_libs="", path_to_json="", silent=True, cuda_config={"device": 0}, debug_build=False, trace_calls=None,
        profile_enabled=False, net_id=network.id,
    )  # fmt: skip
    compiler.code_generation()
    compiler.generate_makefile()
    return sources


def _build(sources: Path, target: Path, key: str, net_id: int) -> None:
    """Compile `sources` to ``target/network.so``."""
    print("compiling the network for ANNarchy (the first time; half a minute or more) …", file=sys.stderr, flush=True)
    make_file = sources / "CMakeLists.txt"
    # nanobind keeps the classes of all modules of one domain together: another network in this process has its own
    text = make_file.read_text().replace("NB_DOMAIN ${WRAPPER_NAME}", f"NB_DOMAIN lockstep_{key}")
    make_file.write_text(text)
    above = target / "build"
    build = above / "below" / "net"  # ANNarchy's makefile leaves a copy of the library two folders up
    output = target / OUTPUT
    commands = (
        ["cmake", "-S", str(sources), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", "-DUSE_PROFILE=OFF",
         f"-DPython_EXECUTABLE={sys.executable}", *OWN_NAMES],
        ["make", "-C", str(build), "-j2"],
    )  # fmt: skip
    with open(output, "wb") as log:
        for command in commands:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=target)
            if done.returncode != 0:
                raise _failed(command[0], output, target.parent / f"{key}.failed.log")
    (build / f"ANNarchyWrapper{net_id}.so").rename(target / LIBRARY)
    shutil.rmtree(above)


def _failed(tool: str, output: Path, kept: Path) -> EnvironmentFailed:
    """The error of a failed build; what the tools said is kept beside the cache."""
    shutil.copyfile(output, kept)
    lines = [line for line in output.read_text(errors="replace").splitlines() if "rror" in line]
    return EnvironmentFailed(
        f"{tool} failed to compile the network for ANNarchy: {lines[0].strip() if lines else 'no error was given'}. "
        f"All that it said is in {kept}."
    )


def _refuse_empty(projection: Any) -> None:
    """ANNarchy makes the synapses when it makes its objects in C++, where most projections without any crash it."""
    method = projection._connection_method

    def connect(*arguments: Any) -> Any:
        synapses = method(*arguments)
        if synapses.nb_synapses == 0:
            raise ExperimentError(
                f"The projection from {projection.pre.name} to {projection.post.name} ({projection.target}) has no "
                f"synapses, and ANNarchy crashes with such a one. Connect only populations that have synapses."
            )
        return synapses

    if method is not None:
        projection._connection_method = connect
