"""A finished run becomes what readers open, if it is no worse than what they have; and the way back."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ..features.errors import InputError, QualityGateError
from ..features.files import digest_json, point_link, remove_stale_temporaries
from ..features.store import FeatureStore
from ..recsys.interactions import Dataset, prepare
from ..recsys.probe import draw_probe, withhold
from ..stages.dataset import read_log
from ..stages.feature_sample import read_sample
from ..stages.gate import Side, Verdict, judge, judge_first
from ..stages.lineage import changes
from ..stages.publish import Candidate, gather, write_published
from ..stages.publish_config import PublishConfig
from ..stages.published import (
    ACCOUNT,
    BUNDLES,
    CURRENT,
    PROBE,
    PublishedBundle,
    is_published,
    open_published,
    published_id,
)
from .config import Config
from .history import (
    PUBLISHED,
    REFUSED,
    ROLLED_BACK,
    Event,
    append_history,
    event,
    last_current,
    last_holder,
    new_id,
    read_history,
    withdrawn,
)
from .lock import locked
from .outcome import Outcome

log = logging.getLogger(__name__)

_UNFINISHED = (".new", ".old")  # ends of the names of folders that are being written, or removed


@dataclass(slots=True)
class PublishReport:
    """What became of a candidate: `id` is what is published now."""

    id: str | None
    up_to_date: bool = False
    withdrawn: bool = False  # rolled back before, so not published again unasked
    previous: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)  # of the gate
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # limits, where it was published by force
    changed: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class SplitLog:
    """The interactions of a run that publishes: all of them, the probe, and the data set without it."""

    log: pl.DataFrame
    probe: pl.DataFrame
    dataset: Dataset


def split_log(config: Config, store: FeatureStore | None, table: pl.DataFrame | None = None) -> SplitLog:
    """What to train and measure on; `table` is what `read_log` gave, where it has been read before.

    The probe is that of the published bundle; until there is one, it is drawn anew from the log.
    """
    table = read_log(config.interactions) if table is None else table
    settings = config.interactions
    assert settings is not None  # read_log has checked
    item_ids = store.item_ids if store else None
    if config.publish is None:
        none = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String})
        return SplitLog(table, none, prepare(table, item_ids, settings))
    probe = None
    if is_published(config.published):
        probe = open_published(config.published).table(PROBE)
    if probe is None:
        probe = draw_probe(table, item_ids, settings, config.publish.probe_users, config.publish.seed)
    log.info("%d interactions are the probe of [publish], which nothing is trained on", len(probe))
    return SplitLog(table, probe, prepare(withhold(table, probe, settings), item_ids, settings))


def publish(
    config: Config,
    split: SplitLog,
    store: FeatureStore | None,
    run_id: str | None = None,
    force: bool = False,
) -> PublishReport:
    """Publish the run folder, unless what is published was made from the same.

    Raises QualityGateError, with a line for every limit that is broken, where it is worse than what is
    published. `force` publishes that too, and what was rolled back. The caller holds the run folder.
    """
    assert config.publish is not None and config.interactions is not None
    started = time.perf_counter()
    folder = config.published
    with locked(folder):
        _tidy(folder)
        candidate = gather(
            config.output, split.dataset, split.log, split.probe, config.interactions, config.catalog, store
        )
        lineage = digest_json(candidate.lineage)
        old = open_published(folder) if is_published(folder) else None
        if old is not None and digest_json(old.account["lineage"]) == lineage:
            return PublishReport(old.id, up_to_date=True, seconds=time.perf_counter() - started)
        if lineage in withdrawn(read_history(folder)) and not force:
            log.warning("this run was rolled back, so it is not published; `mmrec publish --force` would")
            return PublishReport(
                old.id if old else None, withdrawn=True, seconds=time.perf_counter() - started
            )
        verdict = _verdict(candidate, old, config.publish, config.index.device)
        for note in verdict.notes:
            log.info("gate: %s", note)
        if verdict.broken and not force:
            refused = event(REFUSED, None, lineage, run=run_id, broken=verdict.broken)
            append_history(folder, [refused])
            raise _refusal(verdict, old)
        report = _put_out(folder, candidate, old, verdict, run_id, force)
        report.pruned = prune_bundles(folder, config.publish)
    report.seconds = time.perf_counter() - started
    return report


def rollback(folder: Path, to: str | None = None) -> Outcome:
    """Publish an earlier bundle again: `to`, or the one that was published before.

    Raises InputError where there is no such bundle, or where it is damaged.
    """
    if not is_published(folder):
        raise FileNotFoundError(f"{folder}: nothing is published here, so there is nothing to go back from")
    with locked(folder):
        _tidy(folder)
        events = read_history(folder)
        current = published_id(folder)
        assert current is not None  # the link is there
        target = to or _previous(folder, events, current)
        there = _bundles(folder)
        if target not in there or target == current:
            what = "is published already" if target == current else "is no bundle here"
            raise InputError(f"{folder}: {target} {what}; there are {', '.join(there)}")
        bundle = open_published(folder / BUNDLES / target, verify=True)
        point_link(folder / CURRENT, folder / BUNDLES / target)
        lineages = _lineages(events)
        happened = event(ROLLED_BACK, target, digest_json(bundle.account["lineage"]), previous=current)
        happened["from_lineage"] = lineages.get(current, "")
        append_history(folder, [happened])
    facts = {"published": target, "withdrawn": current}
    return Outcome(facts, f"published: {target}, in place of {current} ({folder})")


def prune_bundles(folder: Path, config: PublishConfig) -> list[str]:
    """Remove old bundles; returns their ids. What is published stays, and what anybody may still read: the
    `keep` that were published last, and all that were within `keep_hours`. The caller holds the folder."""
    seen = last_current(read_history(folder), published_id(folder))
    oldest_last = sorted(_bundles(folder), key=lambda name: (seen.get(name, 0.0), name), reverse=True)
    limit = time.time() - config.keep_hours * 3600
    pruned = [name for name in oldest_last[config.keep :] if seen.get(name, 0.0) < limit]
    for name in pruned:
        _remove(folder / BUNDLES / name)
    return pruned


def _verdict(
    candidate: Candidate, old: PublishedBundle | None, config: PublishConfig, device: str
) -> Verdict:
    if old is None:
        return judge_first(candidate.tested, config.gate)
    return judge(
        Side(candidate.model, candidate.features, candidate.counts),
        Side(old.model(), read_sample(old.folder / "features"), old.account["counts"]),
        candidate.probe,
        candidate.seen,
        candidate.tested,
        config.gate,
        device,
    )


def _refusal(verdict: Verdict, old: PublishedBundle | None) -> QualityGateError:
    kept = f"{old.id} stays published" if old else "nothing is published"
    lines = "\n".join(f"  {line}" for line in verdict.broken)
    return QualityGateError(f"not published, by these limits of [publish.gate]; {kept}:\n{lines}")


def _put_out(
    folder: Path,
    candidate: Candidate,
    old: PublishedBundle | None,
    verdict: Verdict,
    run_id: str | None,
    force: bool,
) -> PublishReport:
    """Write the bundle, and only then point the link at it."""
    (folder / BUNDLES).mkdir(parents=True, exist_ok=True)
    identifier = new_id(folder / BUNDLES, [happened["id"] for happened in read_history(folder)])
    gate = {"figures": verdict.figures, "notes": verdict.notes, "broken": verdict.broken}
    happened = event(PUBLISHED, identifier, digest_json(candidate.lineage), run=run_id)
    facts = {"id": identifier, "created": happened["time"], "run": run_id, "gate": gate}
    write_published(folder / BUNDLES / identifier, candidate, facts)
    point_link(folder / CURRENT, folder / BUNDLES / identifier)
    previous = old.id if old else None
    happened |= {"previous": previous, "forced": force, "broken": verdict.broken}
    append_history(folder, [happened])
    before = old.account["lineage"] if old else None
    return PublishReport(
        identifier,
        previous=previous,
        figures=verdict.figures,
        notes=verdict.notes,
        broken=verdict.broken,
        changed=changes(before, candidate.lineage),
    )


def _tidy(folder: Path) -> None:
    """Remove what a killed run has left, and write down what it had done but not written down."""
    for path in (folder / BUNDLES).glob("*"):
        if path.name.endswith(_UNFINISHED):
            shutil.rmtree(path)
    remove_stale_temporaries(folder)
    events = read_history(folder)
    current, last = published_id(folder), last_holder(events)
    if current is None or current == last:
        return
    if current in (lineages := _lineages(events)):  # a rollback was killed, or a person has moved the link
        happened = event(ROLLED_BACK, current, lineages[current], previous=last)
        append_history(folder, [happened | {"from_lineage": lineages.get(last or "", "")}])
        return
    try:
        account = open_published(folder).account
    except InputError as error:  # to go back from it must be possible all the same
        log.warning("%s", error)
        return
    lineage = digest_json(account["lineage"])
    happened = event(PUBLISHED, current, lineage, run=account["run"], previous=None, forced=False)
    append_history(folder, [happened | {"time": account["created"], "broken": []}])


def _remove(bundle: Path) -> None:
    """Whatever stops this: no half of a bundle is left under its name."""
    shutil.rmtree(bundle.rename(bundle.with_name(f"{bundle.name}.old")))


def _previous(folder: Path, events: Sequence[Event], current: str) -> str:
    """The bundle that was published last before `current`, of those that are there."""
    there = set(_bundles(folder)) - {current}
    out = withdrawn(events)
    lineages = _lineages(events)
    seen = last_current(events, current)
    wanted = [name for name in there if name in seen and lineages.get(name) not in out]
    if not wanted:
        raise InputError(f"{folder}: {current} is published, and there is no earlier bundle to go back to")
    return max(wanted, key=lambda name: (seen[name], name))


def _lineages(events: Sequence[Event]) -> dict[str, str]:
    return {happened["id"]: happened["lineage"] for happened in events if happened["event"] == PUBLISHED}


def _bundles(folder: Path) -> list[str]:
    """The ids of the complete bundles."""
    found = (account.parent.name for account in (folder / BUNDLES).glob(f"*/{ACCOUNT}"))
    return sorted(name for name in found if not name.endswith(_UNFINISHED))
