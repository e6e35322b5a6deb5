"""The spiking program: meets the others, then window after window takes input, runs the network, sends its spikes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np

from ..bridges.bridge import Inlet, Outlet, Spent, open_ends
from ..bridges.contract import Channel, Contract
from ..bridges.errors import ExperimentError, noting
from ..bridges.experiment import SpikenetSection, load, user_function
from ..bridges.frame import SPIKES, Address, Spikes, encode
from ..bridges.grid import Grid
from ..bridges.recording import FrameLog
from ..bridges.results import SPIKES_NUMBER, finish_if_last
from ..bridges.session import Session, paste_command
from ..bridges.timing import Timing
from . import declared
from .adapter import Connectome, SpikingSimulator
from .network import Network

METHODS = ("open", "connect", "feed", "run", "spikes", "potential", "close")


def simulator_of(section: SpikenetSection, folder: Path | None = None) -> SpikingSimulator:
    """The adapter of the simulator that the section names, the user's own for "module:Class"; imports no other.

    folder: where the experiment's own Python lies; what has to be compiled there is, before the programs meet.
    """
    if section.simulator == "nest":
        from .nest import Nest

        return Nest()
    if section.simulator == "annarchy":
        from .annarchy import Annarchy

        return Annarchy()
    if section.simulator == "netpyne":
        from .netpyne import NetPyNE

        return NetPyNE(folder)
    made = user_function(section.simulator, folder or Path(), f"{section.name}.simulator")()
    if missing := [name for name in METHODS if not callable(getattr(made, name, None))]:
        raise ExperimentError(
            f"{section.name}.simulator = {section.simulator!r}: {type(made).__name__} has no {', '.join(missing)}. An "
            f"adapter has {', '.join(METHODS)} (tvb_lockstep.spikenet_side.adapter.SpikingSimulator)."
        )
    return cast(SpikingSimulator, made)


def build_of(section: SpikenetSection, folder: Path) -> Callable[..., Any]:
    """The user's build function, or that of the network that the section declares. An experiment for several simulators
    has a network_NAME.py for each beside its network.py; they go before it where `build` is "network:build", as it is
    when nothing is said."""
    reference = section.build
    if section.populations:
        return declared.build_of(section)
    if reference == "network:build":
        own = _own_module(section)
        if (folder / f"{own}.py").is_file():
            reference = f"{own}:build"
        elif not (folder / "network.py").is_file():
            raise ExperimentError(
                f"{section.name}.build = {reference!r}: there is neither {own}.py nor network.py in {folder}. Write "
                f"the network of {section.simulator} into one of them, or name your own 'module:function'."
            )
    return user_function(reference, folder, f"{section.name}.build")


def _own_module(section: SpikenetSection) -> str:
    return f"network_{section.simulator.partition(':')[0].replace('.', '_')}"


def prepare_of(section: SpikenetSection, folder: Path) -> Callable[[Network], Any] | None:
    """The function that `prepare` names, from the very module that has made the network where it is the same one."""
    if section.prepare is None:
        return None
    name, _, function = section.prepare.partition(":")
    if name == "network" and (folder / f"{_own_module(section)}.py").is_file():
        name = _own_module(section)
    file = folder / f"{name}.py"
    for module in list(sys.modules.values()):
        held = getattr(module, "__dict__", {})  # asked without getattr, to which some modules answer by importing
        made = held.get(function) if held.get("__file__") == str(file) else None
        if callable(made):
            return cast(Callable[[Network], Any], made)
    return user_function(f"{name}:{function}", folder, f"{section.name}.prepare")


def prepare_network(
    simulator: SpikingSimulator, section: SpikenetSection, folder: Path, prepare: Callable[[Network], Any] | None = None
) -> None:
    """Hand the network, with its proxies, to the user's function before the first window: the one given, or the one
    that the section names; nothing without any."""
    prepare = prepare or prepare_of(section, folder)
    if prepare is None:
        return
    if not hasattr(simulator, "network"):
        raise ExperimentError(
            f"{section.name}.prepare: {type(simulator).__name__} has no network(), so that nothing can be addressed. "
            f"Leave prepare out, or write it (tvb_lockstep.spikenet_side.network)."
        )
    with noting(f"{section.name}.prepare = {section.prepare!r}"):
        prepare(simulator.network())


def open_network(
    simulator: SpikingSimulator, section: SpikenetSection, tvb_offer: dict[str, Any], folder: Path, build: Any = None
) -> dict[str, Any]:
    """Make the user's network in the simulator; returns this program's offer."""
    given = tvb_offer["connectomes"][section.name]
    connectome = Connectome(tuple(given["regions"]), np.array(given["weights"]), np.array(given["delays_ms"]))
    with noting(f"{section.name}.build = {section.build!r}"):
        simulator.open(
            section,
            Grid(**tvb_offer["grid"]),
            connectome,
            seed=program_seed(tvb_offer["experiment"]["seed"], section.name),
            build=build or build_of(section, folder),
        )
    return {
        "simulator": simulator.name, "version": simulator.version, "resolution_ms": section.resolution,
        "populations": [[population.region, population.name, population.size] for population in simulator.populations],
    }  # fmt: skip


def program_seed(seed: int, name: str) -> int:
    """The seed of one spiking program: its own for every program name, in 1 … 2^31 - 1."""
    words = np.random.SeedSequence([seed, *name.encode()]).generate_state(1)
    return int(words[0] % (2**31 - 1)) + 1


def run(
    session: Session, folder: Path, build: Any = None, simulator: SpikingSimulator | None = None, prepare: Any = None
) -> None:
    """Take part in a run as the spiking program `session.peer`.

    folder: where the experiment's own Python lies. build, prepare: functions in place of those that the experiment
    names.
    """
    session.folder = folder
    section = session.experiment.program(session.peer)
    simulator = simulator or simulator_of(section, folder)
    session.meet()
    tvb_offer = session.await_page("tvb", "offer")
    session.page.update("starting", -1)
    offer = open_network(simulator, section, tvb_offer, folder, build)
    offer = session.publish("offer", offer)
    offers = {name: session.await_page(name, "offer") for name in session.others if name not in ("tvb", "bridge")}
    offers = {p.name: offer if p.name == session.peer else offers[p.name] for p in session.experiment.spikenet}
    contract = session.contract(tvb_offer, offers)
    session.on_close(simulator.close)
    inputs, outputs = contract.of(session.peer)
    simulator.connect(inputs, outputs)
    prepare_network(simulator, section, folder, prepare)
    inlets, outlets = open_ends(session, contract)
    neurons = sum(population.size for population in simulator.populations)
    address = Address(session.run_id, SPIKES_NUMBER, f"{session.peer}.spikes", SPIKES, neurons)
    log = session.open_log(address)
    session.start(contract, inlets, outlets, min_delay_ms=getattr(simulator, "min_delay_ms", None))
    _lock_step(session, contract, simulator, inlets, outlets, log, address)


def _lock_step(
    session: Session, contract: Contract, simulator: SpikingSimulator, inlets: list[Inlet], outlets: list[Outlet],
    log: FrameLog, address: Address,
) -> None:  # fmt: skip
    grid, spent = contract.grid, Spent()
    timing = Timing.create(session.run_dir, session.peer, grid.n_windows, kept=session.resumed)
    session.on_close(timing.close)
    slices = [_neurons_of(outlet.channel, simulator) for outlet in outlets]
    for k in range(grid.n_windows):
        session.window = k
        session.check_stop()
        spent.reset()
        begun, first, end = time.time(), *grid.steps(k)
        for inlet in inlets:
            payload = inlet.take(spent)
            mark = perf_counter()
            simulator.feed(inlet.channel, payload, first, end)
            given = len(payload) if isinstance(payload, Spikes) else 0
            session.count(inlet.channel.name, frames_delivered=1, spikes_delivered=given)
            spent.exchange += perf_counter() - mark
        session.computing(k)
        simulate_start, mark = time.time(), perf_counter()
        simulator.run(first, end)
        spikes = simulator.spikes()
        simulate = perf_counter() - mark
        for outlet, numbers in zip(outlets, slices, strict=True):
            outlet.put(simulator.potential(outlet.channel) if numbers is None else _only(spikes, numbers), spent)
        mark = perf_counter()
        log.append(*encode(address, k, *grid.ticks(k), spikes))
        spent.exchange += perf_counter() - mark
        timing.row(k, begun, simulate_start, simulate, spent.transform, spent.exchange, spent.wait)
        session.progress("")


def _neurons_of(channel: Channel, simulator: SpikingSimulator) -> np.ndarray | None:
    """Column of the channel for every neuron of the network, -1 for those it does not carry; None for potentials."""
    if channel.raw.kind != "spikes":
        return None
    columns = np.full(sum(population.size for population in simulator.populations), -1, np.int32)
    offsets = dict(zip(channel.raw.labels, np.cumsum([0, *channel.raw.sizes[:-1]]), strict=True))
    start = 0
    for population in simulator.populations:
        if population.label in offsets:
            columns[start : start + population.size] = offsets[population.label] + np.arange(population.size)
        start += population.size
    return columns


def _only(spikes: Spikes, columns: np.ndarray) -> Spikes:
    """The spikes that a channel carries, with its own sender numbers."""
    senders = columns[spikes.senders]
    if (senders >= 0).all():
        return Spikes(spikes.times, senders)
    keep = senders >= 0
    return Spikes(spikes.times[keep], senders[keep])


def join(
    build: Any, experiment: str, run_dir: str | Path, name: str = "spikenet", overrides: list[str] | None = None,
    resumed: bool = False, prepare: Callable[[Network], Any] | None = None,
) -> None:  # fmt: skip
    """Join a run from a script of one's own, with a network of one's own. Blocks until the run has ended.

    build: a function that gets a BuildRequest and makes the network, as `spikenet.build` names one. experiment: name,
    folder or file of the experiment. name: which of its spiking programs this is. resumed: go on where this program of
    the run died. prepare: gets the Network, to set and look at what is in it before the first window.
    Raises LockstepError with the message that the command would print.
    """
    loaded, path = load(experiment, overrides)
    sets = [part for override in overrides or [] for part in ("--set", override)]
    arguments = [experiment, "--run-dir", str(run_dir), *sets]
    session = Session(
        Path(run_dir), name, loaded, resumed=resumed,
        command=lambda other: paste_command("lockstep", other, arguments),
    )  # fmt: skip
    session.run(lambda session: run(session, path.parent, build, prepare=prepare), lambda: finish_if_last(session))
