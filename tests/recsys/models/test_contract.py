"""What holds for every registered model."""

import numpy as np
import pytest
import torch
from scipy import sparse

from mmrec.recsys.config import TrainConfig
from mmrec.recsys.errors import InputError
from mmrec.recsys.modalities import Modalities, Modality
from mmrec.recsys.models import MODELS, model_class, validate_options
from mmrec.recsys.models.base import ClosedFormModel, GradientModel, TrainingData, Vectors
from mmrec.recsys.training import fit

CONTENT_MODELS = {
    "vbpr",
    "freedom",
    "bm3",
    "lattice",
    "mgcn",
    "alignrec",
    "grcn",
    "mmgcn",
    "slmrec",
    "mmgcl",
}
N_USERS, N_ITEMS, COLD = 16, 13, 12  # a user likes items 0..11 of the user's parity; item 12 is cold
OPTIONS = {
    "freedom": {"k": 4, "edge_dropout": 0.2},
    "alignrec": {"k": 4},
    "itemknn": {"shrink": 0.0},
    "ease": {"reg_weight": 1.0},
}


def checkerboard() -> tuple[torch.Tensor, torch.Tensor]:
    """Likes of every (user, item) of equal parity, except one held-out cell per user."""
    pairs = [
        (user, item)
        for user in range(N_USERS)
        for item in range(COLD)
        if (user + item) % 2 == 0 and item != held_out(user)
    ]
    users, items = torch.tensor(pairs).T
    return users.contiguous(), items.contiguous()


def held_out(user: int) -> int:
    return (user + 2 * (user // 2)) % COLD


def view(dim: int, absent: tuple[int, ...] = ()) -> Modality:
    """Features that tell the parity of an item; the cold item is even."""
    generator = torch.Generator().manual_seed(dim)
    values = torch.randn(N_ITEMS, dim, generator=generator) * 0.1
    values[:, 0] += torch.where(torch.arange(N_ITEMS) % 2 == 0, 1.0, -1.0)
    present = torch.ones(N_ITEMS, dtype=torch.bool)
    present[list(absent)] = False
    return Modality(values * present.unsqueeze(1), present)


VIEWS: dict[str, Modalities] = {
    "none": {},
    "one": {"image.full": view(6)},
    "several": {"visual": view(6), "text.title": view(5), "text.all": view(4)},
    "missing": {"image.full": view(6, absent=(0, 3, 7)), "text.all": view(5, absent=(0, 4))},  # 0 lacks both
}


def trained(name: str, modalities: Modalities) -> GradientModel | ClosedFormModel:
    data = TrainingData(N_USERS, N_ITEMS, *checkerboard(), modalities)
    torch.manual_seed(0)
    model = model_class(name)(data, 8, validate_options(name, OPTIONS.get(name, {})))
    if isinstance(model, ClosedFormModel):
        model.fit()
    else:
        config = TrainConfig(learning_rate=0.05, batch_size=32, epochs=10, eval_every=10)
        fit(model, data, lambda vectors: {"recall@20": 0.0}, config)
    return model


def dense_scores(vectors: Vectors) -> np.ndarray:
    users = vectors.users.toarray() if sparse.issparse(vectors.users) else vectors.users
    return users @ vectors.items.T


CASES = [
    (name, views) for name in MODELS for views in VIEWS if not (name in CONTENT_MODELS and views == "none")
]


@pytest.mark.parametrize(("name", "views"), CASES)
def test_the_held_out_cell_ranks_first(name: str, views: str) -> None:
    model = trained(name, VIEWS[views])
    vectors = model.vectors()
    assert vectors.items.dtype == np.float32
    assert vectors.users.shape[0] == N_USERS
    assert vectors.items.shape == (N_ITEMS, vectors.users.shape[1])
    scores = dense_scores(vectors)
    assert np.isfinite(scores).all()
    if name == "popularity":
        return  # knows no user
    scores[checkerboard()] = -np.inf
    for user in range(N_USERS):
        rivals = [item for item in range(COLD) if item != held_out(user)]
        assert scores[user, held_out(user)] > scores[user, rivals].max(), user


@pytest.mark.parametrize("name", sorted(CONTENT_MODELS))
def test_a_cold_item_is_placed_by_its_content(name: str) -> None:
    scores = dense_scores(trained(name, VIEWS["several"]).vectors())
    for user in range(N_USERS):  # the cold item is even: it comes before or after every other odd item
        odd = [item for item in range(1, COLD, 2) if item != held_out(user)]
        above = scores[user, COLD] > scores[user, odd]
        assert above.all() if user % 2 == 0 else not above.any(), user


@pytest.mark.parametrize("name", [name for name in MODELS if name not in CONTENT_MODELS])
def test_a_cold_item_without_content_adds_nothing_to_the_scores(name: str) -> None:
    assert (dense_scores(trained(name, {}).vectors())[:, COLD] == 0).all()


@pytest.mark.parametrize("name", sorted(CONTENT_MODELS))
def test_a_model_of_content_refuses_to_go_without(name: str) -> None:
    data = TrainingData(N_USERS, N_ITEMS, *checkerboard())
    with pytest.raises(InputError, match="no view was given"):
        model_class(name)(data, 8, validate_options(name, {}))
    empty = {"text.all": view(3, absent=tuple(range(N_ITEMS)))}
    data = TrainingData(N_USERS, N_ITEMS, *checkerboard(), empty)
    with pytest.raises(InputError, match=r"no item has a vector in any of the views text\.all"):
        model_class(name)(data, 8, validate_options(name, {}))


@pytest.mark.parametrize("name", ["bpr", "lightgcn", "vbpr", "freedom", "grcn", "mmgcn", "slmrec", "mmgcl"])
def test_saved_parameters_give_the_same_vectors(name: str) -> None:
    model = trained(name, VIEWS["missing"])
    assert isinstance(model, GradientModel)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    data = TrainingData(N_USERS, N_ITEMS, *checkerboard(), VIEWS["missing"])
    torch.manual_seed(1)
    other = model_class(name)(data, 8, validate_options(name, OPTIONS.get(name, {})))
    assert isinstance(other, GradientModel)
    other.load_state_dict(model.state_dict())
    assert (other.vectors().users == model.vectors().users).all()
    assert (other.vectors().items == model.vectors().items).all()


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown model 'lightgnc' \(did you mean 'lightgcn'\?\)"):
        model_class("lightgnc")
    with pytest.raises(InputError, match=r"unknown model 'LightGCN' \(did you mean 'lightgcn'\?\)"):
        model_class("LightGCN")
    with pytest.raises(InputError, match=r"\[train\.freedom\] unknown key 'image_wight' .*'image_weight'"):
        validate_options("freedom", {"image_wight": 0.5})
    with pytest.raises(InputError, match=r"k: .* got 0; .*edge_dropout: .* got 2"):
        validate_options("freedom", {"k": 0, "edge_dropout": 2})
