"""Cleaning and preparing logs: what is kept, what is counted, what is refused and how it is said."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mmrec.recsys.config import InteractionsConfig
from mmrec.recsys.errors import InputError
from mmrec.recsys.interactions import Dataset, prepare


def settings(**changes: Any) -> InteractionsConfig:
    return InteractionsConfig.model_validate({"path": "log.csv", **changes})


def log_of(*rows: tuple, columns: tuple[str, ...] = ("user_id", "item_id", "timestamp")) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=columns, orient="row")


def pairs_by_id(dataset: Dataset, split: str) -> list[tuple]:
    pairs = dataset.splits[split]
    return list(zip(dataset.user_ids[pairs.user_idx], dataset.item_ids[pairs.item_idx], strict=True))


def square(n_users: int, n_items: int) -> pl.DataFrame:
    """Every user with every item, in time order of the items."""
    return pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), n_items),
            "item_id": np.tile(np.arange(n_items), n_users),
            "timestamp": np.tile(np.arange(n_items), n_users),
        }
    )


def test_oldest_train_newest_test_and_ids_keep_their_type() -> None:
    rows = [(user, item, time) for user in ("b", "a") for time, item in enumerate((40, 30, 20, 10, 50))]
    dataset = prepare(log_of(*rows), pl.Series([50, 40, 30, 20, 10, 99]), settings(ratios=(0.6, 0.2, 0.2)))
    assert dataset.user_ids.to_list() == ["a", "b"]
    assert dataset.item_ids.to_list() == [50, 40, 30, 20, 10, 99]  # catalogue order, cold items stay
    assert pairs_by_id(dataset, "train") == [(u, i) for u in "ab" for i in (40, 30, 20)]
    assert pairs_by_id(dataset, "validation") == [("a", 10), ("b", 10)]
    assert pairs_by_id(dataset, "test") == [("a", 50), ("b", 50)]


def test_the_earliest_duplicate_stays_and_the_others_are_counted() -> None:
    late_then_early = log_of((1, 7, 50), (1, 8, 20), (1, 9, 30), (1, 7, 10))
    dataset = prepare(late_then_early, None, settings(split="leave-one-out"))
    assert dataset.report["duplicates"] == 1
    assert [pairs_by_id(dataset, split) for split in dataset.splits] == [[(1, 7)], [(1, 8)], [(1, 9)]]


def test_ratings_below_the_threshold_are_dropped_before_duplicates() -> None:
    rows = [(user, item, 5.0) for user in range(3) for item in range(3)] + [(0, 9, 2.0), (0, 0, 1.0)]
    table = log_of(*rows, columns=("user_id", "item_id", "stars"))
    dataset = prepare(table, None, settings(split="leave-one-out", rating="stars", min_rating=3))
    assert (dataset.report["below_rating"], dataset.report["duplicates"], dataset.report["kept"]) == (2, 0, 9)
    assert dataset.item_ids.to_list() == [0, 1, 2]


def test_k_core_repeats_until_nothing_changes() -> None:
    # items 5 and 9 go first, which leaves users 4 and 9 with one item each, then item 2 with user 3 alone
    core = [(user, item) for user in range(3) for item in (0, 1, 6)]
    chain = [(3, 2), (3, 0), (4, 2), (4, 5), (9, 9), (9, 2)]
    table = log_of(*core, *chain, columns=("user_id", "item_id"))
    dataset = prepare(table, None, settings(split="leave-one-out", k_core=2))
    assert dataset.user_ids.to_list() == [0, 1, 2]
    assert dataset.item_ids.to_list() == [0, 1, 6]
    assert dataset.report["k_core_removed"] == 6


def test_unknown_items_are_named_or_dropped_on_request() -> None:
    table, catalog = square(3, 8), pl.Series(range(5))
    with pytest.raises(InputError, match=r"3 items of the interactions \(9 of 24 rows\).*first: 5, 6, 7"):
        prepare(table, catalog, settings())
    dataset = prepare(table, catalog, settings(drop_unknown=True))
    assert dataset.report["unknown_items"] == 9
    assert dataset.n_items == 5


def test_integer_ids_of_different_widths_match() -> None:
    table = square(3, 5).with_columns(pl.col("item_id").cast(pl.Int32))
    assert prepare(table, pl.Series(range(5), dtype=pl.UInt64), settings()).report["kept"] == 15


@pytest.mark.parametrize(
    ("logged", "catalog"),
    [
        (pl.Series([1, 2, 3]), pl.Series(["1", "2", "3", "A4"])),
        (pl.Series(["1", "2", "3"]), pl.Series([4, 1, 2, 3])),
        (pl.Series(["1", "2", "3"], dtype=pl.Categorical), pl.Series([4, 1, 2, 3], dtype=pl.UInt64)),
    ],
)
def test_integer_ids_match_the_same_ids_as_text(logged: pl.Series, catalog: pl.Series) -> None:
    table = pl.DataFrame({"user_id": [7, 7, 7], "item_id": logged})
    dataset = prepare(table, catalog, settings(split="leave-one-out"))
    assert dataset.item_ids.dtype == catalog.dtype
    assert dataset.item_ids.to_list() == catalog.to_list()
    found = {str(item) for split in dataset.splits for _, item in pairs_by_id(dataset, split)}
    assert found == {"1", "2", "3"}


def test_a_stray_id_among_integers_is_named() -> None:
    table = square(3, 5).with_columns(pl.col("item_id").cast(pl.String))
    stray = pl.concat([table, table.head(2).with_columns(item_id=pl.Series(["x2", "007"]))])
    with pytest.raises(InputError, match=r"^2 items .*not in the catalogue \(first: 'x2', '007'\)"):
        prepare(stray, pl.Series(range(9)), settings())
    assert prepare(stray, pl.Series(range(9)), settings(drop_unknown=True)).report["unknown_items"] == 2


@pytest.mark.parametrize("drop_unknown", [False, True])
def test_ids_of_two_types_without_a_match_are_explained(drop_unknown: bool) -> None:
    with pytest.raises(InputError, match=r"integers in the interactions \(first: 0\) but strings .*'a'"):
        prepare(square(3, 5), pl.Series(["a", "b"]), settings(drop_unknown=drop_unknown))


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (square(2, 5).rename({"user_id": "USER ID"}), {}, r"no column 'user_id' \(did you mean 'USER ID'"),
        (square(2, 5), {"timestamp": "time"}, r"'time' \(did you mean 'timestamp'\?\) for inter"),
        (square(2, 5), {"rating": "stars"}, r"no column 'stars' for interactions.rating"),
        (square(2, 5), {"min_rating": 3}, r"no column 'rating'"),
        (log_of((1, None, 3), (None, 2, 3), (1, None, 4)), {}, r"1 in 'user_id', 2 in 'item_id'"),
        (square(1, 2).with_columns(rating=pl.Series([None, np.nan])), {"min_rating": 1}, r"2 in 'rating'"),
        (square(2, 5).cast({"item_id": pl.Float64}), {}, r"'item_id' holds Float64.*integers or strings"),
        (square(2, 5).with_columns(timestamp=pl.lit("soon")), {}, r"10 of 10 values of 'timestamp'.*'soon'"),
        (square(2, 5).with_columns(split=pl.lit("tset")), {"split": "column"}, r"'tset'; expected train"),
        (square(2, 5).clear(), {}, r"the log is empty"),
        (square(2, 5), {"k_core": 6}, r"none of 10 rows is left \(k_core_removed 10\)"),
        (square(5, 1), {}, r"'validation' is empty: no user .* share of 0.1 in interactions.ratios\. Raise"),
        (square(5, 2), {"split": "leave-one-out"}, r"'validation' is empty: .* at least 3 inter(?!.*ratios)"),
        (square(2, 5), {"split": "temporal", "ratios": (0.6, 0.1, 0.3)}, r"no timestamp falls .* of 0.1 in"),
        (square(2, 5).with_columns(split=pl.lit("test")), {"split": "column"}, r"column 'split' as 'train'"),
        (log_of(*[(u, u, u) for u in range(9)]), {"split": "temporal"}, r"all 1 users of 'vali.*are cold"),
    ],
)  # fmt: skip
def test_bad_logs_are_refused_in_one_line(table: pl.DataFrame, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        prepare(table, None, settings(**changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "times",
    [
        [1.5, 2.5, 3.5],
        [date(2024, 1, 31), date(2024, 2, 1), date(2024, 2, 2)],
        [datetime(2024, 1, 1, 23), datetime(2024, 1, 2, 1), datetime(2024, 1, 2, 2)],
        ["2024-01-31T23:00:00", "2024-02-01T01:00:00", "2024-02-01T02:00:00"],
        ["2024-01-31", "2024-02-01", "2024-02-02"],
    ],
)
def test_all_kinds_of_timestamps_order_the_log(times: list) -> None:
    table = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [7, 8, 9], "timestamp": times}).reverse()
    dataset = prepare(table, None, settings(split="leave-one-out"))
    assert [pairs_by_id(dataset, split) for split in dataset.splits] == [[(1, 7)], [(1, 8)], [(1, 9)]]


def test_users_without_a_training_row_are_counted_and_not_evaluable() -> None:
    table = square(3, 3).with_columns(split=pl.Series(["train", "valid", "test"] * 2 + ["1", "2", "2"]))
    dataset = prepare(table, None, settings(split="column"))
    assert dataset.report["cold_users"] == 1
    assert len(dataset.splits["test"]) == 4
    assert dataset.evaluable_users("test").tolist() == [0, 1]


def test_the_order_of_the_log_does_not_matter() -> None:
    table = square(30, 10).drop("timestamp")
    first, second = (
        prepare(log, None, settings(cold_items=0.3))
        for log in (table, table.sample(fraction=1.0, shuffle=True, seed=0))
    )
    for name, pairs in first.splits.items():
        assert np.array_equal(pairs.keys(10), second.splits[name].keys(10))


def test_published_splits_of_real_data(shared: Path) -> None:
    sizes = {
        "amazon-baby": (118_551, 20_559, 21_682, 19_445, 7_050),
        "tiktok": (59_541, 3_051, 6_130, 9_308, 6_710),
    }
    for folder, expected in sizes.items():
        table = pl.read_parquet(shared / "data" / folder / "interactions.parquet")
        dataset = prepare(table, None, settings(split="column"))
        found = (*(len(pairs) for pairs in dataset.splits.values()), dataset.n_users, dataset.n_items)
        assert found == expected


def test_posters_with_cold_items(shared: Path) -> None:
    folder = shared / "data" / "movielens-posters"
    table, items = pl.read_csv(folder / "interactions.csv"), pl.read_csv(folder / "items.csv")["item_id"]
    dataset = prepare(table, items, settings(k_core=5, cold_items=0.1))
    assert dataset.item_ids.equals(items)
    assert sum(len(pairs) for pairs in dataset.splits.values()) == dataset.report["kept"]
    assert not np.isin(dataset.splits["train"].item_idx, dataset.withheld_items).any()
