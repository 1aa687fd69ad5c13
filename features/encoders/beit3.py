"""BEiT-3 as an encoder: images, texts, and both in one pass, whose first state is AlignRec's feature."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .beit3_checkpoint import Beit3Files, load_beit3
from .checkpoints import weights_digest
from .open_clip import PRECISIONS, pick_device
from .sentence_pieces import SentencePieces

USUAL_CONTEXT = 64  # tokens of a text in BEiT-3's own fine-tuning; AlignRec takes 128
MEAN = STD = 0.5  # of all three channels


class Beit3Encoder:
    """A BEiT-3 checkpoint with its tokenizer.

    Images and texts alone go through the retrieval heads where the checkpoint has them, else their first
    state is the vector; joint vectors never go through a head. `context_length` is the longest text in
    tokens, `image_size` a side that the patches' positions are interpolated for.
    """

    def __init__(
        self,
        files: Beit3Files,
        precision: str = "fp32",
        device: str = "auto",
        context_length: int | None = None,
        normalise: bool = True,
        image_size: int | None = None,
    ) -> None:
        self.device = pick_device(device)
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        self._precision, self._dtype, self._normalise = precision, PRECISIONS[precision], normalise
        model = load_beit3(files.weights, image_size, files.heads).requires_grad_(False)
        self._config = model.config
        self.dim = model.config.width
        asked = context_length or files.context_length or min(USUAL_CONTEXT, model.config.max_text)
        if not 2 < asked <= model.config.max_text:
            raise InputError(
                f"extract.context_length is {asked}, but {files.weights} takes texts of 3 to "
                f"{model.config.max_text} tokens"
            )
        self._tokens = SentencePieces(files.tokenizer, asked)
        if self._tokens.vocabulary > model.config.vocabulary:
            raise InputError(
                f"{files.tokenizer} has {self._tokens.vocabulary} ids with the special ones, but "
                f"{files.weights} embeds {model.config.vocabulary}; expected the tokenizer of its training"
            )
        self.context_length, self.content_length = asked, self._tokens.content_length
        self._weights = weights_digest(model)
        self._model: Any = model.to(device=self.device, dtype=self._dtype)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights, preprocessing, tokenizer and precision; not the place of the files."""
        identity = {
            "name": "beit3",
            "architecture": dataclasses.asdict(self._config),
            "weights": f"sha256:{self._weights}",
            "preprocessing": {
                "size": [self._config.image_size] * 2,
                "resize": "squash",
                "interpolation": "bicubic",
                "mean": [MEAN] * 3,
                "std": [STD] * 3,
            },
            "tokenizer": self._tokens.identity,
            "context_length": self.context_length,
            "dim": self.dim,
            "precision": self._precision,
        }
        return identity if self._normalise else {**identity, "normalised": False}

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """The whole image as a square, (3, h, w) uint8; normalisation comes later."""
        return square_pixels(image, self._config.image_size)

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        first = self._states(images=self._images(pixels))
        return self._rows(self._model.vision_head(first) if self._config.retrieval_heads else first)

    def tokenize(self, text: str) -> list[int]:
        return self._tokens.content(text)

    @torch.inference_mode()
    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        if not len(windows):
            return np.empty((0, self.dim), dtype=np.float32)
        first = self._states(**self._texts(windows))
        return self._rows(self._model.language_head(first) if self._config.retrieval_heads else first)

    @torch.inference_mode()
    def encode_joint(
        self, pixels: Sequence[np.ndarray | None], windows: Sequence[Sequence[int] | None]
    ) -> np.ndarray:
        """The image's class token after it has seen the text; see `JointEncoder`.

        For None, all patches of the image are the mask token, or the text is its start and end alone: what
        pre-training shows where something is to be predicted.
        """
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        side = self._config.image_size
        nothing = np.zeros((3, side, side), np.uint8)
        hidden = torch.tensor([image is None for image in pixels], device=self.device)  # (n,)
        first = self._states(
            images=self._images([nothing if image is None else image for image in pixels]),
            masked_patches=hidden[:, None].expand(-1, self._config.grid**2),
            **self._texts([() if window is None else window for window in windows]),
        )
        return self._rows(first)

    def _states(self, **inputs: Tensor) -> Tensor:
        """The state of the first token, (n, dim)."""
        with torch.backends.cudnn.flags(allow_tf32=False):  # fp32 means fp32 in the patch convolution too
            return self._model(**inputs)[:, 0]

    def _images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        batch = torch.from_numpy(np.stack(pixels)).to(self.device)  # (n, 3, h, w) uint8
        return normalised(batch).to(self._dtype)

    def _texts(self, windows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        longest = max(len(window) for window in windows)
        if longest > self.content_length:
            raise ValueError(
                f"a window of {longest} tokens; this encoder takes {self.content_length} at most"
            )
        ids, padding = padded_rows(self._tokens, windows)
        return {"text_ids": ids.to(self.device), "padding": padding.to(self.device)}

    def _rows(self, vectors: Tensor) -> np.ndarray:
        rows = vectors.float()  # (n, dim)
        return (F.normalize(rows, dim=-1) if self._normalise else rows).cpu().numpy()


def square_pixels(image: Image.Image, side: int) -> np.ndarray:
    """The whole image squashed to a square, (3, side, side) uint8."""
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1).copy()


def normalised(pixels: Tensor) -> Tensor:
    """uint8 pixels as the float32 ones that the model takes."""
    return (pixels.float() / 255 - MEAN) / STD


def padded_rows(pieces: SentencePieces, windows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and padding, (n, width), of windows of tokens between their special ones, padded to the longest:
    pads are never seen."""
    rows = [pieces.row(window) for window in windows]
    ids = torch.full((len(rows), max(map(len, rows))), pieces.pad_id)
    padding = torch.ones_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        padding[number, : len(row)] = False
    return ids, padding
