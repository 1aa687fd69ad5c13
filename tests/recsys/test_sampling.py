"""The negative sampler: never a positive, uniform over the rest, reproducible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmrec.recsys.errors import InputError
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.sampling import NegativeSampler


def data_of(likes: dict[int, list[int]], n_items: int) -> TrainingData:
    pairs = torch.tensor([(user, item) for user in sorted(likes) for item in sorted(likes[user])])
    return TrainingData(max(likes) + 1, n_items, pairs[:, 0], pairs[:, 1])


def draws(sampler: NegativeSampler, user: int, n: int, seed: int = 0) -> Tensor:
    return sampler.sample(torch.full((n,), user), torch.Generator().manual_seed(seed))


def test_a_user_who_likes_all_items_but_one_always_gets_that_one() -> None:
    for spared in (0, 3, 9):
        likes = {0: [item for item in range(10) if item != spared], 1: [spared, 4]}
        assert draws(NegativeSampler(data_of(likes, 10)), 0, 200).unique().tolist() == [spared]


def test_negatives_are_uniform_over_train_items_without_the_positives() -> None:
    # items 2 and 5 never occur in training, so they are no negatives
    sampler = NegativeSampler(data_of({0: [1, 4, 8], 1: [0, 3, 6, 7, 9], 2: [0]}, 10))
    counts = torch.bincount(draws(sampler, 0, 50_000), minlength=10).tolist()
    assert [item for item, count in enumerate(counts) if count] == [0, 3, 6, 7, 9]
    for item in (0, 3, 6, 7, 9):
        assert counts[item] == pytest.approx(10_000, abs=400)  # 4.5 standard deviations


def test_no_training_positive_is_ever_drawn() -> None:
    generator = torch.Generator().manual_seed(3)
    keys = torch.rand(200 * 50, generator=generator).lt(0.4).nonzero().flatten()
    data = TrainingData(200, 50, keys // 50, keys % 50)
    users = data.user_idx.repeat(50)
    negatives = NegativeSampler(data).sample(users, generator)
    assert not torch.isin(users * 50 + negatives, data.keys).any()
    assert negatives.unique().tolist() == list(range(50))


def test_draws_follow_the_generator() -> None:
    sampler = NegativeSampler(data_of({0: [1], 1: list(range(30))}, 30))
    assert torch.equal(draws(sampler, 0, 100), draws(sampler, 0, 100))
    assert not torch.equal(draws(sampler, 0, 100), draws(sampler, 0, 100, seed=1))


def test_users_who_like_everything_are_not_trained_on() -> None:
    sampler = NegativeSampler(data_of({0: [0, 1, 2], 1: [1], 2: [0, 2]}, 5))
    assert sampler.pairs[0].tolist() == [1, 2, 2]
    with pytest.raises(InputError, match="all 2 training users have interacted with all 2 training items"):
        NegativeSampler(data_of({0: [0, 1], 1: [0, 1]}, 5))
