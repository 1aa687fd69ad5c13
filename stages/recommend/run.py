"""Lists for users or items, block by block, into a Parquet file."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ...features.errors import InputError
from ...recsys.listed import rank_listed
from ...recsys.models.base import Vectors
from ...recsys.ranking import Csr, ExactRanker, Ranked
from ..bundle import Bundle
from ..index import open_index
from ..meter import duration
from ..progress import progress_bar
from .filters import Filters, read_filters
from .ids import IdMap
from .lists import list_file
from .new_items import NewItems, describe_new_items
from .queries import Queries, model_users, neighbours, new_users
from .source import Source

log = logging.getLogger(__name__)

_BLOCK = 16_384  # lists of a block, at most
_PLACE_BYTES = 96  # of one place of a list, from the search to the file
_REPORTED = 60.0  # seconds between lines of the log

# (positions among the ids, vectors, what may not appear) -> lists
_Search = Callable[[np.ndarray, "np.ndarray | Csr", "Csr | None"], Ranked]


@dataclass(frozen=True, slots=True)
class Request:
    """What lists are asked for."""

    k: int = 20
    users: Path | None = None  # ids; default: all users of the model
    new_users: Path | None = None  # user_id, item_id: lists for these in place of the model's users
    new_items: Path | None = None  # a feature store with items that the model was not trained on
    similar_items: bool = False  # lists of items for items
    items: Path | None = None  # ids; default: all
    allow: Path | None = None
    deny: Path | None = None
    where: tuple[str, ...] = ()
    include_seen: bool = False
    index: bool = False  # search through the bundle's index
    memory_mb: int = 1024  # of blocks, beside the model
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Report:
    """What was written."""

    lists: int
    rows: int
    short: int  # lists with fewer than k items, `empty` ones among them
    empty: int
    candidates: int
    new_items: int
    search: str
    seconds: float  # of ranking and writing
    total_seconds: float

    @property
    def rate(self) -> float:
        """Lists a second."""
        return self.lists / self.seconds if self.seconds else 0.0


def recommend(source: Source, request: Request, output: Path) -> Report:
    """Write the lists that are asked for to `output`; raises InputError for files that cannot be used."""
    started = time.perf_counter()
    new = None
    if request.new_items is not None:
        if request.index:
            raise InputError("the index does not hold new items: leave out --index, or --new-items")
        new = describe_new_items(source, request.new_items, request.memory_mb, request.device)
    item_ids, vectors = _with_new(source, new)
    items = IdMap(item_ids)
    queries, vectors = _queries(source, request, items, vectors)
    catalog = source.catalog() if request.where else None
    filters = read_filters(IdMap(queries.ids), items, request.allow, request.deny, request.where, catalog)
    width = min(request.k, len(items))
    search, name = _search(source, request, vectors, filters, width)
    about = {"source": source.name, "model": source.model.config["model"], "k": request.k, "search": name}
    names = ("item_id", "similar_item_id") if request.similar_items else ("user_id", "item_id")
    listing = time.perf_counter()
    with list_file(output, queries.ids, item_ids, names, request.k, about) as writer:
        rows = block_rows(request.memory_mb, vectors.shape[1], width)
        _write(queries, search, rows, filters.denied, writer.write)
    now = time.perf_counter()
    return Report(
        queries.count,
        writer.rows,
        writer.short,
        writer.empty,
        len(items) if filters.candidates is None else int(filters.candidates.sum()),
        0 if new is None else len(new.ids),
        name,
        now - listing,
        now - started,
    )


def _queries(
    source: Source, request: Request, items: IdMap, vectors: np.ndarray
) -> tuple[Queries, np.ndarray]:
    """Who asks, and the item vectors (I, d) that they ask in."""
    if not request.similar_items:
        if request.new_users is not None:
            return new_users(source, items, vectors, request.new_users), vectors
        return model_users(source, items, request.users, request.include_seen), vectors
    if source.model.has_histories:
        if request.new_items is not None:
            raise InputError(
                f"{source.model.config['model']} knows the neighbours of the items that it was trained on "
                "alone; leave --new-items out"
            )
        return neighbours(source, items, vectors, request.items), vectors
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit = (vectors / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(np.float32)
    return neighbours(source, items, unit, request.items), unit


def _search(
    source: Source, request: Request, vectors: np.ndarray, filters: Filters, k: int
) -> tuple[_Search, str]:
    """How lists of k are found, and what that is called."""
    if filters.allowed is not None:
        allowed = filters.allowed
        if filters.candidates is not None:
            allowed = allowed.multiply(filters.candidates).tocsr()
            allowed.eliminate_zeros()
        return lambda idx, block, exclude: rank_listed(
            block, vectors, k, allowed[idx], exclude
        ), "listed candidates"
    if request.index:
        model = source.model
        none = np.empty((0, model.items.shape[1]), np.float32)
        bundle = Bundle(model.config, model.user_ids[:0], model.item_ids, Vectors(none, model.items))
        index, facts = open_index(source.index_folder, bundle, request.device)
        return lambda _, block, exclude: index.search(
            block, k, exclude, filters.candidates
        ), f"{facts['kind']} index"
    ranker = ExactRanker(vectors, filters.candidates, max(1, request.memory_mb // 2), request.device)
    return lambda _, block, exclude: ranker.rank(block, k, exclude), "exact"


def _write(
    queries: Queries,
    search: _Search,
    rows: int,
    denied: Csr | None,
    write: Callable[[np.ndarray, Ranked], None],
) -> None:
    done, started = 0, time.perf_counter()
    said = started
    with progress_bar("recommend", queries.count) as advance:
        for idx, vectors in queries.blocks(rows):
            write(idx, search(idx, vectors, _excluded(queries, denied, idx)))
            advance(len(idx))
            done, now = done + len(idx), time.perf_counter()
            if now - said > _REPORTED:
                rate, said = done / (now - started), now
                left = duration((queries.count - done) / rate)
                log.info("%s", f"{done:,} of {queries.count:,} lists, {rate:,.0f}/s, {left} left")


def block_rows(memory_mb: int, dim: int, k: int) -> int:
    """Lists of a block whose vectors and places take a quarter of the budget; at least one."""
    return max(1, min(_BLOCK, memory_mb * 2**20 // 4 // (8 * min(dim, 4096) + _PLACE_BYTES * k)))


def _excluded(queries: Queries, denied: Csr | None, idx: np.ndarray) -> Csr | None:
    parts = [matrix[idx] for matrix in (queries.exclude, denied) if matrix is not None]
    return parts[0] + parts[1] if len(parts) == 2 else parts[0] if parts else None


def _with_new(source: Source, new: NewItems | None) -> tuple[pl.Series, np.ndarray]:
    model = source.model
    if new is None:
        return model.item_ids, model.items
    return pl.concat([model.item_ids, new.ids]), np.concatenate([model.items, new.vectors])
