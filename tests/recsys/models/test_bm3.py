import pytest
import torch

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.bm3 import BM3, distance, drop
from mmrec.recsys.models.distinct import distinct

USERS, POSITIVES = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 2, 0])


def build(**options: object) -> BM3:
    """Items 3 and 4 are cold; item 1 has no text, item 4 nothing at all."""
    present = torch.tensor([True, False, True, True, False])
    values = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [1.0, -1.0], [0.0, 0.0]])
    everything_else = torch.tensor([True, True, True, True, False])
    views = {
        "text.all": Modality(values, present),
        "image.full": Modality(torch.rand(5, 3) * everything_else.unsqueeze(1), everything_else),
    }
    data = TrainingData(2, 5, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2]), views)
    model = model_class("bm3")(data, 4, validate_options("bm3", options))
    assert isinstance(model, BM3)
    return model


def test_distinct_rows_lead_back_to_the_batch() -> None:
    rows, slots, counts = distinct(torch.tensor([7, 2, 7, 7]))
    assert rows.tolist() == [2, 7]
    assert rows[slots].tolist() == [7, 2, 7, 7]
    assert counts.tolist() == [1, 3]


def test_distance_is_a_weighted_mean_of_one_minus_the_cosine() -> None:
    x, axis = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert distance(x, axis).item() == pytest.approx(0.5)
    assert distance(x, axis, torch.tensor([3.0, 1.0])).item() == pytest.approx(0.25)
    assert distance(x, axis, torch.zeros(2)).item() == 0


def test_targets_have_no_gradient_and_drop_out_only_in_training() -> None:
    model, x = build(dropout=0.5), torch.ones(50, 4, requires_grad=True)
    target = model.target("user", x, torch.arange(50))
    assert not target.requires_grad
    assert set(target.flatten().tolist()) == {0.0, 2.0}
    assert (model.eval().target("user", x, torch.arange(50)) == 1).all()


def test_a_missing_view_has_no_term() -> None:
    model = build(dropout=0.0)
    rows = torch.tensor([0, 1])
    alone = model.loss(rows, torch.tensor([0, 0]), rows)["text.all"]
    with_absent = model.loss(rows, torch.tensor([0, 1]), rows)["text.all"]
    assert with_absent.item() == pytest.approx(alone.item())
    assert model.loss(rows[:1], torch.tensor([1]), rows[:1])["item.text.all"] == 0


def test_a_triple_counts_as_often_as_it_occurs() -> None:
    model = build(dropout=0.0)
    once = [model.loss(u, p, p) for u, p in zip(USERS.split(1), POSITIVES.split(1), strict=True)]
    together = model.loss(USERS, POSITIVES, POSITIVES)
    for part in ("user", "item", "reg", "image.full", "item.image.full"):
        assert together[part].item() == pytest.approx(sum(single[part].item() for single in once) / 4)


def test_cold_items_are_placed_by_their_views_at_the_length_of_the_others() -> None:
    model = build()
    _, items = model.embeddings()
    predicted = torch.stack([model.predictor(p(torch.tensor([3]))) for p in model.projections])
    mean = torch.nn.functional.normalize(predicted, dim=2).mean(dim=0)
    assert torch.cosine_similarity(items[3:4], mean).item() == pytest.approx(1)
    assert items[3].norm().item() == pytest.approx(items[:3].norm(dim=1).mean().item())
    assert not model.vectors().items[4].any()  # nothing is known about it


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.999999])
def test_dropped_rows_keep_their_expectation(rate: float) -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(1001, 63), rate)
    assert dropped.isfinite().all()
    if rate < 0.9:
        assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
        assert dropped.mean().item() == pytest.approx(1, abs=0.02)
