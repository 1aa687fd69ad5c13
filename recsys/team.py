"""Who trains a model: one process, or several that share out its batches (`parallel`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Triples = tuple[Tensor, Tensor, Tensor]  # users, positives, negatives, each (b,)
State = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors and a JSON-able rest
T = TypeVar("T")


class Team:
    """One process: nothing to share out, nobody to wait for."""

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process validates, decides and writes."""
        return self.rank == 0

    def place(self, device: str) -> str:
        """The device of this process, where `device` is what the user asked for."""
        return device

    def share(self, triples: Triples) -> tuple[Triples, float]:
        """The rows of a batch that are this process's, and their share of the batch."""
        return triples, 1.0

    def sum_gradients(self, dense: Sequence[Tensor], sparse: Sequence[Tensor]) -> None:
        """Put the sum over all processes in place of every parameter's gradient; those of `sparse` hold
        rows."""

    def reached(self, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Those that some process has a gradient of, each with one: what has no input here may have one
        elsewhere. The others stay without, and so as they are: weight decay would wear them away."""
        held = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        reached = [p for p, n in zip(parameters, self.sum(held).tolist(), strict=True) if n]
        for parameter in reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return reached

    def check(self) -> None:
        """Raise InputError where a parameter had a gradient on some processes only since the last check."""

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        return values

    def align(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors by those of the leader."""

    def decide(self, work: Callable[[], T]) -> T:
        """What `work` returns to the leader, JSON-able, on all processes; the others wait, however long."""
        return work()

    def give(self, state: State | None) -> State | None:
        """Tensors and a JSON-able rest, or None, from the leader to all."""
        return state

    def leader_first(self, work: Callable[[], T]) -> T:
        """`work()` on every process, on the leader before the others: what it caches, they find."""
        return work()
