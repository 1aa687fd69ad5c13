"""Image models of timm as encoders of images alone: pooled features of pictures prepared as in training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor

from ..decoding.transform import INTERPOLATIONS, ImageTransform
from ..errors import InputError
from .checkpoints import weights_digest
from .timm_checkpoint import load_timm, write_timm
from .torch_encoder import TorchImages


class TimmEncoder(TorchImages):
    """A model of timm, named as `load_timm` takes it; `image_size` is another side of the square picture."""

    def __init__(
        self,
        name: str,
        precision: str = "fp32",
        device: str = "auto",
        normalise: bool = True,
        image_size: int | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__(precision, device, normalise, trainable)
        model, self._options = load_timm(name, image_size)
        self.architecture = name.partition("/")[0].partition(".")[0]
        self.dim = model.head_hidden_size
        size = {} if image_size is None else {"img_size": image_size}
        self._preprocessing: dict[str, Any] = resolve_model_data_config(model, args=size)
        channels = self._preprocessing["input_size"][0]
        if channels != 3:
            raise InputError(f"timm's {self.architecture} takes pictures of {channels} channels; expected 3")
        self.transform = _transform(self.architecture, self._preprocessing)
        self._mean, self._std = (
            torch.tensor(self._preprocessing[key], device=self.device).view(3, 1, 1) * 255
            for key in ("mean", "std")
        )
        self._weights = weights_digest(model)
        self.module = self._placed(model)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, preprocessing and precision; not the place of the files."""
        preprocessing = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self._preprocessing.items()
        }
        facts = {
            "name": f"timm:{self.architecture}",
            "weights": f"sha256:{self._weights}",
            "options": self._options,
            "preprocessing": preprocessing,
        }
        return self._identity(facts)

    def image_vectors(self, pixels: Tensor) -> Tensor:
        images = (pixels.to(self.device).float() - self._mean) / self._std
        with self.precise():
            return self._rows(self.module(images.to(next(self.module.parameters()).dtype)))

    def _save(self, folder: Path) -> str:
        write_timm(folder, self.architecture, self.module, self._options, self._preprocessing)
        return f"timm:{self.architecture}/{folder}"


def _transform(architecture: str, preprocessing: Mapping[str, Any]) -> ImageTransform:
    """timm's own preprocessing for inference, but for the normalisation.

    Raises InputError for a random interpolation: the same picture would have other pixels every time.
    """
    interpolation = preprocessing["interpolation"]
    if interpolation not in INTERPOLATIONS:
        raise InputError(
            f"timm's {architecture} resizes by '{interpolation}'; expected one of {', '.join(INTERPOLATIONS)}"
        )
    _, height, width = preprocessing["input_size"]
    share, mode = preprocessing["crop_pct"], preprocessing["crop_mode"]
    aim = math.floor(height / share), math.floor(width / share)
    if mode == "squash":
        return ImageTransform((height, width), "squash", interpolation, aim)
    if mode == "border":  # padded with the colour that normalisation takes for none
        red, green, blue = (round(255 * value) for value in preprocessing["mean"])
        return ImageTransform((height, width), "longest", interpolation, aim, (red, green, blue))
    return ImageTransform((height, width), "shortest", interpolation, aim)
