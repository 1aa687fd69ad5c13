"""Encoders of the open_clip family: CLIP, SigLIP, EVA-CLIP, CoCa and whatever else open_clip builds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ..decoding.transform import ImageTransform
from .checkpoints import Checkpoint, build_model, weights_digest, write_checkpoint
from .positions import stretch_context
from .text_tower import is_causal, pooled_text
from .tokens import HuggingFaceTokens, load_tokens
from .torch_encoder import TorchImages, TorchTexts


class OpenClipEncoder(TorchImages, TorchTexts):
    """A model of open_clip with the exact preprocessing of its checkpoint.

    `context_length` past the checkpoint's stretches its text positions. If `trainable`, the module is that of
    the checkpoint, into which no normalisation is folded.
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
        super().__init__(precision, device, normalise, trainable)
        self._checkpoint = checkpoint
        self.tokens = load_tokens(
            checkpoint.architecture, checkpoint.model_cfg, checkpoint.weights.parent, context_length
        )
        self.context_length = self.tokens.context_length
        self.content_length = self.tokens.content_length

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
        self.module = self._placed(model)

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, preprocessing, tokenizer and precision; not the place of the file,
        nor the device: moving either must not make stored vectors look foreign."""
        preprocessing = self._preprocessing
        facts = {
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
            "tokenizer": self.tokens.identity,
            "context_length": self.context_length,
        }
        return self._identity(facts)

    def image_vectors(self, pixels: Tensor) -> Tensor:
        images = pixels.to(self.device)  # 0..255 is exact in bf16
        if not self._folded:
            images = (images.float() - self._mean) / self._std
        images = images.to(next(self.module.parameters()).dtype)
        with self.precise():
            return self._rows(self.module.encode_image(images))

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Rows (n, dim), differentiable, of token windows, none longer than `content_length`.

        They are padded to the longest window where that is exact, else to the whole context.
        """
        ids, _ = self.texts(windows, None if self._causal else self.context_length)
        with self.precise():
            encode = partial(pooled_text, self.module) if self._causal else self.module.encode_text
            return self._rows(encode(ids))

    def _save(self, folder: Path) -> str:
        write_checkpoint(folder, self._checkpoint, self.module, self.context_length)
        if isinstance(self.tokens, HuggingFaceTokens):
            self.tokens.save(folder)
        return f"open_clip:{self._checkpoint.architecture}/{folder}"


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
