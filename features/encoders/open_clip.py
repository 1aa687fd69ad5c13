"""Encoders of the open_clip family: CLIP, SigLIP, EVA-CLIP, CoCa and whatever else open_clip builds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..decoding.transform import ImageTransform
from ..errors import InputError
from .checkpoints import Checkpoint, build_model, weights_digest, write_checkpoint
from .depths import layer_depths
from .positions import stretch_context
from .rows import at_least_float32, unit_rows
from .text_tower import is_causal, pooled_text
from .tokens import HuggingFaceTokens, load_tokens

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class OpenClipEncoder:
    """A model of open_clip with the exact preprocessing of its checkpoint.

    bf16 casts the weights once (autocast would cast them on every call); vectors come back as float32.
    `context_length` past the checkpoint's stretches its text positions; without `normalise` vectors keep the
    norms that the model gives them. If `trainable`, the module is that of the checkpoint, in float32, and
    bf16 is autocast.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: str = "fp32",
        device: str = "auto",
        context_length: int | None = None,
        normalise: bool = True,
        trainable: bool = False,
    ) -> None:
        self.device = pick_device(device)
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        self._precision, self._trainable = precision, trainable
        self._checkpoint, self._normalise = checkpoint, normalise
        self._tokens = load_tokens(
            checkpoint.architecture, checkpoint.model_cfg, checkpoint.weights.parent, context_length
        )
        self.context_length = self._tokens.context_length
        self.content_length = self._tokens.content_length

        model: Any = build_model(checkpoint)
        self.dim: int = checkpoint.model_cfg["embed_dim"]
        self._weights = weights_digest(model)
        if context_length is not None:
            stretch_context(model, context_length)
        self._preprocessing = PreprocessCfg(size=model.visual.image_size, **checkpoint.preprocess)
        self.transform = _transform(self._preprocessing)
        self._causal = is_causal(model)
        self._folded = not trainable and _fold_normalisation(model.visual, self._preprocessing)
        self._mean = torch.tensor(self._preprocessing.mean, device=self.device).view(3, 1, 1) * 255
        self._std = torch.tensor(self._preprocessing.std, device=self.device).view(3, 1, 1) * 255
        dtype = torch.float32 if trainable else PRECISIONS[precision]
        self.module: Any = model.to(device=self.device, dtype=dtype)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, preprocessing, tokenizer and precision; not the place of the file,
        nor the device: moving either must not make stored vectors look foreign."""
        preprocessing = self._preprocessing
        identity = {
            "name": f"open_clip:{self._checkpoint.architecture}",
            "architecture": self._checkpoint.model_cfg,
            "weights": f"sha256:{self._weights}",
            "preprocessing": {
                "size": _pair(preprocessing.size),
                "resize": preprocessing.resize_mode,
                "interpolation": preprocessing.interpolation,
                "fill": preprocessing.fill_color,
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
            },
            "tokenizer": self._tokens.identity,
            "context_length": self.context_length,
            "dim": self.dim,
            "precision": self._precision,
        }
        return identity if self._normalise else {**identity, "normalised": False}

    def image_vectors(self, pixels: Tensor) -> Tensor:
        """Rows (n, dim), differentiable, of transformed images (n, 3, h, w) uint8."""
        images = pixels.to(self.device)  # 0..255 is exact in bf16
        if not self._folded:
            images = (images.float() - self._mean) / self._std
        images = images.to(next(self.module.parameters()).dtype)
        # fp32 means fp32 in the patch convolution too
        with torch.backends.cudnn.flags(allow_tf32=False), self._autocast():
            return self._rows(self.module.encode_image(images))

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        if not len(pixels):
            return np.empty((0, self.dim), dtype=np.float32)
        return self.image_vectors(torch.from_numpy(np.stack(pixels))).float().cpu().numpy()

    def tokenize(self, text: str) -> list[int]:
        return self._tokens.content(text)

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Rows (n, dim), differentiable, of token windows, none longer than `content_length`.

        They are padded to the longest window where that is exact, else to the whole context.
        """
        longest = max(len(window) for window in windows)
        if longest > self.content_length:
            raise ValueError(
                f"a window of {longest} tokens; this encoder takes {self.content_length} at most"
            )
        rows = [self._tokens.row(window) for window in windows]
        width = max(map(len, rows)) if self._causal else self.context_length
        padded = torch.full((len(rows), width), self._tokens.pad_id)
        for row, ids in zip(padded, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        padded = padded.to(self.device)  # (n, width)
        with self._autocast():
            encode = partial(pooled_text, self.module) if self._causal else self.module.encode_text
            return self._rows(encode(padded))

    @torch.inference_mode()
    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        if not len(windows):
            return np.empty((0, self.dim), dtype=np.float32)
        return self.text_vectors(windows).float().cpu().numpy()

    def layers(self) -> dict[str, int]:
        """Depth of every parameter, as `layer_depths` counts it."""
        return layer_depths(name for name, _ in self.module.named_parameters())

    def save(self, folder: Path) -> str:
        """Write a checkpoint with its config and tokenizer; the name that loads it comes back.

        Raises ValueError for an encoder that was not loaded to be trained.
        """
        if not self._trainable:
            raise ValueError("only an encoder that was loaded to be trained has its checkpoint's parameters")
        write_checkpoint(folder, self._checkpoint, self.module, self.context_length)
        if isinstance(self._tokens, HuggingFaceTokens):
            self._tokens.save(folder)
        return f"open_clip:{self._checkpoint.architecture}/{folder}"

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self._trainable and self._precision == "bf16"
        )

    def _rows(self, vectors: Tensor) -> Tensor:
        return unit_rows(vectors) if self._normalise else at_least_float32(vectors)


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


def _transform(preprocessing: PreprocessCfg) -> ImageTransform:
    """open_clip's own preprocessing for inference, but for the normalisation."""
    height, width = _pair(preprocessing.size)
    resize: Any = preprocessing.resize_mode
    by_ratio = resize == "shortest" and height != width  # there open_clip is deaf to the interpolation
    linear = preprocessing.interpolation == "bilinear" and not by_ratio
    red = green = blue = preprocessing.fill_color if resize == "longest" else 0
    return ImageTransform(
        (height, width), resize, "bilinear" if linear else "bicubic", fill=(red, green, blue)
    )


def _fold_normalisation(visual: nn.Module, preprocessing: PreprocessCfg) -> bool:
    """Let the patch convolution take pixels of 0..255: conv((x / 255 - mean) / std) is linear in x.

    Done for open_clip's own ViT, whose patch convolution does not pad; elsewhere padding with zeros before
    and after normalisation differ, so nothing is done and False comes back.
    """
    if not isinstance(visual, VisionTransformer):
        return False
    plain: Any = visual.conv1
    mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, dtype=torch.float64).view(3, 1, 1)
    weight = plain.weight.double() / std  # (width, 3, p, p)
    folded = nn.Conv2d(3, plain.out_channels, plain.kernel_size, plain.stride, bias=True)
    folded.weight = nn.Parameter((weight / 255).float(), requires_grad=False)
    folded.bias = nn.Parameter(-(weight * mean).sum(dim=(1, 2, 3)).float(), requires_grad=False)
    visual.conv1 = folded
    return True


def _pair(size: int | Sequence[int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)
