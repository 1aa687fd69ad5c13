"""Fine-tuning a VLMo: contrast, matching with hard negatives, and hidden words (Bao et al., NeurIPS 2022)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.rows import unit_rows
from ..encoders.trainable import TEMPERATURES
from ..encoders.vlmo import VlmoEncoder
from ..encoders.vlmo_model import Vlmo
from ..encoders.word_pieces import WordPieces
from ..pretraining.contrast import Gather, shared_contrast
from ..pretraining.items import Items
from .config import FinetuneConfig, LossWeights
from .contrastive import ContrastiveTask
from .pairs import PairBatch, hide_words

log = logging.getLogger(__name__)


class VlmoTask(ContrastiveTask):
    """The weighted sum of three losses, each a mean over its predictions.

    contrastive: the mean of InfoNCE by the experts of each modality and, where there are layers with experts
    of both, by these. matching: cross entropy over each pair, each text with a hard negative image and each
    image with a hard negative text, drawn by the softmax of the contrastive logits. mlm: cross entropy of
    hidden words; the image is shown.
    """

    encoder: VlmoEncoder

    def __init__(self, encoder: VlmoEncoder, items: Items, config: FinetuneConfig) -> None:
        super().__init__(encoder, items, config)
        self.encoder = encoder
        self.kinds = 4 if encoder.module.config.vl_itc_heads else 2

    @property
    def weights(self) -> Mapping[str, float]:
        return self.schedule.objectives.model_dump()

    def draw(self, rows: np.ndarray, rng: np.random.Generator) -> PairBatch:
        batch = super().draw(rows, rng)
        pieces: WordPieces = self.encoder.tokens
        words = [pieces.words(self.items.tokens[row]) for row in rows]
        hidden = [hide_words(rng, found, self.schedule.text_mask) for found in words]
        return dataclasses.replace(batch, hidden=hidden)

    def totals(self, batch: PairBatch) -> dict[str, int]:
        others = (~self.items.same(batch.rows, batch.rows)).any(axis=1).sum()
        counts = {
            "contrastive": len(batch),
            "matching": len(batch) + 2 * int(others),
            "mlm": sum(map(len, batch.hidden)),
        }
        return {name: count for name, count in counts.items() if self.weights[name] and count}

    def losses(
        self, batch: PairBatch, own: slice, totals: dict[str, int], gather: Gather
    ) -> Iterator[dict[str, Tensor]]:
        if "contrastive" in totals:
            yield from super().losses(batch, own, totals, gather)
        if "matching" in totals:
            for loss in self._match(batch, own, gather):
                yield {"matching": loss / totals["matching"]}
        if "mlm" in totals:
            for part in self._pieces(batch.part(own)):
                yield {"mlm": self._mask(part) / totals["mlm"]}

    def _loss(self, vectors: Tensor, places: Tensor, same: Tensor, gather: Gather) -> Tensor:
        sides = vectors.unbind(dim=1)
        pairs = [(sides[0], sides[1]), (sides[2], sides[3])] if self.kinds == 4 else [(sides[0], sides[1])]
        losses = [
            shared_contrast(pair, places, same, self._scale(name), gather)[0]
            for pair, name in zip(pairs, TEMPERATURES, strict=False)
        ]
        return torch.stack(losses).mean()

    def _encode(self, rows: np.ndarray, boxes: np.ndarray) -> Tensor:
        """Unit rows of image and text by their own experts, then by those of both, (n, kinds, d)."""
        if self.kinds == 2:
            return super()._encode(rows, boxes)
        model: Vlmo = self.encoder.module
        with self.encoder.precise():
            image, image_vl = model.branches(self.encoder.images(self._pixels(rows, boxes)))
            ids, padding = self.encoder.texts([self.items.tokens[row] for row in rows])
            text, text_vl = model.branches(text_ids=ids, padding=padding)
            vectors = [
                model.itc_image_proj(image[:, 0]),
                model.itc_text_proj(text[:, 0]),
                model.itc_vl_image_proj(image_vl[:, 0]),
                model.itc_vl_text_proj(text_vl[:, 0]),
            ]
        return torch.stack([unit_rows(rows) for rows in vectors], dim=1)

    def _match(self, batch: PairBatch, own: slice, gather: Gather) -> Iterator[Tensor]:
        """Sums of the matching loss over this process's pairs and their hard negatives, piece by piece."""
        images, texts = self._constants(batch, own, gather)
        logits = self._scale(TEMPERATURES[0]).detach() * images @ texts.T  # (b, b)
        same = torch.from_numpy(self.items.same(batch.rows, batch.rows)).to(self.device)
        draws = torch.from_numpy(batch.draws).to(self.device)
        for_image = hard_negatives(logits, same, draws[:, 0]).cpu().numpy()
        for_text = hard_negatives(logits.T, same, draws[:, 1]).cpu().numpy()
        every = np.arange(len(batch))[own]
        triples = [(image, image, 1) for image in every]
        triples += [(for_text[text], text, 0) for text in every if for_text[text] >= 0]
        triples += [(image, for_image[image], 0) for image in every if for_image[image] >= 0]
        size = self.schedule.micro_batch or max(len(triples), 1)
        for start in range(0, len(triples), size):
            yield self._matched(batch, np.array(triples[start : start + size]))

    def _matched(self, batch: PairBatch, triples: np.ndarray) -> Tensor:
        """Cross entropy, summed, of (place of the image, place of the text, 1 if they are a pair)."""
        images, texts, labels = triples.T
        windows = [self.items.tokens[row] for row in batch.rows[texts]]
        with self.encoder.precise():
            states = self._joint(batch.rows[images], batch.boxes[images], windows)
            scores = self.encoder.module.itm_score(self.encoder.module.pooler(states))
        return F.cross_entropy(scores.float(), torch.from_numpy(labels).to(self.device), reduction="sum")

    def _mask(self, part: PairBatch) -> Tensor:
        """Cross entropy, summed, of the hidden tokens."""
        windows = [list(self.items.tokens[row]) for row in part.rows]
        places = [(n, place) for n, hidden in enumerate(part.hidden) for place in hidden.tolist()]
        targets = [windows[n][place] for n, place in places]
        for n, place in places:
            windows[n][place] = self.encoder.tokens.mask_id
        rows, columns = torch.tensor(places, device=self.device).reshape(-1, 2).T
        with self.encoder.precise():
            states = self._joint(part.rows, part.boxes, windows)
            logits = self.encoder.module.mlm_score(states[rows, columns + 1])  # [CLS] comes first
        chosen = torch.tensor(targets, device=self.device, dtype=torch.int64)
        return F.cross_entropy(logits.float(), chosen, reduction="sum")

    def _joint(self, rows: np.ndarray, boxes: np.ndarray, windows: list) -> Tensor:
        """States (n, tokens, d) of images with texts, the text's first."""
        ids, padding = self.encoder.texts(windows)
        return self.encoder.module(self.encoder.images(self._pixels(rows, boxes)), ids, padding)

    @torch.no_grad()
    def _constants(self, batch: PairBatch, own: slice, gather: Gather) -> tuple[Tensor, Tensor]:
        """Images and texts of the whole batch by their own experts, (b, d)."""
        mine = batch.part(own)
        held = torch.zeros(len(batch), 2, self.encoder.dim, device=self.device)
        if len(mine):
            held[own] = torch.cat([self._encode(p.rows, p.boxes)[:, :2].float() for p in self._pieces(mine)])
        images, texts = gather(held).unbind(dim=1)
        return images, texts

    def _pieces(self, part: PairBatch) -> Iterator[PairBatch]:
        size = self.schedule.micro_batch or max(len(part), 1)
        for start in range(0, len(part), size):
            yield part.part(slice(start, start + size))


def hard_negatives(logits: Tensor, same: Tensor, draws: Tensor) -> Tensor:
    """For each query a key that is not the same, (n,), drawn by the softmax of its logits; -1 if all are.

    `logits` and `same` are (n, n), `draws` (n,) numbers in 0..1 that decide.
    """
    shares = logits.float().softmax(dim=1).masked_fill(same, 0.0)
    shares = torch.where((shares.sum(dim=1) == 0)[:, None], (~same).float(), shares)  # too small for float32
    edges = shares.double().cumsum(dim=1)
    found = torch.searchsorted(edges, draws.double()[:, None] * edges[:, -1:], right=True)[:, 0]
    last = (~same).float().cumsum(dim=1).argmax(dim=1)  # where rounding runs past the end
    return torch.where(same.all(dim=1), -1, torch.minimum(found, last))


def with_heads(model: Vlmo, weights: LossWeights, seed: int) -> tuple[Vlmo, set[str]]:
    """The model with all heads that the losses need, and the names of parameters that it had not: these are
    drawn from the seed."""
    config = model.config
    wanted = dataclasses.replace(
        config,
        itc_heads=True,
        vl_itc_heads=config.vl_itc_heads or (weights.contrastive > 0 and config.vl_start < config.layers),
        itm_head=config.itm_head or weights.matching > 0,
        mlm_head=config.mlm_head or weights.mlm > 0,
    )
    if wanted == config:
        return model, set()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        complete = Vlmo(wanted)
    fresh = set(complete.load_state_dict(model.state_dict(), strict=False).missing_keys)
    names = ", ".join(sorted({name.partition(".")[0] for name in fresh}))
    log.info("heads that the checkpoint lacks start anew: %s", names)
    return complete.eval().requires_grad_(False), fresh
