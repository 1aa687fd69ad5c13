"""How well the texts of an item fit its image, in the space of a CLIP."""

from __future__ import annotations

from typing import Any

import numpy as np

PAIRINGS = 256  # other items that each item is compared with
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BLOCK = 16_384  # items at a time


def cosines(images: np.ndarray, texts: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Cosine of each row of `images` (n, d) with its row of `texts`, (n,) float32; NaN where not `both`."""
    products = np.einsum("nd,nd->n", images, texts)
    norms = np.linalg.norm(images, axis=1) * np.linalg.norm(texts, axis=1)
    cosine = products / np.maximum(norms, np.finfo(np.float32).tiny)
    return np.where(both, cosine, np.float32(np.nan)).astype(np.float32)


def view_weights(similarity: np.ndarray, temperature: float) -> np.ndarray:
    """CLIPER's weights of an item's text views: softmax over views of cosine / temperature, (n, views).

    `similarity` (n, views) is NaN where a view is missing; such a view gets weight 0 and the others sum to 1.
    An item without any gets zeros.
    """
    present = ~np.isnan(similarity)
    logits = np.where(present, similarity.astype(np.float64) / temperature, -np.inf)
    highest = np.where(present.any(axis=1), logits.max(axis=1, initial=-np.inf), 0.0)
    odds = np.exp(logits - highest[:, None])  # (n, views)
    return odds / np.maximum(odds.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def contrasts(
    images: np.ndarray, texts: np.ndarray, both: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, float]:
    """How far each item's cosine is above those of random pairings, (n,) float32, and their mean cosine.

    An item's image is paired with the texts of `PAIRINGS` random other items, and its text with their images;
    the contrast is the mean of both distances in standard deviations: 0 is what a random pairing has, and
    images or texts that resemble everything gain nothing by it. NaN where not `both` (n,), and where all
    pairings are the same, as with one other item: that says nothing about the own pair.
    """
    found = np.full(len(images), np.nan, dtype=np.float32)
    rows = np.flatnonzero(both)
    if len(rows) < 2:
        return found, float("nan")
    drawn = np.sort(np.random.default_rng(seed).permutation(rows)[:PAIRINGS])
    some_images, some_texts = _unit(images[drawn]), _unit(texts[drawn])  # (m, d)
    totals = []
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        image, text = _unit(images[block]), _unit(texts[block])  # (b, d)
        cosine = np.einsum("nd,nd->n", image, text)
        other = block[:, None] != drawn  # (b, m), an item is not compared with itself
        above_texts, mean = _distance(cosine, image @ some_texts.T, other)
        above_images, _ = _distance(cosine, text @ some_images.T, other)
        found[block] = (above_texts + above_images) / 2
        totals.append(mean.sum())
    return found, float(sum(totals) / len(rows))


def mismatch_scores(contrast: np.ndarray) -> np.ndarray:
    """How poorly an item's texts fit its image, (n,): the higher, the worse; NaN for items without contrast.

    Root mean square, over an item's views, of how far its contrast (n, views) lies below the view's median;
    0 where it lies above. Distances are in the view's own spread (1.48 median absolute deviations), so that
    a view in which all contrasts are small does not look like a mismatch; the square lets one view that is
    far off, such as a swapped title, stand out among others that fit.
    """
    present = ~np.isnan(contrast)
    total = np.zeros(len(contrast))
    for of_view, here in zip(contrast.T, present.T, strict=True):
        if not here.any():
            continue
        median = np.median(of_view[here])
        spread = 1.4826 * np.median(np.abs(of_view[here] - median))
        below = np.maximum(median - of_view[here].astype(np.float64), 0)
        total[here] += (below / max(spread, 1e-6)) ** 2
    mean_square = total / np.maximum(present.sum(axis=1), 1)
    return np.where(present.any(axis=1), np.sqrt(mean_square), np.nan)


def distribution(similarity: np.ndarray) -> dict[str, Any]:
    """Counts, mean, deviation and quantiles of one view's cosines (n,), NaN where missing; JSON-able."""
    found = similarity[~np.isnan(similarity)].astype(np.float64)
    facts: dict[str, Any] = {"compared": len(found), "missing": len(similarity) - len(found)}
    if not len(found):
        return {**facts, "mean": None, "std": None, "quantiles": {}}
    quantiles = np.quantile(found, QUANTILES)
    facts |= {"mean": float(found.mean()), "std": float(found.std())}
    facts["quantiles"] = {
        f"{share:g}": float(value) for share, value in zip(QUANTILES, quantiles, strict=True)
    }
    return facts


def _distance(cosine: np.ndarray, paired: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviations from the mean of `paired` (b, m) where `other` to `cosine` (b,); and that mean."""
    n = other.sum(axis=1)
    mean = (paired * other).sum(axis=1) / n
    deviation = np.sqrt((((paired - mean[:, None]) ** 2) * other).sum(axis=1) / n)
    distance = (cosine - mean) / np.maximum(deviation, 1e-6)
    return np.where(deviation > 1e-6, distance, np.nan), mean


def _unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float32).tiny)
