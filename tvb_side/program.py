"""The TVB program: steps TVB window by window, sends every frame as soon as it is determined, waits for no more spikes
than the next window needs."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..bridges.bridge import Inlet, Outlet, Spent, open_ends, transformer_of
from ..bridges.contract import Channel, Contract, split_label
from ..bridges.experiment import load
from ..bridges.frame import DENSE, Address, encode
from ..bridges.recording import FrameLog
from ..bridges.results import MONITOR_NUMBER, finish_if_last
from ..bridges.run_dir import write_json
from ..bridges.session import Session, paste_command
from ..bridges.timing import Timing
from .plan import Plan
from .simulation import RegionSimulation


def run(session: Session, folder: Path, simulator: Any = None) -> None:
    """Take part in a run as its TVB program.

    folder: where the experiment's own Python lies. simulator: a TVB Simulator in place of the one that the experiment
    describes.
    """
    session.folder = folder
    session.page.update("starting", -1)
    session.meet()
    plan = Plan(session.experiment, folder, simulator)
    offer = session.publish("offer", plan.offer)
    for note in plan.simulation.notes:
        session.tell(f"tvb: {note}")
    offers = {program.name: session.await_page(program.name, "offer") for program in session.experiment.spikenet}
    contract = session.contract(offer, offers)
    inlets, outlets = open_ends(session, contract)
    for inlet in inlets:
        _set_initial(plan.simulation, inlet.channel, contract, folder)
    history = io.BytesIO()  # numpy's own errors of a full disk do not say so
    np.save(history, plan.simulation.initial_history, allow_pickle=False)
    path = session.run_dir / "initial_history.npy"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(history.getbuffer())
    monitors = MonitorLogs(session, contract, plan.simulation)
    details = session.start(contract, inlets, outlets)
    for name, about in contract.spikenet.items():
        about.update(details[name])
    # from here on there is something to keep
    write_json(session.run_dir / "experiment.json", contract.experiment)
    write_json(session.run_dir / "contract.json", contract.to_json())
    LockStep(session, contract, plan.simulation, inlets, outlets, monitors).run()


def _set_initial(simulation: RegionSimulation, channel: Channel, contract: Contract, folder: Path) -> None:
    """What the spiking regions send from before t = 0: the transformer's steady answer to the stated initial rate."""
    values = transformer_of(channel, contract, folder).initial()
    for label, value in zip(channel.out.labels, values, strict=True):
        voi, region = split_label(label)
        simulation.set_initial(region, voi, float(value))


class MonitorLogs:
    """TVB's monitors, written window by window."""

    def __init__(self, session: Session, contract: Contract, simulation: RegionSimulation) -> None:
        self._simulation, self._grid = simulation, contract.grid
        self._next = 0
        self._logs: list[tuple[FrameLog, Address]] = []
        for i, monitor in enumerate(simulation.monitors):
            columns = 1 + int(np.prod(monitor["shape"]))
            address = Address(session.run_id, MONITOR_NUMBER + i, f"tvb.monitor{i}", DENSE, columns, gaps=True)
            self._logs.append((session.open_log(address), address))

    def record(self, end_window: int) -> None:
        """Write what the monitors say of all windows before `end_window`, whose spikes have all come in."""
        for k in range(self._next, end_window):
            t0, t1 = self._grid.ticks(k)
            for (log, address), samples in zip(
                self._logs, self._simulation.record(self._grid.steps(k)[1]), strict=True
            ):
                rows = np.empty((len(samples), address.columns))
                for row, (time_ms, data) in zip(rows, samples, strict=True):
                    row[0], row[1:] = time_ms, np.ravel(data)
                log.append(*encode(address, k, t0, t1, rows))
            self._next = k + 1


class LockStep:
    """The windows of a run, as TVB goes through them.

    Window k of TVB needs the spikes of the windows before ``k - floor((d + 1) / n) + 1`` only, d being the shortest
    delay out of the spiking regions and n the window [steps]; the coupling of window k is determined as soon as the
    states before ``end - d`` are known. So in parallel mode both programs compute at the same time, and the result is
    the same as when they take turns.
    """

    def __init__(
        self, session: Session, contract: Contract, simulation: RegionSimulation, inlets: list[Inlet],
        outlets: list[Outlet], monitors: MonitorLogs,
    ) -> None:  # fmt: skip
        self.session, self.grid, self.simulation = session, contract.grid, simulation
        self.inlets, self.outlets, self.monitors = inlets, outlets, monitors
        self.serial = session.experiment.exchange.mode == "serial"
        self.depth = session.experiment.exchange.depth
        self._columns: dict[int, list[tuple[str, str]]] = {
            inlet.channel.number: [split_label(label)[::-1] for label in inlet.channel.out.labels]
            for inlet in inlets
        }
        self.spent = Spent()
        self.simulate = 0.0

    def run(self) -> None:
        timing = Timing.create(self.session.run_dir, "tvb", self.grid.n_windows, kept=self.session.resumed)
        self.session.on_close(timing.close)
        for k in range(self.grid.n_windows):
            self.session.window = k
            self.session.check_stop()
            self.spent.reset()
            self.simulate = 0.0
            begun = time.time()
            if not self.serial:
                self.send_determined(k)
            self.receive(self.needed(k))
            if not self.serial:
                self.send_needed(k)
            self.session.computing(k)
            # what was computed before counts as just before: [start, start + simulate) never reaches into a wait
            simulate_start, mark = time.time() - self.simulate, perf_counter()
            self.simulation.advance(self.grid.steps(k)[1])
            self.monitors.record(self.received)
            self.simulate += perf_counter() - mark
            if self.serial:
                self.send_needed(k)
            timing.row(
                k, begun, simulate_start, self.simulate, self.spent.transform, self.spent.exchange, self.spent.wait
            )
            self.session.progress("")
        self.send_determined(self.grid.n_windows)
        self.session.page.update("finishing", self.session.window)
        self.receive(self.grid.n_windows)
        self.monitors.record(self.grid.n_windows)

    @property
    def received(self) -> int:
        """Number of windows whose spikes have come in, from every spiking program."""
        return min((inlet.next for inlet in self.inlets), default=self.session.window + 1)

    def needed(self, k: int) -> int:
        """Number of windows whose spikes must have come in before window k is computed."""
        shortest = self.simulation.out_of_proxies_steps
        if self.serial:
            lag = 1
        elif shortest is None:  # no region that TVB computes hears a spiking one
            lag = self.depth
        else:
            lag = (shortest + 1) // self.grid.window_steps
        # not more than the rings can hold: so no program ever waits for one that waits for it
        return k + 1 - min(max(lag, 1), self.depth)

    def receive(self, windows: int) -> None:
        """Take the frames of all inlets until `windows` windows have come in."""
        for k in range(self.received, windows):
            payloads = [(inlet, inlet.take(self.spent)) for inlet in self.inlets]
            mark = perf_counter()
            first = self.grid.steps(k)[0]
            for inlet, payload in payloads:
                self.simulation.deliver(first, payload, self._columns[inlet.channel.number])
                self.session.count(inlet.channel.name, frames_delivered=1)
            self.simulate += perf_counter() - mark

    def determined(self, channel: Channel, k: int) -> bool:
        """Whether everything that the frame of window k depends on is known."""
        _, end = self.grid.steps(k)
        if channel.coupling_mode == "spikeNet":
            shift = self.grid.window_steps
            return all(
                self.simulation.states_known(end - shift, regions, voi)
                for voi, regions in by_variable(channel.raw.labels)
            )
        return self.simulation.coupling_known(end, channel.regions)

    def send_determined(self, k: int) -> None:
        """Send what is determined already: window k, and ahead of it as far as the ring surely has room."""
        for outlet in self.outlets:
            while (
                outlet.next < self.grid.n_windows
                and (outlet.next <= k or (bool(self.inlets) and outlet.next - self.received < self.depth))
                and self.determined(outlet.channel, outlet.next)
            ):
                self.send(outlet)

    def send_needed(self, k: int) -> None:
        """Send the frames up to window k, waiting for the spikes that still determine them."""
        for outlet in self.outlets:
            while outlet.next <= k:
                if not self.determined(outlet.channel, outlet.next):
                    if not self.inlets or self.received > k:
                        break  # it depends on states that TVB computes in this window
                    self.receive(self.received + 1)
                    continue
                self.send(outlet)

    def send(self, outlet: Outlet) -> None:
        channel, mark = outlet.channel, perf_counter()
        first, end = self.grid.steps(outlet.next)
        columns = []
        for voi, regions in by_variable(channel.raw.labels):
            if channel.coupling_mode == "spikeNet":
                shift = self.grid.window_steps
                columns.append(self.simulation.states(first - shift, end - shift, regions, voi))
            else:
                columns.append(self.simulation.coupling(first, end, regions, voi))
        payload = np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]
        self.simulate += perf_counter() - mark
        outlet.put(payload, self.spent)


def by_variable(labels: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Labels such as "E@r_precuneus" as (variable, its regions), in order."""
    found: dict[str, list[str]] = {}
    for label in labels:
        voi, region = split_label(label)
        found.setdefault(voi, []).append(region)
    return list(found.items())


def join(
    simulator: Any, experiment: str, run_dir: str | Path, overrides: list[str] | None = None, resumed: bool = False
) -> None:
    """Join a run from a script of one's own, with a TVB Simulator of one's own. Blocks until the run has ended.

    experiment: name, folder or file of the experiment; its [tvb] section is not used but for what the others compare.
    resumed: go on where this program of the run died.
    Raises LockstepError with the message that the command would print.
    """
    loaded, path = load(experiment, overrides)
    sets = [part for override in overrides or [] for part in ("--set", override)]
    arguments = [experiment, "--run-dir", str(run_dir), *sets]
    session = Session(
        Path(run_dir), "tvb", loaded, resumed=resumed,
        command=lambda other: paste_command("lockstep", other, arguments),
    )  # fmt: skip
    session.run(lambda session: run(session, path.parent, simulator), lambda: finish_if_last(session))
