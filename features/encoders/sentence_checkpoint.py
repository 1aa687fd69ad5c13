"""Models of sentence-transformers: from a folder or, by name, from the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from .checkpoints import UNREADABLE, first_lines, require_network
from .low_rank import merged

log = logging.getLogger(__name__)


def load_sentence(name: str) -> Any:
    """The `SentenceTransformer` of a folder or of a name on the hub, in fp32 on the CPU, frozen.

    Raises `InputError` where the library is missing, the model is out of reach, or it is none whose texts go
    through a tokenizer and a transformer, and `FileNotFoundError` for a path that is not there.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f"encoder 'sentence:{name}' needs sentence-transformers, which is not installed: "
            "pip install 'mmrec[baselines]'"
        ) from error
    path = Path(name)
    if not path.is_dir() and (path.exists() or path.is_absolute() or len(path.parts) > 2):
        raise FileNotFoundError(f"{name}: no folder of a sentence-transformers model")
    try:
        with _without_progress():
            model = SentenceTransformer(name, device="cpu", local_files_only=True)
    except (*UNREADABLE, ImportError) as error:
        if path.is_dir():
            raise InputError(
                f"{name} holds no model that sentence-transformers can load: {first_lines(error)}"
            ) from error
        model = _fetched(name)
    _check(name, model)
    return model.float().eval().requires_grad_(False)


def write_sentence(folder: Path, model: Any, context_length: int) -> None:
    """Write the model, with adapters merged, so that `load_sentence` finds it in the folder."""
    plain: Any = merged(model).cpu().float()
    plain.max_seq_length = context_length
    folder.mkdir(parents=True, exist_ok=True)
    with _without_progress():
        plain.save(str(folder), create_model_card=False)


def longest_text(model: nn.Module) -> int | None:
    """How many positions the model has for tokens, special ones included; None where there is no end."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa counts positions from the one after its pads'.
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - before
    return None


def _fetched(name: str) -> Any:
    from sentence_transformers import SentenceTransformer

    log.info("fetching the sentence-transformers model %s", name)
    try:
        require_network()
        return SentenceTransformer(name, device="cpu")
    except (*UNREADABLE, ImportError) as error:
        raise InputError(
            f"the sentence-transformers model '{name}' is no folder here, is not on this machine and cannot "
            f"be fetched ({first_lines(error)}). Without a network give a folder that holds one: "
            "sentence:path/to/folder."
        ) from error


def _check(name: str, model: Any) -> None:
    """InputError for models without a tokenizer of their own kind: bags of words, static vectors, CLIPs."""
    first = model[0]
    tokenizer = getattr(first, "tokenizer", None)
    if getattr(first, "auto_model", None) is None or not hasattr(tokenizer, "all_special_ids"):
        raise InputError(
            f"sentence:{name} begins with {type(first).__name__}; expected a model that begins with a "
            "Transformer and its tokenizer, such as sentence-transformers/all-MiniLM-L6-v2"
        )


@contextmanager
def _without_progress() -> Iterator[None]:
    """Without progress bars for weights that lie on this disk."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
