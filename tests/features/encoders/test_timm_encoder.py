"""Image models of timm as encoders: their features, their preprocessing, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from mmrec.features.encoders import timm_checkpoint as checkpoints
from mmrec.features.encoders.fingerprint import encoder_fingerprint
from mmrec.features.encoders.registry import load_encoder, load_image_encoder, load_text_encoder
from mmrec.features.errors import InputError


def file_of(name: str) -> Path:
    return Path(name.removeprefix("timm:test_vit/"))


@pytest.fixture
def picture() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (200, 300, 3), dtype=np.uint8))


def test_vectors_are_what_the_classifier_reads_after_the_models_own_preprocessing(timm_checkpoint, picture):
    model = timm.create_model("test_vit", num_classes=7).eval()
    model.load_state_dict(load_file(file_of(timm_checkpoint)))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.no_grad():
        states = model.forward_features(transform(picture)[None])
        expected = model.forward_head(states, pre_logits=True)
    encoder = load_image_encoder(timm_checkpoint, device="cpu")
    pixels = encoder.transform(picture)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 160, 160)
    np.testing.assert_allclose(encoder.encode_images([pixels]), F.normalize(expected), atol=1e-5)
    raw = load_image_encoder(timm_checkpoint, device="cpu", normalise=False)
    np.testing.assert_allclose(raw.encode_images([pixels]), expected, atol=1e-5)
    assert raw.encode_images([]).shape == (0, encoder.dim)


@pytest.mark.parametrize("model", ["test_resnet", "test_efficientnet", "test_convnext", "test_nfnet"])
def test_every_kind_of_model_gives_rows_of_the_width_that_it_says(model, tmp_path, picture) -> None:
    save_file(timm.create_model(model).state_dict(), tmp_path / "weights.safetensors")
    encoder = load_image_encoder(
        f"timm:{model}/{tmp_path / 'weights.safetensors'}", device="cpu", image_size=64
    )
    rows = encoder.encode_images([encoder.transform(picture)] * 2)
    assert rows.shape == (2, encoder.dim) and np.isfinite(rows).all()


def test_bf16_is_close_and_another_space(timm_checkpoint, picture) -> None:
    exact, rounded = (load_image_encoder(timm_checkpoint, kind, "cpu") for kind in ("fp32", "bf16"))
    pixels = [exact.transform(picture)]
    cosine = float((exact.encode_images(pixels) @ rounded.encode_images(pixels).T).squeeze())
    assert 0.99 < cosine < 1 and exact.identity != rounded.identity


def test_another_size_interpolates_positions_and_is_kept_when_saved(
    timm_checkpoint, picture, tmp_path
) -> None:
    encoder = load_image_encoder(timm_checkpoint, device="cpu", image_size=96)
    assert encoder.transform(picture).shape == (3, 96, 96)
    assert encoder.identity["options"] == {"img_size": 96}
    assert encoder.encode_images([encoder.transform(picture)]).shape == (1, 64)


def test_the_description_beside_a_checkpoint_says_how_pictures_are_prepared(timm_checkpoint, picture) -> None:
    plain = load_image_encoder(timm_checkpoint, device="cpu")
    before = encoder_fingerprint(timm_checkpoint, "fp32")
    described = {"input_size": [3, 160, 160], "crop_pct": 0.5, "mean": [0, 0, 0], "std": [1, 1, 1]}
    sidecar = file_of(timm_checkpoint).with_name("config.json")
    sidecar.write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": described}))
    encoder = load_image_encoder(timm_checkpoint, device="cpu")
    assert encoder.identity["weights"] == plain.identity["weights"]
    assert encoder.identity["preprocessing"]["crop_pct"] == 0.5
    assert (encoder.transform(picture) != plain.transform(picture)).any()
    assert encoder_fingerprint(timm_checkpoint, "fp32") != before

    sidecar.write_text(json.dumps({"architecture": "test_resnet"}))
    with pytest.raises(InputError, match="describes test_resnet; name the encoder 'timm:test_resnet/"):
        load_image_encoder(timm_checkpoint, device="cpu")
    sidecar.write_text("[]")
    with pytest.raises(InputError, match="not a timm config"):
        load_image_encoder(timm_checkpoint, device="cpu")


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_is_read_as_timm_saves_it(safe, tmp_path, picture) -> None:
    model = timm.create_model(
        "test_vit", num_classes=3, img_size=96, pretrained_cfg_overlay={"crop_pct": 0.7}
    )
    timm.models.save_for_hf(model, str(tmp_path), safe_serialization=safe)
    encoder = load_image_encoder(f"timm:test_vit/{tmp_path}", device="cpu")
    assert encoder.identity["preprocessing"]["crop_pct"] == 0.7
    pixels = encoder.transform(picture)
    with torch.no_grad():
        images = (torch.from_numpy(pixels / 255).float() - 0.5) / 0.5
        expected = model.eval().forward_head(model.forward_features(images[None]), pre_logits=True)
    np.testing.assert_allclose(encoder.encode_images([pixels]), F.normalize(expected), atol=1e-5)


def test_weights_without_a_key_or_with_one_too_many_are_refused_by_name(timm_checkpoint) -> None:
    file = file_of(timm_checkpoint)
    state = load_file(file)
    for changed, named in (
        ({key: value for key, value in state.items() if key != "norm.weight"}, r"Missing key.*norm\.weight"),
        ({**state, "extra": torch.zeros(1)}, "Unexpected key.*extra"),
        ({**state, "norm.weight": torch.zeros(3)}, r"size mismatch for norm\.weight"),
    ):
        save_file(changed, file)
        with pytest.raises(InputError, match=named):
            load_image_encoder(timm_checkpoint, device="cpu")
    file.write_bytes(b"nothing")
    with pytest.raises(InputError, match="holds no weights of timm's test_vit"):
        load_image_encoder(timm_checkpoint, device="cpu")
    file.unlink()
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_image_encoder(timm_checkpoint, device="cpu")


def test_names_that_timm_does_not_know_come_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no model 'resnet_50'; nearest: .*resnet50"):
        load_image_encoder("timm:resnet_50")
    with pytest.raises(InputError, match=r"resnet18 has no tag 'a9'; it has .*resnet18\.a1_in1k"):
        load_image_encoder("timm:resnet18.a9")


def test_without_a_network_published_weights_are_an_error_that_says_what_to_do(monkeypatch) -> None:
    def refuse() -> None:
        raise OSError("no route")

    monkeypatch.setattr(checkpoints, "require_network", refuse)
    monkeypatch.setattr(checkpoints, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(InputError, match=r"no route\)\. Without a network .* timm:test_vit/path/to/check"):
        load_image_encoder("timm:test_vit")


def test_weights_in_the_hubs_cache_need_no_network(timm_checkpoint, monkeypatch, picture) -> None:
    monkeypatch.setattr(checkpoints, "require_network", lambda: pytest.fail("the network was asked for"))
    held = {("timm/test_vit.r160_in1k", "model.safetensors"): str(file_of(timm_checkpoint))}
    monkeypatch.setattr(checkpoints, "try_to_load_from_cache", lambda *asked: held.get(asked))
    cached, local = (load_image_encoder(name, device="cpu") for name in ("timm:test_vit", timm_checkpoint))
    assert cached.identity == local.identity


def test_it_reads_no_texts(timm_checkpoint) -> None:
    for load in (load_encoder, load_text_encoder):
        with pytest.raises(InputError, match="reads images alone"):
            load(timm_checkpoint, device="cpu")
