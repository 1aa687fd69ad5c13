"""BEiT-3 checkpoints: the official layout read strictly, sizes told by the tensors; and the same written."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pickle
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, first_line
from ..files import atomic_path, write_json
from .beit3_model import FIRST_POSITION, IMAGE, TEXT, Beit3, Beit3Config
from .multiway import resize_patch_rows
from .registry import BEIT3_SIDECAR, BEIT3_TOKENIZER, BEIT3_WEIGHTS

HEAD_WIDTH = 64  # of an attention head in every official checkpoint
KEPT_ROWS = FIRST_POSITION + 1  # the image's position rows that belong to no patch: two unused, class token
_NAMED = 3  # bad keys that an error lists
_POSITIONS = "beit3.encoder.embed_positions.{}.weight"
_UNREADABLE = (EOFError, OSError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError)


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
    weights = _weights(Path(name))
    settings = _settings(weights)
    return Beit3Files(weights, _tokenizer(weights), settings.get("heads"), settings.get("context_length"))


def load_beit3(path: Path, image_size: int | None = None, heads: int | None = None) -> Beit3:
    """The checkpoint with the heads that it has, in float32 on the CPU and evaluation mode.

    `image_size` other than the checkpoint's interpolates the patches' positions. `heads` is the number of
    attention heads; by default what `beit3_config.json` beside the file says, else width / 64.
    Raises FileNotFoundError, and InputError for a file that is no BEiT-3, naming the keys that differ.
    """
    weights = _weights(path)
    state = _read_state(weights)
    config = _infer_config(weights, state, heads or _settings(weights).get("heads"))
    with torch.device("meta"):
        model = Beit3(config)
    _check_keys(weights, state, {key: tensor.shape for key, tensor in model.state_dict().items()})
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
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_path(folder / BEIT3_WEIGHTS) as unfinished:
        save_file(state, unfinished)


def _weights(path: Path) -> Path:
    weights = path / BEIT3_WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise FileNotFoundError(f"checkpoint {weights} of BEiT-3: no such file")
    return weights


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
    """What `beit3_config.json` beside the weights says; nothing where there is none."""
    sidecar = weights.with_name(BEIT3_SIDECAR)
    if not sidecar.is_file():
        return {}
    expected = f'{sidecar}: expected {{"heads": n, "context_length": n}}, either of them left out at will'
    try:
        settings = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{expected}; found no JSON ({first_line(error)})") from error
    if not isinstance(settings, dict) or not settings.keys() <= {"heads", "context_length"}:
        raise InputError(f"{expected}; found {settings}")
    if not all(type(value) is int and value > 0 for value in settings.values()):
        raise InputError(f"{expected}; found {settings}")
    return settings


def _read_state(weights: Path) -> dict[str, Tensor]:
    """The tensors by key, wherever in the file they are nested."""
    try:
        if weights.suffix == ".safetensors":
            return load_file(weights)
        # Fine-tuned checkpoints keep their command line beside the weights: plain values, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content: Any = torch.load(weights, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise InputError(
            f"{weights} cannot be read ({first_line(error)}); "
            "expected safetensors or a state dict saved by torch"
        ) from error
    for nesting in ("model", "module"):
        if isinstance(content, dict) and isinstance(content.get(nesting), dict):
            content = content[nesting]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{weights} holds no state dict, neither under 'model' or 'module' nor by itself")
    return content


def _infer_config(weights: Path, state: dict[str, Tensor], heads: int | None) -> Beit3Config:
    """The sizes that the tensors' shapes tell; what is missing or misshapen is left to `_check_keys`."""

    def shape(key: str, n_axes: int) -> Sequence[int]:
        if key not in state:
            raise InputError(f"{weights} is no BEiT-3: it lacks '{key}'; it has {_listed(state)}")
        if state[key].dim() != n_axes:
            raise InputError(f"{weights}: '{key}' has shape {_axes(state[key])}; expected {n_axes} axes")
        return state[key].shape

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
    layer_ids = [
        int(match[1]) for match in map(re.compile(r"beit3\.encoder\.layers\.(\d+)\.").match, state) if match
    ]
    sizes: dict[str, Any] = {
        "width": width,
        "layers": max(layer_ids, default=0) + 1,
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


def _check_keys(weights: Path, state: dict[str, Tensor], expected: dict[str, torch.Size]) -> None:
    """InputError that names the keys which are missing, too many, or of another shape."""
    problems = []
    missing = [f"'{key}' {list(expected[key])}" for key in expected if key not in state]
    if missing:
        problems.append(f"lacks {_listed(missing)}")
    unexpected = [f"'{key}' {_axes(state[key])}" for key in state if key not in expected]
    if unexpected:
        problems.append(f"has {_listed(unexpected)}, which a BEiT-3 of its sizes has not")
    misshapen = [
        f"'{key}' of shape {_axes(state[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    if misshapen:
        problems.append(f"has {_listed(misshapen)}")
    if problems:
        raise InputError(
            f"{weights} {'; '.join(problems)}. Its sizes are taken from its first layer and embeddings."
        )


def _resized(config: Beit3Config, image_size: int) -> Beit3Config:
    try:
        return dataclasses.replace(config, image_size=image_size)
    except ValueError as error:
        raise InputError(f"extract.image_size: {error}") from error


def _resized_positions(rows: Tensor, grid: int) -> Tensor:
    """The image's position rows for grid x grid patches; the first three stay."""
    return torch.cat([rows[:KEPT_ROWS], resize_patch_rows(rows[KEPT_ROWS:], grid)])


def _axes(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "nothing") + more
