"""The encoder that pre-training begins with: random, or a checkpoint with the heads that are needed."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from ..encoders.beit3_checkpoint import find_beit3, load_beit3
from ..encoders.beit3_model import FIRST_POSITION, IMAGE, TEXT, Beit3, Beit3Config
from ..errors import InputError
from .config import AlignConfig

log = logging.getLogger(__name__)

USUAL_CONTEXT = 128  # tokens of a text in AlignRec


def load_start(config: AlignConfig) -> Beit3 | None:
    """The checkpoint to start from, None from scratch; raises what `load_beit3` raises."""
    return None if config.from_scratch else load_beit3(Path(config.start), config.image_size)


def context_length(config: AlignConfig) -> int:
    """Tokens of the longest text, special ones included."""
    if config.from_scratch:
        return config.sizes()["context_length"]
    known = find_beit3(config.start).context_length
    return config.context_length or known or USUAL_CONTEXT


def initial_sizes(config: AlignConfig, start: Beit3 | None, vocabulary: int) -> Beit3Config:
    """Sizes of the encoder, `vocabulary` being the tokenizer's number of ids; InputError where a checkpoint
    does not suit them."""
    if start is None:
        sizes = config.sizes()
        return Beit3Config(
            width=sizes["width"],
            layers=sizes["layers"],
            heads=sizes["heads"],
            hidden=4 * sizes["width"],
            vocabulary=vocabulary,
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            text_positions=sizes["context_length"] + FIRST_POSITION,
        )
    if vocabulary > start.config.vocabulary:
        raise InputError(
            f"{config.start}: its tokenizer has {vocabulary} ids, but it embeds {start.config.vocabulary}; "
            "expected the tokenizer of its training"
        )
    if context_length(config) > start.config.max_text:
        raise InputError(
            f"align.context_length is {context_length(config)}, but {config.start} takes texts of at most "
            f"{start.config.max_text} tokens"
        )
    return start.config


def initial_model(
    config: AlignConfig, sizes: Beit3Config, start: Beit3 | None, teacher_dim: int | None = None
) -> Beit3:
    """The encoder with the heads that `config.objectives` needs; what `start` lacks is drawn from the seed.

    `teacher_dim` is the width of the vectors of `config.teacher`.
    """
    torch.manual_seed(config.seed)
    model = Beit3(_with_heads(sizes, config, teacher_dim), config.gradient_checkpointing)
    if start is not None:
        _take_over(model, start)
    return model.train()


def _with_heads(sizes: Beit3Config, config: AlignConfig, teacher_dim: int | None) -> Beit3Config:
    """Heads that the checkpoint has stay, also where no objective uses them."""
    weights = config.objectives
    outputs = {
        "pixels": 3 * sizes.patch_size**2,
        "teacher": teacher_dim or 0,
        "codes": config.visual_codes,
    }
    return dataclasses.replace(
        sizes,
        retrieval_heads=sizes.retrieval_heads or weights.contrastive > 0,
        mlm_head=sizes.mlm_head or weights.mlm > 0,
        mim_outputs=outputs[config.mim_target] if weights.mim else sizes.mim_outputs,
    )


def _take_over(model: Beit3, start: Beit3) -> None:
    """The parameters of `start` that `model` has in the same shape; only heads can differ."""
    own = model.state_dict()
    known = {name: value for name, value in start.state_dict().items() if own[name].shape == value.shape}
    model.load_state_dict(known, strict=False)
    fresh = sorted({name.partition(".")[0] for name in own.keys() - known.keys()})
    if fresh:
        log.info("heads that the checkpoint lacks, or has in other sizes, start anew: %s", ", ".join(fresh))


def freeze_unused(model: Beit3, config: AlignConfig, has_images: bool, has_texts: bool) -> None:
    """Exempt from training what no loss reaches: weight decay would wear it away."""
    weights = config.objectives
    contrasts = weights.contrastive > 0 and has_images and has_texts
    unused = {
        "vision_head.": not contrasts,
        "language_head.": not contrasts,
        "logit_scale": not contrasts,
        "mlm_head.": not weights.mlm or not has_texts,
        "mim_head.": not weights.mim or not has_images,
        "vision_embed.": not has_images,
        f".{IMAGE}.": not has_images,
        "text_embed.": not has_texts,
        f".{TEXT}.": not has_texts,
    }
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(is_unused and key in name for key, is_unused in unused.items()))


def parameter_groups(model: Beit3, weight_decay: float) -> list[dict[str, list[Tensor] | float]]:
    """Trained parameters for AdamW: matrices of linear and convolutional layers decay, the others do not."""
    decaying = {module.weight for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if p not in decaying], "weight_decay": 0.0},
    ]
