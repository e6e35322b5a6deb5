"""An experiment: ``experiment.toml``, validated. Every message names the key, the value, and what is allowed."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from .declared import DECLARED, STRICT, ConnectionRow, Names, PopulationRow, RegionConnectionRow, check_rows
from .errors import ExperimentError
from .experiment_file import SIMULATORS, find, read, requirement_set, shipped

__all__ = ["Experiment", "find", "load", "shipped", "user_function", "validate"]

Regions = Annotated[list[str | int], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


class Section(BaseModel):
    model_config = STRICT


class Monitor(Section):
    """A TVB monitor by class name; further keys are the monitor's own (period [ms], variables_of_interest, …)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "TemporalAverage"
    period: float | None = Field(None, gt=0)


class TvbSection(Section):
    """The TVB program. `build` names a function of one's own that returns a TVB Simulator; it then sees `params`."""

    build: str | None = None
    params: dict[str, Any] = {}
    model: str = "WilsonCowan"
    model_params: dict[str, float | list[float]] = {}
    connectivity: str = "connectivity_68.zip"
    speed: float = Field(4.0, gt=0)  # mm/ms
    normalize_weights: Literal["none", "max", "region"] = "max"
    coupling: str = "Linear"
    coupling_params: dict[str, float | list[float]] = {}
    integrator: str = "HeunStochastic"
    dt: float = Field(0.1, gt=0)  # ms
    nsig: float | list[float] = 0.0  # noise dispersion, one value or one per state variable
    initial_state: dict[str, float] | None = None  # constant history per state variable; else TVB's own, seeded
    monitors: list[Monitor] = [Monitor(period=1.0)]


class SpikenetSection(Section):
    """One spiking program. `build` names a function that makes the network; it sees `params`. Or the network is
    declared, by lists of populations and connections (spikenet_side/declared.py). `prepare` names a function that gets
    the Network (spikenet_side/network.py) before the first window, to set and look at what is in it."""

    name: str = Field("spikenet", pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,30}$")
    simulator: str  # one of SIMULATORS, or "module:Class"
    regions: Regions = Field(min_length=1)
    build: str = "network:build"
    prepare: str | None = None
    params: dict[str, Any] = {}
    populations: list[PopulationRow] = []
    connections: list[ConnectionRow] = []
    region_connections: list[RegionConnectionRow] = []
    resolution: float = Field(0.1, gt=0)  # ms
    min_delay: float | None = Field(None, gt=0)  # ms; NEST's communication slice
    threads: int = Field(1, ge=1, le=1024)

    @field_validator("simulator")
    @classmethod
    def _known(cls, simulator: str) -> str:
        if requirement_set(simulator) is None:
            *names, last = map(repr, SIMULATORS)
            raise ValueError(f"must be {', '.join(names)} or {last}, or 'module:Class' for an adapter of your own")
        return simulator

    @model_validator(mode="before")
    @classmethod
    def _declared_or_built(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("populations"):
            if data.get("build", DECLARED) != DECLARED:
                raise ValueError(f"build = {data['build']!r}: the network is declared by populations; leave build out, "
                                 f"or leave them out and make the network in the build function")  # fmt: skip
            return {**data, "build": DECLARED}
        return data

    @model_validator(mode="after")
    def _rows_fit(self) -> SpikenetSection:
        check_rows(self.populations, self.connections, self.region_connections)
        return self


class Row(Section):
    """What both kinds of interface rows have in common."""

    voi: Names = Field(min_length=1)
    populations: Names = Field(min_length=1)
    spikenet: str | None = None  # the program; all of them when left out
    regions: Regions | None = None  # regions of the program; all of them when left out
    transformer: Names | None = None  # one, or several in a chain
    transformer_params: dict[str, Any] = {}  # of a chain, a table of such tables by name


class TvbToSpikenet(Row):
    model: Literal["RATE", "SPIKES", "CURRENT"] = "RATE"
    coupling_mode: Literal["TVB", "spikeNet"] = "TVB"
    sources: Regions | None = None  # coupling_mode "spikeNet": the TVB regions that get proxies; all when left out
    proxy_params: dict[str, Any] = {}


class SpikenetToTvb(Row):
    model: Literal["SPIKES", "POTENTIAL"] = "SPIKES"
    initial_rate: float = 0.0  # what the region sends from before t = 0: Hz, or mV for a POTENTIAL

    @model_validator(mode="after")
    def _no_negative_rate(self) -> SpikenetToTvb:
        if self.model == "SPIKES" and self.initial_rate < 0:
            raise ValueError(f"initial_rate = {self.initial_rate}: a rate must be greater than or equal to 0")
        return self


class Interfaces(Section):
    exclusive_nodes: bool = True
    # the variables of a spiking region that no row delivers: unknown, and refused where others read them; or computed
    # by TVB's own model of the region from those that are delivered
    undelivered: Literal["refuse", "follow"] = "refuse"
    tvb_to_spikenet: list[TvbToSpikenet] = []
    spikenet_to_tvb: list[SpikenetToTvb] = []


class Exchange(Section):
    transport: Literal["shm", "file", "memory"] = "shm"
    mode: Literal["parallel", "serial"] = "parallel"
    synchronization_time: float | Literal["min_delay"] = "min_delay"  # ms
    bridge: Literal["receiver", "own"] = "receiver"
    record: bool = True
    depth: int = Field(8, ge=1, le=1024)  # frames in flight per channel
    keep: int = Field(-1, ge=-1)  # file transport: frame files kept behind the reader; -1 keeps all
    hold_s: float = Field(0.0, ge=0)  # how long the others wait for a program that died to be resumed; 0: they end

    @model_validator(mode="after")
    def _something_to_resume_from(self) -> Exchange:
        if self.hold_s and not self.record:
            raise ValueError("hold_s needs record = true: a program is resumed from its recording")
        if self.hold_s and self.transport == "memory":
            raise ValueError("hold_s needs transport = 'shm' or 'file': in one process all programs die together")
        return self


class Environments(Section):
    """Requirements beyond the defaults, such as "nest-simulator==3.10.0": of TVB, of all spiking programs, and, as
    further keys, of single ones by their names. python: the interpreters, by the same keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, str]
    tvb: str = ""
    spikenet: str = ""
    python: dict[str, str] = {}


class Experiment(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,60}$")
    duration: float = Field(gt=0)  # ms
    seed: int = Field(0, ge=0, lt=2**31)
    description: str = ""
    tvb: TvbSection
    spikenet: Annotated[
        list[SpikenetSection], BeforeValidator(lambda value: value if isinstance(value, list) else [value])
    ] = Field(min_length=1)
    interfaces: Interfaces
    exchange: Exchange = Exchange()
    environments: Environments = Environments()

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        for key, value in self.flat().items():  # in the free tables, too: as JSON it could not be compared or kept
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, float) and not math.isfinite(each):
                    raise ValueError(f"{key} = {value}: must be a finite number")
        names = [program.name for program in self.spikenet]
        for reserved in ("tvb", "bridge", "python"):
            if reserved in names:
                raise ValueError(f"spikenet.name = {reserved!r} is reserved; choose another name")
        if len(set(names)) < len(names):
            raise ValueError(f"spikenet.name must differ between the spiking programs, found {names}")
        sides = list(dict.fromkeys(["tvb", "spikenet", *names]))
        for table, entries, known in (
            ("environments", self.environments.model_extra or {}, [*sides, "python"]),
            ("environments.python", self.environments.python, sides),
        ):
            if unknown := [key for key in entries if key not in known]:
                raise ValueError(f"{table}.{unknown[0]} = {entries[unknown[0]]!r}: unknown key. Known here: "
                                 f"{', '.join(known)}")  # fmt: skip
        both = [program.name for program in self.spikenet if program.region_connections]
        if both and not self.interfaces.exclusive_nodes:
            raise ValueError(
                f"interfaces.exclusive_nodes = false, and {both[0]} has region_connections: the tracts among its "
                f"regions would be there twice, in TVB and in the network. Leave one of the two out"
            )
        if not self.interfaces.tvb_to_spikenet and not self.interfaces.spikenet_to_tvb:
            raise ValueError("interfaces: no row in either direction; add [[interfaces.tvb_to_spikenet]] or "
                             "[[interfaces.spikenet_to_tvb]]")  # fmt: skip
        for direction in ("tvb_to_spikenet", "spikenet_to_tvb"):
            for i, row in enumerate(getattr(self.interfaces, direction)):
                where = f"interfaces.{direction}.{i}"
                if row.spikenet is not None and row.spikenet not in names:
                    raise ValueError(f"{where}.spikenet = {row.spikenet!r}: no such spiking program; there is {names}")
                # a transformer may take several variables for one population; TVB's side knows which
                if row.transformer is None and len(row.voi) not in (1, len(row.populations)):
                    raise ValueError(f"{where}: voi = {row.voi} and populations = {row.populations} must have the same "
                                     f"length, or voi a single entry")  # fmt: skip
        return self

    def program(self, name: str) -> SpikenetSection:
        return next(program for program in self.spikenet if program.name == name)

    @property
    def peers(self) -> list[str]:
        """The programs of a run, TVB first."""
        bridge = ["bridge"] if self.exchange.bridge == "own" else []
        return ["tvb", *(program.name for program in self.spikenet), *bridge]

    def flat(self) -> dict[str, Any]:
        """Every key with its value, as `tvb.dt`, `interfaces.tvb_to_spikenet.0.model`."""
        return flatten(self.model_dump())


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists of dicts as one dict with dotted keys; lists of plain values stay."""
    items: list[tuple[str, Any]]
    if isinstance(value, dict) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat


def load(name_or_path: str, overrides: list[str] | None = None) -> tuple[Experiment, Path]:
    """The validated experiment, overrides applied (``["exchange.transport=file", "duration=200"]``), and its file.

    Raises ExperimentError naming the key, the value and what is allowed.
    """
    data, path = read(name_or_path, overrides)
    return validate(data, str(path)), path


def validate(data: dict[str, Any], source: str) -> Experiment:
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        lines = [f"  {_explain(item)}" for item in error.errors()]
        raise ExperimentError("\n".join([f"{source} is not a valid experiment:", *lines])) from None


def _explain(item: Any) -> str:
    """One line for one pydantic error: the key, the value, and what is allowed."""
    location = list(item["loc"])
    while location and isinstance(location[-1], str) and location[-1].startswith(("function-", "list[", "literal[")):
        location.pop()
    key = ".".join(str(part) for part in location if part not in ("float", "str", "int"))
    value = item["input"]
    if item["type"] == "extra_forbidden":
        allowed = _keys_at(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"{key} = {value!r}: unknown key.{hint} Known here: {', '.join(allowed)}."
    if item["type"] == "missing":
        return f"{key}: missing."
    message = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if not key:
        return f"{message}."
    shown = "" if isinstance(value, dict | list) else f" = {value!r}"
    return f"{key}{shown}: {message}."


def _keys_at(location: list[Any]) -> list[str]:
    """The keys that a section knows, found by following the field types from the top."""
    here: Any = Experiment
    for part in location:
        fields = here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else {}
        if part in fields:
            here = _section_in(fields[part].annotation)
    return sorted(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _section_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (list, Annotated, Union):
        return next((found for arg in get_args(annotation) if (found := _section_in(arg)) is not None), None)
    return None


def user_function(reference: str, folder: Path, key: str) -> Callable[..., Any]:
    """The function that "module:function" names, the module being a file beside the experiment, or installed.

    Raises ExperimentError naming `key` when there is no such file or function.
    """
    module_name, colon, function_name = reference.partition(":")
    if not colon or not function_name.isidentifier():
        raise ExperimentError(f"{key} = {reference!r}: expected 'module:function', for example 'model:build'.")
    file = folder / (module_name.replace(".", "/") + ".py")
    _forget_others(folder)
    if file.is_file():
        module = _load_file(file, module_name)
    else:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name != module_name:
                raise
            raise ExperimentError(f"{key} = {reference!r}: there is no file {file} and no such module.") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, item in vars(module).items() if callable(item) and not name.startswith("_")]
        raise ExperimentError(f"{key} = {reference!r}: {module_name} has no such function; it has {', '.join(names)}.")
    return function


_folders: list[Path] = []  # on sys.path, of the experiment that was loaded last


def _forget_others(folder: Path) -> None:
    """Another experiment in this process may have a network.py, too, which is not the neighbour that is meant."""
    for other in [each for each in _folders if each != folder]:
        _folders.remove(other)
        with contextlib.suppress(ValueError):
            sys.path.remove(str(other))
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file is not None and Path(file).parent == other and "lockstep_experiment_" not in name:
                del sys.modules[name]


def _load_file(file: Path, name: str) -> ModuleType:
    """The module in `file`, under a name of its own so that two experiments may both have a model.py."""
    spec = importlib.util.spec_from_file_location(f"lockstep_experiment_{file.parent.name}_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # the module may import its neighbours
        _folders.append(file.parent)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
