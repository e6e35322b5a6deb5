"""Five regions of TVB's Linear model, dx/dt = gamma x + coupling, integrated by Euler's method."""

from __future__ import annotations

from typing import Any

import numpy as np


def build(section: Any) -> Any:
    """A TVB Simulator. section.params: [tvb.params] of experiment.toml."""
    from tvb.datatypes.connectivity import Connectivity
    from tvb.simulator import coupling, integrators, models, monitors
    from tvb.simulator.simulator import Simulator

    p = section.params
    n = len(p["regions"])
    weights, lengths = np.zeros((n, n)), np.zeros((n, n))
    for edge in p["edges"]:
        at = p["regions"].index(edge["to"]), p["regions"].index(edge["from"])
        weights[at], lengths[at] = edge["weight"], edge["length"]
    simulator = Simulator(
        connectivity=Connectivity(
            weights=weights, tract_lengths=lengths, speed=np.array([p["speed"]]), centres=np.zeros((n, 3)),
            region_labels=np.array(p["regions"]),
        ),
        conduction_speed=p["speed"],
        model=models.Linear(gamma=np.array(p["gamma"])),
        coupling=coupling.Linear(a=np.array([p["a"]]), b=np.array([0.0])),
        integrator=integrators.EulerDeterministic(dt=p["dt"]),
        monitors=(monitors.Raw(),),
    )  # fmt: skip
    longest = round(lengths.max() / p["speed"] / p["dt"]) + 1
    simulator.initial_conditions = np.tile(np.array(p["x0"]), (longest, 1)).reshape(longest, 1, n, 1)
    return simulator
