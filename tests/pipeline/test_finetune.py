"""`mmrec finetune`, and `mmrec run` with a `[finetune]` section, as a user starts them."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from mmrec.cli import app
from mmrec.pipeline import cells
from mmrec.pipeline import sweep as sweeping

CONFIG = """
[catalog]
items = "items.csv"
image = "image"
[interactions]
path = "log.csv"
[finetune]
text = "{title}"
epochs = 1
batch_size = 8
[extract]
encoder = "open_clip:tiny/out/encoder"
text_views = { title = "{title}" }
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
    """The folder of run.toml, twenty items with pictures and a log of eight users."""
    rows = []
    for n in range(20):
        (tmp_path / f"{n}.png").write_bytes(png((12 * n, 90, 255 - 12 * n)))
        rows.append({"item_id": n, "image": f"{n}.png", "title": f"mug number {n}"})
    pl.DataFrame(rows).write_csv(tmp_path / "items.csv")
    log = [(u, (u + t * (1 + u % 3)) % 20, t) for u in range(8) for t in range(6)]
    pl.DataFrame(log, ["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "log.csv")
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path


def mmrec(command: str, shop: Path, *options: str) -> Result:
    return CliRunner().invoke(app, [command, "-c", str(shop / "run.toml"), *options])


def test_run_tunes_first_and_the_next_run_reuses_everything(shop) -> None:
    first = mmrec("run", shop)
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("encoder: fine-tuned in") and "chance" in first.stdout
    manifest = json.loads((shop / "out" / "features" / "manifest.json").read_text())
    assert manifest["space"]["encoder"]["name"] == "open_clip:tiny"
    facts = json.loads(mmrec("run", shop, "--json").stdout)
    assert [facts[name]["up_to_date"] for name in ("encoder", "features", "model")] == [True] * 3
    facts = json.loads(mmrec("finetune", shop, "--set", "finetune.seed=1", "--json").stdout)["encoder"]
    assert (facts["changed"], facts["items"], facts["held_out"]) == (["settings"], 20, 4)
    assert [set(found) for found in facts["tested"]] == [set(facts["last"]["retrieval"])] * 2


def test_a_run_that_does_not_read_the_encoder_it_makes_says_so(shop) -> None:
    message = "features are extracted with 'tiny', not with the encoder that was made"
    assert message in mmrec("run", shop, "--set", "extract.encoder=tiny").stderr
    assert message not in mmrec("run", shop).stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("finetune.epoch=3", "finetune.epoch: unknown key; did you mean 'epochs'?"),
        ("finetune.objectives.itm=1", "finetune.objectives.itm: unknown key"),
        ("finetune.start=open_clip:tiny/none/here", "here of tiny: no such file"),
        ("finetune.start=timm:resnet18", "finetune: start 'timm:resnet18' reads images alone; name an"),
        ("finetune.text={titel}", "did you mean 'title'?"),
        ("finetune.objectives={contrastive=0, matching=0, mlm=0}", "all weights are 0, so there is nothing"),
        ("finetune.seed=-1", "finetune.seed: input should be greater than or equal to 0, found -1"),
        ("train.seed=-1", "train.seed: input should be greater than or equal to 0, found -1"),
        ("run.encoder=/", "an encoder takes the place of its whole folder"),
        ("align.epochs=1", "align, finetune: both write the run folder's encoder"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_3(shop, override, message) -> None:
    result = mmrec("finetune", shop, "--set", override)
    assert result.exit_code == 3 and message in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.output


def test_finetune_needs_its_section_and_a_catalogue(shop) -> None:
    (shop / "run.toml").write_text('[catalog]\nitems = "items.csv"\n')
    assert "no [finetune] section" in mmrec("finetune", shop).stderr
    (shop / "run.toml").write_text("[finetune]\n")
    assert "needs a [catalog] section" in mmrec("finetune", shop).stderr


@pytest.mark.parametrize("rate", [1e-5, 1e30])
def test_a_sweep_makes_the_encoder_of_its_cells_once_or_fails_once(shop, monkeypatch, rate) -> None:
    monkeypatch.setattr(cells, "in_processes", lambda work, arguments, count: work(*arguments))
    made, make = [], sweeping.make_encoder
    monkeypatch.setattr(sweeping, "make_encoder", lambda config: made.append(1) or make(config))
    axis = '[[sweep.axis]]\nname = "model"\nkey = "train.model"\nvalues = ["bpr", "popularity"]\n'
    with (shop / "run.toml").open("a") as file:
        file.write(f"[sweep]\n{axis}")
    options = ["--set", f"finetune.learning_rate={rate}", "--json"]
    result = CliRunner().invoke(app, ["sweep", str(shop / "run.toml"), *options])
    failed = json.loads(result.stdout)["failed"]
    assert len(made) == 1 and len(failed) == (2 if rate > 1 else 0)
    assert all("training diverged" in cell["reason"] for cell in failed)
