"""Extraction on Ray, with a cluster of its own; without Ray, what is said then."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.config import ExtractConfig
from mmrec.features.errors import InputError
from mmrec.features.files import file_sha256
from mmrec.stages.extraction.ray_engine import share_out

SHARDS, ROWS = 12, 8
CONFIG = f"""
[catalog]
items = "items.csv"
image = "image"
[extract]
text_views = {{ title = "A {{title}}." }}
shard_rows = {ROWS}
max_failures = 1.0
[run]
output = "out"
"""


@pytest.fixture
def mall(tmp_path, png) -> Path:
    """A folder with run.toml and a catalogue of twelve shards."""
    n = SHARDS * ROWS
    for number in range(n):
        (tmp_path / f"{number}.png").write_bytes(png((number, 2 * number, 0)) if number % 9 else b"none")
    columns = {"item_id": range(n), "image": [f"{number}.png" for number in range(n)]}
    pl.DataFrame({**columns, "title": [f"mug {number}" for number in range(n)]}).write_csv(
        tmp_path / "items.csv"
    )
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path


def command(mall: Path, *arguments: str) -> list[str]:
    return ["extract", "-c", str(mall / "run.toml"), *arguments]


def locally(mall: Path, output: str) -> dict[str, str]:
    """Checksums of the files of a store that one process made, or went on with."""
    result = CliRunner().invoke(app, command(mall, "-o", str(mall / output)))
    assert result.exit_code == 0, result.output
    return checksums(mall / output)


def checksums(output: Path) -> dict[str, str]:
    files = (output / "features").glob("*.parquet")
    return {path.name: file_sha256(path) for path in (*files, output / "features" / "manifest.json")}


def on_ray(mall: Path, meanwhile: Callable[[subprocess.Popen[str], Path], None]) -> tuple[int, str]:
    """Exit code and stderr of an extraction on Ray, and whoever does something to it."""
    arguments = command(mall, "--engine", "ray", "-o", str(mall / "ray"))
    with subprocess.Popen(
        [sys.executable, "-m", "mmrec.cli", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            meanwhile(process, mall / "ray" / "features")
            _, stderr = process.communicate(timeout=300)
        finally:
            process.kill()
    return process.returncode, stderr


def wait_for_shards(features: Path, count: int) -> None:
    until = time.monotonic() + 120
    while len(list(features.glob("part-*.parquet"))) < count:
        assert time.monotonic() < until, f"{count} shards do not come"
        time.sleep(0.01)


def actors_of(process: subprocess.Popen[str]) -> list[int]:
    """Processes of the actors below this one."""
    table = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    parents, titles = {}, {}
    for line in table.splitlines()[1:]:
        pid, parent, title = line.split(maxsplit=2)
        parents[int(pid)], titles[int(pid)] = int(parent), title
    found = []
    for pid, title in titles.items():
        above = pid
        while above in parents and above != process.pid:
            above = parents[above]
        if above == process.pid and title.startswith("ray::") and "ShardActor" in title:
            found.append(pid)
    return found


def kill_an_actor(process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not (actors := actors_of(process)):
        assert time.monotonic() < until, "no actor comes"
        time.sleep(0.05)
    os.kill(actors[0], signal.SIGKILL)


def test_actors_that_are_killed_cost_nothing_and_make_nothing_twice(mall) -> None:
    pytest.importorskip("ray.data")

    def kill_twice(process: subprocess.Popen[str], features: Path) -> None:
        for count in (2, 5):
            wait_for_shards(features, count)
            kill_an_actor(process)

    code, stderr = on_ray(mall, kill_twice)
    assert code == 0, stderr
    assert checksums(mall / "ray") == locally(mall, "whole")
    assert not list((mall / "ray" / "features").glob(".*.tmp"))


def test_a_signal_lets_shards_in_flight_be_finished_and_exits_with_130(mall) -> None:
    pytest.importorskip("ray.data")

    def terminate(process: subprocess.Popen[str], features: Path) -> None:
        wait_for_shards(features, 1)
        process.send_signal(signal.SIGTERM)

    code, stderr = on_ray(mall, terminate)
    assert code == 130 and "SIGTERM: stopping after the shards in flight" in stderr, stderr
    features = mall / "ray" / "features"
    assert 1 <= len(list(features.glob("part-*.parquet"))) < SHARDS
    assert not list(features.glob(".*.tmp")) and not (features / "manifest.json").exists()
    assert locally(mall, "ray") == locally(mall, "whole")


@pytest.mark.parametrize(
    ("resources", "settings", "expected"),
    [
        ({"CPU": 16.0, "GPU": 2.0}, {}, (2, {"num_gpus": 1})),
        ({"CPU": 16.0, "GPU": 2.0}, {"actors": 1}, (1, {"num_gpus": 1})),
        ({"CPU": 16.0, "GPU": 2.0}, {"device": "cpu"}, (8, {"num_cpus": 2})),
        ({"CPU": 3.0}, {"actors": 2}, (2, {"num_cpus": 1})),
        ({"CPU": 1.0}, {}, (1, {"num_cpus": 1})),
    ],
)
def test_an_actor_has_a_gpu_or_two_cores(resources, settings, expected) -> None:
    assert share_out(resources, ExtractConfig(**settings)) == expected


def test_more_actors_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(InputError, match="actors = 3, but the Ray cluster has 2 GPUs"):
        share_out({"CPU": 16.0, "GPU": 2.0}, ExtractConfig(actors=3))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--engine", "ray"], 3, "needs Ray Data"),
        (["--address", "auto"], 2, "only --engine ray"),
        (["--engine", "ray", "--merge"], 2, "ray makes all shards"),
        (["--engine", "ray", "--shard", "0/2"], 2, "ray makes all shards"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(mall, monkeypatch, arguments, code, message) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    result = CliRunner().invoke(app, command(mall, *arguments))
    assert result.exit_code == code and message in result.stderr, result.output
    assert "Traceback" not in result.output and not (mall / "out").exists()


def test_a_cluster_that_is_not_there_is_named(mall) -> None:
    pytest.importorskip("ray.data")
    result = CliRunner().invoke(app, command(mall, "--engine", "ray", "--address", "127.0.0.1:1"))
    assert result.exit_code == 3 and "no Ray cluster at 127.0.0.1:1: " in result.stderr, result.output


def test_ray_is_imported_by_those_alone_who_ask_for_it() -> None:
    code = "import sys, mmrec.pipeline.extraction as _; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
