"""A sentencepiece model of a catalogue's own texts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from sentencepiece import SentencePieceTrainer

from ..errors import InputError, first_line
from ..files import atomic_path

SPECIAL_IDS = 2  # ids beyond the pieces: <pad> and the mask; see `SentencePieces`
LONGEST_TEXT = 2**20  # bytes of a text; longer ones are left out


def train_vocabulary(texts: Sequence[str], vocabulary: int, target: Path) -> None:
    """Write to `target` a sentencepiece model with at most `vocabulary` ids, special ones included.

    Small catalogues give fewer. The same texts in the same order give the same file. Raises InputError where
    the texts have too little in them.
    """
    model = io.BytesIO()
    try:
        SentencePieceTrainer.Train(
            sentence_iterator=iter(dict.fromkeys(texts)),
            model_writer=model,
            vocab_size=vocabulary - SPECIAL_IDS,
            hard_vocab_limit=False,
            character_coverage=0.9995,
            max_sentence_length=LONGEST_TEXT,
            num_threads=1,  # several would make the result depend on their timing
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"no tokenizer of {vocabulary} ids can be trained on {len(texts)} texts ({first_line(error)}); "
            "give longer texts, or another align.vocabulary"
        ) from error
    with atomic_path(target) as unfinished:
        unfinished.write_bytes(model.getvalue())
