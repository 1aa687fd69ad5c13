"""Fixtures that several test modules share."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before torch is imported: the tests' matrices are tiny, and threads that wait for each other cost more
# than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest
from PIL import Image

from mmrec.features.decoding.transform import ImageTransform
from mmrec.features.encoders import registry


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden numbers; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MMREC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip(f"no {folder.name}/ folder beside the repository")
    return folder


class CountingEncoder:
    """Colour means for images, character counts for texts; keeps a record of every call."""

    dim, context_length, content_length = 4, 10, 8
    transform = ImageTransform((2, 2), "squash")

    def __init__(self) -> None:
        self.images = 0
        self.windows: list[tuple[int, ...]] = []
        self.identity: dict[str, Any] = {"name": "counting", "dim": self.dim}

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        self.images += len(pixels)
        rows = [[*crop.reshape(3, -1).mean(axis=1), 1.0] for crop in pixels]
        return self._unit(np.array(rows, np.float32).reshape(-1, 4))

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        self.windows += [tuple(window) for window in windows]
        rows = [[sum(window) % 97, sum(window) % 31, len(window), 1.0] for window in windows]
        return self._unit(np.array(rows, np.float32).reshape(-1, 4))

    @staticmethod
    def _unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def encoder(monkeypatch) -> CountingEncoder:
    """Takes the place of every encoder that a config names."""
    counting = CountingEncoder()
    monkeypatch.setattr(registry, "load_encoder", lambda *_: counting)
    return counting


def _png(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def png() -> Callable[[tuple[int, int, int]], bytes]:
    """The content of a small picture of one colour."""
    return _png


@pytest.fixture(scope="session")
def sentence_pieces(tmp_path_factory) -> Path:
    """A small sentencepiece model of a few words about mugs."""
    from sentencepiece import SentencePieceTrainer

    stem = tmp_path_factory.mktemp("pieces") / "mugs"
    colours, sizes = ("red", "blue", "green"), ("large", "small", "flat")
    lines = [f"a {size} {colour} mug and a {colour} plate" for colour in colours for size in sizes]
    SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_prefix=str(stem),
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return stem.with_suffix(".model")


@pytest.fixture
def make_beit3(sentence_pieces) -> Callable[..., Path]:
    """Writes a random BEiT-3 of 32 x 32 pixels, 16 patches and texts of 16 tokens into a folder."""
    import torch

    from mmrec.features.encoders.beit3_checkpoint import write_beit3
    from mmrec.features.encoders.beit3_model import Beit3, Beit3Config

    def make(folder: Path, **sizes: Any) -> Path:
        tiny = {"width": 16, "layers": 2, "heads": 2, "hidden": 32, "vocabulary": 64, "image_size": 32}
        torch.manual_seed(0)
        model = Beit3(Beit3Config(**{**tiny, "patch_size": 8, "text_positions": 64, **sizes}))
        write_beit3(folder, model, sentence_pieces, context_length=16)
        return folder

    return make


@pytest.fixture
def beit3(tmp_path, make_beit3) -> Path:
    """The folder of a random BEiT-3 without heads."""
    return make_beit3(tmp_path / "beit3")


@pytest.fixture(scope="session")
def word_pieces(tmp_path_factory) -> Path:
    """A vocabulary of a few words about mugs, and of letters for others, in the layout of BERT's."""
    letters = [chr(ord("a") + n) for n in range(26)]
    words = ["red", "blue", "mug", "large", "small", "##s", *letters, *(f"##{letter}" for letter in letters)]
    path = tmp_path_factory.mktemp("word_pieces") / "vocab.txt"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    path.write_text("\n".join(dict.fromkeys([*specials, *words, "[", "]", ",", "."])) + "\n")
    return path


@pytest.fixture
def make_vlmo(word_pieces) -> Callable[..., Path]:
    """Writes a random VLMo of 32 x 32 pixels, 16 patches and texts of 16 tokens into a folder."""
    import torch

    from mmrec.features.encoders.vlmo_checkpoint import write_vlmo
    from mmrec.features.encoders.vlmo_config import VlmoConfig
    from mmrec.features.encoders.vlmo_model import Vlmo

    def make(folder: Path, **sizes: Any) -> Path:
        tiny = {"width": 16, "layers": 3, "heads": 2, "hidden": 32, "vl_start": 2, "vocabulary": 70}
        torch.manual_seed(0)
        model = Vlmo(VlmoConfig(**{**tiny, "image_size": 32, "patch_size": 8, "max_text": 40, **sizes}))
        with torch.no_grad():  # fresh biases are zeros
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        write_vlmo(folder, model, word_pieces, context_length=16)
        return folder

    return make


@pytest.fixture
def vlmo(tmp_path, make_vlmo) -> Path:
    """The folder of a random VLMo with all heads."""
    return make_vlmo(tmp_path / "vlmo")


@pytest.fixture
def timm_checkpoint(tmp_path) -> str:
    """The name of a random vision transformer of timm with a classifier of 7 classes, in a file."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path / "timm" / "vit.safetensors"
    file.parent.mkdir()
    save_file(timm.create_model("test_vit", num_classes=7).state_dict(), file)
    return f"timm:test_vit/{file}"


@pytest.fixture
def sentence_folder(tmp_path, word_pieces) -> Path:
    """The folder of a random sentence-transformers model of 16 dimensions and texts of 12 tokens."""
    pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    plain = tmp_path / "bert"
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=70, max_position_embeddings=32, **sizes)).save_pretrained(plain)
    vocabulary = {piece: idx for idx, piece in enumerate(word_pieces.read_text().splitlines())}
    BertTokenizerFast(vocab=vocabulary, model_max_length=12).save_pretrained(plain)
    SentenceTransformer(str(plain), device="cpu").save(str(tmp_path / "sentences"), create_model_card=False)
    return tmp_path / "sentences"


@pytest.fixture
def shop(tmp_path) -> Path:
    """items.csv with five items: a shared title, a long one, one without image, one without any text."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.png").write_bytes(_png((60 * n, 0, 255 - 60 * n)))
    rows = {
        "item_id": ["a", "b", "c", "d", "e"],
        "image": ["0.png", "1.png", "2.png", "3.png", None],
        "title": ["red", "red", "a title of 24 characters", None, "blue"],
    }
    pl.DataFrame(rows).write_csv(folder / "items.csv")
    return folder
