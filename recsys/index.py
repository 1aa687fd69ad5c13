"""The FAISS index over item vectors: approximate or exact search by inner product, without seen items.

FAISS cannot exclude other items for every query, so a search fetches as many more items as a user has seen,
drops those, and ranks the few users exactly for whom that leaves too little or a tie at the cut.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from .config import IndexConfig
from .errors import DivergedError, InputError
from .index_build import build_faiss, indexed_dim, pad
from .ranking import Csr, Ranked, rank_exact, resolve_device
from .topk import top_k

log = logging.getLogger(__name__)

GPU_MAX_K = 2048  # a limit of FAISS
BLOCK_CELLS = 2**21  # fetched (item, score) pairs in memory at a time
BLOCK_USERS = 4096


class ItemIndex:
    """Searches item vectors (I, d) through FAISS. `queries` and `reranked` count users since construction."""

    def __init__(
        self, cpu_index: faiss.Index, items: np.ndarray, facts: dict[str, Any], device: torch.device
    ) -> None:
        if (cpu_index.ntotal, cpu_index.d) != (len(items), indexed_dim(items.shape[1], facts["parameters"])):
            raise InputError(
                f"the index holds {cpu_index.ntotal} vectors of {cpu_index.d} dimensions, the model has "
                f"{items.shape[0]} items of {items.shape[1]}: build the index again"
            )
        self.items, self.facts, self.device = items, facts, device
        self.queries = self.reranked = 0
        self._cpu_index = cpu_index
        self._index, self._gpu = _on_gpu(cpu_index, facts["kind"], device)

    def search(
        self,
        users: np.ndarray | Csr,
        k: int,
        exclude: Csr | None = None,
        candidates: np.ndarray | None = None,
    ) -> Ranked:
        """The k best items of every user (n, d), as `rank_exact` returns them; `exclude` (n, I) never appear.

        With a flat index the lists equal those of `rank_exact`. Otherwise a list may miss items that the
        index does not find, but it is as long as the catalogue allows. Raises DivergedError for user vectors
        that are not finite.
        """
        n, n_items = users.shape[0], len(self.items)
        ranked = Ranked.empty(n, k)
        allowed = n_items if candidates is None else int(candidates.sum())
        if n == 0 or allowed == 0:
            return ranked
        seen = np.zeros(n, np.int64) if exclude is None else np.diff(exclude.indptr)
        unsure = np.zeros(n, dtype=bool)
        for rows, depth in _blocks(k + 1 + seen, allowed if not self._gpu else min(allowed, GPU_MAX_K)):
            vectors = _dense(users[rows])
            masked = None if exclude is None else exclude[rows]
            fetched = self._fetch(vectors, depth, candidates)
            items, scores, unsure[rows] = _finish(*fetched, k, masked, n_items, allowed)
            ranked.items[rows, : items.shape[1]], ranked.scores[rows, : items.shape[1]] = items, scores
        again = np.flatnonzero(unsure)
        if len(again) > 0:
            masked = None if exclude is None else exclude[again]
            exact = rank_exact(users[again], self.items, k, masked, candidates, device=str(self.device))
            ranked.items[again], ranked.scores[again] = exact.items, exact.scores
        self.queries += n
        self.reranked += len(again)
        return ranked

    def to_bytes(self) -> bytes:
        """The FAISS index, for `read_index` of this module or of FAISS itself."""
        return faiss.serialize_index(self._cpu_index).tobytes()

    def _fetch(
        self, vectors: np.ndarray, depth: int, candidates: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """FAISS's (scores, items), both (b, depth), -1 for what it did not find."""
        vectors = pad(vectors, self._cpu_index.d)
        if self._gpu:
            if candidates is None:
                return self._index.search(vectors, depth)
            empty = (len(vectors), depth)  # a GPU index has no selector: these users are ranked exactly
            return np.full(empty, -np.inf, np.float32), np.full(empty, -1, np.int64)
        return self._index.search(vectors, depth, params=self._parameters(depth, candidates))

    def _parameters(self, depth: int, candidates: np.ndarray | None) -> faiss.SearchParameters:
        kind, settings = self.facts["kind"], self.facts["parameters"]
        selector = None
        if candidates is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(candidates, bitorder="little"))  # pyright: ignore[reportCallIssue]
        if kind == "hnsw":
            return faiss.SearchParametersHNSW(  # pyright: ignore[reportAttributeAccessIssue]
                sel=selector, efSearch=max(settings["ef_search"], depth)
            )
        if kind in ("ivf-flat", "ivf-pq"):
            probes = settings["n_probe"]
            return faiss.SearchParametersIVF(sel=selector, nprobe=probes)  # pyright: ignore[reportCallIssue]
        return faiss.SearchParameters(sel=selector)  # pyright: ignore[reportCallIssue]


def build_index(items: np.ndarray, config: IndexConfig) -> ItemIndex:
    """An index over the item vectors (I, d); the same vectors and seed give the same index, on any device.

    `facts["parameters"]` holds the settings in force, which a small catalogue may have lowered. Raises
    InputError for an empty catalogue or a device that is not there, DivergedError for vectors that are not
    finite.
    """
    if items.ndim != 2 or 0 in items.shape:
        raise InputError(f"item vectors have shape {items.shape}: there is nothing to index")
    if not np.isfinite(items).all():
        raise DivergedError("item vectors are not finite: the model has diverged, train again")
    place = resolve_device(config.device)
    vectors = np.ascontiguousarray(items, dtype=np.float32)
    start = time.perf_counter()
    cpu_index, parameters = build_faiss(vectors, config)
    seconds = time.perf_counter() - start
    facts = {
        "kind": config.kind,
        "metric": "inner product",
        "items": len(items),
        "dim": items.shape[1],
        "parameters": parameters,
        "build_seconds": round(seconds, 3),
    }
    log.info("%s index over %d items in %.1f s", config.kind, len(items), seconds)
    return ItemIndex(cpu_index, vectors, facts, place)


def read_index(path: Path, items: np.ndarray, facts: dict[str, Any], device: str = "auto") -> ItemIndex:
    """The index whose `to_bytes` were written to `path`, with the item vectors and facts of its build.

    Raises FileNotFoundError, and InputError when the file is no FAISS index or not one over these items.
    """
    place = resolve_device(device)
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    try:
        cpu_index = faiss.deserialize_index(content)
    except RuntimeError as error:
        raise InputError(f"{path} is not a readable FAISS index: build the index again") from error
    return ItemIndex(cpu_index, np.ascontiguousarray(items, dtype=np.float32), facts, place)


def measure(
    index: ItemIndex,
    users: np.ndarray | Csr,
    k: int,
    exclude: Csr | None = None,
    sample: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """{"recall@k", "queries_per_second", "users", "reranked"} of searches for up to `sample` random users.

    Recall is the share of the exact top k that the index returns; "reranked" is the share of users whom the
    search had to rank exactly, whose recall is therefore 1.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(users.shape[0])[:sample])
    queries, masked = users[chosen], None if exclude is None else exclude[chosen]
    exact = rank_exact(queries, index.items, k, masked, device=str(index.device)).items
    index.search(queries[:1], k, None if masked is None else masked[:1])  # the first call starts the threads
    before, start = index.reranked, time.perf_counter()
    found = index.search(queries, k, masked).items
    seconds = time.perf_counter() - start
    return {
        f"recall@{k}": _overlap(found, exact),
        "queries_per_second": round(len(chosen) / seconds, 1),
        "users": len(chosen),
        "reranked": (index.reranked - before) / len(chosen),
    }


def _overlap(found: np.ndarray, exact: np.ndarray) -> float:
    """Mean share of each exact list (padding aside) that was found; 1 where there is nothing to find."""
    width = max(int(exact.max(initial=0)), int(found.max(initial=0))) + 1
    rows = np.arange(len(exact))[:, None] * width
    hits = (np.isin(rows + exact, (rows + found)[found >= 0]) & (exact >= 0)).sum(axis=1)
    return float((hits / np.maximum((exact >= 0).sum(axis=1), 1))[(exact >= 0).any(axis=1)].mean())


def _on_gpu(cpu_index: faiss.Index, kind: str, device: torch.device) -> tuple[faiss.Index, bool]:
    """(the index to search, whether it is on a GPU); HNSW stays on the CPU, as does a FAISS without GPUs."""
    if device.type == "cpu" or kind == "hnsw" or faiss.get_num_gpus() == 0:
        return cpu_index, False
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, cpu_index), True
    except RuntimeError as error:  # e.g. a code size that FAISS has no kernel for, or too little memory
        log.warning("the %s index is searched on the CPU: %s", kind, error)
        return cpu_index, False


def _blocks(depths: np.ndarray, limit: int) -> Iterator[tuple[np.ndarray, int]]:
    """(users, items to fetch for each) by similar depth, so that one long history costs no one else."""
    order = np.argsort(depths, kind="stable")
    start = 0
    while start < len(order):
        most = min(BLOCK_USERS, max(1, BLOCK_CELLS // min(int(depths[order[start]]) * 2, limit)))
        block = order[start : start + most]
        block = block[depths[block] <= 2 * depths[block[0]]]
        yield np.sort(block), min(int(depths[block].max()), limit)
        start += len(block)


def _finish(
    scores: np.ndarray, items: np.ndarray, k: int, exclude: Csr | None, n_items: int, allowed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fetched (b, depth) -> (items, scores, unsure): seen items dropped, ties in item order, cut at k.

    `unsure` (b,) marks users with fewer items than there are, or whose last item ties with the last one
    fetched, since an item of that score and a lower item_idx may not have been fetched.
    """
    found = items >= 0
    complete = found.sum(axis=1) >= allowed
    last = np.where(found, scores, np.inf).min(axis=1)
    keep = found & ~_is_seen(items, exclude, n_items) if exclude is not None else found
    order = np.where(keep, items, n_items).argsort(axis=1)  # by item_idx, so that ties are settled by column
    items = np.take_along_axis(items, order, axis=1)
    kept_scores = np.take_along_axis(np.where(keep, scores, -np.inf), order, axis=1)
    values, columns = top_k(torch.from_numpy(kept_scores), min(k, items.shape[1]))
    best = values.numpy()
    ranked = np.where(best > -np.inf, np.take_along_axis(items, columns.numpy(), axis=1), -1)
    return ranked, best, ~complete & (best[:, -1] <= last)  # -inf where the list is short


def _is_seen(items: np.ndarray, exclude: Csr, n_items: int) -> np.ndarray:
    """(b, depth) bool: the fetched items that have an entry in their user's row of `exclude`."""
    rows = np.arange(len(items))
    keys = np.sort(np.repeat(rows, np.diff(exclude.indptr)) * n_items + exclude.indices)
    if len(keys) == 0:
        return np.zeros(items.shape, dtype=bool)
    wanted = rows[:, None] * n_items + items
    return keys[np.searchsorted(keys, wanted).clip(max=len(keys) - 1)] == wanted


def _dense(users: np.ndarray | Csr) -> np.ndarray:
    dense = users if isinstance(users, np.ndarray) else users.toarray()
    if not np.isfinite(dense).all():
        raise DivergedError("user vectors are not finite: the model has diverged, train again")
    return np.ascontiguousarray(dense, dtype=np.float32)
