"""Environments: one Python environment per program, made from the requirement sets of the one pyproject.

On the standard library alone, because the bootstrap uses it before there is any environment. An environment lies in
``.envs/NAME``, what pip said in ``.envs/NAME.log``. NAME is a requirement set (``tvb``, ``nest``, …) or several of them
(``tvb+nest``); one with requirements or an interpreter of its own gets a name of its own (``netpyne-1f0c22aa``,
``nest-py3.12-77ab01c3``), so that another version on one side touches nothing else. The marker file is written last:
whatever is left of an interrupted or failed set-up has none, and is made again at the next call.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..bridges.errors import EnvironmentFailed, ExperimentError, Interrupted
from ..bridges.experiment_file import OWN

ROOT = Path(__file__).resolve().parent.parent  # the checkout, or the tvb_lockstep of some site-packages
MARKER = "lockstep-ready.json"
IMPORT_NAMES = {"tvb": "tvb", "nest": "nest", "annarchy": "ANNarchy", "netpyne": "netpyne",
                OWN: "tvb_lockstep"}  # fmt: skip
OLDEST_PYTHON = (3, 11)
Version = tuple[float, ...]
INFINITY = float("inf")
# Versions that install side by side and do not work: below this version of the first, only below that of the second.
PAIRS = (("tvb-library", (2, 10), "numpy", (2,), "older ones end at their import with numpy 2"),)


class Asked(NamedTuple):
    """What a run asks for beyond the requirement sets of a program."""

    requirements: str = ""  # such as "neuron==8.2.7 netpyne==1.0.7"
    python: str = ""  # the interpreter, by its name on the PATH or by its path; "": the running one


NOTHING = Asked()


def asked_of(table: dict[str, Any], program: str) -> Asked:
    """What the table `environments` of an experiment asks for program `program`: "tvb", or a spiking program's name.
    What it says for "spikenet" holds for all spiking programs that have no entry of their own."""

    def of(entries: Any) -> str:
        entries = entries if isinstance(entries, dict) else {}
        default = "" if program in ("tvb", "bridge") else entries.get("spikenet", "")
        return str(entries.get(program, default)).strip()

    return Asked(of(table), of(table.get("python")))


def asked_of_all(table: dict[str, Any], programs: list[str]) -> Asked:
    """What it asks for several programs in one process. Raises ExperimentError when they ask for two interpreters."""
    each = {program: asked_of(table, program) for program in programs}
    pythons = {program: asked.python for program, asked in each.items() if asked.python}
    if len(set(pythons.values())) > 1:
        raise ExperimentError(
            f"exchange.transport = 'memory': one process has one Python, and the environments ask for "
            f"{', '.join(f'{python} ({program})' for program, python in pythons.items())}. Use shm or file."
        )
    words = dict.fromkeys(word for asked in each.values() for word in _split(asked.requirements))
    return Asked(shlex.join(words), next(iter(pythons.values()), ""))


@dataclass(frozen=True)
class Environment:
    """What an environment has to be: its name, where it lies, and the requirements that it is made from."""

    name: str
    path: Path
    requirements: tuple[str, ...]
    sets: str  # as in tvb+nest
    extra: str  # the requirements beyond the sets
    interpreter: str = ""  # the Python that was asked for; "": whichever runs when it is made

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def log(self) -> Path:
        return self.path.parent / f"{self.name}.log"

    def trouble(self) -> str | None:
        """Why it cannot be used as it is; None when it is ready."""
        if not self.path.exists():
            return "first time"
        marker = read_marker(self.path)
        if not marker:
            return "its set-up was interrupted or failed"
        if not os.access(self.python, os.X_OK) or os.path.realpath(self.python) != marker.get("interpreter"):
            return f"its interpreter {marker.get('interpreter')} is gone"
        if marker.get("path") != str(self.path) or marker.get("toolkit") != str(ROOT):
            return f"it was made in {marker.get('path')} for the toolkit in {marker.get('toolkit')}"
        if marker.get("requirements") != list(self.requirements):
            changed = sorted(set(self.requirements) ^ set(marker.get("requirements") or []))
            return f"the requirements changed: {', '.join(changed) or 'their order'}"
        return None


def in_checkout() -> bool:
    """Whether the toolkit runs from a checkout (edited by people), not from an installed package."""
    return (ROOT / "pyproject.toml").is_file()


def folder() -> Path:
    """Where the environments are: LOCKSTEP_ENVS, or .envs of the checkout, or the user's data folder."""
    if chosen := os.environ.get("LOCKSTEP_ENVS"):
        return Path(chosen).expanduser().absolute()
    if in_checkout():
        return ROOT / ".envs"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "tvb-lockstep" / "envs"


def requirement_sets() -> tuple[list[str], dict[str, list[str]]]:
    """The toolkit's own requirements, and those of each set by its name."""
    if in_checkout():
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return list(project["dependencies"]), dict(project["optional-dependencies"])
    own: list[str] = []
    # the metadata beside this package: another tvb-lockstep may come first on the running interpreter's path
    distributions = list(importlib.metadata.distributions(name="tvb-lockstep", path=[str(ROOT.parent)]))
    if not distributions:
        raise EnvironmentFailed(
            f"The toolkit in {ROOT} is neither a checkout nor an installed package, so what its environments need is "
            f"unknown. Install it (pip install FOLDER_OF_THE_CHECKOUT), or run scripts/lockstep of a checkout."
        )
    sets: dict[str, list[str]] = {name: [] for name in distributions[0].metadata.get_all("Provides-Extra") or []}
    for line in distributions[0].requires or []:
        requirement, extra, name = re.fullmatch(r"""(.+?)(\s*;\s*extra\s*==\s*["']([\w-]+)["'])?""", line).groups()  # type: ignore[union-attr]
        (sets.setdefault(name, []) if extra else own).append(requirement)
    return own, sets


def environment(name: str, extra_requirements: str = "", python: str = "") -> Environment:
    """The environment of a name such as ``tvb``, ``tvb+nest``, with requirements beyond it such as
    ``"neuron==8.2.7 netpyne==1.0.7"``, which replace those of the sets on the same packages; and of the Python that
    `python` names, by default the one that makes it.

    Raises EnvironmentFailed for a name that is no requirement set, listing those there are, for versions that cannot
    work, and for a Python that is not there or too old.
    """
    own, sets = requirement_sets()
    parts = name.split("+")
    for part in parts:
        if part not in sets:
            raise EnvironmentFailed(
                f"There is no environment {name!r}: {part!r} is not one of the requirement sets {', '.join(sets)}. "
                f"Several sets in one environment are written {'+'.join(list(sets)[:2])}."
            )
    extra = sorted(set(_split(extra_requirements)))
    replaced = {project(requirement) for requirement in extra}
    chosen = [part for part in sets if part in parts]  # in the order of the pyproject: nest+tvb is tvb+nest
    wanted = [requirement for part in chosen for requirement in sets[part]] + own
    requirements = [*extra, *(requirement for requirement in wanted if project(requirement) not in replaced)]
    check_requirements(extra, wanted)
    full_name, distinct = "+".join(chosen), list(extra)
    if python:
        found = interpreter(python)
        full_name += f"-py{found.version[0]}.{found.version[1]}"
        distinct.append(os.path.realpath(found.path))
        python = found.path
    if distinct:
        full_name += "-" + hashlib.sha256(" ".join(distinct).encode()).hexdigest()[:8]
    path = folder() / full_name
    return Environment(full_name, path, tuple(requirements), "+".join(chosen), shlex.join(extra), python)


def _split(requirements: str) -> list[str]:
    try:
        words = shlex.split(requirements)
    except ValueError as error:
        raise EnvironmentFailed(f"The requirements {requirements!r} cannot be read: {error}.") from None
    for word in words:
        if not re.match(r"[A-Za-z0-9]", word):
            raise EnvironmentFailed(
                f"{word!r} in {requirements!r} is not a requirement. Write them without spaces inside and apart by "
                f"spaces, as in 'neuron==8.2.7 netpyne==1.0.7'."
            )
    return words


def project(requirement: str) -> str:
    """The project that a requirement is about, as the index spells it: ``tvb-library`` of ``TVB_library >= 2.9``."""
    return re.sub(r"[-_.]+", "-", _name(requirement)).lower()


def bounds(requirement: str) -> tuple[Version, Version]:
    """The lowest and highest version that a requirement allows, both (), where it sets no bound or cannot be read.

    ``foo==4.8.2``: (4, 8, 2) twice; ``foo>=5,<6``: (5,) and just below (6,), written (5, ∞).
    """
    low: Version = ()
    high: Version = ()
    specifiers = re.sub(r"\s+", "", re.split(r"[;@\[]", requirement)[0][len(_name(requirement)) :])
    for operator, text in re.findall(r"(===?|~=|!=|<=|>=|<|>)([^,]+)", specifiers):
        numbers = tuple(int(part) for part in re.match(r"(?:\d+\.?)*", text).group().split(".") if part)  # type: ignore[union-attr]
        if not numbers:
            continue
        if operator in ("==", "===", "~=", ">=", ">"):
            low = max(low, numbers)
        just_below = None
        if operator in ("==", "===", "<="):
            just_below = (*numbers, INFINITY) if text.endswith("*") else numbers
        elif operator == "~=":
            just_below = (*numbers[:-1], INFINITY)
        elif operator == "<":
            while len(numbers) > 1 and numbers[-1] == 0:
                numbers = numbers[:-1]
            just_below = (*numbers[:-1], numbers[-1] - 1, INFINITY)
        if just_below is not None:
            high = min(high, just_below) if high else just_below
    return low, high


def check_requirements(asked: list[str], sets: list[str]) -> None:
    """Refuses what cannot work with the toolkit, before anything is installed: versions outside those of `sets`, the
    requirements of the sets, and pairs of PAIRS. Raises EnvironmentFailed with what is supported."""
    supported = {project(requirement): requirement for requirement in sets}
    given = {project(requirement): requirement for requirement in asked}
    for name, requirement in given.items():
        if name in supported:
            low, high = bounds(requirement)
            lowest, highest = bounds(supported[name])
            if (high and lowest and high < lowest) or (low and highest and low > highest):
                raise EnvironmentFailed(f"{requirement} cannot be used: this toolkit works with {supported[name]}.")
    for first, at_least, second, below, why in PAIRS:
        high = bounds(given.get(first, first))[1]
        limit = bounds(given.get(second, second))[1]
        if high and high < at_least and (not limit or limit >= below):
            cure = f"{given[first]} {second}<{_dotted(below)}"
            raise EnvironmentFailed(
                f"{given[first]} works with {second}<{_dotted(below)} only ({why}). Ask for both, as in "
                f"{cure!r}, or for {first}>={_dotted(at_least)}."
            )


def check_installed(sets: list[str]) -> None:
    """The same for what is installed where a program starts, whoever installed it. A simulator that did not come as a
    Python package is not looked at."""
    requirements = [requirement for name in sets for requirement in requirement_sets()[1].get(name, [])]
    there = []
    for name in {*map(project, requirements), *(second for _, _, second, _, _ in PAIRS)}:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there.append(f"{name}=={importlib.metadata.version(name)}")
    try:
        check_requirements(sorted(there), requirements)
    except EnvironmentFailed as error:
        raise EnvironmentFailed(
            f"In {sys.prefix}: {error} Install that there, or let lockstep make an environment: lockstep env make "
            f"{'+'.join(sets)}."
        ) from None


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", requirement)
    return found.group() if found else requirement


def _dotted(version: Version) -> str:
    return ".".join(str(number) for number in version)


class Interpreter(NamedTuple):
    """A Python outside of any environment."""

    path: str
    version: tuple[int, int]


@functools.cache
def interpreter(python: str) -> Interpreter:
    """The Python that a name on the PATH or a path means; of one in an environment that which the environment is of.

    Raises EnvironmentFailed, with what was looked for, when it is not there, does not run, or is too old.
    """
    if os.sep in python or python.startswith("~"):
        candidates, where = [os.path.abspath(os.path.expanduser(python))], "that path"
    else:
        folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
        candidates, where = [os.path.join(folder or ".", python) for folder in folders], "the PATH"
    code = "import sys; print(*sys.version_info[:2], getattr(sys, '_base_executable', sys.executable))"
    refused = []
    for candidate in candidates:
        if not (os.path.isfile(candidate) and os.access(candidate, os.X_OK)):
            continue
        try:
            done = subprocess.run([candidate, "-I", "-c", code], capture_output=True, text=True, timeout=60)
            major, minor, base = done.stdout.strip().split(" ", 2)
            version = int(major), int(minor)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            said = done.stderr.strip().splitlines() if isinstance(error, ValueError) else [str(error)]
            refused.append(f"{candidate} does not run ({said[0] if said else 'it said nothing'})")
            continue
        if version < OLDEST_PYTHON:
            refused.append(f"{candidate} is Python {_dotted(version)}")
            continue
        return Interpreter(base, version)
    raise EnvironmentFailed(
        f"There is no Python {python!r} for an environment: {'; '.join(refused) or f'nothing on {where}'}. It "
        f"takes one of {_dotted(OLDEST_PYTHON)} or newer, by its name on the PATH or by its path."
    )


def running(python: str) -> bool:
    """Whether this process runs in the Python that a name or path means, or in an environment of it."""
    base = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(interpreter(python).path) == os.path.realpath(base)


def has(simulator: str) -> bool:
    """Whether the running interpreter can import the simulator; nothing is imported."""
    return importlib.util.find_spec(IMPORT_NAMES[simulator]) is not None


def ensure(name: str, extra_requirements: str = "", python: str = "") -> Path:
    """The Python of the environment, which is made, or made again, when it is not ready."""
    wanted = environment(name, extra_requirements, python)
    return wanted.python if wanted.trouble() is None else make(name, extra_requirements, python)


def make(name: str, extra_requirements: str = "", python: str = "") -> Path:
    """Makes the environment, unless it is ready, of the running interpreter or of `python`; returns its Python.

    Says on the standard error what it does. Safe to be called by several programs at the same time, to be interrupted
    and to be killed. Raises EnvironmentFailed with the end of pip's log and what to do, Interrupted at Ctrl-C.
    """
    wanted = environment(name, extra_requirements, python)
    try:
        with locked(wanted.name) as lock:
            trouble = wanted.trouble()
            if trouble is not None:
                about = "first time; one or two minutes" if trouble == "first time" else f"again, because {trouble}"
                say(f"making environment {wanted.name} in {wanted.path} ({about}) …")
                started = time.monotonic()
                delete(wanted.path)
                wanted.log.write_text("")
                _build(wanted, wanted.interpreter or sys.executable, lock)
                say(f"environment {wanted.name} is ready in {time.monotonic() - started:.0f} s")
    except KeyboardInterrupt:
        raise Interrupted(
            f"\nInterrupted at the set-up of environment {wanted.name}. Nothing needs cleaning: the next call that "
            f"needs it makes it again."
        ) from None
    except OSError as error:
        raise EnvironmentFailed(_cannot_write(wanted.path, error)) from None
    return wanted.python


def _build(wanted: Environment, interpreter: str, lock: int) -> None:
    """A virtual environment with the requirements and the toolkit; the marker last."""

    def phase(what: str, *command: str) -> None:
        _run(wanted, what, list(command), lock)

    # -I: no PYTHONPATH, no user site and no current folder, which pip would take for requirements already met
    pip = [str(wanted.python), "-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    phase(f"creating it with {interpreter}", interpreter, "-I", "-m", "venv", str(wanted.path))
    own = {project(requirement) for requirement in requirement_sets()[0]}
    named = [requirement for requirement in wanted.requirements if project(requirement) not in own]
    count = len(wanted.requirements) - len(named)
    what = f"installing {', '.join(named)} and what the toolkit itself needs ({count} packages)"
    phase(what, *pip, "--prefer-binary", *wanted.requirements)
    if in_checkout():
        # an editable install writes into the checkout: one at a time, whatever the environment
        with open(ROOT / "pyproject.toml") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            phase(f"installing the toolkit, editable, from {ROOT}", *pip, "--no-deps", "--editable", str(ROOT))
    else:
        # An installed toolkit is on no index, but it is pure Python: its files serve every environment where they lie.
        site = next(iter((wanted.path / "lib").glob("python3*/site-packages")))
        (site / "tvb_lockstep").symlink_to(ROOT, target_is_directory=True)
    interpreter_version = re.search(r"^version\s*=\s*(\S+)", (wanted.path / "pyvenv.cfg").read_text(), re.M)
    marker = {
        "sets": wanted.sets,
        "extra": wanted.extra,
        "asked_python": wanted.interpreter,
        "requirements": list(wanted.requirements),
        "python": interpreter_version.group(1) if interpreter_version else "unknown",
        "interpreter": os.path.realpath(wanted.python),
        "toolkit": str(ROOT),
        "path": str(wanted.path),
    }
    complete = wanted.path / f"{MARKER}.part"
    complete.write_text(json.dumps(marker, indent=1) + "\n")
    complete.rename(wanted.path / MARKER)


def _run(wanted: Environment, what: str, command: list[str], lock: int) -> None:
    """One phase: its line with the seconds it took, its output in the log, its failure explained."""
    started = time.monotonic()
    live = sys.stderr.isatty()
    width = shutil.get_terminal_size().columns - 12
    line = f"  {what} … " if not live or len(what) < width else f"  {what[: width - 1]}… "
    say(line, end="")
    # PIP_USER and the like would send the packages elsewhere than into the environment
    astray = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "__PYVENV_LAUNCHER__")
    environ = {key: value for key, value in os.environ.items() if key not in astray}
    with open(wanted.log, "a") as log:
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        # The child holds the lock, too, and dies with this process: as long as anybody writes, the lock is taken.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environ,
            pass_fds=(lock,), preexec_fn=_dies_with_parent(),
        )  # fmt: skip
        try:
            while True:
                try:
                    code = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    if live:
                        say(f"\r{line}{time.monotonic() - started:.0f} s", end="")
        except BaseException:
            process.kill()
            process.wait()
            raise
    seconds = time.monotonic() - started
    say(f"\r{line}{seconds:.0f} s" if live else f"{seconds:.0f} s")
    if code != 0:
        raise EnvironmentFailed(_failure(wanted, what, code))


def _dies_with_parent() -> Callable[[], None] | None:
    """For subprocess.Popen: the kernel kills the child when this process dies, even by kill -9 (Linux)."""
    if sys.platform != "linux":
        return None
    prctl, parent, pr_set_pdeathsig = ctypes.CDLL(None).prctl, os.getpid(), 1

    def before_exec() -> None:
        prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:  # died in between
            os._exit(1)

    return before_exec


# What the end of pip's output says about the cause; the first that is found counts.
ADVICE = (
    (r"No space left on device|Disk quota exceeded|Errno 28",
     "The disk is full. Free some space, `lockstep env list` shows what the environments take; or set "
     "LOCKSTEP_ENVS=FOLDER to keep them on another disk, and TMPDIR=FOLDER when it is the temporary folder."),
    (r"Read-only file system|Permission denied",
     "A folder cannot be written to. Set LOCKSTEP_ENVS=FOLDER to keep the environments elsewhere."),
    (r"ensurepip",
     "This Python cannot make environments. On Debian and Ubuntu: apt install python3-venv; or use another one."),
    (r"name resolution|getaddrinfo|Name or service not known|NewConnectionError|ConnectTimeout|Read timed out"
     r"|ConnectionReset|ProxyError|SSLError|Network is unreachable|Connection refused|Connection broken",
     "The package index was not reached. Check the network, the proxy (HTTPS_PROXY) and pip's settings."),
    (r"ResolutionImpossible|conflicting dependencies",
     "The requirements exclude each other. Ask for other versions, or leave some of them out."),
    (r"No matching distribution found|Could not find a version",
     "The package index has no such package or version for this Python. The log lists the versions there are; a "
     "wrong name, or a Python for which there is no wheel yet, are the usual causes."),
    (r"Failed building wheel|Failed to build|command '[^']*(gcc|g\+\+|cc|clang|cmake)[^']*' failed|Python\.h"
     r"|CMAKE_\w*_COMPILER",
     "A package had to be compiled and that failed. Install a compiler and Python's headers (apt install "
     "build-essential python3-dev), or ask for a version that comes as a wheel for this Python."),
)  # fmt: skip


def _failure(wanted: Environment, what: str, code: int) -> str:
    text = wanted.log.read_text(errors="replace")
    last = text[text.rfind("\n$ ") + 1 :]  # the output of the phase that failed
    tail = [line for line in last.splitlines() if line.strip()][-12:]
    advice = next((advice for pattern, advice in ADVICE if re.search(pattern, last)), None)
    advice = advice or "The log may tell more."
    died = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return "\n".join([
        f"The environment {wanted.name} could not be made: {what} {died}. Its last lines:",
        *(f"  | {line}" for line in tail),
        f"{advice}",
        f"All of it is in {wanted.log}. Then run the same command again; it starts this environment over.",
    ])  # fmt: skip


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"The environment in {path} cannot be made: {error.strerror or error} ({error.filename or path}). Make room or "
        f"give write permission there, or set LOCKSTEP_ENVS=FOLDER to keep the environments elsewhere."
    )


@contextmanager
def locked(name: str) -> Iterator[int]:
    """Holds the lock of an environment; the kernel gives it back at any death. Yields its file descriptor."""
    file = folder() / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(file, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)  # it writes its number right after it has taken the lock
                holder = file.read_text() if file.exists() else ""
                say(f"environment {name} is being made by process {holder or '?'}; waiting for it …")
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists() or not os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                continue  # its holder removed the environment and this file with it
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield lock.fileno()
            return


def remove(name: str) -> None:
    """Deletes an environment by the name that `env list` shows, with its log."""
    if name not in found():
        there = ", ".join(found()) or "none"
        raise EnvironmentFailed(f"There is no environment {name!r} in {folder()}; there is {there}.")
    with locked(name):
        try:
            delete(folder() / name)
            (folder() / f"{name}.log").unlink(missing_ok=True)
            (folder() / f"{name}.lock").unlink()
        except OSError as error:
            raise EnvironmentFailed(f"The environment {name} cannot be removed: {error}.") from None


def delete(path: Path) -> None:
    """Deletes a folder; again, when what a killed set-up left running still wrote into it."""
    for attempt in range(20):
        try:
            if path.exists():
                shutil.rmtree(path)
            return
        except OSError:
            if attempt == 19:
                raise
            time.sleep(0.1)


def found() -> list[str]:
    """The names of the environments that are there, ready or not."""
    if not folder().is_dir():
        return []
    return sorted(path.name for path in folder().iterdir() if path.is_dir() and not path.name.startswith("."))


def read_marker(path: Path) -> dict[str, Any]:
    """What the marker of an environment says; empty when there is none, or half of one."""
    try:
        marker = json.loads((path / MARKER).read_text())
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
