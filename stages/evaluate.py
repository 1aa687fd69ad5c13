"""Stage 2, measured: the bundle through its index on every held-out split, beside closed-form baselines."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..features.errors import InputError
from ..features.files import digest_json, write_json
from ..features.tables import write_parquet
from ..recsys.config import EvaluateConfig, TrainConfig
from ..recsys.evaluation import Evaluation, Search, exact_search
from ..recsys.evaluation import evaluate as evaluate_split
from ..recsys.interactions import Dataset
from ..recsys.models.base import ClosedFormModel
from ..recsys.ranking import Csr, Ranked
from .bundle import Bundle, read_bundle
from .dataset import digest_dataset
from .index import open_index
from .lineage import changes, read_lineage
from .progress import progress_bar
from .train import build_model, training_data

CODE_VERSION = 1  # raise it when the same model would be measured differently
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
    dataset: Dataset, train_config: TrainConfig, config: EvaluateConfig, folder: Path
) -> EvaluateReport:
    """Measure the bundle of the run `folder`; writes evaluation.json and per_user.parquet.

    Raises FileNotFoundError without a bundle or an index, InputError when these belong to other data.
    """
    bundle = read_bundle(folder / "model")
    _check_same_data(bundle, dataset, folder)
    index, index_facts = open_index(folder / "index", bundle, train_config.device)
    lineage = {
        "interactions": digest_dataset(dataset),
        "model": digest_json(bundle.config["lineage"]),
        "index": digest_json(index_facts["lineage"]),
        "settings": digest_json([config.model_dump(mode="json"), _baseline_settings(train_config, config)]),
        "code": f"evaluate/{CODE_VERSION}",
    }
    path = folder / "evaluation.json"
    changed = changes(read_lineage(path, "provenance", "lineage"), lineage)
    if not changed and (folder / "per_user.parquet").is_file():
        return EvaluateReport(json.loads(path.read_text(encoding="utf-8")), up_to_date=True)
    started = time.perf_counter()
    users = bundle.vectors.users

    def through_index(user_idx: np.ndarray, k: int, exclude: Csr, candidates: np.ndarray | None) -> Ranked:
        return index.search(users[user_idx], k, exclude, candidates)

    splits = _evaluate_splits(bundle.config["model"], through_index, dataset, config)
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
            "libraries": _libraries(),
            "python": platform.python_version(),
        },
    }
    _write_per_user(folder / "per_user.parquet", splits, dataset)
    write_json(path, evaluation)
    return EvaluateReport(evaluation, changed=changed or ["new"], seconds=time.perf_counter() - started)


def _evaluate_splits(
    label: str, search: Search, dataset: Dataset, config: EvaluateConfig
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
            )
            advance()
    return results


def _baseline(
    name: str, dataset: Dataset, train_config: TrainConfig, config: EvaluateConfig
) -> dict[str, Evaluation]:
    """A closed-form model fitted on the same training split, ranked exactly."""
    data = training_data(dataset, None, train_config)
    model = build_model(name, data, train_config)
    if not isinstance(model, ClosedFormModel):
        raise InputError(
            f"evaluate.baselines: '{name}' is trained by gradient steps; name closed-form models, "
            f"or run it on its own with --set train.model={name}"
        )
    model.fit()
    vectors = model.vectors()
    return _evaluate_splits(
        name, exact_search(vectors.users, vectors.items, config.memory_mb), dataset, config
    )


def _baseline_settings(train_config: TrainConfig, config: EvaluateConfig) -> dict[str, Any]:
    return {name: train_config.options(name) for name in config.baselines}


def _check_same_data(bundle: Bundle, dataset: Dataset, folder: Path) -> None:
    same = bundle.user_ids.equals(dataset.user_ids) and bundle.item_ids.equals(dataset.item_ids)
    if not same:
        raise InputError(
            f"{folder / 'model'} knows {len(bundle.user_ids)} users and {len(bundle.item_ids)} items, "
            f"but the data has {dataset.n_users} and {dataset.n_items}, or other ids; run `mmrec train` again"
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


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
