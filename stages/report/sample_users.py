"""A few users whose lists are shown: the same ones for the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ...recsys.config import EvaluateConfig
from ...recsys.evaluation import Search
from ...recsys.interactions import Dataset
from ...recsys.pairs import Pairs

BEST, TYPICAL, WORST = "best", "typical", "worst"
HAD = 8  # items of a history that are shown


@dataclass(frozen=True, slots=True)
class SampleUser:
    """One user's past, list and future; items are ids."""

    kind: str
    user_id: object
    metrics: Mapping[str, float]
    had: Sequence[object]  # the newest first, where there are times
    n_had: int
    listed: Sequence[tuple[object, bool]]  # best first, and whether it was held out
    missed: Sequence[object]  # held out and not in the list that is shown
    n_held_out: int


def choose(values: np.ndarray, n_held_out: np.ndarray, count: int) -> list[tuple[str, int]]:
    """(kind, row) of about `count` users, in thirds: of the highest value (n,), those nearest to the median
    of all that are above 0, and of the lowest. Among equals, those who held out most; nobody twice."""
    served = np.flatnonzero(values > 0)
    middle = np.median(values[served]) if len(served) else 0.0
    everybody = np.arange(len(values))
    orders = {
        BEST: (everybody, -values),
        TYPICAL: (served, np.abs(values[served] - middle)),
        WORST: (everybody, values),
    }
    chosen: dict[int, str] = {}
    for place, (kind, (rows, order)) in enumerate(orders.items()):
        ranked = rows[np.lexsort((-n_held_out[rows], order))].tolist()
        free = [row for row in ranked if row not in chosen]
        chosen |= dict.fromkeys(free[: (count + 2 - place) // 3], kind)
    return [(kind, row) for row, kind in chosen.items()]


def sample_users(
    per_user: pl.DataFrame,
    split: str,
    metrics: Sequence[str],
    dataset: Dataset,
    search: Search,
    config: EvaluateConfig,
    count: int,
    length: int,
) -> list[SampleUser]:
    """Best, typical and worst users of `split` by the first of `metrics`, with lists of `length` items."""
    of_split = per_user.filter(pl.col("split") == split).drop_nulls(metrics[0])
    held_out, train = dataset.splits[split], dataset.splits["train"]
    user_idx = _positions(dataset.user_ids, of_split["user_id"])
    n_held_out = np.bincount(held_out.user_idx, minlength=dataset.n_users)
    chosen = choose(of_split[metrics[0]].to_numpy(), n_held_out[user_idx], count)
    asked = np.array([user_idx[row] for _, row in chosen], dtype=np.int64)
    seen = train.csr(dataset.n_users, dataset.n_items)
    if config.mask == "train+validation" and split.startswith("test"):
        seen = seen + dataset.splits["validation"].csr(dataset.n_users, dataset.n_items)
    lists = search(asked, length, seen[asked], None).items if len(asked) else np.empty((0, length), np.int64)
    return [
        _sample(kind, user, ranked, of_split.row(row, named=True), metrics, dataset, held_out)
        for (kind, row), user, ranked in zip(chosen, asked, lists, strict=True)
    ]


def _sample(
    kind: str,
    user: int,
    ranked: np.ndarray,
    figures: Mapping[str, float],
    metrics: Sequence[str],
    dataset: Dataset,
    held_out: Pairs,
) -> SampleUser:
    ids, train = dataset.item_ids, dataset.splits["train"]
    own = np.flatnonzero(train.user_idx == user)
    if dataset.train_times is not None:
        own = own[np.argsort(-dataset.train_times[own], kind="stable")]
    wanted = held_out.item_idx[held_out.user_idx == user].tolist()
    listed = [int(item) for item in ranked if item >= 0]
    return SampleUser(
        kind=kind,
        user_id=dataset.user_ids[int(user)],
        metrics={name: float(figures[name]) for name in metrics},
        had=[ids[int(item)] for item in train.item_idx[own[:HAD]]],
        n_had=len(own),
        listed=[(ids[item], item in wanted) for item in listed],
        missed=[ids[item] for item in wanted if item not in listed],
        n_held_out=len(wanted),
    )


def _positions(known: pl.Series, asked: pl.Series) -> np.ndarray:
    """The user_idx of each id, (n,)."""
    rows = pl.DataFrame({"id": known.cast(pl.String)}).with_row_index("row")
    wanted = pl.DataFrame({"id": asked.cast(pl.String)})
    return wanted.join(rows, on="id", how="inner", maintain_order="left")["row"].to_numpy().astype(np.int64)
