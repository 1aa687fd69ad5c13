"""The same list for everybody: the floor that every model has to beat."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel

from .base import ClosedFormModel, Vectors


class Popularity(ClosedFormModel):
    """score(u, i) = number of training interactions of item i."""

    class Options(BaseModel, frozen=True, extra="forbid"):
        """Popularity has no options."""

    def fit(self) -> None:
        self.counts = self.data.item_degree.cpu().numpy().astype(np.float32)

    def vectors(self) -> Vectors:
        return Vectors(np.ones((self.data.n_users, 1), np.float32), self.counts[:, None])
