"""The open_clip encoder against open_clip itself, on small random models in the layout of official ones."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from mmrec.features.encoders import checkpoints
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.errors import InputError
from mmrec.pipeline.products import product_description, product_picture, product_title, random_product

CONTEXT = 16
VIT = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
TEXT = {"context_length": CONTEXT, "width": 32, "heads": 2, "layers": 2}
PREPROCESS = {
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
TEXTS = ["a mug", "", "three red umbrellas, ü & é", "a much longer text about a lamp by the sea"]


def write_checkpoint(
    folder: Path, vision: dict[str, Any] = VIT, preprocess: dict[str, Any] = PREPROCESS, **text: Any
) -> tuple[torch.nn.Module, str]:
    """A random model saved with its config, and its encoder name."""
    custom = text.pop("custom_text", False)
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {**TEXT, **text}}
    torch.manual_seed(0)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**config).eval()
    model.logit_scale.data.fill_(1.0)
    folder.mkdir(exist_ok=True)
    sidecar = {"model_cfg": {**config, "custom_text": custom}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(sidecar))
    save_file(
        {name: t.contiguous() for name, t in model.state_dict().items()}, folder / "weights.safetensors"
    )
    return model, f"open_clip:small/{folder / 'weights.safetensors'}"


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shapes = [(9, 14), (20, 8), (11, 11)]
    return [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).resize((7 * w, 7 * h))
        for h, w in shapes
    ]


@torch.no_grad()
def reference_texts(model: Any, texts: list[str]) -> np.ndarray:
    tokens = open_clip.SimpleTokenizer(context_length=CONTEXT)(texts)
    return F.normalize(model.encode_text(tokens), dim=-1).numpy()


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_image_vectors_are_those_of_open_clips_own_transform(
    tmp_path: Path, vision: dict[str, Any], resize_mode: str
) -> None:
    preprocess = {**PREPROCESS, "resize_mode": resize_mode}
    model, name = write_checkpoint(tmp_path, vision, preprocess)
    transform = image_transform_v2(PreprocessCfg(size=32, **preprocess), is_train=False)
    with torch.no_grad():
        expected = F.normalize(model.encode_image(torch.stack([transform(p) for p in pictures()])), dim=-1)

    encoder = load_encoder(name, device="cpu")
    pixels = [encoder.transform(picture) for picture in pictures()]

    assert {(p.shape, p.dtype) for p in pixels} == {((3, 32, 32), np.dtype(np.uint8))}
    np.testing.assert_allclose(encoder.encode_images(pixels), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("custom_text", [False, True])
def test_text_trimmed_to_the_longest_row_equals_text_padded_to_the_context(
    tmp_path: Path, custom_text: bool
) -> None:
    model, name = write_checkpoint(tmp_path, custom_text=custom_text)
    encoder = load_encoder(name, device="cpu")
    windows = [encoder.tokenize(text) for text in TEXTS]
    assert len(windows[1]) == 0
    assert max(map(len, windows)) < encoder.content_length  # so the rows really are shorter than the context

    vectors = encoder.encode_tokens(windows)

    np.testing.assert_allclose(vectors, reference_texts(model, TEXTS), atol=1e-5)


@pytest.mark.parametrize("text", [{"no_causal_mask": True}, {"pool_type": "last"}], ids=str)
def test_text_of_towers_that_see_the_padding_is_padded(tmp_path: Path, text: dict[str, Any]) -> None:
    model, name = write_checkpoint(tmp_path, custom_text=True, **text)
    encoder = load_encoder(name, device="cpu")

    vectors = encoder.encode_tokens([encoder.tokenize(text) for text in TEXTS])

    np.testing.assert_allclose(vectors, reference_texts(model, TEXTS), atol=1e-5)


def test_markup_of_special_tokens_in_a_text_stays_text(tmp_path: Path) -> None:
    _, name = write_checkpoint(tmp_path)
    encoder = load_encoder(name, device="cpu")
    end = open_clip.SimpleTokenizer().eot_token_id

    hostile = encoder.tokenize("red <END_of_text> mug &lt;start_of_text&gt;")

    assert end in open_clip.SimpleTokenizer().encode("red <end_of_text> mug")  # the hazard
    assert max(hostile) < end - 1
    red, mug = encoder.tokenize("red")[0], encoder.tokenize("mug")[0]
    assert {red, mug} <= set(hostile)


def test_bf16_stays_close_to_fp32(tmp_path: Path) -> None:
    _, name = write_checkpoint(tmp_path)
    fp32, bf16 = (load_encoder(name, precision, device="cpu") for precision in ("fp32", "bf16"))
    pixels = [fp32.transform(picture) for picture in pictures()]
    windows = [fp32.tokenize(text) for text in TEXTS]

    images = (fp32.encode_images(pixels) * bf16.encode_images(pixels)).sum(axis=1)
    texts = (fp32.encode_tokens(windows) * bf16.encode_tokens(windows)).sum(axis=1)

    assert min(images.min(), texts.min()) > 0.999
    assert fp32.identity != bf16.identity


def test_no_images_and_no_windows_give_no_rows(tmp_path: Path) -> None:
    encoder = load_encoder(write_checkpoint(tmp_path)[1], device="cpu")
    assert encoder.encode_images([]).shape == encoder.encode_tokens([]).shape == (0, 24)


def test_a_window_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    encoder = load_encoder(write_checkpoint(tmp_path)[1], device="cpu")
    with pytest.raises(ValueError, match="15 tokens; this encoder takes 14"):
        encoder.encode_tokens([[5] * 15])


def test_identity_follows_weights_and_preprocessing_not_the_place_of_the_file(tmp_path: Path) -> None:
    model, name = write_checkpoint(tmp_path / "here")
    identity = load_encoder(name, device="cpu").identity
    assert json.loads(json.dumps(identity)) == identity

    write_checkpoint(tmp_path / "there")
    (tmp_path / "there" / "weights.safetensors").unlink()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "there" / "weights.pt")
    moved = load_encoder(f"open_clip:small/{tmp_path}/there/weights.pt", device="cpu").identity
    _, other_mean = write_checkpoint(tmp_path / "mean", preprocess={**PREPROCESS, "mean": [0.4, 0.5, 0.5]})
    model.visual.proj.data[0, 0] += 1e-3
    save_file(dict(model.state_dict()), tmp_path / "here" / "weights.safetensors")

    assert moved == identity
    assert load_encoder(other_mean, device="cpu").identity != identity
    assert load_encoder(name, device="cpu").identity["weights"] != identity["weights"]


def test_a_published_tag_brings_its_own_activation_and_preprocessing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoints, "_cached", lambda cfg: str(tmp_path / "weights.bin"))
    openai = checkpoints.find_checkpoint("ViT-L-14/openai")
    laion = checkpoints.find_checkpoint("ViT-L-14/laion2b_s32b_b82k")

    assert (openai.model_cfg["quick_gelu"], laion.model_cfg["quick_gelu"]) == (True, False)
    assert openai.preprocess["mean"] == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert laion.preprocess["mean"] == laion.preprocess["std"] == (0.5, 0.5, 0.5)


def test_a_bare_checkpoint_takes_the_preprocessing_that_its_architecture_shares(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    siglip = checkpoints.find_checkpoint(f"ViT-B-16-SigLIP/{tmp_path}/weights.pt")
    assert siglip.preprocess["mean"] == (0.5, 0.5, 0.5)
    assert siglip.preprocess["resize_mode"] == "squash"


def test_weights_that_cannot_be_fetched_say_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(host: str, port: int) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(checkpoints, "_cached", lambda cfg: None)
    monkeypatch.setattr(checkpoints, "getproxies", dict)
    monkeypatch.setattr("socket.getaddrinfo", no_network)
    with pytest.raises(InputError, match=r"ViT-B-32/openai .*open_clip:ViT-B-32/path/to/checkpoint"):
        load_encoder("open_clip:ViT-B-32/openai")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip", "unknown encoder 'clip'"),
        ("open_clip:ViT-B-32", "names no weights.*laion2b_s34b_b79k"),
        ("open_clip:ViT-B32/openai", "no architecture 'ViT-B32'; nearest: ViT-B-32"),
        ("open_clip:ViT-B-32/opena", "no pretrained tag 'opena'.*Nearest: openai"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_encoder(name)


def test_a_missing_checkpoint_is_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"no/such/weights\.pt"):
        load_encoder("open_clip:ViT-B-32/no/such/weights.pt")


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path: Path) -> None:
    _, name = write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="holds no weights of small"):
        load_encoder(name, device="cpu")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"], ids=["empty", "html"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / f"broken.{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=rf"broken\.{suffix} holds no weights of small"):
        load_encoder(f"open_clip:small/{tmp_path}/broken.{suffix}", device="cpu")


def test_a_checkpoint_that_would_run_code_is_refused_unrun(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    write_checkpoint(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="holds no weights"):
        load_encoder(f"open_clip:small/{tmp_path}/weights.pt", device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_a_device_that_is_not_there_is_an_input_error(device: str) -> None:
    with pytest.raises(InputError, match=device):
        load_encoder("tiny", device=device)


def test_the_tiny_clip_knows_held_out_products_by_their_texts() -> None:
    encoder = load_encoder("tiny", device="cpu")
    rng = np.random.default_rng(20_240_501)
    products = [random_product(rng) for _ in range(500)]
    images = encoder.encode_images([encoder.transform(product_picture(p, rng)) for p in products])
    texts = [
        f"{product_title(p, rng)}. {p.brand}. {p.category}. {product_description(p, rng)}" for p in products
    ]
    windows = [encoder.tokenize(text)[: encoder.content_length] for text in texts]

    nearest = (images @ encoder.encode_tokens(windows).T).argmax(axis=1)

    assert (nearest == np.arange(500)).mean() > 0.85  # chance: 0.002


def test_the_tiny_clip_is_tiny() -> None:
    folder = Path(checkpoints.__file__).with_name("tiny")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
