"""The address book on ANNarchy, against ANNarchy's own attributes and dendrites. The network is that of
test_annarchy.py, so that it is compiled once for both."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import EnvironmentFailed, ExperimentError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import Connectome
from tvb_lockstep.spikenet_side.annarchy import Annarchy, AnnarchyRequest, toolchain
from tvb_lockstep.spikenet_side.network import Network

try:
    toolchain.check_requirements()
    ANNarchy = toolchain.import_annarchy()
except EnvironmentFailed as missing:
    pytest.skip(str(missing), allow_module_level=True)

found = importlib.util.spec_from_file_location("annarchy_tests", Path(__file__).with_name("test_annarchy.py"))
assert found is not None and found.loader is not None
shared = importlib.util.module_from_spec(found)
found.loader.exec_module(shared)


def build(request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
    network = shared.build(request)
    sources = [each for each in request.network.get_populations() if isinstance(each, ANNarchy.SpikeSourceArray)]
    for receptor, source in zip(("exc", "inh"), sources, strict=True):
        request.add_input_device(f"source of {receptor}", "V1", source)
    return network


def channel(model: str, signal: Signal, *edges: Edge, **proxy_params: Any) -> Channel:
    return Channel(0, f"{model} in", "tvb", "spikenet", model, "TVB", ("E",), ("E",), ("V1",), (), (), proxy_params,
                   signal, signal, edges)  # fmt: skip


@pytest.fixture
def network() -> Network:
    simulator = Annarchy()
    connectome = Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1)))
    section = SpikenetSection(simulator="annarchy", regions=["V1"])
    simulator.open(section, Grid.of(0.1, {"spikenet": 0.1}, 5.0, 1), connectome, 1, build)
    trains = channel("SPIKES", Signal("spikes", "", ("E@V8", "E@V9"), (2, 1)), Edge(0, "V1", "fed", 0.7, 0.3),
                     Edge(1, "V1", "fed", -0.2, 0.1))  # fmt: skip
    current = channel("CURRENT", Signal.dense("pA", ["E@V1"]), Edge(0, "V1", "counter", 1.0, 0.1))
    simulator.connect([trains, current], [channel("SPIKES", Signal("spikes", "", ("own@V1",), (2,)))])
    return simulator.network()


def test_attributes_are_set_in_all_or_some_and_are_then_annarchys_own(network: Network) -> None:
    regions, own = network.brain_regions, shared.made["own"]
    assert regions["V1"]["own"].native is own and network.simulator is ANNarchy
    assert regions["V1", "fed"].numbers.tolist() == [2, 3] and regions["V1", "counter"].size == shared.N_COUNTERS
    regions["V1", "own"][1].set(v=-57.0)
    regions["V1", ["own", "fed"]].set(tau_m=17.0, e_rev_E=[1.0] * 4)
    assert own.v.tolist() == [-65.0, -57.0] and own.tau_m.tolist() == [17.0, 17.0] and own.e_rev_E.tolist() == [1, 1]
    assert regions["V1", ["own", "fed"]].get("v").tolist() == [-65.0, -57.0, -65.0, -65.0]
    regions["V1", "noisy"].set(I=[11.0] * shared.N_NOISY)  # one value for the population
    assert shared.made["noisy"].I == 11.0 == regions["V1", "noisy"].get("I")[19]
    noisy = regions["V1", "noisy"][[7, 2]]
    noisy.set(u=[1.5, 2.5])
    assert shared.made["noisy"].u[[7, 2]].tolist() == [1.5, 2.5] == noisy.get("u").tolist()
    assert list(noisy.native.ranks) == [2, 7]
    assert [nodes.model for nodes in regions["V1"].nodes] == ["IF_cond_exp"] * 2 + ["Spiking neuron"] * 2


def test_what_annarchy_cannot_set_is_refused_by_name(network: Network) -> None:
    regions = network.brain_regions
    for wrong, said in (
        (lambda: regions["V1", "noisy"][0].set(I=3.0), "noisy@V1: I cannot be set: ANNarchy has one value"),
        (lambda: regions["V1", "noisy"].set(I=np.arange(20.0)), "one value of it for the whole population"),
        (lambda: regions["V1"].set(v=-60.0), r"noisy@V1 .* no 'v'. It has: I, r, u"),
        (lambda: regions["V1", "counter"].set(i_offset=1.0), "what channel CURRENT in drives"),
        (lambda: network.input_proxies["CURRENT in", "V1"].set(rate=1.0), "no node of ANNarchy"),
    ):
        with pytest.raises(ExperimentError, match=said):
            wrong()


def test_the_table_of_connections_is_that_of_annarchys_dendrites(network: Network) -> None:
    fed, noisy = network.brain_regions["V1", "fed"], network.brain_regions["V1", "noisy"]
    table = fed.incoming(noisy)
    (projection,) = network.native.get_projections(post=shared.made["fed"], pre=shared.made["noisy"])
    own = [(pre, dendrite.post_rank, w) for dendrite in projection.dendrites
           for pre, w in zip(dendrite.pre_ranks, dendrite.w, strict=True)]  # fmt: skip
    assert list(zip(table.source_index, table.target_index, table.weight, strict=True)) == own and len(own) > 5
    assert set(table.receptor) == {"exc"} and set(table.delay_ms) == {0.1}
    network.set_weights(2.0 * table.weight, noisy, fed)
    assert [w for dendrite in projection.dendrites for w in dendrite.w] == (2.0 * table.weight).tolist()
    network.set_weights(0.25, noisy, fed[1])
    assert fed.incoming(noisy).weight.tolist() == np.where(table.target_index == 1, 0.25, 2.0 * table.weight).tolist()
    with pytest.raises(ExperimentError, match="proxies have the weights of the interface rows"):
        network.set_weights(1.0, network.input_proxies, fed)
    first = fed[1].incoming()
    assert set(first.target_index) == {1} and set(first.source) == {"noisy@V1", "SPIKES in@V8", "SPIKES in@V9"}
    by_proxies = fed.incoming(network.input_proxies)
    rows = by_proxies[["source", "target_index", "weight", "delay_ms", "receptor"]].values.tolist()
    assert rows == [["SPIKES in@V8", 0, 0.7, 0.3, "exc"], ["SPIKES in@V9", 0, 0.2, 0.1, "inh"],
                    ["SPIKES in@V8", 1, 0.7, 0.3, "exc"], ["SPIKES in@V9", 1, 0.2, 0.1, "inh"]]  # fmt: skip
    sources = network.input_devices[:, "V1"].outgoing()
    assert sources[["source", "target", "weight", "delay_ms", "receptor"]].drop_duplicates().values.tolist() == [
        ["source of exc@V1", "own@V1", 0.7, pytest.approx(0.3), "exc"], ["source of inh@V1", "own@V1", 0.2, 0.1, "inh"]
    ]  # fmt: skip
    assert set(network.input_proxies["CURRENT in", "V1"].outgoing().receptor) == {"i_offset"}
