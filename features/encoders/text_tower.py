"""The forward pass of open_clip's causal text towers on rows shorter than the context."""

from __future__ import annotations

from typing import Any

import torch
from open_clip import CLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn


def is_causal(model: nn.Module) -> bool:
    """Whether a text's vector cannot depend on the padding after it, so that the padding may be left out.

    True where attention is causal and the vector is read at the end-of-text token: CLIP as OpenAI and LAION
    train it. SigLIP (no causal mask, reads the last position), CoCa (appends a class token) and Hugging Face
    towers see the padding.
    """
    tower = _tower(model)
    if not isinstance(tower, CLIP | TextTransformer) or getattr(tower, "cls_emb", None) is not None:
        return False
    return tower.attn_mask is not None and _pool_type(tower) in ("argmax", "eos")


def pooled_text(model: nn.Module, text: Tensor) -> Tensor:
    """What `model.encode_text` gives for rows padded to the whole context, from rows (n, width) of any width.

    Only for models of which `is_causal` holds.
    """
    tower = _tower(model)
    width = text.shape[1]
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(text).to(dtype) + tower.positional_embedding[:width].to(dtype)  # (n, width, d)
    x = tower.transformer(x, attn_mask=tower.attn_mask[:width, :width])
    x = tower.ln_final(x)
    eos_id = tower.text_eos_id if hasattr(tower, "text_eos_id") else tower.eos_id
    pooled = text_global_pool(x, text, _pool_type(tower), eos_token_id=eos_id)  # (n, d)
    projection = tower.text_projection
    if projection is None:
        return pooled
    return projection(pooled) if isinstance(projection, nn.Linear) else torch.matmul(pooled, projection)


def _tower(model: nn.Module) -> Any:
    """The module that holds the text layers: `CLIP` itself, or the `text` of the other classes."""
    return getattr(model, "text", model)


def _pool_type(tower: Any) -> str:
    return tower.text_pool_type if hasattr(tower, "text_pool_type") else tower.pool_type
