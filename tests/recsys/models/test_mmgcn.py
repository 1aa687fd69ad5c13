import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.mmgcn import MMGCN

USERS, ITEMS = torch.tensor([0, 0, 0, 1, 2, 2]), torch.tensor([0, 1, 3, 0, 1, 3])  # item 2 is cold
MATRIX = torch.zeros(3, 4).index_put((USERS, ITEMS), torch.ones(6))
BATCH = torch.tensor([0, 2]), torch.tensor([3, 1]), torch.tensor([2, 0])


def build(absent: tuple[int, ...] = (), transposed: bool = False, **options: object) -> MMGCN:
    """Two views, of 3 and 6 columns; items of `absent` lack the second."""
    torch.manual_seed(0)
    pairs, n_users, n_items = (USERS, ITEMS), 3, 4
    if transposed:  # more items than users, or the other way round
        order = torch.argsort(ITEMS * 3 + USERS)
        pairs, n_users, n_items = (ITEMS[order], USERS[order]), 4, 3
    present = torch.ones(n_items, dtype=torch.bool)
    present[list(absent)] = False
    views = {
        "text.all": Modality(torch.randn(n_items, 3), torch.ones(n_items, dtype=torch.bool)),
        "image.full": Modality(torch.randn(n_items, 6) * present.unsqueeze(1), present),
    }
    data = TrainingData(n_users, n_items, *pairs, views)
    model = model_class("mmgcn")(data, 4, validate_options("mmgcn", {"hidden_dim": 5, **options}))
    assert isinstance(model, MMGCN)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def mean_of_neighbours(matrix: Tensor, rows: Tensor) -> Tensor:
    return matrix @ rows / matrix.sum(dim=1, keepdim=True).clamp(min=1)


def dense_forward(model: MMGCN, matrix: Tensor, present: list[Tensor]) -> tuple[Tensor, Tensor]:
    outputs = []
    ids = torch.cat([model.user.weight, model.item.weight])
    for branch, held in zip(model.branches, present, strict=True):
        features = branch.map(branch.features) if branch.map else branch.features
        items = F.normalize(features, dim=1) * held.unsqueeze(1)
        rows = torch.cat([F.normalize(branch.preference.weight, dim=1), items])
        for number, layer in enumerate(branch.layers):
            users, items = rows.split([model.n_users, model.n_items])
            sending = matrix if number else matrix * held
            neighbours = torch.cat([mean_of_neighbours(sending, items), mean_of_neighbours(matrix.T, users)])
            own = F.leaky_relu(layer.own(rows))
            if number == 0:
                own = own * torch.cat([torch.ones(model.n_users), held]).unsqueeze(1)
            combine = torch.cat([layer.of_neighbours.weight, layer.of_own.weight], dim=1)
            joined = torch.cat([F.leaky_relu(neighbours @ layer.aggregate), own + ids], dim=1)
            rows = F.leaky_relu(joined @ combine.T + layer.of_own.bias)
        outputs.append(rows)
    users, items = zip(*(rows.split([model.n_users, model.n_items]) for rows in outputs), strict=True)
    reached = [(held > 0) | (matrix.sum(dim=0) > 0) for held in present]
    counted = sum(rows * share.unsqueeze(1) for rows, share in zip(items, reached, strict=True))
    return torch.stack(users).mean(dim=0), counted / torch.stack(reached).sum(dim=0).unsqueeze(1)


def test_it_is_the_dense_computation_also_where_a_view_is_missing() -> None:
    for transposed, matrix in ((False, MATRIX), (True, MATRIX.T)):
        for absent in ((), (0, 2)):
            model = build(absent, transposed, n_layers=2)
            held = torch.ones(model.n_items)
            held[list(absent)] = 0
            dense = dense_forward(model, matrix, [torch.ones(model.n_items), held])
            for ours, theirs in zip(model(), dense, strict=True):
                assert torch.allclose(ours, theirs, atol=1e-5)


def test_wide_views_are_mapped_and_layers_are_as_many_as_asked() -> None:
    model = build(n_layers=4)
    assert [branch.map is not None for branch in model.branches] == [False, True]
    assert [len(branch.layers) for branch in model.branches] == [4, 4]
    released = build(n_layers=4, as_released=True)
    assert [len(branch.layers) for branch in released.branches] == [3, 3]


def test_ids_and_preferences_are_trained_unless_as_released() -> None:
    for released in (False, True):
        model = build(as_released=released)
        model.loss(*BATCH)["loss"].backward()
        tables = [model.user, model.item, *(branch.preference for branch in model.branches)]
        assert [table.weight.grad is None for table in tables] == [released] * 4
