"""The `[tune]` section and its search space. Light to import: no Optuna here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, StrictFloat, StrictInt, ValidationError, model_validator

from ..recsys.config import Seed

Value = bool | int | float | str


class TuneConfig(BaseModel, frozen=True, extra="forbid"):
    """`[tune]`: how long to search, and over what; `parse_space` reads and checks `space`."""

    trials: Annotated[int, Field(ge=1)] = 30  # in all, those of earlier calls included
    workers: Annotated[int, Field(ge=1)] = 1  # processes that train at the same time
    seed: Seed = 0  # of the sampler; every trial trains with train.seed
    space: dict[str, Any] | None = None  # setting -> range or list; default: the grid of the model's paper


class Range(BaseModel, frozen=True, extra="forbid"):
    """All numbers from `low` to `high`, whole ones if both are; drawn by their logarithm with `log`."""

    low: StrictInt | StrictFloat
    high: StrictInt | StrictFloat
    step: StrictInt | StrictFloat | None = None
    log: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 where log = true, found {self.low}")
        if self.step is not None:
            self._check_step(self.step)
        return self

    def _check_step(self, step: float) -> None:
        if self.log:
            raise ValueError("step and log = true exclude each other")
        steps = (self.high - self.low) / step if step > 0 else 0.5
        if abs(steps - round(steps)) > 1e-9 or (self.whole and not isinstance(step, int)):
            raise ValueError(f"from {self.low} to {self.high} is no whole number of steps of {step}")

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def size(self) -> int | None:
        """How many values there are; None for a continuum."""
        step = self.step or (1 if self.whole else None)
        return None if step is None else round((self.high - self.low) / step) + 1

    def probes(self) -> tuple[Any, ...]:
        """The values that a mistake would show in."""
        return self.low, self.high

    def draw(self, rng: np.random.Generator) -> Value:
        """A value at random, of a range that has a `size`."""
        assert self.size is not None
        return self.low + int(rng.integers(self.size)) * (self.step or 1)

    def setting(self, drawn: Value) -> Any:
        """What to put into the configuration for a drawn value."""
        return drawn


@dataclass(frozen=True, slots=True)
class Choices:
    """One of `values`, without an order; values that are no scalars are drawn as their JSON."""

    values: tuple[Any, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def drawn(self) -> tuple[Value, ...]:
        return tuple(v if isinstance(v, Value) else json.dumps(v) for v in self.values)

    def probes(self) -> tuple[Any, ...]:
        return self.values

    def draw(self, rng: np.random.Generator) -> Value:
        return self.drawn[int(rng.integers(len(self.values)))]

    def setting(self, drawn: Value) -> Any:
        return self.values[self.drawn.index(drawn)]


Space = dict[str, Range | Choices]


def parse_space(raw: Mapping[str, Any]) -> tuple[Space, list[str]]:
    """The search space of a `[tune.space]` table, and one line for every mistake in it.

    Keys may be quoted ("train.dim" = ...) or nested (train.dim = ...); lists are choices, tables ranges.
    """
    space: Space = {}
    problems: list[str] = []
    for key, value in _flat(raw):
        try:
            space[key] = _choices(value) if isinstance(value, list | tuple) else Range.model_validate(value)
        except ValidationError as error:
            problems += [f"tune.space.{key}: {_explain(detail)}" for detail in error.errors()]
        except ValueError as error:
            problems.append(f"tune.space.{key}: {error}")
    return space, list(dict.fromkeys(problems))


def size(space: Space) -> int | None:
    """The number of settings in a space; None where one of its ranges is a continuum."""
    sizes = [dimension.size for dimension in space.values()]
    return math.prod(each for each in sizes if each) if None not in sizes else None


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value and not set(value) & set(Range.model_fields):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choices(values: list[Any] | tuple[Any, ...]) -> Choices:
    choices = Choices(tuple(values))
    if not values or len(set(choices.drawn)) < len(values):
        raise ValueError(f"expected a list of different values, found {list(values)!r}")
    return choices


def _explain(detail: Any) -> str:
    key = detail["loc"][0] if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}' of a range; known: {', '.join(Range.model_fields)}"
    if detail["type"] == "missing":
        return f"a range needs '{key}': {{ low = 1, high = 4 }}"
    if detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    if not key:
        return f"expected a list of values or a range {{ low = 1, high = 4 }}, found {detail['input']!r}"
    return f"{key}: expected {'true or false' if key == 'log' else 'a number'}, found {detail['input']!r}"
