"""Programs without simulators: real processes that take part in a run, and whose numbers are known without any of it.

One process imports the toolkit once and forks a program in some milliseconds, so that a test may start hundreds. Each
side computes its next window from all that it ever received, in small integers: one frame lost, doubled, late or of
another run, and every number after it differs. `alone` computes the same in one loop, with nothing in between.

    "tvb"    x[s, c] = (3 s + 5 c + h) mod 64 for step s, region c; h: a hash of all spike counts it has heard
    others   neuron i of region c fires at tick t of step s when (x[s, c] + i + t) mod 8 = 0

x is sent as a coupling, and arrives as 100 x Hz. Steps are 0.5 ms, ticks 0.25 ms; regions have N neurons, N a power of
two: their rates, spikes / (N 0.5 ms), are then exact in kHz. Frames of window k are sent when the spikes up to window
k - lag have been heard.
"""

from __future__ import annotations

import atexit
import functools
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

if __name__ != "__main__":
    import running
    from tvb_lockstep.bridges.peers import read_summary
    from tvb_lockstep.scripts.commands.status import is_stopped

DT_MS, TICKS = 0.5, 2  # TVB's step, and ticks in it


@dataclass(frozen=True)
class Shape:
    """What is computed: all numbers of a run follow from it, whatever the transport, the delays and the programs' luck.

    regions: per spiking program. neurons: per region. lag: in windows; with rings of depth D at most 2 D, or both sides
    could wait for room at once.
    """

    n_steps: int = 101
    window_steps: int = 2
    lag: int = 2
    regions: int = 2
    neurons: int = 4
    programs: tuple[str, ...] = ("spikenet",)

    @property
    def n_windows(self) -> int:
        return -(-self.n_steps // self.window_steps)

    def steps(self, k: int) -> tuple[int, int]:
        return k * self.window_steps, min((k + 1) * self.window_steps, self.n_steps)

    def experiment(self, **exchange: Any) -> dict[str, Any]:
        """As in an experiment.toml."""
        row = {"voi": ["x"], "populations": ["E"]}
        return {
            "name": "nulls", "duration": self.n_steps * DT_MS, "seed": 1,
            "tvb": {"dt": DT_MS, "params": {"window_steps": self.window_steps, "lag": self.lag}},
            "spikenet": [
                {"name": name, "simulator": "nest", "resolution": DT_MS / TICKS, "params": {"neurons": self.neurons},
                 "regions": [f"{name}{c}" for c in range(self.regions)]}
                for name in self.programs
            ],
            "interfaces": {
                "tvb_to_spikenet": [{**row, "transformer_params": {"scale_factor": 100.0}}],
                "spikenet_to_tvb": [{**row, "transformer_params": {"unit": "kHz"}}],
            },
            "exchange": exchange,
        }  # fmt: skip


class Tvb:
    """What TVB computes here."""

    def __init__(self, neurons: int) -> None:
        self._h = 0
        self._counts_per_khz = neurons * DT_MS

    def coupling(self, first: int, end: int, regions: int) -> np.ndarray:
        return (3.0 * np.arange(first, end)[:, None] + 5.0 * np.arange(regions) + self._h) % 64

    def hear(self, rates_khz: np.ndarray) -> None:
        counts = (rates_khz * self._counts_per_khz).ravel()
        self._h = (31 * self._h + int(counts @ np.arange(1.0, counts.size + 1)) + 1) % 2**20


def fire(rates_hz: np.ndarray, first: int, neurons: int) -> tuple[np.ndarray, np.ndarray]:
    """Ticks and numbers of the neurons that fire, in the order of time, from the rates (n_steps, regions)."""
    ticks = np.arange(TICKS * first, TICKS * (first + len(rates_hz)))
    x = np.repeat(np.repeat(rates_hz / 100.0, TICKS, axis=0), neurons, axis=1)
    at, senders = np.nonzero((x + np.arange(x.shape[1]) % neurons + ticks[:, None]) % 8 == 0)
    return ticks[at], senders.astype(np.int32)


@dataclass
class Numbers:
    """All that a program received: a hash of the bits and, of spiking programs, how many spikes they fired."""

    _hash: Any = field(default_factory=hashlib.sha256)
    spikes: int = 0

    def add(self, payload: np.ndarray) -> None:
        self._hash.update(payload.tobytes())

    def digest(self) -> str:
        return self._hash.hexdigest()


@functools.cache
def alone(shape: Shape) -> dict[str, tuple[str, int]]:
    """By program, the hash of all that it has to receive, and how many spikes it has to fire."""
    tvb, found = Tvb(shape.neurons), {name: Numbers() for name in ("tvb", *shape.programs)}
    under_way: list[list[np.ndarray]] = []

    def hear() -> None:
        for rates in under_way.pop(0):
            found["tvb"].add(rates)
            tvb.hear(rates)

    for k in range(shape.n_windows):
        first, end = shape.steps(k)
        if k >= shape.lag:
            hear()
        x = tvb.coupling(first, end, shape.regions)
        under_way.append([])
        for name in shape.programs:
            found[name].add(100.0 * x)
            ticks, senders = fire(100.0 * x, first, shape.neurons)
            found[name].spikes += len(ticks)
            counts = np.zeros((end - first, shape.regions))
            np.add.at(counts, (ticks // TICKS - first, senders // shape.neurons), 1.0)
            under_way[-1].append(counts / (shape.neurons * DT_MS))
    while under_way:
        hear()
    return {name: (numbers.digest(), numbers.spikes) for name, numbers in found.items()}


@dataclass(frozen=True)
class Part:
    """What one program is to do. at: by point of its course (claimed, offered, ready, a window's number, ended)
    the signal that it sends itself there. pause_s: in every window. delay_s: before it begins. loses_in: the window in
    which it drops the last spike of those that it should send."""

    peer: str
    run_dir: str
    experiment: dict[str, Any]
    at: dict[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    delay_s: float = 0.0
    loses_in: int = -1
    overwrite: bool = False
    resumed: bool = False


# ---- for tests -------------------------------------------------------------------------------------------------------


class Program:
    """A program that was started. screen: what it printed; its numbers are beside it when it has ended."""

    def __init__(self, part: Part, screen: Path) -> None:
        self.part, self._screen = part, screen
        self.pid: int = _ask({"start": asdict(part), "screen": str(screen)})
        self._code: int | None = None

    @property
    def text(self) -> str:
        return self._screen.read_text(errors="replace") if self._screen.exists() else ""

    @property
    def code(self) -> int | None:
        """Exit status, negative for a signal; None while it lives."""
        if self._code is None:
            self._code = _ask({"poll": self.pid})
        return self._code

    def send(self, number: signal.Signals) -> None:
        if self.code is None:  # its number is its own until its end has been asked for
            os.kill(self.pid, number)

    @property
    def memory(self) -> tuple[int, int]:
        """Resident [bytes], and the anonymous part of it: the rest is shared memory and mapped files, mostly code."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        resident, anonymous = (int(status[key].split()[0]) * 1024 for key in ("VmRSS", "RssAnon"))
        return resident, anonymous

    @property
    def descriptors(self) -> list[str]:
        """What each of its open files is."""
        return sorted(os.readlink(path) for path in Path(f"/proc/{self.pid}/fd").iterdir())

    def stopped(self) -> None:
        """Waits until it is stopped."""
        running.wait_until(lambda: is_stopped(self.pid) or self.code is not None, f"{self.part.peer} to be stopped")
        assert self.code is None, self.text

    def end(self) -> int:
        """Its exit status, when it has ended by itself."""
        try:
            running.wait_until(lambda: self.code is not None, f"the end of {self.part.peer}", running.WATCHDOG_S)
        except AssertionError:
            raise AssertionError(f"{self.part.peer} hung; its screen:\n{self.text}") from None
        return self._code  # type: ignore[return-value]

    @property
    def said(self) -> dict[str, Any]:
        """digest, spikes, put_wait_s, take_wait_s."""
        return json.loads(self._screen.with_suffix(".json").read_text())

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        summary = read_summary(Path(self.part.run_dir), self.part.peer)
        assert summary is not None, self.text
        return summary["counters"]


class Programs:
    """Starts programs; a context manager that kills what still runs at its end, and objects to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Program] = []

    def start(self, part: Part) -> Program:
        self._started.append(Program(part, self._folder / f"screen{len(self._started)}.{part.peer}.txt"))
        return self._started[-1]

    def run(
        self, shape: Shape, run_dir: Path, parts: dict[str, dict[str, Any]] | None = None, **exchange: Any
    ) -> dict[str, Program]:
        """Start every program of a run, by name. parts: what is special about each, as keywords of `Part`; they start
        in the order of these."""
        names = ["tvb", *shape.programs, *(["bridge"] if exchange.get("bridge") == "own" else [])]
        parts = {**(parts or {}), **{name: {} for name in names if name not in (parts or {})}}
        experiment = shape.experiment(**exchange)
        return {name: self.start(Part(name, str(run_dir), experiment, **part)) for name, part in parts.items()}

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        alive = [program for program in self._started if program.code is None]
        for program in alive:
            program.send(signal.SIGKILL)
        for program in alive:
            program.end()
        assert kind is not None or not alive, f"still running: {[program.part.peer for program in alive]}"


def check(shape: Shape, programs: dict[str, Program]) -> None:
    """All end, and all that there should be has arrived: the bits, and by the counters every frame and spike."""
    assert {name: program.end() for name, program in programs.items()} == dict.fromkeys(programs, 0), "\n".join(
        f"{name}: {program.text}" for name, program in programs.items()
    )
    expected = alone(shape)
    assert {name: (programs[name].said["digest"], programs[name].said["spikes"]) for name in expected} == expected
    totals: dict[str, dict[str, int]] = {}
    for program in programs.values():
        for channel, counters in program.counters.items():
            for key, n in counters.items():
                totals.setdefault(channel, {}).setdefault(key, 0)
                totals[channel][key] += n
    hops = 2 if "bridge" in programs else 1
    for name in shape.programs:
        down, up = totals[f"tvb_to_{name}.0"], totals[f"{name}_to_tvb.0"]
        for counters in (down, up):
            assert counters["frames_sent"] == counters["frames_received"] == hops * shape.n_windows
            assert counters["frames_delivered"] == shape.n_windows
        assert up["spikes_sent"] == up["spikes_received"] == up["spikes_delivered"] == expected[name][1]


def leftovers(run_dir: Path) -> set[str]:
    """What no program may leave: rings and semaphores of the run, and half-written files."""
    found = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*.tmp") if path.is_file()}
    found |= {str(path.relative_to(run_dir)) for path in (run_dir / "exchange" / "tmp").glob("*")}
    return found | rings(run_dir)


def rings(run_dir: Path) -> set[str]:
    """The rings and semaphores of this run in /dev/shm, by the names that bridges/README.md gives them."""
    run_id = bytes.fromhex(json.loads((run_dir / "run.json").read_text())["run_id"])
    prefix = f"tvls-{hashlib.sha256(b'tvb-lockstep ring' + run_id).hexdigest()[:32]}-"
    return {name for name in os.listdir("/dev/shm") if name.removeprefix("sem.").startswith(prefix)}


@functools.cache
def _server() -> subprocess.Popen[str]:
    """The process that forks the programs; it ends, and they with it, when its input does."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C in this terminal ends pytest, and then this
    )  # fmt: skip

    def end() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()

    atexit.register(end)
    return server


def _ask(request: dict[str, Any]) -> Any:
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


# ---- the process that forks, and the programs ------------------------------------------------------------------------


def _serve() -> None:
    """Answers one line of JSON with another: ``{"start": part, "screen": path}`` with a pid, ``{"poll": pid}`` with the
    exit status, or null while it lives."""
    children: set[int] = set()
    gc.collect()
    gc.freeze()  # what is shared with all programs stays shared
    for line in sys.stdin:
        request, answer = json.loads(line), None
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                _be(Part(**request["start"]), request["screen"])
            children.add(pid)
            answer = pid
        else:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            if pid:
                children.remove(pid)
                answer = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be(part: Part, screen: str) -> None:
    """Be this program, to its end."""
    code = 99
    try:
        os.setsid()
        for number, path in enumerate((os.devnull, screen, screen)):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        code = _take_part(part, Path(screen).with_suffix(".json"))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _take_part(part: Part, result: Path) -> int:
    from tvb_lockstep.bridges.bridge import run_bridge
    from tvb_lockstep.bridges.errors import LockstepError
    from tvb_lockstep.bridges.experiment import validate
    from tvb_lockstep.bridges.session import Session

    time.sleep(part.delay_s)
    said: dict[str, Any] = {}
    try:
        session = Session(
            Path(part.run_dir), part.peer, validate(part.experiment, "nulls"),
            overwrite=part.overwrite, resumed=part.resumed,
        )  # fmt: skip
        if part.peer == "bridge":
            session.run(run_bridge, lambda: None)
        else:
            course = Course(part, session)
            session.run(lambda session: course.run(), lambda: None)
            said = course.said()
    except LockstepError as error:
        if not error.told:
            print(error)
        return error.exit_code
    finally:
        result.write_text(json.dumps(said))
    return 0


class Course:
    """The course of one program through a run, as those with simulators go it."""

    def __init__(self, part: Part, session: Any) -> None:
        from tvb_lockstep.bridges.bridge import Spent

        self.part, self.session = part, session
        self.numbers = Numbers()
        self.putting, self.taking = Spent(), Spent()

    def said(self) -> dict[str, Any]:
        return {
            "digest": self.numbers.digest(), "spikes": self.numbers.spikes,
            "put_wait_s": self.putting.wait, "take_wait_s": self.taking.wait,
        }  # fmt: skip

    def point(self, name: str) -> None:
        number = self.part.at.get(name)
        if number is not None:
            os.kill(os.getpid(), signal.Signals[number])

    def run(self) -> None:
        from tvb_lockstep.bridges.bridge import open_ends
        from tvb_lockstep.bridges.run_dir import write_json
        from tvb_lockstep.bridges.timing import Timing

        session, me = self.session, self.part.peer
        self.point("claimed")
        session.meet()
        programs = {section.name: section for section in session.experiment.spikenet}
        mine = _offer_of_tvb(session.experiment) if me == "tvb" else _offer_of_spikenet(programs[me])
        mine = session.publish("offer", mine)
        offers = {name: mine if name == me else session.await_page(name, "offer") for name in ("tvb", *programs)}
        self.point("offered")
        contract = session.contract(offers.pop("tvb"), offers)
        inlets, outlets = open_ends(session, contract)
        self.point("ready")
        session.start(contract, inlets, outlets)
        if me == "tvb":
            write_json(session.run_dir / "experiment.json", contract.experiment)
            write_json(session.run_dir / "contract.json", contract.to_json())
        timing = Timing.create(session.run_dir, me, contract.grid.n_windows, kept=session.resumed)
        session.on_close(timing.close)
        window = self._tvb(contract, inlets, outlets) if me == "tvb" else self._spikenet(contract, inlets, outlets)
        for k in range(contract.grid.n_windows):
            session.window = k
            session.check_stop()
            begun = time.time()
            self.point(str(k))
            if self.part.pause_s:
                time.sleep(self.part.pause_s)
            session.computing(k)
            window(k)
            timing.row(k, begun, begun, time.time() - begun, 0.0, 0.0, 0.0)
            session.progress("")
        self.point("ended")

    def _tvb(self, contract: Any, inlets: list[Any], outlets: list[Any]) -> Any:
        grid, params = contract.grid, contract.experiment["tvb"]["params"]
        neurons = contract.experiment["spikenet"][0]["params"]["neurons"]
        tvb = Tvb(neurons)

        def hear() -> None:
            for inlet in inlets:
                rates = inlet.take(self.taking)
                self.session.count(inlet.channel.name, frames_delivered=1)
                self.numbers.add(rates)
                tvb.hear(rates)

        def window(k: int) -> None:
            if k >= params["lag"]:
                hear()
            first, end = grid.steps(k)
            for outlet in outlets:
                outlet.put(tvb.coupling(first, end, outlet.channel.raw.columns), self.putting)
            if k == grid.n_windows - 1:
                while any(inlet.next < grid.n_windows for inlet in inlets):
                    hear()

        return window

    def _spikenet(self, contract: Any, inlets: list[Any], outlets: list[Any]) -> Any:
        from tvb_lockstep.bridges.frame import Spikes

        grid, (inlet,), (outlet,) = contract.grid, inlets, outlets
        neurons = self.session.experiment.program(self.part.peer).params["neurons"]

        def window(k: int) -> None:
            rates = inlet.take(self.taking)
            self.session.count(inlet.channel.name, frames_delivered=1)
            self.numbers.add(rates)
            ticks, senders = fire(rates, grid.steps(k)[0], neurons)
            self.numbers.spikes += len(ticks)
            if k == self.part.loses_in:
                ticks, senders = ticks[:-1], senders[:-1]
            outlet.put(Spikes(ticks, senders), self.putting)

        return window


def _offer_of_tvb(experiment: Any) -> dict[str, Any]:
    from tvb_lockstep.bridges.contract import Channel, Edge, Signal
    from tvb_lockstep.bridges.grid import Grid

    params = experiment.tvb.params
    resolutions = {section.name: section.resolution for section in experiment.spikenet}
    grid = Grid.of(experiment.tvb.dt, resolutions, experiment.duration, params["window_steps"])
    channels: list[Channel] = []
    for section in experiment.spikenet:
        name, own = section.name, tuple(map(str, section.regions))
        coupling, rates = [f"x@{region}" for region in own], [f"E@{region}" for region in own]
        edges = tuple(Edge(c, region, "E", 1.0, 0.0) for c, region in enumerate(own))
        common = (("x",), ("E",), own)
        down = Channel(
            len(channels), f"tvb_to_{name}.0", "tvb", name, "RATE", "TVB", *common, ("linear",),
            ({"scale_factor": 100.0},), {}, Signal.dense("", coupling), Signal.dense("Hz", rates), edges,
            key=f"down {name}",
        )  # fmt: skip
        up = Channel(
            len(channels) + 1, f"{name}_to_tvb.0", name, "tvb", "SPIKES", "", *common, ("spikes_to_rates",),
            ({"unit": "kHz"},), {}, Signal("spikes", "", tuple(rates), (1,) * len(rates)), Signal.dense("", coupling),
            key=f"up {name}",
        )  # fmt: skip
        channels += [down, up]
    coupled = {section.name: list(section.regions) for section in experiment.spikenet}
    regions = [region for section in experiment.spikenet for region in section.regions]
    return {
        "grid": asdict(grid), "channels": [channel.to_json() for channel in channels], "connectomes": {},
        "experiment": experiment.model_dump(mode="json"),
        "tvb": {"model": "null", "regions": regions, "coupled": coupled, "dt_ms": grid.dt_ms,
                "min_delay_ms": params["lag"] * grid.window_ms, "notes": [], "monitors": []},
    }  # fmt: skip


def _offer_of_spikenet(section: Any) -> dict[str, Any]:
    return {
        "simulator": "null", "version": "1", "resolution_ms": section.resolution,
        "populations": [[region, "E", section.params["neurons"]] for region in section.regions],
    }  # fmt: skip


if __name__ == "__main__":
    import tvb_lockstep.bridges.bridge  # noqa: F401  before the first fork

    _serve()
