import dataclasses

import pytest
import torch
from torch import Tensor

from mmrec.features.encoders.vlmo_config import VlmoConfig
from mmrec.features.encoders.vlmo_model import Vlmo

TINY = VlmoConfig(
    width=16,
    layers=3,
    heads=2,
    hidden=32,
    vl_start=1,
    vocabulary=30,
    image_size=32,
    patch_size=8,
    max_text=10,
    text_window=12,
)
ABSOLUTE = dataclasses.replace(TINY, relative=False, layer_scale=False)


def random_model(config: VlmoConfig, **settings: bool) -> Vlmo:
    torch.manual_seed(0)
    model = Vlmo(config, **settings).eval()
    with torch.no_grad():  # fresh biases are zeros, which would hide mistakes
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


@pytest.fixture(scope="module", params=[TINY, ABSOLUTE], ids=["relative", "absolute"])
def model(request) -> Vlmo:
    return random_model(request.param)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def texts() -> Tensor:
    return torch.tensor([[2, 7, 8, 9, 3], [2, 5, 3, 0, 0]])


def test_a_joint_pass_does_not_depend_on_how_far_texts_are_padded(
    model: Vlmo, images: Tensor, texts: Tensor
) -> None:
    """So texts need not be padded to 40 as in the official code, which splits the sequence there."""
    wider = torch.cat([texts, torch.zeros(2, 5, dtype=torch.long)], dim=1)
    narrow, wide = (model(images, ids, ids == 0) for ids in (texts, wider))
    torch.testing.assert_close(wide[:, [0, 1, 2]], narrow[:, [0, 1, 2]])
    torch.testing.assert_close(wide[:, 10:], narrow[:, 5:])
    alone = model(images[1:], texts[1:, :3])  # without any padding, nor a mask
    torch.testing.assert_close(narrow[1, 5:], alone[0, 3:])


def test_both_modalities_meet_and_go_through_the_expert_of_both(
    model: Vlmo, images: Tensor, texts: Tensor
) -> None:
    joint = model(images, texts)
    assert joint.shape == (2, 5 + 17, 16)
    assert not torch.allclose(joint[:, :5], model(text_ids=texts))
    assert not torch.allclose(joint[:, 5:], model(images))
    joint.square().sum().backward()
    used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    experts = {name.split(".mlp_")[1][:-11] + name[19:20] for name in used if name.endswith(".fc1.weight")}
    assert experts == {"text0", "imag0", "vl1", "vl2"}


def test_branches_part_where_the_expert_of_both_begins(model: Vlmo, images: Tensor, texts: Tensor) -> None:
    for inputs in ({"images": images}, {"text_ids": texts, "padding": texts == 0}):
        own, fused = model.branches(**inputs)
        torch.testing.assert_close(own, model(**inputs))
        assert not torch.allclose(own, fused)
    no_upper = random_model(dataclasses.replace(model.config, vl_start=3))
    torch.testing.assert_close(*no_upper.branches(images))


def test_recomputed_layers_give_the_same_gradients(model: Vlmo, images: Tensor, texts: Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        copy = Vlmo(model.config, gradient_checkpointing=recompute).train()
        copy.load_state_dict(model.state_dict())
        copy(images, texts, texts == 0).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in copy.named_parameters()})
    torch.testing.assert_close(*gradients)
    table = "relative_position_bias_table"
    assert not model.config.relative or gradients[0][table].abs().sum() > 0


def test_heads_come_with_the_config(images: Tensor, texts: Tensor) -> None:
    model = random_model(TINY)
    states = model(images, texts)
    pooled = model.pooler(states)
    assert model.itm_score(pooled).shape == (2, 2) and pooled.abs().max() < 1
    assert model.mlm_score(states[:, :5]).shape == (2, 5, 30)
    none = dict.fromkeys(("itc_heads", "vl_itc_heads", "itm_head", "mlm_head"), False)
    bare = Vlmo(dataclasses.replace(TINY, **none)).state_dict().keys()
    heads = {key.split(".")[0] for key in model.state_dict().keys() - bare}
    assert heads == {
        "itc_text_proj", "itc_image_proj", "logit_scale", "itc_vl_text_proj", "itc_vl_image_proj",
        "logit_vl_scale", "itm_score", "mlm_score",
    }  # fmt: skip


def test_autocast_runs_with_relative_biases(images: Tensor, texts: Tensor) -> None:
    model = random_model(TINY)
    exact = model.pooler(model(images, texts, texts == 0))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model.pooler(model(images, texts, texts == 0))
    assert 1 - torch.cosine_similarity(exact, rounded.float()).min() < 1e-2


def test_what_does_not_fit_is_refused(model: Vlmo, images: Tensor, texts: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 3, 32, 32\)"):
        model(images[:, :, :24, :24])
    with pytest.raises(ValueError, match="texts of 11 tokens; this model takes 10"):
        model(text_ids=torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(ValueError, match="neither"):
        model()
    with pytest.raises(ValueError, match="both are given"):
        model.branches(images, texts)
    with pytest.raises(ValueError, match="30 pixels"):
        dataclasses.replace(TINY, image_size=30)
    with pytest.raises(ValueError, match="max_text is 13; expected 2 to text_window, which is 12"):
        dataclasses.replace(TINY, max_text=13)
