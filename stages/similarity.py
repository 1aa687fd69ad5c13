"""The fit of texts and images in a feature store: a report for people, a gate for batch jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ..features.config import ExtractConfig
from ..features.errors import InputError, QualityGateError
from ..features.similarity import contrasts, distribution, mismatch_scores, view_weights
from ..features.store import FeatureStore


@dataclass(frozen=True, slots=True)
class SimilarityReport:
    """What `inspect --similarity` found."""

    facts: dict[str, Any]  # image view, items, mismatched, distribution per view, the worst items
    items: pl.DataFrame  # item_id, mismatch, carried_by, and per view similarity.*, contrast.*, weight.*


def similarity_report(store: FeatureStore, worst: int = 20, temperature: float = 0.2) -> SimilarityReport:
    """Distribution of each view's cosines with the image, and every item's mismatch and view weights.

    Raises InputError for a store without text views beside an image view.
    """
    views = _compared_views(store)
    similarity = np.stack([store.similarity(view) for view in views], axis=1)  # (n, views)
    contrast, random_means = _contrasts(store, views)
    mismatch = mismatch_scores(contrast)
    items = _table(store.item_ids, views, similarity, contrast, mismatch, temperature)
    per_view = {
        view: {**distribution(similarity[:, n]), "random_mean": random_means[n]}
        for n, view in enumerate(views)
    }
    last = items.filter(pl.col("mismatch").is_not_null()).sort(
        "mismatch", descending=True, maintain_order=True
    )
    facts = {
        "image_view": f"image.{store.manifest['space']['similarity_with']}",
        "items": len(store),
        "compared": int((~np.isnan(mismatch)).sum()),
        "mismatched": int(_is_mismatched(contrast).sum()),
        "temperature": temperature,
        "views": per_view,
        "worst": last.head(worst).to_dicts(),
    }
    return SimilarityReport(facts, items)


def check_similarity(store: FeatureStore, config: ExtractConfig) -> None:
    """QualityGateError that lists every limit of [extract] that the similarities in `store` do not meet.

    Raises InputError where there is a limit and nothing to compare.
    """
    if not config.has_gate:
        return
    views = _compared_views(store)
    similarity = {view: store.similarity(view) for view in views}
    unknown = [view for view in config.min_similarity if view not in similarity]
    if unknown:
        raise InputError(
            f"extract.min_similarity: {store.folder} has no text view {', '.join(unknown)}; "
            f"it holds {', '.join(views)}"
        )
    refused = [
        text
        for view, values in similarity.items()
        for text in _refused(view, values[~np.isnan(values)], config)
    ]
    if config.max_mismatched is not None:
        contrast, _ = _contrasts(store, views)
        compared = ~np.isnan(contrast).all(axis=1)
        share = float(_is_mismatched(contrast)[compared].mean()) if compared.any() else 0.0
        if share > config.max_mismatched:
            refused.append(
                f"{share:.2%} of {compared.sum()} items fit their image no better than a random pairing "
                f"(extract.max_mismatched allows {config.max_mismatched:.2%})"
            )
    if refused:
        raise QualityGateError(
            f"quality gate: {'; '.join(refused)}. The store is complete; look at the worst items with "
            f"`mmrec inspect {store.folder} --similarity`"
        )


def _refused(view: str, found: np.ndarray, config: ExtractConfig) -> list[str]:
    """The limits that the cosines of one view, missing ones left out, do not meet."""
    refused = []
    least = config.min_similarity.get(view)
    if least is not None and not len(found):
        refused.append(f"text.{view}: no item has both this text and an image")
    elif least is not None and found.mean(dtype=np.float64) < least:
        mean = found.mean(dtype=np.float64)
        refused.append(
            f"text.{view}: mean similarity {mean:.4f} with the image "
            f"(extract.min_similarity asks for {least:g})"
        )
    floor = config.similarity_floor
    if floor is not None and len(found):
        share = float((found < floor).mean())
        if share > config.max_below_floor:
            refused.append(
                f"text.{view}: {share:.2%} of {len(found)} items below extract.similarity_floor = {floor:g} "
                f"(extract.max_below_floor allows {config.max_below_floor:.2%})"
            )
    return refused


def _compared_views(store: FeatureStore) -> list[str]:
    if not store.similarities:
        raise InputError(
            f"{store.folder}: no similarity to look at; it needs a text view and an image view of one encoder"
        )
    return store.similarities


def _contrasts(store: FeatureStore, views: list[str]) -> tuple[np.ndarray, list[float | None]]:
    """Contrast per item and view, (n, views), and each view's mean cosine over random pairings."""
    images, has_image = store.read(f"image.{store.manifest['space']['similarity_with']}")
    columns, means = [], []
    for view in views:
        texts, has_text = store.read(f"text.{view}")
        column, mean = contrasts(images, texts, has_image & has_text)
        columns.append(column)
        means.append(None if np.isnan(mean) else mean)
    return np.stack(columns, axis=1), means


def _is_mismatched(contrast: np.ndarray) -> np.ndarray:
    """(n,) bool: items that on average over their views fit no better than random pairings."""
    present = ~np.isnan(contrast)
    return present.any(axis=1) & (np.where(present, contrast, 0).sum(axis=1) <= 0)


def _table(
    item_ids: pl.Series,
    views: list[str],
    similarity: np.ndarray,
    contrast: np.ndarray,
    mismatch: np.ndarray,
    temperature: float,
) -> pl.DataFrame:
    weights = view_weights(similarity, temperature)
    present = ~np.isnan(similarity)
    best = np.where(present.any(axis=1), np.argmax(weights, axis=1), -1)
    columns: dict[str, Any] = {
        "item_id": item_ids,
        "mismatch": mismatch.astype(np.float32),
        "carried_by": [views[n] if n >= 0 else None for n in best],
    }
    for name, values in (("similarity", similarity), ("contrast", contrast), ("weight", weights)):
        shown = np.where(present, values, np.nan).astype(np.float32)
        columns |= {f"{name}.{view}": shown[:, n] for n, view in enumerate(views)}
    return pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
