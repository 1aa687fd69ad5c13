"""What models are built from refuses features and pairs that would train nonsense in silence."""

from __future__ import annotations

import pytest
import torch

from mmrec.recsys.errors import InputError
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models.base import TrainingData


def test_features_must_be_finite_and_absent_rows_zero() -> None:
    values, present = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([True, False])
    assert Modality(values, present).dim == 2
    with pytest.raises(InputError, match=r"1 of 2 items are not finite \(first rows: \[0\]\)"):
        Modality(torch.tensor([[1.0, torch.inf], [0.0, 0.0]]), present)
    with pytest.raises(InputError, match="rows of absent items must be zero"):
        Modality(values, ~present)
    with pytest.raises(InputError, match=r"shape \(2, 2\) with a presence mask of shape \(3,\)"):
        Modality(values, torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 0], [1, 1], "sorted by .* and unique"),
        ([1, 0], [0, 0], "sorted by .* and unique"),
        ([0, 1], [0, 3], "item_idx spans 0 to 3; expected 0 to 2"),
        ([], [], "at least 1"),
    ],
)
def test_training_pairs_must_be_sorted_unique_and_in_range(
    users: list[int], items: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TrainingData(2, 3, torch.tensor(users, dtype=torch.int64), torch.tensor(items, dtype=torch.int64))


def test_training_matrix_and_degrees() -> None:
    data = TrainingData(3, 3, torch.tensor([0, 0, 2]), torch.tensor([0, 2, 2]))
    assert data.csr().toarray().tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert (data.user_degree.tolist(), data.item_degree.tolist()) == ([2, 0, 1], [1, 0, 2])
