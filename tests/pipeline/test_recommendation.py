"""`mmrec recommend` on what a run has left: its folder, what it published, and a config."""

import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.pipeline.config import load_config
from mmrec.pipeline.run import run


def recommend(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["recommend", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def project(log_only) -> Path:
    lenient = "publish.gate={max_fall = false, max_changed = false, max_coverage_fall = false}"
    run(load_config(log_only / "run.toml", [lenient]), run_id="night")
    return log_only


def test_folder_bundle_run_and_config_give_the_same_lists(project, tmp_path) -> None:
    (bundle,) = (project / "out" / "published" / "bundles").iterdir()
    told = recommend(project / "out" / "published", "-o", tmp_path / "a.parquet", "-k", 3)
    assert "lists of 3 for 12 users" in told and "exact, 8 items" in told
    lists = pl.read_parquet(tmp_path / "a.parquet")
    for place in (bundle, project / "out"):
        recommend(place, "-o", tmp_path / "b.parquet", "-k", 3)
        assert pl.read_parquet(tmp_path / "b.parquet").equals(lists)
    recommend("-c", project / "run.toml", "-o", tmp_path / "c.parquet", "-k", 3)
    recommend(bundle, "-o", tmp_path / "d.parquet", "-k", 3, "--index")
    for name in ("c", "d"):
        assert pl.read_parquet(tmp_path / f"{name}.parquet").equals(lists)
    log = pl.read_csv(project / "log.csv").select("user_id", "item_id")
    assert lists.join(log, on=["user_id", "item_id"]).is_empty()


def test_a_bundle_needs_no_log_and_a_run_folder_says_what_it_needs_it_for(project, tmp_path) -> None:
    shutil.copytree(project / "out" / "published", tmp_path / "away", symlinks=True)
    (project / "log.csv").unlink()
    recommend(tmp_path / "away", "-o", tmp_path / "a.parquet")
    assert "log.csv: no such file" in recommend(project / "out", "-o", tmp_path / "b.parquet", code=3)
    recommend(project / "out", "-o", tmp_path / "b.parquet", "--include-seen")


def test_one_line_for_what_cannot_be_done(tmp_path) -> None:
    out = tmp_path / "out.parquet"
    said = recommend(tmp_path, "-o", out, code=3)
    assert "neither a publish folder" in said and said.count("\n") == 1
    assert "name a folder, or a config" in recommend("-o", out, code=2)
    for options in (
        ("--items", tmp_path / "x"),
        ("--similar-items", "--index"),
        ("--similar-items", "--users", tmp_path / "x"),
        ("--new-users", tmp_path / "x", "--include-seen"),
    ):
        recommend(tmp_path, "-o", out, *options, code=2)
    assert not out.exists()
