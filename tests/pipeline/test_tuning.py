"""`mmrec tune` from the command line: what it leaves, how it goes on, what it refuses."""

import importlib.util
import json
import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.pipeline import tuning
from mmrec.pipeline.config import ConfigError, build_config, load_config
from mmrec.pipeline.extraction import extract
from mmrec.pipeline.run import run
from mmrec.recsys.errors import DivergedError
from mmrec.recsys.grids import GRIDS
from mmrec.recsys.models import MODELS

pytest.importorskip("optuna")

SPACE = """
[tune]
trials = 3
[tune.space]
"train.learning_rate" = { low = 1e-3, high = 1e-1, log = true }
"train.dim" = { low = 4, high = 8, step = 2 }
"train.bpr.reg_weight" = [1e-2, 1e-3]
"""


@pytest.fixture
def search(log_only) -> Path:
    with (log_only / "run.toml").open("a") as file:
        file.write(SPACE)
    return log_only


def tune(folder: Path, *arguments: str):
    return CliRunner().invoke(app, ["tune", "-c", str(folder / "run.toml"), *arguments])


LIGHT = ("train.end_to_end.warmup_epochs=0", "train.end_to_end.method=last-layers", "tune.trials=2")


def trials(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "out" / "tune" / "trials.parquet")


SETTINGS = ("train.learning_rate", "train.dim", "train.bpr.reg_weight", "recall@20")


def test_the_best_trial_on_validation_becomes_the_run(search) -> None:
    result = tune(search, "--json")
    assert result.exit_code == 0, result.output
    facts, table = json.loads(result.stdout), trials(search)
    assert len(table) == 3 and table["recall@20"].max() == facts["best"]["value"]
    assert facts["model"]["up_to_date"]  # the trial's bundle is reused, not trained again
    metrics = json.loads((search / "out" / "model" / "metrics.json").read_text())
    assert metrics["validation"]["recall@20"] == facts["best"]["value"]
    assert facts["evaluation"] == json.loads((search / "out" / "evaluation.json").read_text())


def test_best_toml_is_a_configuration_of_the_same_model(search) -> None:
    tune(search)
    again = run(load_config(search / "out" / "tune" / "best.toml"))
    assert again.facts["model"]["up_to_date"]


def test_an_encoder_that_was_trained_in_the_best_trial_is_taken_with_it(log_only, png) -> None:
    items = [{"item_id": name, "image": f"{name}.png"} for name in "abcdefgh"]
    for n, item in enumerate(items):
        (log_only / item["image"]).write_bytes(png((30 * n, 90, 255 - 30 * n)))
    pl.DataFrame(items).write_csv(log_only / "items.csv")
    with (log_only / "run.toml").open("a") as file:
        file.write('[catalog]\nitems = "items.csv"\nimage = "image"\n[extract]\nimage_views = ["full"]\n')
    config = load_config(log_only / "run.toml", ["train.model=vbpr", "train.encoder=end-to-end", *LIGHT])
    extract(config)
    facts = tuning.tune(config).facts
    assert facts["model"]["up_to_date"]
    for out in (config.output, config.output / "tune" / f"trial-{facts['best']['trial']:04d}"):
        assert (out / "encoder-end-to-end" / "end-to-end.json").is_file()
    assert (config.output / "features-end-to-end" / "manifest.json").is_file()


def test_trials_never_look_at_the_test_split(search, monkeypatch) -> None:
    measured = []
    measure = tuning.measure
    monkeypatch.setattr(tuning, "measure", lambda *given: measured.append(1) or measure(*given))
    tune(search)
    assert measured == [1]
    assert not list((search / "out" / "tune").rglob("evaluation.json"))
    assert not list((search / "out" / "tune").rglob("items.faiss"))


def test_a_second_call_does_nothing_and_one_with_more_trials_goes_on(search) -> None:
    tune(search, "--trials", "2")
    before = trials(search)
    tune(search, "--trials", "2")
    assert trials(search).equals(before)
    tune(search, "--trials", "4")
    assert trials(search).head(2).equals(before) and len(trials(search)) == 4


def test_a_killed_search_ends_where_an_undisturbed_one_does(search) -> None:
    tune(search, "-o", str(search / "whole"))
    expected = pl.read_parquet(search / "whole" / "tune" / "trials.parquet")
    code = "import os, signal; from mmrec.pipeline import tuning; train = tuning.train_stage\n"
    code += "def killed(d, s, c, folder, **more):\n"
    code += "    if 'trial-0001' in str(folder): os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "    return train(d, s, c, folder, **more)\n"
    code += "tuning.train_stage = killed\nfrom mmrec.cli import app; app()"
    command = [sys.executable, "-c", code, "tune", "-c", str(search / "run.toml")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    with (search / "out" / "tune" / "journal.log").open("a") as journal:
        journal.write('{"op_code":')  # what a kill leaves of a line
    assert tune(search).exit_code == 0
    assert trials(search).select("trial", *SETTINGS).equals(expected.select("trial", *SETTINGS))


def test_other_data_begin_a_new_search(search) -> None:
    tune(search, "--trials", "2")
    tune(search, "--trials", "1", "--set", "interactions.ratios=[0.4, 0.3, 0.3]")
    assert len(trials(search)) == 1


def test_a_diverged_trial_is_a_failed_one(search, monkeypatch) -> None:
    train = tuning.train_stage

    def diverge(dataset, store, config, folder, **more):
        if "trial-0000" in str(folder):
            raise DivergedError("loss nan")
        return train(dataset, store, config, folder, **more)

    monkeypatch.setattr(tuning, "train_stage", diverge)
    assert tune(search).exit_code == 0
    table = trials(search)
    assert table["state"].to_list() == ["failed", "complete", "complete"]
    assert table["reason"].to_list() == ["loss nan", None, None]


def test_nothing_but_diverged_trials_is_an_error(search) -> None:
    result = tune(search, "--set", "tune.space.train.learning_rate=[1e37, 1e38]", "--trials", "2")
    assert result.exit_code == 3 and "all 2 trials failed" in result.stderr
    assert not (search / "out" / "model").exists()


def test_a_small_space_is_tried_out_once_and_the_search_ends(log_only) -> None:
    result = tune(
        log_only, "--set", "tune.space.train.dim=[3, 4]", "--set", "tune.space.train.batch_size=[8, 9]"
    )
    assert result.exit_code == 0, result.output
    tried = trials(log_only).select("train.dim", "train.batch_size").rows()
    assert sorted(tried) == [(3, 8), (3, 9), (4, 8), (4, 9)]


def test_workers_share_the_trials_and_try_no_number_twice(search) -> None:
    result = tune(search, "--workers", "2", "--trials", "5")
    assert result.exit_code == 0, result.output
    assert trials(search)["trial"].to_list() == [0, 1, 2, 3, 4]
    assert not multiprocessing.active_children()


def test_every_mistake_of_a_space_is_listed() -> None:
    space = {
        "train.learning_rate": {"low": 0.1, "high": 0.01},
        "train.dim": [64, -1],
        "train.batch_sise": [8],
        "train.metric": ["recall@20"],
        "train.bpr": {"reg_weight": {"low": 0.0, "high": 1.0, "log": True}, "n_layer": [2]},
        "train.lightgcn.n_layers": [1, 2],
        "evaluate.mask": ["train"],
        "train.epochs": {"low": 1, "high": 4, "stepp": 2},
        "train.patience": 3,
        "train.eval_every": [1, 1],
    }
    with pytest.raises(ConfigError) as failure:
        build_config({"train": {"model": "bpr"}, "tune": {"space": space}})
    lines = str(failure.value).splitlines()
    expected = {
        "train.learning_rate": "low must be below high",
        "train.dim": "greater than or equal to 1, found -1",
        "train.batch_sise": "did you mean 'batch_size'?",
        "train.metric": "no setting of [train] to search",
        "train.bpr.reg_weight": "low must be above 0",
        "train.bpr.n_layer": "unknown key 'n_layer'",
        "train.lightgcn.n_layers": "train.model is 'bpr'",
        "evaluate.mask": "only [train] can be searched",
        "train.epochs": "unknown key 'stepp' of a range",
        "train.patience": "expected a list of values or a range",
        "train.eval_every": "a list of different values",
    }
    for key, text in expected.items():
        assert any(f"tune.space.{key}: " in line and text in line for line in lines), (key, lines)
    assert len(lines) == len(expected)


def test_every_model_has_a_grid_that_it_understands() -> None:
    assert set(GRIDS) == set(MODELS)
    for model, grid in GRIDS.items():
        if grid:
            build_config(
                {"train": {"model": model}, "tune": {"space": {k: list(v) for k, v in grid.items()}}}
            )


def test_a_model_without_settings_has_nothing_to_search(log_only) -> None:
    result = tune(log_only, "--set", "train.model=popularity")
    assert result.exit_code == 3 and "no settings to search" in result.stderr


def test_without_optuna_the_line_says_how_to_install_it(search, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    result = tune(search)
    assert result.exit_code == 3 and "pip install 'optuna>=4'" in result.stderr


def test_a_killed_parent_takes_its_workers_along(search) -> None:
    code = "from mmrec.cli import app; app()"
    command = [sys.executable, "-c", code, "tune", "-c", str(search / "run.toml"), "--workers", "2"]
    command += ["--trials", "500", "--set", "train.epochs=50"]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = search / "out" / "tune" / "trial-0002"
    deadline = time.monotonic() + 60
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(1)
    journal = search / "out" / "tune" / "journal.log"
    size = journal.stat().st_size
    time.sleep(1)
    assert first.exists() and journal.stat().st_size == size
