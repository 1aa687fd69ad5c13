"""The catalogue: item ids, the fields that text views draw on, and where each item's images are."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, overload

import polars as pl

from .config import CatalogConfig, ReadingConfig
from .errors import InputError
from .sources.listing import list_shards
from .sources.policy import shown
from .sources.reading import Reference, TarMember
from .sources.shards import read_samples
from .tables import check_columns, has_wildcard, is_folder, numeric, read_table

_NAMED = 5  # bad rows that an error lists


References: TypeAlias = tuple[Reference, ...]  # of one item


@dataclass(frozen=True, slots=True)
class Catalog:
    """Items in the order of their file; `item_ids[i]`, row i of `fields` and `images[i]` are one item."""

    item_ids: pl.Series  # unique, Int64 (UInt64 past its range) or String
    fields: pl.DataFrame  # every other column
    images: Sequence[References]  # per item
    image_root: str | None
    reading: ReadingConfig = field(default_factory=ReadingConfig)  # what `images` may lead to

    def __len__(self) -> int:
        return len(self.item_ids)

    def slice(self, start: int, stop: int) -> Catalog:
        """Items start, start + 1, ... stop - 1."""
        rows = slice(start, stop)
        fields = self.fields.slice(start, stop - start)  # [start:stop] would lose the rows of no columns
        return replace(self, item_ids=self.item_ids[rows], fields=fields, images=self.images[rows])


class ImageColumn(Sequence[References]):
    """The references of every item, without missing and blank ones; a cell is read when it is asked for.

    A catalogue may hold whole images: as Python objects they would take as much memory again.
    """

    def __init__(self, column: pl.Series) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> References: ...
    @overload
    def __getitem__(self, index: slice) -> ImageColumn: ...
    def __getitem__(self, index: int | slice) -> References | ImageColumn:
        if isinstance(index, slice):
            return ImageColumn(self._column[index])
        cell = self._column[index]
        return _present(cell if isinstance(self._column.dtype, pl.List) else [cell])

    def __iter__(self) -> Iterator[References]:
        filled = self._column.is_not_null()
        if isinstance(self._column.dtype, pl.List):
            filled &= self._column.list.len() > 0
        for index, is_filled in enumerate(filled):
            yield self[index] if is_filled else ()


def read_catalog(config: CatalogConfig) -> Catalog:
    """The catalogue that `config` names; its CSV fields stay text, letter for letter.

    Raises FileNotFoundError, or InputError that names the missing columns or the bad ids, all at once.
    """
    shards = list_shards(config.items)
    if shards:
        return _read_shards(config, shards)
    table = read_table(config.items, typed=[config.item_id])
    wanted = [config.item_id] if config.image is None else [config.item_id, config.image]
    check_columns(config.items, wanted, table.columns)
    images = [()] * table.height if config.image is None else _images(config, table[config.image])
    return Catalog(
        item_ids=_item_ids(config, table[config.item_id]),
        fields=table.drop(wanted),
        images=images,
        image_root=_image_root(config),
        reading=config,
    )


def _read_shards(config: CatalogConfig, shards: Sequence[str]) -> Catalog:
    """Samples as items: their ids are a field of that name, where there is one, or else their keys."""
    samples = read_samples(shards, config.readers)
    keys = numeric(samples.keys)
    ids = keys if keys.dtype.is_integer() else samples.keys
    if config.item_id in samples.fields.columns:
        ids = samples.fields[config.item_id]
    elif config.item_id != CatalogConfig.model_fields["item_id"].default:
        check_columns(config.items, [config.item_id], samples.fields.columns)
    used = {config.item_id}
    if config.image in samples.fields.columns:
        used.add(config.image)
        images = _images(config, samples.fields[config.image])
    else:
        images = ImageColumn(_pictures(config, samples.pictures, samples.fields.columns))
    fields = samples.fields.drop(used, strict=False)
    return Catalog(_item_ids(config, ids), fields, images, _image_root(config), config)


def _pictures(config: CatalogConfig, pictures: pl.Series, columns: Sequence[str]) -> pl.Series:
    """All pictures of the samples, or those of the extension that `config.image` names."""
    if config.image is None:
        return pictures
    extensions = pictures.explode().struct.field("extension").cast(pl.String)
    known = extensions.drop_nulls().unique().sort().to_list()
    if config.image not in known:
        check_columns(f"{config.items} (extensions of pictures included)", [config.image], [*columns, *known])
    extension = pl.element().struct.field("extension").cast(pl.String)
    chosen = pl.col(pictures.name).list.eval(pl.element().filter(extension == config.image))
    return pictures.to_frame().select(chosen).to_series()


def folder_of(source: str) -> str:
    """The folder that relative image paths start from: of a file, of a glob, or the folder itself."""
    if "://" not in source and Path(source).is_dir():
        return source
    folder = posixpath.dirname(source)
    while has_wildcard(folder) and not is_folder(folder):
        folder = posixpath.dirname(folder)
    return folder or "."


def _image_root(config: CatalogConfig) -> str:
    return config.image_root if config.image_root is not None else folder_of(config.items)


def _item_ids(config: CatalogConfig, ids: pl.Series) -> pl.Series:
    """The ids as Int64 or String, checked to be unique and present in every row."""
    where = f"{shown(config.items)}: column '{config.item_id}'"
    if ids.dtype in (pl.Categorical, pl.Enum):
        ids = ids.cast(pl.String)
    if not (ids.dtype.is_integer() or ids.dtype == pl.String):
        raise InputError(f"{where} holds {ids.dtype}; expected integers or strings without missing values")
    if ids.dtype.is_integer():
        fitting = ids.cast(pl.Int64, strict=False)
        ids = fitting if fitting.null_count() == ids.null_count() else ids
    blank = ids.is_null() if ids.dtype != pl.String else ids.fill_null("").str.strip_chars() == ""
    repeated = ids.filter(ids.is_duplicated() & ~blank).unique(maintain_order=True)
    problems = []
    if blank.any():
        rows = [index + 1 for index in blank.arg_true()]
        problems.append(f"{len(rows)} of {len(ids)} rows have no id (first: rows {_first(rows)})")
    if len(repeated):
        problems.append(f"{len(repeated)} ids occur more than once (first: {_first(repeated.to_list())})")
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}. Every item needs one row with an id of its own.")
    return ids.rename("item_id")


def _images(config: CatalogConfig, column: pl.Series) -> ImageColumn:
    inner = column.dtype.inner if isinstance(column.dtype, pl.List | pl.Array) else column.dtype
    if inner not in (pl.String, pl.Binary, pl.Null) and not _is_image_struct(inner):
        raise InputError(
            f"{shown(config.items)}: image column '{config.image}' holds {column.dtype}; "
            "expected paths, URIs, bytes, or lists of them"
        )
    return ImageColumn(column.arr.to_list() if isinstance(column.dtype, pl.Array) else column)


def _is_image_struct(dtype: Any) -> bool:
    """Whether this is {bytes, path}, the image column of Hugging Face datasets."""
    return isinstance(dtype, pl.Struct) and {field.name for field in dtype.fields} == {"bytes", "path"}


def _present(cells: Iterable[Any] | None) -> References:
    references = []
    for cell in cells if cells is not None else ():
        reference = _of_struct(cell) if isinstance(cell, Mapping) else cell
        reference = reference.strip() if isinstance(reference, str) else reference
        if reference is not None and reference != "":
            references.append(reference)
    return tuple(references)


def _of_struct(cell: Mapping[str, Any]) -> Reference | None:
    if "shard" in cell:
        return TarMember(cell["shard"], cell["offset"], cell["size"])
    return cell["bytes"] or cell["path"]


def _first(values: Sequence[Any]) -> str:
    return ", ".join(repr(value) for value in values[:_NAMED]) + (", ..." if len(values) > _NAMED else "")
