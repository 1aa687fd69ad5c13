"""`mmrec extract` as a scheduler calls it: in parts, joined, and of what failed once more."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.files import file_sha256
from mmrec.pipeline.lock import locked, locked_part

CONFIG = """
[catalog]
items = "items.csv"
image = "image"
[extract]
text_views = { title = "{title}" }
shard_rows = 2
[run]
output = "out"
"""


@pytest.fixture
def project(shop, encoder) -> Path:
    """A folder with run.toml and a catalogue of three shards, with one picture that is none."""
    (shop / "run.toml").write_text(CONFIG)
    (shop / "0.png").write_text("not a picture")
    return shop


def extract(project: Path, *arguments: str):
    return CliRunner().invoke(app, ["extract", "-c", str(project / "run.toml"), *arguments])


def test_parts_write_shards_alone_and_the_merge_judges(project) -> None:
    for part in ("0/2", "1/2"):
        result = extract(project, "--shard", part, "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["features"]["part"] == part
    features = project / "out" / "features"
    assert {path.name for path in features.iterdir() if not path.name.startswith(".")} == {
        *(f"part-{shard:05d}.parquet" for shard in range(3))
    }
    result = extract(project, "--merge")
    assert result.exit_code == 4 and "1 of 5 items failed" in result.stderr
    assert (features / "manifest.json").is_file() and (features / "config.toml").is_file()
    assert extract(project, "--merge", "--set", "extract.max_failures=1.0").stdout.startswith(
        "features: up to date"
    )


def test_a_merge_of_too_few_shards_exits_with_3(project) -> None:
    extract(project, "--shard", "0/2")
    result = extract(project, "--merge")
    assert result.exit_code == 3 and "1 of 3 shards are missing (not made yet: 1)" in result.stderr


def test_parts_the_whole_and_the_merge_keep_out_of_each_others_way(project) -> None:
    features = project / "out" / "features"
    with locked_part(features, "0/2"):
        assert [extract(project, *how).exit_code for how in ((), ["--merge"], ["--shard", "0/2"])] == [5] * 3
        assert extract(project, "--shard", "1/2").exit_code == 0
    with locked(features):
        assert extract(project, "--shard", "0/2").exit_code == 5


def test_a_second_extraction_exits_with_5_and_touches_nothing(project) -> None:
    features = project / "out" / "features"
    features.mkdir(parents=True)
    with FileLock(features / ".lock"):  # as another process holds it
        result = extract(project)
        assert result.exit_code == 5 and "in use by another run" in result.stderr
        assert [path.name for path in features.iterdir()] == [".lock"]


def test_a_signal_exits_with_130_and_what_goes_on_ends_as_if_none_had_come(
    project, encoder, monkeypatch
) -> None:
    lenient = ["--set", "extract.max_failures=1.0"]
    encode = encoder.encode_images

    def signalled(pixels):
        os.kill(os.getpid(), signal.SIGTERM)
        return encode(pixels)

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "encode_images", signalled)
        result = extract(project, *lenient)
    assert result.exit_code == 130 and "finished work is kept" in result.stderr, result.output
    assert checksums(project / "out").keys() == {"part-00000.parquet"}
    for output in ("out", "whole"):
        assert extract(project, *lenient, "-o", str(project / output)).exit_code == 0
    assert checksums(project / "out") == checksums(project / "whole")


def checksums(output: Path) -> dict[str, str]:
    features = output / "features"
    return {path.name: file_sha256(path) for path in features.glob("[pfm]*")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shard", "2/2"],
        ["--shard", "one"],
        ["--merge", "--shard", "0/2"],
        ["--merge", "--retry-failed"],
        ["--dry-run", "--merge"],
    ],
)
def test_nonsense_exits_with_2(project, arguments) -> None:
    assert extract(project, *arguments).exit_code == 2
    assert not (project / "out").exists()


def test_what_failed_is_encoded_again_with_and_without_a_reason(project) -> None:
    lenient = ["--set", "extract.max_failures=1.0"]
    extract(project, *lenient)
    for arguments in (["--retry-failed"], ["--retry-failed", "not_an_image"]):
        result = extract(project, *arguments, *lenient)
        assert result.exit_code == 0 and "1 items new or changed, 4 reused" in result.stdout
    assert "features: up to date" in extract(project, "--retry-failed", "bomb", *lenient).stdout
    result = extract(project, "--retry-failed=bom")
    assert result.exit_code == 3 and "reasons are missing, " in result.stderr


def test_a_dry_run_tells_what_a_run_would_take_and_writes_nothing(project, monkeypatch) -> None:
    monkeypatch.setattr("mmrec.stages.extraction.rehearsal.find_spec", lambda _: None)
    result = extract(project, "--dry-run")
    assert result.exit_code == 0, result.output
    for told in (
        "5 items, as 5 of them were measured",
        "time: ",
        "disk: ",
        "memory: ",
        "1 of the sample failed",
    ):
        assert told in result.stdout
    facts = json.loads(extract(project, "--dry-run", "--json").stdout)
    assert facts["items"] == 5 and facts["advice"][0]["change"].startswith("the images that fail")
    assert not (project / "out").exists()


FULL, QUOTA = (errno.ENOSPC, "no space left on this disk"), (errno.EDQUOT, "quota is used up")


@pytest.mark.parametrize(
    ("writes", "error"), [*((writes, FULL) for writes in range(6)), (1, QUOTA)]
)  # of three shards, ledger, manifest and config
def test_a_full_disk_exits_with_3_and_the_next_call_goes_on(project, monkeypatch, writes, error) -> None:
    lenient = ["--set", "extract.max_failures=1.0"]
    sync, left = os.fsync, [2 * writes]  # a file and its folder each

    def full(descriptor: int) -> None:
        if not left[0]:
            raise OSError(error[0], "the disk says so")
        left[0] -= 1
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        result = extract(project, *lenient)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 3 and len(errors) == 1 and error[1] in errors[0], result.output
    features = project / "out" / "features"
    assert not list(features.glob(".*.tmp")) and str(features) in errors[0]
    assert len(list(features.glob("part-*.parquet"))) == min(writes, 3)
    assert f"{max(5 - 2 * writes, 0)} items new" in extract(project, *lenient).stdout or writes > 4
    assert "features: up to date" in extract(project, *lenient).stdout
