"""The probe set: one interaction each of some users; no model learns from it, all are measured with it."""

from __future__ import annotations

import numpy as np
import polars as pl

from .cleaning import clean
from .config import InteractionsConfig

MIN_HISTORY = 5  # interactions of a user who can spare one


def draw_probe(
    log: pl.DataFrame, catalog_ids: pl.Series | None, config: InteractionsConfig, users: int, seed: int
) -> pl.DataFrame:
    """(user_id, item_id) of at most so many users drawn at random: the newest interaction of each, or any one
    of a log without times. Users with fewer than `MIN_HISTORY` interactions are left out; there may be none.
    """
    cleaned = clean(log, catalog_ids, config)
    rng = np.random.default_rng(seed)
    n = len(cleaned.user_idx)
    times = np.zeros(n) if cleaned.times is None else cleaned.times
    order = np.lexsort((rng.random(n), times, cleaned.user_idx))  # by user, oldest first, ties at random
    counts = np.bincount(cleaned.user_idx, minlength=len(cleaned.user_ids))
    newest = order[np.cumsum(counts) - 1]  # per user; every one has interactions
    able = np.flatnonzero(counts >= MIN_HISTORY)
    chosen = np.sort(rng.permutation(able)[:users])
    return pl.DataFrame(
        {
            "user_id": cleaned.user_ids.gather(cleaned.user_idx[newest[chosen]]),
            "item_id": cleaned.item_ids.gather(cleaned.item_idx[newest[chosen]]),
        }
    )


def withhold(log: pl.DataFrame, probe: pl.DataFrame, config: InteractionsConfig) -> pl.DataFrame:
    """The log without every row of a pair of the probe; ids match by what they say, 7 with "7"."""
    keys = {config.user_id: "user_id", config.item_id: "item_id"}
    said = pl.DataFrame({own: probe[name].cast(pl.String) for own, name in keys.items()})
    return log.join(
        said,
        left_on=[pl.col(name).cast(pl.String) for name in keys],
        right_on=list(keys),
        how="anti",
        maintain_order="left",
    )
