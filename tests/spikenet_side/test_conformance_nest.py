"""NEST is certified by the conformance suite."""

from __future__ import annotations

import math
from typing import Any

from tvb_lockstep.spikenet_side.adapter import BuildRequest
from tvb_lockstep.spikenet_side.conformance import Conformance
from tvb_lockstep.spikenet_side.nest import Nest
from tvb_lockstep.spikenet_side.nest.adapter import import_nest

nest = import_nest()


class TestNest(Conformance):
    relay_repeats = True
    jump_mV = 1.0  # noqa: N815
    tolerance_mV = 1e-4  # noqa: N815 - tau_m is not quite infinite
    section = {"min_delay": 0.1}  # noqa: RUF012 - the slice that divides every window

    def make(self) -> Nest:
        return Nest()

    def build(self, request: BuildRequest) -> dict[str, dict[str, Any]]:
        return {region: self.populations(request.params) for region in request.regions}

    def populations(self, params: dict[str, Any]) -> dict[str, Any]:
        cell = nest.Create("iaf_psc_delta", params["cell"], {"tau_m": 1e7, "C_m": 100.0, "E_L": -70.0, "V_th": -55.0})
        cell.V_m = params["starts_mV"]
        pair = {"tau_m": 1.0, "E_L": 0.0, "V_m": 0.0, "V_th": 1.5, "V_reset": 0.0, "t_ref": 0.1, "V_min": -math.inf}
        return {
            "relay": nest.Create("parrot_neuron", params["relay"]),
            "pair": nest.Create("iaf_psc_delta", params["pair"], pair),
            "cell": cell,
        }


class TestNestWithTwoThreads(TestNest):
    section = {"min_delay": 0.1, "threads": 2}  # noqa: RUF012
    # how long two threads wait for each other depends on who else is on the cores
    test_a_window_costs_the_same_early_and_late_in_a_run = None  # type: ignore[assignment]
