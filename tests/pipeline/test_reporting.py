import json
from pathlib import Path

import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.pipeline.config import load_config
from mmrec.pipeline.nightly import nightly
from mmrec.pipeline.outcome import Outcome
from mmrec.pipeline.reporting import report, report_folder
from mmrec.stages.report.report import ReportOptions

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
workers = 1
[train]
model = "bpr"
dim = 4
epochs = 2
[evaluate]
bootstrap = 10
[run]
output = "out"
"""


@pytest.fixture
def project(shop, encoder) -> Path:
    """A finished run on the shop's items, in shop/out."""
    rows = [(f"u{u}", "abcde"[(u + t) % 5], 10 * u + t) for u in range(8) for t in range(4)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(shop / "log.csv")
    (shop / "run.toml").write_text(CONFIG)
    nightly(load_config(shop / "run.toml"))
    return shop


def left_out(outcome: Outcome) -> str:
    return " ".join(f"{title}: {why}" for title, why in outcome.facts["left_out"].items())


def test_a_report_shows_what_there_is_and_says_what_there_is_not(project) -> None:
    options = ReportOptions(users=3, items=1, worst=2)
    whole = report(load_config(project / "run.toml"), options)
    page = (project / "out" / "report.html").read_text(encoding="utf-8")
    assert whole.facts["report"] == str(project / "out" / "report.html")
    assert whole.facts["left_out"] == {}
    assert whole.facts["pictures"] == page.count("data:image/jpeg") > 0
    assert "a title of 24 characters" in page and "Served worst" in page and "made for the first time" in page
    json.dumps(whole.facts)

    (project / "log.csv").write_text(
        "user_id,item_id,timestamp\n" + "u0,a,1\nu0,b,2\nu0,c,3\nu0,d,4\nu0,e,5\n"
    )
    (project / "items.csv").unlink()
    later = report_folder(project / "out", options, project / "later.html")
    assert "Lists of users: the interactions have changed" in left_out(later)
    assert later.facts["pictures"] == 0  # ids alone
    assert "Neighbours by view" in later.facts["sections"]

    (project / "log.csv").unlink()
    (project / "out" / "config.toml").unlink()
    (project / "out" / "features" / "manifest.json").unlink()
    bare = report_folder(project / "out", options, project / "bare.html")
    assert "Results" in bare.facts["sections"] and "Training" in bare.facts["sections"]
    assert "holds no config.toml" in left_out(bare)

    with pytest.raises(FileNotFoundError, match="nothing to report"):
        report_folder(project, options)
    (project / "out" / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation\.json: damaged"):
        report_folder(project / "out", options)
