"""The address book on NEST: what it reads, sets and lists, against NEST's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import BuildRequest, Connectome
from tvb_lockstep.spikenet_side.nest import Nest
from tvb_lockstep.spikenet_side.nest.adapter import import_nest
from tvb_lockstep.spikenet_side.network import Network
from tvb_lockstep.spikenet_side.program import prepare_network

nest = import_nest()
REGIONS = ("V1", "V2")


def build(request: BuildRequest) -> dict[str, dict[str, Any]]:
    network = {}
    for region in request.regions:
        E = nest.Create("iaf_psc_exp", 5, {"V_th": [-50.0, -51.0, -52.0, -53.0, -54.0]})
        I = nest.Create("iaf_cond_exp", 3)  # noqa: E741
        weights = {"weight": nest.random.uniform(1.0, 2.0), "delay": nest.random.uniform(1.0, 2.0)}
        nest.Connect(E, I, {"rule": "fixed_indegree", "indegree": 2}, weights)
        noise, current = nest.Create("poisson_generator", params={"rate": 100.0}), nest.Create("dc_generator")
        nest.Connect(noise, E + I, syn_spec={"delay": 1.5})
        nest.Connect(current, E, syn_spec={"delay": 1.0})
        meter = nest.Create("voltmeter")
        nest.Connect(meter, E, syn_spec={"delay": 1.0})
        request.add_input_device("noise", region, noise)
        request.add_output_device("meter", region, meter)
        network[region] = {"E": E, "I": I}
    return network


def channel(model: str, producer: str, consumer: str, signal: Signal, edges: tuple[Edge, ...] = ()) -> Channel:
    return Channel(0, f"{producer}_to_{consumer}", producer, consumer, model, "TVB", ("E",), ("E",), REGIONS, (), (),
                   {}, signal, signal, edges)  # fmt: skip


def opened() -> Nest:
    simulator = Nest()
    section = SpikenetSection(simulator="nest", regions=list(REGIONS))
    connectome = Connectome(REGIONS, np.zeros((2, 2)), np.zeros((2, 2)))
    simulator.open(section, Grid.of(0.1, {"spikenet": 0.1}, 10.0, 10), connectome, 1, build)
    labels = ("E@V1", "E@V2")
    edges = (Edge(0, "V1", "E", 3.0, 1.2), Edge(1, "V2", "E", 4.0, 1.3))
    rates = channel("RATE", "tvb", "spikenet", Signal.dense("Hz", list(labels)), edges)
    simulator.connect([rates], [channel("SPIKES", "spikenet", "tvb", Signal("spikes", "", labels, (5, 5)))])
    return simulator


@pytest.fixture
def network() -> Network:
    return opened().network()


def test_populations_are_found_by_region_and_name_and_some_regions_at_once(network: Network) -> None:
    assert network.brain_regions["V2"]["I"].native == network.brain_regions["V2", "I"].native
    assert network.brain_regions["V2", "I"].ids.tolist() == network.brain_regions["V2", "I"].native.tolist()
    assert network.brain_regions["V2", "I"].numbers.tolist() == [13, 14, 15]  # 5 E and 3 I of V1, 5 E of V2
    assert [each.label for each in network.brain_regions[:, "E"].nodes] == ["E@V1", "E@V2"]
    assert [each.label for each in network.brain_regions[["V2"]].nodes] == ["E@V2", "I@V2"]
    assert list(network.brain_regions["V1"]) == ["E", "I"] and network.number_of_neurons == 16
    assert network.simulator is nest and network.brain_regions["V1", "E"].model == "iaf_psc_exp"


def test_parameters_are_set_in_all_or_some_and_are_then_nests_own(network: Network) -> None:
    E = network.brain_regions["V1"]["E"]
    assert E.get("V_th").tolist() == [-50.0, -51.0, -52.0, -53.0, -54.0]
    E[[3, 1]].set(V_th=[-43.0, -41.0])
    assert E.native.get("V_th") == (-50.0, -41.0, -52.0, -43.0, -54.0)
    assert E[[3, 1]].get("V_th").tolist() == [-43.0, -41.0]
    network.brain_regions.set(t_ref=3.0, V_m=np.arange(-75.0, -59.0))
    assert [nodes.native.get("V_m")[0] for nodes in network.brain_regions.nodes] == [-75.0, -70.0, -67.0, -62.0]
    table = network.brain_regions.get("V_m", "t_ref")
    assert table.loc[("V2", "E", 4), "V_m"] == -63.0 and (table.t_ref == 3.0).all()
    assert network.brain_regions.get("V_m").groupby("region").mean().tolist() == [-71.5, -63.5]


def test_what_cannot_be_is_refused_before_anything_is_set(network: Network) -> None:
    regions = network.brain_regions
    for wrong, said in (
        (lambda: regions.set(V_m=-60.0, tau_syn=3.0), r"E@V1 .* no 'tau_syn'\. Did you mean 'tau_syn_"),
        (lambda: regions.set(g_L=5.0, V_m=-60.0), r"E@V1 \(iaf_psc_exp\) has no 'g_L'"),
        (lambda: regions["V1"].set(V_m=[-60.0] * 7), "7 values for 8 neurons"),
        (lambda: regions["V1", "E"].set(V_m=[-60.0, -61.0]), "2 values for 5 neurons"),
        (lambda: regions["V1", "E"].set(C_m=-1.0), "E@V1: C_m cannot be set: .*positive"),
        (lambda: regions["V3"], "no region 'V3'; there is V1, V2"),
        (lambda: regions["V1", "E"][5], "out of bounds"),
        (lambda: regions["V1", "E"][[2, 2]], "can be chosen once"),
    ):
        with pytest.raises(ExperimentError, match=said):
            wrong()
    assert (regions.get("V_m") == -70.0).all()


def test_the_table_of_connections_is_that_of_nest(network: Network) -> None:
    E, I = network.brain_regions["V2", "E"], network.brain_regions["V2", "I"]  # noqa: E741
    table = I.incoming(E)
    own = nest.GetConnections(E.native, I.native).get(["source", "target", "weight", "delay"])
    rows = zip(E.ids[table.source_index], I.ids[table.target_index], table.weight, table.delay_ms, strict=True)
    assert sorted(rows) == sorted(zip(*own.values(), strict=True)) and len(table) == 6
    assert set(table.source) == {"E@V2"} and set(table.target) == {"I@V2"}
    some = E[[4, 0]].outgoing(I)
    assert set(some.source_index) <= {0, 4}
    assert len(some) == len(nest.GetConnections(E.native[[0, 4]], I.native))
    to_one = E[2].incoming()
    assert to_one.source.tolist() == ["noise@V2", "meter@V2", "tvb_to_spikenet@V2", "(dc_generator)"]
    assert to_one.delay_ms.tolist() == [1.5, 1.0, 1.3, 1.0] and to_one.weight.tolist() == [1.0, 1.0, 4.0, 1.0]
    # all but those to the adapter's own recorder; each generator reaches 8 neurons, 5, and 5
    assert len(network.connections()) == 2 * (6 + 8 + 5 + 5 + 5)


def test_weights_are_set_for_some_connections_and_are_then_nests_own(network: Network) -> None:
    E, I = network.brain_regions["V2", "E"], network.brain_regions["V2", "I"]  # noqa: E741
    before = network.connections()
    network.set_weights(3.0 * I.incoming(E).weight, E, I)
    table = I.incoming(E)
    assert (table.weight > 3.0).all()
    own = nest.GetConnections(E.native, I.native).get(["source", "target", "weight"])
    rows = zip(E.ids[table.source_index], I.ids[table.target_index], table.weight, strict=True)
    assert sorted(rows) == sorted(zip(*own.values(), strict=True))
    changed = before.weight != network.connections().weight
    assert changed.tolist() == ((before.source == "E@V2") & (before.target == "I@V2")).tolist()
    network.set_weights(0.5, E[[1, 4]], I)
    assert (I.incoming(E).weight == 0.5).tolist() == I.incoming(E).source_index.isin([1, 4]).tolist()
    with pytest.raises(ExperimentError, match=r"6 connections, and weights of shape \(5,\)"):
        network.set_weights([1.0] * 5, E, I)


def test_devices_and_proxies_are_found_by_name_and_region(network: Network) -> None:
    assert network.input_devices["noise"].get("rate").tolist() == [100.0, 100.0]
    network.input_devices["noise", "V2"].set(rate=250.0)
    assert network.input_devices["noise", "V2"].native.rate == 250.0
    assert network.output_devices["meter", "V1"].model == "voltmeter"
    assert network.input_proxies["tvb_to_spikenet"]["V1"].model == "inhomogeneous_poisson_generator"
    reached = network.input_proxies["tvb_to_spikenet", "V2"].outgoing()
    assert reached.target_index.tolist() == [0, 1, 2, 3, 4] and set(reached.weight) == {4.0}
    assert network.output_proxies["spikenet_to_tvb", "V1"].model == "spike_recorder"


def test_a_device_that_is_none_or_named_twice_is_refused() -> None:
    def named(region: str, device: Any, times: int = 1) -> Any:
        def build(request: BuildRequest) -> Any:
            for _ in range(times):
                request.add_input_device("noise", region, device)
            return {region: {"E": nest.Create("parrot_neuron")} for region in request.regions}

        return build

    for wrong, said in (
        (named("V1", 5), "input device 'noise' of V1 is .*NodeCollection"),
        (named("V9", None), "no region 'V9'"),
        (named("V1", None, 2), "such a device already"),
    ):
        with pytest.raises(ExperimentError, match=said):
            Nest().open(
                SpikenetSection(simulator="nest", regions=list(REGIONS)), Grid.of(0.1, {"spikenet": 0.1}, 10.0, 10),
                Connectome(REGIONS, np.zeros((2, 2)), np.zeros((2, 2))), 1, wrong,
            )  # fmt: skip


def test_prepare_gets_the_network_and_may_not_shorten_its_delays(tmp_path: Any) -> None:
    (tmp_path / "network.py").write_text("def prepare(network):\n    network.brain_regions[:, 'E'].set(I_e=400.0)\n")
    section = SpikenetSection(simulator="nest", regions=list(REGIONS), prepare="network:prepare")
    simulator = opened()
    prepare_network(simulator, section, tmp_path)
    assert (simulator.network().brain_regions[:, "E"].get("I_e") == 400.0).all()

    def shorter(network: Network) -> None:
        nodes = network.brain_regions["V1", "E"].native
        network.simulator.Connect(nodes, nodes, syn_spec={"delay": 0.3})

    prepare_network(simulator, section, tmp_path, shorter)
    simulator.feed(channel("RATE", "tvb", "spikenet", Signal.dense("Hz", ["E@V1", "E@V2"])), np.zeros((10, 2)), 0, 10)
    with pytest.raises(ExperimentError, match=r"min_delay has become 0\.3 ms; it was 1 ms"):
        simulator.run(0, 10)
