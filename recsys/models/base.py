"""What a recommender is: built from `TrainingData`, ends in `Vectors` whose inner product is the score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from ..errors import InputError
from ..modalities import Modalities


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The training interactions, sorted by (user, item) without duplicates, and the items' features.

    All tensors lie on one device. Raises InputError for indices out of range, unsorted or repeated pairs,
    and for features with another number of rows than there are items.
    """

    n_users: int
    n_items: int
    user_idx: Tensor  # (n,) int64
    item_idx: Tensor  # (n,) int64
    modalities: Modalities = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.user_idx.shape != self.item_idx.shape or self.user_idx.ndim != 1 or not len(self.user_idx):
            raise InputError(
                f"training pairs have shapes {tuple(self.user_idx.shape)} and {tuple(self.item_idx.shape)}; "
                "expected two vectors of one length, at least 1"
            )
        for name, idx, size in (("user", self.user_idx, self.n_users), ("item", self.item_idx, self.n_items)):
            low, high = int(idx.min()), int(idx.max())
            if low < 0 or high >= size:
                raise InputError(f"{name}_idx spans {low} to {high}; expected 0 to {size - 1}")
        if not bool((self.keys[1:] > self.keys[:-1]).all()):
            raise InputError("training pairs must be sorted by (user, item) and unique")
        for view, modality in self.modalities.items():
            if len(modality.values) != self.n_items:
                raise InputError(f"view '{view}' has {len(modality.values)} rows for {self.n_items} items")

    @property
    def device(self) -> torch.device:
        return self.user_idx.device

    def __len__(self) -> int:
        return len(self.user_idx)

    @cached_property
    def keys(self) -> Tensor:
        """user_idx * n_items + item_idx, (n,) int64, strictly ascending: membership by `searchsorted`."""
        return self.user_idx * self.n_items + self.item_idx

    @cached_property
    def user_degree(self) -> Tensor:
        """Training interactions per user, (n_users,) int64."""
        return torch.bincount(self.user_idx, minlength=self.n_users)

    @cached_property
    def item_degree(self) -> Tensor:
        """Training interactions per item, (n_items,) int64; 0 for cold items."""
        return torch.bincount(self.item_idx, minlength=self.n_items)

    def csr(self) -> sp.csr_matrix:
        """The (n_users, n_items) matrix R of float32 ones, on the CPU, with sorted indices."""
        indptr = np.concatenate(([0], np.cumsum(self.user_degree.cpu().numpy())))
        indices, ones = self.item_idx.cpu().numpy(), np.ones(len(self), dtype=np.float32)
        return sp.csr_matrix((ones, indices, indptr), shape=(self.n_users, self.n_items))

    def to(self, device: torch.device | str) -> TrainingData:
        modalities = {view: modality.to(device) for view, modality in self.modalities.items()}
        return replace(
            self, user_idx=self.user_idx.to(device), item_idx=self.item_idx.to(device), modalities=modalities
        )


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """One row per user and item; score(u, i) = users[u] . items[i]. Memory models have sparse user rows."""

    users: np.ndarray | sp.csr_matrix  # (n_users, d) float32
    items: np.ndarray  # (n_items, d) float32

    def __post_init__(self) -> None:
        users, items = tuple(self.users.shape or ()), self.items.shape
        if len(users) != 2 or len(items) != 2 or users[1] != items[1]:
            raise InputError(f"user and item vectors have shapes {users} and {items}; expected (n, d), one d")


class GradientModel(nn.Module, ABC):
    """A recommender trained by gradient steps on (user, positive, negative) triples (`training.fit`).

    The constructor draws initial parameters from torch's default generator, which the caller seeds, on the
    CPU or on `data.device`. What `fit` must restore on resume is a parameter or a persistent buffer; what can
    be rebuilt from `data` and `options` is a buffer with `persistent=False`.
    """

    Options: ClassVar[type[BaseModel]]
    rows_independent: bool = True  # False: the loss compares rows of a batch with each other
    reads_views: ClassVar[bool] = True  # False: features are neither loaded nor a reason to train again

    def __init__(self, data: TrainingData, dim: int, options: Any) -> None:
        super().__init__()
        self.n_users, self.n_items, self.dim, self.options = data.n_users, data.n_items, dim, options

    def start_epoch(self, generator: torch.Generator) -> None:
        """Draw what lasts one epoch (FREEDOM: the kept edges); all randomness comes from `generator`."""

    @abstractmethod
    def loss(self, users: Tensor, positives: Tensor, negatives: Tensor) -> dict[str, Tensor]:
        """Scalars of a batch of triples, each input (b,) int64: "loss" is the total, the others its parts."""

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """Final embeddings of users (n_users, d) and items (n_items, d); in eval mode on the full graph."""

    @torch.no_grad()
    def vectors(self) -> Vectors:
        """`forward` in eval mode as float32 arrays; the training flag is left as it was."""
        training = self.training
        self.eval()
        try:
            users, items = self()
        finally:
            self.train(training)
        return Vectors(users.float().cpu().numpy(), items.float().cpu().numpy())


class ClosedFormModel(ABC):
    """A recommender without gradient steps: `fit` computes it once from the training data."""

    Options: ClassVar[type[BaseModel]]
    reads_views: ClassVar[bool] = False

    def __init__(self, data: TrainingData, dim: int, options: Any) -> None:
        self.data, self.dim, self.options = data, dim, options

    @abstractmethod
    def fit(self) -> None:
        """Compute the model."""

    @abstractmethod
    def vectors(self) -> Vectors:
        """User and item vectors of the fitted model."""


Model = GradientModel | ClosedFormModel
