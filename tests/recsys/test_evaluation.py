import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mmrec.recsys.config import EvaluateConfig, IndexConfig
from mmrec.recsys.errors import InputError
from mmrec.recsys.evaluation import Evaluation, Search, evaluate, exact_search, mean_accuracy
from mmrec.recsys.holdout import hold_out
from mmrec.recsys.index import build_index
from mmrec.recsys.pairs import Pairs
from mmrec.recsys.ranking import Ranked
from mmrec.recsys.segments import ItemGroups

A, B, C, D, E, X, Y, Z = range(8)
NOBODY = Pairs(np.empty(0, np.int64), np.empty(0, np.int64))


def pairs(*user_items: tuple[int, int]) -> Pairs:
    user_idx, item_idx = np.array(sorted(user_items), dtype=np.int64).T
    return Pairs(user_idx, item_idx)


def fixed(*lists: list[int]) -> Search:
    """A search that returns these lists, whatever is excluded."""
    table = np.array(lists)
    return lambda user_idx, k, exclude, candidates: Ranked(
        table[user_idx][:, :k], np.zeros((len(user_idx), k))
    )


def random_log(seed: int = 0, n_users: int = 40, n_items: int = 30) -> tuple[Pairs, Pairs, Pairs]:
    """train, validation and test of users who touch 8 to 15 of the first 28 items, mostly popular ones."""
    generator = np.random.default_rng(seed)
    splits: list[list[tuple[int, int]]] = [[], [], []]
    weight = 1 / np.arange(1, 29)
    for user in range(n_users):
        items = generator.choice(28, generator.integers(8, 16), replace=False, p=weight / weight.sum())
        for place, item in enumerate(items):
            splits[0 if place < len(items) - 4 else 1 + place % 2].append((user, int(item)))
    return tuple(pairs(*split) for split in splits)  # pyright: ignore[reportReturnType]


def random_search(seed: int = 0, n_users: int = 40, n_items: int = 30) -> Search:
    generator = np.random.default_rng(seed)
    return exact_search(generator.normal(size=(n_users, 8)), generator.normal(size=(n_items, 8)))


def judged(search: Search, positives: Pairs, train: Pairs, n_items: int = 30, **options) -> Evaluation:
    settings = {key: options.pop(key) for key in ("k", "mask", "bootstrap", "seed") if key in options}
    config = EvaluateConfig(**{"k": (5, 10), "bootstrap": 50, **settings})
    return evaluate(search, positives, train, 40, n_items, config, **options)


def test_the_worked_example() -> None:
    train = pairs(
        (0, A), (0, B), (1, A), (2, A), (3, A), (4, A), (3, B), (2, C), (1, D), (2, D), (3, D), (4, D), (0, E)
    )
    search = fixed([D, C, X, Y, Z], [C, B, X, E, Y])  # pop: a 5, b 2, c 1, d 4, e 1 of five train users
    result = judged(search, pairs((0, C), (0, Z), (1, C)), train, n_items=8, k=(5,))
    means = {name: value.mean for name, value in result.metrics.items()}
    assert result.user_idx.tolist() == [0, 1]
    assert means["recall@5"] == 1 and means["recall_pooled@5"] == 1
    assert result.per_user["mrr@5"].tolist() == [0.5, 1]
    assert means["precision@5"] == pytest.approx((0.4 + 0.2) / 2)
    assert means["coverage@5"] == pytest.approx(7 / 8)  # all but a
    assert result.per_user["arp@5"] == pytest.approx([1, 0.8])
    profile = (np.mean([5, 2, 1]) + np.mean([5, 4])) / 2
    assert means["popularity_lift@5"] == pytest.approx((0.9 - profile) / profile)
    assert result.per_user["epc@5"] == pytest.approx([1 - 1 / 5, 1 - 0.8 / 5])
    assert result.per_user["aplt@5"].tolist() == [0.8, 0.8]  # a, d and b come before 80 % are covered
    bits = -np.log2((np.array([4, 1, 0, 0, 0]) + 1) / 6)
    assert result.per_user["novelty@5"][0] == pytest.approx(bits.mean())
    assert means["inter_user_diversity@5"] == pytest.approx(1 - 3 / 5)  # c, x, y are shared


def test_agrees_with_the_evaluator_of_mmrec_from_scores_to_means(shared) -> None:
    golden = load_file(shared / "parity" / "metrics" / "metrics.safetensors")
    train, test = (
        pairs(*zip(*np.nonzero(golden[f"in/{name}_mask"]), strict=True)) for name in ("train", "test")
    )
    search = exact_search(golden["in/scores"].astype(np.float32), np.eye(80, dtype=np.float32))
    cuts = tuple(range(1, 21))
    result = evaluate(search, test, train, 64, 80, EvaluateConfig(k=cuts, bootstrap=0))
    assert result.users == 64
    names = {
        "recall": "recall",
        "recall_pooled": "recall2",
        "ndcg": "ndcg",
        "precision": "precision",
        "map": "map",
    }
    for ours, theirs in names.items():
        means = [result.metrics[f"{ours}@{k}"].mean for k in cuts]
        assert np.abs(means - golden[f"out/{theirs}"]).max() < 1e-9, ours


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_metrics_do_not_depend_on_the_block_size(block: int) -> None:
    train, _, test = random_log()
    features = {"visual": np.random.default_rng(2).normal(size=(30, 4))}
    expected = judged(random_search(), test, train, features=features)
    result = judged(random_search(), test, train, features=features, block=block)
    assert result.split_json() == expected.split_json()
    assert result.segments_json() == expected.segments_json()
    assert "ild.visual@10" in result.per_user


def test_the_mask_decides_what_a_list_may_hold() -> None:
    train, validation, test = random_log()
    listed: list[set[tuple[int, int]]] = []
    search = random_search()

    def spying(user_idx, k, exclude, candidates) -> Ranked:
        ranked = search(user_idx, k, exclude, candidates)
        listed.append({(u, i) for u, row in zip(user_idx, ranked.items, strict=True) for i in row})
        return ranked

    for mask in ("train", "train+validation"):
        judged(spying, test, train, k=(30,), mask=mask, validation=validation)
    trained, validated = (set(zip(p.user_idx, p.item_idx, strict=True)) for p in (train, validation))
    assert not listed[0] & trained and validated <= listed[0]
    assert not listed[1] & (trained | validated)


def test_a_positive_that_is_masked_is_an_error() -> None:
    train, validation, test = random_log()
    leaked = Pairs(np.append(test.user_idx, train.user_idx[:3]), np.append(test.item_idx, train.item_idx[:3]))
    with pytest.raises(InputError, match=f"3 of {len(leaked)} held-out interactions"):
        judged(random_search(), leaked, train)
    with pytest.raises(InputError, match="splits disjoint"):
        judged(random_search(), validation, train, mask="train+validation", validation=validation)


def test_only_users_with_train_and_held_out_interactions_count() -> None:
    train, test = pairs((0, 1), (2, 1), (3, 2)), pairs((0, 2), (1, 2), (3, 0), (3, 1))
    result = judged(fixed(*[[2, 0, 1]] * 4), test, train, n_items=3, k=(1,))
    assert result.user_idx.tolist() == [0, 3]
    assert (result.skipped_users, result.positives) == (1, 3)
    assert result.metrics["recall@1"].mean == 0.5


def test_a_split_without_users_has_no_metrics() -> None:
    train, _, test = random_log()
    for positives, log in ((NOBODY, train), (test, NOBODY)):
        result = judged(random_search(), positives, log)
        assert result.split_json()["users"] == 0 and result.split_json()["metrics"] == {}
        assert result.segments_json() == {}
    with pytest.raises(InputError, match="nothing to validate on"):
        mean_accuracy(random_search(), hold_out(NOBODY, train, 40, 30), [5])


def test_a_cold_split_ranks_among_the_candidates_alone() -> None:
    train = random_log()[0]
    cold = pairs(*[(user, 28 + user % 2) for user in range(40)])  # items 28 and 29 are in no other split
    candidates = np.arange(30) >= 28
    result = judged(random_search(), cold, train, k=(1, 2), candidates=candidates)
    assert result.metrics["recall@2"].mean == 1 and result.metrics["coverage@2"].mean == 1
    assert result.split_json()["candidates"] == 2
    assert 0 < result.metrics["recall@1"].mean < 1
    assert list(result.segments["popularity"]) == ["cold (0)"]
    with pytest.raises(InputError, match="first: item_idx 29"):
        judged(random_search(), cold, train, candidates=np.arange(30) == 28)


def test_popularity_segments_part_the_positives() -> None:
    train, _, test = random_log()
    result = judged(random_search(), test, train)
    parts = result.segments["popularity"]
    assert sum(part.positives for part in parts.values()) == len(test)
    hits = sum(part.positives * pooled(part, result, test, train) for part in parts.values())
    assert hits / len(test) == pytest.approx(result.metrics["recall_pooled@10"].mean)


def pooled(part, result: Evaluation, test: Pairs, train: Pairs) -> float:
    """Hits over positives of a popularity segment, counted by hand from full lists."""
    bounds = next(name for name, value in result.segments["popularity"].items() if value is part)
    low, *high = map(int, bounds.split("(")[1].rstrip(")").split("-"))
    popularity = np.bincount(train.item_idx, minlength=30)
    inside = (popularity >= low) & (popularity <= (high or [low])[0])
    holdout = hold_out(test, train, 40, 30)
    lists = random_search()(holdout.user_idx, 10, holdout.exclude, None).items
    chosen = [(u, i) for u, i in zip(test.user_idx, test.item_idx, strict=True) if inside[i]]
    recall = {
        u: [i in lists[holdout.user_idx.tolist().index(u)] for v, i in chosen if v == u] for u, _ in chosen
    }
    assert part.users == len(recall)
    assert part.metrics["recall@10"].mean == pytest.approx(
        np.mean([np.mean(found) for found in recall.values()])
    )
    return sum(map(sum, recall.values())) / len(chosen)


def test_recall_is_broken_down_by_any_groups_of_items() -> None:
    train = pairs((0, A), (1, A))
    search = fixed([B, C], [D, X])  # user 0 held out b, d and e, user 1 x and b
    groups = {"shape": ItemGroups(["round", "square", "flat"], np.array([0, 0, 1, 1, 1, 0, 2, 2]))}
    held_out = pairs((0, B), (0, D), (0, E), (1, X), (1, B))
    result = judged(search, held_out, train, n_items=8, k=(2,), groups=groups)
    shapes = {name: (part.users, part.positives) for name, part in result.segments["shape"].items()}
    assert shapes == {"round": (2, 3), "square": (1, 2)}
    assert result.segments["shape"]["round"].metrics["recall@2"].mean == pytest.approx((1 + 0.5) / 2)
    assert result.segments["shape"]["square"].metrics["recall@2"].mean == 0


def test_activity_segments_part_the_users() -> None:
    train, _, test = random_log()
    result = judged(random_search(), test, train)
    parts = result.segments["activity"]
    assert [name.split()[0] for name in parts] == ["low", "mid", "high"]
    assert sum(part.users for part in parts.values()) == result.users
    whole = sum(part.users * part.metrics["ndcg@5"].mean for part in parts.values()) / result.users
    assert whole == pytest.approx(result.metrics["ndcg@5"].mean)
    activity = np.bincount(train.user_idx)[result.user_idx]
    name, part = next(iter(parts.items()))
    low, high = map(int, name.split("(")[1].rstrip(")").split("-"))
    members = (activity >= low) & (activity <= high)
    assert part.metrics["hit@5"].mean == pytest.approx(result.per_user["hit@5"][members].mean())


def test_activity_segments_are_thirds() -> None:
    train = pairs(*[(user, item) for user in range(6) for item in range(user + 1)])
    result = judged(fixed(*[[8, 9]] * 6), pairs(*[(user, 9) for user in range(6)]), train, k=(1,))
    assert list(result.segments["activity"]) == ["low (1-2)", "mid (3-4)", "high (5-6)"]


def test_equally_active_users_stay_together() -> None:
    train, test = pairs(*[(user, 0) for user in range(9)]), pairs(*[(user, 1) for user in range(9)])
    result = judged(fixed(*[[1, 2]] * 9), test, train, n_items=3, k=(1,))
    assert {name: part.users for name, part in result.segments["activity"].items()} == {"low (1)": 9}


def test_choosing_an_epoch_sees_the_same_numbers() -> None:
    train, validation, _ = random_log()
    quick = mean_accuracy(random_search(), hold_out(validation, train, 40, 30), [5, 10], block=7)
    full = judged(random_search(), validation, train).metrics
    assert len(quick) == 12
    assert quick == {name: pytest.approx(full[name].mean, abs=1e-15) for name in quick}


def test_an_index_is_a_search() -> None:
    train, _, test = random_log()
    generator = np.random.default_rng(0)
    users, items = generator.normal(size=(40, 8)), generator.normal(size=(30, 8))
    index = build_index(items, IndexConfig(kind="flat"))
    through = judged(lambda user_idx, *query: index.search(users[user_idx], *query), test, train)
    assert through.split_json() == judged(exact_search(users, items), test, train).split_json()


def test_k_larger_than_the_catalogue_and_json() -> None:
    train, _, test = random_log()
    result = judged(random_search(), test, train, k=(50,))
    assert result.metrics["recall@50"].mean == 1
    written = json.loads(
        json.dumps({**result.split_json(), "segments": result.segments_json()}, allow_nan=False)
    )
    assert set(written["metrics"]["recall@50"]) == {"mean", "low", "high"}
    assert written["metrics"]["coverage@50"]["low"] is None
