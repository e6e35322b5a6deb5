"""The address book of a spiking network: populations, devices and proxies by name, the same on every simulator.

`Nodes` is one of them (or some of its neurons), `NodeSet` several by their names, `Network` all there are. What a
simulator has of its own is behind `Access`, one class in each simulator's folder.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..bridges.errors import EnvironmentFailed, ExperimentError
from .adapter import Population, shown

Key = tuple[str, ...]


@dataclass(frozen=True)
class Synapses:
    """Connections by the simulator's own ids of their ends; one array entry for each. delays: in ms."""

    sources: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    delays: np.ndarray
    receptors: np.ndarray


class Access(Protocol):
    """What one simulator does for the address book. native: what `build` made: a NodeCollection, an ANNarchy
    Population, NetPyNE's cells. Errors are ExperimentErrors that say what cannot be, without saying where.

    name: of the simulator, as messages have it. simulator: its Python module. native: its own network object, if any.
    """

    @property
    def name(self) -> str: ...
    @property
    def simulator(self) -> Any: ...
    @property
    def native(self) -> Any: ...

    def ids(self, native: Any) -> np.ndarray:
        """The simulator's own numbers of the nodes, in their order; unique in the network."""

    def model(self, native: Any) -> str: ...

    def part(self, native: Any, indices: np.ndarray) -> Any:
        """The simulator's own object for some of the nodes; indices ascending."""

    def names(self, native: Any) -> list[str]:
        """What can be read; not all of it can be set."""

    def read(self, native: Any, name: str) -> list[Any] | np.ndarray:
        """One value for each node."""

    def write(self, native: Any, indices: np.ndarray, name: str, values: list[Any]) -> None:
        """Set one value each for the nodes at the ascending `indices`."""

    def synapses(self, sources: list[Any] | None, targets: list[Any] | None) -> Synapses:
        """All connections from and to these (None: everything); more may come, they are looked through again. In an
        order that does not change."""

    def set_weights(
        self, sources: list[Any] | None, targets: list[Any] | None, rows: np.ndarray, weights: np.ndarray
    ) -> None:
        """Set the weights of the `rows` of what `synapses` gives for the same ends."""

    def describe(self, number: int) -> str:
        """The model of a node that nobody has named."""


class Nodes:
    """A population, a device, or the proxy of a region; or some of its neurons, by index: ``E[:10]``, ``E[[3, 5]]``.

    name, region: by which it is found; label: "name@region". model: the simulator's own name. size: how many.
    indices: which of its neurons these are, from 0. numbers: of the neurons among all of the program, as in spikes.h5
    (None for devices). ids: the simulator's own.
    """

    def __init__(
        self, network: Network, name: str, region: str, native: Any, ids: np.ndarray, first: int | None = None,
        indices: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self._network, self._access, self._whole, self._ids, self._first = network, network._access, native, ids, first
        self.name, self.region = name, region
        self.indices = np.arange(len(ids)) if indices is None else indices

    @property
    def label(self) -> str:
        return f"{self.name}@{self.region}"

    @property
    def size(self) -> int:
        return len(self.indices)

    number_of_neurons = size

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def numbers(self) -> np.ndarray | None:
        return None if self._first is None else self._first + self.indices

    @property
    def ids(self) -> np.ndarray:
        return self._ids[self.indices]

    @property
    def model(self) -> str:
        return self._access.model(self._whole) if self._whole is not None else "none"

    @property
    def native(self) -> Any:
        """The simulator's own object: a NodeCollection of NEST, a Population or PopulationView of ANNarchy, a list of
        cells of NetPyNE. None for a proxy that is no node of its simulator."""
        if self._whole is None or len(self.indices) == len(self._ids):
            return self._whole
        return self._access.part(self._whole, np.sort(self.indices))

    def __getitem__(self, which: Any) -> Nodes:
        """Some of the neurons: an index, a slice, a list or array of indices, a mask."""
        wanted = np.asarray(which) if not isinstance(which, slice) else which
        try:
            chosen = np.atleast_1d(self.indices[wanted])
        except IndexError as error:
            raise ExperimentError(f"{self.label}[{shown(which)}]: {error}; it has {len(self)}.") from None
        if chosen.ndim != 1 or len(np.unique(chosen)) < len(chosen):
            raise ExperimentError(f"{self.label}[{shown(which)}]: each neuron can be chosen once.")
        return Nodes(self._network, self.name, self.region, self._whole, self._ids, self._first, chosen)

    @property
    def names(self) -> list[str]:
        """What `get` can read."""
        return [] if self._whole is None else self._access.names(self._whole)

    def get(self, *names: str) -> Any:
        """The values of one parameter or variable, an array with one for each neuron; of several, or of all when none
        is named, a pandas DataFrame with a column for each. Units are the simulator's.

        Raises ExperimentError for a name that is not there, with those that are.
        """
        if len(names) == 1:
            return self._values(names[0])
        columns = {name: list(self._values(name)) for name in names or self.names}
        return pandas().DataFrame(columns, index=pandas().Index(self.indices, name="neuron"))

    def _values(self, name: str) -> np.ndarray:
        self._check(name)
        values = self._access.read(self._whole, name)
        try:
            found = np.asarray(values)
        except ValueError:  # lists of different lengths
            found = np.empty(0)
        if len(found) != len(self._ids) or found.ndim != 1:  # a list in each neuron
            found = np.empty(len(self._ids), object)
            found[:] = list(values)
        return found[self.indices]

    def _check(self, name: str) -> None:
        if re.sub(r"\([\d.]+\)", "", name) in (known := self.names):  # without a place, as in dend(0.7).v
            return
        if not known:
            raise ExperimentError(
                f"{self.label}: nothing can be read or set: "
                + (f"it is no node of {self._access.name}, its values come from outside window by window."
                   if self._whole is None else f"{self._access.name} has no properties for it; use .native.")
            )  # fmt: skip
        close = difflib.get_close_matches(name, known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ExperimentError(f"{self.label} ({self.model}) has no {name!r}.{hint} It has: {', '.join(known)}.")

    def set(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Set parameters or variables: one value for all, or a list or array with one for each neuron.

        A name that is no Python name goes into a dictionary: ``E.set({"dend(0.5).v": -70})``. Raises ExperimentError,
        before anything is set, for a name that is not there or values of a wrong number; and for what the simulator
        cannot set.
        """
        for write in self._writes({**(values or {}), **named}):
            write()

    def _writes(self, values: dict[str, Any]) -> list[Callable[[], None]]:
        """What is to be done; all of it is checked as far as it can be."""
        for name in values:
            self._check(name)
        order = np.argsort(self.indices)
        writes: list[Callable[[], None]] = []
        for name, value in values.items():
            each = self._one_for_each(name, value)
            writes.append(functools.partial(self._write, self.indices[order], name, [each[i] for i in order]))
        return writes

    def _write(self, indices: np.ndarray, name: str, values: list[Any]) -> None:
        try:
            self._access.write(self._whole, indices, name, values)
        except ExperimentError as error:
            raise ExperimentError(f"{self.label}: {name} cannot be set: {error}") from error

    def _one_for_each(self, name: str, value: Any) -> list[Any]:
        if np.ndim(value) == 0:
            return [_plain(value)] * len(self)
        listed = [_plain(each) for each in value]
        present = self._access.read(self._whole, name)
        if len(present) and np.ndim(present[0]) and not any(np.ndim(each) for each in listed):
            return [listed] * len(self)  # a list for every neuron
        if len(listed) != len(self):
            raise ExperimentError(
                f"{self.label}: {name}: {len(listed)} values for {len(self)} neurons; give one for all, or one for "
                f"each."
            )
        return listed

    def incoming(self, source: Nodes | NodeSet | None = None) -> Any:
        """The connections to these neurons (from `source` only), a pandas DataFrame as `Network.connections` has it."""
        return self._network.connections(source, self)

    def outgoing(self, target: Nodes | NodeSet | None = None) -> Any:
        """The connections from these neurons (to `target` only), a pandas DataFrame as `Network.connections` has it."""
        return self._network.connections(self, target)

    def __repr__(self) -> str:
        some = "" if len(self) == len(self._ids) else f" of {len(self._ids)}"
        return f"<{self.label}: {len(self)}{some} {self.model}>"


class NodeSet:
    """Nodes by their names: ``brain_regions["V1"]["E"]``, the same as ``brain_regions["V1", "E"]``; ``["V1"]`` are all
    of V1, ``[:, "E"]`` the E of all regions, ``[["V1", "V2"], "E"]`` of some. It is iterated by its first names, as a
    dictionary is; `keys`, `values`, `items` are a dictionary's.
    """

    def __init__(self, network: Network, what: str, levels: Key, nodes: dict[Key, Nodes]) -> None:
        self._network, self._what, self._levels, self._nodes = network, what, levels, nodes

    def __getitem__(self, key: Any) -> Any:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) > len(self._levels):
            raise ExperimentError(f"{self._what}[{key!r}]: at most {len(self._levels)} names ({_named(self._levels)}).")
        found, kept = self._nodes, []
        for depth, level in enumerate(self._levels):
            part = parts[depth] if depth < len(parts) else slice(None)
            if isinstance(part, slice):
                if part != slice(None):
                    raise ExperimentError(f"{self._what}: {part}: as a slice there is only ':', all of them.")
                kept.append(depth)
                continue
            wanted = [part] if isinstance(part, str) else part
            known = list(dict.fromkeys(each[depth] for each in found))
            if not isinstance(wanted, Iterable):
                raise ExperimentError(f"{self._what}: {part!r} is not the name of a {level}; there is {_named(known)}.")
            for name in wanted:
                if name not in known:
                    raise ExperimentError(f"{self._what}: there is no {level} {name!r}; there is {_named(known)}.")
            found = {each: nodes for name in wanted for each, nodes in found.items() if each[depth] == name}
            if not isinstance(part, str):
                kept.append(depth)
        if not kept:
            return next(iter(found.values()))
        levels = tuple(self._levels[depth] for depth in kept)
        shorter = {tuple(each[depth] for depth in kept): nodes for each, nodes in found.items()}
        return NodeSet(self._network, self._what, levels, shorter)

    def keys(self) -> list[str]:
        return list(dict.fromkeys(key[0] for key in self._nodes))

    def values(self) -> list[Any]:
        return [self[key] for key in self.keys()]

    def items(self) -> list[tuple[str, Any]]:
        return [(key, self[key]) for key in self.keys()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self._nodes or key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    @property
    def nodes(self) -> list[Nodes]:
        """All that is in it, in order."""
        return list(self._nodes.values())

    @property
    def size(self) -> int:
        return sum(len(nodes) for nodes in self._nodes.values())

    number_of_neurons = size

    def get(self, *names: str) -> Any:
        """The values of one parameter or variable in all of them, a pandas Series by name and neuron; of several, a
        DataFrame. Raises ExperimentError when one of them does not have it."""
        if not names:
            raise ExperimentError(f"{self._what}.get(): name what is to be read; {self._common()}")
        index = self._index()
        columns = {}
        for name in names:
            parts = [nodes.get(name) for nodes in self._nodes.values()]
            columns[name] = np.concatenate(parts) if parts else np.zeros(0)
        if len(names) == 1:
            return pandas().Series(columns[names[0]], index=index, name=names[0])
        return pandas().DataFrame(columns, index=index)

    def set(self, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Set parameters or variables in all of them: one value for all, or one for each neuron in order (as `get`
        returns them). Raises ExperimentError, before anything is set, when one of them does not have it."""
        given = {**(values or {}), **named}
        ends = np.cumsum([len(nodes) for nodes in self._nodes.values()])
        for name, value in given.items():
            if np.ndim(value) and len(value) != self.size:
                raise ExperimentError(f"{self._what}: {name}: {len(value)} values for {self.size} neurons; give one "
                                      f"for all, or one for each.")  # fmt: skip
        writes: list[Callable[[], None]] = []
        for nodes, end in zip(self._nodes.values(), ends, strict=True):
            own = slice(end - len(nodes), end)
            writes += nodes._writes({name: np.asarray(value)[own] if np.ndim(value) else value
                                     for name, value in given.items()})  # fmt: skip
        for write in writes:
            write()

    def incoming(self, source: Nodes | NodeSet | None = None) -> Any:
        """The connections to all of them (from `source` only): see `Network.connections`."""
        return self._network.connections(source, self)

    def outgoing(self, target: Nodes | NodeSet | None = None) -> Any:
        """The connections from all of them (to `target` only): see `Network.connections`."""
        return self._network.connections(self, target)

    def _common(self) -> str:
        if not self._nodes:
            return "it is empty."
        common = set.intersection(*(set(nodes.names) for nodes in self._nodes.values()))
        return f"all of them have: {', '.join(sorted(common)) or 'nothing'}."

    def _index(self) -> Any:
        rows = [(*key, i) for key, nodes in self._nodes.items() for i in nodes.indices.tolist()]
        return pandas().MultiIndex.from_tuples(rows, names=[*self._levels, "neuron"])

    def __repr__(self) -> str:
        lines = [f"<{self._what}: {len(self._nodes)} by {_named(self._levels)}>"]
        for key, nodes in self._nodes.items():
            lines.append(f"  {', '.join(key)}: {len(nodes)} {nodes.model}")
        return "\n".join(lines)


class Network:
    """All that can be addressed in the network of one spiking program.

    brain_regions: populations by region and name. input_devices, output_devices: what the build function has named with
    ``request.add_input_device``, ``add_output_device``, by name and region. input_proxies, output_proxies: what stands
    for TVB, by channel and by region (of TVB's that sends, or of the program's); they are there once the programs have
    met. simulator: the simulator's own module; native: its own network object, where it has one.
    """

    def __init__(
        self, access: Access, populations: Iterable[Population], natives: Iterable[Any],
        devices: Mapping[tuple[str, str, str], Any],
    ) -> None:  # fmt: skip
        self._access = access
        self._named: list[Nodes] = []  # whose ids connections are told by
        regions: dict[Key, Nodes] = {}
        first = 0
        for population, native in zip(populations, natives, strict=True):
            ids = access.ids(native)
            nodes = Nodes(self, population.name, population.region, native, ids, first)
            regions[population.region, population.name] = nodes
            first += len(nodes)
        self.brain_regions = NodeSet(self, "brain_regions", ("region", "population"), regions)
        of: dict[str, dict[Key, Nodes]] = {"input": {}, "output": {}}
        for (direction, name, region), native in devices.items():
            of[direction][name, region] = Nodes(self, name, region, native, access.ids(native))
        self.input_devices = NodeSet(self, "input_devices", ("device", "region"), of["input"])
        self.output_devices = NodeSet(self, "output_devices", ("device", "region"), of["output"])
        self.input_proxies = NodeSet(self, "input_proxies", ("channel", "region"), {})
        self.output_proxies = NodeSet(self, "output_proxies", ("channel", "region"), {})
        self._named = [*regions.values(), *of["input"].values(), *of["output"].values()]

    def add_proxies(
        self, inputs: Mapping[tuple[str, str], tuple[Any, np.ndarray]],
        outputs: Mapping[tuple[str, str], tuple[Any, np.ndarray]],
    ) -> None:  # fmt: skip
        """Told by the adapter: native object (None where there is none) and ids, by channel and region."""
        for given, nodeset in ((inputs, self.input_proxies), (outputs, self.output_proxies)):
            for (channel, region), (native, ids) in given.items():
                nodeset._nodes[channel, region] = Nodes(self, channel, region, native, np.asarray(ids))
        self._named += self.input_proxies.nodes

    @property
    def simulator(self) -> Any:
        return self._access.simulator

    @property
    def native(self) -> Any:
        return self._access.native

    @property
    def number_of_neurons(self) -> int:
        return self.brain_regions.size

    def connections(self, source: Nodes | NodeSet | None = None, target: Nodes | NodeSet | None = None) -> Any:
        """The connections from `source` to `target` (None: all), a pandas DataFrame with a row for each:

        source, target: labels ("E@V1"; for what has no name its model, as "(poisson_generator)"); source_index,
        target_index: which of its neurons, from 0 (the simulator's own id where there is no name); weight and delay_ms
        as the simulator has them; receptor: its port, or target, or synapse. Sorted by target, then by source.
        """
        found, _, rows = self._found(source, target)
        columns: dict[str, Any] = {}
        for side, ids in (("source", found.sources[rows]), ("target", found.targets[rows])):
            labels, codes, index = self._labelled(ids)
            columns[side] = pandas().Categorical.from_codes(codes, labels)
            columns[f"{side}_index"] = index
        columns |= {"weight": found.weights[rows], "delay_ms": found.delays[rows], "receptor": found.receptors[rows]}
        return pandas().DataFrame(columns)

    def set_weights(
        self, weights: Any, source: Nodes | NodeSet | None = None, target: Nodes | NodeSet | None = None
    ) -> None:
        """Set the weights of the connections from `source` to `target`, in the simulator's unit: one for all, or one
        for each row of ``connections(source, target)``. Raises ExperimentError for another number of them, and for
        connections whose weights the simulator cannot set."""
        _, (sources, targets), rows = self._found(source, target)
        values = np.asarray(weights, float)
        if values.ndim > 1 or (values.ndim == 1 and len(values) != len(rows)) or not np.isfinite(values).all():
            raise ExperimentError(
                f"set_weights: {len(rows)} connections, and weights of shape {values.shape}: give one finite number "
                f"for all, or one for each row of connections(source, target)."
            )
        self._access.set_weights(sources, targets, rows, np.broadcast_to(values, len(rows)))

    def _found(
        self, source: Nodes | NodeSet | None, target: Nodes | NodeSet | None
    ) -> tuple[Synapses, list[list[Any] | None], np.ndarray]:
        """What the simulator gives for the two ends, what it was asked for, and the rows that are meant, in order."""
        ends = [None if end is None else end.nodes if isinstance(end, NodeSet) else [end] for end in (source, target)]
        natives: list[list[Any] | None] = []
        for end in ends:  # what is no node of the simulator cannot be asked for; what comes is looked through below
            of = [nodes.native for nodes in end or []]
            natives.append(of if end is not None and not any(native is None for native in of) else None)
        found = self._access.synapses(*natives)
        keep = np.ones(len(found.sources), bool)
        for end, ids in ((ends[0], found.sources), (ends[1], found.targets)):
            if end is not None:
                keep &= np.isin(ids, np.concatenate([nodes.ids for nodes in end] or [np.zeros(0, np.int64)]))
        rows = np.flatnonzero(keep)
        keys: list[np.ndarray] = []
        for ids in (found.sources[rows], found.targets[rows]):
            _, codes, index = self._labelled(ids)
            keys += [index, codes]
        return found, natives, rows[np.lexsort(keys)]

    def _labelled(self, ids: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """For ids: all labels, which of them each has, and the index within it."""
        labels = [nodes.label for nodes in self._named]
        sizes = [len(nodes) for nodes in self._named]
        known = np.concatenate([nodes.ids for nodes in self._named])
        order = np.argsort(known, kind="stable")
        known, owner = known[order], np.repeat(np.arange(len(sizes)), sizes)[order]
        index = np.concatenate([np.arange(size) for size in sizes])[order]
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        of, within = owner[at], index[at]
        for strange in np.unique(ids[known[at] != ids]):
            label = f"({self._access.describe(int(strange))})"
            if label not in labels:
                labels.append(label)
            of[ids == strange], within[ids == strange] = labels.index(label), strange
        return labels, of, within

    def __repr__(self) -> str:
        parts = (self.brain_regions, self.input_devices, self.output_devices, self.input_proxies, self.output_proxies)
        return "\n".join([f"<network in {self._access.name}, {self.number_of_neurons} neurons>",
                          *(repr(part) for part in parts if part._nodes)])  # fmt: skip


def _plain(value: Any) -> Any:
    """Numbers of numpy as Python's: NEST takes no others."""
    return value.item() if isinstance(value, np.generic) else value


def _named(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def pandas() -> Any:
    """The `pandas` module, imported where it is wanted. Raises EnvironmentFailed when it is not there."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise EnvironmentFailed("Tables of the network need pandas: pip install pandas in this environment.") from None
    return pandas
