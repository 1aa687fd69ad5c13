import math

import pytest
import torch

from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.contrastive import sampled_softmax
from mmrec.recsys.models.lightgcn import LightGCN


def test_every_positive_competes_with_all_negatives_by_cosine() -> None:
    users, positives = torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    negatives = torch.tensor([[0.0, 5.0], [2.0, 0.0], [0.0, -1.0]])
    scores = [[1.0, 0.0, 1.0, 0.0], [math.sqrt(0.5), 1.0, 0.0, -1.0]]  # cosines: own, then the negatives
    expected = [math.log(sum(math.exp(other / 0.5) for other in row)) - row[0] / 0.5 for row in scores]
    loss = sampled_softmax(users, positives, negatives, temperature=0.5)
    assert loss.item() == pytest.approx(sum(expected) / 2)


def test_the_softmax_ranks_by_cosine() -> None:
    pairs = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2])
    data = TrainingData(2, 4, *pairs)
    model = LightGCN(data, 8, LightGCN.Options(loss="softmax", n_layers=1))
    lengths = torch.from_numpy(model.vectors().items).norm(dim=1)
    assert torch.allclose(lengths, torch.tensor([1.0, 1.0, 1.0, 0.0])), "the cold item knows no direction"
    parts = model.loss(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([2, 0]))
    assert set(parts) == {"loss", "softmax", "reg"}
    assert not model.rows_independent
