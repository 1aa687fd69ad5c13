"""BEiT-3's tokenizer: a sentencepiece model with the special ids of XLM-R around it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from ..errors import InputError, first_line

BOS, PAD, EOS, UNKNOWN = 0, 1, 2, 3
SHIFT = 1  # sentencepiece has <unk>, <s>, </s> as 0, 1, 2; every other piece moves up by one


class SentencePieces:
    """Ids of BEiT-3: <s> 0, <pad> 1, </s> 2, <unk> 3, the pieces from 4 on, and the mask after the last.

    Raises InputError for a file that is no sentencepiece model, or one with other special pieces.
    """

    pad_id = PAD

    def __init__(self, path: Path, context_length: int) -> None:
        content = path.read_bytes()
        self._pieces: Any = SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(content)
        except (RuntimeError, TypeError) as error:
            raise InputError(f"{path} is no sentencepiece model ({first_line(error)})") from error
        specials = [self._pieces.IdToPiece(idx) for idx in range(min(3, len(self._pieces)))]
        if specials != ["<unk>", "<s>", "</s>"]:
            raise InputError(f"{path} begins with the pieces {specials}; expected <unk>, <s>, </s>")
        self._digest = hashlib.sha256(content).hexdigest()
        self.mask_id = len(self._pieces) + SHIFT
        self.vocabulary = self.mask_id + 1
        self.context_length = context_length
        self.content_length = context_length - 2

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "vocabulary": self.vocabulary, "digest": self._digest}

    def content(self, text: str) -> list[int]:
        """Ids of the text itself; markup that looks like a special token is text like any other."""
        return [idx + SHIFT if idx else UNKNOWN for idx in self._pieces.EncodeAsIds(text)]

    def row(self, ids: Sequence[int]) -> list[int]:
        """The ids between the special tokens, unpadded."""
        return [BOS, *ids, EOS]
