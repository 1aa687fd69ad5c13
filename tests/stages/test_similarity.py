"""The report on a store's similarities and the gate, from the stage to the command's exit code."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.config import ExtractConfig
from mmrec.features.errors import InputError, QualityGateError
from mmrec.features.store import FeatureStore, FeatureStoreWriter, ShardRows
from mmrec.stages.similarity import check_similarity, similarity_report

N = 40
SWAPPED = [5, 17]


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    """40 items, each a direction of its own for picture, title and brand; two pictures are swapped, item 0
    has no picture and item 1 no brand."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(N, 8)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    images = texts.copy()
    images[SWAPPED] = images[SWAPPED[::-1]]
    has_image, has_brand = np.arange(N) != 0, np.arange(N) != 1
    cosine = np.einsum("nd,nd->n", images, texts)
    similarity = {
        "title": np.where(has_image, cosine, np.nan),
        "brand": np.where(has_image & has_brand, cosine, np.nan),
    }
    everywhere = np.ones(N, bool)
    vectors = {
        "image.full": (images, has_image),
        "text.title": (texts, everywhere),
        "text.brand": (texts, has_brand),
    }
    writer = FeatureStoreWriter(tmp_path / "features", {"similarity_with": "full"})
    ids = pl.Series("item_id", [f"i{n}" for n in range(N)])
    writer.write_shard(0, ShardRows(ids, ["x"] * N, vectors, similarity))
    writer.commit({"request": {}})
    return FeatureStore(tmp_path / "features")


def test_the_report_ranks_wrong_pictures_first_and_counts_what_is_missing(store) -> None:
    report = similarity_report(store, worst=3)
    facts = report.facts
    assert {row["item_id"] for row in facts["worst"][:2]} == {"i5", "i17"} and len(facts["worst"]) == 3
    assert facts["views"]["title"]["missing"] == 1 and facts["views"]["brand"]["missing"] == 2
    assert (facts["items"], facts["compared"], facts["image_view"]) == (N, N - 1, "image.full")
    assert abs(facts["views"]["title"]["random_mean"]) < 0.2 < facts["views"]["title"]["mean"]
    json.dumps(facts, allow_nan=False)


def test_every_item_has_its_row_and_missing_views_are_null(store) -> None:
    items = similarity_report(store).items
    assert items["item_id"].to_list() == store.item_ids.to_list()
    assert items.row(0, named=True) | {"item_id": ""} == {**dict.fromkeys(items.columns), "item_id": ""}
    second = items.row(1, named=True)
    assert (second["weight.title"], second["weight.brand"], second["carried_by"]) == (1, None, "title")
    weights = items.select(pl.sum_horizontal(pl.selectors.starts_with("weight."))).to_series()[1:]
    np.testing.assert_allclose(weights, 1, atol=1e-6)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_similarity": {"title": 0.99}}, r"text\.title: mean similarity 0\.\d+ .*asks for 0\.99"),
        (
            {"similarity_floor": 0.9, "max_below_floor": 0.01},
            r"text\.title: 5\.13% of 39 items below .*; text\.brand: 5\.26% of 38 items",
        ),
        ({"max_mismatched": 0.0}, "of 39 items fit their image no better than a random pairing"),
    ],
)
def test_the_gate_says_what_was_found_and_what_was_asked(store, limits, message) -> None:
    names = {"text_views": {"title": "{title}", "brand": "{brand}"}}
    with pytest.raises(QualityGateError, match=message):
        check_similarity(store, ExtractConfig(**names, **limits))


def test_a_store_within_its_limits_passes(store) -> None:
    limits = {"similarity_floor": 0.9, "max_below_floor": 0.06, "max_mismatched": 0.06}
    check_similarity(store, ExtractConfig(text_views={"title": "{title}"}, **limits))
    check_similarity(store, ExtractConfig(text_views={"t": "{t}"}, min_similarity={}))


def test_a_limit_on_nothing_is_an_error_not_a_pass(tmp_path) -> None:
    writer = FeatureStoreWriter(tmp_path, {})
    visual = np.ones((1, 2)), np.ones(1, bool)
    writer.write_shard(0, ShardRows(pl.Series("item_id", [1]), ["x"], {"visual": visual}))
    writer.commit({})
    with pytest.raises(InputError, match="no similarity to look at"):
        check_similarity(FeatureStore(tmp_path), ExtractConfig(max_mismatched=0.5))


def command(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_inspect_shows_it_and_writes_it(store, tmp_path) -> None:
    file = tmp_path / "new" / "items.parquet"
    shown = command("inspect", store.folder, "--similarity", "--worst", 2, "--output", file)
    assert shown.exit_code == 0, shown.output
    assert "text.brand" in shown.stdout and "i17" in shown.stdout
    assert len(pl.read_parquet(file)) == N
    machine = command("inspect", tmp_path, "--similarity", "--temperature", 1, "--json")
    assert json.loads(machine.stdout)["similarity"]["temperature"] == 1
    assert command("inspect", store.folder, "--output", file).exit_code == 2


CONFIG = """
[catalog]
items = "items.csv"
image = "image"
[extract]
text_views = { title = "{title}" }
max_failures = 1.0
[run]
output = "out"
"""


def test_extract_exits_with_6_past_a_limit_and_keeps_its_work(shop: Path, encoder) -> None:
    (shop / "run.toml").write_text(CONFIG)
    limit = ("--set", "extract.min_similarity.title=0.999")
    refused = command("extract", "-c", shop / "run.toml", *limit)
    assert refused.exit_code == 6
    assert "error: quality gate: text.title" in refused.stderr
    assert len(FeatureStore(shop / "out" / "features")) == 5
    again = command("extract", "-c", shop / "run.toml", "--set", "extract.min_similarity.title=-1")
    assert again.exit_code == 0 and "up to date" in again.stdout
    assert command("extract", "-c", shop / "run.toml", *limit).exit_code == 6
