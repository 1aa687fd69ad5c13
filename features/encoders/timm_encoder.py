"""Image models of timm as encoders of images alone: pooled features of pictures prepared as in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor

from ..decoding.transform import INTERPOLATIONS, ImageTransform
from ..errors import InputError
from .checkpoints import weights_digest
from .depths import layer_depths
from .open_clip import PRECISIONS, pick_device
from .rows import at_least_float32, unit_rows
from .timm_checkpoint import load_timm, write_timm


class TimmEncoder:
    """A model of timm, named as `load_timm` takes it; `ImageEncoder` says what its methods give.

    bf16 casts the weights once. `image_size` is another side of the square picture. If `trainable`, the
    module stays in float32 and bf16 is autocast.
    """

    def __init__(
        self,
        name: str,
        precision: str = "fp32",
        device: str = "auto",
        normalise: bool = True,
        image_size: int | None = None,
        trainable: bool = False,
    ) -> None:
        self.device = pick_device(device)
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        self._precision, self._normalise, self._trainable = precision, normalise, trainable
        model, self._options = load_timm(name, image_size)
        self.architecture = name.partition("/")[0].partition(".")[0]
        self.dim: int = model.head_hidden_size
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
        dtype = torch.float32 if trainable else PRECISIONS[precision]
        self.module: Any = model.to(device=self.device, dtype=dtype)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, preprocessing and precision; not the place of the files."""
        preprocessing = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self._preprocessing.items()
        }
        identity = {
            "name": f"timm:{self.architecture}",
            "weights": f"sha256:{self._weights}",
            "options": self._options,
            "preprocessing": preprocessing,
            "dim": self.dim,
            "precision": self._precision,
        }
        return identity if self._normalise else {**identity, "normalised": False}

    def image_vectors(self, pixels: Tensor) -> Tensor:
        """Rows (n, dim), differentiable, of transformed images (n, 3, h, w) uint8."""
        images = (pixels.to(self.device).float() - self._mean) / self._std
        enabled = self._trainable and self._precision == "bf16"
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
        # fp32 means fp32 in convolutions too
        with torch.backends.cudnn.flags(allow_tf32=False), autocast:
            vectors = self.module(images.to(next(self.module.parameters()).dtype))
        return unit_rows(vectors) if self._normalise else at_least_float32(vectors)

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        return self.image_vectors(torch.from_numpy(np.stack(pixels))).float().cpu().numpy()

    def layers(self) -> dict[str, int]:
        """Depth of every parameter, as `layer_depths` counts it."""
        return layer_depths(name for name, _ in self.module.named_parameters())

    def save(self, folder: Path) -> str:
        """Write a checkpoint with its preprocessing; the name that loads it comes back.

        Raises ValueError for an encoder that was not loaded to be trained.
        """
        if not self._trainable:
            raise ValueError("only an encoder that was loaded to be trained has its checkpoint's parameters")
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
