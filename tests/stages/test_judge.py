"""Features judged from the stage to the command's exit code."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.errors import InputError, QualityGateError
from mmrec.features.store import FeatureStore, FeatureStoreWriter, ShardRows
from mmrec.recsys.config import EvaluateConfig, InteractionsConfig
from mmrec.recsys.interactions import Dataset, prepare
from mmrec.stages.judge import FILE, check_features, judge

N_ITEMS, N_USERS, TASTES = 60, 40, 4
IDS = pl.Series("item_id", [f"i{n:02}" for n in range(N_ITEMS)])


def log() -> pl.DataFrame:
    """Every user has ten items of one of four tastes; the taste of item n is n modulo 4."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", IDS[int(item)], time)
        for user in range(N_USERS)
        for time, item in enumerate(rng.permutation(np.arange(user % TASTES, N_ITEMS, TASTES))[:10])
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


@pytest.fixture
def dataset() -> Dataset:
    return prepare(log(), IDS, InteractionsConfig(path="log", ratios=(0.6, 0.2, 0.2)))


def taste_vectors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(N_ITEMS, 8)).astype(np.float32)
    taste = np.eye(8, dtype=np.float32)[np.arange(N_ITEMS) % TASTES]
    return {"taste": taste + 0.1 * noise, "noise": noise}


def write_store(folder: Path, views: dict[str, np.ndarray]) -> FeatureStore:
    vectors = {view: (values, np.ones(N_ITEMS, bool)) for view, values in views.items()}
    writer = FeatureStoreWriter(folder, {})
    writer.write_shard(0, ShardRows(IDS, ["x"] * N_ITEMS, vectors, {}))
    writer.commit({"request": {}})
    return FeatureStore(folder)


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return write_store(tmp_path / "features", taste_vectors())


def settings(**features) -> EvaluateConfig:
    return EvaluateConfig.model_validate(
        {"bootstrap": 20, "features": {"k": [5], "neighbours": [5, 10], **features}}
    )


def test_features_are_ordered_by_what_they_know(dataset, store, tmp_path) -> None:
    facts = judge(dataset, store, settings(), tmp_path).facts
    recall = {
        (name, protocol): result["recall@5"]["mean"]
        for name, judged in facts["sets"].items()
        for protocol, result in judged["protocols"].items()
    }
    protocols = {protocol for _, protocol in recall}
    assert protocols == {"zero-shot", "zero-shot-max", "zero-shot-last", "item-cf-5", "item-cf-10"}
    for protocol in protocols:
        assert recall["taste", protocol] > 2 * recall["noise", protocol]
        assert recall["all views", protocol] > recall["noise", protocol]
    # 54 items are left beside six of the history, and five of them are listed
    assert facts["chance"]["recall@5"] == pytest.approx(5 / 54)
    assert facts["views"]["taste"]["effective_rank"] < facts["views"]["noise"]["effective_rank"]


def test_a_lost_modality_costs_what_it_knew(dataset, store, tmp_path) -> None:
    facts = judge(dataset, store, settings(), tmp_path).facts
    drops = {entry["modality"]: entry["drop"]["zero-shot"]["recall@5"]["mean"] for entry in facts["masked"]}
    assert drops["taste"] > 0.1
    assert drops["noise"] < 0.02
    taste, whole = facts["masked"][0], facts["sets"]["all views"]["protocols"]
    assert taste["items"] == N_ITEMS // 2
    assert whole["item-cf-5"]["recall@5"]["mean"] - taste["protocols"]["item-cf-5"]["recall@5"]["mean"] == (
        pytest.approx(taste["drop"]["item-cf-5"]["recall@5"]["mean"])
    )


def test_a_joint_view_loses_a_modality_to_its_view_with_that_one_hidden(dataset, tmp_path) -> None:
    vectors = taste_vectors()
    joint = {"joint": vectors["taste"], "joint.image": vectors["noise"], "joint.text": vectors["taste"]}
    store = write_store(tmp_path / "features", joint)
    masked = judge(dataset, store, settings(views=["joint"]), tmp_path).facts["masked"]
    drops = {entry["modality"]: entry["drop"]["zero-shot"]["recall@5"]["mean"] for entry in masked}
    assert drops.keys() == {"image", "text"}
    assert drops["image"] == 0  # the text alone says the same
    assert drops["text"] > 0.05


def test_equal_features_are_judged_once(dataset, store, tmp_path) -> None:
    first = judge(dataset, store, settings(), tmp_path)
    again = judge(dataset, store, settings(min_effective_rank=2.0), tmp_path)  # limits judge nothing anew
    assert again.up_to_date
    assert again.facts == json.loads((tmp_path / FILE).read_text()) == first.facts
    assert judge(dataset, store, settings(last=2), tmp_path).changed == ["settings"]


def test_a_sample_of_users_and_another_split(dataset, store, tmp_path) -> None:
    facts = judge(dataset, store, settings(users=7, split="test"), tmp_path).facts
    assert facts["users"] == 7
    with pytest.raises(InputError, match="no such split; found train, validation, test"):
        judge(dataset, store, settings(split="test_cold"), tmp_path)


def test_rows_of_another_size_are_no_replacement(dataset, tmp_path) -> None:
    vectors = taste_vectors()
    short = write_store(tmp_path / "features", vectors | {"short": vectors["noise"][:, :3]})
    config = settings(views=["taste"], mask_replace={"taste": {"taste": "short"}})
    with pytest.raises(InputError, match=r"'taste' has 8 dimensions and 'short', .* has 3"):
        judge(dataset, short, config, tmp_path)


def test_other_times_are_judged_again_though_the_splits_are_the_same(store, tmp_path) -> None:
    labels = (["train"] * 6 + ["validation"] * 2 + ["test"] * 2) * N_USERS
    timed = log().with_columns(pl.Series("split", labels))
    reversed_times = timed.with_columns(-pl.col("timestamp"))
    changed = []
    for table in (timed, timed, reversed_times, timed.drop("timestamp")):
        dataset = prepare(table, IDS, InteractionsConfig(path="log", split="column"))
        report = judge(dataset, store, settings(), tmp_path)
        changed.append(report.changed)
    assert changed == [["new"], [], ["times"], ["times"]]
    assert "zero-shot-last" not in report.facts["sets"]["taste"]["protocols"]


def test_every_limit_that_is_not_met_is_named(dataset, store, tmp_path) -> None:
    limits = {
        "min_zero_shot": {"taste": 0.1, "noise": 0.5},
        "min_item_cf": {"all views": 0.01},
        "max_mean_cosine": 0.1,
        "min_effective_rank": 3.5,
    }
    config = settings(**limits)
    report = judge(dataset, store, config, tmp_path)
    with pytest.raises(QualityGateError) as refused:
        check_features(report.facts, config.features)
    message = str(refused.value)
    assert "noise: zero-shot recall@5" in message
    assert "min_zero_shot asks for 0.5" in message
    assert "taste: mean cosine" in message
    assert "taste: zero-shot" not in message
    assert "all views" not in message
    assert "noise: effective rank" not in message
    with pytest.raises(
        InputError, match="min_zero_shot: tste is not judged; there are taste, noise, all views"
    ):
        judge(dataset, store, settings(min_zero_shot={"tste": 0.1}), tmp_path)


@pytest.fixture
def project(tmp_path) -> Path:
    log().with_columns(pl.col("item_id").str.slice(1).cast(pl.Int64)).write_csv(tmp_path / "log.csv")
    for view, values in taste_vectors().items():
        np.save(tmp_path / f"{view}.npy", values)
    (tmp_path / "run.toml").write_text(
        """
[interactions]
path = "log.csv"
ratios = [0.6, 0.2, 0.2]
[extract]
foreign = { taste = "taste.npy", noise = "noise.npy" }
[train]
model = "popularity"
[evaluate]
bootstrap = 10
[run]
output = "out"
"""
    )
    return tmp_path


def run(project: Path, command: str, *arguments: str):
    return CliRunner().invoke(app, [command, "-c", str(project / "run.toml"), *arguments])


def test_the_command_shows_a_table_and_a_gate_stops_a_run_before_it_trains(project) -> None:
    assert run(project, "extract").exit_code == 0
    shown = run(project, "evaluate", "--features")
    assert shown.exit_code == 0, shown.output
    assert "all views" in shown.stdout
    assert "neighbours in common" in shown.stdout
    facts = json.loads(run(project, "evaluate", "--features", "--json").stdout)
    assert facts == json.loads((project / "out" / FILE).read_text())
    limit = "evaluate.features.min_zero_shot.noise=0.9"
    refused = run(project, "run", "--set", limit)
    assert refused.exit_code == 6
    assert "error: quality gate: noise: zero-shot recall@20" in refused.stderr
    assert not (project / "out" / "model").exists()
    passed = run(project, "run", "--set", "evaluate.features.min_zero_shot.taste=0.1")
    assert passed.exit_code == 0, passed.output
    assert "features alone: up to date" in passed.stdout
    inspected = CliRunner().invoke(app, ["inspect", str(project / "out"), "--json"])
    assert json.loads(inspected.stdout)["judged"] == facts


def test_a_wrong_key_in_a_nested_table_names_the_nearest(project) -> None:
    result = run(project, "evaluate", "--features", "--set", "evaluate.features.neighbors=[5]")
    assert result.exit_code == 3
    assert "evaluate.features.neighbors: unknown key; did you mean 'neighbours'?" in result.stderr
    result = run(project, "train", "--set", "train.mask.modality=taste", "--set", "train.mask.shares=0.3")
    assert "train.mask.shares: unknown key; did you mean 'share'?" in result.stderr
