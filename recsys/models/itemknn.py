"""Item-based neighbourhood model (Sarwar et al., WWW 2001; asymmetric cosine: Aiolli, RecSys 2013)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp
from pydantic import BaseModel, Field

from .base import ClosedFormModel, Vectors
from .ease import check_square

Csr: TypeAlias = Any  # a scipy.sparse.csr_matrix (scipy ships no types)
BM25_K1, BM25_B = 1.2, 0.75  # the usual saturation and length normalisation (Robertson & Zaragoza, 2009)
BLOCK = 1024  # items whose similarities are in memory at once


class ItemKNN(ClosedFormModel):
    """score(u, j) = sum over u's items i of w_ij, where w_.j keeps the k items most similar to j:
    w_ij = c_ij / (c_ii^alpha c_jj^(1 - alpha) + shrink), c = X^T X, X the (weighted) interactions.

    `dim` is not used: the vectors are as long as the catalogue, mostly zeros.
    """

    class Options(BaseModel, frozen=True, extra="forbid"):
        k: Annotated[int, Field(ge=1)] = 200  # neighbours of an item
        shrink: Annotated[float, Field(ge=0)] = 1000.0  # pulls similarities of rare items to zero
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5  # 0.5: cosine
        weighting: Literal["none", "tf-idf", "bm25"] = "tf-idf"  # of the interactions, before similarities
        max_memory_gb: Annotated[float, Field(gt=0)] = 16.0  # refuse catalogues whose vectors need more

    def fit(self) -> None:
        check_square(self.data.n_items, 4, self.options.max_memory_gb, "itemknn")
        weighted = weight(self.data.csr(), self.options.weighting)
        by_item = weighted.T.tocsr()
        squares = np.asarray(by_item.multiply(by_item).sum(axis=1)).ravel()  # c_jj
        blocks = [
            self._neighbours(by_item, weighted, squares, start)
            for start in range(0, self.data.n_items, BLOCK)
        ]
        self.weights = sp.vstack(blocks, format="csr")  # row j: the neighbours of j

    def _neighbours(self, by_item: Csr, weighted: Csr, squares: np.ndarray, start: int) -> Csr:
        overlap = (by_item[start : start + BLOCK] @ weighted).tocoo()  # c_ji for a block of items j
        other = (overlap.col != overlap.row + start) & (overlap.data > 0)
        rows, columns = overlap.row[other], overlap.col[other]
        alpha = self.options.alpha
        scale = squares[columns] ** alpha * squares[rows + start] ** (1 - alpha) + self.options.shrink
        similarity = (overlap.data[other] / scale).astype(np.float32)
        kept = largest_per_row(rows, columns, similarity, self.options.k)
        entries = (similarity[kept], (rows[kept], columns[kept]))
        return sp.csr_matrix(entries, shape=overlap.shape)

    def vectors(self) -> Vectors:
        return Vectors(self.data.csr(), self.weights.toarray())


def largest_per_row(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """Positions of each row's k largest values; ties go to the lower column."""
    order = np.lexsort((columns, -values, rows))
    sorted_rows = rows[order]
    first = np.searchsorted(sorted_rows, sorted_rows, side="left")
    return order[np.arange(len(order)) - first < k]


def weight(interactions: Csr, weighting: str) -> Csr:
    """X from R: users are the documents' terms, items the documents.

    tf-idf: an interaction counts log(n_items / d_u), so that heavy users say less about each item.
    bm25: that idf, saturated by how many users the item has. Weights are scaled to a mean square of 1, so
    that `shrink` means the same with all of them.
    """
    if weighting == "none":
        return interactions
    n_items = interactions.shape[1]
    user_degree = np.diff(interactions.indptr)
    item_degree = np.bincount(interactions.indices, minlength=n_items)
    idf = np.log(n_items / np.maximum(user_degree, 1))
    values = np.repeat(idf, user_degree)
    if weighting == "bm25":
        length = item_degree[interactions.indices] / item_degree.mean()
        values = values * (BM25_K1 + 1) / (1 + BM25_K1 * (1 - BM25_B + BM25_B * length))
    values /= max(np.sqrt(np.square(values).mean()), 1e-12)
    entries = (values.astype(np.float32), interactions.indices, interactions.indptr)
    return sp.csr_matrix(entries, shape=interactions.shape)
