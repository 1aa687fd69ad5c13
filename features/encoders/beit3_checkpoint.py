"""BEiT-3 checkpoints: the official layout read strictly, sizes told by the tensors; and the same written."""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files import atomic_path, write_json
from .beit3_model import FIRST_POSITION, IMAGE, TEXT, Beit3, Beit3Config
from .multiway import resize_patch_rows
from .registry import BEIT3_SIDECAR, BEIT3_TOKENIZER, BEIT3_WEIGHTS
from .state_dicts import (
    check_keys,
    layer_numbers,
    read_settings,
    read_state,
    shape_of,
    weights_file,
    write_state,
)

KIND = "BEiT-3"
NESTINGS = ("model", "module")  # keys of a checkpoint under which its state dict may lie
HEAD_WIDTH = 64  # of an attention head in every official checkpoint
KEPT_ROWS = FIRST_POSITION + 1  # the image's position rows that belong to no patch: two unused, class token
_POSITIONS = "beit3.encoder.embed_positions.{}.weight"


@dataclass(frozen=True, slots=True)
class Beit3Files:
    """The files of a BEiT-3 on this disk, and what its tensors cannot say."""

    weights: Path
    tokenizer: Path
    heads: int | None  # None: as many as are 64 wide
    context_length: int | None  # tokens of a text; None: the usual number


def find_beit3(name: str) -> Beit3Files:
    """The files of "path/to/checkpoint.pth", or of a folder that `write_beit3` wrote.

    Raises FileNotFoundError for a missing checkpoint, InputError where no tokenizer, or more than one, lies
    beside it.
    """
    weights = weights_file(Path(name), BEIT3_WEIGHTS, KIND)
    settings = _settings(weights)
    return Beit3Files(weights, _tokenizer(weights), settings.get("heads"), settings.get("context_length"))


def load_beit3(path: Path, image_size: int | None = None, heads: int | None = None) -> Beit3:
    """The checkpoint with the heads that it has, in float32 on the CPU and evaluation mode.

    `image_size` other than the checkpoint's interpolates the patches' positions. `heads` is the number of
    attention heads; by default what `beit3_config.json` beside the file says, else width / 64.
    Raises FileNotFoundError, and InputError for a file that is no BEiT-3, naming the keys that differ.
    """
    weights = weights_file(path, BEIT3_WEIGHTS, KIND)
    state = read_state(weights, NESTINGS)
    config = _infer_config(weights, state, heads or _settings(weights).get("heads"))
    with torch.device("meta"):
        model = Beit3(config)
    check_keys(weights, state, model.state_dict(), KIND)
    if image_size is not None and image_size != config.image_size:
        config = _resized(config, image_size)
        key = _POSITIONS.format(IMAGE)
        state[key] = _resized_positions(state[key], config.grid)
        with torch.device("meta"):
            model = Beit3(config)
    model.load_state_dict({key: tensor.float() for key, tensor in state.items()}, assign=True)
    return model.eval()


def write_beit3(folder: Path, model: Beit3, tokenizer: Path, context_length: int) -> None:
    """Write the model so that `beit3:FOLDER` loads it: tokenizer and settings first, weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / BEIT3_TOKENIZER) as unfinished:
        shutil.copyfile(tokenizer, unfinished)
    write_json(folder / BEIT3_SIDECAR, {"heads": model.config.heads, "context_length": context_length})
    write_state(folder / BEIT3_WEIGHTS, model)


def _tokenizer(weights: Path) -> Path:
    """The sentencepiece model beside the weights: of the same name, `beit3.spm`, or the only one."""
    folder = weights.parent
    found = sorted(folder.glob("*.spm"))
    for wanted in (weights.with_suffix(".spm"), folder / BEIT3_TOKENIZER):
        if wanted in found:
            return wanted
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{weights}: expected its sentencepiece model beside it as {BEIT3_TOKENIZER}; "
            f".spm files there: {names}"
        )
    return found[0]


def _settings(weights: Path) -> dict[str, int]:
    return read_settings(weights.with_name(BEIT3_SIDECAR), ("heads", "context_length"))


def _infer_config(weights: Path, state: dict[str, Tensor], heads: int | None) -> Beit3Config:
    """The sizes that the tensors' shapes tell; what is missing or misshapen is left to `check_keys`."""

    def shape(key: str, n_axes: int) -> torch.Size:
        return shape_of(weights, state, key, n_axes, KIND)

    width, _, patch_size, _ = shape("beit3.vision_embed.proj.weight", 4)
    image_rows, text_rows = (shape(_POSITIONS.format(expert), 2)[0] for expert in (IMAGE, TEXT))
    side = math.isqrt(max(image_rows - KEPT_ROWS, 0))
    if side < 1 or side**2 + KEPT_ROWS != image_rows:
        raise InputError(
            f"{weights}: '{_POSITIONS.format(IMAGE)}' has {image_rows} rows; expected {KEPT_ROWS} and "
            "one for each patch of a square image"
        )
    if heads is None and width % HEAD_WIDTH:
        raise InputError(
            f"{weights}: a width of {width} does not tell how many attention heads there are; "
            f'put {{"heads": n}} into {BEIT3_SIDECAR} beside it'
        )
    sizes: dict[str, Any] = {
        "width": width,
        "layers": max(layer_numbers(state, r"beit3\.encoder\.layers\.(\d+)\."), default=0) + 1,
        "heads": heads or width // HEAD_WIDTH,
        "hidden": shape("beit3.encoder.layers.0.ffn.A.fc1.weight", 2)[0],
        "vocabulary": shape("beit3.text_embed.weight", 2)[0],
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "text_positions": text_rows,
        "retrieval_heads": not {"vision_head.weight", "language_head.weight", "logit_scale"}.isdisjoint(
            state
        ),
        "mlm_head": not {"mlm_head.weight", "mlm_head.bias"}.isdisjoint(state),
        "mim_outputs": shape("mim_head.weight", 2)[0] if "mim_head.weight" in state else 0,
    }
    try:
        return Beit3Config(**sizes)
    except ValueError as error:
        raise InputError(f"{weights}: {error}") from error


def _resized(config: Beit3Config, image_size: int) -> Beit3Config:
    try:
        return dataclasses.replace(config, image_size=image_size)
    except ValueError as error:
        raise InputError(f"image_size: {error}") from error


def _resized_positions(rows: Tensor, grid: int) -> Tensor:
    """The image's position rows for grid x grid patches; the first three stay."""
    return torch.cat([rows[:KEPT_ROWS], resize_patch_rows(rows[KEPT_ROWS:], grid)])
