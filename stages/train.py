"""Stage 2: features and interactions to a model bundle; resumes an interrupted run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..features.files import digest_json, recover_folder
from ..features.store import FeatureStore
from ..recsys.config import FusionConfig, TrainConfig
from ..recsys.end_to_end import EndToEnd
from ..recsys.errors import InputError
from ..recsys.evaluation import exact_search, hold_out, mean_accuracy
from ..recsys.interactions import Dataset
from ..recsys.models import model_class, validate_options
from ..recsys.models.base import ClosedFormModel, Model, TrainingData, Vectors
from ..recsys.models.embeddings import halve_features
from ..recsys.ranking import resolve_device
from ..recsys.team import Team
from ..recsys.training import fit
from .bundle import write_bundle
from .checkpoint import FileCheckpoint
from .dataset import digest_dataset, digest_store, load_modalities
from .end_to_end import ItemSource, is_saved, prepare, saved_keys, trained_views
from .lineage import changes, read_lineage
from .progress import progress_bar

log = logging.getLogger(__name__)

CODE_VERSION = 2  # raise it when the same data and settings would give another model
EFFORT = {"device", "capture", "checkpoint_every"}  # how, not what


@dataclass(slots=True)
class TrainReport:
    """What one training did; `up_to_date` when the bundle was reused."""

    model: str
    up_to_date: bool = False
    changed: list[str] = field(default_factory=list)  # components of the lineage, or "new"
    epochs: int = 0
    best_epoch: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)  # what the best epoch says of one that was trained
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def train(
    dataset: Dataset,
    store: FeatureStore | None,
    config: TrainConfig,
    folder: Path,
    team: Team | None = None,
    fusion: FusionConfig | None = None,
    source: ItemSource | None = None,
) -> TrainReport:
    """Train `config.model` and write the bundle `folder`, unless an equal one is there already.

    Where `config.encoder` is trained too, its items come from `source`, and it is written beside the bundle
    (`end_to_end.FOLDERS`). All processes of a `team` call this; the leader alone looks at the folder and
    writes into it. Raises InputError for unusable input and DivergedError for a loss that is not finite.
    """
    team = team or Team()
    lineage = train_lineage(dataset, store, config, fusion)
    keys = _encoder_keys(store, config, source)
    changed = team.decide(lambda: _changed(folder, lineage, keys))
    if not changed:
        return TrainReport(config.model, up_to_date=True)
    started = time.perf_counter()
    placed = config.model_copy(update={"device": team.place(config.device)})
    checkpoint = FileCheckpoint(folder.with_name(".training.safetensors"), digest_json(lineage))
    report = TrainReport(config.model, changed=changed)
    data = team.leader_first(lambda: training_data(dataset, store, placed, fusion))
    encoder = trained = None
    if keys and store is not None and source is not None:
        data, encoder, trained = prepare(source, store, dataset.item_ids, data, placed, team)
    model, views, history = _fit(data, dataset, placed, checkpoint, report, team, encoder)
    report.seconds = time.perf_counter() - started
    if not team.leads:
        return report
    facts = {
        "model": config.model,
        "dim": config.dim,
        "views": views,
        "options": model.options.model_dump(mode="json"),
        "train": config.model_dump(mode="json"),
        "fusion": (fusion or FusionConfig()).settings(),
        "parameters": count_parameters(model),
        "lineage": lineage,
    }
    if trained is not None:
        trained.save(folder, {"settings": config.end_to_end.model_dump(mode="json")}, lineage)
    metrics = {"best_epoch": report.best_epoch, "validation": report.validation, "history": history}
    tensors = model.state_dict() if isinstance(model, torch.nn.Module) else {}
    write_bundle(folder, facts, metrics, tensors, (dataset.user_ids, dataset.item_ids), model.vectors())
    checkpoint.remove()
    return report


def training_data(
    dataset: Dataset,
    store: FeatureStore | None,
    config: TrainConfig,
    fusion: FusionConfig | None = None,
) -> TrainingData:
    """The training split and the features of its items, on the training device."""
    pairs = dataset.splits["train"]
    reads_views = model_class(config.model).reads_views
    data = TrainingData(
        dataset.n_users,
        dataset.n_items,
        torch.from_numpy(pairs.user_idx),
        torch.from_numpy(pairs.item_idx),
        load_modalities(store, dataset.item_ids, config.views, fusion, config.mask) if reads_views else {},
    )
    return data.to(resolve_device(config.device))


def build_model(name: str, data: TrainingData, config: TrainConfig) -> Model:
    """The model `name` with its options from `[train.<name>]`, initial parameters drawn from the seed."""
    torch.manual_seed(config.seed)
    model = model_class(name)(data, config.dim, validate_options(name, config.options(name)))
    if config.precision == "bf16" and isinstance(model, torch.nn.Module):
        halve_features(model)
    return model


def _fit(
    data: TrainingData,
    dataset: Dataset,
    config: TrainConfig,
    checkpoint: FileCheckpoint,
    report: TrainReport,
    team: Team,
    encoder: EndToEnd | None = None,
) -> tuple[Model, list[str], list[dict[str, Any]]]:
    """The fitted model, its views, its history; fills in the epochs and validation figures of `report`."""
    model, views = build_model(config.model, data, config), list(data.modalities)
    data = replace(data, modalities={})  # the model has what it needs, in bfloat16 perhaps
    validate = _validator(dataset, config)
    if isinstance(model, ClosedFormModel):
        if team.leads:  # one process is enough for what takes one pass
            model.fit()
            report.validation = validate(model.vectors())
        return model, views, []
    if team.size > 1 and not model.rows_independent and team.leads:
        log.warning(
            "%s compares the rows of a batch with each other: each of %d processes compares its own alone",
            config.model,
            team.size,
        )
    with progress_bar(f"train {config.model}", config.epochs) as advance:

        def on_epoch(record: Mapping[str, Any]) -> None:
            figure = record.get(config.metric)
            advance(note=f"loss {record['loss']:.4f}" + (f", {config.metric} {figure:.4f}" if figure else ""))

        on_device = model.to(data.device)
        result = fit(on_device, data, validate, config, checkpoint, on_epoch, team, encoder=encoder)
    report.epochs, report.best_epoch, report.validation = (
        result.epochs,
        result.best_epoch,
        result.best_metrics,
    )
    report.encoder = result.history[result.best_epoch - 1].get("encoder", {})
    if encoder is not None and not report.encoder and team.leads:
        log.warning(
            "epoch %d is the best, and the encoder is first trained in epoch %d: it stays as it was",
            result.best_epoch,
            config.end_to_end.warmup_epochs + 1,
        )
    return model, views, result.history


def _validator(dataset: Dataset, config: TrainConfig) -> Callable[[Vectors], dict[str, float]]:
    """Recall, NDCG and the chosen metric on the validation split, all items ranked, training items masked."""
    splits = dataset.splits
    holdout = hold_out(splits["validation"], splits["train"], dataset.n_users, dataset.n_items)
    shown = dict.fromkeys((config.metric, "recall@20", "ndcg@20"))
    cutoffs = sorted({20, int(config.metric.partition("@")[2])})

    def validate(vectors: Vectors) -> dict[str, float]:
        search = exact_search(vectors.users, vectors.items, device=config.device)
        means = mean_accuracy(search, holdout, cutoffs)
        return {name: means[name] for name in shown}

    return validate


def _changed(folder: Path, lineage: dict[str, str], encoders: list[str]) -> list[str]:
    recover_folder(folder)
    found = changes(read_lineage(folder / "config.json", "lineage"), lineage)
    return found or ([] if is_saved(folder, lineage, encoders) else ["encoder"])


def _encoder_keys(store: FeatureStore | None, config: TrainConfig, source: ItemSource | None) -> list[str]:
    """The keys of [extract] whose encoders are trained; InputError where nothing could train them."""
    if config.encoder == "frozen":
        return []
    if store is None or source is None:
        raise InputError(
            'train.encoder = "end-to-end" needs a [catalog] with the items that it is trained on'
        )
    if not model_class(config.model).reads_views:
        raise InputError(
            f'train.encoder = "end-to-end": {config.model} reads no features, so no gradient reaches an '
            "encoder; take a model that does, such as vbpr, mmgcn or lattice"
        )
    return saved_keys(source.extract, trained_views(source.extract, store, list(config.views or store.views)))


def count_parameters(model: Model) -> int:
    """How many numbers are trained."""
    if not isinstance(model, torch.nn.Module):
        return 0
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def left_out(config: TrainConfig) -> set[str]:
    """Keys of [train] that say nothing about the model."""
    unset = {"mask"} if config.mask is None else set()
    return EFFORT | unset | ({"encoder", "end_to_end"} if config.encoder == "frozen" else set())


def train_lineage(
    dataset: Dataset, store: FeatureStore | None, config: TrainConfig, fusion: FusionConfig | None = None
) -> dict[str, str]:
    """What a bundle is made from: equal lineages, equal models."""
    settings = config.model_dump(mode="json", include=set(TrainConfig.model_fields) - left_out(config))
    settings.get("end_to_end", {}).pop("micro_batch", None)  # how, not what
    options = validate_options(config.model, config.options())
    reads_views = store is not None and model_class(config.model).reads_views
    lineage = {
        "interactions": digest_dataset(dataset),
        "features": digest_store(store) if reads_views and store else "none",
        "settings": digest_json([settings, options.model_dump(mode="json")]),
        "code": f"train/{CODE_VERSION}",
    }
    if reads_views and fusion is not None and fusion.kind != "none":
        lineage["fusion"] = digest_json(fusion.settings())
    return lineage
