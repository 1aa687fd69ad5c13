"""Encoders that are trained: extraction's own forward passes, with gradients, and a way back to the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor, nn

from ..decoding.transform import ImageTransform
from ..errors import InputError
from .depths import layer_depths
from .low_rank import add_adapters
from .names import reads_images, reads_texts
from .registry import build_encoder, require_both

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


@dataclass(frozen=True, slots=True)
class Training:
    """What of an encoder is trained.

    "full" trains all parameters, "last-layers" the last so many layers of each tower and what comes after,
    "lora" adapters of that rank, drawn from the seed, beside the matrices of all linear and attention layers.
    Parameters are float32; bf16 is autocast.
    """

    method: Method = "full"
    last_layers: int = 2
    lora_rank: int = 8
    precision: str = "fp32"
    seed: int = 0


WHOLE = Training()


def load_trainable(
    name: str,
    training: Training = WHOLE,
    device: str = "auto",
    normalise: bool = True,
    context_length: int | None = None,
    image_size: int | None = None,
) -> TrainableEncoder:
    """The encoder of that name, as `load_encoder` takes it, with parameters to train.

    Raises what `load_encoder` and `choose_trained` raise.
    """
    require_both(name)
    return _load(name, training, device, normalise, context_length, image_size)


def load_trainable_images(
    name: str,
    training: Training = WHOLE,
    device: str = "auto",
    normalise: bool = True,
    context_length: int | None = None,
    image_size: int | None = None,
) -> TrainableImages:
    """The same as `load_image_encoder` takes it: it may read images alone."""
    if reads_texts(name):
        return load_trainable(name, training, device, normalise, context_length, image_size)
    return _load(name, training, device, normalise, context_length, image_size)


def load_trainable_texts(
    name: str,
    training: Training = WHOLE,
    device: str = "auto",
    normalise: bool = True,
    context_length: int | None = None,
) -> TrainableTexts:
    """The same as `load_text_encoder` takes it: it may read texts alone."""
    if reads_images(name):
        return load_trainable(name, training, device, normalise, context_length)
    return _load(name, training, device, normalise, context_length, None)


def _load(
    name: str,
    training: Training,
    device: str,
    normalise: bool,
    context_length: int | None,
    image_size: int | None,
) -> Any:
    encoder = build_encoder(
        name, training.precision, device, context_length, normalise, image_size, trainable=True
    )
    choose_trained(encoder.module, training)
    return encoder


def choose_trained(module: nn.Module, training: Training) -> None:
    """Mark what is trained, and add adapters where it asks for some; the contrastive temperatures always are.

    Raises InputError where the module has no layers to choose from, or none to adapt.
    """
    method, depths = training.method, layer_depths(name for name, _ in module.named_parameters())
    deepest = max(depths.values())
    if method != "full" and deepest <= 1:
        raise InputError(f'method "{method}": this encoder has no layers that can be told apart; use "full"')
    if method == "lora" and not add_adapters(
        module, training.lora_rank, training.seed, lambda name: depths[name] < deepest
    ):
        raise InputError(
            'method "lora": this encoder has no linear layers to adapt; use "last-layers" or "full"'
        )
    for name, parameter in module.named_parameters():
        if method == "lora":
            parameter.requires_grad_(".parametrizations." in name and not name.endswith(".original"))
        else:
            parameter.requires_grad_(method == "full" or depths[name] <= training.last_layers)
        if name in TEMPERATURES:
            parameter.requires_grad_(True)
