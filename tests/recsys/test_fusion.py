"""CLIPER's fusion layer: what weights are, what a missing view does, and that what is learned is learned."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.recsys.config import FusionConfig, TrainConfig
from mmrec.recsys.errors import InputError
from mmrec.recsys.fused_rows import Fusion, ItemViews
from mmrec.recsys.fusion import FrozenView, fuse, image_view, joined_views
from mmrec.recsys.modalities import Modality
from mmrec.recsys.models import MODELS, model_class, validate_options
from mmrec.recsys.models.base import GradientModel, TrainingData, Vectors
from mmrec.recsys.training import fit

WEIGHTED = ("similarity", "mean", "gated", "self-attention")
LEARNED = ("gated", "self-attention", "mlp")
CONTENT = ("freedom", "vbpr", "bm3", "mgcn", "alignrec", "lattice", "grcn", "mmgcn", "slmrec", "mmgcl")
N_USERS, N_ITEMS, DIM = 12, 10, 6


def random_items(n: int = 20, seed: int = 0) -> ItemViews:
    """Three views; item 0 lacks the first, item 1 all but the last, item 2 all, item 3 the image."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.ones(n, 3, dtype=torch.bool)
    present[0, 0] = present[1, :2] = present[2] = False
    has_image = torch.arange(n) != 3
    rows = [torch.randn(n, DIM, generator=generator) * present[:, [v]] for v in range(3)]
    return ItemViews(rows, present, torch.randn(n, DIM, generator=generator) * has_image[:, None], has_image)


def fusion(kind: str, **settings) -> Fusion:
    torch.manual_seed(1)
    layer = Fusion(FusionConfig(kind=kind, **settings), [DIM] * 3, DIM)  # type: ignore[arg-type]
    for parameter in layer.parameters():  # as after some training
        torch.nn.init.normal_(parameter)
    return layer


def view_weights(kind: str, items: ItemViews) -> Tensor:
    """Of [image; views] for self-attention, else of the views."""
    return fusion(kind).weights(items)


@pytest.mark.parametrize("kind", WEIGHTED)
def test_weights_sum_to_one_and_a_missing_view_has_none(kind: str) -> None:
    items = random_items()
    weights = view_weights(kind, items)
    sums = torch.ones(20)
    sums[2] = 0  # has no view
    assert torch.allclose(weights.sum(dim=1), sums, atol=1e-6)
    assert (weights[:, -3:][~items.present] == 0).all()
    assert (weights[:, -3:][items.present] > 0).all()
    if kind == "self-attention":
        assert weights[3, 0] == 0 and (weights[4:, 0] > 0).all()  # item 3 lacks the image


@pytest.mark.parametrize("kind", [*WEIGHTED, "sum", "mlp", "concat"])
def test_what_lies_in_the_row_of_a_missing_view_changes_nothing(kind: str) -> None:
    def frozen(noise: float) -> list[FrozenView]:
        items = random_items()
        assert items.image is not None and items.has_image is not None
        views = [*zip(items.views, items.present.T, strict=True), (items.image, items.has_image)]
        return [FrozenView((v + noise * ~p[:, None]).numpy(), p.numpy().copy()) for v, p in views]

    def fused(noise: float) -> Tensor:
        *views, image = frozen(noise)
        named = {str(n): view for n, view in enumerate(views)}
        modality = fuse(named, image, FusionConfig(kind=kind))  # type: ignore[arg-type]
        torch.manual_seed(0)
        return modality.values if modality.learned is None else modality.learned.module()(None)

    assert torch.equal(fused(0.0), fused(7.0))
    assert not fused(7.0)[2].any()  # without any view


def test_a_hot_softmax_is_the_mean_of_the_present_views_and_a_cold_one_picks_the_best() -> None:
    items = random_items()
    mean = fusion("mean")(items)
    assert torch.allclose(fusion("similarity", temperature=1e9)(items), mean, atol=1e-6)
    cosines = torch.stack([torch.cosine_similarity(view, items.image) for view in items.views], dim=1)
    best = cosines.masked_fill(~items.present, -2).argmax(dim=1)
    expected = torch.stack(list(items.views), dim=1)[torch.arange(20), best]
    cold = fusion("similarity", temperature=1e-6)(items)
    assert torch.allclose(cold[4:], expected[4:], atol=1e-6)
    assert torch.allclose(cold[3], mean[3])  # no image, so no preference


def test_similarity_weights_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0]])
    views = [torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])]  # cosines 1 and 0
    items = ItemViews(views, torch.ones(1, 2, dtype=torch.bool), image, torch.ones(1, dtype=torch.bool))
    layer = Fusion(FusionConfig(kind="similarity", temperature=0.5), [2, 2], 2)
    odds = np.exp(2.0)  # exp(1 / 0.5) against exp(0)
    assert layer(items).tolist()[0] == pytest.approx([3 * odds / (odds + 1), 2 / (odds + 1)])


@pytest.mark.parametrize("kind", ["similarity", "gated", "self-attention"])
def test_scaling_a_view_leaves_the_weights(kind: str) -> None:
    items = random_items()
    larger = ItemViews([items.views[0] * 9, *items.views[1:]], items.present, items.image, items.has_image)
    assert torch.allclose(view_weights(kind, larger), view_weights(kind, items), atol=1e-5)


def test_fusion_in_blocks_is_that_of_all_items_at_once() -> None:
    rng = np.random.default_rng(0)
    views = {name: random_view(rng, 3000, 50) for name in "ab"}
    image = random_view(rng, 3000, 50)
    config = FusionConfig(kind="similarity")
    whole = fuse(views, image, config.model_copy(update={"memory_mb": 256}))
    blocks = fuse(views, image, config.model_copy(update={"memory_mb": 1}))
    assert torch.allclose(whole.values, blocks.values, atol=1e-6)
    assert whole.values.shape == (3000, 50) and not whole.present.all()


def random_view(rng: np.random.Generator, n: int, dim: int) -> FrozenView:
    present = rng.random(n) < 0.7
    return FrozenView((rng.normal(size=(n, dim)) * present[:, None]).astype(np.float16), present)


def test_which_views_are_joined_and_compared() -> None:
    stored = ["image.full", "image.quadrants", "text.title", "text.all"]
    config = FusionConfig(kind="similarity")
    assert joined_views(config, stored[1:3], stored) == ["text.title"]
    assert image_view(config, stored) == "image.full"
    assert image_view(FusionConfig(kind="mean"), stored) is None
    with pytest.raises(InputError, match=r"the chosen views are image\.full"):
        joined_views(config, ["image.full"], stored)
    with pytest.raises(InputError, match="compares views with an image, but the features hold acoustic"):
        image_view(config, ["acoustic"])
    rng = np.random.default_rng(0)
    views = {"a": random_view(rng, 4, 3), "b": random_view(rng, 4, 5)}
    with pytest.raises(InputError, match="views of one width, found a 3, b 5"):
        fuse(views, None, FusionConfig(kind="mean"))
    assert fuse(views, None, FusionConfig(kind="concat")).dim == 8


@pytest.mark.parametrize("kind", ["similarity", *LEARNED, "concat", "mean", "sum"])
def test_a_width_is_met_by_every_kind(kind: str) -> None:
    rng = np.random.default_rng(0)
    views = {name: random_view(rng, 9, DIM) for name in "abc"}
    modality = fuse(views, random_view(rng, 9, DIM), FusionConfig(kind=kind, width=4))  # type: ignore[arg-type]
    assert modality.dim == 4 and modality.learned is not None
    rows = modality.learned.module()(torch.tensor([3, 3, 0]))
    assert rows.shape == (3, 4) and torch.equal(rows[0], rows[1])
    assert not modality.learned.module()(None)[~modality.present].any()


def training_data(kind: str, **settings) -> TrainingData:
    """Users like items of their parity; three text views and an image, some missing, joined by `kind`."""
    rng = np.random.default_rng(0)
    views = {name: random_view(rng, N_ITEMS, DIM) for name in ("title", "brand", "description")}
    config = FusionConfig(kind=kind, **settings)  # type: ignore[arg-type]
    image = random_view(rng, N_ITEMS, DIM)
    pairs = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u + i) % 2 == 0 and i != u % 10]
    values, present = torch.from_numpy(image.values.astype(np.float32)), torch.from_numpy(image.present)
    modalities = {"image.full": Modality(values, present), "fused": fuse(views, image, config)}
    users, items = torch.tensor(pairs).T
    return TrainingData(N_USERS, N_ITEMS, users.contiguous(), items.contiguous(), modalities)


def model_of(name: str, data: TrainingData, **options) -> GradientModel:
    torch.manual_seed(0)
    raw = {"k": 3} if name in ("freedom", "lattice", "mgcn", "alignrec") else {}
    model = model_class(name)(data, 4, validate_options(name, raw | options))
    assert isinstance(model, GradientModel)
    return model


def fusion_parameters(model: GradientModel) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if ".fusion." in name and "learned" in name}


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("name", CONTENT)
def test_every_learned_weight_has_a_gradient_after_one_step(name: str, kind: str) -> None:
    data = training_data(kind)
    model = model_of(name, data)
    config = TrainConfig(batch_size=len(data), epochs=1)
    fit(model, data, lambda vectors: {"recall@20": 0.0}, config)
    model.start_epoch(torch.Generator().manual_seed(0))
    negatives = (data.item_idx + 1) % N_ITEMS
    model.loss(data.user_idx, data.item_idx, negatives)["loss"].backward()
    found = fusion_parameters(model)
    assert len(found) == {"gated": 3, "self-attention": 2, "mlp": 2}[kind]
    for parameter, value in found.items():
        assert value.grad is not None, parameter
        gradient = value.grad.norm(dim=1) if value.ndim == 2 else value.grad
        assert (gradient != 0).any() and gradient.isfinite().all(), parameter


def test_every_model_of_content_is_in_the_list_above() -> None:
    reads = {name for name in MODELS if model_class(name).reads_views}
    assert reads - set(CONTENT) <= {"bpr", "lightgcn"}


@pytest.mark.parametrize("kind", ["similarity", "gated"])
@pytest.mark.parametrize("name", CONTENT)
def test_every_model_learns_from_a_fused_view(name: str, kind: str) -> None:
    data = training_data(kind)
    model = model_of(name, data)
    fit(model, data, lambda vectors: {"recall@20": 0.0}, TrainConfig(epochs=2, eval_every=2))
    assert np.isfinite(model.vectors().items).all()


class Memory:
    """A checkpoint in memory."""

    saved = None

    def save(self, tensors, state) -> None:
        self.saved = tensors, state

    def load(self):
        return self.saved


@pytest.mark.parametrize("kind", LEARNED)
def test_saved_and_resumed_models_keep_what_the_fusion_has_learned(kind: str) -> None:
    data, checkpoint = training_data(kind), Memory()
    config = TrainConfig(batch_size=16, epochs=4, learning_rate=0.05, eval_every=4, checkpoint_every=0)
    counter = itertools.count()

    def rising(vectors: Vectors) -> dict[str, float]:
        return {"recall@20": float(next(counter))}

    whole, halves, saved = (model_of("vbpr", data) for _ in range(3))
    initial = {name: p.clone() for name, p in fusion_parameters(whole).items()}
    fit(whole, data, rising, config)
    fit(halves, data, rising, config.model_copy(update={"epochs": 2}), checkpoint)
    halves = model_of("vbpr", data)
    fit(halves, data, rising, config, checkpoint)
    saved.load_state_dict(whole.state_dict())
    for name, parameter in fusion_parameters(whole).items():
        assert not torch.equal(parameter, initial[name])
        assert torch.equal(parameter, fusion_parameters(halves)[name])
    assert (saved.vectors().items == whole.vectors().items).all()
    assert set(whole.state_dict()) == {name for name, _ in whole.named_parameters()}  # no frozen view


def test_features_cannot_be_both_learned_and_trained() -> None:
    with pytest.raises(InputError, match="train_features = false"):
        model_of("freedom", training_data("gated"), train_features=True)


def test_as_released_masks_nothing_takes_three_views_and_trains_no_mlp() -> None:
    torch.manual_seed(0)
    views = [torch.full((1, 2), float(n)) for n in (1, 2, 6, 100)]
    present = torch.ones(1, 4, dtype=torch.bool)
    items = ItemViews(views, present, torch.ones(1, 2), torch.ones(1, dtype=torch.bool))
    assert Fusion(FusionConfig(kind="mean", as_released=True), [2] * 4, 2)(items).tolist() == [[3.0, 3.0]]
    data = training_data("mlp", as_released=True)
    before = fusion_parameters(model_of("vbpr", data))
    model = model_of("vbpr", data)
    fit(model, data, lambda vectors: {"recall@20": 0.0}, TrainConfig(epochs=2, learning_rate=0.1))
    assert all(torch.equal(value, before[name]) for name, value in fusion_parameters(model).items())


def test_settings_name_only_what_the_kind_reads() -> None:
    warm = FusionConfig(kind="similarity", temperature=0.1).settings()
    assert warm != FusionConfig(kind="similarity").settings()
    mean = FusionConfig(kind="mean", temperature=0.1, memory_mb=9).settings()
    assert mean == FusionConfig(kind="mean").settings()
