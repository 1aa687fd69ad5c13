"""Train small encoders of one modality each and a small VLMo, on generated products alone.

    python tools/train_tiny_encoders.py --output runs/tiny-encoders

Writes `image/` (timm), `sentence/` (sentence-transformers) and `vlmo/`, which examples/lmm-grid.toml compares
with the CLIP that ships with mmrec, and the small `shop/` that it does so on. The encoders of one modality
never see the other one: the picture's learns to tell the attributes that are drawn, the text's those that
are named. The VLMo learns which text belongs to which picture. Needs `pip install 'mmrec[baselines]'`; about
ten minutes on two cores. Prints accuracies, and recall@1 of picture -> own text, on 500 products that
training never drew.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer
from torch import Tensor, nn
from train_tiny_clip import MAX_LOGIT_SCALE, TEXTS, write_text

from mmrec.features.encoders.trainable import load_trainable
from mmrec.features.encoders.vlmo_checkpoint import write_vlmo
from mmrec.features.encoders.vlmo_config import VlmoConfig
from mmrec.features.encoders.vlmo_model import Vlmo
from mmrec.features.encoders.word_pieces import SPECIALS
from mmrec.pipeline.products import (
    BRANDS,
    COLOURS,
    OUTLINES,
    PATTERNS,
    Product,
    product_picture,
    random_product,
)
from mmrec.pipeline.shop import generate_shop

log = logging.getLogger("train_tiny_encoders")

ARCHITECTURE, SIDE = "test_resnet", 64
MEAN = STD = 0.5
ATTRIBUTES = {
    "category": tuple(OUTLINES),
    "pattern": tuple(PATTERNS),
    "colour": tuple(COLOURS),
    "brand": tuple(BRANDS),
}
HELD_OUT = 500
WIDTH = 96  # of the text encoder and the VLMo
VLMO = VlmoConfig(
    width=WIDTH,
    layers=4,
    heads=4,
    hidden=2 * WIDTH,
    vl_start=3,
    image_size=SIDE,
    patch_size=8,
    relative=False,
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Products that are drawn and described."""

    pixels: Tensor  # (n, 3, side, side) uint8
    texts: list[str]
    labels: dict[str, Tensor]  # attribute -> (n,) int64


def draw_examples(n: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    templates, shares = zip(*TEXTS, strict=True)
    products = [random_product(rng) for _ in range(n)]
    pictures = [product_picture(product, rng, size=96) for product in products]
    small = [np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in pictures]
    chosen = rng.choice(templates, size=n, p=shares)
    texts = [
        write_text(str(template), product, rng) for template, product in zip(chosen, products, strict=True)
    ]
    pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()
    return Examples(pixels, texts, {name: _labels(products, name) for name in ATTRIBUTES})


def _labels(products: Sequence[Product], name: str) -> Tensor:
    return torch.tensor([ATTRIBUTES[name].index(getattr(product, name)) for product in products])


def train_attributes(
    encode: Callable[[Tensor], Tensor],
    encoder: nn.Module,
    width: int,
    labels: dict[str, Tensor],
    epochs: int,
    learning_rate: float,
) -> dict[str, float]:
    """Train `encoder` to tell the attributes from its vectors, (b, width); accuracies on the last examples.

    `encode` takes rows of the examples.
    """
    heads = nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})
    n, size = len(labels["brand"]) - HELD_OUT, 64
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.05)
    steps = epochs * (n // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    for epoch in range(epochs):
        encoder.train()
        total = 0.0
        for rows in torch.randperm(n).split(size)[: n // size]:
            vectors = encode(rows)
            losses = [F.cross_entropy(head(vectors), labels[name][rows]) for name, head in heads.items()]
            loss = torch.stack(losses).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        log.info("epoch %d of %d: loss %.3f", epoch + 1, epochs, total / (n // size))
    encoder.eval()
    held_out = torch.arange(n, n + HELD_OUT)
    with torch.no_grad():
        vectors = torch.cat([encode(rows) for rows in held_out.split(100)])
        return {
            name: float((head(vectors).argmax(dim=1) == labels[name][held_out]).float().mean())
            for name, head in heads.items()
        }


def image_tower(examples: Examples, folder: Path, epochs: int) -> dict[str, float]:
    """A small ResNet that tells attributes from pictures, as `timm:test_resnet/FOLDER/model.safetensors`."""
    network: Any = timm.create_model(ARCHITECTURE, num_classes=0)

    def encode(rows: Tensor) -> Tensor:
        return network((examples.pixels[rows].float() / 255 - MEAN) / STD)

    found = train_attributes(encode, network, network.num_features, examples.labels, epochs, 2e-3)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        folder / "model.safetensors",
    )
    cfg = {
        "input_size": [3, SIDE, SIDE],
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }
    config = {"architecture": ARCHITECTURE, "num_classes": 0, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return found


def word_pieces(texts: Sequence[str], path: Path) -> None:
    """A vocabulary of the texts in the layout of BERT's."""
    pieces: Any = Tokenizer(WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = BertNormalizer(lowercase=True), BertPreTokenizer()
    trainer: Any = WordPieceTrainer(vocab_size=800, special_tokens=list(SPECIALS))
    pieces.train_from_iterator(texts, trainer)
    ids = pieces.get_vocab()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{piece}\n" for piece in sorted(ids, key=ids.__getitem__)), encoding="utf-8")


def text_tower(examples: Examples, vocabulary: Path, folder: Path, epochs: int) -> dict[str, float]:
    """A small BERT that tells attributes from texts, as `sentence:FOLDER`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizer

    start = folder.with_name("sentence-start")
    tokenizer = BertTokenizer(vocab=str(vocabulary), model_max_length=64)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(start)
    tokenizer.save_pretrained(start)
    word = Transformer(str(start), max_seq_length=64)
    model: Any = SentenceTransformer(modules=[word, Pooling(WIDTH, pooling_mode="mean")], device="cpu")
    tokens = model.preprocess(examples.texts)

    def encode(rows: Tensor) -> Tensor:
        batch = {name: value[rows] for name, value in tokens.items() if isinstance(value, Tensor)}
        width = int(batch["attention_mask"].sum(dim=1).max())
        return model({name: value[:, :width] for name, value in batch.items()})["sentence_embedding"]

    found = train_attributes(encode, model, WIDTH, examples.labels, epochs, 1e-3)
    model.save(str(folder))
    return found


def contrast_vlmo(examples: Examples, vocabulary: Path, folder: Path, epochs: int) -> dict[str, float]:
    """A small VLMo whose pictures find their texts (ITC), as `vlmo:FOLDER`."""
    pieces = len(vocabulary.read_text(encoding="utf-8").splitlines())
    start = folder.with_name("vlmo-start")
    write_vlmo(start, Vlmo(replace(VLMO, vocabulary=pieces)), vocabulary, VLMO.max_text)
    encoder = load_trainable(f"vlmo:{start}", device="cpu")
    module: Any = encoder.module
    windows = [encoder.tokenize(text)[: encoder.content_length] for text in examples.texts]
    n, size = len(windows) - HELD_OUT, 128
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.05)
    steps = epochs * (n // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 50, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    targets = torch.arange(size)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(n).split(size)[: n // size]:
            texts = encoder.text_vectors([windows[row] for row in rows.tolist()])
            logits = module.logit_scale.exp() * encoder.image_vectors(examples.pixels[rows]) @ texts.T
            loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            total += float(loss.detach())
        log.info("epoch %d of %d: loss %.3f", epoch + 1, epochs, total / (n // size))
    encoder.save(folder)
    with torch.no_grad():
        images = encoder.image_vectors(examples.pixels[n:])
        nearest = (images @ encoder.text_vectors(windows[n:]).T).argmax(dim=1)
    return {"recall@1": float((nearest == torch.arange(HELD_OUT)).float().mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--products", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("transformers").setLevel(logging.ERROR)

    started = time.monotonic()
    torch.manual_seed(options.seed)
    examples = draw_examples(options.products + HELD_OUT, options.seed)
    vocabulary = options.output / "vocab.txt"
    word_pieces(examples.texts, vocabulary)
    accuracy = {
        "image": image_tower(examples, options.output / "image", options.epochs),
        "sentence": text_tower(examples, vocabulary, options.output / "sentence", options.epochs),
        "vlmo": contrast_vlmo(examples, vocabulary, options.output / "vlmo", 2 * options.epochs),
    }
    generate_shop(options.output / "shop", n_items=300, n_users=250)
    print(json.dumps(accuracy, indent=2), f"\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
