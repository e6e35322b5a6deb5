"""What a spiking simulator must offer to join a run: few methods, in the field's terms.

An adapter maps its simulator's own conventions to the one of this project: time is counted in ticks, windows are
half-open ``[t0, t1)``, a spike of tick t lies in ``[t, t + resolution)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..bridges.contract import Channel
from ..bridges.experiment import SpikenetSection
from ..bridges.frame import Payload, Spikes
from ..bridges.grid import Grid


@dataclass(frozen=True)
class Population:
    """Neurons of one model at one region, in the order in which `spikes` numbers them."""

    region: str
    name: str
    size: int

    @property
    def label(self) -> str:
        return f"{self.name}@{self.region}"


@dataclass(frozen=True)
class Connectome:
    """The part of TVB's connectome among the regions of one spiking program: weights as TVB uses them (row = target),
    delays in ms."""

    regions: tuple[str, ...]
    weights: np.ndarray
    delays_ms: np.ndarray


@dataclass(frozen=True)
class BuildRequest:
    """What a user's `build` function gets: regions, own parameters, seed, connectome; and the simulator is already set
    up (resolution, seed), so that it only creates neurons and connects them."""

    regions: tuple[str, ...]
    params: dict[str, Any]
    seed: int
    resolution_ms: float
    connectome: Connectome


class SpikingSimulator(Protocol):
    """One simulator of spiking networks, driven window by window."""

    name: str
    version: str
    populations: tuple[Population, ...]  # in the order of their neurons' numbers

    def open(self, section: SpikenetSection, grid: Grid, connectome: Connectome, seed: int, build: Any) -> None:
        """Set up the kernel and make the user's network; afterwards `populations` is known."""

    def connect(self, inputs: list[Channel], outputs: list[Channel]) -> None:
        """Make the proxies (devices) of `inputs` and the recorders that `outputs` ask for. Called once, after open."""

    def feed(self, channel: Channel, payload: Payload, first_step: int, end_step: int) -> None:
        """Hand over the transformed input of the window that is run next. Exactly what is given acts, or it raises."""

    def run(self, first_step: int, end_step: int) -> None:
        """Advance by the window of TVB steps ``[first_step, end_step)``."""

    def spikes(self) -> Spikes:
        """All spikes of the window just run, of all populations: ticks, and neuron numbers counted through
        `populations`; sorted by time, then by neuron."""

    def potential(self, channel: Channel) -> np.ndarray:
        """Mean membrane potential of the window just run [mV], (n_steps, n_groups), at the start of each TVB step."""

    def close(self) -> None: ...
