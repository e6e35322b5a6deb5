"""The address book on NetPyNE, against NEURON's own objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("netpyne", reason="NetPyNE is not installed here")

from tvb_lockstep.bridges.contract import Channel, Edge, Signal
from tvb_lockstep.bridges.errors import ExperimentError
from tvb_lockstep.bridges.experiment import SpikenetSection
from tvb_lockstep.bridges.grid import Grid
from tvb_lockstep.spikenet_side.adapter import BuildRequest, Connectome
from tvb_lockstep.spikenet_side.netpyne import NetPyNE
from tvb_lockstep.spikenet_side.network import Network


def build(request: BuildRequest) -> dict[str, Any]:
    from netpyne import specs

    params = specs.NetParams()
    dend = {"geom": {"diam": 2.0, "L": 100.0, "nseg": 3}, "topol": {"parentSec": "soma", "parentX": 1.0, "childX": 0},
            "mechs": {"pas": {"g": 1e-4, "e": -65.0}}}  # fmt: skip
    soma = {"geom": {"diam": 18.8, "L": 18.8}, "mechs": {"hh": {"gnabar": 0.12, "gkbar": 0.036, "gl": 3e-4, "el": -54}}}
    params.cellParams["PYR"] = {"secs": {"soma": soma, "dend": dend}}
    params.popParams["E@V1"] = {"cellType": "PYR", "numCells": 4}
    params.popParams["relay@V1"] = {"cellModel": "IntFire1", "numCells": 2, "tau": 10.0, "refrac": 1.0}
    params.synMechParams["exc"] = {"mod": "Exp2Syn", "tau1": 0.1, "tau2": 3.0, "e": 0.0}
    params.stimSourceParams["noise"] = {"type": "NetStim", "rate": 50, "noise": 1.0}
    params.stimTargetParams["noise"] = {"source": "noise", "conds": {"pop": "E@V1"}, "weight": 0.01, "delay": 2.0,
                                        "synMech": "exc"}  # fmt: skip
    params.stimSourceParams["clamp"] = {"type": "IClamp", "dur": 5, "del": 1, "amp": 0.1}
    params.stimTargetParams["clamp"] = {"source": "clamp", "conds": {"pop": "E@V1"}, "sec": "soma", "loc": 0.5}
    params.connParams["E->E"] = {"preConds": {"pop": "E@V1"}, "postConds": {"pop": "E@V1"}, "weight": 0.004,
                                 "connList": [[0, 1], [3, 1], [2, 0]], "delay": [1.5, 2.0, 2.5], "sec": "dend",
                                 "loc": 0.5, "synMech": "exc"}  # fmt: skip
    request.add_input_device("noise", "V1", "noise")
    request.add_input_device("clamp", "V1", "clamp")
    return {"netParams": params}


def channel(model: str, signal: Signal, *edges: Edge, **proxy_params: Any) -> Channel:
    return Channel(0, f"{model} in", "tvb", "spikenet", model, "TVB", ("E",), ("E",), ("V1",), (), (), proxy_params,
                   signal, signal, edges, key=model)  # fmt: skip


@pytest.fixture
def opened() -> Any:
    simulator = NetPyNE()
    connectome = Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1)))
    section = SpikenetSection(simulator="netpyne", regions=["V1"])
    simulator.open(section, Grid.of(0.1, {"spikenet": 0.1}, 5.0, 1), connectome, 1, build)
    trains = channel("SPIKES", Signal("spikes", "", ("E@V8", "E@V9"), (2, 1)), Edge(0, "V1", "E", 0.7, 0.3),
                     Edge(1, "V1", "relay", 0.2, 0.1))  # fmt: skip
    rate = channel("RATE", Signal.dense("Hz", ["E@V1"]), Edge(0, "V1", "relay", 0.3, 0.4))
    current = channel("CURRENT", Signal.dense("pA", ["E@V1"]), Edge(0, "V1", "E", 1.0, 0.1))
    simulator.connect([trains, rate, current], [channel("SPIKES", Signal("spikes", "", ("E@V1",), (4,)))])
    yield simulator
    simulator.close()


@pytest.fixture
def network(opened: NetPyNE) -> Network:
    return opened.network()


def test_variables_of_sections_are_set_in_all_or_some_and_are_then_neurons_own(network: Network) -> None:
    E = network.brain_regions["V1"]["E"]
    cells = [network.native.cells[gid] for gid in E.ids]
    assert E.native == cells and E.model == "PYR" and network.simulator.__name__ == "netpyne.sim"
    assert network.brain_regions["V1", "relay"].numbers.tolist() == [4, 5]
    E[[3, 1]].set({"soma.gnabar_hh": [0.3, 0.1], "soma.v": -61.0})
    assert [cell.secs["soma"]["hObj"].gnabar_hh for cell in cells] == [0.12, 0.1, 0.12, 0.3]
    assert [cell.secs["soma"]["hObj"](0.5).v for cell in cells] == [-65.0, -61.0, -65.0, -61.0]
    E.set({"dend.g_pas": 2e-4, "dend(0.9).e_pas": -70.0})
    dend = cells[2].secs["dend"]["hObj"]
    assert [segment.g_pas for segment in dend] == [2e-4] * 3
    assert [segment.e_pas for segment in dend] == [-65.0, -65.0, -70.0]
    assert E.get("dend(0.9).e_pas").tolist() == [-70.0] * 4 and E[3].get("soma.gnabar_hh").tolist() == [0.3]


def test_artificial_cells_and_devices_are_set_likewise(network: Network) -> None:
    relay = network.brain_regions["V1", "relay"]
    relay[1].set(tau=20.0)
    assert [cell.hPointp.tau for cell in relay.native] == [10.0, 20.0]
    network.input_devices["noise", "V1"].set(interval=5.0)
    stims = [stim for cell in network.brain_regions["V1", "E"].native for stim in cell.stims]
    assert [stim["hObj"].interval for stim in stims if stim["source"] == "noise"] == [5.0] * 4
    network.input_devices["clamp", "V1"].set(amp=[0.1, 0.2, 0.3, 0.4])
    assert [stim["hObj"].amp for stim in stims if stim["source"] == "clamp"] == [0.1, 0.2, 0.3, 0.4]
    assert [nodes.model for nodes in network.input_devices.nodes] == ["NetStim", "IClamp"]


def test_the_table_of_connections_is_that_of_neurons_netcons(network: Network) -> None:
    E, relay = network.brain_regions["V1", "E"], network.brain_regions["V1", "relay"]
    inside = E.incoming(E)
    columns = ["source_index", "target_index", "weight", "delay_ms", "receptor"]
    assert inside[columns].values.tolist() == [
        [2, 0, 0.004, 2.5, "dend(0.5).exc"], [0, 1, 0.004, 1.5, "dend(0.5).exc"], [3, 1, 0.004, 2.0, "dend(0.5).exc"],
    ]  # fmt: skip
    network.set_weights([0.1, 0.2, 0.3], E, E)
    weights = {(conn["preGid"], cell.gid): conn["hObj"].weight[0] for cell in E.native for conn in cell.conns}
    assert [weights[pair] for pair in ((2, 0), (0, 1), (3, 1))] == [0.1, 0.2, 0.3]
    with pytest.raises(ExperimentError, match="a CURRENT channel is no connection of NEURON"):
        network.set_weights(1.0, network.input_proxies["CURRENT in"], E)
    to_one = E[1].incoming()
    assert set(to_one.source) == {"E@V1", "noise@V1", "SPIKES in@V8", "CURRENT in@V1"} and len(to_one) == 5
    netcons = network.simulator.h.List("NetCon")
    found = [netcons.o(i) for i in range(int(netcons.count()))]
    without_current = network.connections()[lambda table: table.source != "CURRENT in@V1"]
    assert sorted(without_current.weight) == sorted(each.weight[0] for each in found if each.syn() is not None)
    by_rate = relay.incoming(network.input_proxies["RATE in"])
    assert by_rate[columns].values.tolist() == [[0, 0, 0.3, 0.4, ""], [1, 1, 0.3, 0.4, ""]]


def test_what_is_not_there_is_refused_by_name(network: Network) -> None:
    E = network.brain_regions["V1", "E"]
    for wrong, said in (
        (lambda: E.set({"soma.gnabar": 1.0}), "Did you mean 'soma.gnabar_hh'"),
        (lambda: E.set({"axon.v": 1.0}), r"E@V1 \(PYR\) has no 'axon.v'"),
        (lambda: E.set({"dend(1.7).v": 1.0}), "location is from 0 to 1"),
        (lambda: E.set({"soma.diam": "wide"}), "soma.diam cannot be set: NEURON says"),
    ):
        with pytest.raises(ExperimentError, match=said):
            wrong()


def test_a_device_that_netpyne_has_not_made_is_refused() -> None:
    def wrong(request: BuildRequest) -> Any:
        request.add_output_device("meter", "V1", "nothing")
        return build(request)

    simulator = NetPyNE()
    with pytest.raises(ExperimentError, match=r"output device 'meter' of V1 .* E@V1, relay@V1, noise, clamp"):
        simulator.open(SpikenetSection(simulator="netpyne", regions=["V1"]), Grid.of(0.1, {"spikenet": 0.1}, 5.0, 1),
                       Connectome(("V1",), np.zeros((1, 1)), np.zeros((1, 1))), 1, wrong)  # fmt: skip
    simulator.close()
