"""BEiT-3 as an encoder: images, texts, and both in one pass, whose first state is AlignRec's feature."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .beit3_checkpoint import Beit3Files, load_beit3, write_beit3
from .beit3_model import Beit3
from .pair_encoder import PairEncoder
from .sentence_pieces import SentencePieces


class Beit3Encoder(PairEncoder):
    """A BEiT-3 checkpoint with its tokenizer.

    Images and texts alone go through the retrieval heads where the checkpoint has them, else their first
    state is the vector. A joint vector is the image's class token after it has seen the text, and never goes
    through a head; of an image that is not there all patches are the mask token. So blanks are what
    pre-training shows where something is to be predicted.
    """

    family = "beit3"
    usual_context = 64  # in BEiT-3's own fine-tuning; AlignRec takes 128

    @staticmethod
    def _load(files: Beit3Files, image_size: int | None) -> Beit3:
        return load_beit3(files.weights, image_size, files.heads)

    @staticmethod
    def _tokenizer(path: Path, context_length: int) -> SentencePieces:
        return SentencePieces(path, context_length)

    @staticmethod
    def _write(folder: Path, model: Beit3, tokenizer: Path, context_length: int) -> None:
        write_beit3(folder, model, tokenizer, context_length)

    def _image_vectors(self, images: Tensor) -> Tensor:
        first = self.module(images)[:, 0]
        return self.module.vision_head(first) if self._config.retrieval_heads else first

    def _text_vectors(self, text_ids: Tensor, padding: Tensor) -> Tensor:
        first = self.module(text_ids=text_ids, padding=padding)[:, 0]
        return self.module.language_head(first) if self._config.retrieval_heads else first

    def _joint_vectors(self, images: Tensor, hidden: Tensor, text_ids: Tensor, padding: Tensor) -> Tensor:
        masked = hidden[:, None].expand(-1, self._config.grid**2)
        return self.module(images, text_ids, padding, masked)[:, 0]
