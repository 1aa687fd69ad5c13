"""Fine-tuning two towers: which text belongs to which image (CLIP's loss), duplicates left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.trainable import TEMPERATURES, TrainableEncoder
from ..errors import InputError
from ..pretraining.contrast import Gather, shared_contrast
from ..pretraining.items import Items
from ..pretraining.retrieval import retrieval
from .config import FinetuneConfig
from .gradient_cache import GradientCache
from .pairs import PairBatch, draw_boxes

LARGEST_SCALE = math.log(100)  # of a contrastive temperature's logarithm, as CLIP clamps it
_NORMS = nn.modules.batchnorm._BatchNorm


class ContrastiveTask:
    """The symmetric InfoNCE of all pairs of a batch (Radford et al., ICML 2021); a `Task` of the loop."""

    name = "finetune"
    kinds = 2  # vectors that a pair has: of its image and of its text

    def __init__(self, encoder: TrainableEncoder, items: Items, config: FinetuneConfig) -> None:
        self.encoder, self.items, self.schedule = encoder, items, config
        self._whole = np.array([[0.0, 0.0, 1.0, 1.0]])
        if not hasattr(self.module, TEMPERATURES[0]):
            raise InputError(
                f"finetune.start: '{config.start}' has no heads of contrastive training; expected a CLIP, a "
                "VLMo, or a BEiT-3 with heads for retrieval, such as mmrec align makes"
            )

    @property
    def module(self) -> nn.Module:
        return self.encoder.module

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def weights(self) -> Mapping[str, float]:
        return {"contrastive": self.schedule.objectives.contrastive}

    def groups(self) -> list[dict[str, Any]]:
        """A group for each depth, by whose distance from the vectors its learning rate decays."""
        config, depths = self.schedule, self.encoder.layers()
        decaying = {id(p) for p in self.module.parameters() if p.dim() >= 2}
        groups: dict[tuple[int, bool], list[Tensor]] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((depths[name], id(parameter) in decaying), []).append(parameter)
        return [
            {
                "params": parameters,
                "rate": config.layer_decay**depth,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (depth, decays), parameters in groups.items()
        ]

    def begin(self) -> None:
        """Training mode but for batch norms: few pairs say less of a mean than all that is behind it."""
        self.module.train()
        for module in self.module.modules():
            if isinstance(module, _NORMS):
                module.eval()

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> PairBatch:
        crop = self.schedule.crop if self.module.training else 0.0
        none = np.empty(0, np.int64)
        return PairBatch(
            rows, draw_boxes(rng, len(rows), crop), [none] * len(rows), rng.random((len(rows), 2))
        )

    def totals(self, batch: PairBatch) -> dict[str, int]:
        return {"contrastive": len(batch)}

    def losses(
        self, batch: PairBatch, own: slice, totals: dict[str, int], gather: Gather
    ) -> Iterator[dict[str, Tensor]]:
        for loss in self._contrast(batch, own, gather):
            yield {"contrastive": loss / totals["contrastive"]}

    def settle(self) -> None:
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                if name in TEMPERATURES[:2]:
                    parameter.clamp_(max=LARGEST_SCALE)

    def retrieval(self, rows: np.ndarray) -> dict[str, float]:
        def vectors(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
            images, texts, *_ = self._encode(chosen, self._whole.repeat(len(chosen), axis=0)).unbind(dim=1)
            return images, texts

        size = self.schedule.micro_batch or self.schedule.batch_size
        return retrieval(vectors, self.items, rows, size)

    def badness(self, measured: Mapping[str, Any]) -> float:
        """Minus the sum of all recalls: finer than one of them where few pairs are measured on."""
        return -sum(value for name, value in measured["retrieval"].items() if "recall" in name)

    def _contrast(self, batch: PairBatch, own: slice, gather: Gather) -> Iterator[Tensor]:
        """This process's share of the loss, a sum over pairs; if there is a graph to follow and less memory
        than pairs, in several terms whose gradients add up to it, all but the first of value 0."""
        places = torch.arange(len(batch), device=self.device)[own]
        same = torch.from_numpy(self.items.same(batch.rows, batch.rows)).to(self.device)
        mine = batch.part(own)
        piece = self.schedule.micro_batch or len(mine)
        if not len(mine):
            nothing = torch.zeros(0, self.kinds, self.encoder.dim, device=self.device)
            yield self._loss(nothing, places, same, gather)
            return

        def encode(chosen: np.ndarray) -> Tensor:
            return self._encode(mine.rows[chosen], mine.boxes[chosen])

        cache = GradientCache(encode, np.arange(len(mine)), piece)
        if not torch.is_grad_enabled():
            yield self._loss(cache.vectors(), places, same, gather)
        elif piece >= len(mine):
            yield self._loss(encode(np.arange(len(mine))), places, same, gather)
        else:
            vectors = cache.vectors().requires_grad_()
            loss = self._loss(vectors, places, same, gather)
            (gradient,) = torch.autograd.grad(loss, [vectors], retain_graph=True)
            yield loss  # the vectors are leaves: this reaches the temperatures alone
            for surrogate in cache.surrogates(gradient):
                yield surrogate - surrogate.detach()

    def _loss(self, vectors: Tensor, places: Tensor, same: Tensor, gather: Gather) -> Tensor:
        images, texts = vectors.unbind(dim=1)
        return shared_contrast((images, texts), places, same, self._scale(TEMPERATURES[0]), gather)[0]

    def _scale(self, name: str) -> Tensor:
        scale = getattr(self.module, name)
        assert isinstance(scale, Tensor)
        return scale.exp()

    def _encode(self, rows: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Unit rows of the images and of the texts, (n, kinds, d)."""
        images = self.encoder.image_vectors(self._pixels(rows, boxes))
        texts = self.encoder.text_vectors([self.items.tokens[row] for row in rows])
        return torch.stack([images, texts], dim=1)

    def _pixels(self, rows: np.ndarray, boxes: np.ndarray) -> Tensor:
        """What the boxes leave of the images, uint8, at the whole images' size."""
        pixels = torch.from_numpy(np.asarray(self.items.pixels[rows])).to(self.device)
        if np.array_equal(boxes, self._whole.repeat(len(boxes), axis=0)):
            return pixels
        left, top, right, bottom = torch.from_numpy(boxes).float().to(self.device).T
        nothing = torch.zeros_like(left)
        # Of a grid from -1 to 1: scale by the box's size, move to its centre.
        across = torch.stack([right - left, nothing, left + right - 1], dim=1)
        down = torch.stack([nothing, bottom - top, top + bottom - 1], dim=1)
        grid = F.affine_grid(torch.stack([across, down], dim=1), list(pixels.shape), align_corners=False)
        seen = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=False)
        return seen.round().to(torch.uint8)
