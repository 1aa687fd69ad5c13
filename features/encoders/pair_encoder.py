"""Encoders of square pictures and texts, alone or in one pass: all that BEiT-3 and VLMo do alike."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..decoding.transform import ImageTransform
from ..errors import InputError
from .checkpoints import weights_digest
from .tokens import Tokens
from .torch_encoder import TorchImages, TorchTexts

MEAN = STD = 0.5  # of all three channels


class PairFiles(Protocol):
    """What a checkpoint consists of."""

    @property
    def weights(self) -> Path: ...
    @property
    def tokenizer(self) -> Path: ...
    @property
    def context_length(self) -> int | None: ...  # tokens of a text; None: the usual number


class CountedTokens(Tokens, Protocol):
    """A tokenizer that knows how many ids it has, special ones included."""

    vocabulary: int


class PairEncoder(TorchImages, TorchTexts):
    """A checkpoint with its tokenizer; `JointEncoder` says what its methods give.

    `context_length` is the longest text in tokens, `image_size` a side that the patches' positions are
    interpolated for.
    """

    family: str  # the encoder's name in its identity
    usual_context: int  # tokens of a text where nobody says

    def __init__(
        self,
        files: PairFiles,
        precision: str = "fp32",
        device: str = "auto",
        context_length: int | None = None,
        normalise: bool = True,
        image_size: int | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__(precision, device, normalise, trainable)
        self._files = files
        self.module = self._load(files, image_size).requires_grad_(False)
        self.dim = self._config.width
        longest = self._config.max_text
        asked = context_length or files.context_length or min(self.usual_context, longest)
        if not 2 < asked <= longest:
            raise InputError(
                f"context_length is {asked}, but {files.weights} takes texts of 3 to {longest} tokens"
            )
        self.tokens = self._tokenizer(files.tokenizer, asked)
        if self.tokens.vocabulary > self._config.vocabulary:
            raise InputError(
                f"{files.tokenizer} has {self.tokens.vocabulary} ids with the special ones, but "
                f"{files.weights} embeds {self._config.vocabulary}; expected the tokenizer of its training"
            )
        self.context_length, self.content_length = asked, self.tokens.content_length
        self._weights = weights_digest(self.module)
        self.module = self._placed(self.module)

    @staticmethod
    @abstractmethod
    def _load(files: Any, image_size: int | None) -> Any:
        """The model of the files, in evaluation mode."""

    @staticmethod
    @abstractmethod
    def _tokenizer(path: Path, context_length: int) -> CountedTokens:
        """The tokenizer of the file."""

    @staticmethod
    @abstractmethod
    def _write(folder: Path, model: Any, tokenizer: Path, context_length: int) -> None:
        """Write a checkpoint of the model with its tokenizer."""

    @abstractmethod
    def _image_vectors(self, images: Tensor) -> Tensor:
        """Vectors (n, dim) of normalised pictures (n, 3, h, w)."""

    @abstractmethod
    def _text_vectors(self, text_ids: Tensor, padding: Tensor) -> Tensor:
        """Vectors (n, dim) of token rows (n, length); `padding` is True on pads."""

    @abstractmethod
    def _joint_vectors(self, images: Tensor, hidden: Tensor, text_ids: Tensor, padding: Tensor) -> Tensor:
        """Vectors (n, dim) of pictures with their texts; where `hidden` (n,) is True there is no picture."""

    @property
    def _config(self) -> Any:
        return self.module.config

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, preprocessing, tokenizer and precision; not the place of the
        files."""
        facts = {
            "name": self.family,
            "architecture": dataclasses.asdict(self._config),
            "weights": f"sha256:{self._weights}",
            "preprocessing": {
                "size": [self._config.image_size] * 2,
                "resize": "squash",
                "interpolation": "bicubic",
                "mean": [MEAN] * 3,
                "std": [STD] * 3,
            },
            "tokenizer": self.tokens.identity,
            "context_length": self.context_length,
        }
        return self._identity(facts)

    @property
    def transform(self) -> ImageTransform:
        return squashed(self._config.image_size)

    def image_vectors(self, pixels: Tensor) -> Tensor:
        with self.precise():
            return self._rows(self._image_vectors(self.images(pixels)))

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        with self.precise():
            return self._rows(self._text_vectors(*self.texts(windows)))

    def joint_vectors(self, pixels: Tensor, hidden: Tensor, windows: Sequence[Sequence[int]]) -> Tensor:
        """Rows (n, dim), differentiable, of pictures (n, 3, h, w) uint8 and texts in one pass; where `hidden`
        (n,) is True there is no picture, and an empty window is no text."""
        with self.precise():
            texts = self.texts(windows)
            return self._rows(self._joint_vectors(self.images(pixels), hidden.to(self.device), *texts))

    @torch.inference_mode()
    def encode_joint(
        self, pixels: Sequence[np.ndarray | None], windows: Sequence[Sequence[int] | None]
    ) -> np.ndarray:
        """Rows of a picture and a text in one pass; a text that is None is its start and end alone."""
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        nothing = np.zeros((3, self._config.image_size, self._config.image_size), np.uint8)
        images = np.stack([nothing if image is None else image for image in pixels])
        hidden = torch.tensor([image is None for image in pixels])  # (n,)
        texts = [() if window is None else window for window in windows]
        return self.joint_vectors(torch.from_numpy(images), hidden, texts).float().cpu().numpy()

    def _save(self, folder: Path) -> str:
        self._write(folder, self.module, self._files.tokenizer, self.context_length)
        return f"{self.family}:{folder}"

    def images(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) uint8 as the module takes them."""
        return normalised(pixels.to(self.device)).to(next(self.module.parameters()).dtype)


def squashed(side: int) -> ImageTransform:
    """The whole image as a square."""
    return ImageTransform((side, side), "squash")


def normalised(pixels: Tensor) -> Tensor:
    """uint8 pixels as the float32 ones that the model takes."""
    return (pixels.float() / 255 - MEAN) / STD
