import pytest
import torch

from mmrec.recsys.graph import BipartiteGraph
from mmrec.recsys.one_sided import Subgraphs, towards_items, towards_users

USERS, ITEMS = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 3, 0, 1, 3])
PAIRS = USERS, ITEMS, 3, 4


@pytest.mark.parametrize("n_layers", range(4))
def test_each_side_is_that_of_the_whole_pass(n_layers: int) -> None:
    torch.manual_seed(0)
    graph = BipartiteGraph(*PAIRS)
    users, items = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    ours = torch.cat(
        [towards_users(graph, n_layers, users, items), towards_items(graph, n_layers, users, items)]
    )
    whole = torch.cat(graph.propagate(users, items, n_layers))
    assert torch.allclose(ours, whole, atol=1e-6)
    upstream = torch.randn_like(ours)
    for got, expected in zip(
        torch.autograd.grad(ours, (users, items), upstream, retain_graph=True),
        torch.autograd.grad(whole, (users, items), upstream),
        strict=True,
    ):
        assert torch.allclose(got, expected, atol=1e-6)


def test_a_subgraph_is_normalised_by_its_own_degrees() -> None:
    mask = torch.tensor([True, False, True, True, True])
    kept = Subgraphs(*PAIRS).keep(mask)
    expected = torch.zeros(3, 4)
    expected[0, 0] = expected[1, 0] = 2**-0.5  # item 0 keeps users 0 and 1, which keep only it
    expected[2, 1] = expected[2, 3] = 2**-0.5
    assert torch.allclose(kept.to_users.to_dense(), expected)
    assert torch.allclose(kept.to_items.to_dense(), expected.T)
