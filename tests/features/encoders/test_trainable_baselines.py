"""Encoders of one modality with gradients: what is saved is read by extraction with the same vectors."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmrec.features.encoders.registry import load_image_encoder, load_text_encoder
from mmrec.features.encoders.trainable import (
    Training,
    load_trainable,
    load_trainable_images,
    load_trainable_texts,
)
from mmrec.features.errors import InputError

METHODS = ("full", "lora", "last-layers")
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 96, 96), dtype=np.uint8))


def trained(module: torch.nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def perturb(module: torch.nn.Module) -> None:
    """What training does: the trained parameters move."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained(module):
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_images(timm_checkpoint, method, tmp_path) -> None:
    encoder = load_trainable_images(timm_checkpoint, Training(method, 1, 2), device="cpu", image_size=96)
    plain = load_image_encoder(timm_checkpoint, device="cpu", image_size=96)
    start = encoder.encode_images(PIXELS.numpy())
    np.testing.assert_allclose(start, plain.encode_images(PIXELS.numpy()), atol=1e-5)
    perturb(encoder.module)
    vectors = encoder.image_vectors(PIXELS).detach().numpy()
    assert np.abs(vectors - start).max() > 1e-3
    read = load_image_encoder(encoder.save(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(read.encode_images(PIXELS.numpy()), vectors, atol=1e-5)
    assert read.identity["preprocessing"] == plain.identity["preprocessing"]


@pytest.mark.parametrize("method", METHODS)
def test_texts(sentence_folder, method, tmp_path) -> None:
    name = f"sentence:{sentence_folder}"
    encoder = load_trainable_texts(name, Training(method, 1, 2), device="cpu", context_length=20)
    windows = [encoder.tokenize(text) for text in ("a red mug", "", "large blue mugs")]
    start = encoder.encode_tokens(windows)
    np.testing.assert_allclose(start, load_text_encoder(name, device="cpu").encode_tokens(windows), atol=1e-5)
    perturb(encoder.module)
    vectors = encoder.text_vectors(windows).detach().numpy()
    assert np.abs(vectors - start).max() > 1e-3
    read = load_text_encoder(encoder.save(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(read.encode_tokens(windows), vectors, atol=1e-5)
    assert read.context_length == 20


def test_gradients_reach_what_is_trained_in_float64(timm_checkpoint, sentence_folder) -> None:
    images = load_trainable_images(timm_checkpoint, Training("last-layers", 1), device="cpu")
    texts = load_trainable_texts(f"sentence:{sentence_folder}", Training("lora", lora_rank=2), device="cpu")
    images.module.double()
    texts.module.double()
    side = torch.zeros(2, 3, 160, 160, dtype=torch.uint8)
    for encoder, vectors in ((images, images.image_vectors(side)), (texts, texts.text_vectors([[5], [6]]))):
        assert vectors.dtype == torch.float64
        vectors[:, 0].sum().backward()
        reached = [parameter.grad is not None for parameter in trained(encoder.module)]
        assert any(reached) and len(reached) < len(list(encoder.module.parameters()))
        deepest = max(encoder.layers().values())
        named = dict(encoder.module.named_parameters())
        assert not any(
            named[name].requires_grad for name, depth in encoder.layers().items() if depth == deepest
        )


def test_adapters_need_linear_layers(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    with pytest.raises(InputError, match='no linear layers to adapt; use "last-layers"'):
        load_trainable_images(f"timm:test_resnet/{file}", Training("lora"), device="cpu")


def test_only_a_trainable_encoder_is_saved(timm_checkpoint, sentence_folder, tmp_path) -> None:
    images = load_image_encoder(timm_checkpoint, device="cpu")
    texts = load_text_encoder(f"sentence:{sentence_folder}", device="cpu")
    for encoder in (images, texts):
        with pytest.raises(ValueError, match="loaded to be trained"):
            encoder.save(tmp_path)  # pyright: ignore[reportAttributeAccessIssue]


def test_what_reads_one_modality_is_not_taken_for_an_encoder_of_both(timm_checkpoint) -> None:
    with pytest.raises(InputError, match="reads images alone; expected one of images and texts"):
        load_trainable(timm_checkpoint, device="cpu")
    with pytest.raises(InputError, match="reads images alone; expected one of images and texts"):
        load_trainable_texts(timm_checkpoint, device="cpu")
