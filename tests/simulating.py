"""A network of an experiment on its simulator alone, driven window by window with spikes that are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.frame import Spikes
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import BuildRequest, Connectome
from tvb_lockstep.spikenet_side.program import build_of, simulator_of


def request_of(section: Any, seed: int) -> BuildRequest:
    """What the build function of a network gets that has no tracts between its regions."""
    n = len(section.regions)
    connectome = Connectome(tuple(section.regions), np.zeros((n, n)), np.zeros((n, n)))
    return BuildRequest(connectome.regions, section.params, seed, section.resolution, connectome)


def simulated(
    section: Any, folder: Path, grid: Grid, given: Spikes, trains: int, weight: float, delay_ms: float, seed: int,
    **proxy_params: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Times [ticks] and neurons of all spikes of a network of one region, whose E neurons hear the `trains` given."""
    (region,) = section.regions
    signal = Signal("spikes", "", ("E@TVB",), (trains,))
    edges = (Edge(0, region, "E", weight, delay_ms),)
    channel = Channel(0, "tvb_to_spikenet.0", "tvb", "spikenet", "SPIKES", "TVB", ("E",), ("E",), (region,), (), (),
                      proxy_params, signal, signal, edges, key="E")  # fmt: skip
    simulator = simulator_of(section, folder)
    simulator.open(section, grid, request_of(section, seed).connectome, seed, build_of(section, folder))
    try:
        simulator.connect([channel], [])
        found = []
        for k in range(grid.n_windows):
            steps, (t0, t1) = grid.steps(k), grid.ticks(k)
            a, b = np.searchsorted(given.times, [t0, t1])
            simulator.feed(channel, Spikes(given.times[a:b], given.senders[a:b]), *steps)
            simulator.run(*steps)
            found.append(simulator.spikes())
    finally:
        simulator.close()
    return np.concatenate([each.times for each in found]), np.concatenate([each.senders for each in found])
