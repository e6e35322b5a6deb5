"""The ends of the channels: frames in and out, the transformer between producer and consumer, the recording.

By default the transformer runs at the receiving end (`Inlet` of the consumer); with ``exchange.bridge = "own"`` it runs
in a program of its own, which reads the raw channel and writes the transformed one. Placement changes no number.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

import numpy as np

from .. import transformers
from .contract import Channel, Contract, compose
from .errors import ExperimentError, FrameError
from .frame import Payload, Spikes, check_dense, check_spikes, decode, encode
from .grid import Grid, to_ns
from .recording import FrameLog
from .session import Session
from .transports.base import Receiver, Sender

SPIKE_SLOT_BYTES = 1 << 16  # a frame of spikes may be longer: it then takes several slots


class Spent:
    """Where the time of one window goes: seconds by heading, reset at every window."""

    def __init__(self) -> None:
        self.transform = self.exchange = self.wait = 0.0

    def reset(self) -> None:
        self.transform = self.exchange = self.wait = 0.0


def transformer_of(channel: Channel, contract: Contract) -> transformers.Transformer:
    """The transformer of a channel, the same in whichever program it runs.

    Raises ExperimentError naming the row when its parameters are not those of the transformer.
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
        )  # fmt: skip
    except transformers.TransformerError as error:
        raise ExperimentError(f"{channel.name}: {error}") from None


def slot_bytes(channel: Channel, stage: str, grid: Grid) -> int:
    """The ring slot that one frame of this channel needs: all of a dense frame, most frames of spikes."""
    signal = channel.raw if stage == "raw" else channel.out
    return SPIKE_SLOT_BYTES if signal.kind == "spikes" else 80 + 8 * grid.window_steps * signal.columns


class Outlet:
    """The producing end of one stage of a channel."""

    def __init__(self, session: Session, contract: Contract, channel: Channel, stage: str, consumer: str) -> None:
        self.channel, self.session = channel, session
        self.grid = contract.grid
        self.next = 0  # the window whose frame is sent next
        self._address = channel.address(session.run_id, stage)
        signal = channel.raw if stage == "raw" else channel.out
        self._sender: Sender = session.open_sender(
            self._address, slot_bytes(channel, stage, self.grid),
            describe={
                "interface": channel.name, "stage": stage, "unit": signal.unit, "labels": signal.labels,
                "sizes": signal.sizes, "kind": signal.kind, "dt_ms": self.grid.dt_ms, "tick_ms": self.grid.tick_ms,
                "equation": transformers.describe(channel.transformer, channel.transformer_params),
            },
        )  # fmt: skip
        session.on_close(self._sender.close)
        self._check = session.check(consumer)

    def put(self, payload: Payload, spent: Spent) -> None:
        """Send the frame of window `self.next`."""
        begun, waited = perf_counter(), self._sender.waited_s
        k = self.next
        t0, t1 = self.grid.ticks(k)
        header, body = encode(self._address, k, t0, t1, payload)
        self._sender.send(header, body, k, t0, t1, self._check)
        self.next += 1
        spikes = len(payload) if isinstance(payload, Spikes) else 0
        self.session.count(self.channel.name, frames_sent=1, spikes_sent=spikes)
        wait = self._sender.waited_s - waited
        spent.wait += wait
        spent.exchange += perf_counter() - begun - wait


class Inlet:
    """The consuming end of a channel: takes frames, transforms them unless a bridge did, records both sides."""

    def __init__(self, session: Session, contract: Contract, channel: Channel, stage: str, producer: str) -> None:
        """stage: what arrives here, "raw" or "transformed"; raw frames are transformed on arrival."""
        self.channel, self.session = channel, session
        self.grid = contract.grid
        self.next = 0  # the window whose frame is taken next
        self._address = channel.address(session.run_id, stage)
        self._check = session.check(producer)
        self._receiver: Receiver | None = None
        self._transform = transformer_of(channel, contract) if stage == "raw" else None
        self._out = channel.address(session.run_id, "transformed")
        self._logs: list[FrameLog] = []
        if stage == "raw" and session.experiment.exchange.record:
            self._logs = [
                FrameLog.create(session.run_dir, channel.address(session.run_id, each))
                for each in ("raw", "transformed")
            ]
            for log in self._logs:
                session.on_close(log.close)

    def attach(self) -> None:
        """Open the channel; its producer has created it."""
        self._receiver = self.session.open_receiver(self._address)
        self.session.on_close(self._receiver.close)

    def take(self, spent: Spent) -> Any:
        """The payload of window `self.next`, transformed; blocks until its frame is there."""
        assert self._receiver is not None
        begun, waited = perf_counter(), self._receiver.waited_s
        k = self.next
        t0, t1 = self.grid.ticks(k)
        first, end = self.grid.steps(k)
        header, body = self._receiver.receive(k, t0, t1, self._check)
        payload = decode(header, body, self._address, k, t0, t1, rows=end - first)
        spikes_in = len(payload) if isinstance(payload, Spikes) else 0
        if self._logs:
            self._logs[0].append(header, body)
        wait = self._receiver.waited_s - waited
        received = perf_counter()
        spent.wait += wait
        spent.exchange += received - begun - wait
        counts = {"frames_received": 1, "spikes_received": spikes_in}
        if self._transform is not None:
            counted = self._transform.counted
            payload = self._transformed(payload, k)
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
    """The ends of this program's channels. Outlets exist at once; `attach_all` opens the inlets once all are ready."""
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
    """The bridge as a program of its own: takes raw frames, transforms, passes them on, one thread per channel."""
    session.meet()
    offers = {name: session.await_page(name, "offer") for name in session.others}
    contract = compose(session.run_id.hex(), offers.pop("tvb"), offers)
    outlets = [Outlet(session, contract, c, "transformed", c.consumer) for c in contract.channels]
    inlets = [Inlet(session, contract, c, "raw", c.producer) for c in contract.channels]
    session.start(contract, [inlet.attach for inlet in inlets])
    failures: list[BaseException] = []
    spents = [Spent() for _ in inlets]

    def carry(inlet: Inlet, outlet: Outlet, spent: Spent) -> None:
        try:
            for k in range(contract.grid.n_windows):
                if failures:
                    return
                outlet.put(inlet.take(spent), spent)
                session.window = k
                session.page.update("computing", k)
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
