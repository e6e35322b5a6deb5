"""ANNarchy is certified by the conformance suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvb_lockstep.bridges.errors import EnvironmentFailed
from tvb_lockstep.spikenet_side.annarchy import Annarchy, AnnarchyRequest
from tvb_lockstep.spikenet_side.annarchy.toolchain import check_requirements, import_annarchy
from tvb_lockstep.spikenet_side.conformance import Conformance

try:
    check_requirements()
    ANNarchy = import_annarchy()
except EnvironmentFailed as missing:
    pytest.skip(str(missing), allow_module_level=True)


class TestAnnarchy(Conformance):
    jump_mV = 1.0  # noqa: N815
    tolerance_mV = 1e-9  # noqa: N815

    def make(self) -> Annarchy:
        return Annarchy()

    def build(self, request: AnnarchyRequest) -> dict[str, dict[str, Any]]:
        # v = g_exc: what arrives in a step, forgotten at its end
        relay = ANNarchy.Neuron(equations="v = g_exc", spike="v > 0.5")
        pair = ANNarchy.Neuron(equations="v = g_exc", spike="v > 1.5")
        cell = ANNarchy.Neuron(
            parameters="""C = 100.0 : population
                          i_offset = 0.0""",
            equations="v += dt * i_offset / C + g_exc", spike="v >= -55.0",
        )  # fmt: skip
        network = {}
        for region in request.regions:
            cells = request.network.create(request.params["cell"], cell)
            cells.v = np.array(request.params["starts_mV"])
            network[region] = {
                "relay": request.network.create(request.params["relay"], relay),
                "pair": request.network.create(request.params["pair"], pair),
                "cell": cells,
            }
        return network
