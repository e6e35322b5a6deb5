"""Finding an experiment.toml and reading it, overrides applied, not yet validated.

On the standard library alone: the bootstrap has to know which simulator an experiment names before there is any
environment. Everybody else goes through :func:`tvb_lockstep.bridges.experiment.load`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from .errors import ExperimentError

SIMULATORS = ("nest", "annarchy", "netpyne")
OWN = "own"  # the requirement set of a simulator of the user's: the toolkit alone


def requirement_set(simulator: object) -> str | None:
    """The requirement set of what an experiment names as its simulator: one of SIMULATORS, or "module:Class", an
    adapter of the user's own; None when it is neither."""
    if simulator in SIMULATORS:
        return str(simulator)
    module, _, adapter = simulator.partition(":") if isinstance(simulator, str) else ("", "", "")
    return OWN if adapter.isidentifier() and all(part.isidentifier() for part in module.split(".")) else None


def shipped() -> dict[str, Path]:
    """The experiments that come with the toolkit, by name."""
    folder = Path(__file__).resolve().parent.parent / "scripts" / "experiments"
    return {path.parent.name: path for path in sorted(folder.glob("*/experiment.toml"))}


def find(name_or_path: str) -> Path:
    """The experiment.toml meant by a shipped name, a folder or a file."""
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "experiment.toml"
    if path.is_file():
        return path.resolve()
    if name_or_path in shipped():
        return shipped()[name_or_path]
    raise ExperimentError(
        f"There is no experiment {name_or_path!r}: neither a folder with an experiment.toml, nor a .toml file, nor one "
        f"of the experiments that come with lockstep: {', '.join(shipped())}."
    )


def read(name_or_path: str, overrides: list[str] | None = None) -> tuple[dict[str, Any], Path]:
    """The tables of the experiment, overrides applied, `spikenet` always a list; and the file they come from."""
    path = find(name_or_path)
    try:
        data = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} is not valid TOML: {error}.") from None
    if isinstance(data.get("spikenet"), dict):
        data["spikenet"] = [data["spikenet"]]
    data.setdefault("name", path.parent.name)
    for override in overrides or []:
        _override(data, override)
    return data, path


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise ExperimentError(f"--set {override}: expected KEY=VALUE, for example --set exchange.transport=file.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    target: Any = data
    for i, part in enumerate(keys):
        key_here: Any = part
        if isinstance(target, list):
            if not part.isdigit() and len(target) == 1:
                target = target[0]  # with one spiking program its number may be left out: spikenet.simulator
            elif part.isdigit() and int(part) < len(target):
                key_here = int(part)
            else:
                raise ExperimentError(
                    f"--set {override}: {'.'.join(keys[:i])} is a list of {len(target)}; go on with a number from 0 to "
                    f"{len(target) - 1}, as in {'.'.join([*keys[:i], '0', *keys[i + part.isdigit() :]])}."
                )
        if isinstance(key_here, str) and not isinstance(target, dict):
            raise ExperimentError(f"--set {override}: {'.'.join(keys[:i])} is a value, it has no key {part!r}.")
        if i == len(keys) - 1:
            target[key_here] = value
        else:
            target = target[key_here] if isinstance(target, list) else target.setdefault(part, {})
