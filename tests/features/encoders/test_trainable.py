"""Encoders with gradients: what they give, what is trained of them, and what is saved."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmrec.features.encoders.depths import layer_depths
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.encoders.trainable import TrainableEncoder, Training, load_trainable
from mmrec.features.errors import InputError

TEXTS = ("a red mug", "", "large blue mugs and plates")
METHODS = ("full", "lora", "last-layers")


@pytest.fixture(params=["tiny", "resnet", "vlmo", "beit3"])
def name(request, tmp_path, make_vlmo, make_beit3) -> str:
    """An encoder of each family; one whose normalisation extraction does not fold."""
    if request.param == "tiny":
        return "tiny"
    folder = tmp_path / "start"
    if request.param == "resnet":
        vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
        text = {"context_length": 32, "width": 32, "heads": 2, "layers": 2}
        config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
        torch.manual_seed(0)
        state = open_clip.CLIP(**config).state_dict()
        folder.mkdir()
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors")
        return f"open_clip:small/{folder}"
    make = {"vlmo": make_vlmo, "beit3": make_beit3}[request.param]
    make(folder, **({"retrieval_heads": True} if request.param == "beit3" else {}))
    return f"{request.param}:{folder}"


def inputs(encoder: TrainableEncoder) -> tuple[np.ndarray, list[list[int]]]:
    side = 64 if encoder.dim == 128 else 32
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, side, side), dtype=np.uint8)
    return pixels, [encoder.tokenize(text)[: encoder.content_length] for text in TEXTS]


def perturb(encoder: TrainableEncoder) -> None:
    """What training does: the trained parameters move."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_saved_is_read_by_extraction_with_the_same_vectors(name, method, tmp_path) -> None:
    encoder = load_trainable(name, Training(method, last_layers=1, lora_rank=2), device="cpu")
    before = encoder.encode_images(inputs(encoder)[0])
    np.testing.assert_allclose(
        before, load_encoder(name, device="cpu").encode_images(inputs(encoder)[0]), atol=1e-5
    )
    perturb(encoder)
    pixels, windows = inputs(encoder)
    images, texts = encoder.image_vectors(torch.from_numpy(pixels)), encoder.text_vectors(windows)
    assert images.requires_grad and texts.requires_grad
    read = load_encoder(encoder.save(tmp_path / "saved"), device="cpu")
    assert read.context_length == encoder.context_length
    np.testing.assert_allclose(read.encode_images(pixels), images.detach(), atol=1e-5)
    np.testing.assert_allclose(read.encode_tokens(windows), texts.detach(), atol=1e-5)
    assert np.abs(read.encode_images(pixels) - before).max() > 1e-4


def test_adapters_change_nothing_until_they_are_trained_and_leave_the_layout(name, tmp_path) -> None:
    plain, adapted = (load_trainable(name, Training(method), device="cpu") for method in ("full", "lora"))
    pixels, _ = inputs(plain)
    np.testing.assert_allclose(adapted.encode_images(pixels), plain.encode_images(pixels), atol=1e-6)
    trained = {key for key, p in adapted.module.named_parameters() if p.requires_grad}
    others = {key for key in trained if not key.endswith((".down", ".up"))}
    assert len(trained) > len(others) and others <= {"logit_scale", "logit_vl_scale"}
    perturb(adapted)
    adapted.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    original = plain.module.state_dict()
    assert {key: value.shape for key, value in saved.items()} == {k: v.shape for k, v in original.items()}
    moved = {key for key, value in saved.items() if not torch.equal(value, original[key])}
    assert moved == {key.replace("parametrizations.", "").rpartition(".0.")[0] or key for key in trained}


def test_the_last_layers_of_each_tower_are_trained_and_what_comes_after_them() -> None:
    encoder = load_trainable("tiny", Training("last-layers", last_layers=1), device="cpu")
    trained = {key for key, p in encoder.module.named_parameters() if p.requires_grad}
    layers = {
        key.partition("resblocks.")[0] + key.split("resblocks.")[1][0] for key in trained if "resb" in key
    }
    assert layers == {"visual.transformer.3", "transformer.1"}
    assert trained >= {"visual.proj", "text_projection", "visual.ln_post.weight", "logit_scale"}
    assert not trained & {"visual.conv1.weight", "token_embedding.weight", "positional_embedding"}


def test_depths_count_down_from_the_vectors() -> None:
    names = ["blocks.0.w", "blocks.1.w", "text.layer.0.w", "norm.w", "patch_embed.w", "visual.layer1.0.w"]
    assert list(layer_depths(names).values()) == [2, 1, 1, 0, 3, 1]


@pytest.mark.parametrize(
    "expected",
    [
        {"conv_stem.w": 2, "bn1.w": 2, "blocks.0.0.bn2.w": 1, "conv_head.w": 0, "bn2.w": 0},  # EfficientNet
        {"visual.conv2.w": 2, "visual.bn2.w": 2, "visual.layer1.0.bn2.w": 1, "text.layers.0.w": 1},  # RN50
        {"shared.w": 3, "block.0.layer.1.w": 2, "block.1.layer.0.w": 1, "final_layer_norm.w": 0},  # T5
        {"patch_embed.backbone.stages.0.w": 2, "blocks.0.w": 1, "norm.w": 0},  # a hybrid of both kinds
    ],
    ids=lambda expected: next(iter(expected)),
)
def test_depths_of_architectures_that_name_things_otherwise(expected) -> None:
    assert layer_depths(expected) == expected


def test_float64_has_gradients_in_float64(name) -> None:
    encoder = load_trainable(name, device="cpu")
    encoder.module.double()
    pixels, windows = inputs(encoder)
    vectors = torch.cat([encoder.image_vectors(torch.from_numpy(pixels)), encoder.text_vectors(windows)])
    assert vectors.dtype == torch.float64
    vectors.square().sum().backward()
    assert all(p.grad is None or p.grad.dtype == torch.float64 for p in encoder.module.parameters())


def test_bf16_is_autocast_beside_float32_parameters() -> None:
    exact, cast = (
        load_trainable("tiny", Training(precision=precision), device="cpu") for precision in ("fp32", "bf16")
    )
    pixels, _ = inputs(exact)
    drift = 1 - (exact.encode_images(pixels) * cast.encode_images(pixels)).sum(axis=1)
    assert 0 < drift.max() < 1e-2
    assert {parameter.dtype for parameter in cast.module.parameters()} == {torch.float32}


def test_longer_contexts_are_saved_with_their_positions(tmp_path: Path) -> None:
    encoder = load_trainable("tiny", context_length=80, device="cpu")
    window = [[7] * 70]
    expected = encoder.encode_tokens(window)
    read = load_encoder(encoder.save(tmp_path / "long"), device="cpu")
    assert read.context_length == 80
    np.testing.assert_allclose(read.encode_tokens(window), expected, atol=1e-6)


def test_only_a_trainable_encoder_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="loaded to be trained"):
        load_encoder("tiny", device="cpu").save(tmp_path)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_module_without_layers_is_only_trained_whole(make_vlmo, tmp_path, monkeypatch) -> None:
    from mmrec.features.encoders import trainable

    monkeypatch.setattr(trainable, "layer_depths", lambda names: dict.fromkeys(names, 0))
    with pytest.raises(InputError, match='no layers that can be told apart; use "full"'):
        load_trainable("tiny", Training("lora"), device="cpu")
