"""Token ids of a text, and the rows that a text tower takes, for the tokenizers that open_clip uses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import open_clip
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, default_bpe

from ..errors import InputError

CLIP_VOCABULARY = 49_408
BYTES_AND_SPECIALS = 2 * 256 + 2  # byte symbols, each also as the end of a word, and the two special tokens


class Tokens(Protocol):
    """A tokenizer whose special tokens are put in by `row` alone."""

    context_length: int
    content_length: int
    pad_id: int

    @property
    def identity(self) -> dict[str, Any]: ...

    def content(self, text: str) -> list[int]:
        """Ids of the text itself; markup that looks like a special token is text like any other."""
        ...

    def row(self, ids: Sequence[int]) -> list[int]:
        """The ids between the special tokens, unpadded."""
        ...


def load_tokens(
    architecture: str, model_cfg: dict[str, Any], folder: Path | None, context_length: int | None = None
) -> Tokens:
    """The tokenizer that `model_cfg` names; `folder` is where a checkpoint's own tokenizer files lie.

    `context_length` takes the place of the model's own.

    Raises `InputError` where the tokenizer is a Hugging Face one that is neither at hand nor within reach.
    """
    text_cfg = model_cfg["text_cfg"]
    own_length = text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    length: int = own_length if context_length is None else context_length
    kwargs = text_cfg.get("tokenizer_kwargs") or {}
    name = text_cfg.get("hf_tokenizer_name")
    if not name:
        vocabulary = text_cfg.get("vocab_size", CLIP_VOCABULARY)
        return BytePairTokens(vocabulary, length, **kwargs)
    if text_cfg.get("tokenizer_mode"):
        raise InputError(
            f"{architecture} uses tokenizer mode '{text_cfg['tokenizer_mode']}', which is not supported; "
            "choose an architecture with a plain tokenizer."
        )
    has_files = folder is not None and any(folder.glob("tokenizer*"))
    try:
        tokenizer = HFTokenizer(str(folder) if has_files else name, length, **kwargs)
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{architecture} needs the Hugging Face tokenizer '{name}', which cannot be loaded ({reason}). "
            "Install transformers; without a network, put the tokenizer's files beside the checkpoint."
        ) from error
    if tokenizer.tokenizer.padding_side != "right":
        raise InputError(f"tokenizer '{name}' pads on the left; only padding on the right is supported")
    return HuggingFaceTokens(
        name, tokenizer.tokenizer, length, tokenizer.clean_fn, blanks_sep=tokenizer.strip_sep_token
    )


class BytePairTokens:
    """CLIP's byte-pair encoding; a vocabulary below CLIP's keeps the first, most frequent merges."""

    pad_id = 0

    def __init__(self, vocab_size: int, context_length: int, **kwargs: Any) -> None:
        if vocab_size < CLIP_VOCABULARY:
            kwargs = {"bpe_path": _first_merges(vocab_size - BYTES_AND_SPECIALS), **kwargs}
        self._bpe = SimpleTokenizer(context_length=context_length, **kwargs)
        self.context_length = context_length
        self.content_length = context_length - 2
        self.vocab_size = self._bpe.vocab_size

        clean = self._bpe.clean_fn
        specials = [self._bpe.decoder[idx] for idx in self._bpe.all_special_ids]

        def clean_without_specials(x: str) -> str:
            text = clean(x)
            for (
                special
            ) in specials:  # "<end_of_text>" becomes "< end_of_text >": the same words, no special id
                text = text.replace(special, f"{special[0]} {special[1:-1]} {special[-1]}")
            return text

        self._bpe.clean_fn = clean_without_specials

    @property
    def identity(self) -> dict[str, Any]:
        merges = sorted(self._bpe.bpe_ranks, key=self._bpe.bpe_ranks.__getitem__)
        return {
            "kind": "byte-pair",
            "vocabulary": self.vocab_size,
            "merges": hashlib.sha256(json.dumps(merges).encode()).hexdigest(),
        }

    def content(self, text: str) -> list[int]:
        return self._bpe.encode(text)

    def row(self, ids: Sequence[int]) -> list[int]:
        return [self._bpe.sot_token_id, *ids, self._bpe.eot_token_id]


class HuggingFaceTokens:
    """A Hugging Face tokenizer whose special tokens frame every window; `prompt` stands before the text.

    `clean` is done to texts first; `blanks_sep` puts 0 in the place of the separator, as open_clip does.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        context_length: int,
        clean: Callable[[str], str] = str,
        prompt: str = "",
        blanks_sep: bool = False,
    ) -> None:
        self._name, self._tokenizer, self._clean, self.prompt = name, tokenizer, clean, prompt
        self.context_length = context_length
        self.pad_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        unknown = self._tokenizer.unk_token_id
        self._specials = {idx for idx in self._tokenizer.all_special_ids if idx != unknown}

        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        framed = self._tokenizer("a")["input_ids"]
        start = next(n for n in range(len(framed)) if framed[n : n + len(bare)] == bare)
        blanked = {self._tokenizer.sep_token_id} if blanks_sep else set()
        self._prompt_ids = self._plain(prompt.strip()) if prompt else []
        self._before = [0 if idx in blanked else idx for idx in framed[:start]] + self._prompt_ids
        self._after = [0 if idx in blanked else idx for idx in framed[start + len(bare) :]]
        self.leading = len(self._before)  # ids before the text
        self.content_length = context_length - self.leading - len(self._after)

    @property
    def identity(self) -> dict[str, Any]:
        vocabulary = json.dumps(sorted(self._tokenizer.get_vocab().items()))
        return {
            "kind": "hugging-face",
            "name": self._name,
            "vocabulary": len(self._tokenizer),
            "digest": hashlib.sha256(vocabulary.encode()).hexdigest(),
        }

    def content(self, text: str) -> list[int]:
        cleaned = self._clean(text)
        if self._prompt_ids:
            ids = self._plain(self.prompt + cleaned)  # words may be cut otherwise after the prompt
            if ids[: len(self._prompt_ids)] == self._prompt_ids:
                return ids[len(self._prompt_ids) :]
        return self._plain(cleaned)

    def _plain(self, text: str) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [idx for idx in ids if idx not in self._specials]

    def row(self, ids: Sequence[int]) -> list[int]:
        return [*self._before, *ids, *self._after]

    def save(self, folder: Path) -> None:
        """The tokenizer's files, which `load_tokens` prefers to those of the hub."""
        self._tokenizer.save_pretrained(folder)


def _first_merges(count: int) -> io.BytesIO:
    """open_clip's merge file cut after `count` merges; its tokenizer sizes its vocabulary by the file."""
    header_and_merges = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[: count + 1]
    return io.BytesIO(gzip.compress("\n".join(header_and_merges).encode()))
