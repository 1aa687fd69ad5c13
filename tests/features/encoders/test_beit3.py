"""BEiT-3 as an encoder, on random weights and a tokenizer trained here."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mmrec.features.encoders.beit3_checkpoint import load_beit3
from mmrec.features.encoders.fingerprint import encoder_fingerprint
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.encoders.sentence_pieces import SentencePieces
from mmrec.features.errors import InputError


@pytest.fixture
def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (3, 32, 32), dtype=np.uint8) for _ in range(3)]


def test_ids_are_those_of_xlm_r(beit3: Path) -> None:
    tokens = SentencePieces(beit3 / "beit3.spm", 16)
    ids = tokens.content("red mug")
    pieces = [tokens._pieces.IdToPiece(idx - 1) for idx in ids]  # ids are the pieces', one up
    assert "".join(pieces).replace("▁", " ").strip() == "red mug" and min(ids) > 3
    assert tokens.row(ids) == [0, *ids, 2] and tokens.pad_id == 1
    assert tokens.content("ж")[-1] == 3  # <unk>
    assert min(tokens.content("<s> </s> <mask>")) >= 3  # markup is text
    assert tokens.mask_id == tokens.vocabulary - 1 == len(tokens._pieces) + 1


def test_a_file_that_is_no_tokenizer_is_refused(beit3: Path) -> None:
    (beit3 / "beit3.spm").write_text("red mug")
    with pytest.raises(InputError, match=r"beit3.spm is no sentencepiece model"):
        load_encoder(f"beit3:{beit3}", device="cpu")


def test_a_picture_is_squeezed_into_a_square_and_nothing_is_cut_off(beit3: Path) -> None:
    encoder = load_encoder(f"beit3:{beit3}", device="cpu")
    image = Image.new("RGB", (80, 32), (10, 20, 30))
    image.paste((200, 0, 0), (70, 0, 80, 32))  # the right edge, which a centre crop would lose
    pixels = encoder.transform(image)
    assert pixels.shape == (3, 32, 32) and pixels.dtype == np.uint8
    assert pixels[:, 16, 4].tolist() == [10, 20, 30] and pixels[0, 16, -1] > 190


def test_vectors_are_the_first_states_at_unit_length(beit3: Path, pictures) -> None:
    encoder = load_encoder(f"beit3:{beit3}", device="cpu")
    model = load_beit3(beit3)
    images = torch.from_numpy(np.stack(pictures)).float() / 127.5 - 1
    ids = encoder.tokenize("a red mug")
    text = torch.tensor([[0, *ids, 2]])
    with torch.no_grad():
        expected = [
            F.normalize(model(images)[:, 0], dim=-1),
            F.normalize(model(text_ids=text)[:, 0], dim=-1),
            F.normalize(model(images, text.expand(3, -1))[:, 0], dim=-1),
        ]
    np.testing.assert_allclose(encoder.encode_images(pictures), expected[0], atol=1e-5)
    np.testing.assert_allclose(encoder.encode_tokens([ids]), expected[1], atol=1e-5)
    np.testing.assert_allclose(encoder.encode_joint(pictures, [ids] * 3), expected[2], atol=1e-5)


def test_retrieval_heads_are_for_single_modalities_alone(beit3: Path, make_beit3, tmp_path, pictures) -> None:
    folder = make_beit3(tmp_path / "itc", retrieval_heads=True)
    model = load_beit3(folder)
    encoder = load_encoder(f"beit3:{folder}", device="cpu", normalise=False)
    images = torch.from_numpy(np.stack(pictures)).float() / 127.5 - 1
    ids = encoder.tokenize("a red mug")
    text = torch.tensor([[0, *ids, 2]])
    with torch.no_grad():
        image = model.vision_head(model(images)[:, 0])
        sentence = model.language_head(model(text_ids=text)[:, 0])
        joint = model(images[:1], text)[:, 0]
    np.testing.assert_allclose(encoder.encode_images(pictures), image, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_tokens([ids]), sentence, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_joint(pictures[:1], [ids]), joint, atol=1e-5)


def test_rows_do_not_depend_on_their_batch(beit3: Path, pictures) -> None:
    encoder = load_encoder(f"beit3:{beit3}", device="cpu")
    windows = [encoder.tokenize(text) for text in ("mug", "a large red mug", "a")]
    together = encoder.encode_joint(pictures, windows)
    alone = [encoder.encode_joint([image], [ids])[0] for image, ids in zip(pictures, windows, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    texts = [encoder.encode_tokens([ids])[0] for ids in windows]
    np.testing.assert_allclose(encoder.encode_tokens(windows), texts, atol=1e-5)


def test_a_hidden_modality_is_mask_tokens_or_an_empty_text(beit3: Path, pictures) -> None:
    encoder = load_encoder(f"beit3:{beit3}", device="cpu")
    ids = encoder.tokenize("a red mug")
    both, image, text = encoder.encode_joint([pictures[0], pictures[0], None], [ids, None, ids])
    assert abs(both - image).max() > 1e-4 and abs(both - text).max() > 1e-4
    np.testing.assert_allclose(image, encoder.encode_joint([pictures[0]], [[]])[0], atol=1e-5)
    model = load_beit3(beit3)
    masked, black = torch.ones(1, 16, dtype=torch.bool), torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(black, torch.tensor([[0, *ids, 2]]), masked_patches=masked)[:, 0]
    np.testing.assert_allclose(text, F.normalize(expected, dim=-1)[0], atol=1e-5)


def test_whatever_changes_a_vector_changes_the_identity_and_a_place_does_not(beit3: Path, tmp_path) -> None:
    moved = beit3.rename(tmp_path / "elsewhere")
    name = f"beit3:{moved}"
    plain = load_encoder(name, device="cpu")
    assert plain.identity == load_encoder(f"{name}/model.safetensors", device="cpu").identity
    given = [
        ("fp32", "cpu", 8),
        ("fp32", "cpu", None, False),
        ("fp32", "cpu", None, True, 48),
        ("bf16", "cpu"),
    ]
    identities = [load_encoder(name, *settings).identity for settings in given]
    assert all(identity != plain.identity for identity in identities)
    prints = [encoder_fingerprint(name, "fp32", *settings) for settings in ((), (8,), (None, True, 48))]
    (moved / "beit3.spm").write_bytes(b"another")
    prints.append(encoder_fingerprint(name, "fp32"))
    assert len({str(known) for known in prints}) == 4


def test_another_size_and_bf16_stay_near(beit3: Path, pictures) -> None:
    encoder = load_encoder(f"beit3:{beit3}", "fp32", "cpu", None, True, 48)
    assert encoder.transform(Image.new("RGB", (9, 9))).shape == (3, 48, 48)
    fp32, bf16 = (load_encoder(f"beit3:{beit3}", precision, "cpu") for precision in ("fp32", "bf16"))
    ids = [fp32.tokenize("a red mug")] * 3
    drift = 1 - (fp32.encode_joint(pictures, ids) * bf16.encode_joint(pictures, ids)).sum(axis=1)
    assert drift.max() < 1e-2


def test_what_does_not_fit_is_refused(beit3: Path, make_beit3, tmp_path) -> None:
    name = f"beit3:{beit3}"
    with pytest.raises(InputError, match=r"context_length is 63, but .* takes texts of 3 to 62 tokens"):
        load_encoder(name, "fp32", "cpu", 63)
    with pytest.raises(ValueError, match="a window of 15 tokens; this encoder takes 14"):
        load_encoder(name, device="cpu").encode_tokens([[5] * 15])
    with pytest.raises(InputError, match=r"embeds 20; expected the tokenizer of its training"):
        load_encoder(f"beit3:{make_beit3(tmp_path / 'few', vocabulary=20)}", device="cpu")
    with pytest.raises(FileNotFoundError, match=r"none\.pth of BEiT-3"):
        load_encoder(f"beit3:{tmp_path}/none.pth", device="cpu")
    with pytest.raises(InputError, match=r"^image_size: 'tiny' has a size of its own"):
        load_encoder("tiny", "fp32", "cpu", None, True, 48)
