"""Features judged before a recommender is trained: features.json, and the limits that it must meet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..features.errors import InputError, QualityGateError
from ..features.files import digest_bytes, digest_json, write_json
from ..features.store import FeatureStore
from ..features.versions import library_versions
from ..recsys.config import EvaluateConfig, FeatureConfig
from ..recsys.interactions import Dataset
from .dataset import digest_dataset, digest_store
from .lineage import changes, read_lineage
from .protocols import JOINED, FeatureJudge

CODE_VERSION = 3  # raise it when the same features would be judged differently
SCHEMA = 1
FILE = "features.json"
_LIBRARIES = ("mmrec", "torch", "numpy", "polars", "pyarrow")


@dataclass(slots=True)
class JudgeReport:
    """`facts` is the content of features.json."""

    facts: dict[str, Any]
    path: Path
    up_to_date: bool = False
    changed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def judge(dataset: Dataset, store: FeatureStore | None, config: EvaluateConfig, folder: Path) -> JudgeReport:
    """Judge the views of `store` on a held-out split and write features.json into the run `folder`.

    Nothing is trained and no index is asked. Raises InputError without a store, for unknown views, and for a
    split without evaluable users.
    """
    if store is None:
        raise InputError(
            "there are no features to judge: the config has neither a [catalog] nor [extract] foreign views"
        )
    asked = config.features
    views = _checked_views(store, asked)
    settings = {name: value for name, value in asked.model_dump(mode="json").items() if not _is_limit(name)}
    lineage = {
        "interactions": digest_dataset(dataset),
        "times": _digest_times(dataset),
        "features": digest_store(store),
        "settings": digest_json([settings, config.bootstrap, config.seed, config.mask]),
        "code": f"judge/{CODE_VERSION}",
    }
    path = folder / FILE
    changed = changes(read_lineage(path, "provenance", "lineage"), lineage)
    if not changed:
        return JudgeReport(json.loads(path.read_text(encoding="utf-8")), path, up_to_date=True)
    started = time.perf_counter()
    facts = {"schema": SCHEMA, **FeatureJudge(dataset, store, config, views).facts()}
    facts["provenance"] = {
        "lineage": lineage,
        "settings": asked.model_dump(mode="json"),
        "libraries": library_versions(_LIBRARIES),
    }
    facts["files"] = {}
    write_json(path, facts)
    return JudgeReport(facts, path, changed=changed, seconds=time.perf_counter() - started)


def check_features(facts: Mapping[str, Any], config: FeatureConfig) -> None:
    """QualityGateError that lists every limit of [evaluate.features] that judged features do not meet."""
    refused = [*_below(facts, config), *_out_of_shape(facts, config)]
    if refused:
        raise QualityGateError(f"quality gate: {'; '.join(refused)}. All figures are in {FILE}")


def _below(facts: Mapping[str, Any], config: FeatureConfig) -> Iterator[str]:
    """The limits of rankings that are not met."""
    metric = f"recall@{max(config.k)}"
    for key, protocols in (
        ("min_zero_shot", ("zero-shot",)),
        ("min_item_cf", tuple(f"item-cf-{k}" for k in config.neighbours)),
    ):
        for name, least in getattr(config, key).items():
            results = facts["sets"][name]["protocols"]
            reached, protocol = max((results[p][metric]["mean"], p) for p in protocols)
            if reached < least:
                yield f"{name}: {protocol} {metric} {reached:.4f}, {key} asks for {least:g}"


def _out_of_shape(facts: Mapping[str, Any], config: FeatureConfig) -> Iterator[str]:
    """The limits of the shape of views that are not met; an undefined figure meets none."""
    for name, view in facts["views"].items():
        rank, cosine, skew = (view[figure] for figure in ("effective_rank", "mean_cosine", "hubness"))
        least, narrowest, most = config.min_effective_rank, config.max_mean_cosine, config.max_hubness
        if least is not None and (rank is None or rank < least):
            yield f"{name}: effective rank {_shown(rank)}, min_effective_rank asks for {least:g}"
        if narrowest is not None and (cosine is None or cosine > narrowest):
            yield f"{name}: mean cosine {_shown(cosine)}, max_mean_cosine allows {narrowest:g}"
        if most is not None and (skew is None or skew > most):
            yield f"{name}: hubness {_shown(skew)}, max_hubness allows {most:g}"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"


def _digest_times(dataset: Dataset) -> str:
    """Of the training interactions: they say which are the newest, and follow from no split."""
    times = dataset.train_times
    return digest_bytes(b"" if times is None else str(times.dtype).encode() + times.tobytes())


def _is_limit(name: str) -> bool:
    return name.startswith(("min_", "max_"))


def _checked_views(store: FeatureStore, config: FeatureConfig) -> list[str]:
    views = list(config.views or store.views)
    replaced = [view for table in config.mask_replace.values() for pair in table.items() for view in pair]
    for view in (*views, *replaced):
        store.dim(view)  # names the nearest one
    judged = [*views, *([JOINED] if len(views) > 1 else [])]
    for key in ("min_zero_shot", "min_item_cf"):
        if unknown := [name for name in getattr(config, key) if name not in judged]:
            raise InputError(
                f"evaluate.features.{key}: {', '.join(unknown)} is not judged; there are {', '.join(judged)}"
            )
    return views
