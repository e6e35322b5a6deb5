"""A TVB Simulator from the [tvb] section of an experiment. Unknown names are errors that list the valid ones."""

from __future__ import annotations

import difflib
import importlib.resources
import inspect
import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..bridges.errors import ExperimentError, noting
from ..bridges.experiment import Monitor, TvbSection, user_function
from .library import (
    Attr,
    Connectivity,
    Float,
    HasTraits,
    Int,
    NArray,
    Simulator,
    TraitError,
    coupling,
    integrators,
    monitors,
    noise,
)
from .models import model_class, model_names

LOG = logging.getLogger(__name__)
# monitors that need more than a TOML file can say, or that lockstep replaces
NOT_IN_TOML = ("Monitor", "Projection", "EEG", "MEG", "iEEG", "BoldRegionROI", "ProgressLogger")


def build_simulator(section: TvbSection, seed: int, folder: Path) -> Simulator:
    """The Simulator that `section` describes, or that its `build` function (of a module in `folder`) returns.

    It is not configured yet (a function of one's own may have done it: RegionSimulation configures again). `seed` seeds
    the initial history and the noise of stochastic integrators; initial conditions and a noise seed that a function of
    one's own has set: the former are kept, the latter is overruled.

    Raises ExperimentError for unknown names (with the valid ones), and for values that TVB's traits refuse.
    """
    if section.build is not None:
        with noting(f"tvb.build = {section.build!r}"):
            simulator = user_function(section.build, folder, "tvb.build")(section)
        if not isinstance(simulator, Simulator):
            raise ExperimentError(f"tvb.build = {section.build!r}: it has to return a TVB Simulator, it returned "
                                  f"{type(simulator).__name__}.")  # fmt: skip
        seed_simulator(simulator, seed)
        return simulator
    conn = _connectivity(section, folder)
    model = _model(section, len(conn.weights))
    simulator = Simulator(
        connectivity=conn,
        conduction_speed=section.speed,
        model=model,
        coupling=_coupling(section),
        integrator=_integrator(section, model, seed),
        monitors=_monitors(section, model),
    )
    seed_simulator(simulator, seed, section.initial_state)
    return simulator


def seed_simulator(simulator: Simulator, seed: int, constant: Mapping[str, float] | None = None) -> None:
    """Make what TVB draws reproducible: the noise, and the initial history, which a deterministic run would take from
    numpy's global generator. constant: state variables whose history is one value instead.

    Without `constant` and with a stochastic integrator these are the numbers of a plain TVB run with that noise seed.
    """
    model, integrator = simulator.model, simulator.integrator
    if (stochastic := getattr(integrator, "noise", None)) is not None:
        stochastic.noise_seed = seed
        stochastic.reset_random_stream()
    variables = list(model.state_variables)
    for name in constant or {}:
        if name not in variables:
            raise ExperimentError(f"tvb.initial_state.{name}: {_unknown(name, variables, 'state variable')}")

    def initial(using: Any, shape: tuple[int, ...]) -> np.ndarray:
        own = getattr(using, "noise", None)
        generator = np.random.RandomState(seed) if own is None else own.random_stream
        history = model.initial(using.dt, shape, generator)
        for name, value in (constant or {}).items():
            history[:, variables.index(name)] = value
        return history

    model.initial_for_simulator = initial


def _unknown(name: str, valid: Collection[str], what: str) -> str:
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    rest = [other for other in sorted(valid) if other not in close]
    return f"unknown {what} {name!r}; there is {', '.join([*close, *rest]) or 'none'}."


def _classes(module: ModuleType, base: type, leave_out: Collection[str]) -> dict[str, type]:
    return {
        name: item
        for name, item in vars(module).items()
        if inspect.isclass(item) and issubclass(item, base) and item.__module__ == module.__name__
        and name not in leave_out and not name.startswith("_")
    }  # fmt: skip


def _choose(name: str, valid: dict[str, type], key: str, what: str) -> Any:
    if name not in valid:
        raise ExperimentError(f"tvb.{key} = {name!r}: {_unknown(name, valid, what)}")
    return valid[name]


def _connectivity(section: TvbSection, folder: Path) -> Connectivity:
    shipped = {}
    try:
        data = importlib.resources.files("tvb_data.connectivity")
        shipped = {item.name: Path(str(item)) for item in data.iterdir() if item.name.endswith((".zip", ".h5"))}
    except ModuleNotFoundError:
        pass
    name = section.connectivity
    candidates = [folder / name, shipped.get(name), shipped.get(f"{name}.zip")]
    path = next((path for path in candidates if path is not None and path.is_file()), None)
    if path is None:
        source = f"tvb-data has {', '.join(sorted(shipped))}" if shipped else "tvb-data is not installed"
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ExperimentError(f"tvb.connectivity = {name!r}: neither a file beside the experiment nor a full path, nor "
                              f"one of tvb-data's.{hint} {source}.")  # fmt: skip
    try:
        conn = Connectivity.from_file(str(path))
    except Exception as error:  # whatever a broken archive or table raises in TVB's readers
        raise ExperimentError(f"tvb.connectivity = {name!r}: {path} cannot be read as a TVB connectivity: "
                              f"{error}.") from error  # fmt: skip
    conn.speed = np.array([section.speed])
    if section.normalize_weights == "max":
        conn.weights = conn.weights / conn.weights.max()
    elif section.normalize_weights == "region":
        sums = conn.weights.sum(axis=1, keepdims=True)
        conn.weights = np.divide(conn.weights, sums, out=np.zeros_like(conn.weights), where=sums != 0)
    if not np.isfinite(conn.weights).all():
        raise ExperimentError(f"tvb.connectivity = {name!r}: weights that are not finite (normalize_weights = "
                              f"{section.normalize_weights!r}).")  # fmt: skip
    return conn


def _model(section: TvbSection, n_regions: int) -> Any:
    if section.model not in (names := model_names()):
        raise ExperimentError(f"tvb.model = {section.model!r}: {_unknown(section.model, names, 'model')}")
    model = model_class(section.model)()
    _set(model, section.model_params, "tvb.model_params", (1, n_regions))
    return model


def _coupling(section: TvbSection) -> Any:
    classes = _classes(coupling, coupling.Coupling, ("Coupling", "SparseCoupling"))
    function = _choose(section.coupling, classes, "coupling", "coupling")()
    _set(function, section.coupling_params, "tvb.coupling_params", (1,))
    return function


def _integrator(section: TvbSection, model: Any, seed: int) -> Any:
    abstract = ("Integrator", "IntegratorStochastic")
    classes = _classes(integrators, integrators.Integrator, abstract)
    chosen = _choose(section.integrator, classes, "integrator", "integrator")
    nsig = np.atleast_1d(np.asarray(section.nsig, dtype=float))
    if not issubclass(chosen, integrators.IntegratorStochastic):
        if nsig.any():
            raise ExperimentError(f"tvb.nsig = {section.nsig}: {section.integrator} has no noise. Take a stochastic "
                                  f"integrator, for example HeunStochastic, or leave nsig out.")  # fmt: skip
        return chosen(dt=section.dt)
    noisy = [name for name in model.state_variables if name not in (model.non_integrated_variables or ())]
    if len(nsig) not in (1, len(noisy)) or (nsig < 0).any():
        raise ExperimentError(
            f"tvb.nsig = {section.nsig}: one value, or one for each of {section.model}'s state variables "
            f"({', '.join(noisy)}), and none below zero."
        )
    # the seed given here counts; set on the finished object TVB would ignore it
    return chosen(dt=section.dt, noise=noise.Additive(nsig=nsig, noise_seed=seed))


def _monitors(section: TvbSection, model: Any) -> tuple[Any, ...]:
    classes = _classes(monitors, monitors.Monitor, NOT_IN_TOML)
    default = list(model.variables_of_interest)
    built = []
    for i, asked in enumerate(section.monitors):
        key = f"monitors.{i}"
        if asked.name in NOT_IN_TOML and hasattr(monitors, asked.name):
            raise ExperimentError(
                f"tvb.{key}.name = {asked.name!r}: it cannot be made from an experiment file; make it in a tvb.build "
                f"function. Here there is {', '.join(sorted(classes))}."
            )
        monitor = _choose(asked.name, classes, f"{key}.name", "monitor")()
        params = dict(asked.model_extra or {})
        voi = params.pop("variables_of_interest", None)
        if asked.period is not None:
            params["period"] = asked.period
        _set(monitor, params, f"tvb.{key}", None)
        _check_period(asked, monitor, section.dt, f"tvb.{key}")
        built.append((monitor, voi, f"tvb.{key}"))
    _select_variables(built, model, default)
    return tuple(monitor for monitor, _, _ in built)


def _check_period(asked: Monitor, monitor: Any, dt: float, key: str) -> None:
    """TVB rounds a period to whole steps without a word; the time stamps are then of another period."""
    if isinstance(monitor, monitors.Raw) and not isinstance(monitor, monitors.AfferentCouplingTemporalAverage):
        return  # every step
    steps = round(monitor.period / dt)
    if asked.period is None and abs(steps * dt - monitor.period) > 1e-9 * dt:
        monitor.period = max(1, steps) * dt  # TVB's default of 1000/1024 ms is for other steps
    elif steps < 1 or abs(steps * dt - monitor.period) > 1e-6 * dt:
        raise ExperimentError(f"{key}.period = {monitor.period} ms is not a multiple of tvb.dt = {dt} ms. The nearest "
                              f"that is: {max(1, steps) * dt:g}.")  # fmt: skip
    if isinstance(monitor, monitors.Bold) and abs(round(4 / dt) * dt - 4) > 1e-6:
        raise ExperimentError(f"{key}: {asked.name} samples every 4 ms; tvb.dt = {dt} ms has to divide that.")


def _select_variables(built: list[tuple[Any, Any, str]], model: Any, default: list[str]) -> None:
    """Give the monitors their variables of interest by name. TVB wants indices into the model's list, which holds some
    of the state variables only; those asked for besides are appended, and monitors that ask for none keep the list
    as it was."""
    variables = list(model.state_variables)
    cvars = [variables[i] for i in model.cvar]
    watchable = type(model).variables_of_interest.element_choices or variables
    offered, chosen = list(default), []
    for monitor, voi, key in built:
        afferent = isinstance(monitor, monitors.AfferentCoupling)
        asked = [voi] if isinstance(voi, str | int) else voi
        standard = cvars if afferent else default
        names: Iterable[Any] = asked or standard
        watched = [variable for variable in variables if variable in watchable]
        valid = cvars if afferent else list(dict.fromkeys([*watched, *default]))
        for name in names:
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise ExperimentError(f"{key}.variables_of_interest = {voi}: names or indices of {', '.join(valid)}.")
            if isinstance(name, int) and not 0 <= name < len(standard):
                raise ExperimentError(f"{key}.variables_of_interest = {voi}: indices count through "
                                      f"{', '.join(standard)}; or give names.")  # fmt: skip
            if isinstance(name, str) and name not in valid:
                raise ExperimentError(f"{key}.variables_of_interest: {_unknown(name, valid, 'variable')}")
            if isinstance(name, str) and not afferent and name not in offered:
                offered.append(name)
        among = cvars if afferent else offered
        chosen.append([name if isinstance(name, int) else among.index(name) for name in names])
    model.variables_of_interest = offered
    for (monitor, _, _), indices in zip(built, chosen, strict=True):
        monitor.variables_of_interest = np.array(indices, dtype=int)


def parameters(cls: type[HasTraits]) -> dict[str, Attr]:
    """The declared attributes of a TVB class that a file can set: numbers, texts and arrays of numbers."""
    declared = {name: getattr(cls, name) for name in cls.declarative_attrs}
    return {
        name: attr for name, attr in declared.items()
        if (isinstance(attr, NArray | Float | Int) or attr.field_type in (bool, str, int, float))
        and name not in ("gid", "variables_of_interest")
    }  # fmt: skip


def _set(target: HasTraits, params: Mapping[str, Any], key: str, sizes: tuple[int, ...] | None) -> None:
    """Set declared attributes of a TVB object; arrays from numbers and lists of one of `sizes` elements."""
    own = parameters(type(target))
    for name, value in params.items():
        if name not in own:
            what = f"parameter of {type(target).__name__}"
            raise ExperimentError(f"{key}.{name}: {_unknown(name, own, what)}")
        attr = own[name]
        if isinstance(attr, NArray):
            value = np.atleast_1d(np.asarray(value, dtype=attr.dtype))
            if sizes is not None and value.size not in sizes:
                wanted = "one value" if len(sizes) == 1 else f"one value, or one per region ({sizes[-1]})"
                raise ExperimentError(f"{key}.{name}: {value.size} values; it takes {wanted}.")
            domain = attr.domain
            lowest, highest = (getattr(domain, bound, None) for bound in ("lo", "hi"))
            if lowest is not None and highest is not None and ((value < lowest) | (value > highest)).any():
                LOG.warning("%s.%s = %s lies outside the range TVB suggests for it, %g to %g.",
                            key, name, params[name], lowest, highest)  # fmt: skip
        try:
            setattr(target, name, value)
        except TraitError as error:
            raise ExperimentError(f"{key}.{name} = {params[name]!r}: TVB refuses it: {error.message}") from error


__all__ = ["build_simulator", "parameters", "seed_simulator"]
