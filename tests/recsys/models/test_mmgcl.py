import pytest
import torch
import torch.nn.functional as F

from mmrec.recsys.graph import BipartiteGraph
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.mmgcl import MMGCL

N_USERS, N_ITEMS = 30, 20
PAIRS = torch.arange(0, 600, 6)  # user * 20 + item
BATCH = torch.tensor([0, 3, 5, 3]), torch.tensor([6, 0, 2, 0]), torch.tensor([1, 9, 9, 4])


def build(absent: tuple[int, ...] = (), **options: object) -> MMGCL:
    torch.manual_seed(0)
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    present[list(absent)] = False
    views = {
        "image.full": Modality(torch.randn(N_ITEMS, 5), torch.ones(N_ITEMS, dtype=torch.bool)),
        "text.all": Modality(torch.randn(N_ITEMS, 3) * present.unsqueeze(1), present),
    }
    data = TrainingData(N_USERS, N_ITEMS, PAIRS // N_ITEMS, PAIRS % N_ITEMS, views)
    model = model_class("mmgcl")(data, 4, validate_options("mmgcl", options))
    assert isinstance(model, MMGCL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def separate_passes(model: MMGCL, graphs: list[BipartiteGraph]) -> tuple[torch.Tensor, torch.Tensor]:
    """H of users and items in every view (n, n_views, dim), each view on a graph of its own."""
    inner = model.fusion
    passes = [
        graph.propagate(inner.user.weight, start, 3)
        for graph, start in zip(graphs, inner.inputs(), strict=True)
    ]
    users, items = (torch.stack(side, dim=1) for side in zip(*passes, strict=True))
    return users, items


def expected_nce(model: MMGCL, graphs: list[BipartiteGraph], view: int, lacks: torch.Tensor) -> torch.Tensor:
    users, items = separate_passes(model, graphs)
    mixed = items[BATCH[1]].clone()
    mixed[:, view] = items[BATCH[2], view]
    anchors = F.normalize(model.fusion.read_user(users[BATCH[0]].flatten(1)), dim=1)
    targets = F.normalize(model.fusion.join_items(list(items[BATCH[1]].unbind(dim=1))), dim=1)
    hard = (anchors * F.normalize(model.fusion.join_items(list(mixed.unbind(dim=1))), dim=1)).sum(dim=1)
    logits = torch.cat([anchors @ targets.T, hard.masked_fill(lacks, -torch.inf).unsqueeze(1)], dim=1)
    return F.cross_entropy(logits / model.options.ssl_temperature, torch.arange(4))


def test_both_copies_and_the_mixed_negatives_make_up_the_loss() -> None:
    model = build(absent=(9,))  # the negative of two triples lacks the text
    edges, nodes = torch.rand(len(PAIRS)) < 0.7, torch.rand(len(PAIRS)) < 0.5
    model.draw_view, model.draw_edges, model.draw_nodes = lambda: 1, lambda: edges, lambda: nodes
    dropped, masked = (
        BipartiteGraph(PAIRS[kept] // N_ITEMS, PAIRS[kept] % N_ITEMS, N_USERS, N_ITEMS)
        for kept in (edges, nodes)
    )
    lacks = torch.tensor([False, True, True, False])
    first = expected_nce(model, [dropped] * 3, 2, lacks)
    second = expected_nce(model, [model.graph, model.graph, masked], 2, lacks)
    parts = model.loss(*BATCH)
    assert parts["ssl"].item() == pytest.approx((first + second).item(), rel=1e-4)
    users, items = model()
    margins = (users[BATCH[0]] * (items[BATCH[1]] - items[BATCH[2]])).sum(dim=1)
    assert parts["bpr"].item() == pytest.approx(-F.logsigmoid(margins).mean().item(), rel=1e-4)
    total = parts["bpr"] + 0.1 * parts["ssl"] + 1e-4 * parts["reg"]
    assert parts["loss"].item() == pytest.approx(total.item())


def test_draws_keep_the_asked_share_and_differ() -> None:
    model = build(dropout=0.3)
    first, second = model.draw_edges(), model.draw_edges()
    assert first.sum() == second.sum() == 70
    assert first.ne(second).any()
    users = model.draw_nodes()
    assert 0 < users.sum() < 70  # a pair needs both its user and its item: about 0.49 of 100
    draws = [build(image_share=share).draw_view() for share in (0.0, 1.0)]
    assert draws == [1, 0]


def test_as_released_the_first_copy_counts_twice() -> None:
    model = build(as_released=True)
    masks = [torch.rand(len(PAIRS)) < 0.7]
    model.draw_edges = masks.pop  # a second draw would fail
    users, items = model.fusion(model.subgraphs.keep(masks[0]))
    logits = F.normalize(users[BATCH[0]], dim=1) @ F.normalize(items[BATCH[1]], dim=1).T / 0.2
    expected = 2 * F.cross_entropy(logits, torch.arange(4))
    assert model.loss(*BATCH)["ssl"].item() == pytest.approx(expected.item(), rel=1e-4)
