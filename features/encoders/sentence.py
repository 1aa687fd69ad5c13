"""Models of sentence-transformers as encoders of texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .checkpoints import weights_digest
from .depths import layer_depths
from .open_clip import PRECISIONS, pick_device
from .pair_encoder import padded_rows
from .rows import at_least_float32, unit_rows
from .sentence_checkpoint import load_sentence, longest_text, write_sentence
from .tokens import HuggingFaceTokens

USUAL_CONTEXT = 512  # tokens of a text of a model that says no length and has no positions to run out of
_NOT_MEANING = ("transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "_name_or_path")


class SentenceEncoder:
    """A model of sentence-transformers, named as `load_sentence` takes it; `TextEncoder` says what its
    methods give.

    Pooling, dense layers and the default prompt are the model's; each window of a long text has the prompt.
    `context_length` is the longest text in tokens, else the model's `max_seq_length`. bf16 casts the weights
    once. If `trainable`, the module stays in float32 and bf16 is autocast.
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
        self.device = pick_device(device)
        if precision not in PRECISIONS:
            raise InputError(f"precision '{precision}' is not one of {', '.join(PRECISIONS)}")
        self._precision, self._normalise, self._trainable = precision, normalise, trainable
        model = load_sentence(name)
        self.context_length = _context_length(name, model, context_length)
        prompt = model.prompts.get(model.default_prompt_name) or ""
        self._tokens = HuggingFaceTokens(name, model.tokenizer, self.context_length, prompt=prompt)
        self.content_length = self._tokens.content_length
        self._weights = weights_digest(model)
        dtype = torch.float32 if trainable else PRECISIONS[precision]
        self.module: Any = model.to(device=self.device, dtype=dtype)
        with torch.no_grad():
            self.dim: int = self.text_vectors([[]]).shape[1]

    @property
    def identity(self) -> dict[str, Any]:
        """Architecture, weights as loaded, tokenizer, prompt and precision; not the place of the files."""
        transformer = self.module[0].auto_model.config.to_diff_dict()
        tokenizer = self._tokens.identity
        identity = {
            "name": "sentence",
            "architecture": {key: transformer[key] for key in transformer if key not in _NOT_MEANING},
            "modules": [
                {"module": type(module).__name__, **module.get_config_dict()}
                for module in list(self.module)[1:]
            ],
            "weights": f"sha256:{self._weights}",
            "tokenizer": {key: tokenizer[key] for key in tokenizer if key != "name"},
            "prompt": self._tokens.prompt,
            "context_length": self.context_length,
            "dim": self.dim,
            "precision": self._precision,
        }
        return identity if self._normalise else {**identity, "normalised": False}

    def tokenize(self, text: str) -> list[int]:
        return self._tokens.content(text)

    def text_vectors(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Rows (n, dim), differentiable, of token windows, none longer than `content_length`."""
        longest = max(len(window) for window in windows)
        if longest > self.content_length:
            raise ValueError(
                f"a window of {longest} tokens; this encoder takes {self.content_length} at most"
            )
        ids, padding = padded_rows(self._tokens, windows)
        features: dict[str, Any] = {
            "input_ids": ids.to(self.device),
            "attention_mask": (~padding).long().to(self.device),
        }
        if self._tokens.prompt:
            features["prompt_length"] = self._tokens.leading  # some models leave it out of the mean
        enabled = self._trainable and self._precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            vectors = self.module(features)["sentence_embedding"]
        vectors = vectors[:, : self.module.truncate_dim]
        return unit_rows(vectors) if self._normalise else at_least_float32(vectors)

    @torch.inference_mode()
    def encode_tokens(self, windows: Sequence[Sequence[int]]) -> np.ndarray:
        if not len(windows):
            return np.empty((0, self.dim), dtype=np.float32)
        return self.text_vectors(windows).float().cpu().numpy()

    def layers(self) -> dict[str, int]:
        """Depth of every parameter, as `layer_depths` counts it."""
        return layer_depths(name for name, _ in self.module.named_parameters())

    def save(self, folder: Path) -> str:
        """Write the model as sentence-transformers does; the name that loads it comes back.

        Raises ValueError for an encoder that was not loaded to be trained.
        """
        if not self._trainable:
            raise ValueError("only an encoder that was loaded to be trained has its checkpoint's parameters")
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
