"""What `mmrec status` says of a run over five items and a log of eight users."""

import json
import os
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.pipeline.config import load_config
from mmrec.pipeline.lock import locked
from mmrec.pipeline.nightly import nightly
from mmrec.pipeline.status import status

CONFIG = """
[catalog]
items = "items.csv"
image = "image"
[interactions]
path = "log.csv"
ratios = [0.6, 0.2, 0.2]
[extract]
text_views = { title = "{title}" }
max_failures = 1.0
[train]
model = "vbpr"
dim = 4
epochs = 2
[evaluate]
bootstrap = 10
[publish]
[run]
output = "out"
"""


@pytest.fixture
def project(shop, encoder) -> Path:
    (shop / "run.toml").write_text(CONFIG)
    rows = [(f"u{u}", "abcde"[(u + t) % 5], 10 * u + t) for u in range(8) for t in range(5)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(shop / "log.csv")
    return shop


def facts(project: Path, *overrides: str) -> dict:
    return status(load_config(project / "run.toml", overrides)).facts


def states(project: Path, *overrides: str) -> dict[str, tuple[str, list[str]]]:
    return {
        found["name"]: (found["state"], found["why"]) for found in facts(project, *overrides)["artefacts"]
    }


def test_from_nothing_to_all_up_to_date(project) -> None:
    before = states(project)
    assert {name: state for name, (state, _) in before.items() if name != "interactions"} == dict.fromkeys(
        ["features", "model", "index", "evaluation", "published"], "missing"
    )
    assert not (project / "out").exists()  # nothing was made
    nightly(load_config(project / "run.toml"))
    assert all(found == ("up to date", []) for found in states(project).values())
    result = CliRunner().invoke(app, ["status", "-c", str(project / "run.toml"), "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["published"] and told["lock"] is None
    assert told["runs"][0]["stages"]["model"] == "made" and told["runs"][0]["exit_code"] == 0


def test_what_a_change_makes_stale_and_why(project) -> None:
    nightly(load_config(project / "run.toml"))
    settings = states(project, "train.epochs=3")
    assert settings["features"] == ("up to date", [])
    assert settings["model"] == ("stale", ["settings"])
    assert settings["index"] == ("stale", ["model is stale"])
    assert states(project, "evaluate.k=[5]")["evaluation"] == ("stale", ["settings: k"])
    assert states(project, "index.kind='hnsw'")["index"] == ("stale", ["settings"])
    views = states(project, "extract.image_views=['full', 'quadrants']")
    assert views["features"][0] == "stale" and "image_views" in views["features"][1][0]
    assert views["model"] == ("stale", ["features is stale"])
    items = project / "items.csv"
    items.write_text(items.read_text().replace("e,,blue", "f,,green"))
    assert states(project)["features"] == ("stale", ["items: 1 new", "items: 1 gone"])


def test_a_catalogue_that_was_written_to_is_told_from_one_that_was_not(project) -> None:
    nightly(load_config(project / "run.toml"))
    os.utime(project / "items.csv", (0, 0))
    state, (why,) = states(project)["features"]
    assert state == "stale" and "written to since the last run" in why


def test_damage(project) -> None:
    nightly(load_config(project / "run.toml"))
    (project / "out" / "features" / "part-00000.parquet").unlink()
    (project / "out" / "index" / "items.faiss").write_bytes(b"")
    found = states(project)
    state, (why,) = found["features"]
    assert state == "damaged" and "the file is gone" in why
    assert found["index"][0] == "damaged"
    assert found["model"] == ("stale", ["interactions is stale", "features is damaged"])


def test_who_is_at_work_and_which_runs_were_killed(project) -> None:
    nightly(load_config(project / "run.toml"))
    (path,) = (project / "out" / "runs").glob("*/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "running"}))
    assert facts(project)["runs"][0]["status"] == "killed"
    with locked(project / "out"):
        found = facts(project)
        assert found["lock"]["alive"] and f"process {os.getpid()}" in found["lock"]["owner"]
        assert found["runs"][0]["status"] == "running"


def test_a_bundle_that_the_gate_refused_is_told_with_the_limit(project) -> None:
    nightly(load_config(project / "run.toml"))
    log = project / "log.csv"
    log.write_text(log.read_text() + "v1,a,1\nv1,b,2\nv1,c,3\n")
    floor = "publish.gate.floors={'recall@5' = 1.1}"
    config = load_config(project / "run.toml", [floor])
    with pytest.raises(RuntimeError):
        nightly(config)
    state, (why,) = states(project)["published"]
    assert state == "stale" and why.startswith("the gate refused the last run: recall@5: ")
