"""Parrot neurons, which fire when and as often as they are told to, each population with steps of its own."""

from __future__ import annotations

from typing import Any

SIZES = {"edge": 4, "several": 2, "always": 1, "silent": 5, "late": 3, "relay": 2}
AT = {
    "r_precuneus": ["edge", "several"],
    "r_caudalmiddlefrontal": ["always", "silent"],
    "r_cuneus": ["late", "relay"],
    "r_fusiform": ["late", "relay"],
}


def spikes_of(population: str, steps: int, period: int) -> dict[int, int]:
    """How often each neuron of a population fires in each step, for windows of `period` steps; all steps are NEST's.

    No spike can be in step 0: a generator's first spike, of step 0, comes a delay of one step later.
    """
    return {
        "edge": {s: 1 for s in range(1, steps) if s % period in (0, period - 1)},  # first and last step of each window
        "several": {s: 3 for s in range(1, steps) if s % period == 0},
        "always": {s: 1 for s in range(1, steps)},
        "late": {steps - 11: 1, steps - 1: 2},  # after silence, and in the very last step
        "silent": {},
        "relay": {},  # has spikes from TVB alone
    }[population]


def build(request: Any) -> dict[str, dict[str, Any]]:
    import nest

    h = request.resolution_ms
    network: dict[str, dict[str, Any]] = {}
    for region in request.regions:
        network[region] = {}
        for name in AT[region]:
            parrots = network[region][name] = nest.Create("parrot_neuron", SIZES[name])
            spikes = spikes_of(name, **request.params)
            if spikes:
                generator = nest.Create("spike_generator", params={
                    "spike_times": [round(s * h, 9) for s in spikes],  # NEST's stamp of step s - 1; delay: 1
                    "spike_multiplicities": list(spikes.values()),
                })  # fmt: skip
                nest.Connect(generator, parrots, syn_spec={"delay": h})
    return network
