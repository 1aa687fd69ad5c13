import math

import pytest
import torch
from torch import Tensor

from mmrec.recsys.graph import BipartiteGraph, SparseProduct, edge_weights, product, take_rows

USER_IDX, ITEM_IDX = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])  # user 2 and item 2 are isolated


def graph() -> BipartiteGraph:
    return BipartiteGraph(USER_IDX, ITEM_IDX, n_users=3, n_items=3)


def dense_adjacency() -> Tensor:
    blocks = torch.zeros(6, 6)
    blocks[:3, 3:] = torch.tensor([[1 / math.sqrt(2), 1 / 2, 0], [0, 1 / math.sqrt(2), 0], [0, 0, 0]])
    return blocks + blocks.T


def dense_mean(table: Tensor, n_layers: int) -> Tensor:
    layers = [table]
    for _ in range(n_layers):
        layers.append(dense_adjacency() @ layers[-1])
    return torch.stack(layers).mean(dim=0)


def test_weights_are_inverse_roots_of_degrees() -> None:
    assert torch.allclose(graph().to_users.to_dense(), dense_adjacency()[:3, 3:])
    assert torch.allclose(graph().to_items.to_dense(), dense_adjacency()[3:, :3])
    assert edge_weights(USER_IDX, ITEM_IDX, 3, 3, epsilon=2.0).tolist() == pytest.approx(
        [1 / math.sqrt(4 * 3), 1 / math.sqrt(4 * 4), 1 / math.sqrt(3 * 4)]
    )


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_propagation_and_its_gradient_equal_the_dense_form(n_layers: int) -> None:
    torch.manual_seed(0)
    table, weights = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    users, items = graph().propagate(table[:3], table[3:], n_layers)
    ours = torch.cat([users, items])
    expected = dense_mean(table, n_layers)
    assert torch.allclose(ours, expected, atol=1e-6)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), table)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), table)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)


def test_batch_rows_and_their_gradient_equal_lookups_in_the_propagated_tables() -> None:
    torch.manual_seed(0)
    table, weights = torch.randn(6, 4, requires_grad=True), torch.randn(4, 3, 4)
    user_idx, item_idx = torch.tensor([1, 1, 0]), torch.tensor([0, 2, 0])  # repeated rows add up
    rows = graph().propagate_rows(table[:3], table[3:], 2, user_idx, item_idx)
    users, items = graph().propagate(table[:3], table[3:], 2)
    expected = (users[user_idx], items[item_idx], table[:3][user_idx], table[3:][item_idx])
    for row, other in zip(rows, expected, strict=True):
        assert torch.allclose(row, other, atol=1e-6)
    (gradient,) = torch.autograd.grad((torch.stack(rows) * weights).sum(), table)
    (expected_gradient,) = torch.autograd.grad((torch.stack(expected) * weights).sum(), table)
    assert torch.allclose(gradient, expected_gradient, atol=1e-6)


def test_sparse_product_adds_repeated_entries_and_back_propagates_through_the_transpose() -> None:
    rows, columns = torch.tensor([1, 0, 1, 1]), torch.tensor([2, 0, 0, 2])
    product = SparseProduct(rows, columns, torch.tensor([1.0, 2.0, 3.0, 4.0]), (2, 3))
    dense = torch.tensor([[2.0, 0.0, 0.0], [3.0, 0.0, 5.0]])
    x = torch.arange(6.0).view(3, 2).requires_grad_()
    assert product(x).tolist() == (dense @ x).tolist()
    (gradient,) = torch.autograd.grad(product(x).square().sum(), x)
    assert gradient.tolist() == (2 * dense.T @ dense @ x).tolist()


def test_rows_of_a_matrix_are_multiplied_like_the_whole() -> None:
    rows, x = torch.tensor([1, 2, 0, 1]), torch.randn(3, 2, requires_grad=True)
    ours = product(*take_rows(graph().to_users, rows), x)
    theirs = dense_adjacency()[:3, 3:][rows] @ x
    assert torch.allclose(ours, theirs)
    upstream = torch.randn(4, 2)
    gradients = [torch.autograd.grad((result * upstream).sum(), x)[0] for result in (ours, theirs)]
    assert torch.allclose(*gradients)
