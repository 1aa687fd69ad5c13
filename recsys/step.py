"""One training step: the loss of a batch, its gradients, Adam."""

from __future__ import annotations

from torch import Tensor

from .adam import Adam
from .models.base import GradientModel
from .team import Team, Triples


class Step:
    """Called with a batch, takes one step and returns the loss and its parts, detached.

    In a team, each process computes the loss of its rows; what is returned is its share of the loss, and sums
    up to the batch's.
    """

    def __init__(self, model: GradientModel, adam: Adam, team: Team) -> None:
        self.model, self.adam, self.team = model, adam, team
        tables = {module.weight for module in model.modules() if getattr(module, "sparse", False)}
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.sparse = [p for p in parameters if p in tables]
        self.dense = [p for p in parameters if p not in tables]

    def __call__(self, triples: Triples) -> dict[str, Tensor]:
        parts = self.differentiate(triples)
        self.adam.step()
        return parts

    def differentiate(self, triples: Triples) -> dict[str, Tensor]:
        """Leave the gradients of a batch, of all processes, with the parameters; what a call returns."""
        rows, share = self.team.share(triples)
        parts = self.model.loss(*rows)
        if share < 1:
            parts = {name: part * share for name, part in parts.items()}
        parts["loss"].backward()
        self.team.sum_gradients(self.dense, self.sparse)
        return {name: part.detach() for name, part in parts.items()}

    def clear(self) -> None:
        """Drop the gradients of a step that was not finished."""
        for parameter in (*self.dense, *self.sparse):
            parameter.grad = None
