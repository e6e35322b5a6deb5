"""Models of the user's own in NEST: compiled extension modules, and NESTML.

NEST's wheel brings its headers, but neither its `nest-config` (which names folders of the machine it was built on) nor
NESTML's own build, which asks it, works with the wheel. One call of g++ does.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ...bridges.errors import EnvironmentFailed, ExperimentError
from ..cache import cache_folder, made_once
from .adapter import import_nest

# Headers that NEST's own need and the wheel does not bring, and where Debian and Ubuntu have them.
PACKAGES = {"boost": "libboost-dev", "gsl": "libgsl-dev", "ltdl.h": "libltdl-dev"}
INSTALL = (
    "Debian, Ubuntu: apt install g++ libboost-dev libgsl-dev libltdl-dev; Fedora: dnf install gcc-c++ boost-devel "
    "gsl-devel libtool-ltdl-devel"
)
# With this text in it, NEST was built with the older of the two kinds of std::string that g++ has; a module with the
# other kind cannot be loaded.
OLD_STRINGS = b"ModuleManager7installERKSs"
# NESTML generates, and then calls its own build: this leaves it out.
GENERATE = """
import sys
from pynestml.frontend import pynestml_frontend as frontend
frontend.builder_from_target_name = lambda *arguments, **options: (None, {})
failed = frontend.generate_target(input_path=sys.argv[3:], target_platform="NEST", target_path=sys.argv[1],
                                  module_name=sys.argv[2], logging_level="WARNING")
sys.exit(bool(failed))
"""


def install(*files: str | os.PathLike[str]) -> None:
    """Make the models in `files` known to NEST. For build functions: NEST forgets them when its kernel is reset.

    files: one compiled extension module (.so), or any number of NESTML models (.nestml), which are compiled the first
    time (half a minute or less) and kept in the user's cache, by their text and the versions of NEST, NESTML and g++.
    Raises ExperimentError when a file is not there, is not a model, or NEST refuses it; EnvironmentFailed when NESTML,
    the compiler or a header is missing.
    """
    paths = [Path(file).absolute() for file in files]
    for path in paths:
        if not path.is_file():
            raise ExperimentError(f"install: there is no file {path}. In a build function, Path(__file__).with_name(…) "
                                  f"names a file beside it.")  # fmt: skip
    kinds = {path.suffix for path in paths}
    if kinds == {".nestml"}:
        _load(_compiled(paths), ", ".join(map(str, paths)))
    elif kinds == {".so"} and len(paths) == 1:
        _load(paths[0], str(paths[0]))
    else:
        raise ExperimentError(
            f"install: {', '.join(path.name for path in paths) or 'no file'}: expected one compiled module (.so), or "
            f"NESTML models (.nestml)."
        )


def _load(library: Path, what: str) -> None:
    nest = import_nest()
    try:
        nest.Install(str(library))  # the whole path: a bare name would be looked for along LD_LIBRARY_PATH
    except nest.NESTError as error:
        reason = str(error)
        try:
            ctypes.CDLL(str(library))  # NEST says "file not found" whatever the reason
        except OSError as cause:
            reason = f"{cause}. It must be compiled for NEST {nest.__version__} as it is in this environment"
        raise ExperimentError(f"{what}: NEST cannot load it: {reason.strip()}.") from None


def _compiled(models: list[Path]) -> Path:
    """The extension module made of NESTML models."""
    nest = import_nest()
    if importlib.util.find_spec("pynestml") is None:
        raise EnvironmentFailed(
            f"{models[0].name}: NESTML is not installed in {sys.prefix}. Install it there (pip install nestml), or add "
            f'it to the experiment: environments.spikenet = "nestml".'
        )
    compiler = shutil.which("g++")
    if compiler is None:
        raise EnvironmentFailed(f"{models[0].name}: NESTML models are compiled, and g++ is not on the PATH. {INSTALL}.")
    digest = hashlib.sha256()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    for text in (nest.__version__, str(nest.__file__), importlib.metadata.version("nestml"), version, GENERATE):
        digest.update(f"{text}\0".encode())
    for model in models:
        digest.update(f"{model.name}\0".encode() + model.read_bytes() + b"\0")
    package, key = Path(str(nest.__file__)).parent, digest.hexdigest()[:32]
    module = f"lockstep{key[:12]}module"  # NEST looks in the file for a symbol of the file's name

    def make(work: Path) -> None:
        print("compiling NESTML models for NEST (the first time; half a minute or less) …", file=sys.stderr, flush=True)
        environment = os.environ | {"PYNEST_QUIET": "1"}
        # in a process of its own, as NESTML imports NEST, and in its folder, as it may write to the current one
        command = [sys.executable, "-c", GENERATE, str(work / "code"), module, *map(str, models)]
        (work / "code").mkdir()
        _run(command, models, work, key, environment)
        sources = sorted(str(source) for source in (work / "code").glob("*.cpp"))
        library = str(work / f"{module}.so")
        _run([compiler, *_flags(package), *sources, "-o", library], models, work, key)

    return made_once("nest", key, make) / f"{module}.so"


def _flags(package: Path) -> list[str]:
    """g++'s, for the NEST in the folder `package`."""
    headers = package / "include" / "nest"
    if not headers.is_dir():
        raise EnvironmentFailed(
            f"NEST in {package} has no headers beside it, as that of the wheel has. Compile the models with NESTML's "
            f"own build, and install the .so that it makes."
        )
    old = OLD_STRINGS in (package / "nestkernel_api.so").read_bytes()
    return ["-shared", "-fPIC", "-O2", "-std=c++20", "-fopenmp", f"-D_GLIBCXX_USE_CXX11_ABI={int(not old)}",
            f"-I{headers}", f"-I{headers.parent}"]  # fmt: skip


def _run(
    command: list[str], models: list[Path], work: Path, key: str, environment: dict[str, str] | None = None
) -> None:
    """Run one step, or say with its first error what failed, and where the rest of what it said is."""
    done = subprocess.run(command, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace")  # fmt: skip
    if done.returncode == 0:
        return
    log = cache_folder("nest") / f"{key}.failed.log"
    log.write_text(done.stdout)
    names = ", ".join(model.name for model in models)
    header = re.search(r"fatal error: (\S+): No such file", done.stdout)
    if header and (package := PACKAGES.get(header[1].split("/")[0])):
        raise EnvironmentFailed(
            f"{names}: NEST's headers need {header[1]}, which is not on this machine ({package}). {INSTALL}; or put it "
            f"anywhere and name the folder in CPLUS_INCLUDE_PATH."
        )
    errors = [line.strip() for line in done.stdout.splitlines() if re.search(r"error", line, re.IGNORECASE)]
    raise ExperimentError(
        f"{names}: cannot be compiled: {errors[0] if errors else 'no error was given'}\nAll that was said is in {log}."
    )
