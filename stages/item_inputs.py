"""The items of a feature store as its encoder read them: crops in a file of pixels, texts as windows.

Pictures are decoded once: the file lies beside the store's own copies of its views, for all runs that share
the store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..features.catalog import Catalog, read_catalog
from ..features.config import CatalogConfig, ExtractConfig, LongText
from ..features.decoding.pool import DecodePool
from ..features.decoding.transform import ImageTransform
from ..features.encoders.base import ImageEncoder, TextEncoder
from ..features.errors import InputError
from ..features.files import atomic_path, digest_bytes, digest_json, remove_stale_temporaries, write_json
from ..features.presets import chosen_views
from ..features.store import FeatureStore
from ..features.text import cut_text
from ..features.views import text_views
from .decoding import extraction_plan
from .encoding import Hashed, hash_items, images_of
from .foreign import open_foreign
from .progress import progress_bar

log = logging.getLogger(__name__)

_PIXELS = "pixels-"  # .u8: the crops one after the other; .json: their shape and whose they are
ABANDONED = 3600.0  # seconds without a write: of a file whose writer was killed
_SUMMED = ("sum", "as-released")


@dataclass(frozen=True, slots=True, eq=False)
class ViewInputs:
    """Which inputs an item has in one view, and what each weighs in its vector."""

    starts: np.ndarray  # (n_items + 1,): item i has the entries starts[i] to starts[i + 1]
    numbers: np.ndarray  # (entries,) of crops or windows
    weights: np.ndarray  # (entries,) float32
    unit: bool  # the weighted sum is scaled to length 1

    @staticmethod
    def of(numbers: Sequence[Sequence[int]], weights: Sequence[Sequence[float]], unit: bool) -> ViewInputs:
        starts = np.cumsum([0, *map(len, numbers)])
        flat = np.array([number for of_item in numbers for number in of_item], dtype=np.int64)
        shares = np.array([weight for of_item in weights for weight in of_item], dtype=np.float32)
        return ViewInputs(starts, flat, shares, unit)

    def take(self, rows: Iterable[int]) -> ViewInputs:
        """The inputs of these items, in this order."""
        parts = [np.arange(self.starts[row], self.starts[row + 1]) for row in rows]
        entries = np.concatenate(parts) if parts else np.empty(0, np.int64)
        starts = np.cumsum([0, *map(len, parts)])
        return ViewInputs(starts, self.numbers[entries], self.weights[entries], self.unit)

    def groups(self) -> np.ndarray:
        """(n_items,) int64: equal numbers for items with the same inputs."""
        known: dict[bytes, int] = {}
        found = []
        for row in range(len(self.starts) - 1):
            own = self.numbers[self.starts[row] : self.starts[row + 1]].tobytes() or b"-%d" % row
            found.append(known.setdefault(own, len(known)))
        return np.array(found, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ItemInputs:
    """Row i of every view is item i of the store."""

    pixels: np.ndarray  # (crops, 3, h, w) uint8, memory-mapped, none twice
    images: Mapping[str, ViewInputs]  # view -> crops
    windows: Sequence[Sequence[int]]  # of tokens, none twice
    texts: Mapping[str, ViewInputs]  # view -> windows


def read_item_inputs(
    catalog_config: CatalogConfig,
    extract: ExtractConfig,
    store: FeatureStore,
    images: ImageEncoder | None,
    texts: TextEncoder | None,
) -> ItemInputs:
    """The inputs of the image views, of the text views, or of both: of those whose encoder is given.

    Raises InputError where the catalogue is not the one that the store was extracted from.
    """
    catalog = read_catalog(catalog_config)
    if not catalog.item_ids.equals(store.item_ids):
        raise InputError(
            f"{catalog_config.items} has {len(catalog)} items, {store.folder} was extracted from "
            f"{len(store)}, or in another order; run `mmrec extract`"
        )
    rendered: dict[str, list[str | None]] = {}
    prompts: dict[str, str] = {}
    cache = _PixelCache(store, extract, images.transform) if images is not None else None
    changed = 0
    with (
        cache.writing() if cache is not None else nullcontext(),
        ThreadPoolExecutor(extract.workers) as pool,
        progress_bar("items", len(catalog)) as advance,
    ):
        for start, hashed in _hashed(catalog, extract, pool):
            stored = store.content_hashes.slice(start, len(hashed.items)).to_list()
            changed += sum(own != other for own, other in zip(hashed.content_hashes, stored, strict=True))
            prompts |= hashed.prompts
            for view, of_items in hashed.texts.items():
                rendered.setdefault(view, []).extend(of_items)
            if cache is not None:
                cache.add(hashed, pool)
            advance(len(hashed.items))
        if changed:
            raise InputError(
                f"{changed} of {len(catalog)} items have changed since {store.folder} was extracted; run "
                "`mmrec extract`"
            )
    pixels, of_images = cache.read() if cache is not None else (np.empty((0, 3, 0, 0), np.uint8), {})
    windows, of_texts = _text_inputs(rendered, prompts, texts, extract) if texts is not None else ([], {})
    return ItemInputs(pixels, of_images, windows, of_texts)


def _hashed(
    catalog: Catalog, extract: ExtractConfig, pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Hashed]]:
    """The first row of every shard, and its items as extraction has read and hashed them."""
    columns = catalog.fields.columns
    views = chosen_views(extract, columns)
    joint = text_views({} if extract.joint is None else {"joint": extract.joint}, columns)
    foreign = [open_foreign(view, Path(file)) for view, file in extract.foreign.items()]
    for start in range(0, len(catalog), extract.shard_rows):
        part = slice(start, start + extract.shard_rows)
        rows = [matrix[part] for matrix in foreign]
        items = catalog.slice(start, part.stop)
        yield start, hash_items(items, views, next(iter(joint), None), rows, extract, pool)


def _text_inputs(
    rendered: Mapping[str, Sequence[str | None]],
    prompts: Mapping[str, str],
    encoder: TextEncoder,
    extract: ExtractConfig,
) -> tuple[list[list[int]], dict[str, ViewInputs]]:
    """All windows, each once, and those of every view, weighed as `extract.long_text` has it."""
    known: dict[tuple[int, ...], int] = {}
    views = {}
    for view, texts in rendered.items():
        numbers, weights = [], []
        for text in texts:
            cut = None if text is None else cut_text(encoder, text, prompts[view], extract.long_text)
            ids = cut.ids if cut else []
            numbers.append([known.setdefault(tuple(window), len(known)) for window in ids])
            weights.append(_window_weights(cut.sizes, extract.long_text) if cut else [])
        unit = extract.normalise and extract.long_text not in _SUMMED
        views[f"text.{view}"] = ViewInputs.of(numbers, weights, unit)
    return [list(window) for window in known], views


def _window_weights(sizes: Sequence[int], pooling: LongText) -> list[float]:
    """Of a text's windows of so many tokens, in its vector before that is scaled."""
    if len(sizes) == 1 or pooling in _SUMMED:
        return [1.0] * len(sizes)
    if pooling == "length-weighted":
        return [size / sum(sizes) for size in sizes]
    return [1 / len(sizes)] * len(sizes)


class _PixelCache:
    """The crops of all image views in one file, or on the way into it; what is there is not decoded again.

    Runs that begin at the same time each write a file of their own; the last one stays.
    """

    def __init__(self, store: FeatureStore, extract: ExtractConfig, transform: ImageTransform) -> None:
        self._extract, self._plan = extract, extraction_plan(transform, extract)
        folder = store.folder / ".cache"
        space = store.manifest["space"]
        how = [space["encoder"].get("preprocessing", space["encoder"])]
        how += [space[key] for key in ("image_views", "image_pooling", "exif_rotate", "image_limits")]
        key = digest_json([how, store.item_ids.to_list(), store.content_hashes.to_list()])[:16]
        self._crops, self._account = folder / f"{_PIXELS}{key}.u8", folder / f"{_PIXELS}{key}.json"
        self._found = self._read()
        self._known: dict[str, int] = {}  # digest of a crop -> its number
        self._numbers: dict[str, list[list[int]]] = {f"image.{view}": [] for view in extract.image_views}
        self._shape: tuple[int, ...] = (3, 0, 0)
        self._file: BinaryIO | None = None
        self._decoding: DecodePool | None = None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """While crops may be added; afterwards they are in the file."""
        if self._found is not None:
            yield
            return
        folder = self._crops.parent
        folder.mkdir(exist_ok=True)
        remove_stale_temporaries(folder, ABANDONED)
        for other in {*folder.glob(f"{_PIXELS}*")} - {self._crops, self._account}:
            other.unlink(missing_ok=True)
        with (
            DecodePool(self._plan, self._extract.workers) as self._decoding,
            atomic_path(self._crops) as unfinished,
            unfinished.open("wb") as self._file,
        ):
            yield
        write_json(self._account, {"shape": [len(self._known), *self._shape], "views": self._numbers})

    def add(self, hashed: Hashed, pool: ThreadPoolExecutor) -> None:
        """Decode the pictures of one shard."""
        if self._file is None or self._decoding is None:
            return
        images = images_of(hashed, range(len(hashed.items)), self._extract, pool)
        for item in self._decoding.map(images):
            for view, crops in item.pixels.items():
                self._numbers[view].append([self._number(crop, self._file) for crop in crops])

    def _number(self, crop: np.ndarray, file: BinaryIO) -> int:
        content = np.ascontiguousarray(crop, np.uint8).tobytes()
        digest = digest_bytes(content)
        if digest not in self._known:
            self._known[digest] = len(self._known)
            self._shape = crop.shape
            file.write(content)
        return self._known[digest]

    def read(self) -> tuple[np.ndarray, dict[str, ViewInputs]]:
        """All crops, and those of every view."""
        found = self._found or self._read()
        assert found is not None
        return found

    def _read(self) -> tuple[np.ndarray, dict[str, ViewInputs]] | None:
        """What is there, if it is whole."""
        try:
            account = json.loads(self._account.read_text(encoding="utf-8"))
            size = self._crops.stat().st_size
        except FileNotFoundError:
            return None
        shape = tuple(account["shape"])
        if size != np.prod(shape, dtype=np.int64):
            return None
        pixels = np.memmap(self._crops, np.uint8, "r", shape=shape) if size else np.empty(shape, np.uint8)
        unit = self._extract.normalise
        views = {}
        for view, numbers in account["views"].items():
            weights = [[1.0 if unit else 1 / max(len(crops), 1)] * len(crops) for crops in numbers]
            views[view] = ViewInputs.of(numbers, weights, unit)
        return pixels, views
