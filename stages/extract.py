"""Stage 1: catalogue to feature store. Encodes new and changed items only and resumes shard by shard."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..features.catalog import Catalog, read_catalog
from ..features.config import CatalogConfig, ExtractConfig
from ..features.encoders.names import reads_images
from ..features.errors import InputError, TooManyFailuresError
from ..features.presets import chosen_views
from ..features.similarity import cosines
from ..features.store import FeatureStore, FeatureStoreWriter, ShardRows
from ..features.views import View, image_view_definition, text_views
from .encoders import Encoders, weights_request
from .encoding import Hashed, drop_not_finite, encode_image_views, encode_text_views, hash_items
from .foreign import numbered_items, open_foreign
from .joint import Columns, JointRows
from .progress import progress_bar

CODE_VERSION = 1  # raise it when the same input and settings would give other vectors
_EFFORT = (  # how, not what
    *("device", "batch_size", "shard_rows", "workers", "max_failures"),
    *("min_similarity", "similarity_floor", "max_below_floor", "max_mismatched"),
)


@dataclass(slots=True)
class ExtractReport:
    """What one extraction did; `up_to_date` when there was nothing to do."""

    items: int
    encoded: int = 0  # items that went through the encoder
    reused: int = 0  # items taken over from the store as it was
    failed: int = 0  # items with at least one failure
    reasons: dict[str, int] = field(default_factory=dict)  # failures by reason
    ledger: str = "failures.parquet"  # the file of the store that lists the failures
    up_to_date: bool = False
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return asdict(self)


def extract(catalog: CatalogConfig | None, config: ExtractConfig, folder: Path) -> ExtractReport:
    """Bring the feature store `folder` up to date with the catalogue; returns what was encoded and reused.

    Raises InputError for unusable input; for too many failures see `check_failures`.
    """
    started = time.perf_counter()
    report = _Extraction.plan(catalog, config, folder).run()
    report.seconds = time.perf_counter() - started
    return report


class Ledgered(Protocol):
    """A report of work on items some of which may have failed."""

    items: int
    failed: int
    reasons: dict[str, int]
    ledger: str


def check_failures(report: Ledgered, config: ExtractConfig, folder: Path) -> None:
    """TooManyFailuresError when more than `max_failures` of the items failed; the work is kept."""
    share = report.failed / report.items
    if share > config.max_failures:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons.items())
        raise TooManyFailuresError(
            f"{report.failed} of {report.items} items failed ({share:.1%}, extract.max_failures allows "
            f"{config.max_failures:.1%}): {reasons}. All else is finished; they are listed in "
            f"{folder / report.ledger}"
        )


def check_made_for(store: FeatureStore, config: ExtractConfig) -> None:
    """InputError when the store was extracted with other settings than `config` asks for."""
    # A key that the store does not know came after it; its default is what the store was made with.
    made = {**_request(ExtractConfig()), **store.manifest["stats"]["request"]}
    asked = _request(config)
    differing = [key for key in asked if made.get(key) != asked[key]]
    if differing:
        what = ", ".join(f"{key} = {made.get(key)!r} (config: {asked[key]!r})" for key in differing)
        raise InputError(f"{store.folder} was extracted with {what}; run `mmrec extract` first")


def _request(config: ExtractConfig) -> dict[str, Any]:
    """What a config asks of the vectors, JSON-able; known without loading the encoder."""
    asked = config.model_dump(mode="json", exclude=set(_EFFORT))
    asked["foreign"] = sorted(asked["foreign"])
    return {**asked, **weights_request(config)}


@dataclass(slots=True)
class _Extraction:
    """One extraction, planned: every input read and checked, nothing written yet."""

    catalog: Catalog
    views: Sequence[View]
    joint: View | None  # the text that is read together with the image
    foreign: Mapping[str, np.ndarray]  # view -> (n_items, d), memory-mapped
    config: ExtractConfig
    folder: Path
    has_images: bool
    encodes: bool  # False: foreign features alone
    request: dict[str, Any]
    encoders: Encoders
    _identities: dict[str, dict[str, Any]] | None = None

    @classmethod
    def plan(cls, catalog_config: CatalogConfig | None, config: ExtractConfig, folder: Path) -> _Extraction:
        foreign = {view: open_foreign(view, Path(file)) for view, file in config.foreign.items()}
        if catalog_config is None and not foreign:
            raise InputError("nothing to extract: give a [catalog] section, or features in extract.foreign")
        catalog = read_catalog(catalog_config) if catalog_config else numbered_items(foreign)
        for view, matrix in foreign.items():
            if len(matrix) != len(catalog):
                raise InputError(
                    f"{config.foreign[view]}: {len(matrix)} rows for {len(catalog)} items; "
                    "row i must hold the features of the i-th item"
                )
        views = chosen_views(config, catalog.fields.columns)
        templates = {} if config.joint is None else {"joint": config.joint}
        joint = next(iter(text_views(templates, catalog.fields.columns)), None)
        has_images = any(catalog.images)
        encodes = bool(views) or joint is not None or has_images
        if not encodes and not foreign:
            raise InputError(
                "nothing to extract: name the image column in catalog.image, set extract.text_views, "
                "or leave [catalog] out"
            )
        if has_images and config.image_views and not reads_images(config.encoder):
            raise InputError(
                f"extract.encoder: '{config.encoder}' reads texts alone, but the items have images; make it "
                "the text_encoder beside an encoder of images, or leave the images out: image_views = []"
            )
        encoders = Encoders(config, folder)
        request = _request(config)
        return cls(catalog, views, joint, foreign, config, folder, has_images, encodes, request, encoders)

    def run(self) -> ExtractReport:
        writer = FeatureStoreWriter(self.folder, self.space())
        report = ExtractReport(items=len(self.catalog))
        reasons: Counter[str] = Counter()
        rows = self.config.shard_rows
        with (
            ThreadPoolExecutor(self.config.workers) as pool,
            progress_bar("extract", len(self.catalog)) as advance,
        ):
            for index, start in enumerate(range(0, len(self.catalog), rows)):
                hashed = self._hash(start, pool)
                failures = writer.finished(index, hashed.items.item_ids, hashed.content_hashes)
                if failures is None:
                    shard, encoded = self._encode(writer, hashed, start, pool, advance)
                    writer.write_shard(index, shard)
                    report.encoded += encoded
                    failures = shard.failures
                else:
                    advance(len(hashed.items))
                report.failed += len({failure.item_id for failure in failures})
                reasons.update(failure.reason for failure in failures)
        report.reused = report.items - report.encoded
        report.reasons = dict(reasons.most_common())
        report.up_to_date = not writer.changed
        report.ledger = writer.commit({"request": self.request})["failures"]
        return report

    def space(self) -> dict[str, Any]:
        """What the vectors mean: all that decides on a vector and is not an item."""
        config = self.config
        space: dict[str, Any] = {"code": CODE_VERSION}
        if self.encodes:
            space |= {
                **self.identities,
                "normalisation": "l2" if config.normalise else "none",
                "image_views": {
                    view: image_view_definition(view, config.crops) for view in self._image_views()
                },
                "similarity_with": self._main_view(),
                "image_pooling": config.image_pooling,
                "exif_rotate": config.exif_rotate,
                "image_limits": {"pixels": config.max_image_pixels, "bytes": config.max_image_bytes},
                "text_views": {view.name: view.template for view in self.views},
                "long_text": config.long_text,
            }
            if self.joint is not None:
                space["joint"] = {"text": self.joint.template, "views": list(config.joint_views)}
            if config.views:
                space["preset"] = config.views
            prompts = {view.name: view.prompt for view in self.views if view.prompt}
            if prompts and config.long_text != "truncate":
                space["prompts"] = prompts  # they begin every window of a long text
        if self.foreign:
            space["foreign"] = {
                view: {"origin": "unknown", "dim": matrix.shape[1]} for view, matrix in self.foreign.items()
            }
        return space

    @property
    def identities(self) -> dict[str, dict[str, Any]]:
        """Of the encoders in use: `encoder` and, where another one reads the texts, `text_encoder`."""
        if self._identities is None:
            self._identities = self.encoders.identities(
                images=bool(self._image_views()), texts=bool(self.views), joint=self.joint is not None
            )
        return self._identities

    def _image_views(self) -> tuple[str, ...]:
        return self.config.image_views if self.has_images else ()

    def _reads_images(self) -> bool:
        return bool(self._image_views()) or (self.joint is not None and self.has_images)

    def _hash(self, start: int, pool: ThreadPoolExecutor) -> Hashed:
        items = self.catalog.slice(start, start + self.config.shard_rows)
        foreign = [matrix[start : start + len(items)] for matrix in self.foreign.values()]
        return hash_items(items, self.views, self.joint, foreign, self.config, pool)

    def _encode(
        self,
        writer: FeatureStoreWriter,
        hashed: Hashed,
        start: int,
        pool: ThreadPoolExecutor,
        advance: Callable[..., None],
    ) -> tuple[ShardRows, int]:
        """One shard's rows, taken over from the store where nothing changed; and how many were encoded."""
        ids, n = hashed.items.item_ids, len(hashed.items)
        existing = writer.existing_rows(ids, hashed.content_hashes)
        todo = [row for row in range(n) if row not in existing.rows]
        columns = {
            view: (np.zeros((n, dim), np.float32), np.zeros(n, bool)) for view, dim in self._dims().items()
        }
        for view, (values, present) in columns.items():
            existing.copy_into(view, values, present)
        failures = list(existing.failures)
        counts: dict[str, int] = {}
        if self.encodes:
            joint = None
            if hashed.joint is not None:
                joint = JointRows(self.encoders.joint, hashed.joint, self.config, columns)
                counts |= joint.counts
            if self.views:
                counts |= encode_text_views(self.encoders.texts, hashed, todo, self.config, columns)
            if self._reads_images():
                failures += encode_image_views(
                    self.encoders.images, hashed, todo, self.config, columns, pool, advance, joint
                )
            elif joint is not None:
                for row in todo:
                    joint.add(row, ())
            if joint is not None:
                joint.finish()
            failures += drop_not_finite(ids, todo, columns)
        for view, matrix in self.foreign.items():
            features = matrix[start : start + n].astype(np.float32)
            absent = np.isnan(features).all(axis=1)  # a row of NaN is how a matrix says that it has none
            features[absent] = 0
            columns[view] = features, np.logical_not(absent)
        advance(n - len(todo) if self._reads_images() else n)
        similarity = self._similarity(columns)
        rows = ShardRows(ids, hashed.content_hashes, columns, similarity, failures, counts)
        return rows, len(todo)

    def _dims(self) -> dict[str, int]:
        """Views and their dimensions, in the order of the store's columns."""
        dims = {}
        if self.encodes:
            encoder = self.identities.get("encoder", {})
            texts = self.identities.get("text_encoder", encoder)
            width = encoder.get("dim", 0)  # without an encoder there is no view of it
            dims = {f"image.{view}": width for view in self._image_views()}
            dims |= {f"text.{view.name}": texts["dim"] for view in self.views}
            dims |= dict.fromkeys(self.config.joint_views, width)
        return dims | {view: matrix.shape[1] for view, matrix in self.foreign.items()}

    def _main_view(self) -> str | None:
        """The image view that similarities are taken with: the whole picture where it is one of the views.

        None where the texts' vectors are of another space than the images'.
        """
        views = () if self.config.texts_apart else self._image_views()
        return "full" if "full" in views else views[0] if views else None

    def _similarity(self, columns: Columns) -> dict[str, np.ndarray]:
        """Cosine of every text view with the item's image; NaN where either is missing."""
        main = self._main_view()
        if main is None:
            return {}
        image, has_image = columns[f"image.{main}"]
        image = _as_stored(image)
        similarity = {}
        for view in self.views:
            text, has_text = columns[f"text.{view.name}"]
            similarity[view.name] = cosines(image, _as_stored(text), has_image & has_text)
        return similarity


def _as_stored(vectors: np.ndarray) -> np.ndarray:
    """Rounded to the float16 of the store: rows that were reused and rows just encoded then agree."""
    return vectors.astype(np.float16).astype(np.float32)
