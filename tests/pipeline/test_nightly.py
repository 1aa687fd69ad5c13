"""What a scheduler's run leaves behind, however it ends."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.errors import InputError
from mmrec.pipeline import nightly as module
from mmrec.pipeline import tracking
from mmrec.pipeline.config import load_config
from mmrec.pipeline.deadline import TimeLimitError, deadline
from mmrec.pipeline.lock import LockedError
from mmrec.pipeline.nightly import nightly
from mmrec.pipeline.outcome import Outcome
from mmrec.pipeline.prometheus import metrics_text
from mmrec.pipeline.record import read_records

EVALUATION = {"splits": {"test": {"metrics": {"recall@20": {"mean": 0.25}, "arp@20": {"mean": 3.0}}}}}


@pytest.fixture
def short(monkeypatch):
    """Takes the place of the stages: `short(work)` makes the next runs do `work`."""

    def replace(work=lambda: None) -> None:
        def run(_config, steps, _run_id):
            steps.do("model", work)
            return Outcome({"evaluation": EVALUATION}, "done")

        monkeypatch.setattr(module, "run", run)

    replace()
    return replace


def config_of(project: Path, *overrides: str):
    return load_config(project / "run.toml", ["run.backoff=0", *overrides])


def metrics(project: Path) -> dict[str, str]:
    lines = (project / "out" / "metrics.prom").read_text().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_a_run_is_recorded_with_its_stages_and_its_figures(log_only) -> None:
    result = CliRunner().invoke(app, ["run", "-c", str(log_only / "run.toml")])
    assert result.exit_code == 0, result.output
    (record,) = read_records(log_only / "out")
    assert (record["status"], record["exit_code"], record["error"]) == ("succeeded", 0, None)
    stages = {stage["name"]: stage for stage in record["stages"]}
    assert list(stages) == ["interactions", "model", "index", "evaluation"]
    assert stages["model"]["changed"] == ["new"] and stages["model"]["attempts"] == 1
    assert record["metrics"]["test"]["recall@3"] is not None
    assert record["memory"]["peak_memory_mb"] > 0 and record["versions"]["mmrec"]
    assert record["inputs"]["interactions"][0][0] == str(log_only / "log.csv")
    assert metrics(log_only)['mmrec_run_exit_code{run="out"}'] == "0.0"


def test_a_failure_is_recorded_and_the_last_success_not_forgotten(log_only, short) -> None:
    nightly(config_of(log_only))
    success = metrics(log_only)['mmrec_run_success_timestamp_seconds{run="out"}']
    time.sleep(0.01)

    def broken() -> None:
        raise InputError("the feed is cut off")

    short(broken)
    with pytest.raises(InputError):
        nightly(config_of(log_only))
    record = read_records(log_only / "out")[-1]
    assert (record["status"], record["exit_code"]) == ("failed", 3)
    assert record["error"] == {"kind": "InputError", "message": "the feed is cut off"}
    assert [stage["status"] for stage in record["stages"]] == ["failed"]
    found = metrics(log_only)
    assert found['mmrec_run_exit_code{run="out"}'] == "3.0"
    assert found['mmrec_run_success_timestamp_seconds{run="out"}'] == success


def test_a_killed_run_is_seen_by_the_next(log_only, short) -> None:
    nightly(config_of(log_only))
    (path,) = (log_only / "out" / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "status": "running", "exit_code": None}))
    nightly(config_of(log_only))
    assert [record["status"] for record in read_records(log_only / "out")] == ["killed", "succeeded"]


def test_a_second_run_is_refused_and_leaves_the_metrics_of_the_first_alone(
    log_only, short, monkeypatch
) -> None:
    def refused(_folder: Path) -> None:
        raise LockedError("in use")

    monkeypatch.setattr(module, "locked", refused)
    with pytest.raises(LockedError):
        nightly(config_of(log_only))
    assert read_records(log_only / "out")[-1]["exit_code"] == 5
    assert not (log_only / "out" / "metrics.prom").exists()


def test_a_run_that_takes_too_long_is_stopped(log_only, short) -> None:
    short(lambda: time.sleep(10))
    started = time.perf_counter()
    with pytest.raises(TimeLimitError, match=r"run\.time_limit = 0\.2 s"):
        nightly(config_of(log_only, "run.time_limit=0.2"))
    assert time.perf_counter() - started < 5
    assert read_records(log_only / "out")[-1]["exit_code"] == 7
    with pytest.raises(KeyboardInterrupt), deadline(100):  # somebody's Ctrl-C is not the limit
        raise KeyboardInterrupt


def test_an_error_that_may_pass_is_tried_again(log_only, short) -> None:
    attempts = []

    def shaky() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise InputError("log.csv: not readable") from ConnectionResetError(104, "reset by peer")

    short(shaky)
    nightly(config_of(log_only))
    assert read_records(log_only / "out")[-1]["stages"][0]["attempts"] == 3


def test_old_records_go_but_that_of_the_published_bundle_stays(log_only, short, monkeypatch) -> None:
    for _ in range(4):
        nightly(config_of(log_only, "run.keep_records=2"))
    first, _ = (record["id"] for record in read_records(log_only / "out"))
    published = {"run": first, "id": "bundle", "created": "2026-01-01T00:00:00+00:00"}
    monkeypatch.setattr(module, "_published", lambda _: published)
    for _ in range(3):
        nightly(config_of(log_only, "run.keep_records=2"))
    left = [record["id"] for record in read_records(log_only / "out")]
    assert len(left) == 3 and left[0] == first


def test_a_tracker_that_is_not_installed_is_named_before_any_work(log_only, monkeypatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"run\.track names mlflow, .*pip install 'mmrec\[track\]'"):
        nightly(config_of(log_only, 'run.track=["mlflow"]'))
    assert not (log_only / "out").exists()


def test_the_figures_of_a_run_go_to_tensorboard(log_only, short) -> None:
    pytest.importorskip("tensorboard")
    nightly(config_of(log_only, 'run.track=["tensorboard"]'))
    (folder,) = (log_only / "out" / "tensorboard").iterdir()
    assert any(path.name.startswith("events.out") for path in folder.iterdir())


def test_metrics_of_one_name_stand_together_and_values_are_escaped() -> None:
    record = {
        "status": "succeeded", "exit_code": 0, "seconds": 2.0, "memory": {"peak_memory_mb": 1.0},
        "started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:00:02+00:00",
        "stages": [
            {"name": name, "seconds": 1.0, "attempts": 1, "up_to_date": up_to_date, "facts": {}}
            for name, up_to_date in (("model", True), ("interactions", None))
        ],
        "metrics": {"test": {"recall@20": 0.5, "arp@20": 3.0, "ndcg@20": None}},
    }  # fmt: skip
    text = metrics_text('a"b\\', [record], {"id": "x", "created": "2026-01-01T00:00:00+00:00"})
    lines = text.splitlines()
    names = [line.partition("{")[0] for line in lines if not line.startswith("#")]
    assert names == sorted(names, key=names.index) and text.endswith("\n")
    assert r'mmrec_metric{run="a\"b\\",split="test",metric="recall@20"} 0.5' in lines
    assert sum(line.startswith("mmrec_metric{") for line in lines) == 1
    assert sum(line.startswith("mmrec_stage_reused{") for line in lines) == 1
    assert lines.count("# TYPE mmrec_stage_duration_seconds gauge") == 1
