"""BEiT-3 (Wang et al., CVPR 2023) on torch's attention: image, text or both in, the state of every token out.

Module names are those of the official state dict, so that official checkpoints load strictly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .multiway import Multiway, Parts, added, attend, joined, parted, patch_tokens
from .rows import at_least_float32

IMAGE, TEXT = "A", "B"  # the experts' names in the state dict
EXPERTS = (IMAGE, TEXT)
FIRST_POSITION = 2  # rows 0 and 1 of the position tables stay unused, as fairseq's do
PUBLISHED_VOCABULARY = 64_010


@dataclass(frozen=True, slots=True)
class Beit3Config:
    """Sizes of a BEiT-3; the defaults are those of the base model, without heads."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072  # width inside the feed-forward experts
    vocabulary: int = PUBLISHED_VOCABULARY
    image_size: int = 224  # side of the square image, in pixels
    patch_size: int = 16
    text_positions: int = 1024  # rows of the table, of which 2 are unused
    retrieval_heads: bool = False  # vision_head, language_head, logit_scale
    mlm_head: bool = False  # text states -> vocabulary
    mim_outputs: int = 0  # patch states -> visual codes (8192) or pixels of a patch (3 p^2); 0: no mim_head

    def __post_init__(self) -> None:
        sizes = (self.width, self.layers, self.heads, self.hidden, self.vocabulary, self.patch_size)
        if min(sizes) < 1 or self.mim_outputs < 0:
            raise ValueError(f"sizes must be at least 1, got {self}")
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} cannot be divided among {self.heads} heads")
        if self.image_size < self.patch_size or self.image_size % self.patch_size:
            raise ValueError(
                f"an image of {self.image_size} pixels has no whole {self.patch_size}-pixel patches"
            )
        if self.max_text < 2:
            raise ValueError(f"text_positions must be at least 4, got {self.text_positions}")

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def image_tokens(self) -> int:
        """Tokens of an image: the class token and the patches. In a joint pass the text starts here."""
        return 1 + self.grid**2

    @property
    def max_text(self) -> int:
        """Tokens of the longest text, special ones included."""
        return self.text_positions - FIRST_POSITION


class Beit3(nn.Module):
    """The encoder and those heads that the config asks for; fresh parameters follow Magneto's scheme.

    Heads are plain layers to be applied to states: `vision_head` and `language_head` (d -> d, no bias),
    `logit_scale` (), `mlm_head` (d -> vocabulary), `mim_head` (d -> mim_outputs).
    """

    def __init__(self, config: Beit3Config, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.beit3 = _Trunk(config, gradient_checkpointing)
        if config.retrieval_heads:
            self.vision_head = nn.Linear(config.width, config.width, bias=False)
            self.language_head = nn.Linear(config.width, config.width, bias=False)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of exp(logit_scale) * cosine
        if config.mlm_head:
            self.mlm_head = nn.Linear(config.width, config.vocabulary)
        if config.mim_outputs:
            self.mim_head = nn.Linear(config.width, config.mim_outputs)
        self.apply(_initialise)
        _scale_up(self.beit3.encoder.layers)

    def forward(
        self,
        images: Tensor | None = None,
        text_ids: Tensor | None = None,
        padding: Tensor | None = None,
        masked_patches: Tensor | None = None,
    ) -> Tensor:
        """States (n, tokens, d) after the last norm: class token and patches, then the text's tokens.

        `images` (n, 3, size, size) are normalised pixels, `text_ids` (n, length) token ids with the special
        ones; either may be absent. `padding` (n, length) is True on pads, which no token sees; a masked text
        has the mask's id in `text_ids`; `masked_patches` (n, grid^2) is True where the image is hidden.
        Raises ValueError for shapes that do not fit the model.
        """
        parts: Parts = {}
        if images is not None:
            parts[IMAGE] = self.beit3.embed_image(images, masked_patches)
        if text_ids is not None:
            parts[TEXT] = self.beit3.embed_text(text_ids, padding)
        if not parts:
            raise ValueError("neither images nor text_ids are given")
        if padding is not None and text_ids is not None:
            seen = ~padding.bool()
            if images is not None:
                seen = torch.cat([seen.new_ones(len(seen), self.config.image_tokens), seen], dim=1)
            return joined(self.beit3.encoder(parts, seen[:, None, None]))  # mask over keys alone
        return joined(self.beit3.encoder(parts, None))


class _Trunk(nn.Module):
    """Embeddings and encoder: all but the heads."""

    def __init__(self, config: Beit3Config, gradient_checkpointing: bool) -> None:
        super().__init__()
        self._config = config
        self.text_embed = nn.Embedding(config.vocabulary, config.width)
        self.vision_embed = _PatchEmbedding(config)
        self.encoder = _Encoder(config, gradient_checkpointing)

    def embed_image(self, images: Tensor, masked: Tensor | None) -> Tensor:
        size = self._config.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (n, 3, {size}, {size})")
        expected = (len(images), self._config.image_tokens - 1)
        if masked is not None and masked.shape != expected:
            raise ValueError(f"masked_patches of shape {tuple(masked.shape)}; expected {expected}")
        embed = self.vision_embed
        tokens = patch_tokens(images, embed.proj, embed.cls_token, masked, embed.mask_token)
        return tokens + self.encoder.positions(IMAGE, tokens.shape[1])

    def embed_text(self, text_ids: Tensor, padding: Tensor | None) -> Tensor:
        length = text_ids.shape[1]
        if length > self._config.max_text:
            raise ValueError(f"texts of {length} tokens; this model takes {self._config.max_text} at most")
        tokens = self.text_embed(text_ids) + self.encoder.positions(TEXT, length)
        return tokens if padding is None else tokens.masked_fill(padding.bool()[:, :, None], 0)


class _PatchEmbedding(nn.Module):
    """The parameters of `patch_tokens`."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width).normal_(std=0.02))
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width).normal_(std=0.02))
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)


class _Encoder(nn.Module):
    """The layers, the position tables and the last norm."""

    def __init__(self, config: Beit3Config, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        rows = {IMAGE: FIRST_POSITION + config.image_tokens, TEXT: config.text_positions}
        self.embed_positions = nn.ModuleDict(
            {expert: nn.Embedding(rows[expert], config.width) for expert in EXPERTS}
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.layer_norm = Multiway(lambda: nn.LayerNorm(config.width), EXPERTS)

    def positions(self, expert: str, length: int) -> Tensor:
        """Rows (length, d); both tables start again at row 2."""
        table: Any = self.embed_positions[expert]
        return table.weight[FIRST_POSITION : FIRST_POSITION + length]

    def forward(self, parts: Parts, mask: Tensor | None) -> Parts:
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer in self.layers:
            parts = checkpoint(layer, parts, mask, use_reentrant=False) if recompute else layer(parts, mask)
        return self.layer_norm(parts)


class _Layer(nn.Module):
    """x += Attention(norm(x)); x += FFN(norm(x)), each with one more norm inside (sub-LN, Magneto)."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.self_attn_layer_norm = Multiway(lambda: nn.LayerNorm(config.width), EXPERTS)
        self.self_attn = _Attention(config)
        self.final_layer_norm = Multiway(lambda: nn.LayerNorm(config.width), EXPERTS)
        self.ffn = Multiway(lambda: _FeedForward(config), EXPERTS)

    def forward(self, parts: Parts, mask: Tensor | None) -> Parts:
        parts = added(parts, self.self_attn(self.self_attn_layer_norm(parts), mask))
        return added(parts, self.ffn(self.final_layer_norm(parts)))


class _Attention(nn.Module):
    """Projections of each modality's own, attention over all tokens, a norm before the way out."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self._n_heads = config.heads

        def projection() -> nn.Linear:
            return nn.Linear(config.width, config.width)

        self.q_proj, self.k_proj = Multiway(projection, EXPERTS), Multiway(projection, EXPERTS)
        self.v_proj, self.out_proj = Multiway(projection, EXPERTS), Multiway(projection, EXPERTS)
        self.inner_attn_ln = Multiway(lambda: nn.LayerNorm(config.width), EXPERTS)

    def forward(self, parts: Parts, mask: Tensor | None) -> Parts:
        queries, keys, values = (
            joined(project(parts)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(queries, keys, values, self._n_heads, mask)
        return self.out_proj(self.inner_attn_ln(parted(mixed, parts)))


class _FeedForward(nn.Module):
    """fc2(norm(GELU(fc1(x)))); the activation in float32 at least."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.ffn_layernorm = nn.LayerNorm(config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.fc1(tokens)
        return self.fc2(self.ffn_layernorm(F.gelu(at_least_float32(hidden)).to(hidden.dtype)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def _scale_up(layers: nn.ModuleList) -> None:
    """Magneto (Wang et al., ICML 2023), equation for encoders: gain sqrt(log 2N) but for queries and keys."""
    gain = math.sqrt(math.log(2 * len(layers)))
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            if parameter.dim() == 2 and ".q_proj." not in name and ".k_proj." not in name:
                parameter.mul_(gain)
