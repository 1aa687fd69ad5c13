import pytest
import torch
from torch import Tensor

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.freedom import FREEDOM, item_graph, view_weights


def view(*rows: list[float] | None) -> Modality:
    """One row per item, None where it is absent."""
    width = max(len(row) for row in rows if row)
    values = torch.tensor([row or [0.0] * width for row in rows])
    return Modality(values, torch.tensor([row is not None for row in rows]))


def dense(views: dict[str, Modality], k: int, image_weight: float = 0.1) -> Tensor:
    return item_graph(views, k, image_weight).matrix.to_dense()


IMAGE = view([1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0])  # pairs 0-1 and 2-3
TEXT = view([1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0])  # pairs 0-2 and 1-3


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        (["text.all", "image.full"], [0.9, 0.1]),
        (["image.full", "image.quadrants", "text.title", "text.all", "audio"], [0.05, 0.05, 0.3, 0.3, 0.3]),
        (["visual", "acoustic"], [0.1, 0.9]),
        (["image.full", "image.center"], [0.5, 0.5]),
        (["text.title"], [1.0]),
    ],
)
def test_image_views_share_their_weight_and_a_single_family_takes_all(
    views: list[str], expected: list[float]
) -> None:
    assert list(view_weights(views, 0.1).values()) == pytest.approx(expected)


def test_the_item_graph_mixes_the_views() -> None:
    mixed = dense({"image.full": IMAGE, "text.all": TEXT}, k=2)
    assert torch.allclose(mixed[0], torch.tensor([0.5, 0.05, 0.45, 0.0]))
    assert torch.allclose(mixed.sum(dim=1), torch.ones(4))


def test_an_item_that_lacks_a_view_relies_on_the_others() -> None:
    some = view([1.0, 0.0], None, [1.0, 0.1], None)
    mixed = dense({"image.full": IMAGE, "text.all": some}, k=2)
    assert torch.allclose(mixed[1], torch.tensor([0.5, 0.5, 0.0, 0.0]))  # image alone, at full weight
    assert torch.allclose(mixed[0], torch.tensor([0.5, 0.05, 0.45, 0.0]))
    bare = view([1.0], None, [1.0], [1.0])
    assert dense({"text.all": bare}, k=2)[1].tolist() == [0, 0, 0, 0]
    assert dense({"text.all": bare}, k=2)[:, 1].tolist() == [0, 0, 0, 0]


def test_a_family_of_weight_zero_leaves_the_items_that_have_no_other_alone() -> None:
    some = view([1.0, 0.0], None, [1.0, 0.1], [1.0, 0.2])
    mixed = dense({"image.full": IMAGE, "text.all": some}, k=2, image_weight=0.0)
    assert mixed[1].tolist() == [0, 0, 0, 0]


def model(**options: object) -> FREEDOM:
    users = torch.arange(40).repeat_interleave(5)
    items = (torch.arange(200) % 5 + users * 3) % 30
    keys = (users * 30 + items).sort().values
    views = {"text.all": Modality(torch.randn(30, 4), torch.ones(30, dtype=torch.bool))}
    data = TrainingData(40, 30, keys // 30, keys % 30, views)
    built = model_class("freedom")(data, 8, validate_options("freedom", {"k": 3, **options}))
    assert isinstance(built, FREEDOM)
    return built


def test_an_epoch_trains_on_a_fresh_sample_of_edges_and_serves_on_all() -> None:
    freedom, generator = model(edge_dropout=0.8), torch.Generator().manual_seed(0)
    before = freedom.vectors().items
    freedom.start_epoch(generator)
    first = freedom.training_graph.to_users.to_dense()
    freedom.start_epoch(generator)
    second = freedom.training_graph.to_users.to_dense()
    assert (first > 0).sum() == (second > 0).sum() == 40  # 20 % of 200
    assert (first > 0).ne(second > 0).any()
    assert (freedom.graph.to_users.to_dense() > 0)[first > 0].all()
    kept_degrees = (first > 0).sum(dim=1), (first > 0).sum(dim=0)
    user, item = first.nonzero()[0]
    assert first[user, item] == pytest.approx(float(kept_degrees[0][user] * kept_degrees[1][item]) ** -0.5)
    assert (freedom.vectors().items == before).all()


def test_edges_of_popular_items_are_dropped_more_often() -> None:
    users, items = torch.tensor([*range(100), *range(100, 200)]), torch.tensor([0] * 100 + [*range(1, 101)])
    views = {"text.all": Modality(torch.randn(101, 4), torch.ones(101, dtype=torch.bool))}
    data = TrainingData(200, 101, users, items, views)
    freedom = model_class("freedom")(data, 4, validate_options("freedom", {"edge_dropout": 0.9}))
    assert isinstance(freedom, FREEDOM)
    kept = torch.zeros(101)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        freedom.start_epoch(generator)
        kept += (freedom.training_graph.to_users.to_dense() > 0).sum(dim=0)
    # weights 1/10 (item 0, degree 100) and 1: 10 and 100 in total, 20 edges drawn a time
    assert 1.2 < kept[0] / 50 < 2.6


def test_a_triple_without_the_view_has_no_term_of_it() -> None:
    freedom = model()
    freedom.projections[0].present[:] = False
    parts = freedom.loss(torch.tensor([0, 1]), torch.tensor([0, 3]), torch.tensor([20, 21]))
    assert parts["bpr.text.all"] == 0
    assert parts["loss"] == parts["bpr"]


def test_features_are_trained_only_when_asked() -> None:
    assert not any("features" in name for name in model().state_dict())
    assert "projections.0.features" in dict(model(train_features=True).named_parameters())
