"""VLMo (Bao et al., NeurIPS 2022): image, text or both through shared attention and an expert per modality.

Module names are those of the official state dict, so that official checkpoints load strictly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .multiway import Parts, joined, patch_tokens
from .relative_positions import image_index, joint_index, table_rows, text_index
from .vlmo_config import VlmoConfig
from .vlmo_layers import BOTH, IMAGE, LAYER_EPS, TEXT, Block, Head, Pooler, TextEmbeddings, TokenHead


class Vlmo(nn.Module):
    """The encoder and those heads that the config asks for.

    Heads are layers to be applied to states: `itc_image_proj`, `itc_text_proj`, `itc_vl_image_proj`,
    `itc_vl_text_proj` (d -> d, no bias), `logit_scale` and `logit_vl_scale` (), `pooler` (n, tokens, d) ->
    (n, d), `itm_score` (pooled joint states, d -> 2), `mlm_score` (states of text, d -> vocabulary).
    """

    def __init__(self, config: VlmoConfig, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        self.config, self.gradient_checkpointing = config, gradient_checkpointing
        if config.relative:
            rows = table_rows(config.grid, config.text_window)
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, config.heads * config.layers))
        self.transformer = _Transformer(config)
        self.text_embeddings = TextEmbeddings(config)
        self.token_type_embeddings = nn.Embedding(2, config.width)  # text, image
        self.pooler = Pooler(config.width)
        if config.itc_heads:
            self.itc_text_proj = Head(config.width, config.width, bias=False)
            self.itc_image_proj = Head(config.width, config.width, bias=False)
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # of exp(logit_scale) * cosine
        if config.vl_itc_heads:
            self.itc_vl_text_proj = Head(config.width, config.width, bias=False)
            self.itc_vl_image_proj = Head(config.width, config.width, bias=False)
            self.logit_vl_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        if config.itm_head:
            self.itm_score = Head(config.width, 2)
        if config.mlm_head:
            self.mlm_score = TokenHead(config)
        self.apply(_initialise)

    def forward(
        self, images: Tensor | None = None, text_ids: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """States (n, tokens, d) after the last norm: the text's tokens, then class token and patches.

        `images` (n, 3, size, size) are normalised pixels, `text_ids` (n, length) token ids with the special
        ones; either may be absent. `padding` (n, length) is True on pads, which no token sees. One modality
        goes through its own experts alone; both through the experts of both from `vl_start` on.
        Raises ValueError for shapes that do not fit the model.
        """
        parts, index, seen = self._inputs(images, text_ids, padding)
        fused = len(parts) == 2
        parts = self._run(parts, range(self.config.vl_start), index, seen)
        if fused and self.config.vl_start < self.config.layers:
            parts = {BOTH: joined(parts)}
        parts = self._run(parts, range(self.config.vl_start, self.config.layers), index, seen)
        return self.transformer.norm(joined(parts))

    def branches(
        self, images: Tensor | None = None, text_ids: Tensor | None = None, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """States (n, tokens, d) of images or of texts, twice: by their own experts, as `forward` gives them,
        and with the experts of both modalities from `vl_start` on; the layers before are run once.

        Raises ValueError like `forward`, and where there is not exactly one modality.
        """
        parts, index, seen = self._inputs(images, text_ids, padding)
        if len(parts) != 1:
            raise ValueError("branches are of images or of texts; both are given")
        parts = self._run(parts, range(self.config.vl_start), index, seen)
        upper = range(self.config.vl_start, self.config.layers)
        own = self._run(parts, upper, index, seen)
        fused = self._run({BOTH: joined(parts)}, upper, index, seen)
        return self.transformer.norm(joined(own)), self.transformer.norm(joined(fused))

    def _inputs(
        self, images: Tensor | None, text_ids: Tensor | None, padding: Tensor | None
    ) -> tuple[Parts, Tensor | None, Tensor | None]:
        """Embedded parts, rows of the bias table (tokens, tokens), and the keys seen (n, 1, 1, tokens)."""
        parts: Parts = {}
        if text_ids is not None:
            parts[TEXT] = self._embed_text(text_ids)
        if images is not None:
            parts[IMAGE] = self._embed_image(images)
        if not parts:
            raise ValueError("neither images nor text_ids are given")
        seen = None
        if padding is not None and text_ids is not None:
            seen = ~padding.bool()
            if images is not None:
                seen = torch.cat([seen, seen.new_ones(len(seen), self.config.image_tokens)], dim=1)
            seen = seen[:, None, None]
        return parts, self._index(parts) if self.config.relative else None, seen

    def _embed_text(self, text_ids: Tensor) -> Tensor:
        if text_ids.shape[1] > self.config.max_text:
            raise ValueError(
                f"texts of {text_ids.shape[1]} tokens; this model takes {self.config.max_text} at most"
            )
        return self.text_embeddings(text_ids) + self.token_type_embeddings.weight[0]

    def _embed_image(self, images: Tensor) -> Tensor:
        size = self.config.image_size
        if images.shape[1:] != (3, size, size):
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (n, 3, {size}, {size})")
        tokens = patch_tokens(images, self.transformer.patch_embed.proj, self.transformer.cls_token)
        if not self.config.relative:
            tokens = tokens + self.transformer.pos_embed
        return tokens + self.token_type_embeddings.weight[1]

    def _index(self, parts: Parts) -> Tensor:
        grid, window = self.config.grid, self.config.text_window
        device = self.relative_position_bias_table.device
        if TEXT not in parts:
            return image_index(grid, device)
        index = text_index if len(parts) == 1 else joint_index
        return index(parts[TEXT].shape[1], grid, window, device)

    def _run(self, parts: Parts, layers: Iterable[int], index: Tensor | None, seen: Tensor | None) -> Parts:
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for layer in layers:
            if recompute:
                parts = checkpoint(self._layer, layer, parts, index, seen, use_reentrant=False)
            else:
                parts = self._layer(layer, parts, index, seen)
        return parts

    def _layer(self, layer: int, parts: Parts, index: Tensor | None, seen: Tensor | None) -> Parts:
        mask = seen
        if index is not None:
            first = layer * self.config.heads
            columns = self.relative_position_bias_table[:, first : first + self.config.heads]
            bias = F.embedding(index, columns).permute(2, 0, 1)[None]  # (1, heads, tokens, tokens)
            mask = bias if seen is None else torch.where(seen, bias, -torch.inf)
        return self.transformer.blocks[layer](parts, mask)


class _Transformer(nn.Module):
    """Patches, layers, the last norm, and the image's absolute positions where there are any."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width).normal_(std=0.02))
        if not config.relative:
            positions = torch.empty(1, config.image_tokens, config.width).normal_(std=0.02)
            self.pos_embed = nn.Parameter(positions)
        self.patch_embed = _PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.width, LAYER_EPS)


class _PatchEmbedding(nn.Module):
    """The convolution of `patch_tokens` under its official name."""

    def __init__(self, config: VlmoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)


def _initialise(module: nn.Module) -> None:
    """BERT's scheme."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
