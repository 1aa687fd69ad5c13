"""VLMo's tokenizer: BERT's word pieces of lower-cased text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from ..errors import InputError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST_WORD = 100  # characters; a longer one is unknown, as in BERT


class WordPieces:
    """Ids of a `vocab.txt`: a piece's id is its line, from 0; "##" begins a piece that goes on with a word.

    Raises InputError for a file that is no such vocabulary.
    """

    def __init__(self, path: Path, context_length: int) -> None:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no vocabulary of word pieces: not UTF-8 text") from error
        pieces = text.split("\n")  # not splitlines: pieces may be other separators
        ids = {piece: idx for idx, piece in enumerate(pieces)}
        missing = [piece for piece in SPECIALS if piece not in ids]
        if missing:
            raise InputError(
                f"{path} is no vocabulary of word pieces: it lacks {', '.join(missing)}; expected BERT's, "
                "one piece a line"
            )
        model = WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
        self._pieces: Any = Tokenizer(model)
        self._pieces.normalizer = BertNormalizer(lowercase=True)
        self._pieces.pre_tokenizer = BertPreTokenizer()
        self.pad_id, _, self._first, self._last, self.mask_id = (ids[piece] for piece in SPECIALS)
        self._digest = hashlib.sha256(content).hexdigest()
        self.vocabulary = len(pieces)
        self._inner = {idx for idx, piece in enumerate(pieces) if piece.startswith("##")}
        self.context_length = context_length
        self.content_length = context_length - 2

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "wordpiece", "vocabulary": self.vocabulary, "digest": self._digest}

    def content(self, text: str) -> list[int]:
        """Ids of the text itself; markup that looks like a special token is text like any other."""
        return self._pieces.encode(text, add_special_tokens=False).ids

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """The places of each word's pieces among `ids`; a first piece from within a word counts as a word."""
        words: list[list[int]] = []
        for place, idx in enumerate(ids):
            if words and idx in self._inner:
                words[-1].append(place)
            else:
                words.append([place])
        return words

    def row(self, ids: Sequence[int]) -> list[int]:
        """The ids between the special tokens, unpadded."""
        return [self._first, *ids, self._last]
