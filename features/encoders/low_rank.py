"""Low-rank adapters: a frozen matrix plus a trained product of two thin ones (LoRA, Hu et al., ICLR 2022)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SCALE = 2.0  # alpha / rank


class LowRank(nn.Module):
    """W + SCALE * up @ down, where up is (m, rank), zeros at first, and down (rank, n).

    A parametrization of the weight itself, not a wrapper around the layer's forward pass: attention that
    reads its layers' weights, as torch's and VLMo's does, would pass a wrapper by.
    """

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = 1 / math.sqrt(columns)
        drawn = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(drawn.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + SCALE * self.up @ self.down


def add_adapters(module: nn.Module, rank: int, seed: int, adapted: Callable[[str], bool]) -> int:
    """Adapt the matrices of linear and attention layers whose parameter names `adapted` accepts.

    The outputs stay as they are until something is trained; returns how many matrices have an adapter now.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [
        (part, name)
        for prefix, part in module.named_modules()
        for name in _matrices(part)
        if adapted(f"{prefix}.{name}" if prefix else name)
    ]
    for part, name in found:
        weight = getattr(part, name)
        weight.requires_grad_(False)
        parametrize.register_parametrization(part, name, LowRank(weight, rank, generator), unsafe=True)
    return len(found)


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with every adapter merged into its matrix, under the names of a module without any."""
    merged = {
        f"{prefix}.{name}" if prefix else name: getattr(part, name)
        for prefix, part in module.named_modules()
        if parametrize.is_parametrized(part)
        for name in part.parametrizations  # pyright: ignore[reportGeneralTypeIssues] - a ModuleDict
    }
    own = {name: tensor for name, tensor in module.state_dict().items() if "parametrizations." not in name}
    return {**own, **merged}


def merged(module: nn.Module) -> nn.Module:
    """A copy of the module with every adapter merged into its matrix."""
    plain = copy.deepcopy(module)
    for part in list(plain.modules()):
        if parametrize.is_parametrized(part):
            names = [*part.parametrizations]  # pyright: ignore[reportGeneralTypeIssues] - a ModuleDict
            values = {name: nn.Parameter(getattr(part, name).detach()) for name in names}
            # torch's remove_parametrizations would empty the class that the copy shares with the module.
            part.__class__ = parametrize.type_before_parametrizations(part)
            del part.parametrizations
            for name, value in values.items():
                setattr(part, name, value)
    return plain


def _matrices(part: nn.Module) -> list[str]:
    """The names of the part's own matrices that can be adapted."""
    if isinstance(part, nn.Linear):
        return ["weight"]
    if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None:
        return ["in_proj_weight"]
    return []
