"""Splits worked out by hand, and the leak check."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from mmrec.recsys.config import InteractionsConfig
from mmrec.recsys.errors import InputError
from mmrec.recsys.interactions import prepare
from mmrec.recsys.pairs import Pairs
from mmrec.recsys.splits import check_no_leak, choose_cold_items, split_labels


def labels_of(users: list[int], times: list[int] | None, **changes: Any) -> list[int]:
    config = InteractionsConfig.model_validate({"path": "log.csv", **changes})
    array = None if times is None else np.array(times)
    return split_labels(np.array(users), array, config, np.random.default_rng(0)).tolist()


def test_ratio_rounds_per_user_and_always_leaves_a_training_row() -> None:
    users = [0] + [1] * 2 + [2] * 5 + [3] * 15
    times = [0, *range(2), *range(5), *range(15)]
    labels = labels_of(users, times, ratios=(0.8, 0.1, 0.1))
    # 15 * 0.1 + 0.5 = 2.0: two rows; 5 * 0.1 + 0.5 = 1.0: one; below 5 rows: none
    assert labels == [0] + [0, 0] + [0, 0, 0, 1, 2] + [0] * 11 + [1, 1, 2, 2]
    assert labels_of([0, 1, 1], [0, 0, 1], ratios=(0.2, 0.4, 0.4)) == [0, 0, 2]


def test_ratio_follows_time_not_position() -> None:
    assert labels_of([0] * 5, [50, 10, 40, 20, 30], ratios=(0.6, 0.2, 0.2)) == [2, 0, 1, 0, 0]


def test_ties_are_broken_at_random_not_by_item_order() -> None:
    users = np.repeat(np.arange(2000), 5)
    held_out = np.array(labels_of(users.tolist(), [0] * len(users))).reshape(-1, 5)
    for share in ((held_out == 2).mean(axis=0), (held_out == 1).mean(axis=0)):
        assert share == pytest.approx(np.full(5, 0.2), abs=0.04)  # 4.5 standard errors


def test_leave_one_out_by_history_length() -> None:
    assert labels_of([0, 1, 1, 2, 2, 2], [0, 1, 2, 3, 4, 5], split="leave-one-out") == [0, 0, 2, 0, 1, 2]


def test_temporal_cuts_all_users_at_the_same_instants() -> None:
    # cuts at positions 6 and 8 of the ordered times: instants 6 and 8; both rows at instant 6 go together
    times = [0, 1, 2, 3, 4, 6, 6, 7, 8, 9]
    labels = labels_of([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], times, split="temporal", ratios=(0.6, 0.2, 0.2))
    assert labels == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_temporal_needs_times_that_differ() -> None:
    with pytest.raises(InputError, match="needs a timestamp column"):
        labels_of([0, 1], None, split="temporal")
    with pytest.raises(InputError, match="4 of 4 share the oldest timestamp"):
        labels_of([0, 1, 2, 3], [7, 7, 7, 7], split="temporal")


def test_cold_items_leave_every_other_split() -> None:
    users, items = np.divmod(np.arange(400), 20)
    table = pl.DataFrame({"user_id": users, "item_id": items})
    config = InteractionsConfig(path="log.csv", cold_items=0.25)
    dataset = prepare(table, None, config)
    in_split = {name: set(pairs.item_idx.tolist()) for name, pairs in dataset.splits.items()}
    assert in_split["train"] | in_split["validation"] | in_split["test"] == set(range(20)) - set(
        dataset.withheld_items.tolist()
    )
    assert len(in_split["validation_cold"]) == 2
    assert len(in_split["test_cold"]) == 3
    assert not in_split["validation_cold"] & in_split["test_cold"]
    assert len(dataset.splits["test_cold"]) == 3 * 20  # all their interactions
    reordered = prepare(table, pl.Series(range(19, -1, -1)), config)
    assert set(reordered.item_ids[reordered.withheld_items]) == set(dataset.item_ids[dataset.withheld_items])


def test_cold_items_too_few_to_halve() -> None:
    with pytest.raises(InputError, match="withholds 1 of 10 items"):
        choose_cold_items(np.arange(10), 0.1, np.random.default_rng(0))


def test_a_pair_in_two_splits_is_a_leak() -> None:
    train, test = Pairs(np.array([0, 1]), np.array([2, 0])), Pairs(np.array([1, 1]), np.array([0, 1]))
    with pytest.raises(
        InputError, match=r"1 \(user, item\) pairs are both in 'train' and in 'test'.*\(u1, i0\)"
    ):
        check_no_leak({"train": train, "test": test}, ["u0", "u1"], ["i0", "i1", "i2"])
    check_no_leak(
        {"train": train, "test": Pairs(np.array([1]), np.array([1]))}, ["u0", "u1"], ["i0", "i1", "i2"]
    )


def test_a_leak_in_a_split_column_is_not_taken_for_a_duplicate() -> None:
    table = pl.DataFrame({"user_id": [1, 1, 1], "item_id": [5, 5, 6], "split": ["train", "test", "train"]})
    with pytest.raises(InputError, match=r"both in 'train' and in 'test' \(first: \(1, 5\)\)"):
        prepare(table, None, InteractionsConfig(path="log.csv", split="column"))
