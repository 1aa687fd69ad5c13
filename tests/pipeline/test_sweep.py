"""`mmrec sweep`: the cells of a grid, what is run again and what not, failures, tables."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.pipeline import cells
from mmrec.pipeline.config import ConfigError
from mmrec.pipeline.grid import load_grid
from mmrec.recsys.errors import DivergedError

SWEEP = """
[sweep]
seeds = [0, 1]
metrics = ["recall@3", "ndcg@2"]
splits = ["test", "validation"]
compare = "plain"

[[sweep.axis]]
name = "backbone"
key = "train.model"
values = ["bpr", "lightgcn"]

[[sweep.axis]]
name = "size"
[sweep.axis.values]
plain = {}
wide = { train = { dim = 8, bpr.reg_weight = 0.1 } }
"""


@pytest.fixture
def grid(log_only) -> Path:
    with (log_only / "run.toml").open("a") as file:
        file.write(SWEEP)
    return log_only


@pytest.fixture
def here(monkeypatch) -> None:
    """Cells run in this process, to save the start of others."""
    monkeypatch.setattr(cells, "in_processes", lambda work, arguments, count: work(*arguments))


def sweep(folder: Path, *arguments: str):
    return CliRunner().invoke(app, ["sweep", str(folder / "run.toml"), *arguments])


def times(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in (folder / "out" / "cells").rglob("*") if p.is_file()}


def test_cells_are_the_product_of_the_axes_and_seeds(grid) -> None:
    found = load_grid(grid / "run.toml", ["train.epochs=1"])
    assert [(cell.labels, cell.seed) for cell in found.cells][:4] == [
        (("bpr", "plain"), 0),
        (("bpr", "plain"), 1),
        (("bpr", "wide"), 0),
        (("bpr", "wide"), 1),
    ]
    last = found.cells[-1].config
    assert (last.train.model, last.train.dim, last.train.seed, last.train.epochs) == ("lightgcn", 8, 1, 1)
    assert last.train.options("bpr") == {"reg_weight": 0.1}
    assert last.output == grid / "out" / "cells" / "lightgcn" / "wide" / "seed-1"
    assert len({cell.config.features for cell in found.cells}) == 1  # one store for all


def test_cells_with_other_features_have_a_store_of_their_own(log_only) -> None:
    axis = '[[sweep.axis]]\nname = "views"\n[sweep.axis.values]\na = { extract.foreign.x = "x.npy" }\n'
    (log_only / "run.toml").open("a").write(
        f'[extract]\nforeign = {{ x = "w.npy" }}\n[sweep]\nmetrics = ["recall@3"]\n{axis}b = {{}}\n'
    )
    first, second = load_grid(log_only / "run.toml").cells
    assert first.config.extract.foreign == {"x": str(log_only / "x.npy")}  # relative to the file
    assert second.config.features == log_only / "out" / "features" != first.config.features


def test_an_axis_may_name_the_store_and_the_base_the_seed(log_only) -> None:
    axis = '[[sweep.axis]]\nname = "store"\nkey = "run.features"\nvalues = ["a", "b"]\n'
    (log_only / "run.toml").open("a").write(f'[sweep]\nmetrics = ["recall@3"]\n{axis}')
    found = load_grid(log_only / "run.toml", ["train.seed=7"])
    assert [cell.config.features for cell in found.cells] == [log_only / "a", log_only / "b"]
    assert [cell.seed for cell in found.cells] == [7, 7] and found.config.seeds == (7,)


def test_a_cell_that_something_else_has_run_in_is_not_taken_for_its_own(grid, here) -> None:
    assert sweep(grid).exit_code == 0
    cell = load_grid(grid / "run.toml").cells[0].config.output
    before = (cell / "evaluation.json").read_bytes()
    other = ["run", "-c", str(cell / "config.toml"), "--set", "train.model=popularity"]
    assert CliRunner().invoke(app, other).exit_code == 0
    assert (cell / "evaluation.json").read_bytes() != before
    assert sweep(grid).exit_code == 0
    figures = json.loads((cell / "evaluation.json").read_text())["splits"]
    assert figures == json.loads(before)["splits"]


def test_a_sweep_reports_every_cell_and_a_second_call_runs_nothing(grid, here) -> None:
    result = sweep(grid, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [tuple(row["labels"].values()) for row in facts["rows"]] == [
        (backbone, size) for backbone in ("bpr", "lightgcn") for size in ("plain", "wide")
    ]
    row = facts["rows"][1]
    per_seed = []
    for seed in (0, 1):
        table = pl.read_parquet(grid / "out" / "cells" / "bpr" / "wide" / f"seed-{seed}" / "per_user.parquet")
        per_seed.append(table.filter(pl.col("split") == "test")["recall@3"].mean())
    figure = row["figures"]["test"]["recall@3"]
    assert figure["per_seed"] == pytest.approx(per_seed)
    assert figure["mean"] == pytest.approx(sum(per_seed) / 2) and figure["low"] <= figure["mean"]
    assert figure["seed_deviation"] == pytest.approx(abs(per_seed[0] - per_seed[1]) / 2**0.5)
    assert row["cost"]["peak_memory_mb"] > 50 and row["cost"]["parameters"] == (12 + 8) * 8
    assert {(t["labels"]["backbone"], t["labels"]["size"]) for t in facts["tests"]} == {
        ("bpr", "wide"),
        ("lightgcn", "wide"),
    }
    test = facts["tests"][0]
    plain = facts["rows"][0]["figures"]["test"]["recall@3"]["mean"]
    assert test["difference"] == pytest.approx(figure["mean"] - plain) and test["split"] == "test"
    before = times(grid)
    again = sweep(grid, "--json")
    assert again.exit_code == 0 and times(grid) == before
    assert json.loads(again.stdout) == facts == json.loads((grid / "out" / "sweep.json").read_text())


def test_only_what_changed_is_run_again(grid, here) -> None:
    sweep(grid)
    before = times(grid)
    file = grid / "run.toml"
    file.write_text(file.read_text().replace("dim = 8", "dim = 6"))
    assert sweep(grid).exit_code == 0
    changed = {path for path, time in times(grid).items() if before.get(path) != time}
    assert changed and all("/wide/" in path for path in changed)


def test_cells_of_one_lineage_are_run_once(log_only, here) -> None:
    axis = '[[sweep.axis]]\nname = "n"\n[sweep.axis.values]\na = {}\nb = { train.dim = 4 }\n'
    (log_only / "run.toml").open("a").write(f"[sweep]\nmetrics = ['recall@3']\n{axis}")
    assert sweep(log_only).exit_code == 0
    assert (log_only / "out" / "cells" / "a").is_dir()
    assert not (log_only / "out" / "cells" / "b").exists()
    rows = json.loads((log_only / "out" / "sweep.json").read_text())["rows"]
    assert rows[0]["figures"] == rows[1]["figures"]


def test_a_failed_cell_is_shown_and_does_not_stop_the_others(grid, here, monkeypatch) -> None:
    train = cells.train_and_index

    def diverge(config, store, dataset):
        if "wide/seed-1" in str(config.output) and config.train.model == "bpr":
            raise DivergedError("the loss is nan")
        return train(config, store, dataset)

    monkeypatch.setattr(cells, "train_and_index", diverge)
    result = sweep(grid)
    assert result.exit_code == 4
    assert "- bpr / wide, seed 1: the loss is nan" in result.stdout
    assert "(1 of 2 seeds)" in result.stdout
    facts = json.loads((grid / "out" / "sweep.json").read_text())
    assert [row["seeds"] for row in facts["rows"]] == [[0, 1], [0], [0, 1], [0, 1]]
    assert {test["seeds"] for test in facts["tests"]} == {1, 2}  # common ones
    monkeypatch.setattr(cells, "train_and_index", train)
    assert sweep(grid).exit_code == 0  # tried again


def test_a_cell_that_dies_takes_only_itself_along(log_only) -> None:
    axis = '[[sweep.axis]]\nname = "rate"\nkey = "train.learning_rate"\nvalues = [0.01, 1e37]\n'
    (log_only / "run.toml").open("a").write(f"[sweep]\nmetrics = ['recall@3']\n{axis}")
    result = sweep(log_only)
    assert result.exit_code == 4, result.output
    assert "Failed cells (1)" in result.stdout and "diverged" in result.stdout
    rows = json.loads((log_only / "out" / "sweep.json").read_text())["rows"]
    assert rows[0]["figures"]["test"]["recall@3"]["mean"] >= 0 and rows[1]["figures"]["test"] == {}


def test_mistakes_of_a_sweep_are_named_before_any_work(grid) -> None:
    file, text = grid / "run.toml", (grid / "run.toml").read_text()
    for old, new, message in (
        ('compare = "plain"', 'compare = "plan"', "'plan' is not a label of one axis; did you mean 'plain'?"),
        ('values = ["bpr", "lightgcn"]', 'values = ["bpr", "lightgnc"]', "no model 'lightgnc'"),
        ("dim = 8", "dimm = 8", "bpr / wide: train.dimm: unknown key"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "two seeds are the same"),
        ('"ndcg@2"', '"ndgc@2"', "ndgc@2: not NAME@K"),
        ('key = "train.model"\n', "", "a key and a list of values, or a table"),
        ('"ndcg@2"', '"ndcg@7"', "ndcg@7 is not evaluated; evaluate.k is [2, 3]"),
        (
            'key = "train.model"',
            'key = "train.seed"',
            "no axis can change train.seed: every cell takes all of",
        ),
        ('splits = ["test",', 'splits = ["tset",', "tset: no such split; there are validation, test"),
        ("seeds =", "seed =", "sweep.seed: unknown key; did you mean 'seeds'?"),
    ):
        file.write_text(text.replace(old, new))
        with pytest.raises(ConfigError) as failure:
            load_grid(file)
        assert message in str(failure.value)
