"""What a bundle keeps of the features: the mean of every view, and the vectors of the items of the probe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ..features.files import digest_json, write_json
from ..features.store import FeatureStore

SUMMARY, SAMPLE = "summary.json", "sample.parquet"
_BLOCK = 65_536  # rows of a view in memory at a time, as float32


@dataclass(frozen=True, slots=True)
class View:
    """One view of a store, in short."""

    share: float  # of the items that have it
    mean: np.ndarray  # (dim,) float64, of these


@dataclass(frozen=True, slots=True)
class FeatureSample:
    """One store, in short."""

    space: str  # digest of what its vectors mean
    views: dict[str, View]
    items: pl.DataFrame  # item_id, content_hash of the sampled items
    vectors: dict[str, np.ndarray]  # view -> (n, dim) float16, NaN where the item lacks it


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one store is from another of the same space; NaN where they share nothing to compare."""

    cosine: dict[str, float]  # view -> mean over the sampled items whose content is the same
    mean_cosine: dict[str, float]  # view -> of the two mean vectors
    view_fall: dict[str, float]  # view -> how much smaller the share of items is that have it
    unchanged: int  # sampled items that are compared


def sample_features(store: FeatureStore, item_ids: pl.Series) -> FeatureSample:
    """The store in short, with the vectors of those of `item_ids` that it holds."""
    views = {name: _summarised(*store.read(name)) for name in store.views}
    here = pl.DataFrame({"item_id": store.item_ids, "content_hash": store.content_hashes})
    wanted = item_ids.unique().cast(store.item_ids.dtype, strict=False).implode()
    items = here.filter(pl.col("item_id").is_in(wanted))
    vectors = {}
    for name in store.views:
        values, present = store.read(name, items["item_id"])
        vectors[name] = np.where(present[:, None], values, np.float16(np.nan))
    return FeatureSample(digest_json(store.manifest["space"]), views, items, vectors)


def write_sample(folder: Path, sample: FeatureSample) -> None:
    views = {name: {"share": view.share, "mean": view.mean.tolist()} for name, view in sample.views.items()}
    write_json(folder / SUMMARY, {"space": sample.space, "views": views})
    columns = {name: sample.items[name].to_arrow() for name in sample.items.columns}
    for name, values in sample.vectors.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    pq.write_table(pa.table(columns), folder / SAMPLE)


def read_sample(folder: Path) -> FeatureSample | None:
    """What `write_sample` wrote into `folder`; None where there is none."""
    if not (folder / SUMMARY).is_file():
        return None
    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    table = pq.read_table(folder / SAMPLE).combine_chunks()
    items = pl.DataFrame({name: pl.Series(table[name]) for name in ("item_id", "content_hash")})
    views = {name: View(view["share"], np.array(view["mean"])) for name, view in summary["views"].items()}
    vectors = {
        name: table[name].combine_chunks().flatten().to_numpy().reshape(len(items), -1) for name in views
    }
    return FeatureSample(summary["space"], views, items, vectors)


def drift(now: FeatureSample, before: FeatureSample) -> Drift:
    """How far `now` is from `before`, a sample of the same space."""
    rows = [sample.items.with_row_index("row") for sample in (now, before)]
    same = rows[0].join(rows[1], on=["item_id", "content_hash"], how="inner")
    ours, theirs = same["row"].to_numpy(), same["row_right"].to_numpy()
    views = now.views.keys() & before.views.keys()
    return Drift(
        cosine={
            name: _mean_cosine(now.vectors[name][ours], before.vectors[name][theirs])
            for name in sorted(views)
        },
        mean_cosine={name: _cosine(now.views[name].mean, before.views[name].mean) for name in sorted(views)},
        view_fall=_falls(now.views, before.views),
        unchanged=len(same),
    )


def _falls(now: Mapping[str, View], before: Mapping[str, View]) -> dict[str, float]:
    return {name: before[name].share - now[name].share for name in sorted(now.keys() & before.keys())}


def _summarised(values: np.ndarray, present: np.ndarray) -> View:
    total = np.zeros(values.shape[1])
    for start in range(0, len(values), _BLOCK):  # absent rows are zero
        total += values[start : start + _BLOCK].astype(np.float32).sum(axis=0, dtype=np.float64)
    held = int(present.sum())
    return View(held / max(len(present), 1), total / max(held, 1))


def _mean_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)  # NaN where either is missing
    held = lengths > 0
    return float(((a * b).sum(axis=1)[held] / lengths[held]).mean()) if held.any() else float("nan")


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else float("nan")
