"""State dicts in official layouts: read wherever they are nested, and held against the keys of a model."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError, first_line
from ..files import atomic_path
from ..tensors import save_tensors
from .low_rank import plain_state

PARALLEL = "module."  # before every key that torch's parallel wrappers have saved
_NAMED = 3  # bad keys that an error lists
UNREADABLE = (  # what torch's and open_clip's readers raise for no state dict, or one of another model
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StopIteration,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


def weights_file(path: Path, name: str, kind: str) -> Path:
    """The file itself, or that of the usual name in a folder; FileNotFoundError where it is not there."""
    weights = path / name if path.is_dir() else path
    if not weights.is_file():
        raise FileNotFoundError(f"checkpoint {weights} of {kind}: no such file")
    return weights


def read_settings(sidecar: Path, keys: Sequence[str]) -> dict[str, int]:
    """What the JSON beside the weights says, positive integers for some of `keys`; nothing where there is
    none. InputError for anything else in it."""
    if not sidecar.is_file():
        return {}
    known = ", ".join(f'"{key}": n' for key in keys)
    expected = f"{sidecar}: expected {{{known}}}, any of them left out at will"
    try:
        settings = json.loads(sidecar.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{expected}; found no JSON ({first_line(error)})") from error
    if not isinstance(settings, dict) or not settings.keys() <= set(keys):
        raise InputError(f"{expected}; found {settings}")
    if not all(type(value) is int and value > 0 for value in settings.values()):
        raise InputError(f"{expected}; found {settings}")
    return settings


def read_state(weights: Path, nestings: Sequence[str]) -> dict[str, Tensor]:
    """The tensors by key, under the first of `nestings` that the file has, else by themselves."""
    try:
        content = _content(weights)
    except UNREADABLE as error:
        raise InputError(
            f"{weights} cannot be read ({_reason(error)}); "
            "expected safetensors or a state dict saved by torch"
        ) from error
    for nesting in nestings:
        if isinstance(content, dict) and isinstance(content.get(nesting), dict):
            content = content[nesting]
            break
    odd = _oddity(content)
    if odd is not None:
        places = ", ".join(f"'{nesting}'" for nesting in nestings)
        raise InputError(
            f"{weights} holds no state dict, neither under {places} nor by itself: found {odd}; expected "
            "tensors by name"
        )
    if all(key.startswith(PARALLEL) for key in content):
        return {key.removeprefix(PARALLEL): tensor for key, tensor in content.items()}
    return content


def _content(weights: Path) -> Any:
    if weights.suffix == ".safetensors":
        return load_file(weights)
    # Fine-tuned checkpoints keep their command line beside the weights: plain values, no code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(weights, map_location="cpu", weights_only=True)


def _reason(error: BaseException) -> str:
    """What torch's unpickler found, without its advice to read the file unsafely."""
    return str(error).partition("WeightsUnpickler error: ")[2].split("\n")[0] or first_line(error)


def _oddity(content: Any) -> str | None:
    """What in `content` keeps it from being tensors by name."""
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            return f"{key!r} with a {type(value).__name__}"
    return None


def write_state(path: Path, model: nn.Module) -> None:
    """The model's tensors as safetensors, all at once, with adapters merged into their matrices."""
    with atomic_path(path) as unfinished:
        save_tensors(unfinished, plain_state(model))


def shape_of(weights: Path, state: Mapping[str, Tensor], key: str, n_axes: int, kind: str) -> torch.Size:
    """The shape of a tensor that tells sizes; InputError where it is not there or has other axes."""
    if key not in state:
        raise InputError(f"{weights} is no {kind}: it lacks '{key}'; it has {_listed(state)}")
    if state[key].dim() != n_axes:
        raise InputError(f"{weights}: '{key}' has shape {_axes(state[key])}; expected {n_axes} axes")
    return state[key].shape


def layer_numbers(state: Iterable[str], pattern: str) -> list[int]:
    """The numbers that the first group of `pattern` has at the beginning of keys, rising."""
    return sorted({int(match[1]) for match in map(re.compile(pattern).match, state) if match})


def check_keys(weights: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], kind: str) -> None:
    """InputError that names the keys which are missing, too many, or of another shape than `expected`."""
    problems = []
    missing = [f"'{key}' {_axes(expected[key])}" for key in expected if key not in state]
    if missing:
        problems.append(f"lacks {_listed(missing)}")
    unexpected = [f"'{key}' {_axes(state[key])}" for key in state if key not in expected]
    if unexpected:
        problems.append(f"has {_listed(unexpected)}, which a {kind} of its sizes has not")
    misshapen = [
        f"'{key}' of shape {_axes(state[key])}, expected {_axes(tensor)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    if misshapen:
        problems.append(f"has {_listed(misshapen)}")
    if problems:
        raise InputError(
            f"{weights} {'; '.join(problems)}. Its sizes are taken from its first layer and embeddings."
        )


def _axes(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (", ".join(names[:_NAMED]) or "nothing") + more
