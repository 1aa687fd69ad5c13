"""For whom lists are made: the model's users, users that it was not trained on, or items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from ...features.errors import InputError
from ...recsys.fold_in import FoldIn
from ...recsys.ranking import Csr
from .ids import IdMap, known_rows, named, pair_matrix, read_id_table
from .source import Source

log = logging.getLogger(__name__)

Block = tuple[np.ndarray, np.ndarray | Csr]  # positions (b,) among the ids, vectors (b, d)
_LEARNED_ROWS = 16_384  # users whose vectors are in memory while a fold-in is learned


@dataclass(frozen=True, slots=True)
class Queries:
    """Who asks, with which vectors, and what each of them may not get."""

    ids: pl.Series
    count: int  # of those ids that get a list
    blocks: Callable[[int], Iterator[Block]]  # at most so many at a time
    exclude: Csr | None = None  # (len(ids), I)


def model_users(source: Source, items: IdMap, wanted: Path | None, include_seen: bool) -> Queries:
    """All users of the model, in its order, or those whose ids are in the file `wanted`."""
    users = IdMap(source.model.user_ids)
    chosen = np.ones(len(users), bool)
    if wanted is not None:
        ids = read_id_table(wanted, "user_id")["user_id"]
        chosen = np.zeros(len(users), bool)
        chosen[known_rows(users.rows(ids), ids, "users", wanted)] = True
    exclude = None if include_seen else seen_matrix(source, users, items)

    def blocks(rows: int) -> Iterator[Block]:
        start, gathered, size = 0, [], 0
        for vectors in source.model.users(rows):
            stop = start + vectors.shape[0]
            idx = np.flatnonzero(chosen[start:stop])
            if len(idx):
                gathered.append((idx + start, vectors if len(idx) == vectors.shape[0] else vectors[idx]))
                size += len(idx)
            start = stop
            if size >= rows or (size and start == len(users)):
                yield _joined(gathered)
                gathered, size = [], 0

    return Queries(users.ids, int(chosen.sum()), blocks, exclude)


def new_users(source: Source, items: IdMap, vectors: np.ndarray, path: Path) -> Queries:
    """The users of the table `path` (user_id, item_id), known or not, by the items that they had.

    Models whose user vectors are histories take these as they are; for the others a `FoldIn` is learned from
    their own users. `vectors` (I, d) are those of `items`. Users without a known item are left out.
    """
    table = read_id_table(path)
    if "user_id" not in table.columns:
        raise InputError(f"{path}: no column 'user_id'; expected a row for each user and item that they had")
    given = IdMap(table["user_id"].unique(maintain_order=True))
    histories, unknown = pair_matrix([table], given, items)
    if unknown:
        log.warning("%s: %d of %d rows have an item that the model does not know", path, unknown, len(table))
    kept = np.flatnonzero(np.diff(histories.indptr))
    if not len(kept):
        raise InputError(f"{path}: no user has an item of the model (first items: {named(table['item_id'])})")
    trained = IdMap(source.model.user_ids)
    seen = seen_matrix(source, trained, items)
    if source.model.has_histories:
        known = histories[:, : len(source.model.item_ids)].astype(np.float32)
    else:
        known = _fold_in(source, vectors, seen).vectors(histories)
    same = trained.rows(given.ids)
    before = sparse.csr_matrix(histories.shape, dtype=bool)
    if (same >= 0).any():  # what they had when the model was trained
        owners = np.flatnonzero(same >= 0)
        pick = sparse.csr_matrix(
            (np.ones(len(owners), bool), (owners, same[owners])), (len(given), len(trained))
        )
        before = pick @ seen

    def blocks(rows: int) -> Iterator[Block]:
        for start in range(0, len(kept), rows):
            yield kept[start : start + rows], known[kept[start : start + rows]]

    return Queries(given.ids, len(kept), blocks, histories + before)


def neighbours(source: Source, items: IdMap, unit: np.ndarray, wanted: Path | None) -> Queries:
    """All items, or those of the file `wanted`, with the vectors that find their neighbours: `unit` (I, d),
    or a history of this one item. No item is its own neighbour."""
    chosen = np.arange(len(items))
    if wanted is not None:
        ids = read_id_table(wanted)["item_id"]
        chosen = np.unique(known_rows(items.rows(ids), ids, "items", wanted))
    itself: Csr = sparse.identity(len(items), dtype="float32", format="csr")

    def blocks(rows: int) -> Iterator[Block]:
        for start in range(0, len(chosen), rows):
            idx = chosen[start : start + rows]
            yield idx, itself[idx] if source.model.has_histories else unit[idx]

    return Queries(items.ids, len(chosen), blocks, itself.astype(bool))


def seen_matrix(source: Source, users: IdMap, items: IdMap) -> Csr:
    """(n_users, I): what the model's users had."""
    return pair_matrix(source.seen(), users, items)[0]


def _fold_in(source: Source, vectors: np.ndarray, seen: Csr) -> FoldIn:
    learner, start = FoldIn(vectors), 0
    for block in source.model.users(_LEARNED_ROWS):
        learner.learn(np.asarray(block), seen[start : start + len(block)])
        start += len(block)
    return learner


def _joined(parts: list[Block]) -> Block:
    if len(parts) == 1:
        return parts[0]
    stack = sparse.vstack if sparse.issparse(parts[0][1]) else np.concatenate
    vectors = stack([vectors for _, vectors in parts])
    return np.concatenate([idx for idx, _ in parts]), vectors
