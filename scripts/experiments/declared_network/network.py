"""Called with the network before the first window: what can be looked at, and set, on every simulator."""

from __future__ import annotations

from tvb_lockstep.spikenet_side.network import Network


def prepare(network: Network) -> None:
    regions = network.brain_regions
    for region in regions:
        table = regions[region, "E"].incoming(regions[region])  # a pandas DataFrame
        print(f"{region}, per E neuron: {len(table) / len(regions[region, 'E']):g} synapses from within the region")
    print(network)
