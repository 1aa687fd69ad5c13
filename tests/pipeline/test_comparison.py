import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.pipeline.config import load_config
from mmrec.pipeline.run import run


@pytest.fixture
def evaluated(log_only) -> Path:
    """Runs of two models on the same data, in `bpr` and `popularity`."""
    for model in ("bpr", "popularity"):
        evaluate(log_only, model, f"train.model={model}")
    return log_only


def evaluate(folder: Path, output: str, *overrides: str) -> None:
    run(load_config(folder / "run.toml", overrides, folder / output))


def compare(folder: Path, *arguments: str, runs: tuple[str, ...] = ("popularity", "bpr")):
    named = [str(folder / name) for name in runs]
    return CliRunner().invoke(app, ["compare", *named, "--metric", "recall@3", *arguments])


def test_means_and_differences_are_those_of_the_users(evaluated) -> None:
    result = compare(evaluated, "--metric", "ndcg@2", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    means = {}
    for name in ("popularity", "bpr"):
        table = pl.read_parquet(evaluated / name / "per_user.parquet").filter(split="test")
        means[name] = table["recall@3"].mean()
    first = facts["comparisons"][0]
    assert (first["metric"], first["run"]) == ("recall@3", str(evaluated / "bpr"))
    assert (first["reference"], first["mean"]) == pytest.approx((means["popularity"], means["bpr"]))
    assert first["difference"] == pytest.approx(means["bpr"] - means["popularity"])
    assert first["low"] <= first["difference"] <= first["high"]
    assert len(facts["comparisons"]) == 2 and facts["users"] == first["users"]


def test_users_are_paired_by_id_whatever_the_order_of_the_rows(evaluated) -> None:
    before = compare(evaluated).stdout
    file = evaluated / "bpr" / "per_user.parquet"
    size = file.stat().st_size
    pl.read_parquet(file).reverse().write_parquet(file)
    account = evaluated / "bpr" / "evaluation.json"
    account.write_text(account.read_text().replace(f": {size}", f": {file.stat().st_size}"))
    assert compare(evaluated).stdout == before and "bpr" in before


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("interactions.ratios=[0.5, 0.2, 0.3]", "other interactions or other splits"),
        ("evaluate.mask=train+validation", "evaluate.mask is 'train' in the one and 'train+validation'"),
    ],
)
def test_runs_that_are_not_like_for_like_are_refused(evaluated, override, named) -> None:
    evaluate(evaluated, "other", override)
    result = compare(evaluated, runs=("bpr", "other"))
    assert result.exit_code == 3 and named in result.stderr


def test_another_number_of_resamples_is_no_obstacle(evaluated) -> None:
    evaluate(evaluated, "other", "evaluate.bootstrap=5", "train.seed=1")
    assert compare(evaluated, runs=("bpr", "other")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--metric", "recal@3"], "did you mean 'recall@3'?"),
        (["--split", "tset"], "no split 'tset'; it holds validation, test"),
    ],
)
def test_what_a_run_lacks_is_named(evaluated, arguments, line) -> None:
    result = compare(evaluated, *arguments)
    assert result.exit_code == 3 and line in result.stderr


def test_runs_without_an_evaluation_and_damaged_ones_are_refused(evaluated) -> None:
    lacking = compare(evaluated, runs=("bpr", "out"))
    (evaluated / "bpr" / "per_user.parquet").write_bytes(b"PAR1")
    result = compare(evaluated)
    assert (lacking.exit_code, result.exit_code) == (3, 3)
    assert "evaluate it first" in lacking.stderr and "damaged" in result.stderr


def test_one_run_is_a_usage_error_and_one_named_twice_a_mistake(evaluated) -> None:
    assert compare(evaluated, runs=("bpr",)).exit_code == 2
    assert compare(evaluated, runs=("bpr", "bpr")).exit_code == 3
