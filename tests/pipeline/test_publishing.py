"""A publish folder over several runs on a log of twelve users and eight items."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app
from mmrec.features.errors import InputError, QualityGateError
from mmrec.pipeline import cells, publishing
from mmrec.pipeline.config import Config, load_config
from mmrec.pipeline.exchange import export_run
from mmrec.pipeline.history import last_current, read_history
from mmrec.pipeline.publishing import rollback
from mmrec.pipeline.run import publish, run
from mmrec.stages.published import PROBE, SEEN, open_published, published_id
from mmrec.stages.recommend.source import published_source

LENIENT = ("publish.gate={max_fall = false, max_changed = false, max_coverage_fall = false}",)


def config_of(project: Path, *overrides: str) -> Config:
    return load_config(project / "run.toml", [*(overrides or LENIENT)])


def night(project: Path, *overrides: str) -> dict:
    return run(config_of(project, *overrides), run_id="night").facts["published"]


def add_user(project: Path, user: str) -> None:
    log = pl.read_csv(project / "log.csv")
    rows = [(user, item, 5) for item in "abcd"]
    pl.concat([log, pl.DataFrame(rows, log.schema, orient="row")]).write_csv(project / "log.csv")


def raise_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def project(log_only) -> Path:
    assert night(log_only)["up_to_date"] is False
    return log_only


def test_what_is_published_is_whole_and_unchanged_runs_do_not_publish(project) -> None:
    folder = project / "out" / "published"
    bundle = open_published(folder, verify=True)
    assert {"model/users.parquet", "index/items.faiss", "evaluation.json", "README.md", PROBE, SEEN} <= set(
        bundle.account["files"]
    )
    again = night(project)
    assert again["up_to_date"] and again["id"] == bundle.id
    assert [event["event"] for event in read_history(folder)] == ["published"]


def test_the_probe_is_frozen_and_nothing_is_trained_on_it(project) -> None:
    folder = project / "out" / "published"
    probe = open_published(folder).table(PROBE)
    assert probe is not None and len(probe) == 8  # of twelve users, four have less than five
    add_user(project, "v1")
    assert night(project)["changed"][0] == "interactions"
    bundle = open_published(folder)
    assert bundle.table(PROBE).equals(probe)  # type: ignore[union-attr]
    seen = bundle.table(SEEN)
    assert seen is not None and set(probe.iter_rows()) <= set(seen.iter_rows())
    log = pl.read_csv(project / "log.csv")
    evaluation = json.loads((bundle.folder / "evaluation.json").read_text())
    assert evaluation["provenance"]["interactions"]["rows"] == len(log) - len(probe)


def test_a_bundle_that_misses_a_floor_is_not_published_unless_forced(project) -> None:
    folder = project / "out" / "published"
    before = published_id(folder)
    add_user(project, "v1")
    floor = "publish.gate.floors={'recall@3' = 1.0}"
    with pytest.raises(QualityGateError, match=rf"{before} stays published:\n  recall@3: .* asks for 1"):
        night(project, floor)
    assert published_id(folder) == before and read_history(folder)[-1]["event"] == "refused"
    forced = publish(config_of(project, floor), force=True).facts
    assert published_id(folder) == forced["id"] != before and len(forced["broken"]) == 1


def test_what_was_rolled_back_comes_back_only_by_force_or_in_another_form(project) -> None:
    folder = project / "out" / "published"
    first = published_id(folder)
    add_user(project, "v1")
    second = night(project)["id"]
    assert rollback(folder).facts == {"published": first, "withdrawn": second}
    again = night(project)
    assert again["withdrawn"] and again["id"] == first == published_id(folder)
    add_user(project, "v2")
    third = night(project)
    assert third["previous"] == first and not third["withdrawn"]
    rollback(folder, second)
    assert published_id(folder) == second
    with pytest.raises(InputError, match=f"is no bundle here; there are {first}, {second}"):
        rollback(folder, "yesterday")


def test_old_bundles_go_but_not_one_that_is_published_or_was_a_moment_ago(project) -> None:
    folder = project / "out" / "published"
    first = published_id(folder)
    keep = (*LENIENT, "publish.keep=2", "publish.keep_hours=0")
    for user in ("v1", "v2"):
        add_user(project, user)
        night(project, *keep[:2])
    rollback(folder, first)
    add_user(project, "v3")
    assert len(night(project, *keep)["pruned"]) == 2  # the two that were never the last but one
    assert {path.name for path in (folder / "bundles").iterdir()} == {first, published_id(folder)}


def test_a_kill_before_the_link_is_set_leaves_the_old_bundle_and_after_it_the_new(
    project, monkeypatch
) -> None:
    folder = project / "out" / "published"
    first = published_id(folder)

    add_user(project, "v1")
    for step in ("point_link", "append_history"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(publishing, step, raise_interrupt)
            night(project)
        assert (published_id(folder) == first) == (step == "point_link")
        open_published(folder, verify=True)
    assert night(project)["up_to_date"]
    events = read_history(folder)
    assert [event["id"] for event in events] == [first, published_id(folder)]
    assert last_current(events, published_id(folder))[published_id(folder)] == float("inf")


def test_damage_is_named_and_the_way_back_stays_open(project) -> None:
    folder = project / "out" / "published"
    first = published_id(folder)
    add_user(project, "v1")
    bundle = open_published(folder) if night(project) else None
    assert bundle is not None
    (bundle.folder / SEEN).write_bytes(b"")
    with pytest.raises(InputError, match=r"damaged bundle \(seen\.parquet\).*mmrec rollback"):
        open_published(folder)
    (bundle.folder / SEEN).write_bytes(b"x" * bundle.account["files"][SEEN]["bytes"])
    whole = open_published(folder)  # by its size
    for read in (lambda: whole.table(SEEN), lambda: list(published_source(whole).seen())):
        with pytest.raises(InputError, match=r"damaged bundle \(seen\.parquet: "):
            read()
    rollback(folder)
    assert open_published(folder, verify=True).id == first


def test_a_rollback_that_was_killed_before_it_wrote_it_down_holds(project, monkeypatch) -> None:
    folder = project / "out" / "published"
    first = published_id(folder)
    add_user(project, "v1")
    second = night(project)["id"]
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(publishing, "append_history", raise_interrupt)
        rollback(folder)
    assert night(project)["withdrawn"] and published_id(folder) == first
    seen = last_current(read_history(folder), first)
    assert seen[second] > open_published(folder).folder.stat().st_mtime  # not removed as never published


def test_a_link_to_a_bundle_that_was_removed_is_named_and_there_is_a_way_back(project) -> None:
    folder = project / "out" / "published"
    first = published_id(folder)
    (folder / "current").unlink()
    (folder / "current").symlink_to("bundles/gone")
    with pytest.raises(InputError, match=r"'current' names bundles/gone, which is not there.*mmrec rollback"):
        open_published(folder)
    rollback(folder)
    assert open_published(folder, verify=True).id == first


def test_the_commands_of_a_publish_folder(project) -> None:
    first = published_id(project / "out" / "published")
    add_user(project, "v1")
    night(project)
    commands = CliRunner()
    back = commands.invoke(app, ["rollback", "-c", str(project / "run.toml"), "--json"])
    assert json.loads(back.stdout)["published"] == first == published_id(project / "out" / "published")
    again = commands.invoke(app, ["publish", "-c", str(project / "run.toml"), "--set", LENIENT[0]])
    assert again.exit_code == 0 and "this run was rolled back" in again.stdout
    none = commands.invoke(app, ["rollback", str(project / "elsewhere")])
    assert none.exit_code == 3 and "nothing is published here" in none.stderr
    assert commands.invoke(app, ["rollback"]).exit_code == 2


def test_an_export_holds_what_the_model_learned_from_and_not_the_probe(project, tmp_path) -> None:
    export_run("recbole", project / "out", tmp_path / "shop")
    log = pl.concat(pl.read_csv(part, separator="\t") for part in (tmp_path / "shop").glob("*.inter"))
    probe = open_published(project / "out" / "published").table(PROBE)
    assert probe is not None and len(log)
    pairs = {(str(user), str(item)) for user, item in log.select("^user_id.*$", "^item_id.*$").iter_rows()}
    assert pairs.isdisjoint({(str(user), str(item)) for user, item in probe.iter_rows()})


def test_nothing_is_published_at_first(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is published here"):
        open_published(tmp_path)


def test_a_folder_in_the_place_of_the_link_is_named_and_nothing_is_left_beside_it(project) -> None:
    folder = project / "out" / "published"
    target = (folder / "current").resolve()
    (folder / "current").unlink()
    target.rename(folder / "current")
    add_user(project, "v1")
    with pytest.raises(InputError, match="current is a folder, expected a link"):
        night(project)
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_cell_of_a_sweep_is_not_trained_on_the_probe_either(project) -> None:
    output = f"run.output={project / 'cell'}"
    cells._work(config_of(project, *LENIENT, output), "key")
    of_run, of_cell = (
        json.loads((folder / "model" / "config.json").read_text())["lineage"]["interactions"]
        for folder in (project / "out", project / "cell")
    )
    assert of_cell == of_run
