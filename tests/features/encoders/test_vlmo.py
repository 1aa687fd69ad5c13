"""VLMo as an encoder, on random weights and a vocabulary of a few words."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders.fingerprint import encoder_fingerprint
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.encoders.vlmo_checkpoint import load_vlmo
from mmrec.features.encoders.word_pieces import WordPieces
from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore
from mmrec.stages.extract import extract


@pytest.fixture
def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(3)]


def test_words_are_lowered_stripped_of_accents_and_cut_into_the_longest_pieces(word_pieces: Path) -> None:
    tokens = WordPieces(word_pieces, 16)
    pieces = word_pieces.read_text().splitlines()
    read = [pieces[idx] for idx in tokens.content("Réd, MUGS and")]
    assert read == ["red", ",", "mug", "##s", "a", "##n", "##d"]
    assert tokens.row([7, 8]) == [2, 7, 8, 3]
    assert (tokens.pad_id, tokens.mask_id, tokens.vocabulary) == (0, 4, len(pieces))
    assert [pieces[idx] for idx in tokens.content("[SEP] ж")] == ["[", "s", "##e", "##p", "]", "[UNK]"]
    assert tokens.content("a" * 101) == [1]  # too long a word


def test_a_file_that_is_no_vocabulary_is_refused(vlmo: Path) -> None:
    for content, message in (
        (b"red\n[PAD]\n[UNK]\n", r"lacks \[CLS\], \[SEP\], \[MASK\]"),
        (b"\xff", "UTF-8"),
    ):
        (vlmo / "vocab.txt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_encoder(f"vlmo:{vlmo}", device="cpu")


@pytest.mark.parametrize("sizes", [{}, {"relative": False, "layer_scale": False}])
def test_single_modalities_go_through_the_contrastive_heads_and_both_are_pooled(
    make_vlmo, tmp_path, pictures, sizes
) -> None:
    folder = make_vlmo(tmp_path / "vlmo", **sizes)
    encoder, model = load_encoder(f"vlmo:{folder}", device="cpu"), load_vlmo(folder)
    images = torch.from_numpy(np.stack(pictures)).float() / 127.5 - 1
    ids = encoder.tokenize("a red mug")
    text = torch.tensor([[2, *ids, 3]])
    with torch.no_grad():
        image = model.itc_image_proj(model(images)[:, 0])
        sentence = model.itc_text_proj(model(text_ids=text)[:, 0])
        joint = model.pooler(model(images, text.expand(3, -1)))
    np.testing.assert_allclose(encoder.encode_images(pictures), F.normalize(image, dim=-1), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_tokens([ids]), F.normalize(sentence, dim=-1), atol=1e-5)
    np.testing.assert_allclose(
        encoder.encode_joint(pictures, [ids] * 3), F.normalize(joint, dim=-1), atol=1e-5
    )
    raw = load_encoder(f"vlmo:{folder}", device="cpu", normalise=False)
    np.testing.assert_allclose(raw.encode_joint(pictures, [ids] * 3), joint, atol=1e-5)


def test_without_contrastive_heads_the_first_state_is_the_vector(make_vlmo, tmp_path, pictures) -> None:
    folder = make_vlmo(tmp_path / "vlmo", itc_heads=False)
    images = torch.from_numpy(np.stack(pictures)).float() / 127.5 - 1
    with torch.no_grad():
        first = load_vlmo(folder)(images)[:, 0]
    encoder = load_encoder(f"vlmo:{folder}", device="cpu", normalise=False)
    np.testing.assert_allclose(encoder.encode_images(pictures), first, atol=1e-5)


def test_rows_do_not_depend_on_their_batch(vlmo: Path, pictures) -> None:
    encoder = load_encoder(f"vlmo:{vlmo}", device="cpu")
    windows = [encoder.tokenize(text) for text in ("mug", "a large red mug", "a")]
    together = encoder.encode_joint([pictures[0], None, pictures[2]], [windows[0], windows[1], None])
    alone = [
        encoder.encode_joint([image], [ids])[0]
        for image, ids in ((pictures[0], windows[0]), (None, windows[1]), (pictures[2], None))
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    texts = [encoder.encode_tokens([ids])[0] for ids in windows]
    np.testing.assert_allclose(encoder.encode_tokens(windows), texts, atol=1e-5)


def test_a_text_without_a_picture_goes_through_the_experts_of_both(vlmo: Path, pictures) -> None:
    encoder, model = load_encoder(f"vlmo:{vlmo}", device="cpu"), load_vlmo(vlmo)
    ids = encoder.tokenize("a red mug")
    both, image, text = encoder.encode_joint([pictures[0], pictures[0], None], [ids, None, ids])
    assert abs(both - image).max() > 1e-4 and abs(both - text).max() > 1e-4
    np.testing.assert_allclose(image, encoder.encode_joint([pictures[0]], [[]])[0], atol=1e-5)
    with torch.no_grad():
        pooled = model.pooler(model.branches(text_ids=torch.tensor([[2, *ids, 3]]))[1])
    np.testing.assert_allclose(text, F.normalize(pooled, dim=-1)[0], atol=1e-5)


def test_whatever_changes_a_vector_changes_the_identity_and_a_place_does_not(vlmo: Path, tmp_path) -> None:
    moved = vlmo.rename(tmp_path / "elsewhere")
    name = f"vlmo:{moved}"
    plain = load_encoder(name, device="cpu")
    assert plain.identity == load_encoder(f"{name}/model.safetensors", device="cpu").identity
    assert plain.identity["name"] == "vlmo" and plain.context_length == 16
    given = [("fp32", "cpu", 8), ("fp32", "cpu", None, True, 48), ("bf16", "cpu")]
    assert all(load_encoder(name, *settings).identity != plain.identity for settings in given)
    before = encoder_fingerprint(name, "fp32")
    (moved / "vocab.txt").write_bytes(b"another")
    assert encoder_fingerprint(name, "fp32") != before


def test_another_size_and_bf16_stay_near(vlmo: Path, pictures) -> None:
    encoder = load_encoder(f"vlmo:{vlmo}", "fp32", "cpu", None, True, 48)
    assert encoder.transform(Image.new("RGB", (9, 9))).shape == (3, 48, 48)
    fp32, bf16 = (load_encoder(f"vlmo:{vlmo}", precision, "cpu") for precision in ("fp32", "bf16"))
    ids = [fp32.tokenize("a red mug")] * 3
    drift = 1 - (fp32.encode_joint(pictures, ids) * bf16.encode_joint(pictures, ids)).sum(axis=1)
    assert drift.max() < 1e-2


def test_what_does_not_fit_is_refused(vlmo: Path, make_vlmo, tmp_path) -> None:
    with pytest.raises(InputError, match=r"context_length is 41, but .* takes texts of 3 to 40 tokens"):
        load_encoder(f"vlmo:{vlmo}", "fp32", "cpu", 41)
    with pytest.raises(InputError, match=r"embeds 20; expected the tokenizer of its training"):
        load_encoder(f"vlmo:{make_vlmo(tmp_path / 'few', vocabulary=20)}", device="cpu")


def test_extraction_writes_the_views_of_single_modalities_and_the_joint_ones(shop, vlmo, tmp_path) -> None:
    config = ExtractConfig(
        encoder=f"vlmo:{vlmo}",
        device="cpu",
        text_views={"title": "{title}"},
        joint="{title}",
        joint_blanked=True,
        max_failures=1.0,
    )
    extract(CatalogConfig(items=str(shop / "items.csv"), image="image"), config, tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    present = {view: store.read(view)[1].tolist() for view in store.views}
    image, text = [True] * 4 + [False], [True, True, True, False, True]
    assert present == {
        "image.full": image,
        "text.title": text,
        "joint": [True] * 5,
        "joint.image": image,
        "joint.text": text,
    }
