"""The command line as a user meets it: exit codes, one clear line, nothing half-written."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from mmrec.cli import app

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
model = "bpr"
dim = 4
epochs = 3
[evaluate]
bootstrap = 10
[run]
output = "out"
"""


@pytest.fixture
def project(shop, encoder) -> Path:
    """A folder with run.toml, items.csv, pictures and a log of eight users."""
    (shop / "run.toml").write_text(CONFIG)
    write_log(shop, [(f"u{u}", "abcde"[(u + t) % 5], 10 * u + t) for u in range(8) for t in range(4)])
    return shop


def write_log(project: Path, rows: list[tuple[str, str, int]]) -> None:
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.write_csv(project / "log.csv")


def run(project: Path, *arguments: str, command: str = "run"):
    return CliRunner().invoke(app, [command, "-c", str(project / "run.toml"), *arguments])


def refused(project: Path, *arguments: str, command: str = "run", code: int = 3) -> str:
    """The one line of a run that must fail with `code`, without a traceback and without an artefact."""
    result = run(project, *arguments, command=command)
    assert result.exit_code == code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors and "Traceback" not in result.output
    return "\n".join(errors)


def left_by_a_refused_run(project: Path) -> set[str]:
    return {path.name for path in (project / "out").iterdir() if not path.name.startswith(".")}


def replace_rows(project: Path, file: str, old: str, new: str) -> None:
    path = project / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def test_a_run_leaves_what_the_readme_promises(project) -> None:
    result = run(project, "--json")
    assert result.exit_code == 0, result.output
    written = {path.relative_to(project / "out").as_posix() for path in (project / "out").rglob("*.*")}
    assert {
        "config.toml", "evaluation.json", "per_user.parquet", "features/manifest.json",
        "features/part-00000.parquet", "features/failures.parquet", "model/model.safetensors",
        "model/config.json", "model/metrics.json", "model/users.parquet", "model/items.parquet",
        "index/items.faiss", "index/index.json",
    } <= written  # fmt: skip
    facts = json.loads(result.stdout)
    assert facts["evaluation"] == json.loads((project / "out" / "evaluation.json").read_text())
    assert set(facts["evaluation"]["splits"]["test"]["metrics"]["recall@5"]) == {"mean", "low", "high"}


def test_a_second_run_does_nothing_and_says_so(project) -> None:
    assert run(project).exit_code == 0
    written = {"config.toml", "metrics.prom", "run.json"}  # by every run
    artefacts = [path for path in (project / "out").rglob("*") if path.is_file() and path.name not in written]
    before = {path: path.stat().st_mtime_ns for path in artefacts if "lock" not in path.name}
    result = run(project)
    assert [line.split(",")[0] for line in result.stdout.splitlines() if "up to date" in line] == [
        "features: up to date", "model: up to date", "index: up to date", "evaluation: up to date",
    ]  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_change_reaches_what_depends_on_it_and_nothing_else(project) -> None:
    run(project)
    result = run(project, "--set", "index.kind=hnsw")
    assert "model: up to date" in result.stdout and "index: hnsw built" in result.stdout
    assert "changed: settings" in result.stdout and "evaluation: measured" in result.stdout


def test_inspect_shows_the_run_and_checks_the_store(project) -> None:
    run(project)
    result = CliRunner().invoke(app, ["inspect", str(project / "out"), "--verify", "--json"])
    facts = json.loads(result.stdout)
    assert set(facts) == {"features", "model", "index", "evaluation"}
    assert CliRunner().invoke(app, ["inspect", str(project)]).exit_code == 3


def test_stages_can_be_run_one_by_one(project) -> None:
    for command in ("extract", "train", "evaluate"):
        assert run(project, command=command).exit_code == 0
    assert "needs" not in run(project).stderr


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_stage_without_its_input_says_what_to_run(project, command) -> None:
    assert "run `mmrec extract`" in refused(project, command=command)
    run(project, command="extract")
    if command == "evaluate":
        assert "run `mmrec train`" in refused(project, command=command)


def test_usage_errors_exit_with_2() -> None:
    assert CliRunner().invoke(app, ["run"]).exit_code == 2
    assert CliRunner().invoke(app, ["runn"]).exit_code == 2


def test_log_lines_and_errors_as_json(project) -> None:
    replace_rows(project, "log.csv", "user_id", "customer")
    result = CliRunner().invoke(app, ["--log-format", "json", "run", "-c", str(project / "run.toml")])
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert result.exit_code == 3 and lines[-1]["level"] == "error" and "customer" in lines[-1]["message"]
    CliRunner().invoke(app, ["--log-format", "text", "status", "-c", str(project / "run.toml")])


def test_a_missing_config_file(project) -> None:
    result = CliRunner().invoke(app, ["run", "-c", str(project / "rum.toml")])
    assert result.exit_code == 3 and "rum.toml: no such config file" in result.stderr


def test_an_unknown_key_names_the_nearest(project) -> None:
    assert "train.modle: unknown key; did you mean 'model'?" in refused(project, "--set", "train.modle=bpr")
    assert not (project / "out").exists()


@pytest.mark.parametrize("file", ["items.csv", "log.csv"])
def test_a_missing_input_file(project, file) -> None:
    (project / file).unlink()
    assert file in refused(project)


def test_a_wrong_column_is_named_with_those_found(project) -> None:
    replace_rows(project, "log.csv", "user_id", "customer")
    line = refused(project)
    assert "user_id" in line and "customer" in line
    assert left_by_a_refused_run(project) == {"runs", "metrics.prom"}  # found before any work


def test_an_empty_catalogue(project) -> None:
    (project / "items.csv").write_text("item_id,image,title\n")
    assert "no rows" in refused(project)
    assert left_by_a_refused_run(project) == {"runs", "metrics.prom"}


def test_duplicate_item_ids(project) -> None:
    replace_rows(project, "items.csv", "b,1.png", "a,1.png")
    assert "'a'" in refused(project)


def test_interactions_with_unknown_items_are_an_error_unless_dropped(project) -> None:
    replace_rows(project, "items.csv", "e,,blue\n", "")
    assert "'e'" in refused(project)
    assert run(project, "--drop-unknown").exit_code == 0


def test_all_users_cold(project) -> None:
    rows = [("u1", "a", 1), ("u1", "b", 2), ("u1", "c", 3), ("u2", "a", 8), ("u3", "b", 9)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(
        project / "log.csv"
    )
    assert "cold" in refused(project, "--set", "interactions.split=temporal")


def test_a_user_with_one_interaction_is_trained_on_and_not_evaluated(project) -> None:
    with (project / "log.csv").open("a") as log:
        log.write("lonely,a,1\n")
    assert run(project).exit_code == 0
    assert "lonely" not in pl.read_parquet(project / "out" / "per_user.parquet")["user_id"].to_list()


def test_k_larger_than_the_catalogue(project) -> None:
    result = run(project, "--set", "evaluate.k=[3, 500]", "--json")
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)["evaluation"]["splits"]["test"]["metrics"]
    assert metrics["recall@500"]["mean"] == 1.0


def broken_images() -> dict[str, tuple[bytes, str]]:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(stream, "JPEG")
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT" + zlib.compress(bytes(2**20)), b"IEND")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return {
        "a text file": (b"<html>not found</html>", "not_an_image"),
        "a truncated JPEG": (stream.getvalue()[:-600], "truncated"),
        "nothing": (b"", "not_an_image"),
        "a bomb": (bomb, "bomb"),
    }


@pytest.mark.parametrize("kind", broken_images())
def test_a_bad_image_is_one_line_of_the_ledger(project, kind) -> None:
    content, reason = broken_images()[kind]
    (project / "0.png").write_bytes(content)
    assert run(project, command="extract").exit_code == 0
    ledger = pl.read_parquet(project / "out" / "features" / "failures.parquet")
    assert ledger.select("item_id", "reason").rows() == [("a", reason)]


def test_an_image_path_that_leaves_the_root(project) -> None:
    replace_rows(project, "items.csv", "0.png", "../../../../etc/hostname")
    assert run(project, command="extract").exit_code == 0
    ledger = pl.read_parquet(project / "out" / "features" / "failures.parquet")
    assert ledger["reason"].to_list() == ["outside_root"]


def good_images() -> dict[str, tuple[Image.Image, dict]]:
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0] * 256)
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "gif": (red, {"format": "GIF", "save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
        "cmyk": (red.convert("CMYK"), {"format": "JPEG", "quality": 100}),
        "palette": (palette, {"format": "PNG"}),
        "exif": (red, {"format": "JPEG", "exif": exif, "quality": 100}),
        "16 bit": (Image.new("I;16", (8, 8), 200 * 257), {"format": "PNG"}),
    }


@pytest.mark.parametrize("kind", good_images())
def test_unusual_images_are_read(project, encoder, monkeypatch, kind) -> None:
    image, how = good_images()[kind]
    image.save(project / "0.png", **how)
    seen = []
    encode = encoder.encode_images
    monkeypatch.setattr(encoder, "encode_images", lambda pixels: seen.extend(pixels) or encode(pixels))
    assert run(project, command="extract").exit_code == 0
    assert len(pl.read_parquet(project / "out" / "features" / "failures.parquet")) == 0
    expected = (200, 200, 200) if kind == "16 bit" else (200, 0, 0)
    assert np.abs(seen[0].astype(int) - np.array(expected)[:, None, None]).max() <= 6


def test_past_max_failures_exits_with_4_and_keeps_the_work(project) -> None:
    (project / "0.png").unlink()
    result = run(project, "--set", "extract.max_failures=0.1", command="extract")
    assert result.exit_code == 4 and "1 of 5 items failed" in result.stderr
    assert (project / "out" / "features" / "manifest.json").is_file()


def test_a_corrupt_shard_is_named_and_extract_mends_it(project) -> None:
    run(project, command="extract")
    shard = project / "out" / "features" / "part-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[200] ^= 255
    shard.write_bytes(content)
    model = ("--set", "train.model=vbpr")
    assert "part-00000.parquet" in refused(project, *model, command="train")
    assert run(project, command="extract").exit_code == 0
    assert run(project, *model, command="train").exit_code == 0


def test_features_of_another_encoder_are_not_trained_on(project) -> None:
    run(project, command="extract")
    line = refused(project, "--set", "extract.encoder=open_clip:ViT-B-32/openai", command="train")
    assert "tiny" in line and "ViT-B-32" in line


def test_a_folder_in_use_exits_with_5(project) -> None:
    (project / "out").mkdir()
    with FileLock(project / "out" / ".lock"):  # as another process holds it
        assert "in use by another run" in refused(project, command="train", code=5)


def test_an_interrupt_exits_with_130(project, encoder, monkeypatch) -> None:
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder, "encode_images", interrupt)
    assert "run the same command to go on" in refused(project, command="extract", code=130)


def test_a_model_that_diverges_leaves_no_bundle(project) -> None:
    line = refused(project, "--set", "train.learning_rate=1e38")
    assert "learning_rate" in line or "learning rate" in line
    assert not (project / "out" / "model").exists()


def test_a_model_is_not_measured_on_other_splits_than_it_was_trained_on(project) -> None:
    run(project)
    before = (project / "out" / "evaluation.json").read_bytes()
    line = refused(project, "--set", "interactions.ratios=[0.4, 0.2, 0.4]", command="evaluate")
    assert "other splits" in line and "mmrec train" in line
    assert (project / "out" / "evaluation.json").read_bytes() == before


def test_features_are_no_reason_to_retrain_a_model_of_ids(project) -> None:
    run(project)
    replace_rows(project, "items.csv", "blue", "navy")
    result = run(project)
    assert "features: 1 items new or changed" in result.stdout and "model: up to date" in result.stdout


def test_another_shard_size_is_no_reason_to_retrain(project) -> None:
    run(project, "--set", "train.model=vbpr")
    result = run(project, "--set", "train.model=vbpr", "--set", "extract.shard_rows=2")
    assert "features: 0 items new or changed" in result.stdout and "model: up to date" in result.stdout


@pytest.mark.parametrize("file", ["model/users.parquet", "index/items.faiss", "per_user.parquet"])
def test_a_lost_file_is_made_again(project, file) -> None:
    run(project)
    (project / "out" / file).unlink()
    assert run(project).exit_code == 0
    assert (project / "out" / file).is_file()


def test_a_damaged_checkpoint_costs_a_fresh_start_and_no_more(project) -> None:
    (project / "out").mkdir()
    (project / "out" / ".training.safetensors").write_bytes(b"not a checkpoint")
    assert run(project).exit_code == 0
    assert not (project / "out" / ".training.safetensors").exists()


def test_the_recorded_config_is_that_of_the_model_beside_it(project) -> None:
    run(project)
    before = (project / "out" / "config.toml").read_text()
    refused(project, "--set", "train.model=vbpr", "--set", "train.views=['nope']", command="train")
    assert (project / "out" / "config.toml").read_text() == before


def test_intra_list_diversity_is_measured_on_the_view_asked_for(project) -> None:
    result = run(project, "--set", "evaluate.diversity_view=text.title", "--json")
    assert "ild.text.title@5" in json.loads(result.stdout)["evaluation"]["splits"]["test"]["metrics"]


@pytest.mark.parametrize("section", ["train", "index", "extract"])
def test_a_device_that_is_not_there_is_named(project, monkeypatch, section) -> None:
    monkeypatch.undo()  # the real encoder, which knows devices
    assert "device 'gpu'" in refused(project, "--set", f"{section}.device=gpu")


def test_a_model_is_made_again_when_the_fusion_changes(project) -> None:
    vbpr = ("--set", "train.model=vbpr", "--set", "fusion.kind=similarity")
    assert run(project, *vbpr).exit_code == 0
    account = json.loads((project / "out" / "model" / "config.json").read_text())
    assert account["views"] == ["image.full", "fused"] and account["fusion"]["temperature"] == 0.2
    assert "model: up to date" in run(project, *vbpr).stdout
    assert "changed: fusion" in run(project, *vbpr, "--set", "fusion.temperature=0.1").stdout
    gated = run(project, *vbpr, "--set", "fusion.kind=gated")
    assert "changed: fusion" in gated.stdout and gated.exit_code == 0
    assert "model: up to date" in run(project, *vbpr, "--set", "fusion.kind=gated").stdout
    message = refused(project, *vbpr, "--set", "fusion.kind=similarty")
    assert "fusion.kind" in message and "'similarity'" in message
    assert "no view 'text.titel'" in refused(project, *vbpr, "--set", 'fusion.views=["text.titel"]')
