"""One extraction, planned: every input read and checked, nothing written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...features.catalog import Catalog, read_catalog
from ...features.config import CatalogConfig, ExtractConfig
from ...features.decoding.boxes import image_view_definition
from ...features.encoders.names import reads_images
from ...features.errors import InputError
from ...features.presets import chosen_views
from ...features.views import View, text_views
from ..encoders import Encoders
from ..foreign import numbered_items, open_foreign

CODE_VERSION = 1  # raise it when the same input and settings would give other vectors


class Plan:
    """The items in shards of `config.shard_rows`, the views, and what the vectors of a store of them mean."""

    def __init__(self, catalog_config: CatalogConfig | None, config: ExtractConfig, folder: Path) -> None:
        """Raises InputError for unusable input."""
        self.config, self.folder = config, folder
        self.foreign: Mapping[str, np.ndarray] = {  # view -> (n_items, d), memory-mapped
            view: open_foreign(view, Path(file)) for view, file in config.foreign.items()
        }
        if catalog_config is None and not self.foreign:
            raise InputError("nothing to extract: give a [catalog] section, or features in extract.foreign")
        self.catalog = read_catalog(catalog_config) if catalog_config else numbered_items(self.foreign)
        columns = self.catalog.fields.columns
        self.views: Sequence[View] = chosen_views(config, columns)
        templates = {} if config.joint is None else {"joint": config.joint}
        self.joint = next(iter(text_views(templates, columns)), None)  # read together with the image
        self._has_images = any(self.catalog.images)
        self.encodes = bool(self.views) or self.joint is not None or self._has_images  # not foreign alone
        self._check()
        self.encoders = Encoders(config, folder)

    def _check(self) -> None:
        for view, matrix in self.foreign.items():
            if len(matrix) != len(self.catalog):
                raise InputError(
                    f"{self.config.foreign[view]}: {len(matrix)} rows for {len(self.catalog)} items; "
                    "row i must hold the features of the i-th item"
                )
        if not self.encodes and not self.foreign:
            raise InputError(
                "nothing to extract: name the image column in catalog.image, set extract.text_views, "
                "or leave [catalog] out"
            )
        if self.image_views and not reads_images(self.config.encoder):
            raise InputError(
                f"extract.encoder: '{self.config.encoder}' reads texts alone, but the items have images; "
                "make it the text_encoder beside an encoder of images, or leave the images out: "
                "image_views = []"
            )

    @property
    def readers(self) -> int:
        """Images that are read at the same time."""
        return self.catalog.reading.readers

    @property
    def n_shards(self) -> int:
        return -(-len(self.catalog) // self.config.shard_rows)

    def items(self, shard: int) -> Catalog:
        """The items of one shard."""
        return self.catalog.slice(*self._bounds(shard))

    def foreign_rows(self, shard: int) -> dict[str, np.ndarray]:
        """The ready-made features of one shard's items, by view."""
        rows = slice(*self._bounds(shard))
        return {view: matrix[rows] for view, matrix in self.foreign.items()}

    def _bounds(self, shard: int) -> tuple[int, int]:
        start = shard * self.config.shard_rows
        return start, start + self.config.shard_rows

    @property
    def image_views(self) -> tuple[str, ...]:
        return self.config.image_views if self._has_images else ()

    @property
    def reads_images(self) -> bool:
        return bool(self.image_views) or (self.joint is not None and self._has_images)

    @property
    def main_view(self) -> str | None:
        """The image view that similarities are taken with: the whole picture where it is one of the views.

        None where the texts' vectors are of another space than the images'.
        """
        views = () if self.config.texts_apart else self.image_views
        return "full" if "full" in views else views[0] if views else None

    @cached_property
    def identities(self) -> dict[str, dict[str, Any]]:
        """Of the encoders in use: `encoder` and, where another one reads the texts, `text_encoder`."""
        return self.encoders.identities(
            images=bool(self.image_views), texts=bool(self.views), joint=self.joint is not None
        )

    def dims(self) -> dict[str, int]:
        """Views and their dimensions, in the order of the store's columns."""
        dims = {}
        if self.encodes:
            encoder = self.identities.get("encoder", {})
            texts = self.identities.get("text_encoder", encoder)
            width = encoder.get("dim", 0)  # without an encoder there is no view of it
            dims = {f"image.{view}": width for view in self.image_views}
            dims |= {f"text.{view.name}": texts["dim"] for view in self.views}
            dims |= dict.fromkeys(self.config.joint_views, width)
        return dims | {view: matrix.shape[1] for view, matrix in self.foreign.items()}

    def space(self) -> dict[str, Any]:
        """What the vectors mean: all that decides on a vector and is not an item."""
        space: dict[str, Any] = {"code": CODE_VERSION}
        if self.encodes:
            space |= self._space_of_encoders()
        if self.foreign:
            space["foreign"] = {
                view: {"origin": "unknown", "dim": matrix.shape[1]} for view, matrix in self.foreign.items()
            }
        return space

    def _space_of_encoders(self) -> dict[str, Any]:
        config = self.config
        space: dict[str, Any] = {
            **self.identities,
            "normalisation": "l2" if config.normalise else "none",
            "image_views": {view: image_view_definition(view, config.crops) for view in self.image_views},
            "similarity_with": self.main_view,
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
        return space
