"""Models of sentence-transformers as encoders: their vectors, windows and prompts, and what is refused."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from mmrec.features.encoders import sentence_checkpoint as checkpoints
from mmrec.features.encoders.fingerprint import encoder_fingerprint
from mmrec.features.encoders.registry import load_encoder, load_image_encoder, load_text_encoder
from mmrec.features.errors import InputError
from mmrec.features.text import encode_texts

TEXTS = ["a red mug", "", "Blue, large mugs", "red mug " * 9]


@pytest.fixture
def prompted(sentence_folder, tmp_path) -> Path:
    """The same model with a prompt of two pieces."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(sentence_folder), device="cpu")
    model.prompts, model.default_prompt_name = {"item": "blue, "}, "item"
    model.save(str(tmp_path / "prompted"), create_model_card=False)
    return tmp_path / "prompted"


@pytest.mark.parametrize("kind", ["plain", "prompted", "truncated", "prompt left out"])
def test_vectors_are_those_of_the_library(kind, sentence_folder, prompted, tmp_path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = sentence_folder if kind == "plain" else prompted
    model = SentenceTransformer(str(folder), device="cpu")
    if kind == "truncated":
        model.truncate_dim = 4
    if kind == "prompt left out":
        model.set_pooling_include_prompt(False)
    model.save(str(tmp_path / "model"), create_model_card=False)
    encoder = load_text_encoder(f"sentence:{tmp_path / 'model'}", device="cpu", normalise=False)
    found = encode_texts(encoder, TEXTS, "truncate", normalise=False)
    expected = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert encoder.dim == found.vectors.shape[1] == (4 if kind == "truncated" else 16)
    assert found.counts["texts_truncated"] == 1


def test_each_window_of_a_long_text_begins_with_the_prompt(sentence_folder, prompted) -> None:
    plain, encoder = (load_text_encoder(f"sentence:{f}", device="cpu") for f in (sentence_folder, prompted))
    assert (plain.content_length, encoder.content_length) == (10, 8)
    rows = encode_texts(encoder, ["red mug " * 9, "red mug " * 4, "red mug"]).vectors
    by_hand = encode_texts(plain, ["blue, " + "red mug " * 4, "blue, red mug"]).vectors
    np.testing.assert_allclose(rows[1:], by_hand, atol=1e-5)
    mean = by_hand[0] * 2 + by_hand[1]  # 18 tokens in windows of 8, 8 and 2
    np.testing.assert_allclose(rows[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_identity_tells_prompts_precision_and_length_apart_but_not_places(
    sentence_folder, prompted, tmp_path
) -> None:
    name = f"sentence:{sentence_folder}"
    encoder = load_text_encoder(name, device="cpu")
    shutil.copytree(sentence_folder, tmp_path / "moved")
    assert load_text_encoder(f"sentence:{tmp_path / 'moved'}", device="cpu").identity == encoder.identity
    others = [
        load_text_encoder(f"sentence:{prompted}", device="cpu"),
        load_text_encoder(name, "bf16", "cpu"),
        load_text_encoder(name, device="cpu", context_length=20),
    ]
    assert all(other.identity != encoder.identity for other in others)
    window = [encoder.tokenize("a red mug")]
    assert float((encoder.encode_tokens(window) @ others[1].encode_tokens(window).T).squeeze()) > 0.99


def test_a_changed_file_changes_the_fingerprint(sentence_folder) -> None:
    name = f"sentence:{sentence_folder}"
    before = encoder_fingerprint(name, "fp32")
    (sentence_folder / "README.md").write_text("Read me")
    assert encoder_fingerprint(name, "fp32") == before
    pooling = next(sentence_folder.glob("1_Pooling/*.json"))
    pooling.write_text(pooling.read_text().replace("mean", "cls"))
    assert encoder_fingerprint(name, "fp32") != before


def test_a_context_of_more_tokens_than_places_is_refused(sentence_folder) -> None:
    assert load_text_encoder(f"sentence:{sentence_folder}", device="cpu", context_length=32).dim == 16
    with pytest.raises(InputError, match=r"context_length is 33, but .* takes 4 to 32"):
        load_text_encoder(f"sentence:{sentence_folder}", device="cpu", context_length=33)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'mmrec\[baselines\]'"):
        load_text_encoder("sentence:all-MiniLM-L6-v2")


def test_what_is_no_model_is_refused(sentence_folder, tmp_path, monkeypatch) -> None:
    def refuse() -> None:
        raise OSError("no route")

    monkeypatch.setattr(checkpoints, "require_network", refuse)
    with pytest.raises(InputError, match=r"'no-such-model' is no folder here.*no route.*sentence:path"):
        load_text_encoder("sentence:no-such-model")
    with pytest.raises(FileNotFoundError, match="no folder of a sentence-transformers model"):
        load_text_encoder(f"sentence:{tmp_path / 'nowhere'}")
    (sentence_folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no model that sentence-transformers can load"):
        load_text_encoder(f"sentence:{sentence_folder}")


def test_a_model_without_a_transformer_is_refused(word_pieces, tmp_path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    static = StaticEmbedding(Tokenizer(WordLevel({"red": 0, "[UNK]": 1}, "[UNK]")), embedding_dim=4)
    SentenceTransformer(modules=[static], device="cpu").save(
        str(tmp_path / "static"), create_model_card=False
    )
    with pytest.raises(InputError, match="begins with StaticEmbedding"):
        load_text_encoder(f"sentence:{tmp_path / 'static'}")


def test_it_reads_no_images(sentence_folder) -> None:
    for load in (load_encoder, load_image_encoder):
        with pytest.raises(InputError, match="reads texts alone"):
            load(f"sentence:{sentence_folder}", device="cpu")
