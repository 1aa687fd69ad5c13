"""A sweep as it stands in its file: a base configuration, axes of changes to it, and the cells they span."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from ..features.files import digest_json
from ..recsys.config import METRIC, Seed
from ..stages.measured import SPLIT_TITLES
from .config import Config, ConfigError, build_config, load_sections, nearest, set_value

Overrides = list[tuple[tuple[str, ...], Any]]
_TAKEN: dict[tuple[str, ...], str] = {
    ("train", "seed"): "every cell takes all of sweep.seeds",
    ("run", "output"): "every cell has a run folder in that of the sweep",
}


class Axis(BaseModel, frozen=True, extra="forbid"):
    """`[[sweep.axis]]`: a name, and either the values of one `key` or a table of changes for every label."""

    name: Annotated[str, Field(min_length=1)]
    key: str | None = None
    values: list[Any] | dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        if (self.key is None) != isinstance(self.values, dict):
            raise ValueError("give a key and a list of values, or a table of changes for every label")
        labels = [str(value) for value in self.values]
        if not labels or len({slug(label).casefold() for label in labels}) < len(labels):
            raise ValueError(f"values must have different names, at least one; got {labels}")
        return self

    def overrides(self) -> dict[str, Overrides]:
        """Label -> the settings that it changes."""
        if isinstance(self.values, dict):
            return {label: list(leaves(table)) for label, table in self.values.items()}
        keys = tuple((self.key or "").split("."))
        return {str(value): [(keys, value)] for value in self.values}

    @model_validator(mode="after")
    def _free_keys(self) -> Axis:
        taken = {keys for changes in self.overrides().values() for keys, _ in changes} & set(_TAKEN)
        for keys in taken:
            raise ValueError(f"no axis can change {'.'.join(keys)}: {_TAKEN[keys]}")
        return self


class SweepConfig(BaseModel, frozen=True, extra="forbid"):
    """`[sweep]`: what is varied, and what is reported of it."""

    axis: Annotated[tuple[Axis, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)  # of training; default: that of the base
    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("test",)
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("recall@20", "ndcg@20")
    compare: tuple[str, ...] = ()  # labels that the other labels of their axis are tested against
    resamples: Annotated[int, Field(ge=1)] = 2000  # of users, for the intervals

    @field_validator("compare", mode="before")
    @classmethod
    def _one_or_more(cls, compare: Any) -> Any:
        return (compare,) if isinstance(compare, str) else compare

    @field_validator("splits")
    @classmethod
    def _evaluated(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [split for split in splits if split not in SPLIT_TITLES]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no such split; there are {', '.join(SPLIT_TITLES)}")
        return splits

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [metric for metric in metrics if not METRIC.match(metric)]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not NAME@K, such as recall@20")
        return metrics

    @model_validator(mode="after")
    def _distinct(self) -> SweepConfig:
        for what, names in (("seeds", self.seeds), ("axes", [axis.name for axis in self.axis])):
            if len(set(names)) < len(names):
                raise ValueError(f"two {what} are the same: {list(names)}")
        for label in self.compare:
            if len(self.axes_of(label)) != 1:
                known = [label for axis in self.axis for label in axis.overrides()]
                raise ValueError(f"compare: '{label}' is not a label of one axis; {nearest(label, known)}")
        return self

    def axes_of(self, label: str) -> list[int]:
        """Positions of the axes that have this label."""
        return [position for position, axis in enumerate(self.axis) if label in axis.overrides()]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the sweep."""

    labels: tuple[str, ...]  # one of every axis
    seed: int
    config: Config  # with a run folder of its own

    @property
    def name(self) -> str:
        return f"{' / '.join(self.labels)}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Grid:
    config: SweepConfig
    folder: Path  # of the sweep
    cells: tuple[Cell, ...]  # all of them, the last axis changing fastest, seeds within


def load_grid(path: Path, overrides: Sequence[str] = (), output: Path | None = None) -> Grid:
    """The checked sweep in `path`. `overrides` change the base; where an axis sets the same key, it wins.

    Raises `ConfigError` that lists the mistakes of all cells, FileNotFoundError for a missing file.
    """
    sections = load_sections(path, overrides, output)
    raw = sections.pop("sweep", None)
    if raw is None:
        raise ConfigError(f"{path}: no [sweep] section; see examples/cliper-ablation.toml")
    try:
        config = SweepConfig.model_validate(raw)
    except ValidationError as error:
        lines = [f"{path}: {explain(detail)}" for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from error
    base = build_config(sections, source=str(path))
    if "seeds" not in config.model_fields_set:
        config = config.model_copy(update={"seeds": (base.train.seed,)})
    cells, problems = [], []
    for labels in product(*(axis.overrides() for axis in config.axis)):
        changed = deepcopy(sections)
        for axis, label in zip(config.axis, labels, strict=True):
            for keys, value in axis.overrides()[label]:
                set_value(changed, keys, value, path.parent)
        try:
            of_labels = build_config(changed, source=f"{path}, {' / '.join(labels)}")
        except ConfigError as error:
            problems.append(str(error))
            continue
        cells += [_cell(labels, seed, of_labels, base) for seed in config.seeds]
    problems += [f"{path}: {problem}" for problem in _missing_cutoffs(config, cells)] if cells else []
    problems += [f"{path}: {problem}" for problem in _shared_encoders(cells)]
    if problems:
        raise ConfigError("\n".join(problems))
    return Grid(config, base.output, tuple(cells))


def explain(detail: Any) -> str:
    """A mistake in [sweep]: where it stands and what it is."""
    key = ".".join(["sweep", *(str(part) for part in detail["loc"] if part not in ("list", "dict"))])
    if detail["type"] == "extra_forbidden":
        fields = Axis.model_fields if "axis" in detail["loc"] else SweepConfig.model_fields
        return f"{key}: unknown key; {nearest(key.rpartition('.')[2], fields)}"
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}"


def _missing_cutoffs(config: SweepConfig, cells: Sequence[Cell]) -> list[str]:
    """Why a metric of the sweep is not evaluated."""
    cutoffs = set.intersection(*(set(cell.config.evaluate.k) for cell in cells))
    return [
        f"sweep.metrics: {metric} is not evaluated; evaluate.k is {sorted(cutoffs)}"
        for metric in config.metrics
        if int(metric.partition("@")[2]) not in cutoffs
    ]


def _shared_encoders(cells: Sequence[Cell]) -> Iterator[str]:
    """Folders that cells would write different encoders into."""
    contents: dict[Path, Any] = {}
    for cell in cells:
        if not cell.config.makes_encoder:
            continue
        content = _encoder_content(cell.config)
        if contents.setdefault(cell.config.encoder, content) != content:
            yield (
                f"{cell.name}: its encoder would overwrite another cell's in {cell.config.encoder}; give "
                "each a run.encoder of its own in the axis, and name it in extract.encoder"
            )
            return


def _encoder_content(config: Config) -> Any:
    """What decides on the encoder that is made."""
    making = config.align or config.finetune
    reading = {"exif_rotate", "max_image_pixels", "max_image_bytes"}
    if making is not None and making.text is None:
        reading.add("joint")  # the text that it is trained on, where there is one
    include: Any = {"catalog": True, "align": True, "finetune": True, "extract": reading}
    return config.model_dump(mode="json", include=include)


def _cell(labels: tuple[str, ...], seed: int, config: Config, base: Config) -> Cell:
    folder = base.output.joinpath("cells", *map(slug, labels), f"seed-{seed}")
    features, key = base.features, [_content(part) for part in (config, base)]
    if config.features != base.features:  # an axis names the store
        features = config.features
    elif key[0] != key[1]:
        features = base.features.with_name(f"{base.features.name}-{digest_json(key[0])[:8]}")
    kept = {"output": str(folder), "features": str(features), "encoder": str(config.encoder)}
    run = config.run.model_copy(update=kept)
    train = config.train.model_copy(update={"seed": seed})
    return Cell(labels, seed, config.model_copy(update={"run": run, "train": train}))


def _content(config: Config) -> Any:
    """What decides on the features: cells that agree on it share a store."""
    return config.model_dump(mode="json", include={"catalog", "extract"})


def leaves(table: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The settings in a table of changes; keys may be dotted. Tables within a section are values, but for the
    options of models."""
    for key, value in table.items():
        keys = (*prefix, *key.split("."))
        inner = len(keys) < 2 or (keys[0] == "train" and len(keys) == 2)
        if isinstance(value, dict) and inner:
            yield from leaves(value, keys)
        else:
            yield keys, value


def slug(label: str) -> str:
    """The label as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", label).strip(".") or "_"
