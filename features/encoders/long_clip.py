"""Checkpoints of Long-CLIP: CLIP for 248 tokens, with two tables of text positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip.factory import load_state_dict
from torch import Tensor, nn

from .positions import KEPT_POSITIONS

CONTEXT_LENGTH = 248
SECOND_TABLE = "positional_embedding_res"  # what tells the layout from CLIP's
_SIZES = ("input_resolution", "context_length", "vocab_size")  # scalars that OpenAI's layout may carry


def clip_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the equivalent CLIP.

    The official model adds both tables of positions, each through a mask of zeros and ones: the first 20
    rows count from `positional_embedding` (CLIP's own), the others from `positional_embedding_res`.
    Raises KeyError where a table is missing.
    """
    own, trained = state["positional_embedding"], state[SECOND_TABLE]
    weights = {name: tensor for name, tensor in state.items() if name not in (SECOND_TABLE, *_SIZES)}
    weights["positional_embedding"] = own.clone()
    weights["positional_embedding"][KEPT_POSITIONS:] = trained[KEPT_POSITIONS:]
    return weights


def load_long_clip(model: nn.Module, path: Path) -> None:
    """Load the weights of `path` into an open_clip CLIP of 248 positions, strictly; what the file holds in
    half precision is cast to the model's."""
    state: Any = load_state_dict(str(path), weights_only=True)
    model.load_state_dict(clip_weights(state))
