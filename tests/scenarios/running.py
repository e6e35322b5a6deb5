"""Runs the command as a person does, in processes of their own, and looks at what it leaves. For all scenarios."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tvb_lockstep.bridges.contract import Contract
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.bridges.frame import DENSE, SPIKES, Address
from tvb_lockstep.bridges.recording import read
from tvb_lockstep.scripts import environments
from tvb_lockstep.spikenet_side.annarchy import toolchain
from tvb_lockstep.spikenet_side.netpyne import requirements

# Everything that a scenario starts, and whatever that starts in turn, carries this in its environment.
TAG = f"LOCKSTEP_SCENARIO={os.getpid()}-{uuid.uuid4().hex}"
WATCHDOG_S = 240.0  # never what a test waits for; only the end of one that hangs
COMMAND = [sys.executable, "-m", "tvb_lockstep.scripts.main"]

# The wilson_cowan experiment, as short and small as most scenarios need it: 511 steps, so that the last window is a
# shorter one. NEST's slice is held fixed, since NEST draws its random numbers slice by slice.
SMALL: dict[str, Any] = {
    "duration": 51.1,
    "spikenet.params.n_excitatory": 40,
    "spikenet.params.n_inhibitory": 40,
    "spikenet.min_delay": 0.1,
}
MODEL = "interfaces.tvb_to_spikenet.0.model"
WINDOW = "exchange.synchronization_time"


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: exit status, negative for a signal. out, err: what it printed."""

    command: list[str]
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Program:
    """A command started in the background, in a session (and process group) of its own."""

    def __init__(self, *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
        self.command = [*COMMAND, *map(str, arguments)]
        name, value = TAG.split("=")
        self.process = subprocess.Popen(
            self.command, cwd=cwd, env={**os.environ, **(env or {}), name: value, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """A signal to this process alone; Ctrl-C is `SIGINT`."""
        self.process.send_signal(number)

    def wait(self, watchdog_s: float = WATCHDOG_S) -> Ended:
        """How it ended. One that hangs is killed, with everything that it started, and fails the test."""
        try:
            out, err = self.process.communicate(timeout=watchdog_s)
        except subprocess.TimeoutExpired:
            kill_everything_started()
            out, err = self.process.communicate()
            raise AssertionError(f"{' '.join(self.command)} hung for {watchdog_s:g} s.\n{out}\n{err}") from None
        return Ended(self.command, self.process.returncode, out, err)


def lockstep(*arguments: str | Path, watchdog_s: float = WATCHDOG_S, **options: Any) -> Ended:
    """`lockstep ARGUMENTS`, to its end."""
    return Program(*arguments, **options).wait(watchdog_s)


def settings(values: Mapping[str, Any]) -> list[str]:
    """``--set KEY=VALUE`` for each of `values`; texts as they are, all other values as TOML."""
    return [
        part
        for key, value in values.items()
        for part in ("--set", f"{key}={value if isinstance(value, str) else _toml(value)}")
    ]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def run(
    experiment: str | Path, run_dir: Path, values: dict[str, Any] | None = None, *more: str,
    watchdog_s: float = WATCHDOG_S,
) -> Path:  # fmt: skip
    """`lockstep run`, which must succeed; gives back the run directory."""
    ended = lockstep(
        "run", experiment, "--run-dir", run_dir, *settings(values or {}), "--quiet", "--no-report", *more,
        watchdog_s=watchdog_s,
    )  # fmt: skip
    assert ended.code == 0, f"{' '.join(ended.command)} ended with {ended.code}:\n{ended.text}"
    return run_dir


def run_in_one_process(
    experiment: str | Path, runs: dict[Path, dict[str, Any]], watchdog_s: float = WATCHDOG_S
) -> None:
    """Several runs in one process, one after the other, each with all its programs in it (transport memory)."""
    commands = [
        ["run", str(experiment), "--run-dir", str(run_dir), "--quiet", "--no-report",
         *settings({**values, "exchange.transport": "memory"})]
        for run_dir, values in runs.items()
    ]  # fmt: skip
    script = (
        "import json, sys; from tvb_lockstep.scripts.main import main\n"
        "sys.exit(any([main(arguments) for arguments in json.load(sys.stdin)]))"
    )
    name, value = TAG.split("=")
    ended = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(commands), env={**os.environ, name: value},
        capture_output=True, text=True, timeout=watchdog_s,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


def start(
    program: str, experiment: str | Path, run_dir: Path, values: dict[str, Any] | None = None, *more: str,
) -> Program:  # fmt: skip
    """One program of a run in the background: "tvb", "bridge", or the name of a spiking program."""
    alone = program in ("tvb", "bridge")
    name = [] if alone else ["--name", program]
    return Program(
        program if alone else "spikenet", experiment, "--run-dir", run_dir, *settings(values or {}), *name,
        "--quiet", "--no-report", *more,
    )  # fmt: skip


def wait_until(condition: Callable[[], Any], what: str, watchdog_s: float = 60.0) -> Any:
    """The first true value of `condition`; fails the test when there is none in all that time."""
    end = time.monotonic() + watchdog_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {watchdog_s:g} s in vain: {what}"
        time.sleep(0.01)
    return found


def window_of(run_dir: Path, peer: str) -> int:
    """The window that a program says it is in; -1 before the first, and before it says anything."""
    try:
        return json.loads((run_dir / "peers" / f"{peer}.json").read_text())["now"]["window"]
    except (FileNotFoundError, json.JSONDecodeError):
        return -1


# ---- what is left --------------------------------------------------------------------------------------------------


def started_and_alive() -> dict[int, str]:
    """Pid and command of every living process that the scenarios of this pytest started, directly or not."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if TAG.encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if state not in "ZX":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):  # it ended meanwhile, or is somebody else's
            continue
    return found


def kill_everything_started() -> None:
    for pid in started_and_alive():
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def shared_memory() -> set[str]:
    """Our rings and semaphores in /dev/shm, but for those of rings that processes of others hold at this moment."""
    entries = {name for name in os.listdir("/dev/shm") if "tvls-" in name}
    if entries:
        ours = started_and_alive()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                mapped = (folder / "maps").read_text() if int(folder.name) not in ours else ""
            except OSError:
                continue
            # a semaphore goes with its ring: a process has it mapped under another name
            entries = {e for e in entries if f"/dev/shm/{e.removeprefix('sem.').partition('.')[0]}" not in mapped}
    return entries


# ---- what was computed ---------------------------------------------------------------------------------------------


def contract_of(run_dir: Path) -> Contract:
    return Contract.from_json(json.loads((run_dir / "contract.json").read_text()))


def addresses(contract: Contract) -> list[Address]:
    """Of every log in ``record/``."""
    run_id = bytes.fromhex(contract.run_id)
    found = [channel.address(run_id, stage) for channel in contract.channels for stage in ("raw", "transformed")]
    for i, monitor in enumerate(contract.tvb["monitors"]):
        found.append(Address(run_id, 1_000_000 + i, f"tvb.monitor{i}", DENSE, 1 + int(np.prod(monitor["shape"]))))
    for name, program in contract.spikenet.items():
        neurons = sum(size for _, _, size in program["populations"])
        found.append(Address(run_id, 2_000_000, f"{name}.spikes", SPIKES, neurons))
    return found


def content(run_dir: Path) -> dict[str, list[np.ndarray]]:
    """By log, what its windows hold one after the other: ``[values]`` (n_steps, n_columns), or ``[ticks, senders]``."""
    contract = contract_of(run_dir)
    found: dict[str, list[np.ndarray]] = {}
    for address in addresses(contract):
        with read(run_dir / "record" / f"{address.name}.frames", address) as log:
            assert len(log) == contract.grid.n_windows and log.torn_bytes == 0, address.name
            frames = list(log)
        if address.kind == DENSE:
            found[address.name] = [np.concatenate(frames)]
        else:
            found[address.name] = [np.concatenate([frame[i] for frame in frames]) for i in (0, 1)]
    assert {path.stem for path in (run_dir / "record").iterdir()} == set(found)
    return found


def digests(run_dir: Path) -> dict[str, str]:
    """By log and by data set of tvb.h5 and spikes.h5, a hash of the bits, whatever the windows they came in."""
    found = {name: _digest(arrays) for name, arrays in content(run_dir).items()}
    for file_name in ("tvb.h5", "spikes.h5"):
        with h5py.File(run_dir / file_name) as file:

            def add(name: str, item: Any, file_name: str = file_name) -> None:
                if isinstance(item, h5py.Dataset) and not name.rpartition("/")[2].startswith("window_"):
                    found[f"{file_name}:{name}"] = _digest([np.asarray(item[()])])

            file.visititems(add)
    return found


def _digest(arrays: list[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def differing(a: Path, b: Path) -> list[str]:
    """Names of the logs and data sets in which two runs differ in any bit; [] when there is none."""
    first, second = digests(a), digests(b)
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))


def provenance(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "provenance.json").read_text())


# ---- which simulators are here -------------------------------------------------------------------------------------


def skip_without(simulator: str, folder: Path) -> None:
    """Skip when `simulator`, or a compiler that it needs for the experiment in `folder`, is not here."""
    if missing := [name for name in ("tvb", simulator) if not environments.has(name)]:
        pytest.skip(f"{', '.join(missing)} not installed here")
    try:
        if simulator == "annarchy":
            toolchain.check_requirements()
    except EnvironmentFailed as lacking:
        pytest.skip(str(lacking))
    if simulator == "netpyne" and (lacks := requirements(folder)):
        pytest.skip(lacks[0])
