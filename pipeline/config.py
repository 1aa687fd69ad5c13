"""One TOML file to one frozen `Config`; all mistakes at once, each with file, key and nearest valid name."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from inspect import isclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, Field, ValidationError

from ..features.config import CatalogConfig, ExtractConfig
from ..features.files import atomic_path
from ..features.finetuning.config import FinetuneConfig
from ..features.pretraining.config import SCRATCH, AlignConfig
from ..recsys.config import EvaluateConfig, FusionConfig, IndexConfig, InteractionsConfig, TrainConfig
from ..recsys.errors import InputError
from ..recsys.models import MODELS, validate_options
from ..stages.publish_config import PublishConfig
from .space import Choices, Range, TuneConfig, parse_space


class ConfigError(InputError):
    """The configuration is unusable; the message has one line for every mistake in it."""


class RunConfig(BaseModel, frozen=True, extra="forbid"):
    """`[run]`: where the artefacts of a run are kept, and how `mmrec run` is run unattended."""

    output: Annotated[str, Field(min_length=1)] = "runs/default"
    features: str | None = None  # feature store, to share it between runs; default: `output`/features
    encoder: str | None = None  # of [align] and [finetune], to share it too; default: `output`/encoder
    retries: Annotated[int, Field(ge=0)] = 2  # further attempts of a stage after an error that may pass
    backoff: Annotated[float, Field(ge=0)] = 30.0  # seconds before the first of them; doubled each time
    time_limit: Annotated[float, Field(gt=0)] | None = None  # seconds after which `mmrec run` stops
    prometheus: str | None = None  # text file of metrics; default: `output`/metrics.prom
    track: tuple[Literal["mlflow", "tensorboard"], ...] = ()  # where runs are shown besides
    keep_records: Annotated[int, Field(ge=1)] = 60  # records of runs that stay in `output`/runs


class Config(BaseModel, frozen=True, extra="forbid"):
    """A whole run. Sections that are absent take their defaults; `[catalog]` may be absent altogether."""

    catalog: CatalogConfig | None = None
    interactions: InteractionsConfig | None = None
    align: AlignConfig | None = None
    finetune: FinetuneConfig | None = None
    extract: ExtractConfig = ExtractConfig()
    fusion: FusionConfig = FusionConfig()
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    tune: TuneConfig = TuneConfig()
    publish: PublishConfig | None = None
    run: RunConfig = RunConfig()

    @property
    def output(self) -> Path:
        """The run folder."""
        return Path(self.run.output)

    @property
    def features(self) -> Path:
        """The folder of the feature store."""
        return Path(self.run.features) if self.run.features else self.output / "features"

    @property
    def trained_features(self) -> Path:
        """The folder of the features of an encoder that was trained with the model."""
        return self.output / "features-end-to-end"

    @property
    def encoder(self) -> Path:
        """The folder of the encoder that `[align]` pre-trains or `[finetune]` tunes."""
        return Path(self.run.encoder) if self.run.encoder else self.output / "encoder"

    @property
    def published(self) -> Path:
        """The folder that readers of the published recommender know."""
        own = self.publish.folder if self.publish else None
        return Path(own) if own else self.output / "published"

    @property
    def prometheus(self) -> Path:
        """The text file of metrics."""
        return Path(self.run.prometheus) if self.run.prometheus else self.output / "metrics.prom"

    @property
    def makes_encoder(self) -> bool:
        return self.align is not None or self.finetune is not None

    @property
    def reads_made_encoder(self) -> bool:
        """Whether features are extracted with the encoder that is made."""
        names = (self.extract.encoder, self.extract.text_encoder or "")
        return any(str(self.encoder.absolute()) in name for name in names)

    def to_toml(self) -> str:
        """The resolved configuration; unset keys are left out, since TOML has no null."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


# Keys that hold paths: relative to the file they stand in, or to the current folder on the command line.
_PATHS = (
    *("catalog.items", "catalog.image_root", "interactions.path", "align.start", "align.codes"),
    *("publish.folder", "run.output", "run.features", "run.encoder", "run.prometheus"),
)
_ENCODERS = (  # may end in a path
    *("extract.encoder", "extract.text_encoder", "align.teacher"),
    *("finetune.start", "finetune.text_start"),
)
# Settings of [train] that are no part of a search: what is searched for, and how, not what.
_NOT_TUNED = (
    *("model", "encoder", "end_to_end", "metric", "mask", "seed"),
    *("device", "capture", "checkpoint_every"),
)
SECTIONS: dict[str, type[BaseModel]] = {
    "catalog": CatalogConfig,
    "interactions": InteractionsConfig,
    "align": AlignConfig,
    "finetune": FinetuneConfig,
    "extract": ExtractConfig,
    "fusion": FusionConfig,
    "train": TrainConfig,
    "index": IndexConfig,
    "evaluate": EvaluateConfig,
    "tune": TuneConfig,
    "publish": PublishConfig,
    "run": RunConfig,
}


def load_config(path: Path, overrides: Sequence[str] = (), output: Path | None = None) -> Config:
    """The checked configuration of `path` with `a.b=c` overrides applied.

    Relative paths in the file start at the file's folder, those in overrides at the current folder.
    Raises `ConfigError` that lists every mistake, and `FileNotFoundError` for a missing file.
    """
    sections = load_sections(path, overrides, output)
    if "sweep" in sections:
        raise ConfigError(f"{path}: holds a [sweep], many runs in one; run it with `mmrec sweep {path}`")
    return build_config(sections, source=str(path))


def write_config(config: Config, folder: Path) -> None:
    """The resolved config beside what it made; written last: a failed stage leaves the old artefact."""
    with atomic_path(folder / "config.toml") as temporary:
        temporary.write_text(config.to_toml(), encoding="utf-8")


def load_sections(path: Path, overrides: Sequence[str] = (), output: Path | None = None) -> dict[str, Any]:
    """The sections of `path` as `load_config` takes them, with overrides and resolved paths, unchecked."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file; see examples/ for one to start from")
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _resolve_paths(sections, path.parent)
    settings = [parse_override(override) for override in overrides]
    if output is not None:
        settings.append((("run", "output"), str(output)))
    for keys, value in settings:
        set_value(sections, keys, value)
    return sections


def build_config(sections: Mapping[str, Any], source: str = "config") -> Config:
    """The checked `Config` of parsed sections whose paths are resolved; `source` names them in errors."""
    problems: list[str] = []
    config: Config | None = None
    try:
        config = Config.model_validate(sections)
    except ValidationError as error:
        # Unknown keys of [train] are explained below, where the models' tables are known.
        problems += [_explain(detail) for detail in error.errors() if "unknown key" not in detail["msg"]]
    train = sections.get("train")
    problems += _model_problems(train if isinstance(train, dict) else {})
    problems += _space_problems(sections)
    if config is not None:
        problems += _cross_checks(config)
    if problems or config is None:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in dict.fromkeys(problems)))
    return config


def parse_override(override: str) -> tuple[tuple[str, ...], Any]:
    """Keys and value of a `section.key=value` string; the value is read as TOML, else as a plain string."""
    key, equals, text = override.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {override}: expected section.key=value, such as train.model=lightgcn")
    try:
        return keys, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, text


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest of `known`, or the list of them all."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"


def set_value(
    sections: dict[str, Any], keys: tuple[str, ...], value: Any, folder: Path | None = None
) -> None:
    """Put an override in place of what the file says; its relative paths start at `folder` (default: the
    current one)."""
    alone: dict[str, Any] = {keys[0]: {keys[1]: value}} if len(keys) == 2 else {}
    _resolve_paths(alone, folder or Path())
    table = sections
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: '{key}' is a plain value, not a table")
    table[keys[-1]] = alone[keys[0]][keys[1]] if alone else value


def _resolve_paths(sections: dict[str, Any], folder: Path) -> None:
    for key in _PATHS:
        section, name = key.split(".")
        table = sections.get(section)
        if isinstance(table, dict) and isinstance(table.get(name), str):
            table[name] = _resolved(table[name], folder)
    for key in _ENCODERS:
        section, name = key.split(".")
        table = sections.get(section)
        if isinstance(table, dict) and isinstance(table.get(name), str):
            table[name] = _resolved_checkpoint(table[name], folder)
    extract = sections.get("extract")
    if not isinstance(extract, dict):
        return
    if isinstance(foreign := extract.get("foreign"), dict):
        extract["foreign"] = {
            view: _resolved(file, folder) if isinstance(file, str) else file for view, file in foreign.items()
        }


def _resolved(path: str, folder: Path) -> str:
    if "://" in path or path in ("", SCRATCH):
        return path
    # Not Path.resolve(): a symbolic link that the user names stays as named.
    return os.path.normpath(Path.cwd() / folder / path)


def _resolved_checkpoint(encoder: str, folder: Path) -> str:
    """`open_clip:ARCH/relative/file` with an absolute path where that file exists, or is to come; tags stay.

    `beit3:relative/file` and `vlmo:relative/file` name no architecture, and never a tag, nor does what comes
    after the model of `timm:MODEL/relative/file`; `sentence:name` and `sentence:owner/name` are on the hub
    where there is no such folder.
    """
    kind, _, rest = encoder.partition(":")
    if kind == "sentence":
        is_path = rest.startswith((".", "/")) or rest.count("/") > 1
        named = not is_path and not (folder / rest).is_dir()
        return encoder if named or not rest else f"{kind}:{_resolved(rest, folder)}"
    if kind in ("beit3", "vlmo") and rest:
        return f"{kind}:{_resolved(rest, folder)}"
    architecture, _, checkpoint = rest.partition("/")
    is_path = kind == "timm" or "/" in checkpoint or (folder / checkpoint).exists()
    if not checkpoint or not is_path:
        return encoder
    return f"{kind}:{architecture}/{_resolved(checkpoint, folder)}"


def _explain(detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "extra_forbidden":
        known = _keys_of(location[:-1])
        what = "key" if len(location) > 1 else "section"
        return f"{key}: unknown {what}; {nearest(location[-1], known)}"
    if detail["type"] == "missing":
        return f"{key}: missing; this key has no default"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, found {detail['input']!r}"


def _keys_of(location: Sequence[str]) -> Iterable[str]:
    """The keys that the table at `location` may hold, for tables within sections too."""
    section = SECTIONS.get(location[0]) if location else Config
    for name in location[1:]:
        annotation = section.model_fields[name].annotation if section else None
        kinds = (annotation, *get_args(annotation))
        section = next((kind for kind in kinds if isclass(kind) and issubclass(kind, BaseModel)), None)
    return section.model_fields if section else ()


def _model_problems(train: Mapping[str, Any]) -> list[str]:
    """Mistakes in the model's name and in the `[train.<model>]` tables, whichever model is chosen."""
    model = train.get("model", TrainConfig().model)
    problems = []
    if isinstance(model, str) and model not in MODELS:
        problems.append(f"train.model: no model '{model}'; {nearest(model, MODELS)}")
    for name, table in train.items():
        if name in TrainConfig.model_fields:
            continue
        if name not in MODELS or not isinstance(table, dict):
            problems.append(
                f"train.{name}: unknown key; {nearest(name, [*TrainConfig.model_fields, *MODELS])}"
            )
            continue
        try:
            validate_options(name, table)
        except InputError as error:
            problems.append(str(error))
    return problems


def _space_problems(sections: Mapping[str, Any]) -> list[str]:
    """Mistakes in `[tune.space]`: its form, its keys, and every value of a list or end of a range."""
    tune, train = (sections.get(name) for name in ("tune", "train"))
    raw = tune.get("space") if isinstance(tune, dict) else None
    if not isinstance(raw, dict):
        return []
    model = train.get("model") if isinstance(train, dict) else None
    space, problems = parse_space(raw)
    if not raw:
        problems.append(
            "tune.space: empty; name a setting, or leave it out for the grid of the model's paper"
        )
    for key, dimension in space.items():
        where = f"tune.space.{key}"
        problems += [f"{where}: {text}" for text in _tunable(key, model or TrainConfig().model, dimension)]
    return problems


def _tunable(key: str, model: str, dimension: Range | Choices) -> list[str]:
    """Why `key` cannot be searched over these values."""
    section, _, name = key.partition(".")
    table, _, option = name.rpartition(".")
    if section != "train":
        return ["only [train] can be searched; other sections change the data or how it is measured"]
    if table and table != model:
        return [f"train.model is '{model}', which does not read [train.{table}]"]
    known = [name for name in TrainConfig.model_fields if name not in _NOT_TUNED]
    if not table and name not in known:
        return [f"no setting of [train] to search over; {nearest(name, known)}"]
    problems = []
    for value in dimension.probes():
        try:
            if not table:
                TrainConfig.model_validate({name: value})
            elif table in MODELS:  # else train.model is reported
                validate_options(table, {option: value})
        except ValidationError as error:
            problems += [_explain(detail).partition(": ")[2] for detail in error.errors()]
        except InputError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _cross_checks(config: Config) -> list[str]:
    problems = []
    if config.catalog is None and config.extract.text_views:
        problems.append("extract.text_views: needs a [catalog] section with the text columns")
    if config.catalog is None and config.align is not None:
        problems.append("align: needs a [catalog] section with the items to learn from")
    if config.catalog is None and config.finetune is not None:
        problems.append("finetune: needs a [catalog] section with the items to learn from")
    if config.align is not None and config.finetune is not None:
        problems.append(
            "align, finetune: both write the run folder's encoder; take one, or give each a run of its own"
        )
    if config.makes_encoder:
        problems += [
            f"run.encoder: {config.encoder} is to hold {place}, but an encoder takes the place of its whole "
            "folder; name one of its own"
            for place in (config.output, config.features)
            if config.encoder in (place, *place.parents)
        ]
    if config.extract.texts_apart and config.fusion.kind in ("similarity", "self-attention"):
        problems.append(
            f"fusion.kind: '{config.fusion.kind}' compares texts with images, which takes one encoder for "
            "both; leave extract.text_encoder out, or take gated, mlp, concat, mean or sum"
        )
    if config.train.encoder == "end-to-end":
        problems += [f'train.encoder: "end-to-end" {problem}' for problem in _end_to_end_problems(config)]
    return problems


def _end_to_end_problems(config: Config) -> list[str]:
    problems = []
    if config.catalog is None:
        problems.append("needs a [catalog] section with the items that the encoder is trained on")
    if config.fusion.kind != "none":
        problems.append('trains views as the model reads them; set fusion.kind = "none"')
    if config.train.mask is not None:
        problems.append("reads every item as it is; leave [train.mask] out")
    return problems
