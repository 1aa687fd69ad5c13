"""`mmrec train` under torchrun, as a user starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
from typer.testing import CliRunner

from mmrec.cli import app


def test_torchrun_trains_one_model_that_one_process_then_finds(log_only: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = ["train", "-c", str(log_only / "run.toml"), "--json"]
    finished = subprocess.run(
        [*torchrun, "-m", "mmrec.cli", *train],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    facts = json.loads(finished.stdout)  # once
    assert facts["model"]["epochs"] == 2
    assert finished.stderr.count("2 processes train together") == 1
    assert len(pl.read_parquet(log_only / "out" / "model" / "users.parquet")) == 12
    assert not (log_only / "out" / ".training.safetensors").exists()
    alone = CliRunner().invoke(app, train)
    assert json.loads(alone.stdout)["model"]["up_to_date"]


def test_other_commands_refuse_to_run_several_times_at_once(log_only: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(app, ["run", "-c", str(log_only / "run.toml")])
    assert result.exit_code == 2 and "works in one" in result.stderr
    assert not (log_only / "out").exists()
