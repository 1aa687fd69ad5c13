"""Stage 2, measured: the bundle through its index on every held-out split, beside closed-form baselines."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..features.errors import InputError
from ..features.files import digest_json, write_json
from ..features.store import FeatureStore
from ..features.tables import write_parquet
from ..features.versions import library_versions
from ..recsys.config import EvaluateConfig, IndexConfig, TrainConfig
from ..recsys.evaluation import Evaluation, Search, exact_search
from ..recsys.evaluation import evaluate as evaluate_split
from ..recsys.interactions import Dataset
from ..recsys.models.base import ClosedFormModel
from ..recsys.ranking import Csr, Ranked
from ..recsys.segments import ItemGroups
from .bundle import Bundle, read_bundle
from .dataset import digest_dataset
from .index import open_index
from .lineage import changes, file_sizes, read_lineage
from .modality_groups import modality_groups
from .progress import progress_bar
from .train import build_model, training_data

CODE_VERSION = 2  # raise it when the same model would be measured differently
SCHEMA = 1
# Split of `evaluation.json` -> (split of the data set, whether only its own items compete)
_COLD = {
    "validation_cold": ("validation_cold", False),
    "validation_among_cold": ("validation_cold", True),
    "test_cold": ("test_cold", False),
    "test_among_cold": ("test_cold", True),
}
_LIBRARIES = ("mmrec", "torch", "faiss-gpu", "faiss-cpu", "numpy", "polars", "pyarrow")


@dataclass(slots=True)
class EvaluateReport:
    """`evaluation` is the content of evaluation.json."""

    evaluation: dict[str, Any]
    up_to_date: bool = False
    changed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def evaluate(
    dataset: Dataset,
    store: FeatureStore | None,
    train_config: TrainConfig,
    index_config: IndexConfig,
    config: EvaluateConfig,
    folder: Path,
) -> EvaluateReport:
    """Measure the bundle of the run `folder`; writes evaluation.json and per_user.parquet.

    Raises FileNotFoundError without a bundle or an index, InputError when these belong to other data.
    """
    bundle = read_bundle(folder / "model")
    _check_same_data(bundle, dataset, folder)
    index, index_facts = open_index(folder / "index", bundle, index_config.device)
    settings = config.model_dump(mode="json", exclude={"memory_mb", "features"})
    groups = modality_groups(store, dataset.item_ids)
    lineage = {
        "interactions": digest_dataset(dataset),
        "vectors": bundle.config["vectors"],
        "index": digest_json(index_facts["lineage"]),
        "modalities": digest_json({name: [g.names, g.of_item.tolist()] for name, g in groups.items()}),
        "settings": digest_json([settings, _baseline_settings(train_config, config)]),
        "code": f"evaluate/{CODE_VERSION}",
    }
    path = folder / "evaluation.json"
    changed = changes(read_lineage(path, "provenance", "lineage"), lineage)
    if not changed:
        return EvaluateReport(json.loads(path.read_text(encoding="utf-8")), up_to_date=True)
    started = time.perf_counter()
    users = bundle.vectors.users

    def through_index(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        return index.search(users[user_idx], k, exclude, candidates)

    features = _diversity_features(store, dataset, config)
    splits = _evaluate_splits(bundle.config["model"], through_index, dataset, config, features, groups)
    baselines = {
        name: {
            split: result.split_json()
            for split, result in _baseline(name, dataset, train_config, config).items()
        }
        for name in config.baselines
        if name != bundle.config["model"]
    }
    evaluation = {
        "schema": SCHEMA,
        "model": bundle.config["model"],
        "splits": {name: result.split_json() for name, result in splits.items()},
        "segments": {name: result.segments_json() for name, result in splits.items()},
        "baselines": baselines,
        "index": index_facts,
        "provenance": {
            "lineage": lineage,
            "evaluate": config.model_dump(mode="json"),
            "train": bundle.config["train"],
            "interactions": dataset.report,
            "libraries": library_versions(_LIBRARIES),
            "python": platform.python_version(),
        },
    }
    per_user = folder / "per_user.parquet"
    _write_per_user(per_user, splits, dataset)
    evaluation["files"] = file_sizes([per_user])
    write_json(path, evaluation)
    return EvaluateReport(evaluation, changed=changed or ["new"], seconds=time.perf_counter() - started)


def _evaluate_splits(
    label: str,
    search: Search,
    dataset: Dataset,
    config: EvaluateConfig,
    features: Mapping[str, np.ndarray] | None = None,
    groups: Mapping[str, ItemGroups] | None = None,
) -> dict[str, Evaluation]:
    """Every split that holds interactions, in the order of evaluation.json."""
    named = {"validation": ("validation", False), "test": ("test", False), **_COLD}
    held_out = {name: part for name, part in named.items() if len(dataset.splits.get(part[0], ()))}
    results = {}
    with progress_bar(f"evaluate {label}", len(held_out)) as advance:
        for name, (split, own_items_only) in held_out.items():
            candidates = None
            if own_items_only:
                candidates = np.zeros(dataset.n_items, dtype=bool)
                candidates[dataset.splits[split].item_idx] = True
            results[name] = evaluate_split(
                search,
                dataset.splits[split],
                dataset.splits["train"],
                dataset.n_users,
                dataset.n_items,
                config,
                # Validation is what a test may mask besides; it is never masked against itself.
                validation=dataset.splits["validation"] if split.startswith("test") else None,
                candidates=candidates,
                features=features,
                groups=groups,
            )
            advance()
    return results


def _baseline(
    name: str, dataset: Dataset, train_config: TrainConfig, config: EvaluateConfig
) -> dict[str, Evaluation]:
    """A closed-form model fitted on the same training split, ranked exactly."""
    baseline_config = train_config.model_copy(update={"model": name})
    model = build_model(name, training_data(dataset, None, baseline_config), baseline_config)
    assert isinstance(model, ClosedFormModel), name  # the config names no other
    model.fit()
    vectors = model.vectors()
    return _evaluate_splits(
        name, exact_search(vectors.users, vectors.items, config.memory_mb), dataset, config
    )


def _diversity_features(
    store: FeatureStore | None, dataset: Dataset, config: EvaluateConfig
) -> dict[str, np.ndarray] | None:
    """The view that `evaluate.diversity_view` names; items without it are at distance 1 from all others."""
    if config.diversity_view is None:
        return None
    if store is None:
        raise InputError(
            f"evaluate.diversity_view asks for '{config.diversity_view}', but there is no feature store"
        )
    return {config.diversity_view: store.read(config.diversity_view, dataset.item_ids)[0].astype(np.float32)}


def _baseline_settings(train_config: TrainConfig, config: EvaluateConfig) -> dict[str, Any]:
    return {name: train_config.options(name) for name in config.baselines}


def _check_same_data(bundle: Bundle, dataset: Dataset, folder: Path) -> None:
    # Equal ids are not enough: on other splits, test interactions could be among those it was trained on.
    if bundle.config["lineage"]["interactions"] != digest_dataset(dataset):
        raise InputError(
            f"{folder / 'model'} knows {len(bundle.user_ids)} users and {len(bundle.item_ids)} items, "
            f"this data has {dataset.n_users} and {dataset.n_items}, other ids or other splits; "
            "run `mmrec train` again"
        )


def _write_per_user(path: Path, splits: Mapping[str, Evaluation], dataset: Dataset) -> None:
    """One row per split and evaluated user: user_id, split, every metric."""
    parts = [
        pl.DataFrame({"user_id": dataset.user_ids.gather(result.user_idx), **result.per_user}).with_columns(
            pl.lit(name).alias("split")
        )
        for name, result in splits.items()
        if result.users
    ]
    write_parquet(path, pl.concat(parts, how="diagonal"))
