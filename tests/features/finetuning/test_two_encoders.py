"""An encoder of images and one of texts as one: a common space in training, their own vectors afterwards."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from mmrec.features.encoders.registry import load_image_encoder, load_text_encoder
from mmrec.features.encoders.trainable import Training, load_trainable_images, load_trainable_texts
from mmrec.features.finetuning.config import FinetuneConfig
from mmrec.features.finetuning.contrastive import ContrastiveTask
from mmrec.features.finetuning.two_encoders import TwoEncoders
from mmrec.features.pretraining.items import Items

TEXTS = ("a red mug", "blue", "large mugs", "s", "small red")


def two(timm_name: str, folder: Path, method: str = "full") -> TwoEncoders:
    images = load_trainable_images(timm_name, Training(method, 1, 2), device="cpu", image_size=32)
    texts = load_trainable_texts(f"sentence:{folder}", Training(method, 1, 2), device="cpu")
    return TwoEncoders(images, texts, dim=6, seed=0)


def task(encoder: TwoEncoders, **settings) -> ContrastiveTask:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    tokens = [encoder.tokenize(text) for text in TEXTS]
    items = Items(pixels, np.ones(5, bool), tokens, np.arange(5), np.arange(5))
    return ContrastiveTask(encoder, items, FinetuneConfig(**settings))


@pytest.mark.parametrize("method", ["full", "lora", "last-layers"])
def test_pieces_have_the_gradient_of_the_whole_batch_on_both_sides(
    timm_checkpoint, sentence_folder, method
) -> None:
    found = []
    for micro_batch in (None, 2):
        encoder = two(timm_checkpoint, sentence_folder, method)
        encoder.module.double()
        learned = task(encoder, micro_batch=micro_batch)
        encoder.module.eval()  # dropout is drawn for a piece, not for a batch
        batch = learned.draw(np.arange(5), np.random.default_rng(0))
        for losses in learned.losses(batch, slice(0, 5), learned.totals(batch), lambda rows: rows):
            losses["contrastive"].backward()
        found.append({n: p.grad for n, p in encoder.module.named_parameters() if p.grad is not None})
    whole, pieces = found
    assert whole.keys() == pieces.keys()
    sides = {name.partition(".")[0] for name in whole}
    assert sides == {"image", "text", "heads", "logit_scale"}
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, atol=1e-9, rtol=0)


def test_extraction_reads_the_two_without_their_heads(timm_checkpoint, sentence_folder, tmp_path) -> None:
    encoder = two(timm_checkpoint, sentence_folder, "lora")
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    windows = [encoder.tokenize(text) for text in TEXTS]
    for rows in (encoder.encode_images(pixels), encoder.encode_tokens(windows)):
        assert rows.shape[1] == 6
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    name = encoder.save(tmp_path / "saved")
    assert name == f"timm:test_vit/{tmp_path}/saved/image"
    images = load_image_encoder(name, device="cpu")
    texts = load_text_encoder(f"sentence:{tmp_path}/saved/text", device="cpu")
    np.testing.assert_allclose(images.encode_images(pixels), encoder.images.encode_images(pixels), atol=1e-5)
    np.testing.assert_allclose(texts.encode_tokens(windows), encoder.texts.encode_tokens(windows), atol=1e-5)


def test_depths_are_counted_within_each_encoder(timm_checkpoint, sentence_folder) -> None:
    encoder = two(timm_checkpoint, sentence_folder)
    depths = encoder.layers()
    assert depths.keys() == dict(encoder.module.named_parameters()).keys()
    for side, own in (("image", encoder.images), ("text", encoder.texts)):
        assert {n: d for n, d in depths.items() if n.startswith(side)} == {
            f"{side}.{name}": depth for name, depth in own.layers().items()
        }
    assert {depths[name] for name in ("heads.image.weight", "heads.text.weight", "logit_scale")} == {0}


def test_batch_norms_keep_their_statistics(sentence_folder, tmp_path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.safetensors")
    encoder = two(f"timm:test_resnet/{tmp_path}/resnet.safetensors", sentence_folder)
    before = {name: value.clone() for name, value in encoder.module.named_buffers() if "running" in name}
    learned = task(encoder)
    learned.begin()
    encoder.image_vectors(torch.from_numpy(learned.items.pixels))
    assert before and all(
        torch.equal(value, before[name]) for name, value in encoder.module.named_buffers() if name in before
    )


@pytest.mark.parametrize(
    ("start", "text_start", "message"),
    [
        ("timm:resnet18", None, "reads images alone; name an encoder for the texts"),
        ("sentence:minilm", None, "reads texts alone; make it text_start"),
        ("sentence:minilm", "sentence:minilm", "reads texts alone; make it text_start"),
        ("tiny", "sentence:minilm", "start 'tiny' reads images and texts; leave text_start out"),
        ("timm:resnet18", "tiny", "reads images and texts; make it start, without text_start"),
        ("timm:resnet18", "timm:resnet18", "reads images; expected an encoder of texts alone"),
    ],
)
def test_one_reads_both_or_two_read_one_each(start, text_start, message) -> None:
    with pytest.raises(ValueError, match=message):
        FinetuneConfig(start=start, text_start=text_start)


def test_the_width_of_heads_decides_only_where_there_are_some() -> None:
    assert FinetuneConfig(head_dim=3).settings() == FinetuneConfig().settings()
    names = {"start": "timm:resnet18", "text_start": "sentence:minilm"}
    assert FinetuneConfig(**names, head_dim=3).settings() != FinetuneConfig(**names).settings()
