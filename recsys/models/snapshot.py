"""The representations of the last training step, which the released code of several models ranks with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Snapshot(nn.Module):
    """Users and items as of the last training step, before its update. Saved with the parameters, so that
    the best epoch and a resumed run rank as they did."""

    users: Tensor  # (n_users, width)
    items: Tensor
    taken: Tensor  # () bool

    def __init__(self, n_users: int, n_items: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("users", torch.zeros(n_users, width, device=device))
        self.register_buffer("items", torch.zeros(n_items, width, device=device))
        self.register_buffer("taken", torch.tensor(False, device=device))

    def take(self, users: Tensor, items: Tensor) -> None:
        self.users.copy_(users.detach())
        self.items.copy_(items.detach())
        self.taken.fill_(True)
