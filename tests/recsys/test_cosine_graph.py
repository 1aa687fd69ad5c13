import torch

from mmrec.recsys.cosine_graph import cosine_edges, cosine_graph
from mmrec.recsys.modalities import Modality

HALF = 3**0.5 / 2


def items(*rows: list[float] | None) -> Modality:
    return Modality(
        torch.tensor([row or [0.0, 0.0] for row in rows]), torch.tensor([row is not None for row in rows])
    )


def test_edges_weigh_their_cosine_over_the_degrees_of_both_ends() -> None:
    view = items([1.0, 0.0], [HALF, 0.5], [0.5, HALF], None)  # 30 degrees apart; item 3 is absent
    graph = cosine_graph(view, k=2).matrix.to_dense()  # item 1 is as near to 0 as to 2: the lower wins
    degree = 1 + HALF
    expected = torch.tensor([[1, HALF, 0, 0], [HALF, 1, 0, 0], [0, HALF, 1, 0], [0, 0, 0, 0]]) / degree
    assert torch.allclose(graph, expected)


def test_opposites_are_not_neighbours_unless_asked_for() -> None:
    view = items([1.0, 0.0], [-1.0, 0.1])
    assert cosine_graph(view, k=2).matrix.to_dense()[0, 1] == 0
    assert cosine_edges(view, k=2, clip=False)[2].min() < -0.9
    assert torch.isfinite(cosine_graph(view, k=2, clip=False).matrix.to_dense()).all()
