import math

import pytest
import torch

from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import model_class, validate_options
from mmrec.recsys.models.alignments import (
    content_id_alignment,
    similarity_preservation,
    squared_gram_norm,
    user_item_alignment,
)
from mmrec.recsys.models.alignrec import AlignRec
from mmrec.recsys.models.base import TrainingData
from mmrec.recsys.models.distinct import distinct
from mmrec.recsys.models.joint_view import joint_view

USERS, POSITIVES, NEGATIVES = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1]), torch.tensor([3, 0, 0])
BATCH = USERS, POSITIVES, NEGATIVES
WEIGHTS = {
    "cca_weight": ("cca.user", "cca.item"),
    "uia_weight": ("uia",),
    "similarity_weight": ("similarity",),
}


def view(dim: int, absent: tuple[int, ...] = ()) -> Modality:
    present = torch.ones(5, dtype=torch.bool)
    present[list(absent)] = False
    values = torch.rand(5, dim, generator=torch.Generator().manual_seed(dim))
    return Modality(values * present.unsqueeze(1), present)


def build(
    image_absent: tuple[int, ...] = (), text_absent: tuple[int, ...] = (), **options: object
) -> AlignRec:
    """User 0 has items 0 and 1, user 1 has 1 and 2, user 2 has 3; item 4 is cold."""
    torch.manual_seed(0)
    views = {"image.full": view(3, image_absent), "text.all": view(4, text_absent)}
    data = TrainingData(3, 5, torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 3]), views)
    model = model_class("alignrec")(data, 4, validate_options("alignrec", {"k": 2, **options}))
    assert isinstance(model, AlignRec)
    return model


def test_the_trace_form_is_the_distance_of_the_gram_matrices() -> None:
    torch.manual_seed(0)
    content, features = torch.randn(5, 3), torch.randn(5, 7)
    batch = distinct(torch.tensor([0, 1, 1, 2, 3, 4, 4, 4]))
    rows, cosines = content[batch.slots], torch.nn.functional.normalize(features, dim=1)[batch.slots]
    expected = torch.linalg.matrix_norm(rows @ rows.T - cosines @ cosines.T) / 8
    assert torch.allclose(similarity_preservation(content, features, batch.counts), expected)
    # what has weight 0 is left out, with its share of the divisor
    without = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    pair = torch.linalg.matrix_norm(rows[:2] @ rows[:2].T - cosines[:2] @ cosines[:2].T) / 2
    assert torch.allclose(similarity_preservation(content, features, without), pair)


def test_a_perfect_fit_costs_next_to_nothing_and_has_a_finite_gradient() -> None:
    rows = torch.nn.functional.normalize(torch.randn(600, 3), dim=1).requires_grad_()
    loss = similarity_preservation(rows, rows.detach() * 5, torch.ones(600))
    loss.backward()
    assert loss < 1e-3
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(600, 5), (5, 600), (300, 300)])
def test_the_gram_norm_is_summed_over_blocks_of_the_smaller_side(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert squared_gram_norm(x).item() == pytest.approx((x @ x.T).square().sum().item(), rel=1e-5)


def test_users_and_items_align_by_their_cosines() -> None:
    users, items = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert user_item_alignment(users, items).item() == pytest.approx(0.5)


def test_content_aligns_with_ids_against_the_rest_of_the_batch() -> None:
    content, ids = torch.eye(2) * 3, torch.eye(2)
    nodes, everyone = distinct(torch.tensor([4, 7, 7])), torch.tensor([True, True])
    # cosines 1 and 0, temperature 1/2; item 7 is twice in the denominators and twice in the mean
    e = math.exp(2)
    expected = (-math.log(e / (e + 2)) - 2 * math.log(e / (1 + 2 * e))) / 3
    assert content_id_alignment(content, ids, nodes, 0.5, everyone).item() == pytest.approx(expected)
    alone = content_id_alignment(content, ids, nodes, 0.5, torch.tensor([True, False]))
    assert alone.item() == pytest.approx(0, abs=1e-6)


def test_content_gates_the_item_embeddings_and_is_smoothed() -> None:
    model = build(n_item_layers=0)
    with torch.no_grad():
        for parameter in (*model.content.projection.linear.parameters(), *model.content.gate.parameters()):
            parameter.zero_()
        model.content.gate.bias.fill_(math.log(3))  # sigmoid 3/4
    users, items = model.sides()
    assert torch.allclose(items, 0.75 * model.item.weight)
    assert torch.allclose(users[0], items[0] / 2**0.5 + items[1] / 2)  # items of degrees 1 and 2
    model.content.n_layers = 1
    assert torch.allclose(model.sides()[1], model.content.graph.matrix.to_dense() @ items)


def test_a_row_of_the_item_graph_is_the_mean_over_the_views_of_the_item() -> None:
    both, image = build(), build(text_absent=(0,))
    dense = image.content.graph.matrix.to_dense()
    first = both.content.graph.matrix.to_dense()
    assert dense[0].count_nonzero() == 2  # its image neighbours alone: itself and one more
    assert dense[0, 0] > first[0, 0]
    lonely = build(image_absent=(3,), text_absent=(3,)).content.graph.matrix.to_dense()
    assert not lonely[3].any()
    assert not lonely[:, 3].any()


def test_several_views_stand_side_by_side_at_unit_length() -> None:
    one, two = view(3, absent=(1,)), view(4)
    joint = joint_view({"image.full": one, "text.all": two})
    assert torch.allclose(joint.values.square().sum(dim=1), torch.tensor([2.0, 1.0, 2.0, 2.0, 2.0]))
    assert joint_view({"text.all": two}) is two


def test_nodes_without_content_have_no_side_and_no_alignment_with_it() -> None:
    model = build(image_absent=(1, 3), text_absent=(1, 3))
    users, items = model.sides()
    assert not users[2].any()  # its only item has nothing
    assert not items[[1, 3]].any()
    parts = model.loss(torch.tensor([2]), torch.tensor([3]), torch.tensor([0]))
    assert parts["cca.user"] == parts["cca.item"] == parts["similarity"] == 0
    batch = torch.tensor([0, 2]), torch.tensor([0, 3]), torch.tensor([2, 0])
    first = model.loss(*(part[:1] for part in batch))
    assert model.loss(*batch)["similarity"].item() == pytest.approx(first["similarity"].item())


def test_a_batch_without_one_of_the_views_has_finite_gradients() -> None:
    model = build(image_absent=(1, 3))
    model.loss(torch.tensor([2]), torch.tensor([3]), torch.tensor([0]))["loss"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize(("weight", "parts"), WEIGHTS.items())
def test_a_weight_of_zero_removes_its_term(weight: str, parts: tuple[str, ...]) -> None:
    everything, rest = build().loss(*BATCH), build(**{weight: 0.0}).loss(*BATCH)
    removed = getattr(build().options, weight) * sum(everything[part].item() for part in parts)
    assert not set(parts) & set(rest)
    assert rest["loss"].item() == pytest.approx(everything["loss"].item() - removed, abs=1e-6)


def test_the_total_is_ranked_by_what_is_served() -> None:
    model = build(text_absent=(2,), cca_weight=0.0, uia_weight=0.0, similarity_weight=0.0, reg_weight=0.0)
    users, items = model()
    margins = (users[USERS] * (items[POSITIVES] - items[NEGATIVES])).sum(dim=1)
    expected = -torch.nn.functional.logsigmoid(margins).mean()
    assert model.loss(*BATCH)["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_warm_up_trains_without_users_and_items_and_ends_on_time_after_a_resume() -> None:
    model, plain = build(warmup_epochs=2), build()
    parts = plain.loss(*BATCH)
    warm = parts["loss"] - parts["bpr"] - plain.options.uia_weight * parts["uia"]
    totals = []
    for _ in range(3):
        model.start_epoch(torch.Generator())
        totals.append(model.loss(*BATCH)["loss"].item())
        resumed = build(warmup_epochs=2)
        resumed.load_state_dict(model.state_dict())
        model = resumed
    assert totals == pytest.approx([warm.item(), warm.item(), parts["loss"].item()], abs=1e-6)


def test_frozen_or_trained_features_leave_graph_and_targets_on_the_initial_ones() -> None:
    model = build(train_features=True)
    features = model.content.projection.features
    assert features in set(model.parameters())
    before = model.loss(*BATCH)["similarity"].item()
    with torch.no_grad():  # content stays as it is: the gate no longer reads what changes
        model.content.gate.weight.zero_()
        start = model.loss(*BATCH)["similarity"].item()
        features.mul_(torch.rand_like(features))
    assert start != before
    assert model.loss(*BATCH)["similarity"].item() == pytest.approx(start)
    assert features not in set(build().parameters())


def test_as_released_the_targets_of_similarity_follow_the_trained_features() -> None:
    model = build(train_features=True, as_released=True)
    with torch.no_grad():
        model.content.gate.weight.zero_()
        start = model.loss(*BATCH)["similarity"].item()
        model.content.projection.features.mul_(torch.tensor([5.0, 0, 0, 1, 1, 0, 0]))
    assert abs(model.loss(*BATCH)["similarity"].item() - start) > 1e-3
