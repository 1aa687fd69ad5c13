"""Golden numbers of encoders and of CLIPER's view weights, held against mmrec's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from mmrec.features.encoders.beit3_checkpoint import load_beit3
from mmrec.features.encoders.beit3_model import Beit3
from mmrec.features.encoders.checkpoints import build_model, find_long_clip
from mmrec.features.encoders.multiway import joined
from mmrec.features.encoders.positions import stretch_positions
from mmrec.features.encoders.registry import BEIT3_SIDECAR, SIDECAR, VLMO_SIDECAR
from mmrec.features.encoders.relative_positions import image_index, joint_index, text_index
from mmrec.features.encoders.text_tower import pooled_text
from mmrec.features.encoders.tokens import CLIP_VOCABULARY, load_tokens
from mmrec.features.encoders.vlmo_checkpoint import load_vlmo
from mmrec.features.encoders.vlmo_model import Vlmo
from mmrec.features.similarity import cosines, view_weights

ENCODER_ATOL = 2e-5
BEIT3_ATOL = 5e-5
VLMO_ATOL = 1e-4
HALF_ATOL = 2e-3  # the official stretch runs in float16
Tensors = dict[str, Tensor]
Compare = Callable[..., None]


def compare_long_clip(compare: Compare, config: dict[str, Any], official: Tensors) -> None:
    """The official state dict through our loader: text, every hidden position, images; stretch; tokens."""
    model = load_long_clip(config, official)
    hidden: list[Tensor] = []
    model.ln_final.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    with torch.no_grad():
        text = pooled_text(model, official["in/text_ids"].long())
        image = model.encode_image(official["in/image"])
    compare("text", "out/encode_text", text, official["out/encode_text"], ENCODER_ATOL)
    compare("text", "out/encode_text_full", hidden[0], official["out/encode_text_full"], ENCODER_ATOL)
    compare("image", "out/encode_image", image, official["out/encode_image"], ENCODER_ATOL)

    stretched = stretch_positions(official["in/clip_positional_embedding_77"], config["context_length"])
    for name in ("out/stretched_positional_embedding", "out/stretched_positional_embedding_res"):
        compare("stretch", name, stretched, official[name], HALF_ATOL)

    tokens = load_tokens(
        "ViT-L-14", {"text_cfg": {"vocab_size": CLIP_VOCABULARY}}, None, config["context_length"]
    )
    long = " ".join(["long"] * 400)
    for name, texts in (("out/tokenize", config["texts"]), ("out/tokenize_truncated", [long])):
        rows = torch.zeros(len(texts), tokens.context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = tokens.row(tokens.content(text)[: tokens.content_length])
            row[: len(ids)] = torch.tensor(ids)
        compare("tokens", name, rows, official[name], 0.0)


def load_long_clip(config: dict[str, Any], official: Tensors) -> Any:
    """The fixture's parameters as a checkpoint file with its config beside it, loaded as a user would."""
    sidecar = {
        "model_cfg": {
            "embed_dim": config["embed_dim"],
            "vision_cfg": {
                "image_size": config["image_resolution"],
                "patch_size": config["vision_patch_size"],
                "width": config["vision_width"],
                "layers": config["vision_layers"],
            },
            "text_cfg": {
                "context_length": config["context_length"],
                "vocab_size": config["vocab_size"],
                "width": config["transformer_width"],
                "heads": config["transformer_heads"],
                "layers": config["transformer_layers"],
            },
        }
    }
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "longclip.safetensors"
        state = {
            key.removeprefix("param/"): t.contiguous() for key, t in official.items() if key[:6] == "param/"
        }
        save_file(state, weights)
        weights.with_name(SIDECAR).write_text(json.dumps(sidecar), encoding="utf-8")
        return build_model(find_long_clip(f"small/{weights}"))


def compare_beit3(compare: Compare, config: dict[str, Any], official: Tensors) -> None:
    """The official state dict through our loader: every state of each pass, heads, contrastive loss."""
    model = load_official_beit3(config, official)
    images, texts = official["in/image"], official["in/text_ids"]
    padding = official["in/padding_mask"].bool()
    with torch.no_grad():
        passes = {
            "image_only": model(images),
            "text_only": model(text_ids=texts, padding=padding),
            "text_only_nomask": model(text_ids=texts),
            "joint": model(images, texts, padding),
        }
        for name, states in passes.items():
            key = f"{name}.encoder_out"
            if f"out/{key}" in official:
                compare(name, key, states, official[f"out/{key}"], BEIT3_ATOL)
        if not model.config.retrieval_heads:
            return
        vision = F.normalize(model.vision_head(passes["image_only"][:, 0]), dim=-1)
        language = F.normalize(model.language_head(passes["text_only"][:, 0]), dim=-1)
        logits = model.logit_scale.exp() * vision @ language.T  # (n, n)
        own = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    for name, ours in (("vision_cls", vision), ("language_cls", language), ("clip_loss", loss)):
        compare("heads", name, ours, official[f"out/{name}"], BEIT3_ATOL)


def load_official_beit3(config: dict[str, Any], official: Tensors) -> Beit3:
    """The fixture's parameters as a checkpoint file nested as the official ones, loaded as a user would."""
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "beit3.pth"
        state = {key.removeprefix("param/"): t for key, t in official.items() if key.startswith("param/")}
        torch.save({"model": state}, weights)
        heads = {"heads": config["encoder_attention_heads"]}
        weights.with_name(BEIT3_SIDECAR).write_text(json.dumps(heads), encoding="utf-8")
        return load_beit3(weights)


def compare_vlmo(compare: Compare, config: dict[str, Any], official: Tensors) -> None:
    """The official state dict through our loader: all passes, the output of every block, index tables."""
    model = load_official_vlmo(config, official)
    passes = vlmo_passes(model, official)
    for key, theirs in official.items():
        method, _, name = key.removeprefix("out/").partition(".")
        if key.startswith("out/") and name:
            compare(method, key, passes[method][name], theirs, VLMO_ATOL)
    if model.config.relative:
        grid, window = model.config.grid, model.config.text_window
        length = config["max_text_len"]
        indices = {
            "relative_position_index": image_index(grid),
            "text_relative_position_index": text_index(length, grid, window),
            "text_imag_relative_position_index": joint_index(length, grid, window),
        }
        for name, index in indices.items():
            compare("index", name, index, official[f"out/{name}"], 0.0)


def load_official_vlmo(config: dict[str, Any], official: Tensors) -> Vlmo:
    """The fixture's parameters as a checkpoint file, loaded as a user would."""
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "vlmo.pt"
        state = {key.removeprefix("param/"): t for key, t in official.items() if key.startswith("param/")}
        torch.save({"module": {f"module.{key}": tensor for key, tensor in state.items()}}, weights)
        settings = {"heads": config["arch"]["num_heads"], "image_size": config["image_size"]}
        weights.with_name(VLMO_SIDECAR).write_text(json.dumps(settings), encoding="utf-8")
        return load_vlmo(weights)


@torch.no_grad()
def vlmo_passes(model: Vlmo, official: Tensors) -> dict[str, dict[str, Tensor]]:
    """Method -> name -> tensor, named as the official outputs."""
    blocks: list[Tensor] = []
    raw: list[Tensor] = []
    for block in model.transformer.blocks:
        block.register_forward_hook(lambda module, inputs, output: blocks.append(joined(output)))
    model.transformer.norm.register_forward_pre_hook(lambda module, inputs: raw.append(inputs[0][:, 0]))
    image = {"images": official["in/image"]}
    text = {"text_ids": official["in/text_ids"], "padding": official["in/text_masks"] == 0}
    states = model(**image, **text)
    length = text["text_ids"].shape[1]
    passes: dict[str, dict[str, Tensor]] = {
        "infer": {
            "text_feats": states[:, :length],
            "image_feats": states[:, length:],
            "raw_cls_feats": states[:, 0],
            "cls_feats": model.pooler(states),
            **{f"hidden{number:02}": block for number, block in enumerate(blocks)},
        }
    }
    alone: dict[str, tuple[dict[str, Tensor], Any, Any]] = {}
    if model.config.itc_heads and model.config.vl_itc_heads:
        alone["image"] = image, model.itc_image_proj, model.itc_vl_image_proj
        alone["text"] = text, model.itc_text_proj, model.itc_vl_text_proj
    for kind, (inputs, head, vl_head) in alone.items():
        blocks.clear()
        raw.clear()
        own, fused = model.branches(**inputs)
        vectors = {f"{kind}_feats": own, "cls_feats": F.normalize(head(own[:, 0]), dim=-1)}
        passes[f"infer_{kind}"] = {
            **vectors,
            "raw_cls_feats": raw[0],
            "cls_vlffn_feats": F.normalize(vl_head(fused[:, 0]), dim=-1),
            **{f"hidden{number:02}": block for number, block in enumerate(blocks)},
        }
        raw.clear()
        own = model(**inputs)
        vectors = {f"{kind}_feats": own, "cls_feats": F.normalize(head(own[:, 0]), dim=-1)}
        passes[f"infer_{kind}_ft"] = {**vectors, "raw_cls_feats": raw[0]}
    return passes


def compare_view_weights(compare: Compare, config: dict[str, Any], official: Tensors) -> None:
    """Attention over views from the cosines and weights that `mmrec inspect --similarity` exports."""
    views, image = official["in/text_views"].numpy(), official["in/image"].numpy()
    both = np.ones(len(image), dtype=bool)
    similarity = np.stack([cosines(image, view, both) for view in views], axis=1)  # (n, views)
    for temperature in config["temperatures"]:
        weights = view_weights(similarity, temperature)
        fused = np.einsum("nv,vnd->nd", weights, views.astype(np.float64))
        name = f"out/Attention_temperature_{temperature}"
        compare("view weights", name, fused, official[name])
