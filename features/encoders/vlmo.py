"""VLMo as an encoder: images and texts through their contrastive heads, and both fused in one pass."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .pair_encoder import PairEncoder
from .vlmo_checkpoint import VlmoFiles, load_vlmo, write_vlmo
from .vlmo_config import PUBLISHED_TEXT
from .vlmo_model import Vlmo
from .word_pieces import WordPieces


class VlmoEncoder(PairEncoder):
    """A VLMo checkpoint with BERT's word pieces.

    Images and texts alone go through their own experts and the contrastive heads, where the checkpoint has
    them; else their first state is the vector. A joint vector is the pooled state of the text's class token
    after it has seen the image.
    """

    family = "vlmo"
    usual_context = PUBLISHED_TEXT

    @staticmethod
    def _load(files: VlmoFiles, image_size: int | None) -> Vlmo:
        return load_vlmo(files.weights, image_size)

    @staticmethod
    def _tokenizer(path: Path, context_length: int) -> WordPieces:
        return WordPieces(path, context_length)

    @staticmethod
    def _write(folder: Path, model: Vlmo, tokenizer: Path, context_length: int) -> None:
        write_vlmo(folder, model, tokenizer, context_length)

    def _image_vectors(self, images: Tensor) -> Tensor:
        first = self.module(images)[:, 0]
        return self.module.itc_image_proj(first) if self._config.itc_heads else first

    def _text_vectors(self, text_ids: Tensor, padding: Tensor) -> Tensor:
        first = self.module(text_ids=text_ids, padding=padding)[:, 0]
        return self.module.itc_text_proj(first) if self._config.itc_heads else first

    def _joint_vectors(self, images: Tensor, hidden: Tensor, text_ids: Tensor, padding: Tensor) -> Tensor:
        """VLMo has no token for a hidden image; what it has been trained on is texts alone through the
        experts of both, and these give the vector of a text without an image."""
        vectors = images.new_empty(len(images), self.dim)
        if not hidden.all():
            seen = ~hidden
            states = self.module(images[seen], text_ids[seen], padding[seen])
            vectors[seen] = self.module.pooler(states).to(vectors.dtype)  # autocast has its own
        if hidden.any():
            _, states = self.module.branches(text_ids=text_ids[hidden], padding=padding[hidden])
            vectors[hidden] = self.module.pooler(states).to(vectors.dtype)
        return vectors
