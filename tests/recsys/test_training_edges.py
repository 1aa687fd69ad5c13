import torch

from mmrec.recsys.training_edges import TrainingEdges

USERS, ITEMS = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 3, 0, 1, 3])  # item 2 has no user
EDGES = TrainingEdges(USERS, ITEMS, 3, 4)


def test_operations_and_gradients_are_those_of_dense_matrices() -> None:
    torch.manual_seed(0)
    users, items, weights = (
        tensor.requires_grad_() for tensor in (torch.randn(3, 2), torch.randn(4, 2), torch.randn(5))
    )
    ours = torch.cat(
        [
            EDGES.dots(users, items),
            EDGES.product(weights, items, users).flatten(),
            EDGES.transposed_product(weights, users).flatten(),
        ]
    )
    matrix = torch.zeros(3, 4).index_put((USERS, ITEMS), weights)
    dense = torch.cat(
        [
            (users @ items.T)[USERS, ITEMS],
            (matrix @ items + users).flatten(),
            (matrix.T @ users).flatten(),
        ]
    )
    assert torch.allclose(ours, dense)
    upstream = torch.randn(len(ours))
    inputs = users, items, weights
    for got, expected in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(dense, inputs, upstream),
        strict=True,
    ):
        assert torch.allclose(got, expected, atol=1e-6)


def test_softmax_is_over_the_edges_of_a_node_that_are_not_masked() -> None:
    scores = torch.tensor([1.0, 2.0, 3.0, 1.0, 1.0]).log()
    assert torch.allclose(EDGES.softmax_over_items(scores), torch.tensor([1 / 3, 2 / 3, 1, 0.5, 0.5]))
    assert torch.allclose(EDGES.softmax_over_users(scores), torch.tensor([0.25, 2 / 3, 0.75, 1, 1 / 3]))
    mask = torch.tensor([True, False, False, True, True])
    assert torch.allclose(EDGES.softmax_over_items(scores, mask), torch.tensor([1, 0, 0, 0.5, 0.5]))
