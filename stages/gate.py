"""A new bundle against the published one: what is measured on the probe, and which limits are broken."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from ..recsys import metrics
from ..recsys.bootstrap import Estimate, estimate
from ..recsys.ranking import Csr, rank_exact
from .bundle import Bundle
from .feature_sample import Drift, FeatureSample, drift
from .publish_config import GateConfig

METRICS = ("recall", "ndcg")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared."""

    model: Bundle
    features: FeatureSample | None
    counts: Mapping[str, int]  # items, users, interactions


@dataclass(slots=True)
class Verdict:
    """`figures` is JSON-able; the bundle may be published where nothing is `broken`."""

    figures: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)  # one line per limit
    notes: list[str] = field(default_factory=list)  # what could not be compared


def judge_first(tested: Mapping[str, Any], config: GateConfig) -> Verdict:
    """Of a bundle that has none to be compared with; `tested` are the metrics of its test split."""
    verdict = Verdict(notes=["nothing is published yet: no bundle to compare with"])
    verdict.broken += _below(tested, config)
    return verdict


def judge(
    new: Side,
    old: Side,
    probe: pl.DataFrame,
    seen: pl.DataFrame,
    tested: Mapping[str, Any],
    config: GateConfig,
    device: str = "auto",
) -> Verdict:
    """`new` against the published `old`, by the users and items of the `probe` that both know.

    `seen` (user_id, item_id) is what lists of either leave out, but for the probe itself.
    """
    verdict = Verdict()
    verdict.broken += _below(tested, config)
    _judge_counts(verdict, new.counts, old.counts, config)
    _judge_features(verdict, new.features, old.features, config)
    lists = _probe_lists(new.model, old.model, probe, seen, config.k, device)
    verdict.figures["probe"] = {"pairs": len(probe), "users": len(lists.positives), "items": lists.n_items}
    if len(lists.positives):
        _judge_lists(verdict, lists, config)
    else:
        verdict.notes.append("no user and item of the probe is in both bundles: lists are not compared")
    return verdict


@dataclass(frozen=True, slots=True)
class _Lists:
    new: np.ndarray  # (n, k) positions among the items that both know, -1 for none
    old: np.ndarray
    positives: np.ndarray  # (n,) the position of each user's probe item
    n_items: int


def _probe_lists(
    new: Bundle, old: Bundle, probe: pl.DataFrame, seen: pl.DataFrame, k: int, device: str
) -> _Lists:
    """The lists of both over the items that both know, without what their users have."""
    users = _rows(probe["user_id"].unique(maintain_order=True), new.user_ids, old.user_ids)
    items = _rows(new.item_ids, new.item_ids, old.item_ids)
    said = probe.select(_key("user_id", "user"), _key("item_id", "item"))
    place = items.select("key", pl.int_range(pl.len()).alias("place"))
    pairs = said.join(users.rename({"key": "user"}), on="user", how="inner", maintain_order="left")
    pairs = pairs.join(place, left_on="item", right_on="key", how="inner", maintain_order="left")
    exclude = _exclude(pairs, seen, place)
    found = []
    for bundle, column in ((new, "new"), (old, "old")):
        vectors = bundle.vectors
        rows, columns = pairs[column].to_numpy(), items[column].to_numpy()
        found.append(rank_exact(vectors.users[rows], vectors.items[columns], k, exclude, device=device).items)
    return _Lists(found[0], found[1], pairs["place"].to_numpy(), len(items))


def _rows(wanted: pl.Series, new: pl.Series, old: pl.Series) -> pl.DataFrame:
    """key, new, old: the rows of the ids that both have, matched by what they say, in the order wanted."""
    sides = [
        pl.DataFrame({"key": ids.cast(pl.String)}).with_row_index(name)
        for name, ids in (("new", new), ("old", old))
    ]
    keys = pl.DataFrame({"key": wanted.cast(pl.String)})
    for side in sides:
        keys = keys.join(side, on="key", how="inner", maintain_order="left")
    return keys


def _exclude(pairs: pl.DataFrame, seen: pl.DataFrame, place: pl.DataFrame) -> Csr:
    """(n, items) CSR: what the user of each row has, but for the item that is looked for."""
    rows = pairs.select("user", "item", pl.int_range(pl.len()).alias("row"))
    had = seen.select(_key("user_id", "user"), _key("item_id", "had"))
    cells = rows.join(had, on="user", how="inner").filter(pl.col("had") != pl.col("item"))
    cells = cells.join(place, left_on="had", right_on="key", how="inner")
    entries = np.ones(len(cells), np.float32), (cells["row"].to_numpy(), cells["place"].to_numpy())
    return sparse.csr_matrix(entries, shape=(len(pairs), len(place)))


def _key(column: str, name: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).alias(name)


def _judge_lists(verdict: Verdict, lists: _Lists, config: GateConfig) -> None:
    values = {side: _values(getattr(lists, side), lists, config.k) for side in ("new", "old")}
    changes = estimate(
        {name: (values["new"][name] - values["old"][name], values["old"][name]) for name in values["new"]},
        config.resamples,
        config.seed,
    )
    figures = verdict.figures
    for name, change in changes.items():
        new, old = float(values["new"][name].mean()), float(values["old"][name].mean())
        figures[name] = {"published": old, "new": new, "change": change.as_json()}
        verdict.broken += _fallen(name, old, new, change, config)
    covered = {
        side: metrics.coverage(metrics.exposure(getattr(lists, side), lists.n_items))
        for side in ("new", "old")
    }
    name, new, old = f"coverage@{config.k}", covered["new"], covered["old"]
    figures[name] = {"published": old, "new": new}
    limit = config.max_coverage_fall
    if limit is not False and old > 0 and (new - old) / old < -limit:
        verdict.broken.append(
            f"{name}: {old:.4f} -> {new:.4f} ({(new - old) / old:+.1%}), max_coverage_fall = {limit:g}"
        )
    changed = _changed(lists)
    figures["changed"] = changed
    if config.max_changed is not False and changed > config.max_changed:
        verdict.broken.append(
            f"lists: {changed:.1%} of their items are not in the published ones, max_changed = "
            f"{config.max_changed:g}"
        )


def _values(found: np.ndarray, lists: _Lists, k: int) -> dict[str, np.ndarray]:
    """ "recall@10" -> (n,): every user has the one item of the probe."""
    rows = np.arange(len(found))
    hits = metrics.find_hits(found, rows, rows * lists.n_items + lists.positives, lists.n_items)
    values = metrics.per_user(hits, np.ones(len(found), np.int64), [k])
    return {f"{name}@{k}": values[f"{name}@{k}"] for name in METRICS}


def _fallen(name: str, old: float, new: float, change: Estimate, config: GateConfig) -> Iterator[str]:
    """The broken limit of a metric whose fall is too large, and too large for chance."""
    limit = config.max_fall
    if limit is not False and math.isfinite(change.mean) and change.mean < -limit and change.high < 0:
        interval = f"{change.low:+.1%} to {change.high:+.1%}"
        yield f"{name}: {old:.4f} -> {new:.4f} ({change.mean:+.1%}, {interval}), max_fall = {limit:g}"


def _changed(lists: _Lists) -> float:
    """Mean over users of the share of the new list that the old one lacks."""
    kept = (lists.new[:, :, None] == lists.old[:, None, :]).any(axis=2) & (lists.new >= 0)  # (n, k)
    lengths = (lists.new >= 0).sum(axis=1)
    return float((1 - kept.sum(axis=1) / np.maximum(lengths, 1)).mean())


def _below(tested: Mapping[str, Any], config: GateConfig) -> Iterator[str]:
    for name, least in config.floors.items():
        measured = tested.get(name, {}).get("mean")
        if measured is None:
            known = ", ".join(tested) or "none"
            yield f"{name}: not measured on the test split, floors asks for {least:g}; measured: {known}"
        elif measured < least:
            yield f"{name}: {measured:.4f} on the test split, floors asks for {least:g}"


def _judge_counts(
    verdict: Verdict, new: Mapping[str, int], old: Mapping[str, int], config: GateConfig
) -> None:
    for name in old:
        verdict.figures[name] = {"published": old[name], "new": new[name]}
        limit = config.max_shrink
        if limit is not False and old[name] and new[name] < (1 - limit) * old[name]:
            change = new[name] / old[name] - 1
            verdict.broken.append(
                f"{name}: {old[name]:,} -> {new[name]:,} ({change:+.1%}), max_shrink = {limit:g}"
            )


def _judge_features(
    verdict: Verdict, new: FeatureSample | None, old: FeatureSample | None, config: GateConfig
) -> None:
    if new is None or old is None:
        if (new is None) != (old is None):
            verdict.notes.append("features: one of the two bundles has none, so they are not compared")
        return
    if new.space != old.space:
        verdict.notes.append("features: of another encoder or other views than the published ones")
        return
    found = drift(new, old)
    verdict.figures["features"] = {
        "unchanged": found.unchanged,
        "cosine": _finite(found.cosine),
        "mean_cosine": _finite(found.mean_cosine),
        "view_fall": _finite(found.view_fall),
    }
    verdict.broken += _drifted(found, config)


def _drifted(found: Drift, config: GateConfig) -> Iterator[str]:
    for what, cosines, limit, key in (
        ("unchanged items have other vectors", found.cosine, config.min_cosine, "min_cosine"),
        ("the mean vector has moved", found.mean_cosine, config.min_mean_cosine, "min_mean_cosine"),
    ):
        for view, cosine in cosines.items():
            if limit is not False and cosine < limit:
                yield f"{view}: {what} (cosine {cosine:.4f}), {key} = {limit:g}"
    for view, fall in found.view_fall.items():
        if config.max_view_fall is not False and fall > config.max_view_fall:
            yield (f"{view}: {fall:.1%} of the items fewer have it, max_view_fall = {config.max_view_fall:g}")


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
