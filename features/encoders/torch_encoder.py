"""What all encoders that torch computes do alike: where and how exactly, in batches, and saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .depths import layer_depths
from .rows import at_least_float32, unit_rows
from .tokens import Tokens

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchEncoder(ABC):
    """A `module` on a device. bf16 casts its weights once (autocast would cast them on every call); if
    `trainable` it stays in float32 and bf16 is autocast. Vectors come back in float32 at least, of unit
    length if `normalise`.

    Raises InputError for a precision or a device that there is not.
    """

    module: Any
    dim: int

    def __init__(self, precision: str, device: str, normalise: bool, trainable: bool) -> None:
        self.device = pick_device(device)
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        self._precision, self._normalise, self._trainable = precision, normalise, trainable

    def _placed(self, model: Any) -> Any:
        """The model where and as it is computed."""
        dtype = torch.float32 if self._trainable else PRECISIONS[self._precision]
        return model.to(device=self.device, dtype=dtype)

    def _identity(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The facts with those that every encoder has."""
        identity = {**facts, "dim": self.dim, "precision": self._precision}
        return identity if self._normalise else {**identity, "normalised": False}

    def layers(self) -> dict[str, int]:
        """Depth of every parameter, as `layer_depths` counts it."""
        return layer_depths(name for name, _ in self.module.named_parameters())

    def save(self, folder: Path) -> str:
        """Write a checkpoint with all that it takes to load it; the name that loads it comes back.

        Raises ValueError for an encoder that was not loaded to be trained.
        """
        if not self._trainable:
            raise ValueError("only an encoder that was loaded to be trained has its checkpoint's parameters")
        return self._save(folder)

    @abstractmethod
    def _save(self, folder: Path) -> str: ...

    @contextmanager
    def precise(self) -> Iterator[None]:
        """The precision that was asked for; fp32 means fp32 in convolutions too."""
        cudnn: Any = torch.backends.cudnn
        exact = cudnn.flags(
            cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
        )
        enabled = self._trainable and self._precision == "bf16"
        with exact, torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            yield

    def _rows(self, vectors: Tensor) -> Tensor:
        return unit_rows(vectors) if self._normalise else at_least_float32(vectors)


class TorchImages(TorchEncoder):
    """One that reads images."""

    @abstractmethod
    def image_vectors(self, pixels: Tensor) -> Tensor:
        """Rows (n, dim), differentiable, of transformed images (n, 3, h, w) uint8."""

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        return self.image_vectors(self._batch(pixels)).float().cpu().numpy()

    def _batch(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """The images as one array, in memory that a GPU fetches from without a copy in between."""
        batch = torch.empty(
            (len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        )
        np.stack(pixels, out=batch.numpy())
        return batch


class TorchTexts(TorchEncoder):
    """One that reads texts, by `tokens`."""

    tokens: Any  # a `Tokens`, of some kind
    content_length: int

    @abstractmethod
    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Rows (n, dim), differentiable, of token windows, none longer than `content_length`."""

    def tokenize(self, text: str) -> list[int]:
        return self.tokens.content(text)

    @torch.inference_mode()
    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        if not len(windows):
            return np.empty((0, self.dim), dtype=np.float32)
        return self.text_vectors(windows).float().cpu().numpy()

    def texts(self, windows: Sequence[Sequence[int]], width: int | None = None) -> tuple[Tensor, Tensor]:
        """`padded_rows` on the device; ValueError for a window that is too long."""
        longest = max(len(window) for window in windows)
        if longest > self.content_length:
            raise ValueError(
                f"a window of {longest} tokens; this encoder takes {self.content_length} at most"
            )
        ids, padding = padded_rows(self.tokens, windows, width)
        return ids.to(self.device), padding.to(self.device)


def padded_rows(
    tokens: Tokens, windows: Sequence[Sequence[int]], width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Ids and padding, (n, width), of windows of tokens between their special ones, padded to the longest
    unless a width is given; `padding` is True on pads."""
    rows = [tokens.row(window) for window in windows]
    ids = torch.full((len(rows), width or max(map(len, rows))), tokens.pad_id)
    padding = torch.ones_like(ids, dtype=torch.bool)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        padding[number, : len(row)] = False
    return ids, padding


def pick_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "cuda:N"; raises `InputError` where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device '{name}' is not one of auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device '{name}' is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device '{name}' was asked for, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "use auto or cpu."
        )
    return device
