"""The brain: Wilson-Cowan regions on tvb-data's connectome with basal ganglia, thalamus and hippocampus."""

from __future__ import annotations

from typing import Any

import numpy as np


def build(section: Any) -> Any:
    """A TVB Simulator. section.params: [tvb.params] of experiment.toml."""
    from tvb.datatypes.connectivity import Connectivity
    from tvb.simulator import coupling, integrators, models, monitors, noise
    from tvb.simulator.simulator import Simulator

    p = section.params
    connectome = Connectivity.from_file("connectivity_96.zip")
    # The file has the regions that project in its rows; TVB reads a row as what a region hears. As it is, the caudate
    # would hear the pallidum and project to 35 regions of the cortex and the hippocampus: the other way round.
    weights = connectome.weights.T
    connectome.weights = weights / weights.sum(axis=1).max()
    connectome.tract_lengths = connectome.tract_lengths.T.copy()
    connectome.speed = np.array([p["speed"]])
    simulator = Simulator(
        connectivity=connectome,
        conduction_speed=p["speed"],
        # Wilson & Cowan 1972, figure 11, with flatter slopes, as in the experiment wilson_cowan
        model=models.WilsonCowan(
            c_ee=np.array([16.0]), c_ei=np.array([12.0]), c_ie=np.array([15.0]), c_ii=np.array([3.0]),
            a_e=np.array([1.0]), a_i=np.array([1.0]), b_e=np.array([4.0]), b_i=np.array([3.7]), P=np.array([p["P"]]),
        ),
        coupling=coupling.Linear(a=np.array([p["coupling"]]), b=np.array([0.0])),
        integrator=integrators.HeunStochastic(dt=p["dt"], noise=noise.Additive(nsig=np.array([p["noise"]]))),
        monitors=(monitors.TemporalAverage(period=1.0),),
    )  # fmt: skip
    connectome.configure()
    longest_ms = connectome.tract_lengths.max() / p["speed"]
    history = np.empty((int(np.ceil(longest_ms / p["dt"])) + 1, 2, len(connectome.weights), 1))
    history[:, 0], history[:, 1] = p["E"], p["I"]
    simulator.initial_conditions = history
    return simulator
