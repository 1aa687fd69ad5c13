import pytest
import torch
from torch import Tensor

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.lattice import LATTICE
from mmrec.recsys.models.learned_graph import LearnedGraph
from mmrec.recsys.models.message_graph import MessageGraph

IMAGE = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])  # pairs 0-1 and 2-3
TEXT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])  # pairs 0-2 and 1-3
USERS, POSITIVES, NEGATIVES = torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([3, 3])


def view(values: Tensor, absent: tuple[int, ...] = ()) -> Modality:
    present = torch.ones(len(values), dtype=torch.bool)
    present[list(absent)] = False
    return Modality(values * present.unsqueeze(1), present)


def dense(graph: LearnedGraph) -> Tensor:
    pattern, values = graph()
    return pattern.matrix(values).to_dense()


def build(**options: object) -> LATTICE:
    views = {"image.full": view(IMAGE), "text.all": view(TEXT, absent=(1,))}
    data = TrainingData(2, 4, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 2]), views)
    model = model_class("lattice")(data, 4, validate_options("lattice", {"k": 2, **options}))
    assert isinstance(model, LATTICE)
    return model


def test_the_graph_mixes_raw_and_projected_neighbours_of_all_views() -> None:
    graph = LearnedGraph({"image.full": view(IMAGE), "text.all": view(TEXT)}, dim=2, k=2, original_share=0.75)
    with torch.no_grad():
        graph.view_weight.copy_(torch.tensor([0.0, 3.0]).log1p())  # softmax: 1/5, 4/5
        for projection in graph.projections:  # swap the pairs: image 0-1 becomes 0-1 of the swapped axes
            projection.linear.weight.copy_(torch.eye(2))
            projection.linear.bias.zero_()
    cosine = 1 / (1 + 0.1**2) ** 0.5
    neighbour = cosine / (1 + cosine)  # both rows sum to 1 + cosine
    expected = torch.tensor([1 - neighbour, 0.2 * neighbour, 0.8 * neighbour, 0.0])
    assert torch.allclose(dense(graph)[0], expected)


@pytest.mark.parametrize("scale_mixture", [False, True])
def test_views_that_an_item_lacks_lend_their_weight_to_the_others(scale_mixture: bool) -> None:
    views = {"image.full": view(IMAGE, absent=(3,)), "text.all": view(TEXT, absent=(1, 3))}
    mixed = dense(LearnedGraph(views, dim=8, k=2, original_share=1.0, scale_mixture=scale_mixture))
    alone = dense(LearnedGraph({"image.full": views["image.full"]}, dim=8, k=2, original_share=1.0))
    assert torch.allclose(mixed[1], alone[1])  # its image alone, at full weight
    assert not mixed[3].any()
    assert not mixed[:, 3].any()


def test_the_gradient_is_that_of_the_dense_formula() -> None:
    torch.manual_seed(0)
    values, x, upstream = torch.randn(30, 5), torch.randn(30, 4), torch.randn(30, 4)
    graph = LearnedGraph({"text.all": view(values)}, dim=6, k=4, original_share=0.3)
    pattern, entries = graph()
    (pattern.product(entries, x) * upstream).sum().backward()
    linear = graph.projections[0].linear
    sparse = linear.weight.grad
    linear.weight.grad = None
    unit = torch.nn.functional.normalize(linear(values), dim=1)
    cosines = unit @ unit.T
    kept = torch.zeros_like(cosines).scatter(1, cosines.topk(4).indices, 1) * cosines.clamp(min=0)
    scale = kept.sum(dim=1).rsqrt()
    (0.7 * (scale.unsqueeze(1) * kept * scale) @ x * upstream).sum().backward()
    assert torch.allclose(sparse, linear.weight.grad, atol=1e-5)


def test_only_the_first_batch_of_an_epoch_trains_the_graph() -> None:
    model = build()
    model.start_epoch(torch.Generator())
    for learns in (True, False):
        model.zero_grad()
        model.loss(USERS, POSITIVES, NEGATIVES)["loss"].backward()
        gradients = [parameter.grad for parameter in model.learned.parameters()]
        assert any(gradient is not None for gradient in gradients) is learns
    first = model.item_graph
    model.loss(USERS, POSITIVES, NEGATIVES)
    assert model.item_graph is first
    model.start_epoch(torch.Generator())
    assert model.item_graph is None


def test_serving_uses_the_graph_of_the_final_parameters() -> None:
    model = build(original_share=0.0)
    model.loss(USERS, POSITIVES, NEGATIVES)
    with torch.no_grad():
        model.item.weight.normal_()
        before = model.vectors().items
        model.learned.projections[0].linear.weight.copy_(torch.randn(64, 2))
    assert (model.vectors().items != before).any()


def test_a_fixed_divisor_weakens_the_penalty_of_short_batches() -> None:
    ours, fixed = build(), build(reg_batch_size=8)
    fixed.load_state_dict(ours.state_dict())
    batch = USERS, POSITIVES, NEGATIVES
    assert fixed.loss(*batch)["reg"].item() == pytest.approx(ours.loss(*batch)["reg"].item() / 4)


def test_one_layer_sums_neighbours_or_averages_them_with_the_node_itself() -> None:
    data = TrainingData(2, 2, torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))  # degrees 1, 2 and 2, 1
    users, items = torch.tensor([[1.0], [2.0]]), torch.tensor([[4.0], [8.0]])
    summed = MessageGraph(data, self_loops=False)(users, items)
    assert torch.allclose(summed[0], torch.tensor([[4 / 2**0.5], [4 / 2 + 8 / 2**0.5]]))
    assert torch.allclose(summed[1], torch.tensor([[1 / 2**0.5 + 2 / 2], [2 / 2**0.5]]))
    mean = MessageGraph(data, self_loops=True)(users, items)
    assert torch.allclose(mean[0], torch.tensor([[(1 + 4) / 2], [(2 + 4 + 8) / 3]]))
    assert torch.allclose(mean[1], torch.tensor([[(4 + 1 + 2) / 3], [(8 + 2) / 2]]))


@pytest.mark.parametrize("cf_model", ["lightgcn", "mf", "ngcf"])
@pytest.mark.parametrize("as_released", [False, True])
def test_a_batch_sees_the_rows_that_are_served(cf_model: str, as_released: bool) -> None:
    model = build(cf_model=cf_model, as_released=as_released).eval()
    rows, item_rows = model._collaborative_rows(USERS, POSITIVES)
    users, items = model._collaborative_tables()
    assert torch.allclose(rows, users[USERS], atol=1e-6)
    assert torch.allclose(item_rows, items[POSITIVES], atol=1e-6)
