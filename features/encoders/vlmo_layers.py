"""Layers, text embeddings and heads of VLMo under their names in the official state dict."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .multiway import Parts, attend, joined, parted
from .vlmo_config import VlmoConfig

TEXT, IMAGE, BOTH = "text", "imag", "vl"  # the experts' names in the state dict
LAYER_EPS, BERT_EPS = 1e-6, 1e-12  # of the layers' norms; of those that come from BERT
FIRST_SCALE = 0.1  # LayerScale before training


class Block(nn.Module):
    """x += g1 Attention(norm1(x)); x += g2 FFN_m(norm2_m(x)), m being the part's expert."""

    def __init__(self, config: VlmoConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, LAYER_EPS)
        self.attn = _Attention(config)
        for expert in (TEXT, IMAGE, BOTH) if layer >= config.vl_start else (TEXT, IMAGE):
            self.add_module(f"norm2_{expert}", nn.LayerNorm(config.width, LAYER_EPS))
            self.add_module(f"mlp_{expert}", _FeedForward(config))
        self._scaled = config.layer_scale
        if config.layer_scale:
            self.gamma_1 = nn.Parameter(torch.full((config.width,), FIRST_SCALE))
            self.gamma_2 = nn.Parameter(torch.full((config.width,), FIRST_SCALE))

    def forward(self, parts: Parts, mask: Tensor | None) -> Parts:
        tokens = joined(parts)
        change = self.attn(self.norm1(tokens), mask)
        parts = parted(tokens + (self.gamma_1 * change if self._scaled else change), parts)
        return {expert: tokens + self._expert(expert, tokens) for expert, tokens in parts.items()}

    def _expert(self, expert: str, tokens: Tensor) -> Tensor:
        change = getattr(self, f"mlp_{expert}")(getattr(self, f"norm2_{expert}")(tokens))
        return self.gamma_2 * change if self._scaled else change


class _Attention(nn.Module):
    """Attention over all tokens with the same weights for every modality; keys have no bias."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self._n_heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(config.width))
        self.v_bias = nn.Parameter(torch.zeros(config.width))
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        queries, keys, values = F.linear(tokens, self.qkv.weight, bias).chunk(3, dim=-1)
        if mask is not None and mask.is_floating_point():
            mask = mask.to(queries.dtype)  # autocast leaves the table as it is
        return self.proj(attend(queries, keys, values, self._n_heads, mask))


class _FeedForward(nn.Module):
    """fc2(GELU(fc1(x)))."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class TextEmbeddings(nn.Module):
    """BERT's embeddings; the table of positions is there with relative biases too, but not added."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self._absolute = not config.relative
        self.word_embeddings = nn.Embedding(config.vocabulary, config.width)
        self.position_embeddings = nn.Embedding(config.max_text, config.width)
        self.token_type_embeddings = nn.Embedding(2, config.width)  # BERT's sentences, of which VLMo has one
        self.LayerNorm = nn.LayerNorm(config.width, BERT_EPS)

    def forward(self, text_ids: Tensor) -> Tensor:
        tokens = self.word_embeddings(text_ids) + self.token_type_embeddings.weight[0]
        if self._absolute:
            tokens = tokens + self.position_embeddings.weight[: text_ids.shape[1]]
        return self.LayerNorm(tokens)


class Pooler(nn.Module):
    """tanh(W x + b) of the first token's state: the text's class token in a joint pass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        return torch.tanh(self.dense(states[:, 0]))


class Head(nn.Module):
    """One linear layer under the official name."""

    def __init__(self, width: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(width, outputs, bias)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc(states)


class TokenHead(nn.Module):
    """BERT's head for masked tokens, (..., d) -> (..., vocabulary); its decoder is not tied to the words."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.transform = nn.ModuleDict(
            {
                "dense": nn.Linear(config.width, config.width),
                "LayerNorm": nn.LayerNorm(config.width, BERT_EPS),
            }
        )
        self.decoder = nn.Linear(config.width, config.vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, states: Tensor) -> Tensor:
        hidden = self.transform["LayerNorm"](F.gelu(self.transform["dense"](states)))
        return self.decoder(hidden) + self.bias
