import dataclasses

import pytest
import torch
from torch import Tensor

from mmrec.features.encoders.beit3_model import Beit3, Beit3Config
from mmrec.features.encoders.multiway import resize_patch_rows

TINY = Beit3Config(
    width=16, layers=2, heads=2, hidden=32, vocabulary=30, image_size=32, patch_size=8, text_positions=12
)


@pytest.fixture(scope="module")
def model() -> Beit3:
    torch.manual_seed(0)
    return Beit3(TINY).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def texts() -> Tensor:
    return torch.tensor([[0, 7, 8, 9, 2], [0, 5, 2, 1, 1]])


def test_a_joint_pass_does_not_depend_on_how_far_texts_are_padded(
    model: Beit3, images: Tensor, texts: Tensor
) -> None:
    wider = torch.cat([texts, torch.ones(2, 3, dtype=torch.long)], dim=1)
    narrow = model(images, texts, texts == 1)
    wide = model(images, wider, wider == 1)
    torch.testing.assert_close(wide[:, : narrow.shape[1]], narrow)
    alone = model(images[1:], texts[1:, :3])  # without any padding, nor a mask
    torch.testing.assert_close(narrow[1, :20], alone[0])


def test_every_token_sees_the_other_modality(model: Beit3, images: Tensor, texts: Tensor) -> None:
    joint = model(images, texts)
    assert joint.shape == (2, 17 + 5, 16)
    assert not torch.allclose(joint[:, :17], model(images))
    assert not torch.allclose(joint[:, 17:], model(text_ids=texts))


def test_a_masked_patch_is_hidden_and_the_mask_token_is_learnt(images: Tensor) -> None:
    torch.manual_seed(0)
    model = Beit3(TINY)
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 5] = True  # second row, second column: pixels 8 to 16 of both sides
    other = images.clone()
    other[:, :, 8:16, 8:16] = 3
    states = model(images, masked_patches=masked)
    torch.testing.assert_close(states, model(other, masked_patches=masked))
    states.square().sum().backward()
    assert model.beit3.vision_embed.mask_token.grad.abs().sum() > 0


def test_recomputed_layers_give_the_same_gradients(model: Beit3, images: Tensor, texts: Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        copy = Beit3(TINY, gradient_checkpointing=recompute).train()
        copy.load_state_dict(model.state_dict())
        copy(images, texts, texts == 1).square().sum().backward()
        gradients.append([parameter.grad for parameter in copy.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_heads_come_with_the_config() -> None:
    config = dataclasses.replace(TINY, retrieval_heads=True, mlm_head=True, mim_outputs=8192)
    heads = {
        key: tuple(value.shape) for key, value in Beit3(config).state_dict().items() if "beit3" not in key
    }
    assert heads == {
        "logit_scale": (),
        "vision_head.weight": (16, 16),
        "language_head.weight": (16, 16),
        "mlm_head.weight": (30, 16),
        "mlm_head.bias": (30,),
        "mim_head.weight": (8192, 16),
        "mim_head.bias": (8192,),
    }


def test_what_does_not_fit_is_refused(model: Beit3, images: Tensor, texts: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected \(n, 3, 32, 32\)"):
        model(images[:, :, :24, :24])
    with pytest.raises(ValueError, match="texts of 11 tokens; this model takes 10"):
        model(text_ids=torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(ValueError, match=r"expected \(2, 16\)"):
        model(images, masked_patches=torch.zeros(2, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="neither"):
        model()
    with pytest.raises(ValueError, match="30 pixels"):
        dataclasses.replace(TINY, image_size=30)


def test_resized_positions_keep_a_constant_and_a_slope() -> None:
    constant = resize_patch_rows(torch.full((16, 3), 2.5), 7)
    torch.testing.assert_close(constant, torch.full((49, 3), 2.5))
    row_numbers = torch.arange(4.0).repeat_interleave(4)[
        :, None
    ]  # rises from row to row, not from column to column
    grid = resize_patch_rows(row_numbers, 8).reshape(8, 8)
    torch.testing.assert_close(grid, grid[:, :1].expand(8, 8))
    assert (grid[1:, 0] > grid[:-1, 0]).all()
