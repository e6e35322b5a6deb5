"""The proxies of an interface row: `proxy_params` as they are written, checked, and what they say of each edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bridges.errors import ExperimentError
from ..bridges.experiment import SpikenetSection, TvbToSpikenet, user_function
from ..bridges.grid import to_ns

PROXY_PARAMS = ("number_of_neurons", "weight", "delay", "receptor_type", "normalize_weights", "correlation",
                "correlation_tau_ms")  # fmt: skip
MOST_NEURONS = 10_000_000
Value = Callable[[str, str, str], float]  # of the edge (source region, target region, population)


@dataclass(frozen=True)
class Proxies:
    """params: with the defaults in, for the contract. weight: by edge, a factor of the connectome's where the proxies
    are TVB regions. delay_ms: by edge, the whole of it; None where it is the connectome's."""

    params: dict[str, Any]
    weight: Value
    delay_ms: Value | None


def read_proxies(row: TvbToSpikenet, key: str, program: SpikenetSection, folder: Path) -> Proxies:
    """The proxies of the row `key` in a spiking program. Raises ExperimentError naming the key and what is allowed."""
    given = row.proxy_params
    for name in given:
        if name not in PROXY_PARAMS:
            raise ExperimentError(f"{key}.proxy_params.{name}: unknown key; known here: {', '.join(PROXY_PARAMS)}.")
    params: dict[str, Any] = {"number_of_neurons": 1, "weight": 1.0, "receptor_type": 0, **given}
    number = params["number_of_neurons"]
    if type(number) is not int or not 1 <= number <= MOST_NEURONS:
        raise ExperimentError(
            f"{key}.proxy_params.number_of_neurons = {number!r}: it must be a whole number, at least 1."
        )
    _check_receptors(params["receptor_type"], row, key)
    _check_correlation(given, row, key, program)
    normalize = given.get("normalize_weights", False)
    if not isinstance(normalize, bool) or (normalize and row.coupling_mode == "TVB"):
        raise ExperimentError(
            f"{key}.proxy_params.normalize_weights = {normalize!r}: it must be true or false, and true only with "
            f'coupling_mode = "spikeNet", where the proxies have the weights of the connectome.'
        )
    weight = _value(params["weight"], row, f"{key}.proxy_params.weight", folder)
    if row.coupling_mode == "spikeNet":
        if "delay" not in given:
            return Proxies(params, weight, None)
        if not isinstance(given["delay"], str | dict):  # left from coupling_mode = "TVB", it would undo the connectome
            raise ExperimentError(
                f'{key}.proxy_params.delay = {given["delay"]!r}: with coupling_mode = "spikeNet" the delays come from '
                f"the connectome; leave it out, or name a function of (source, target), 'module:function', that "
                f"returns all of the delay."
            )
    # 1 ms is the synaptic delay that NEST, too, takes when none is given; the next multiple of the resolution
    default = round(math.ceil(round(1.0 / program.resolution, 6)) * program.resolution, 9)
    params.setdefault("delay", default)
    if isinstance(params["delay"], int | float):
        to_ns(params["delay"], f"{key}.proxy_params.delay")
    return Proxies(params, weight, _value(params["delay"], row, f"{key}.proxy_params.delay", folder))


def _check_receptors(receptors: Any, row: TvbToSpikenet, key: str) -> None:
    if isinstance(receptors, dict) and (unknown := [name for name in receptors if name not in row.populations]):
        raise ExperimentError(
            f"{key}.proxy_params.receptor_type: {unknown[0]!r} is not one of the populations of the row: "
            f"{', '.join(row.populations)}."
        )
    for receptor in receptors.values() if isinstance(receptors, dict) else [receptors]:
        if isinstance(receptor, bool) or not isinstance(receptor, int | str):
            raise ExperimentError(
                f"{key}.proxy_params.receptor_type = {receptor!r}: it must be a number or a name, as the simulator has "
                f"them, or a table of one by population."
            )


def _check_correlation(given: dict[str, Any], row: TvbToSpikenet, key: str, program: SpikenetSection) -> None:
    """Correlated trains by the simulator itself are ANNarchy's alone: elsewhere they would be left out in silence."""
    asked = [name for name in ("correlation", "correlation_tau_ms") if name in given]
    if asked and (program.simulator != "annarchy" or row.model != "RATE"):
        raise ExperimentError(
            f"{key}.proxy_params.{asked[0]}: correlated trains made by the simulator are a matter of ANNarchy and of "
            f'model = "RATE"; here are {program.simulator} and {row.model}. In every simulator the bridge makes them: '
            f'model = "SPIKES", transformer = "rates_to_correlated_spikes".'
        )
    if len(asked) == 1:
        raise ExperimentError(f"{key}.proxy_params: correlation and correlation_tau_ms are given together.")


def _value(given: Any, row: TvbToSpikenet, key: str, folder: Path) -> Value:
    """A number, or "module:function" of (source, target) that returns one; or a table of these by population."""
    table = given if isinstance(given, dict) else dict.fromkeys(row.populations, given)
    if missing := [population for population in row.populations if population not in table]:
        raise ExperimentError(f"{key}: none for population {', '.join(missing)}.")
    functions = {}
    for population, each in table.items():
        if isinstance(each, str) and ":" in each:
            functions[population] = _function(each, key, folder)
        elif isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
            raise ExperimentError(
                f"{key} = {each!r}: it must be a number, 'module:function' for a function of (source, target), or a "
                f"table of these by population."
            )

    def value(source: str, target: str, population: str) -> float:
        if population not in functions:
            return float(table[population])
        found = functions[population](source, target)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise ExperimentError(
                f"{key} = {table[population]!r}: for ({source!r}, {target!r}) it returned {found!r}, expected a number."
            )
        return float(found)

    return value


def _function(reference: str, key: str, folder: Path) -> Callable[[str, str], float]:
    try:
        return user_function(reference, folder, key)
    except ImportError as error:
        raise ExperimentError(
            f"{key} = {reference!r}: {error}. It is called in the TVB program: keep it in a file that imports no "
            f"spiking simulator."
        ) from None
