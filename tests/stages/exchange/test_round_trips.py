"""Import of an export: equal interactions, ids of their own types, splits, and features bit by bit."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore
from mmrec.recsys.config import InteractionsConfig
from mmrec.stages.exchange.folder import FEATURES, ITEMS, LOG, ImportFolder
from mmrec.stages.exchange.formats import READERS, WRITERS
from mmrec.stages.exchange.names import ExportFormat, ImportFormat
from mmrec.stages.exchange.notes import write_notes
from mmrec.stages.exchange.run_data import RunData
from mmrec.stages.exchange.source import Source
from mmrec.stages.extract import extract

EXAMPLES = int(os.environ.get("MMREC_EXAMPLES", "10"))
BOTH_WAYS = [name.value for name in ExportFormat if name.value in {known.value for known in ImportFormat}]
VIEWS = {"image.full": 3, "text.title": 2}

plain = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"], exclude_characters="\ufeff"),
    min_size=1,
    max_size=4,
)
odd = st.sampled_from(
    ["007", "-0", "+7", "1e5", "a b", '"', 'say "hi"', "é", "日本", "🧢", "#1", "x,y", "None"]
)
strings = st.lists(plain | odd, min_size=4, max_size=8, unique=True)
integers = st.lists(st.integers(-(2**62), 2**62), min_size=4, max_size=8, unique=True)
numbers_in_strings = st.lists(st.integers(0, 10**6).map(str), min_size=4, max_size=8, unique=True)


@st.composite
def shops(draw: st.DrawFn) -> dict[str, Any]:
    """A split log over some of the items, and two views that some items lack."""
    items = draw(strings | integers | numbers_in_strings)
    users = draw(strings | integers | numbers_in_strings)
    pairs = draw(st.sets(st.tuples(st.sampled_from(users), st.sampled_from(items)), min_size=1))
    own = [
        (users[0], item, split) for item, split in zip(items, ("train", "validation", "test"), strict=False)
    ]
    rest = [(*pair, "train") for pair in pairs if pair[0] != users[0]]
    log = pl.DataFrame([*own, *rest], ["user_id", "item_id", "split"], orient="row")
    whole = st.integers(0, 2**40)
    for name, values in (("rating", whole | st.floats(0, 5)), ("timestamp", whole)):
        if draw(st.booleans()):
            column = draw(st.lists(values, min_size=len(log), max_size=len(log)))
            log = log.with_columns(pl.Series(name, column, strict=False))
    features = {}
    for view, dim in VIEWS.items():
        seed = draw(st.integers(0, 2**32 - 1))
        matrix = np.random.default_rng(seed).standard_normal((len(items), dim)).astype(np.float16)
        lacking = draw(st.sets(st.integers(1, len(items) - 1)))
        matrix[list(lacking)] = np.nan
        features[view] = matrix
    return {"log": log, "items": pl.Series("item_id", items), "features": features}


def run_of(shop: dict[str, Any], folder: Path) -> RunData:
    """A run folder whose features are extracted, without a model."""
    folder.mkdir()
    shop["log"].write_parquet(folder / "log.parquet")
    shop["items"].to_frame().write_parquet(folder / "items.parquet")
    for view, matrix in shop["features"].items():
        np.save(folder / f"{view}.npy", matrix)
    catalog = CatalogConfig(items=str(folder / "items.parquet"))
    foreign = {view: str(folder / f"{view}.npy") for view in shop["features"]}
    extract(catalog, ExtractConfig(image_views=(), foreign=foreign), folder / "features")
    interactions = InteractionsConfig(path=str(folder / "log.parquet"), split="column")
    return RunData(folder, interactions, catalog, FeatureStore(folder / "features"))


def back(format_name: str, run: RunData, folder: Path) -> Path:
    """The folder that an import makes of the run's export."""
    out, imported = folder / "out", folder / "imported"
    for path in (out, imported):
        path.mkdir()
    write_notes(out, WRITERS[ExportFormat(format_name)](run, out, "shop", {}))
    READERS[ImportFormat(format_name)](Source(out), ImportFolder(imported))
    return imported


@pytest.mark.parametrize("format_name", BOTH_WAYS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shop=shops())
def test_an_export_that_is_imported_is_what_it_was(format_name: str, shop: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(shop, Path(folder, "run"))
        imported = back(format_name, run, Path(folder))
        log = pl.read_parquet(imported / LOG)
        assert_frame_equal(
            log, shop["log"], check_row_order=False, check_column_order=False, check_exact=True
        )
        items = pl.read_parquet(imported / ITEMS)["item_id"]
        assert items.dtype == shop["items"].dtype
        assert sorted(items) == sorted(shop["items"])
        order = [items.to_list().index(item) for item in shop["items"]]
        for view, matrix in shop["features"].items():
            found = np.load(imported / FEATURES / f"{view}.npy")[order].astype(np.float16)
            assert np.array_equal(np.isnan(found), np.isnan(matrix))
            assert np.nan_to_num(found).tobytes() == np.nan_to_num(matrix).tobytes()


@pytest.mark.parametrize("format_name", [name.value for name in ImportFormat])
def test_a_folder_of_something_else_is_named_with_what_is_in_it(format_name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises((InputError, FileNotFoundError), match=r"looked for .*found holiday\.jpg"):
        READERS[ImportFormat(format_name)](Source(tmp_path), ImportFolder(tmp_path / "out"))
