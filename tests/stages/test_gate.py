"""Two recommenders of three users and four items; a user's list follows the weights of the items."""

import numpy as np
import polars as pl
import pytest

from mmrec.recsys.models.base import Vectors
from mmrec.stages.bundle import Bundle
from mmrec.stages.feature_sample import FeatureSample, View
from mmrec.stages.gate import Side, judge, judge_first
from mmrec.stages.publish_config import GateConfig

ITEMS = ["a", "b", "c", "d"]
COUNTS = {"items": 4, "users": 40, "interactions": 100}
FEW = GateConfig(k=1, max_changed=False, max_coverage_fall=False)


def side(likes: dict[str, str], features: FeatureSample | None = None, **counts: int) -> Side:
    """Every user scores the item that `likes` names highest, then a, b, c, d."""
    users = np.array(
        [[4.0 * (item == liked) - n for n, item in enumerate(ITEMS)] for liked in likes.values()]
    )
    vectors = Vectors(users.astype(np.float32), np.eye(4, dtype=np.float32))
    model = Bundle({}, pl.Series(list(likes)), pl.Series(ITEMS), vectors)
    return Side(model, features, COUNTS | counts)


def sample(rows: list[list[float]], mean: list[float], share: float = 1.0, space: str = "s") -> FeatureSample:
    items = pl.DataFrame({"item_id": ITEMS[: len(rows)], "content_hash": ITEMS[: len(rows)]})
    return FeatureSample(
        space, {"image": View(share, np.array(mean))}, items, {"image": np.array(rows, np.float16)}
    )


USERS = [f"u{n}" for n in range(40)]
PROBE = pl.DataFrame({"user_id": USERS, "item_id": ["d"] * 40})
SEEN = pl.DataFrame({"user_id": USERS, "item_id": ["d"] * 40})  # what is looked for is never left out
RIGHT, WRONG = dict.fromkeys(USERS, "d"), dict.fromkeys(USERS, "a")


def verdict(new: Side, old: Side, config: GateConfig = FEW, seen: pl.DataFrame = SEEN):
    return judge(new, old, PROBE, seen, {}, config, "cpu")


def test_a_bundle_that_finds_less_is_refused_and_one_that_finds_more_is_not() -> None:
    found = verdict(side(WRONG), side(RIGHT))
    assert found.figures["recall@1"] == {
        "published": 1.0, "new": 0.0, "change": {"mean": -1.0, "low": -1.0, "high": -1.0}
    }  # fmt: skip
    assert found.broken == [
        "recall@1: 1.0000 -> 0.0000 (-100.0%, -100.0% to -100.0%), max_fall = 0.1",
        "ndcg@1: 1.0000 -> 0.0000 (-100.0%, -100.0% to -100.0%), max_fall = 0.1",
    ]
    assert verdict(side(RIGHT), side(WRONG)).broken == []


def test_a_fall_that_chance_explains_is_let_through() -> None:
    mixed = dict(zip(USERS, ["d", "a"] * 20, strict=True))
    shifted = dict(zip(USERS, ["a", "d"] * 18 + ["a"] * 4, strict=True))  # 20 -> 18, other users
    found = verdict(side(shifted), side(mixed))
    assert found.figures["recall@1"]["change"]["mean"] == pytest.approx(-0.1)
    assert verdict(side(shifted), side(mixed), FEW.model_copy(update={"max_fall": 0.05})).broken == []


def test_lists_leave_out_what_users_have() -> None:
    had = pl.concat([SEEN, pl.DataFrame({"user_id": USERS, "item_id": ["a"] * 40})])
    assert verdict(side(WRONG), side(RIGHT)).figures["changed"] == 1.0
    second = GateConfig(k=3, max_changed=False, max_coverage_fall=False)
    assert (
        verdict(side(WRONG), side(RIGHT), second, had).figures["changed"] == 0.0
    )  # b, c, d are left to both


def test_fewer_items_in_all_lists_and_lists_that_are_all_new() -> None:
    spread = dict(zip(USERS, ITEMS * 10, strict=True))
    config = GateConfig(k=1, max_fall=False, max_coverage_fall=0.5, max_changed=0.5)
    assert verdict(side(WRONG), side(spread), config).broken == [
        "coverage@1: 1.0000 -> 0.2500 (-75.0%), max_coverage_fall = 0.5",
        "lists: 75.0% of their items are not in the published ones, max_changed = 0.5",
    ]


def test_a_log_that_has_lost_half_of_its_rows() -> None:
    found = verdict(side(RIGHT, interactions=40), side(RIGHT))
    assert found.broken == ["interactions: 100 -> 40 (-60.0%), max_shrink = 0.5"]


def test_features_that_moved_though_their_items_did_not() -> None:
    before = sample([[1, 0], [1, 0]], [1, 0])
    assert verdict(side(RIGHT, before), side(RIGHT, before)).broken == []
    turned = verdict(side(RIGHT, sample([[0, 1], [1, 0]], [0.5, 0.5], share=0.7)), side(RIGHT, before))
    assert turned.broken == [
        "image: unchanged items have other vectors (cosine 0.5000), min_cosine = 0.99",
        "image: the mean vector has moved (cosine 0.7071), min_mean_cosine = 0.9",
        "image: 30.0% of the items fewer have it, max_view_fall = 0.2",
    ]


def test_another_encoder_is_said_and_not_refused() -> None:
    other = sample([[0, 1], [0, 1]], [0, 1], space="other")
    found = verdict(side(RIGHT, other), side(RIGHT, sample([[1, 0]], [1, 0])))
    assert found.broken == [] and "of another encoder" in found.notes[0]


def test_items_whose_content_changed_may_have_other_vectors() -> None:
    before, after = sample([[1, 0], [1, 0]], [1, 0]), sample([[0, 1], [1, 0]], [0.9, 0.1])
    edited = after.items.with_columns(pl.Series("content_hash", ["edited", "b"]))
    now = FeatureSample(after.space, after.views, edited, after.vectors)
    assert verdict(side(RIGHT, now), side(RIGHT, before)).figures["features"]["cosine"] == {"image": 1.0}


def test_floors_hold_at_the_first_publication_too() -> None:
    config = GateConfig(floors={"recall@20": 0.5, "ndcg@7": 0.1})
    assert judge_first({"recall@20": {"mean": 0.4}}, config).broken == [
        "recall@20: 0.4000 on the test split, floors asks for 0.5",
        "ndcg@7: not measured on the test split, floors asks for 0.1; measured: recall@20",
    ]
