import re
from collections.abc import Sequence
from itertools import pairwise

import polars as pl
import pytest

from mmrec.stages.report.breakdowns import breakdowns_section
from mmrec.stages.report.cost import cost_section, notice
from mmrec.stages.report.failures import failures_section
from mmrec.stages.report.items import ItemCards, Picture, label_column
from mmrec.stages.report.markup import Element, Node
from mmrec.stages.report.mismatches import mismatches_section
from mmrec.stages.report.nearest import Neighbourhood
from mmrec.stages.report.neighbours import neighbours_section
from mmrec.stages.report.page import Title, page
from mmrec.stages.report.parts import LeftOut, Section
from mmrec.stages.report.provenance import lineage_section
from mmrec.stages.report.results import results_section, verdict
from mmrec.stages.report.run_files import RunFiles
from mmrec.stages.report.sample_users import SampleUser
from mmrec.stages.report.training import training_section
from mmrec.stages.report.users import users_section

DOT = Picture("data:image/jpeg;base64,AAAA", 3, 4)
CARDS = ItemCards(
    names={"1": "Red mug", "2": "<b>Blue</b> mug"},
    texts={"1": {"colour": "red"}},
    pictures={"1": DOT, "2": "picture truncated"},
)
USER = SampleUser("best", "u1", {"ndcg@10": 0.5}, [1], 30, [(2, True), (3, False)], [1], 2)
LEDGER = pl.DataFrame(
    {
        "item_id": [1, 1, 2],
        "view": ["image", "image", "image"],
        "reason": ["missing", "missing", "bomb"],
        "message": ["a.jpg: no such file", "b.jpg: no such file", None],
    }
)
RECORDS = [
    {
        "id": name,
        "status": "succeeded",
        "seconds": 75.0,
        "started": "2026-11-21T03:00:00.000+00:00",
        "host": "vm",
        "stages": [{"name": "model", "status": "done", "seconds": took, "up_to_date": reused, "changed": []}],
    }
    for name, took, reused in (("first", 70.0, False), ("second", 0.2, True))
]
MANIFEST = {"space": {"encoder": {"name": "tiny", "weights": "sha256:00"}}, "libraries": {"polars": "2.0"}}


def words(node: Node) -> str:
    return node if isinstance(node, str) else " ".join(words(child) for child in node.children)


def told(section: Section | LeftOut) -> str:
    assert isinstance(section, Section), section
    return " ".join(" ".join(map(words, section.body)).split())


def rows(nodes: Sequence[Node]) -> list[str]:
    """The words of every row of every table."""
    found = []
    for node in nodes:
        if isinstance(node, Element):
            found += [" ".join(words(node).split())] if node.tag == "tr" else rows(node.children)
    return found


def everything(evaluation) -> list[Section | LeftOut]:
    facts = {
        "image_view": "image.full",
        "compared": 3,
        "mismatched": 1,
        "views": {
            "title": {"compared": 3, "mean": 0.2, "std": 0.1, "random_mean": 0.1, "quantiles": {"0.5": 0.2}}
        },
        "worst": [{"item_id": 1, "mismatch": 2.5, "similarity.title": 0.05}],
    }
    history = [{"epoch": n, "loss": 1 / n, "recall@10": n / 9, "bpr": 1.0, "seconds": 2.0} for n in (1, 2, 3)]
    model = {"model": "freedom", "lineage": {"features": "feed"}, "options": {"k": 10}}
    run = RunFiles(None, model, None, None, evaluation)  # pyright: ignore[reportArgumentType]
    return [
        results_section(evaluation),
        breakdowns_section(evaluation),
        users_section([USER], "test", CARDS),
        neighbours_section([Neighbourhood(1, {"image.full": [(2, 0.91)]})], True, 0, CARDS),
        mismatches_section(facts, CARDS),
        failures_section(LEDGER, {"image.full": {"dim": 4, "present": 2}}, 3, CARDS),
        training_section({"history": history, "best_epoch": 2}),
        cost_section(RECORDS),
        lineage_section(run, MANIFEST, "[run]\noutput = 'x'\n"),
        LeftOut("Prices", "nobody knows them"),
    ]


def test_the_page_is_sound_html_that_leads_nowhere(evaluation, read) -> None:
    document = page(Title("<i>run</i>", "about", "made"), verdict(evaluation), everything(evaluation))
    found = read(document)
    assert "<i>run</i>" in found.text and "<b>Blue</b> mug" in found.text
    assert not {"script", "i", "b", "iframe", "form", "base"} & set(found.tags)
    assert all(address.startswith("#") or address == "data:," for address in found.of("href"))
    assert all(address.startswith("data:image/jpeg;base64,") for address in found.of("src"))
    assert "url(" not in document and "@import" not in document
    policies = [value for value in found.of("content") if value.startswith("default-src")]
    assert policies and "default-src 'none'; img-src data:; style-src 'sha256-" in policies[0]


def test_the_page_can_be_read_without_seeing_it(evaluation, read) -> None:
    document = page(Title("run", "about", "made"), verdict(evaluation), everything(evaluation))
    found = read(document)
    ids = found.of("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in found.of("href") if link.startswith("#")} <= set(ids)
    assert {name for value in found.of("aria-labelledby") for name in value.split()} <= set(ids)
    levels = [int(tag[1]) for tag in found.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert {"main", "nav", "header", "footer"} <= set(found.tags)
    assert found.tags.count("img") == len(found.of("alt")) > 0
    assert found.tags.count("table") == found.tags.count("caption")
    assert found.tags.count("th") == len(found.of("scope"))
    assert not re.search(r"<th[^>]*></th>", document)


def test_what_is_left_out_is_said_with_its_reason(evaluation, read) -> None:
    left = [
        results_section(None),
        breakdowns_section(None),
        users_section("the log is gone", None, CARDS),
        neighbours_section("no store", True, 0, CARDS),
        mismatches_section("no text view", CARDS),
        failures_section("no store", {}, 0, CARDS),
        training_section({"history": [], "best_epoch": None}),
        cost_section([]),
    ]
    assert all(isinstance(part, LeftOut) for part in left)
    text = read(page(Title("run", "", ""), [], left)).text
    assert "the log is gone" in text and "closed form" in text


@pytest.mark.parametrize(
    ("recall", "words_of_it"),
    [(0.2, "below the interval"), (0.15, "no clear difference"), (0.1, "not worth its cost")],
)
def test_the_verdict_compares_with_the_best_baseline(evaluation, recall, words_of_it) -> None:
    test = evaluation["splits"]["test"]["metrics"]
    test["recall@10"] = {"mean": recall, "low": recall - 0.01, "high": recall + 0.01}
    assert words_of_it in " ".join(map(words, verdict(evaluation)))


def test_every_segment_has_its_row(evaluation) -> None:
    section = breakdowns_section(evaluation)
    assert isinstance(section, Section)
    assert [row for row in rows(section.body) if "(0)" in row or row.startswith("text")] == [
        "cold (0) 0.0500 [0.0400, 0.0600] 3 4",
        "text 0.0700 [0.0600, 0.0800] 3 4",
    ]
    del evaluation["segments"]["test"]["modality"]
    assert "no breakdown by modality" in told(breakdowns_section(evaluation))


def test_a_user_is_shown_with_past_list_and_future() -> None:
    text = told(users_section([USER], "test", CARDS))
    assert "User u1 ndcg@10 0.5000 · 1 of 2 held-out items among the first 2 Had (1 of 30) Red mug" in text
    assert "Gets picture truncated <b>Blue</b> mug #1 ✓ taken no picture 3 #2 Took, but not" in text


def test_without_a_catalogue_items_are_their_ids() -> None:
    text = told(users_section([USER], "test", ItemCards()))
    assert "Had (1 of 30) 1 Gets 2 #1 ✓ taken 3 #2" in text


def test_failures_are_counted_by_reason_with_examples() -> None:
    section = failures_section(LEDGER, {"image.full": {"dim": 4, "present": 2}}, 3, CARDS)
    assert isinstance(section, Section)
    shown = rows(section.body)
    assert "missing no such file or object Red mug : a.jpg: no such file Red mug : b.jpg" in shown[1]
    assert shown[1].endswith("2 1") and shown[2].startswith("bomb") and shown[2].endswith("1 1")
    assert shown[4] == "image.full 4 2 1 66.7\u00a0%".replace("\u00a0", " ")


def test_a_stage_that_was_reused_shows_what_it_cost_when_it_was_made() -> None:
    section = cost_section(RECORDS)
    assert isinstance(section, Section)
    assert rows(section.body)[1] == "model up to date 0.2 s 1 min 10 s"


def test_how_a_run_failed_is_told_first_and_earlier_runs_are_listed() -> None:
    error = {"kind": "QualityGateError", "message": "recall <fell>"}
    failed = {**RECORDS[1], "id": "third", "status": "failed", "exit_code": 6, "error": error}
    made = {"metrics": {"test": {"recall@20": 0.25}}, "published": {"id": "bundle"}}
    assert notice(RECORDS) == notice([]) == []
    told_first = told(Section("", "", notice([*RECORDS, failed])))
    assert "third, has the status failed" in told_first and "Exit code 6: recall <fell>" in told_first
    section = cost_section([{**RECORDS[0], **made}, failed])
    assert isinstance(section, Section)
    assert rows(section.body)[-2:] == [
        "third failed – – 1 min 15 s",
        "first succeeded bundle recall@20 0.2500 1 min 15 s",
    ]


def test_items_are_named_by_the_column_that_is_likely_to_hold_names() -> None:
    fields = pl.DataFrame({"year": [1], "blurb": ["x"], "Title": ["y"]})
    assert label_column(fields, None) == "Title"
    assert label_column(fields.drop("Title"), None) == "blurb"
    assert label_column(fields.select("year"), None) is None
    assert label_column(fields, "blurb") == "blurb"
    with pytest.raises(ValueError, match="did you mean 'blurb'"):
        label_column(fields, "blurp")
