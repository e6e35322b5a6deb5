"""The ends of the channels: frames in and out, the transformer between producer and consumer, the recording.

By default the transformer runs at the receiving end (`Inlet` of the consumer); with ``exchange.bridge = "own"`` it runs
in a program of its own, which reads the raw channel and writes the transformed one. Placement changes no number.

In a program that is resumed an inlet first takes the frames that were recorded, and an outlet compares those that its
consumer has already with what that recorded. A program that holds for another sends again what that one lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .. import transformers
from .compare import frame_difference
from .contract import Channel, Contract, Signal
from .errors import ExperimentError, FrameError, NotReproduced, PeerLost, RunDirectoryError
from .experiment import SpikenetToTvb, TvbToSpikenet, user_function
from .frame import HEADER_BYTES, Payload, Spikes, check_dense, check_spikes, decode, encode
from .grid import Grid, to_ns
from .recording import FrameIndex, FrameLog, path_of
from .session import Session
from .transports.base import Receiver, Sender

SPIKE_SLOT_BYTES = 1 << 16  # a frame of spikes may be longer: it then takes several slots
NAMES = ("the recording", "this program")


class Spent:
    """Where the time of one window goes: seconds by heading, reset at every window."""

    def __init__(self) -> None:
        self.transform = self.exchange = self.wait = 0.0

    def reset(self) -> None:
        self.transform = self.exchange = self.wait = 0.0


def own_transformers(names: Iterable[str], folder: Path, key: str) -> dict[str, Any]:
    """The functions and classes of the user's own among `names` ("module:name", in `folder`), for the row `key`.

    Raises ExperimentError when there is none, or its module needs what is not in this program's environment.
    """
    found = {}
    for name in filter(transformers.is_own, names):
        try:
            found[name] = user_function(name, folder, f"{key}.transformer")
        except ImportError as error:
            raise ExperimentError(
                f"{key}.transformer = {name!r}: {error}. Transformers run in the program that receives, or in the "
                f"bridge: keep yours in a file of its own that imports no simulator."
            ) from None
    return found


@dataclass(frozen=True)
class RowTransformers:
    """Those of an interface row: names and parameters, what they compute, how many voi one population has."""

    names: tuple[str, ...]
    params: tuple[dict[str, Any], ...]
    equation: str
    n_voi: int


def transformers_of_row(row: TvbToSpikenet | SpikenetToTvb, direction: str, key: str, folder: Path) -> RowTransformers:
    """The transformers that the row `key` names, or its defaults. direction: "tvb_to_spikenet" or "spikenet_to_tvb".

    Raises ExperimentError naming the key for one that does not exist, or parameters that it does not take.
    """
    own = own_transformers(row.transformer or (), folder, key)
    try:
        names, params = transformers.stages(row.transformer, row.transformer_params, direction, row.model, own)
        equation, n_voi = transformers.describe(names, params, own), transformers.n_voi(names, own)
    except transformers.TransformerError as error:
        named = " -> ".join(row.transformer or ["the default"])
        raise ExperimentError(f"{key}.transformer = {named!r}: {error}") from None
    return RowTransformers(tuple(names), tuple(params), equation, n_voi)


def transformer_of(channel: Channel, contract: Contract, folder: Path) -> transformers.Transformer:
    """The transformer of a channel, the same in whichever program it runs.

    folder: where the experiment's own Python lies. Raises ExperimentError naming the row when its parameters are not
    those of the transformer, or one of the user's own does not keep the rules.
    """
    grid = contract.grid
    program = channel.producer if channel.consumer == "tvb" else channel.consumer
    section = next(s for s in contract.experiment["spikenet"] if s["name"] == program)
    resolution_ticks = to_ns(section["resolution"], "resolution") // grid.tick_ns
    try:
        return transformers.make(
            channel.transformer, channel.transformer_params, channel.raw, channel.out,
            transformers.Clock(grid.tick_ns, grid.dt_ticks, resolution_ticks),
            seed=contract.experiment["seed"], key=channel.key, initial=channel.initial_rate,
            own=own_transformers(channel.transformer, folder, f"interfaces.{channel.key}"),
        )  # fmt: skip
    except transformers.TransformerError as error:
        raise ExperimentError(f"{channel.name}: {error}") from None


def slot_bytes(channel: Channel, stage: str, grid: Grid) -> int:
    """The ring slot that one frame of this channel needs: all of a dense frame, most frames of spikes."""
    signal = channel.raw if stage == "raw" else channel.out
    return SPIKE_SLOT_BYTES if signal.kind == "spikes" else 80 + 8 * grid.window_steps * signal.columns


def explain(signal: Signal, grid: Grid, k: int, recorded: Payload, now: Payload) -> str | None:
    """How the payload of window `k` differs from the recorded one; None when it says the same."""
    difference = frame_difference(signal, grid, k, recorded, now)
    return None if difference is None else difference.text(NAMES)


class Outlet:
    """The producing end of one stage of a channel."""

    def __init__(self, session: Session, contract: Contract, channel: Channel, stage: str, consumer: str) -> None:
        self.channel, self.session, self.consumer = channel, session, consumer
        self.grid = contract.grid
        self.next = 0  # the window whose frame is sent next
        self.position = 0  # windows that the consumer has: of those no frame is sent
        self._stage, self._signal = stage, channel.raw if stage == "raw" else channel.out
        self._address = channel.address(session.run_id, stage)
        self._sender: Sender | None = None
        self._recorded: FrameIndex | None = None
        self._slot_bytes = slot_bytes(channel, stage, self.grid)
        exchange = session.experiment.exchange
        self._depth = exchange.depth
        # A consumer that dies loses what was on its way: as many frames as the channel holds, the one that it was just
        # taking, and the one that waits to be sent.
        self._sent: deque[tuple[bytes, bytes, int]] = deque(maxlen=self._depth + 2 if exchange.hold_s else 0)
        session.on_close(self.close)
        self._check = session.check(consumer)

    def open(self, link: str) -> None:
        """Make the channel, anew when there was one before, with room for all that may have to be sent again."""
        if self._sender is not None:
            self._sender.close()
        again = sum(-(-(HEADER_BYTES + len(body)) // self._slot_bytes) for _, body, _ in self._sent)
        self._sender = self.session.open_sender(
            self._address, max(self._depth, again), self._slot_bytes,
            {
                "interface": self.channel.name, "stage": self._stage, "unit": self._signal.unit,
                "labels": self._signal.labels, "sizes": self._signal.sizes, "kind": self._signal.kind,
                "dt_ms": self.grid.dt_ms, "tick_ms": self.grid.tick_ms,
                "equation": self.channel.equation,
            },
            link,
        )  # fmt: skip

    def go_on(self, position: int) -> None:
        """The consumer takes the frame of window `position` next; what was sent of it and later ones is sent again."""
        self.position = position
        if position and self.next < position and self._stage == "raw":
            path = path_of(self.session.run_dir, self._address)
            self._recorded = FrameIndex(path, self._address, tolerant=True)
            if len(self._recorded) < position:
                raise RunDirectoryError(
                    f"{path} holds {len(self._recorded)} windows, and {self.consumer} says that it has {position}: the "
                    f"recording was changed. Start a new run."
                )
        if self._sender is None:
            return
        self._sender.start_at(position)
        again = [frame for frame in self._sent if frame[2] >= position]
        if position < self.next and (not again or again[0][2] > position):
            raise PeerLost(
                f"{self.consumer} needs {self.channel.name} from window {position} on, and {self.session.peer} keeps "
                f"it only from window {self._sent[0][2] if self._sent else self.next} on. End this program as well, "
                f"then resume all."
            )
        for header, body, k in again:
            self._sender.send(header, memoryview(body), k, *self.grid.ticks(k), self._check)

    def put(self, payload: Payload, spent: Spent) -> None:
        """Send the frame of window `self.next`."""
        begun, wait = perf_counter(), 0.0
        k = self.next
        header, body = encode(self._address, k, *self.grid.ticks(k), payload)
        if k >= self.position:
            wait = self._send(header, body, k)
        elif self._stage == "raw":  # else it was compared when it was recorded, by the inlet that it comes from
            self._compare(header, body, k)
        self.next += 1
        spikes = len(payload) if isinstance(payload, Spikes) else 0
        self.session.count(self.channel.name, frames_sent=1, spikes_sent=spikes)
        spent.wait += wait
        spent.exchange += perf_counter() - begun - wait

    def _send(self, header: bytes, body: memoryview, k: int) -> float:
        """Send one frame; the seconds that it had to wait."""
        assert self._sender is not None
        if self._sent.maxlen:
            self._sent.append((header, bytes(body), k))
        begun, waited = perf_counter(), self._sender.waited_s
        try:
            self._sender.send(header, body, k, *self.grid.ticks(k), self._check)
            return self._sender.waited_s - waited
        except PeerLost as lost:
            self.session.rejoin(lost)  # the consumer gets this frame with the others that it lost
            return perf_counter() - begun

    def _compare(self, header: bytes, body: memoryview, k: int) -> None:
        """Raise NotReproduced unless this is the frame that the consumer recorded."""
        assert self._recorded is not None
        recorded = self._recorded.frame(k)
        if recorded[0] == header and recorded[1] == body:
            return
        t0, t1 = self.grid.ticks(k)
        text = explain(
            self._signal, self.grid, k, decode(*recorded, self._address, k, t0, t1),
            decode(header, body, self._address, k, t0, t1),
        )  # fmt: skip
        if text is not None:
            raise NotReproduced(
                f"{self.session.peer} does not make the numbers again that it sent: {self._address.name}: {text}. The "
                f"{k} windows before are the same. It does not go on: put back the versions and files that the run was "
                f"made with, or start a new run.", k,
            )  # fmt: skip

    def close(self) -> None:
        for each in (self._sender, self._recorded):
            if each is not None:
                each.close()


class Inlet:
    """The consuming end of a channel: takes frames, transforms them unless a bridge did, records both sides."""

    def __init__(self, session: Session, contract: Contract, channel: Channel, stage: str, producer: str) -> None:
        """stage: what arrives here, "raw" or "transformed"; raw frames are transformed on arrival."""
        self.channel, self.session, self.producer = channel, session, producer
        self.grid = contract.grid
        self.next = 0  # the window whose frame is taken next
        self.recorded = 0  # windows whose frames are taken from the recording
        self._address = channel.address(session.run_id, stage)
        self._check = session.check(producer)
        self._receiver: Receiver | None = None
        self._transform = transformer_of(channel, contract, session.folder) if stage == "raw" else None
        self._out = channel.address(session.run_id, "transformed")
        self._logs: list[FrameLog] = []
        self._earlier: FrameLog | FrameIndex | None = None
        if stage == "raw" and session.experiment.exchange.record:
            self._logs = [
                session.open_log(channel.address(session.run_id, each), partial(explain, signal, self.grid))
                for each, signal in (("raw", channel.raw), ("transformed", channel.out))
            ]
            self._earlier, self.recorded = self._logs[0], self._logs[0].kept
        elif session.resumed:  # the bridge has recorded it
            path = path_of(session.run_dir, self._address)
            if path.exists():
                self._earlier = FrameIndex(path, self._address, tolerant=True)
                self.recorded = len(self._earlier)
        session.on_close(self.close)

    @property
    def position(self) -> int:
        """The window whose frame is taken from the channel next."""
        return max(self.next, self.recorded)

    def attach(self, link: str) -> None:
        """Open the channel, which its producer has created."""
        if self._receiver is not None:
            self._receiver.close()
        self._receiver = self.session.open_receiver(self._address, link)

    def close(self) -> None:
        for each in (self._receiver, self._earlier):
            if each is not None:
                each.close()

    def take(self, spent: Spent) -> Any:
        """The payload of window `self.next`, transformed; blocks until its frame is there."""
        begun, wait = perf_counter(), 0.0
        k = self.next
        t0, t1 = self.grid.ticks(k)
        first, end = self.grid.steps(k)
        header: bytes | memoryview
        body: bytes | memoryview
        if k < self.recorded:
            assert self._earlier is not None
            header, body = self._earlier.frame(k)
        else:
            header, body, wait = self._receive(k, t0, t1)
        payload = decode(header, body, self._address, k, t0, t1, rows=end - first)
        spikes_in = len(payload) if isinstance(payload, Spikes) else 0
        if self._logs:
            if k < self.recorded:
                self._logs[0].frames += 1  # this is its own frame
            else:
                self._logs[0].append(header, body)
        received = perf_counter()
        spent.wait += wait
        spent.exchange += received - begun - wait
        counts = {"frames_received": 1, "spikes_received": spikes_in}
        if self._transform is not None:
            counted, clipped = self._transform.counted, self._transform.clipped
            payload = self._transformed(payload, k)
            if self._transform.clipped > clipped:
                counts["values_clipped"] = self._transform.clipped - clipped
            done = perf_counter()
            spent.transform += done - received
            if isinstance(payload, Spikes):  # spikes begin here; a bridge counts them when it sends them on
                if self.session.peer == self.channel.consumer:
                    counts["spikes_sent"] = counts["spikes_received"] = len(payload)
            else:  # and end here: as many as went into the rates
                counts["spikes_delivered"] = self._transform.counted - counted
            if self._logs:
                self._logs[1].append(*encode(self._out, k, t0, t1, payload))
                spent.exchange += perf_counter() - done
        self.next += 1
        self.session.count(self.channel.name, **counts)
        return payload

    def _receive(self, k: int, t0: int, t1: int) -> tuple[bytes | memoryview, bytes | memoryview, float]:
        """Header and body of the next frame of the channel, and the seconds that it had to be waited for."""
        assert self._receiver is not None
        begun, waited = perf_counter(), self._receiver.waited_s
        try:
            header, body = self._receiver.receive(k, t0, t1, self._check)
            return header, body, self._receiver.waited_s - waited
        except PeerLost as lost:
            self.session.rejoin(lost)
            header, body, _ = self._receive(k, t0, t1)
            return header, body, perf_counter() - begun

    def _transformed(self, payload: Payload, k: int) -> Payload:
        assert self._transform is not None
        t0, t1 = self.grid.ticks(k)
        first, end = self.grid.steps(k)
        late = self.grid.window_steps if self.channel.coupling_mode == "spikeNet" else 0
        if first < late:  # states from before the start: the proxies are silent, whatever the window
            columns = self.channel.out.columns
            return Spikes.none() if self.channel.out.kind == "spikes" else np.zeros((end - first, columns))
        try:
            # the random numbers are those of the time of the states, not of the later time when the proxy plays them
            out = self._transform(payload, first - late, end - late)
        except transformers.TransformerError as error:
            raise ExperimentError(f"{self.channel.name}, {self.grid.describe(k)}: {error}") from None
        if self.channel.out.kind == "spikes":
            times, senders = out
            return check_spikes(Spikes(times + late * self.grid.dt_ticks, senders), self._out, k, t0, t1)
        if np.shape(out) != (end - first, self.channel.out.columns):
            raise FrameError(
                f"{self.channel.name}, {self.grid.describe(k)}: the transformer returned shape {np.shape(out)}, "
                f"expected {(end - first, self.channel.out.columns)}."
            )
        return check_dense(out, self._out, k)


def open_ends(session: Session, contract: Contract) -> tuple[list[Inlet], list[Outlet]]:
    """The ends of this program's channels; `Session.start` connects them."""
    own_bridge = session.experiment.exchange.bridge == "own"
    consumed, produced = contract.of(session.peer)
    inlets = [
        Inlet(session, contract, c, "transformed", "bridge")
        if own_bridge
        else Inlet(session, contract, c, "raw", c.producer)
        for c in consumed
    ]
    outlets = [Outlet(session, contract, c, "raw", "bridge" if own_bridge else c.consumer) for c in produced]
    return inlets, outlets


def run_bridge(session: Session) -> None:
    """The bridge as a program of its own: takes raw frames, transforms, passes them on, one thread per channel.

    When a program is lost that is to be resumed, the bridge begins again as well: all of its state is in its recording.
    """
    while True:
        try:
            return _carry_all(session)
        except PeerLost as lost:
            session.broken = False
            session.hold(lost)
            session.begin_again()


def _carry_all(session: Session) -> None:
    session.meet()
    offers = {name: session.await_page(name, "offer") for name in session.others}
    contract = session.contract(offers.pop("tvb"), offers)
    outlets = [Outlet(session, contract, c, "transformed", c.consumer) for c in contract.channels]
    inlets = [Inlet(session, contract, c, "raw", c.producer) for c in contract.channels]
    session.start(contract, inlets, outlets)
    failures: list[BaseException] = []
    spents = [Spent() for _ in inlets]

    def carry(inlet: Inlet, outlet: Outlet, spent: Spent) -> None:
        try:
            for k in range(contract.grid.n_windows):
                if failures:
                    return
                outlet.put(inlet.take(spent), spent)
                session.window = k
                session.computing(k)
        except BaseException as error:
            failures.append(error)
            session.broken = True

    threads = [
        threading.Thread(target=carry, args=ends, name=ends[0].channel.name)
        for ends in zip(inlets, outlets, spents, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(0.2)
            session.progress("")
    if failures:
        raise failures[0]
