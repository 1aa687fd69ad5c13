"""MovieLens in its three layouts: 100K (u.data), 1M and 10M (ratings.dat), 20M and later (ratings.csv)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from ...features.errors import InputError
from ...features.tables import check_columns, read_table
from .folder import ImportFolder
from .source import Source
from .streams import column_batches, opened, separated, text_lines

log = logging.getLogger(__name__)

_RATINGS = ("u.data", "ratings.dat", "ratings.csv")
_IDS = {"user_id": pa.int64(), "item_id": pa.int64()}
_CHUNK = 2**25  # bytes of text parsed at a time
_GENRES = 5  # fields of u.item before those of the genres


def read(source: Source, target: ImportFolder) -> None:
    """Ratings; films with title, year and genres; posters where a folder has them by the film's id."""
    ratings = source.need("ratings", *_RATINGS)
    layout = ratings.name.partition(".")[2].partition(".")[0]
    readers = {"data": (_ratings_100k, _films_100k), "dat": (_ratings_1m, _films_1m)}
    read_ratings, read_films = readers.get(layout, (_ratings_csv, _films_csv))
    target.write_log(read_ratings(ratings))
    films = read_films(source)
    if films is None:
        log.warning("%s: no list of films beside %s: items have ids alone", source.folder, ratings.name)
        return
    titles = films["title"].str.strip_chars()
    films = films.with_columns(titles.str.extract(r"\((\d{4})\)$").cast(pl.Int64).alias("year"))
    posters = source.pictures("posters", "images")
    if posters:
        paths = [posters.get(str(item)) for item in films["item_id"]]
        films = films.with_columns(pl.Series("image", paths, pl.String))
    texts = [name for name in ("title", "genres") if name in films.columns]
    target.write_items([films], "image" if posters else None, source.folder, texts)


def _ratings_100k(path: Path) -> Iterator[pl.DataFrame]:
    columns = {**_IDS, "rating": pa.int64(), "timestamp": pa.int64()}
    return column_batches(path, columns, "\t", header=False, quoted=False)


def _ratings_1m(path: Path) -> Iterator[pl.DataFrame]:
    """Numbers between `::`, which no reader of CSV takes for one separator."""
    columns = [*_IDS, "rating", "timestamp"]
    with opened(path) as stream:
        while chunk := stream.read(_CHUNK) + stream.readline():
            lines = chunk.decode("latin-1").replace("\r", "").strip("\n").split("\n")
            texts = separated(path, lines, "::", columns)
            try:
                numbers = pl.col("rating").cast(pl.Float64), pl.all().exclude("rating").cast(pl.Int64)
                yield texts.select(numbers[1], numbers[0])
            except pl.exceptions.PolarsError as error:
                raise InputError(f"{path}: not numbers between '::': {error}") from error


def _ratings_csv(path: Path) -> Iterator[pl.DataFrame]:
    wanted = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float64(), "timestamp": pa.int64()}
    for batch in column_batches(path, wanted):
        yield batch.rename({"userId": "user_id", "movieId": "item_id"})


def _films_100k(source: Source) -> pl.DataFrame | None:
    """u.item: id|title|release|video release|address|a 0 or 1 for each genre in u.genre."""
    path, names = source.first("u.item"), source.first("u.genre")
    if path is None:
        return None
    genres = [line.partition("|")[0] for line in text_lines(names)] if names else []
    columns = ["item_id", "title", "release_date", "video_release_date", "address", *genres]
    table = separated(path, text_lines(path), "|", columns)
    marked = [pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in columns[_GENRES:]]
    own = [pl.concat_str(marked, separator=", ", ignore_nulls=True).alias("genres")] if marked else []
    return table.select(pl.col("item_id").cast(pl.Int64), "title", "release_date", *own)


def _films_1m(source: Source) -> pl.DataFrame | None:
    path = source.first("movies.dat")
    if path is None:
        return None
    table = separated(path, text_lines(path), "::", ["item_id", "title", "genres"])
    return table.with_columns(pl.col("item_id").cast(pl.Int64), _readable_genres())


def _films_csv(source: Source) -> pl.DataFrame | None:
    path = source.first("movies.csv")
    if path is None:
        return None
    table = read_table(str(path), typed=["movieId"])
    check_columns(str(path), ["movieId", "title", "genres"], table.columns)
    return table.rename({"movieId": "item_id"}).with_columns(_readable_genres())


def _readable_genres() -> pl.Expr:
    """`Comedy|Drama` as `Comedy, Drama`; none where none are listed."""
    listed = pl.col("genres").str.replace_all("|", ", ", literal=True)
    return pl.when(pl.col("genres") != "(no genres listed)").then(listed).alias("genres")
