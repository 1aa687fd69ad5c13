"""Encoders that are trained: extraction's own forward passes, with gradients, and a way back to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from ..decoding.transform import ImageTransform
from ..errors import InputError
from .depths import layer_depths
from .low_rank import add_adapters
from .registry import build_encoder

Method = Literal["full", "lora", "last-layers"]
TEMPERATURES = ("logit_scale", "logit_vl_scale", "logit_bias")  # of contrastive training, trained always


class Trainable(Protocol):
    """What all encoders with gradients have. The module is in evaluation mode unless told otherwise."""

    @property
    def module(self) -> nn.Module:
        """All parameters; `requires_grad` marks those that are trained. May be cast to float64."""
        ...

    dim: int

    @property
    def identity(self) -> dict[str, Any]:
        """The encoder as it was loaded, before any training."""
        ...

    def layers(self) -> dict[str, int]:
        """Depth of every parameter of `module`, as `layer_depths` counts it: 0 for what is nearest to the
        vectors."""
        ...

    def save(self, folder: Path) -> str:
        """Write a checkpoint with adapters merged; the `[extract] encoder` that loads it comes back."""
        ...


class TrainableImages(Trainable, Protocol):
    """An `ImageEncoder` whose vectors carry gradients."""

    @property
    def transform(self) -> ImageTransform: ...

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray: ...

    def image_vectors(self, pixels: Tensor) -> Tensor:
        """Rows (n, dim) of transformed images (n, 3, h, w) uint8; unit rows if it was loaded so."""
        ...


class TrainableTexts(Trainable, Protocol):
    """A `TextEncoder` whose vectors carry gradients."""

    context_length: int
    content_length: int

    def tokenize(self, text: str) -> list[int]: ...

    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray: ...

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Rows (n, dim) of token windows, none longer than `content_length`."""
        ...


class TrainableEncoder(TrainableImages, TrainableTexts, Protocol):
    """An `Encoder` whose vectors carry gradients."""


def load_trainable(
    name: str,
    method: Method = "full",
    last_layers: int = 2,
    lora_rank: int = 8,
    precision: str = "fp32",
    device: str = "auto",
    normalise: bool = True,
    context_length: int | None = None,
    image_size: int | None = None,
    seed: int = 0,
) -> TrainableEncoder:
    """The encoder of that name, as `load_encoder` takes it, with parameters to train.

    "full" trains all of them, "last-layers" the last so many layers of each tower and what comes after,
    "lora" adapters of that rank, drawn from the seed, beside the matrices of all linear and attention layers.
    Parameters are float32; bf16 is autocast. An encoder of images or of texts alone has the methods for these
    only. Raises what `load_encoder` raises.
    """
    encoder: TrainableEncoder = build_encoder(
        name, precision, device, context_length, normalise, image_size, trainable=True
    )
    choose_trained(encoder.module, method, last_layers, lora_rank, seed)
    return encoder


def choose_trained(module: nn.Module, method: Method, last_layers: int, lora_rank: int, seed: int) -> None:
    """Mark what `method` trains, and add its adapters; the contrastive temperatures are trained by each.

    Raises InputError where the module has no layers to choose from, or none to adapt.
    """
    depths = layer_depths(name for name, _ in module.named_parameters())
    deepest = max(depths.values())
    if method != "full" and deepest <= 1:
        raise InputError(f'method "{method}": this encoder has no layers that can be told apart; use "full"')
    if method == "lora" and not add_adapters(module, lora_rank, seed, lambda name: depths[name] < deepest):
        raise InputError(
            'method "lora": this encoder has no linear layers to adapt; use "last-layers" or "full"'
        )
    for name, parameter in module.named_parameters():
        if method == "lora":
            parameter.requires_grad_(".parametrizations." in name and not name.endswith(".original"))
        else:
            parameter.requires_grad_(method == "full" or depths[name] <= last_layers)
        if name in TEMPERATURES:
            parameter.requires_grad_(True)
