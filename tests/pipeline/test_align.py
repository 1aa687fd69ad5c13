"""`mmrec align`, and `mmrec run` with an `[align]` section, as a user starts them."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from mmrec.cli import app
from mmrec.pipeline import cells

CONFIG = """
[catalog]
items = "items.csv"
image = "image"
[interactions]
path = "log.csv"
[align]
width = 16
layers = 1
heads = 2
image_size = 16
vocabulary = 40
context_length = 8
epochs = 1
[extract]
encoder = "beit3:out/encoder"
joint = "{title}"
image_views = []
[train]
model = "bpr"
dim = 4
epochs = 1
[evaluate]
bootstrap = 10
[run]
output = "out"
"""


@pytest.fixture
def shop(tmp_path, png) -> Path:
    """The folder of run.toml, twelve items with pictures and a log of eight users."""
    rows = []
    for n in range(12):
        (tmp_path / f"{n}.png").write_bytes(png((20 * n, 90, 255 - 20 * n)))
        rows.append({"item_id": n, "image": f"{n}.png", "title": f"mug number {n % 5}"})
    pl.DataFrame(rows).write_csv(tmp_path / "items.csv")
    log = [(u, (u + t * (1 + u % 3)) % 12, t) for u in range(8) for t in range(6)]
    pl.DataFrame(log, ["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "log.csv")
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path


def mmrec(command: str, shop: Path, *options: str) -> Result:
    return CliRunner().invoke(app, [command, "-c", str(shop / "run.toml"), *options])


def test_run_aligns_first_and_the_next_run_reuses_everything(shop) -> None:
    first = mmrec("run", shop)
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("encoder: pre-trained in")
    assert (shop / "out" / "features" / "manifest.json").is_file()
    facts = json.loads(mmrec("run", shop, "--json").stdout)
    assert [facts[name]["up_to_date"] for name in ("encoder", "features", "model")] == [True] * 3


def test_align_alone_prints_what_came_of_it(shop) -> None:
    facts = json.loads(mmrec("align", shop, "--json").stdout)["encoder"]
    assert (facts["items"], facts["held_out"], facts["kept_epoch"]) == (12, 1, 1)
    assert not (shop / "out" / "features").exists()
    assert "up to date" in mmrec("align", shop).stdout


def test_too_many_broken_pictures_exit_with_4_each_time(shop) -> None:
    (shop / "3.png").write_bytes(b"")
    for _ in range(2):
        result = mmrec("align", shop)
        assert result.exit_code == 4 and "1 of 12 items failed" in result.stderr
    assert (shop / "out" / "encoder" / "align.json").is_file()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("align.epoch=3", "align.epoch: unknown key; did you mean 'epochs'?"),
        ("align.objectives.mml=1", "align.objectives.mml: unknown key; did you mean 'mlm'?"),
        ("align.start=absent", "absent of BEiT-3: no such file"),
        ("align.text={titel}", "did you mean 'title'?"),
        ("align.context_length=2", "align.context_length:"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_3(shop, override, message) -> None:
    drop = ["width", "layers", "heads", "vocabulary"] if "start" in override else []
    lines = [line for line in CONFIG.splitlines() if line.split(" ")[0] not in drop]
    (shop / "run.toml").write_text("\n".join(lines))
    result = mmrec("align", shop, "--set", override)
    assert result.exit_code == 3 and message in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.output


def test_align_needs_its_section_and_a_catalogue(shop) -> None:
    (shop / "run.toml").write_text('[catalog]\nitems = "items.csv"\n')
    assert "no [align] section" in mmrec("align", shop).stderr
    (shop / "run.toml").write_text("[align]\n")
    assert "needs a [catalog] section" in mmrec("align", shop).stderr


SWEEP = """
[sweep]
metrics = ["recall@5"]
[[sweep.axis]]
name = "recommender"
key = "train.model"
values = ["bpr", "vbpr"]
[[sweep.axis]]
name = "encoder"
[sweep.axis.values]
shallow = { run.encoder = "made/shallow", extract.encoder = "beit3:made/shallow" }
"""


def test_a_sweep_makes_each_encoder_once_and_cells_share_it(shop, monkeypatch) -> None:
    monkeypatch.setattr(cells, "in_processes", lambda work, arguments, count: work(*arguments))
    deep = 'deep = { align.layers = 2, run.encoder = "made/deep", extract.encoder = "beit3:made/deep" }\n'
    text = CONFIG.replace("[evaluate]", "[evaluate]\nk = [5]") + SWEEP + deep
    (shop / "run.toml").write_text(text)
    result = CliRunner().invoke(app, ["sweep", str(shop / "run.toml")])
    assert result.exit_code == 0, result.output
    assert result.stderr.count("encoder: pre-trained") == 2
    assert {path.name for path in (shop / "made").iterdir() if path.is_dir()} == {"shallow", "deep"}
    assert not list(shop.glob("out/cells/**/encoder"))


@pytest.mark.parametrize("other", ["align.layers = 2", "extract.exif_rotate = false"])
def test_a_sweep_whose_cells_would_overwrite_each_others_encoder_is_refused(shop, other) -> None:
    (shop / "run.toml").write_text(CONFIG + SWEEP + f"deep = {{ {other} }}\nflat = {{}}\n")
    result = CliRunner().invoke(app, ["sweep", str(shop / "run.toml"), "--set", "evaluate.k=[5]"])
    assert result.exit_code == 3
    assert "would overwrite another cell's" in result.stderr and "run.encoder" in result.stderr
