import pytest
import torch
import torch.nn.functional as F

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models.embeddings import WIDE, Projection

ROWS, OTHERS = torch.tensor([3, 0, 3, 2]), torch.tensor([1, 1, 0, 3])


def projection(width: int, bias: bool = True) -> Projection:
    torch.manual_seed(0)
    present = torch.tensor([True, True, False, True])
    features = torch.randn(4, width) * present.unsqueeze(1)
    return Projection(Modality(features, present), 5, bias)


@pytest.mark.parametrize("width", [8, WIDE])
@pytest.mark.parametrize("halved", [False, True])
def test_rows_are_those_of_the_table_with_their_gradient(width: int, halved: bool) -> None:
    layer = projection(width)
    if halved:
        layer.halve()
    expected = layer.table()[ROWS]
    assert not expected[3].any(), "absent rows are zero, without the bias"
    rows = layer(ROWS)
    assert torch.allclose(rows, expected, atol=1e-5)
    weight = layer.linear.weight
    ours, theirs = (torch.autograd.grad(out.square().sum(), weight)[0] for out in (rows, expected))
    assert torch.allclose(ours, theirs, rtol=0.02 if halved else 1e-4, atol=0.1 if halved else 1e-4)


@pytest.mark.parametrize("bias", [False, True])
def test_difference_is_that_of_two_rows(bias: bool) -> None:
    layer, both = projection(8, bias), torch.tensor([True, True, True, False])
    expected = layer(ROWS) - layer(OTHERS)
    assert torch.allclose(layer.difference(ROWS, OTHERS)[both], expected[both], atol=1e-6)


def test_halved_features_take_half_the_memory_and_give_float32_products_close_to_the_full_ones() -> None:
    layer = projection(WIDE)
    full = layer.table()
    layer.halve()
    assert layer.features.element_size() == 2
    halved = layer.table()
    assert halved.dtype == torch.float32
    assert F.cosine_similarity(halved[:2], full[:2]).min() > 0.9999
    halved.sum().backward()
    gradient = layer.linear.weight.grad
    assert gradient is not None and gradient.dtype == torch.float32


def test_trained_features_stay_as_they_are() -> None:
    layer = Projection(
        Modality(torch.randn(2, 4), torch.ones(2, dtype=torch.bool)), 3, True, train_features=True
    )
    layer.halve()
    assert layer.features.dtype == torch.float32
