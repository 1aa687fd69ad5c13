"""Models of sentence-transformers as encoders of texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .checkpoints import weights_digest
from .sentence_checkpoint import load_sentence, longest_text, write_sentence
from .tokens import HuggingFaceTokens
from .torch_encoder import TorchTexts

USUAL_CONTEXT = 512  # tokens of a text of a model that says no length and has no positions to run out of
_NOT_MEANING = ("transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "_name_or_path")


class SentenceEncoder(TorchTexts):
    """A model of sentence-transformers, named as `load_sentence` takes it.

    Pooling, dense layers and the default prompt are the model's; each window of a long text has the prompt.
    `context_length` is the longest text in tokens, else the model's `max_seq_length`.
    """

    def __init__(
        self,
        name: str,
        precision: str = "fp32",
        device: str = "auto",
        context_length: int | None = None,
        normalise: bool = True,
        trainable: bool = False,
    ) -> None:
        super().__init__(precision, device, normalise, trainable)
        model = load_sentence(name)
        self.context_length = _context_length(name, model, context_length)
        prompt = model.prompts.get(model.default_prompt_name) or ""
        self.tokens = HuggingFaceTokens(name, model.tokenizer, self.context_length, prompt=prompt)
        self.content_length = self.tokens.content_length
        self._weights = weights_digest(model)
        self.module = self._placed(model)
        with torch.no_grad():
            self.dim = self.text_vectors([[]]).shape[1]

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, tokenizer, prompt and precision; not the place of the files."""
        transformer = self.module[0].auto_model.config.to_diff_dict()
        tokenizer = self.tokens.identity
        facts = {
            "name": "sentence",
            "architecture": {key: transformer[key] for key in transformer if key not in _NOT_MEANING},
            "modules": [
                {"module": type(module).__name__, **module.get_config_dict()}
                for module in list(self.module)[1:]
            ],
            "weights": f"sha256:{self._weights}",
            "tokenizer": {key: tokenizer[key] for key in tokenizer if key != "name"},
            "prompt": self.tokens.prompt,
            "context_length": self.context_length,
        }
        return self._identity(facts)

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        ids, padding = self.texts(windows)
        features: dict[str, Any] = {"input_ids": ids, "attention_mask": (~padding).long()}
        if self.tokens.prompt:
            features["prompt_length"] = self.tokens.leading  # some models leave it out of the mean
        with self.precise():
            vectors = self.module(features)["sentence_embedding"]
        return self._rows(vectors[:, : self.module.truncate_dim])

    def _save(self, folder: Path) -> str:
        write_sentence(folder, self.module, self.context_length)
        return f"sentence:{folder}"


def _context_length(name: str, model: Any, asked: int | None) -> int:
    """Tokens of a window: those asked for, else the model's own; InputError for more than it has places."""
    places = longest_text(model)
    own = model.max_seq_length
    if own is None or own > 10**6:  # a tokenizer that knows no length says 10^30
        own = USUAL_CONTEXT
    length = asked or (own if places is None else min(own, places))
    if length < 4 or (places is not None and length > places):
        most = f"4 to {places}" if places is not None else "4 or more"
        raise InputError(f"context_length is {length}, but 'sentence:{name}' takes {most} tokens")
    return length
