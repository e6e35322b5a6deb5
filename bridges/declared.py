"""A network declared as lists in ``experiment.toml``: the rows of its populations and connections, validated.

What they mean, and how they are drawn, is in spikenet_side/declared.py.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# The arguments of numpy's Generator that draw the values, as numpy calls them.
DISTRIBUTIONS = {
    "uniform": ("low", "high"),
    "normal": ("loc", "scale"),
    "lognormal": ("mean", "sigma"),
    "exponential": ("scale",),
    "gamma": ("shape", "scale"),
}
NOT_NEGATIVE = ("scale", "sigma", "shape")
DECLARED = "populations"  # what stands for the name of a build function


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_distribution(value: dict[str, Any]) -> dict[str, Any]:
    """A table such as ``{ distribution = "uniform", low = -60.0, high = -50.0 }``. Raises ValueError."""
    name = value.get("distribution")
    if name not in DISTRIBUTIONS:
        raise ValueError(f"distribution = {name!r}: must be one of {', '.join(DISTRIBUTIONS)}")
    expected = ("distribution", *DISTRIBUTIONS[name])
    if set(value) != set(expected) or not all(is_number(value[key]) for key in expected[1:]):
        raise ValueError(f"{value}: a {name} distribution has {', '.join(expected[1:])}, each a number")
    not_below = [value.get("high", 0.0) - value.get("low", 0.0), *(value.get(key, 0.0) for key in NOT_NEGATIVE)]
    if min(not_below) < 0:
        raise ValueError(f"{value}: high must not be below low, and scale, sigma, shape not below 0")
    return value


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return check_distribution(value)
    if not is_number(value):
        raise ValueError(
            'must be a number, or a distribution such as { distribution = "uniform", low = 0.0, high = 1.0 }'
        )
    return value


def _parameter(value: Any) -> Any:
    return check_distribution(value) if isinstance(value, dict) and "distribution" in value else value


Value = Annotated[Any, AfterValidator(_value)]  # a number, or one for each neuron or synapse, drawn
Parameter = Annotated[Any, AfterValidator(_parameter)]  # whatever the simulator takes, or numbers, drawn
Names = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)  # of every table of an experiment


class DeclaredRow(BaseModel):
    model_config = STRICT


class PopulationRow(DeclaredRow):
    """Neurons of one model. regions: those that have them, all when left out; a label may come again for others.

    model, params, initial: by the simulator's own names, in its units. initial: what the state begins with.
    """

    label: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    model: str = Field(min_length=1)
    size: int = Field(ge=1)
    params: dict[str, Parameter] = {}
    initial: dict[str, Value] = {}
    regions: Names | None = Field(None, min_length=1)


class ConnectionRule(DeclaredRow):
    """What both kinds of connections have. label: names the row, and its random numbers; SOURCE->TARGET when left out.
    receptor: by the simulator's own number or name; when left out, what the sign of the weight asks for."""

    source: str
    target: str
    rule: Literal["all_to_all", "one_to_one", "fixed_indegree", "fixed_outdegree", "pairwise_bernoulli"] = "all_to_all"
    indegree: int | None = Field(None, ge=1)
    outdegree: int | None = Field(None, ge=1)
    p: float | None = Field(None, gt=0, le=1)
    allow_autapses: bool = False
    allow_multapses: bool = True
    receptor: int | str | None = None
    label: str = ""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("label") and "source" in data and "target" in data:
            return {**data, "label": f"{data['source']}->{data['target']}"}
        return data

    @model_validator(mode="after")
    def _of_the_rule(self) -> ConnectionRule:
        needed = {"fixed_indegree": "indegree", "fixed_outdegree": "outdegree", "pairwise_bernoulli": "p"}
        for rule, key in needed.items():
            if (getattr(self, key) is not None) != (self.rule == rule):
                raise ValueError(f"{key} = {getattr(self, key)}: {key} goes with rule = {rule!r}, and is needed there; "
                                 f"the rule of {self.label} is {self.rule!r}")  # fmt: skip
        return self


class ConnectionRow(ConnectionRule):
    """Connections within each region. weight: in the simulator's unit, negative when it inhibits. delay [ms]: a spike
    of step n arrives in step n + delay / resolution. regions: those that have them, all when left out."""

    weight: Value
    delay: Value
    regions: Names | None = Field(None, min_length=1)


class RegionConnectionRow(ConnectionRule):
    """Connections between regions of the program, as TVB's connectome has them: weight = factor x its weight, delay =
    its delay, rounded to the resolution. None where its weight is 0, and none within a region."""

    factor: Value
    source_regions: Names | None = Field(None, min_length=1)
    target_regions: Names | None = Field(None, min_length=1)


def check_rows(
    populations: list[PopulationRow], connections: list[ConnectionRow], region_connections: list[RegionConnectionRow]
) -> None:
    """What rows must be among each other. Raises ValueError naming the row and the key."""
    seen: dict[str, list[set[str] | None]] = {}
    for i, row in enumerate(populations):
        own = None if row.regions is None else set(row.regions)
        if any(own is None or other is None or own & other for other in seen.get(row.label, [])):
            raise ValueError(f"populations.{i}.label = {row.label!r}: there is such a population already; give each a "
                             f"label of its own, or regions of its own")  # fmt: skip
        seen.setdefault(row.label, []).append(own)
    for name, rows in (("connections", connections), ("region_connections", region_connections)):
        labels: set[str] = set()
        for i, connection in enumerate(rows):
            for key in ("source", "target"):
                if getattr(connection, key) not in seen:
                    raise ValueError(f"{name}.{i}.{key} = {getattr(connection, key)!r}: there is no such population; "
                                     f"there is {', '.join(seen)}")  # fmt: skip
            if connection.label in labels:
                raise ValueError(f"{name}.{i}.label = {connection.label!r}: another row has it, too, and random "
                                 f"numbers hang on it; give each row a label of its own")  # fmt: skip
            labels.add(connection.label)
    if not populations and (connections or region_connections):
        raise ValueError("connections without populations: declare them as [[spikenet.populations]]")
