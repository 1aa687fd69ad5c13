import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.grcn import GRCN

USERS, ITEMS = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 3, 0, 1, 3])  # item 2 is cold
MATRIX = torch.zeros(3, 4).index_put((USERS, ITEMS), torch.ones(6))


def build(absent: tuple[int, ...] = (), bare: tuple[int, ...] = (), **options: object) -> GRCN:
    """Items of `absent` lack the second view, those of `bare` both."""
    torch.manual_seed(0)
    views = {}
    for number, missing in enumerate([bare, (*absent, *bare)]):
        present = torch.ones(4, dtype=torch.bool)
        present[list(missing)] = False
        views[f"view{number}"] = Modality(torch.randn(4, 3) * present.unsqueeze(1), present)
    data = TrainingData(3, 4, USERS, ITEMS, views)
    model = model_class("grcn")(data, 4, validate_options("grcn", options))
    assert isinstance(model, GRCN)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def dense_softmax(scores: Tensor, allowed: Tensor, dim: int) -> Tensor:
    return scores.masked_fill(allowed == 0, -torch.inf).softmax(dim=dim).nan_to_num(0)


def dense_forward(model: GRCN) -> tuple[Tensor, Tensor]:
    contents, best_users, best_items = [], [], []
    for number, view in enumerate(model.views):
        project = view.project
        allowed = MATRIX * project.present
        items = F.normalize(F.leaky_relu(project.linear(project.features)), dim=1)
        items = items * project.present.unsqueeze(1)
        users = F.normalize(view.preference.weight, dim=1)
        for _ in range(model.options.n_routing):
            users = F.normalize(users + dense_softmax(users @ items.T, allowed, 1) @ items, dim=1)
        to_users = dense_softmax(users @ items.T, allowed, 1)
        to_items = dense_softmax(users @ items.T, allowed, 0)
        contents.append((users + to_users @ items, items + to_items.T @ users))
        best_users.append(to_users * model.item_confidence[:, number])
        best_items.append(to_items * model.user_confidence[:, number].unsqueeze(1))
    bare = ~torch.stack([view.project.present for view in model.views]).any(dim=0)
    to_users, to_items = (torch.stack(best).amax(dim=0).relu() for best in (best_users, best_items))
    to_users = torch.where(bare, MATRIX / MATRIX.sum(dim=1, keepdim=True), to_users)
    to_items = torch.where(bare, MATRIX / MATRIX.sum(dim=0).clamp(min=1), to_items)
    users, items = F.normalize(model.user.weight, dim=1), F.normalize(model.item.weight, dim=1)
    all_users, all_items = users, items
    for _ in range(model.options.n_layers):
        users, items = to_users @ items, to_items.T @ users
        all_users, all_items = all_users + users, all_items + items
    user_contents, item_contents = zip(*contents, strict=True)
    return torch.cat([all_users, *user_contents], dim=1), torch.cat([all_items, *item_contents], dim=1)


def test_it_is_the_dense_computation_also_where_views_are_missing() -> None:
    for model in (build(), build(absent=(0,), bare=(3,)), build(n_routing=0, n_layers=1, content_dim=2)):
        for ours, dense in zip(model(), dense_forward(model), strict=True):
            assert torch.allclose(ours, dense, atol=1e-5)


def test_routing_moves_the_users() -> None:
    few, many = build(n_routing=0).vectors().users, build(n_routing=3).vectors().users
    assert (few[:, 4:] != many[:, 4:]).any()


def test_an_item_without_views_has_no_content_and_is_finite() -> None:
    model = build(bare=(3,))
    assert not model.vectors().items[3, 4:].any()
    losses = model.loss(torch.tensor([0, 2]), torch.tensor([3, 3]), torch.tensor([2, 0]))
    losses["loss"].backward()
    assert all(
        parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None
    )
