"""NetPyNE is certified by the conformance suite, with what NEURON has built in and, where there is a compiler, with a
mod file: a synapse that moves the potential at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("netpyne", reason="NetPyNE is not installed here")

from tvb_lockstep.spikenet_side.adapter import BuildRequest
from tvb_lockstep.spikenet_side.conformance import Conformance
from tvb_lockstep.spikenet_side.netpyne import NetPyNE
from tvb_lockstep.spikenet_side.netpyne.mechanisms import requirements

FOLDER = Path(__file__).with_name("jump")


class TestNetPyNE(Conformance):
    jump_mV = None if requirements(FOLDER) else 1.0  # noqa: N815
    weights = {"relay": 1.1, "pair": 2 / 3, "cell": 1.0}  # noqa: RUF012 - IntFire1 fires above 1

    def make(self) -> NetPyNE:
        return NetPyNE(FOLDER if self.jump_mV else None)

    def build(self, request: BuildRequest) -> dict[str, Any]:
        from netpyne import specs

        params, populations = specs.NetParams(), {}
        for region in request.regions:
            fire = {"cellModel": "IntFire1", "refrac": request.resolution_ms / 2}
            params.popParams[f"relay_{region}"] = {**fire, "tau": 1.0, "numCells": request.params["relay"]}
            params.popParams[f"pair_{region}"] = {**fire, "tau": 1.0, "numCells": request.params["pair"]}
            labels = []
            for i, start in enumerate(request.params["starts_mV"]):
                labels.append(f"cell{i}_{region}")
                params.popParams[labels[-1]] = {"cellType": labels[-1], "numCells": 1}
                side = math.sqrt(1e4 / math.pi)  # um: 1e4 um2 of 1 uF/cm2 are 100 pF, with nothing that leaks
                soma = {"geom": {"L": side, "diam": side, "cm": 1.0}, "vinit": start, "threshold": -55.0}
                params.cellParams[labels[-1]] = {"conds": {"cellType": labels[-1]}, "secs": {"soma": soma}}
            populations[region] = {"relay": f"relay_{region}", "pair": f"pair_{region}", "cell": labels}
        if self.jump_mV:
            params.synMechParams["jump"] = {"mod": "Jump", "cap": 0.1}
        return {"netParams": params, "simConfig": specs.SimConfig(), "populations": populations}
