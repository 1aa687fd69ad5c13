"""Adam for large embedding tables: every row is updated in every step, also where gradients are sparse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .errors import InputError


class Adam:
    """torch's Adam (Kingma & Ba, ICLR 2015), fused where the device has it; exact for sparse gradients too.

    A sparse gradient (`nn.Embedding(sparse=True)`) saves the backward pass a table-sized tensor per lookup.
    It is summed into a buffer that is zero between steps, so the update is that of the dense gradient.
    """

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        fused = all(p.device.type in ("cpu", "cuda") for p in self._named.values())
        self._adam = torch.optim.Adam(self._named.values(), lr=learning_rate, fused=fused)
        self._buffers: dict[Tensor, Tensor] = {}  # parameter -> zeros of its shape

    def step(self) -> None:
        """Apply the gradients and clear them."""
        touched = [self._densify(p) for p in self._named.values() if p.grad is not None and p.grad.is_sparse]
        self._adam.step()
        for buffer, rows in touched:
            buffer.index_fill_(0, rows, 0)
        self._adam.zero_grad()

    def _densify(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        if parameter not in self._buffers:
            self._buffers[parameter] = torch.zeros_like(parameter)
        gradient, buffer = parameter.grad, self._buffers[parameter]
        assert gradient is not None
        rows = gradient._indices()[0]
        buffer.index_add_(0, rows, gradient._values())
        parameter.grad = buffer
        return buffer, rows

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, value) of the step count and both moments of every parameter that was updated so far."""
        for name, parameter in self._named.items():
            for key, value in self._adam.state.get(parameter, {}).items():
                yield f"{name}.{key}", value

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave; InputError when it is of other parameters."""
        for name, value in tensors.items():
            parameter, _, key = name.rpartition(".")
            owner = self._named.get(parameter)
            if owner is None or value.shape not in (owner.shape, torch.Size(())):
                raise InputError(f"the checkpoint holds Adam state of another model ('{name}'); remove it")
            self._adam.state[owner][key] = value.to(owner.device)
