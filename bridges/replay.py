"""Replay: one program of a run alone, on the recording of the others, by the very code of the live run.

Its inlets read the recorded frames; its outlets compare each frame with the recorded one. What it sends, and its
monitors or spikes, must be those of the run, bit for bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import results
from .compare import LogComparison, compare_logs, differing_keys, frame_difference
from .contract import Contract, compose
from .errors import ContractError, ExperimentError, LockstepError, RunDirectoryError
from .experiment import flatten, validate
from .frame import HEADER_BYTES, Address, decode
from .peers import alive, pages, read_page
from .recording import FrameIndex, FrameLog, path_of
from .results import Log
from .run_dir import read_run, refuse_not_ours, write_json
from .session import Session, two_columns
from .transports.base import Check

if TYPE_CHECKING:
    from .bridge import Inlet, Outlet

NAMES = ("the recording", "the replay")
KEYS_SHOWN = 20


class EndOfRecording(LockstepError):
    """The recording goes no further: the run was interrupted, or is damaged from here on."""


class Recorded:
    """What a run recorded for one of its programs.

    side: "tvb" or the name of a spiking program ("spikenet" is the only one, whatever its name).
    windows: for which the recording has all that the side takes, or sends when it takes nothing.
    inputs, outputs, results: names of the logs that it takes, those that it makes of them and sends, and its own.
    Raises RunDirectoryError or ExperimentError saying why the run cannot be replayed, and what to do.
    """

    def __init__(self, run_dir: Path, side: str) -> None:
        self.run_dir = run_dir.absolute()
        if not run_dir.is_dir():
            raise RunDirectoryError(f"There is no run directory {run_dir}.")
        refuse_not_ours(run_dir)  # it says which Python is run
        self.contract = results.read_contract(run_dir)
        programs = list(self.contract.spikenet)
        self.side = programs[0] if side == "spikenet" and len(programs) == 1 else side
        if self.side not in ("tvb", *programs):
            raise ExperimentError(f"--side {side}: this run has {', '.join(['tvb', *programs])}; name one of them.")
        running = [name for name in pages(run_dir) if alive(run_dir, name)]
        if running:
            raise RunDirectoryError(f"{run_dir}: {', '.join(running)} still runs. Replay it when the run has ended.")
        self.experiment = validate(self.contract.experiment, f"the experiment of {run_dir}")
        self.logs = {log.name: log for log in results.logs(run_dir, self.contract)}
        self.consumed, self.produced = self.contract.of(self.side)
        own_bridge = self.experiment.exchange.bridge == "own"
        self.inputs = [f"{c.name}.{'transformed' if own_bridge else 'raw'}" for c in self.consumed]
        self.outputs = [f"{channel.name}.raw" for channel in self.produced]
        self.outputs += [] if own_bridge else [f"{channel.name}.transformed" for channel in self.consumed]
        own = "tvb.monitor" if self.side == "tvb" else f"{self.side}.spikes"
        self.results = [name for name, log in self.logs.items() if log.channel is None and name.startswith(own)]
        exchanged = [*self.inputs, *(f"{channel.name}.raw" for channel in self.produced)]
        missing = [name for name in exchanged if not self.logs[name].path.exists()]
        if missing:
            why = "" if self.experiment.exchange.record else " (exchange.record = false)"
            raise RunDirectoryError(
                f"{run_dir} has no recording of {', '.join(missing)}{why}, so that there is nothing to replay. Run the "
                f"experiment again with --set exchange.record=true; the default is to record."
            )
        self.windows = self.contract.grid.n_windows
        bounding = self.inputs or exchanged  # a side that takes nothing is checked as far as it was heard
        damage = None
        for name in exchanged:
            with self.logs[name].open().verified() as index:
                damage = damage or index.damage
                if name in bounding or index.damage is not None:
                    self.windows = min(self.windows, len(index))
        if self.windows == 0 and damage is not None:
            raise damage
        if self.windows == 0:
            raise RunDirectoryError(
                f"{run_dir} recorded no window of {' and '.join(bounding)}: the run ended before. Run the "
                f"experiment again."
            )

    @property
    def folder(self) -> Path:
        """Where the Python of the side's experiment lies. Raises ExperimentError when it is not known, or gone."""
        page = read_page(self.run_dir, self.side) or {}
        file = page.get("experiment_file")
        if file is None:
            raise ExperimentError(
                f"{self.run_dir} does not say which experiment its {self.side} was started with: a script of its own "
                f"joined the run. Replay it from that script, with tvb_lockstep.bridges.replay.replay."
            )
        if not Path(file).is_file():
            raise ExperimentError(f"The experiment of {self.run_dir}, {file}, is no longer there. Put it back.")
        return Path(file).parent

    def page(self, name: str, what: str) -> dict[str, Any]:
        """What a program of the run published as `what`."""
        path = self.run_dir / "peers" / f"{name}.{what}.json"
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"{path} cannot be read: {error}. Without it the run cannot be replayed.") from None
        if content.get("run_id") != self.contract.run_id:
            raise RunDirectoryError(f"{path} is of another run, {content.get('run_id')}.")
        return content

    def composed(self) -> Contract:
        """The contract as the programs of the run composed it at their start."""
        offers = {name: self.page(name, "offer") for name in self.contract.spikenet}
        return compose(self.contract.run_id, self.page("tvb", "offer"), offers)


class ReplaySession(Session):
    """The part of a program that is replayed: a session without peers, with a run directory and the run's own id.

    run_dir: a new directory; by default ``replays/SIDE-DATE`` in that of the run. Nothing else of the run is touched.
    """

    resumable = False

    def __init__(self, recorded: Recorded, run_dir: Path | None = None, **options: Any) -> None:
        self.recorded = recorded
        if run_dir is None:
            run_dir = recorded.run_dir / "replays" / f"{recorded.side}-{time.strftime('%Y%m%d-%H%M%S')}"
        super().__init__(run_dir, recorded.side, recorded.experiment, **options)

    def _join_or_create(self, overwrite: bool) -> None:
        if read_run(self.run_dir) is not None:
            raise RunDirectoryError(f"{self.run_dir} holds a run already. Choose another --run-dir for the replay.")
        of_run = read_run(self.recorded.run_dir)
        assert of_run is not None
        run = {**of_run, "created": time.strftime("%Y-%m-%d %H:%M:%S"), "replay_of": str(self.recorded.run_dir),
               "side": self.peer}  # fmt: skip
        write_json(self.run_dir / "run.json", run)
        self._begin(run)

    def meet(self) -> None:
        """There is nobody to meet; the experiment is that of the run."""

    def await_page(self, name: str, what: str) -> dict[str, Any]:
        return self.recorded.page(name, what)

    def start(
        self, contract: Contract, inlets: list[Inlet], outlets: list[Outlet], **details: Any
    ) -> dict[str, dict[str, Any]]:
        """Refuses when this program no longer makes the contract of the run; its version may be another."""
        versions = {f"spikenet.{name}.version" for name in contract.spikenet}
        flat = [
            {key: value for key, value in flatten(each.to_json()).items() if key not in versions}
            for each in (self.recorded.composed(), contract)
        ]
        differing = differing_keys(*flat)
        if differing != ({}, {}):
            keys = sorted({**differing[0], **differing[1]})
            more = f"\n  … and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
            here, now = ({key: side[key] for key in keys[:KEYS_SHOWN] if key in side} for side in differing)
            raise ContractError(
                f"{self.peer} no longer makes the contract of the run {self.recorded.run_dir}:\n"
                f"{two_columns(here, now, *NAMES)}{more}\n"
                f"The experiment's own Python has changed since, or its data: put it back, or make a new run and "
                f"compare the two with lockstep diff."
            )
        found = {name: self.await_page(name, "ready")["details"] for name in self.others}
        found[self.peer] = details
        write_json(self.run_dir / "experiment.json", contract.experiment)
        written = contract.to_json()
        written["spikenet"] = {name: {**about, **found[name]} for name, about in contract.spikenet.items()}
        write_json(self.run_dir / "contract.json", written)
        for outlet in outlets:
            outlet.open("")
        for inlet in inlets:
            inlet.attach("")
        return found

    def open_sender(
        self, address: Address, depth: int, slot_bytes: int, describe: dict[str, Any], link: str
    ) -> ComparingSender:
        sends_alone = not self.recorded.inputs  # nothing else says where an interrupted recording ends
        return ComparingSender(self, self.recorded.logs[address.name], self.recorded.contract, sends_alone)

    def open_receiver(self, address: Address, link: str) -> RecordedReceiver:
        return RecordedReceiver(self, self.recorded.logs[address.name])

    def replay(self, body: Callable[[Session], None]) -> list[LogComparison]:
        """Run the program to its end, or to that of the recording; what came of each log of it."""

        def to_the_end(session: Session) -> None:
            try:
                body(session)
            except EndOfRecording:
                session.window -= 1

        self.run(to_the_end, lambda: None)
        contracts = self.recorded.contract, results.read_contract(self.run_dir)
        only = {*self.recorded.outputs, *self.recorded.results}
        return compare_logs((self.recorded.run_dir, self.run_dir), contracts, NAMES, only)


class RecordedReceiver:
    """The frames of a channel from its recording. A `Receiver`."""

    def __init__(self, session: Session, log: Log) -> None:
        self.waited_s = 0.0
        self._index = _intact(session, log)

    def receive(self, sequence: int, t0: int, t1: int, check: Check) -> tuple[memoryview, memoryview]:
        if sequence >= len(self._index):
            raise EndOfRecording(f"{self._index.path} ends with window {len(self._index) - 1}.")
        return self._index.frame(sequence)

    def close(self) -> None:
        self._index.close()


class ComparingSender:
    """Compares what a program sends with what it sent in the run, tells the first difference at once, and keeps it in
    the recording of the replay. A `Sender`."""

    def __init__(self, session: Session, log: Log, contract: Contract, sends_alone: bool) -> None:
        self.waited_s = 0.0
        self._session, self._log, self._grid, self._sends_alone = session, log, contract.grid, sends_alone
        self._index = _intact(session, log)
        (session.run_dir / "record").mkdir(mode=0o700, exist_ok=True)
        self._kept = FrameLog(path_of(session.run_dir, log.address), log.address)
        self._told = False

    def start_at(self, sequence: int) -> None:
        """A replay always sends all."""

    def send(self, header: bytes, body: memoryview, sequence: int, t0: int, t1: int, check: Check) -> None:
        if sequence >= len(self._index):
            if self._sends_alone:
                raise EndOfRecording(f"{self._index.path} ends with window {len(self._index) - 1}.")
            return  # nobody took it any more
        self._kept.append(header, body)
        recorded = self._index.frame(sequence)
        if self._told or (recorded[0] == header and recorded[1] == body):
            return
        address = self._log.address
        difference = frame_difference(
            self._log.signal, self._grid, sequence, decode(*recorded, address, sequence, t0, t1),
            decode(header[:HEADER_BYTES], body, address, sequence, t0, t1),
        )  # fmt: skip
        if difference is not None:
            self._told = True
            self._session.tell(f"{self._session.peer}: first difference of {address.name}: {difference.text(NAMES)}")

    def close(self) -> None:
        self._index.close()
        self._kept.close()


def _intact(session: Session, log: Log) -> FrameIndex:
    """The frames of a log up to the first damage, which is told."""
    index = log.open().verified()
    if index.damage is not None:
        session.tell(f"{session.peer}: {log.name} is used up to window {len(index) - 1}: {index.damage}")
    return index


def replay(
    run_dir: Path | str, side: str, body: Callable[[Session], None], into: Path | str | None = None
) -> list[LogComparison]:
    """Replay one side of a run from a script of one's own; what came of each of its logs.

    body: the program, as ``lambda session: tvb_side.program.run(session, folder, simulator)`` or
    ``lambda session: spikenet_side.program.run(session, folder, build)``. into: a new directory for what it makes.
    """
    recorded = Recorded(Path(run_dir), side)
    return ReplaySession(recorded, None if into is None else Path(into)).replay(body)
