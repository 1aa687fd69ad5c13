import torch

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.vbpr import VBPR


def build(**options: object) -> VBPR:
    present = torch.tensor([True, False, True])
    values = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    views = {"text.all": Modality(values, present), "image.full": Modality(values, present)}
    data = TrainingData(2, 3, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), views)  # item 2 is cold
    model = model_class("vbpr")(data, 4, validate_options("vbpr", options))
    assert isinstance(model, VBPR)
    return model


def test_an_item_is_its_embedding_its_content_and_its_biases() -> None:
    model = build()
    users, items = model()
    assert (users[:, -1] == 1).all()
    content = sum(projection.linear(projection.features) for projection in model.projections)
    assert torch.allclose(items[0], torch.cat([model.item.weight[0, :4], content[0, :4], items[0, -1:]]))
    assert items[0, -1] == model.item.weight[0, 4] + content[0, 4]


def test_missing_views_contribute_nothing_and_cold_items_start_from_content_alone() -> None:
    _, items = build()()
    assert (items[1, 4:8] == 0).all()
    assert items[1, :4].any()
    assert (items[2, :4] == 0).all()
    assert items[2, 4:8].any()


def test_without_biases_the_score_is_two_inner_products() -> None:
    users, items = build(item_bias=False)()
    assert users.shape == (2, 8)
    assert items.shape == (3, 8)
