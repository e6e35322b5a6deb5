"""Networks declared as lists of populations and connections, without Python, on every simulator.

All that is random is drawn here with numpy, from the seed of the program, so that every simulator gets the same
synapses. Each row, region and quantity has random numbers of its own: neither the order of rows, nor what else there
is, nor the simulator changes them. What a simulator makes of it is in its folder's declared.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from ..bridges.declared import (
    ConnectionRow,
    ConnectionRule,
    DeclaredRow,
    PopulationRow,
    RegionConnectionRow,
    check_rows,
)
from ..bridges.errors import ExperimentError
from .adapter import BuildRequest, delay_steps

DRAWN_AT_ONCE = 10_000_000  # random numbers of a pairwise_bernoulli, to bound the memory
R = TypeVar("R", bound=DeclaredRow)


@dataclass(frozen=True)
class DrawnPopulation:
    """params, initial: an array with one value for each neuron where it was drawn."""

    label: str
    region: str
    model: str
    size: int
    params: dict[str, Any]
    initial: dict[str, Any]

    @property
    def where(self) -> str:
        return f"population {self.label}@{self.region}"


@dataclass(frozen=True)
class Projection:
    """All synapses of one row from one population to another, sorted by target, then by source neuron.

    sources, targets: neurons of the two populations; weights, delays [steps of the resolution]: one for each synapse.
    """

    label: str
    source: DrawnPopulation
    target: DrawnPopulation
    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    delays: np.ndarray
    receptor: int | str | None

    @property
    def where(self) -> str:
        return f"connection {self.label} ({self.source.label}@{self.source.region} -> " + (
            f"{self.target.label}@{self.target.region})"
        )


@dataclass(frozen=True)
class Drawn:
    """populations: in the order of regions and rows. projections: in the order of their labels and regions."""

    populations: list[DrawnPopulation]
    projections: list[Projection]


def make(
    request: BuildRequest, populations: Sequence[Any], connections: Sequence[Any] = (),
    region_connections: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Make the network that the lists declare, in the simulator of `request`; for a build function to return.

    populations, connections, region_connections: tables as in ``experiment.toml`` (dictionaries, or the rows of
    bridges/declared.py). Raises ExperimentError naming the row and the key, with what there is.
    """
    drawn = draw(request, populations, connections, region_connections)
    if request.simulator == "nest":
        from .nest.declared import create
    elif request.simulator == "annarchy":
        from .annarchy.declared import create
    elif request.simulator == "netpyne":
        from .netpyne.declared import create
    else:
        raise ExperimentError(
            f"A network is declared for nest, annarchy or netpyne; for {request.simulator or 'another simulator'} make "
            f"it in a build function, of what spikenet_side.declared.draw returns."
        )
    return create(request, drawn)


def draw(
    request: BuildRequest, populations: Sequence[Any], connections: Sequence[Any] = (),
    region_connections: Sequence[Any] = (),
) -> Drawn:  # fmt: skip
    """Neurons and synapses as numbers, the same for every simulator."""
    population_rows = _rows(PopulationRow, populations, "populations")
    connection_rows = _rows(ConnectionRow, connections, "connections")
    region_rows = _rows(RegionConnectionRow, region_connections, "region_connections")
    try:
        check_rows(population_rows, connection_rows, region_rows)
    except ValueError as error:
        raise ExperimentError(f"{error}.") from None
    found: dict[tuple[str, str], DrawnPopulation] = {}
    for region in request.regions:
        for i, row in enumerate(population_rows):
            if region in _regions(row.regions, request, f"populations.{i}.regions"):
                key = ("population", row.label, region)
                found[region, row.label] = DrawnPopulation(
                    row.label, region, row.model, row.size, _table(row.params, row.size, request, *key, "params"),
                    _table(row.initial, row.size, request, *key, "initial"),
                )  # fmt: skip
    for region in request.regions:
        if not any(region == at for at, _ in found):
            raise ExperimentError(f"populations: no row is for region {region}; leave out 'regions' for all of them.")
    projections = []
    for i, within in sorted(enumerate(connection_rows), key=lambda each: each[1].label):
        for region in _regions(within.regions, request, f"connections.{i}.regions"):
            source, target = (found.get((region, end)) for end in (within.source, within.target))
            if source is not None and target is not None:
                projections.append(_projection(request, within, source, target, within.weight, within.delay))
            elif within.regions is not None:
                lacking = within.source if source is None else within.target
                raise ExperimentError(f"connections.{i} ({within.label}): {region} has no population {lacking}.")
    for i, between in sorted(enumerate(region_rows), key=lambda each: each[1].label):
        projections += _between_regions(request, between, f"region_connections.{i}", found)
    return Drawn(list(found.values()), projections)


def _rows(kind: type[R], given: Sequence[Any], name: str) -> list[R]:
    rows = []
    for i, row in enumerate(given):
        try:
            rows.append(row if isinstance(row, kind) else kind.model_validate(row))
        except ValidationError as error:
            lines = []
            for item in error.errors():
                key = ".".join([name, str(i), *map(str, item["loc"])])
                what = item["msg"].removeprefix("Value error, ")
                if item["type"] == "extra_forbidden":
                    known = sorted(kind.model_fields)
                    what = f"unknown key.{close(str(item['loc'][-1]), known)} Known here: {', '.join(known)}"
                lines.append(f"{key}: {what}.")
            raise ExperimentError("\n".join(lines)) from None
    return rows


def _regions(wanted: list[str] | None, request: BuildRequest, where: str) -> list[str]:
    for region in wanted or []:
        if region not in request.regions:
            raise ExperimentError(f"{where} = {wanted}: this program has no region {region!r}; it has "
                                  f"{', '.join(request.regions)}.")  # fmt: skip
    return [region for region in request.regions if wanted is None or region in wanted]


def _between_regions(
    request: BuildRequest, row: RegionConnectionRow, where: str, found: dict[tuple[str, str], DrawnPopulation]
) -> Iterable[Projection]:
    connectome, h_ms = request.connectome, request.resolution_ms
    sources = _regions(row.source_regions, request, f"{where}.source_regions")
    targets = _regions(row.target_regions, request, f"{where}.target_regions")
    for target in targets:
        for source in sources:
            at = connectome.regions.index(target), connectome.regions.index(source)
            ends = found.get((source, row.source)), found.get((target, row.target))
            if source == target or connectome.weights[at] == 0 or ends[0] is None or ends[1] is None:
                continue
            steps = round(connectome.delays_ms[at] / h_ms)
            if steps < 1:
                raise ExperimentError(
                    f"{where} ({row.label}): the tract from {source} to {target} takes {connectome.delays_ms[at]:g} "
                    f"ms, which is less than half a step of {h_ms:g} ms. Choose a finer resolution or a slower "
                    f"tvb.speed, or leave the pair out by source_regions, target_regions."
                )
            yield _projection(request, row, ends[0], ends[1], row.factor, steps * h_ms, connectome.weights[at])


def _projection(
    request: BuildRequest, row: ConnectionRule, source: DrawnPopulation, target: DrawnPopulation, weight: Any,
    delay: Any, times: float = 1.0,
) -> Projection:  # fmt: skip
    key = (row.label, source.region, target.region)
    random = _generator(request, "rule", *key)
    where = f"connection {row.label} ({source.label}@{source.region} -> {target.label}@{target.region})"
    sources, targets = _pairs(row, source, target, random, where)
    order = np.lexsort((sources, targets))
    n = len(order)
    weights = np.broadcast_to(_drawn(weight, n, request, "weight", *key), (n,)) * float(times)
    if isinstance(delay, dict):
        steps = np.rint(np.asarray(_drawn(delay, n, request, "delay", *key)) / request.resolution_ms).astype(np.int64)
    else:
        steps = np.full(n, delay_steps(delay, request.resolution_ms, where))
    if n and steps.min() < 1:
        raise ExperimentError(f"{where}: a delay of {steps.min() * request.resolution_ms:g} ms was drawn; the shortest "
                              f"is one step of {request.resolution_ms:g} ms. Choose another distribution.")  # fmt: skip
    return Projection(row.label, source, target, sources[order], targets[order], weights, steps, row.receptor)


def _pairs(
    row: ConnectionRule, source: DrawnPopulation, target: DrawnPopulation, random: np.random.Generator, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Source and target neuron of each synapse, as NEST names the rules."""
    n, m, same = source.size, target.size, source is target
    without_self = same and not row.allow_autapses
    if row.rule == "one_to_one":
        if n != m:
            raise ExperimentError(f"{where}: rule = 'one_to_one' needs populations of one size; they have {n} and {m}.")
        if without_self:
            raise ExperimentError(f"{where}: rule = 'one_to_one' connects each neuron to itself: allow_autapses = true "
                                  f"says that this is meant.")  # fmt: skip
        return np.arange(n), np.arange(n)
    if row.rule == "all_to_all":
        sources, targets = np.tile(np.arange(n), m), np.repeat(np.arange(m), n)
    elif row.rule == "pairwise_bernoulli":
        assert row.p is not None
        rows = max(1, DRAWN_AT_ONCE // n)
        parts = [np.nonzero(random.random((min(rows, m - first), n)) < row.p) for first in range(0, m, rows)]
        targets = np.concatenate([part[0] + first for part, first in zip(parts, range(0, m, rows), strict=True)])
        sources = np.concatenate([part[1] for part in parts])
    elif row.rule == "fixed_indegree":
        assert row.indegree is not None
        sources, targets = _partners(n, m, row.indegree, without_self, row, random, f"{where}: indegree")
    else:
        assert row.outdegree is not None
        targets, sources = _partners(m, n, row.outdegree, without_self, row, random, f"{where}: outdegree")
    if without_self and row.rule in ("all_to_all", "pairwise_bernoulli"):
        keep = sources != targets
        sources, targets = sources[keep], targets[keep]
    return sources, targets


def _partners(
    n: int, m: int, degree: int, without_self: bool, row: ConnectionRule, random: np.random.Generator, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """For each of m neurons `degree` partners out of n: (partners, the m neurons)."""
    possible = n - without_self
    if possible < (1 if row.allow_multapses else degree):
        once = "" if row.allow_multapses else ", each at most once (allow_multapses = false)"
        raise ExperimentError(f"{where} = {degree}: there are only {possible} neurons to choose from{once}.")
    if row.allow_multapses:
        partners = random.integers(possible, size=(m, degree))
    else:
        partners = np.stack([random.choice(possible, degree, replace=False) for _ in range(m)])
    if without_self:
        partners += partners >= np.arange(m)[:, None]
    return partners.ravel(), np.repeat(np.arange(m), degree)


def _table(table: dict[str, Any], n: int, request: BuildRequest, *key: str) -> dict[str, Any]:
    """Random numbers hang on the place in the table, since the same quantity has other names in other simulators."""
    return {name: _drawn(value, n, request, *key, str(i)) for i, (name, value) in enumerate(table.items())}


def _drawn(value: Any, n: int, request: BuildRequest, *key: str) -> Any:
    """The value as it is, or n values of the distribution that it names."""
    if not (isinstance(value, dict) and "distribution" in value):
        return value
    arguments = {name: number for name, number in value.items() if name != "distribution"}
    return getattr(_generator(request, *key), value["distribution"])(size=n, **arguments)


def _generator(request: BuildRequest, *key: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([request.seed, *"\0".join(key).encode()])))


# ------------------------------------------------------------------------------------------- what simulators share


def close(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'iaf_psc_exp' or 'iaf_psc_alpha'?", or nothing."""
    found = difflib.get_close_matches(name, list(known), n=3)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def check_known(names: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    """Raises ExperimentError for a name that is not there, with what is: `what` is "parameter", "model" …"""
    known = sorted(known)
    for name in names:
        if name not in known:
            raise ExperimentError(f"{where}: there is no {what} {name!r}.{close(name, known)} There is "
                                  f"{', '.join(known) or 'none'}.")  # fmt: skip


def signed(projection: Projection) -> int:
    """The sign that all its weights have: 1 or -1. Raises ExperimentError when some excite and some inhibit, as no
    receptor is named that takes both."""
    signs = set(np.sign(projection.weights[projection.weights != 0]).astype(int).tolist())
    if len(signs) > 1:
        raise ExperimentError(f"{projection.where}: the drawn weights are of both signs, and receptor is left out. "
                              f"Name the receptor, or choose another distribution.")  # fmt: skip
    return signs.pop() if signs else 1


def build_of(section: Any) -> Callable[[BuildRequest], dict[str, Any]]:
    """The build function of a section that declares its network."""

    def build(request: BuildRequest) -> dict[str, Any]:
        return make(request, section.populations, section.connections, section.region_connections)

    return build
