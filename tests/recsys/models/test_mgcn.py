import math

import pytest
import torch

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.mgcn import MGCN, Fusion

USERS, POSITIVES, NEGATIVES = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), torch.tensor([3, 0, 0])


def view(dim: int, absent: tuple[int, ...] = ()) -> Modality:
    present = torch.ones(5, dtype=torch.bool)
    present[list(absent)] = False
    values = torch.rand(5, dim, generator=torch.Generator().manual_seed(dim))
    return Modality(values * present.unsqueeze(1), present)


def build(image_absent: tuple[int, ...] = (), text_absent: tuple[int, ...] = (), **options: object) -> MGCN:
    """User 0 has items 0 and 1, user 1 has 1 and 2, user 2 has 3; item 4 is cold."""
    torch.manual_seed(0)
    views = {"image.full": view(3, image_absent), "text.all": view(4, text_absent)}
    data = TrainingData(3, 5, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 3]), views)
    model = model_class("mgcn")(data, 4, validate_options("mgcn", {"k": 2, **options}))
    assert isinstance(model, MGCN)
    return model


def test_the_fusion_is_the_mean_of_the_common_and_the_preferred_specific_parts() -> None:
    fusion = Fusion(2, 2)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.zero_()  # attention 1/2 each, preferences sigmoid(0) = 1/2
        views = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])]  # common (1, 2), specific +-(1, -2)
        both, one = torch.tensor([[True, True]]), torch.tensor([[True, False]])
        fusion.preferences[0].bias.fill_(math.log(3))  # sigmoid 3/4
        side = fusion(torch.zeros(1, 2), views, both)
        alone = fusion(torch.zeros(1, 2), [views[0], torch.zeros(1, 2)], one)
        nothing = fusion(torch.zeros(1, 2), [torch.zeros(1, 2)] * 2, ~both)
    assert torch.allclose(side, torch.tensor([[1 + 0.75 - 0.5, 2 - 1.5 + 1.0]]) / 3)
    assert torch.allclose(alone, torch.tensor([[2.0, 0.0]]) / 2)
    assert not nothing.any()


def test_a_user_sums_over_the_items_that_have_the_view_by_their_number() -> None:
    model = build(text_absent=(1,))
    items = [view(model.item.weight) for view in model.views]
    assert not items[1][1].any()
    seen = []
    model.fusion.forward = lambda embeddings, views, held: seen.extend(views) or embeddings
    model._user_side(torch.zeros(1, 4), items, torch.tensor([0]))
    # user 0 has items 0 and 1, of degrees 1 and 2; item 1 has no text and is no text neighbour of user 0
    assert torch.allclose(seen[0][0], items[0][0] / 2**0.5 + items[0][1] / 2)
    assert torch.allclose(seen[1][0], items[1][0])


def test_nodes_without_any_view_have_no_side_and_no_contrast() -> None:
    model = build(image_absent=(1, 3), text_absent=(1, 3))
    users, items = model.graph.propagate(model.user.weight, model.item.weight, 2)
    user_side, item_side = model.sides(users, items)
    assert not user_side[2].any()  # its only item has nothing
    assert not item_side[1].any()
    with_them = model.loss(USERS, POSITIVES, NEGATIVES)
    without = model.loss(USERS[[0, 2]], POSITIVES[[0, 2]], NEGATIVES[[0, 2]])
    assert with_them["contrast.item"].item() == pytest.approx(without["contrast.item"].item())
    lonely = model.loss(torch.tensor([2]), torch.tensor([3]), torch.tensor([0]))
    assert lonely["contrast.user"] == lonely["contrast.item"] == 0


def test_a_batch_sees_what_is_served() -> None:
    model = build(text_absent=(2,), contrast_weight=0.0, reg_weight=0.0)
    users, items = model()
    margins = (users[USERS] * (items[POSITIVES] - items[NEGATIVES])).sum(dim=1)
    expected = -torch.nn.functional.logsigmoid(margins).mean()
    assert model.loss(USERS, POSITIVES, NEGATIVES)["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
