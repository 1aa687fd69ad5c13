"""Adam for large embedding tables: every row is updated in every step, also where gradients are sparse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .errors import InputError

BETAS, EPSILON = (0.9, 0.999), 1e-8
_STATE = ("exp_avg", "exp_avg_sq", "step")  # as torch.optim.Adam names them


class Adam:
    """Adam (Kingma & Ba, ICLR 2015) in one fused kernel; exact for sparse gradients too.

    It calls the kernel of `torch.optim.Adam(fused=True)` itself: the first optimiser that torch builds loads
    its compiler, which takes longer than all else before the first step. A sparse gradient
    (`nn.Embedding(sparse=True)`) saves the backward pass a table-sized tensor per lookup. It is summed into
    a buffer that is zero between steps, so the update is that of the dense gradient. A parameter without a
    gradient stays as it is.
    """

    def __init__(self, model: nn.Module, learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._state: dict[str, dict[str, Tensor]] = {}  # of the parameters that were updated so far
        self._buffers: dict[Tensor, Tensor] = {}  # parameter -> zeros of its shape

    @torch.no_grad()
    def step(self) -> None:
        """Apply the gradients and clear them."""
        touched = [self._densify(p) for p in self._named.values() if p.grad is not None and p.grad.is_sparse]
        updated = {name: p for name, p in self._named.items() if p.grad is not None}
        parameters: list[Tensor] = list(updated.values())
        states = [self._state_of(name, p) for name, p in updated.items()]
        first, second, steps = ([state[key] for state in states] for key in _STATE)
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            first,
            second,
            [],
            steps,
            lr=self.learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )
        for buffer, rows in touched:
            buffer.index_fill_(0, rows, 0)
        for parameter in parameters:
            parameter.grad = None

    def _state_of(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        if name not in self._state:
            moments = torch.zeros_like(parameter), torch.zeros_like(parameter)
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self._state[name] = dict(zip(_STATE, (*moments, step), strict=True))
        return self._state[name]

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
        for name, state in self._state.items():
            for key, value in state.items():
                yield f"{name}.{key}", value

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave; InputError when it is of other parameters."""
        for name, value in tensors.items():
            parameter, _, key = name.rpartition(".")
            owner = self._named.get(parameter)
            if owner is None or value.shape not in (owner.shape, torch.Size(())):
                raise InputError(f"the checkpoint holds Adam state of another model ('{name}'); remove it")
            self._state.setdefault(parameter, {})[key] = value.to(owner.device)
