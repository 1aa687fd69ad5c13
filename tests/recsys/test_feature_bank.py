"""A bank shares one table among all who read it, and keeps what a loss asks of its rows."""

import pytest
import torch

from mmrec.recsys.errors import InputError
from mmrec.recsys.feature_bank import FeatureBank
from mmrec.recsys.modalities import Modality

VALUES = torch.arange(8.0).view(4, 2) * torch.tensor([[1.0], [1.0], [0.0], [1.0]])  # item 2 is absent
VIEWS = {
    "image": Modality(VALUES, torch.tensor([True, True, False, True])),
    "foreign": Modality(torch.ones(4, 3), torch.ones(4, dtype=torch.bool)),
}


def test_gradients_of_lookups_and_of_the_whole_table_add_up() -> None:
    bank = FeatureBank({"image": VIEWS["image"]})
    learned = bank.joined(VIEWS)["image"].learned
    assert learned is not None and learned.dim == 2
    first, second = learned.module(), learned.module()
    loss = first(torch.tensor([1, 1, 3])).sum() + 2 * second(None)[0].sum() + second(torch.tensor([3])).sum()
    loss.backward()
    asked = torch.tensor([0, 1, 2])
    assert bank.gradients(asked)["image"].tolist() == [[2, 2], [2, 2], [0, 0]]
    bank.clear_gradients()
    first(torch.tensor([1, 1, 3])).sum().backward()  # a lookup alone leaves the rest of the table alone
    gradient = bank.tables["image"].grad
    assert gradient is not None and gradient.is_sparse
    assert bank.gradients(torch.tensor([1, 2, 3]))["image"].tolist() == [[2, 2], [0, 0], [1, 1]]
    assert not list(first.parameters()) and not first.state_dict()


def test_what_is_written_is_read_at_once_and_absent_rows_stay_zero() -> None:
    bank = FeatureBank({"image": VIEWS["image"]})
    views = bank.joined(VIEWS)
    assert views["foreign"] is VIEWS["foreign"]
    assert views["image"].learned is not None
    module = views["image"].learned.module()
    bank.write(torch.tensor([1, 2]), {"image": torch.full((2, 2), 9.0)})
    assert module(None).tolist() == [[0, 1], [9, 9], [0, 0], [6, 7]]
    assert views["image"].values.tolist() == VALUES.tolist()  # item graphs stay as they were built


def test_a_bank_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no view of the features comes from an encoder"):
        FeatureBank({})
