"""What the encoder is asked: hidden tokens, hidden patches, and which text belongs to which image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.beit3_model import Beit3
from ..encoders.pair_encoder import normalised
from ..encoders.sentence_pieces import SentencePieces
from ..encoders.torch_encoder import padded_rows
from .config import AlignConfig
from .contrast import Gather, shared_contrast
from .items import Batch, Items
from .losses import joint_loss, patch_pixels, pixel_loss, teacher_loss, token_loss


@dataclass(frozen=True, slots=True)
class Alone:
    """All pairs of a batch, image and text of each encoded by itself; constants."""

    rows: np.ndarray  # (p,) of the items
    images: Tensor  # (p, d) unit rows
    texts: Tensor


@dataclass(frozen=True, slots=True)
class Objectives:
    """Losses of batches of `items` by an encoder on `device`."""

    items: Items
    pieces: SentencePieces
    config: AlignConfig
    device: torch.device

    def totals(self, batch: Batch) -> dict[str, int]:
        """How many predictions the mean of each objective is over; those of weight 0 are left out."""
        weights = self.config.objectives.model_dump()
        counts = batch.counts(of_image=self.config.mim_target == "teacher")
        return {name: count for name, count in counts.items() if weights[name] and count}

    def losses(
        self, model: Beit3, batch: Batch, own: slice, totals: dict[str, int], gather: Gather
    ) -> Iterator[dict[str, Tensor]]:
        """Pass by pass, the shares of the means over `totals` that the items `own` of `batch` have.

        Over all pieces of a batch and all processes the shares of an objective sum up to its mean. Each pass
        can be followed back before the next is computed. All pairs of `batch` are contrasted; `gather`
        fetches the vectors of those that other processes have.
        """
        mine = batch.part(own)
        alone = None
        if "contrastive" in totals and batch.paired.any():
            loss, alone = self._contrast(model, batch, own, gather)
            yield {"contrastive": loss / totals["contrastive"]}
        if self.config.mask_both:
            passes = [(mine.mlm | mine.mim, {"mlm", "joint", "mim"})]
        else:
            passes = [(mine.mlm, {"mlm", "joint"}), (mine.mim, {"mim"})]
        # A piece without pairs has no vectors that a joint pass could find.
        asked = totals.keys() - (set() if alone else {"joint"})
        for chosen, names in passes:
            part = mine.part(chosen)
            if len(part) and names & asked:
                found = self._masked(model, part, names & asked, alone)
                yield {name: loss / totals[name] for name, loss in found.items()}

    def _masked(self, model: Beit3, part: Batch, names: set[str], alone: Alone | None) -> dict[str, Tensor]:
        """One joint pass with the patches hidden for "mim", tokens for the others; sums of the losses."""
        hide_tokens, hide_patches = self.config.mask_both or names != {"mim"}, "mim" in names
        inputs: dict[str, Tensor] = {}
        if self.items.has_image.any():
            inputs |= self._images(part, hide_patches, blank=hide_tokens)
        if self.items.has_text.any():
            inputs |= self._texts(part, hide_tokens, blank=hide_patches)
        with self._autocast():
            states = model(**inputs)
            n_image = model.config.image_tokens if "images" in inputs else 0
            found = {}
            if "mlm" in names:
                found["mlm"] = self._tokens(model, part, states[:, n_image:])
            if "joint" in names and alone is not None:
                found["joint"] = self._joint(model, part, states[:, 0], alone)
            if "mim" in names:
                found["mim"] = self._patches(model, part, states[:, :n_image], inputs["images"])
            return found

    def _tokens(self, model: Beit3, part: Batch, states: Tensor) -> Tensor:
        """L_mlm from the text's states (b, length, d), the first of which is that of <s>."""
        places = [
            (n, place) for n in np.flatnonzero(part.mlm).tolist() for place in part.hidden_tokens[n].tolist()
        ]
        targets = [self.items.tokens[part.rows[n]][place] for n, place in places]
        rows, columns = torch.tensor(places, device=self.device, dtype=torch.int64).reshape(-1, 2).T
        logits = model.mlm_head(states[rows, columns + 1])
        return token_loss(logits, torch.tensor(targets, device=self.device, dtype=torch.int64))

    def _joint(self, model: Beit3, part: Batch, states: Tensor, alone: Alone) -> Tensor:
        """How well the class tokens (b, d) of items with both find what either is by itself."""
        has_both = part.paired & part.mlm
        chosen = part.rows[has_both]
        queries = F.normalize(states[torch.from_numpy(has_both).to(self.device)].float(), dim=-1)
        own = torch.from_numpy((chosen[:, None] == alone.rows).argmax(axis=1)).to(self.device)
        same = torch.from_numpy(self.items.same(chosen, alone.rows)).to(self.device)
        scale = model.logit_scale.detach().exp()
        return joint_loss(queries, alone.images, alone.texts, scale, own, same)

    def _patches(self, model: Beit3, part: Batch, states: Tensor, images: Tensor) -> Tensor:
        """L_mim from the image's states (b, 1 + patches, d)."""
        rows = torch.from_numpy(part.mim).to(self.device)
        targets = self.items.targets
        chosen = None if targets is None else torch.from_numpy(targets[part.rows]).to(self.device)
        if self.config.mim_target == "teacher" and chosen is not None:
            return teacher_loss(model.mim_head(states[rows, 0]), chosen[rows])
        hidden = torch.from_numpy(part.hidden_patches).to(self.device) & rows[:, None]
        predicted = model.mim_head(states[:, 1:][hidden])
        if chosen is None:
            return pixel_loss(predicted, patch_pixels(images, model.config.patch_size)[hidden])
        return token_loss(predicted, chosen[hidden])

    def _contrast(self, model: Beit3, batch: Batch, own: slice, gather: Gather) -> tuple[Tensor, Alone]:
        """This process's share of InfoNCE over all pairs of the batch, and the vectors of these."""
        paired = np.flatnonzero(batch.paired)
        is_own = np.isin(paired, np.arange(len(batch))[own])
        places = torch.from_numpy(np.flatnonzero(is_own)).to(self.device)
        part, hide = batch.part(paired[is_own]), self.config.mask_contrast
        if len(part):
            vectors = self._encoded(model, self._images(part, hide, False), self._texts(part, hide, False))
        else:
            nothing = torch.zeros(0, model.config.width, device=self.device)
            vectors = (nothing, nothing)
        rows = batch.rows[paired]
        same = torch.from_numpy(self.items.same(rows, rows)).to(self.device)
        loss, *sides = shared_contrast(vectors, places, same, model.logit_scale.exp(), gather)
        return loss, Alone(rows, *sides)

    def vectors(self, model: Beit3, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Unit rows of whole images and texts, each encoded by itself, (b, d) float32 both."""
        texts = self._padded([self.items.tokens[row] for row in rows])
        return self._encoded(model, {"images": self._pixels(rows)}, texts)

    def _encoded(
        self, model: Beit3, images: dict[str, Tensor], texts: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        with self._autocast():
            image, text = model(**images)[:, 0], model(**texts)[:, 0]
            if model.config.retrieval_heads:
                image, text = model.vision_head(image), model.language_head(text)
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    def _images(self, part: Batch, hide: bool, blank: bool) -> dict[str, Tensor]:
        """Inputs with the patches hidden; if `blank`, all of them for items that show no image."""
        hidden = part.hidden_patches if hide else np.zeros_like(part.hidden_patches)
        hidden = hidden | part.no_image[:, None] if blank else hidden
        return {
            "images": self._pixels(part.rows),
            "masked_patches": torch.from_numpy(hidden).to(self.device),
        }

    def _texts(self, part: Batch, hide: bool, blank: bool) -> dict[str, Tensor]:
        """Inputs with the tokens hidden; if `blank`, start and end alone for items that show no text."""
        texts = []
        for row, places, is_blank in zip(part.rows, part.hidden_tokens, part.no_text, strict=True):
            ids = np.array([] if blank and is_blank else self.items.tokens[row], dtype=np.int64)
            if hide and len(ids):
                ids[places] = self.pieces.mask_id
            texts.append(ids.tolist())
        return self._padded(texts)

    def _pixels(self, rows: np.ndarray) -> Tensor:
        return normalised(torch.from_numpy(self.items.pixels[rows]).to(self.device))

    def _padded(self, texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        ids, padding = padded_rows(self.pieces, texts)
        return {"text_ids": ids.to(self.device), "padding": padding.to(self.device)}

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")
