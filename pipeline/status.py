"""`mmrec status`: what there is, what of it is stale and why, who is at work, and how the last runs ended."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..features.errors import InputError
from ..features.files import digest_json
from ..features.store import FeatureStore
from ..recsys.errors import InputError as RecsysInputError
from ..recsys.interactions import Dataset
from ..stages.dataset import digest_dataset
from ..stages.index import index_lineage
from ..stages.lineage import read_lineage
from ..stages.published import is_published, open_published, published_id
from ..stages.staleness import (
    DAMAGED,
    FRESH,
    MISSING,
    STALE,
    Artefact,
    differing_settings,
    look_at,
    look_at_features,
    look_at_published,
)
from ..stages.train import train_lineage
from .config import Config
from .history import REFUSED, read_history, withdrawn
from .lock import is_alive, owner_of
from .outcome import Outcome, seconds, table
from .publishing import split_log
from .record import KILLED, RUNNING, input_stamps, read_records

_RUNS = 7  # of the last ones, that are shown
_MARKS = {FRESH: "ok", STALE: "stale", MISSING: "missing", DAMAGED: "DAMAGED"}


def status(config: Config) -> Outcome:
    """The graph of artefacts, the lock, the last runs and what is published; nothing is made or changed."""
    records = read_records(config.output)
    graph = _graph(config, records)
    owner = owner_of(config.output)
    at_work = owner is not None and is_alive(config.output)
    runs = [_seen(record, at_work) for record in records[-_RUNS:]]
    events = read_history(config.published)[-_RUNS:]
    facts = {
        "run": str(config.output),
        "artefacts": [artefact.as_json() for artefact in graph],
        "lock": None if owner is None else {"alive": at_work, "owner": str(owner), "seconds": owner.age},
        "runs": runs,
        "published": published_id(config.published),
        "history": events,
    }
    return Outcome(facts, _text(config, graph, facts))


def _graph(config: Config, records: Sequence[Mapping[str, Any]]) -> list[Artefact]:
    """In the order in which they are made; each follows what it is made from."""
    touched = _touched(config, records)
    encoder = _encoder(config, touched) if config.makes_encoder else None
    features = None
    if config.catalog is not None or config.extract.foreign:
        features = look_at_features(config.catalog, config.extract, config.features, touched)
        features.follow(encoder if config.reads_made_encoder else None)
    log, dataset, store = _dataset(config, features)
    lineage = None
    if dataset is not None:
        lineage = train_lineage(dataset, store, config.train, config.fusion)
    model = look_at("model", config.output / "model" / "config.json", lineage, "lineage")
    model.follow(log, features if lineage is None or lineage["features"] != "none" else None)
    vectors = _read(config.output / "model" / "config.json").get("vectors", "")
    wanted = index_lineage(vectors, config.index)
    index = look_at("index", config.output / "index" / "index.json", wanted, "lineage")
    index.follow(model)
    evaluation = _evaluation(config, dataset, vectors)
    evaluation.follow(model, index)
    graph = [encoder, log, features, model, index, evaluation]
    if config.publish is not None:
        graph.append(_published(config, model, index, evaluation))
    return [artefact for artefact in graph if artefact is not None]


def _encoder(config: Config, touched: bool | None) -> Artefact:
    name = "align" if config.align is not None else "finetune"
    found = look_at("encoder", config.encoder / f"{name}.json", None, "lineage")
    if touched:
        found.differs(["items: the catalogue was written to since the last run"])
    return found


def _dataset(
    config: Config, features: Artefact | None
) -> tuple[Artefact, Dataset | None, FeatureStore | None]:
    """The interactions as an artefact, and as data where these can be read with the features there are."""
    place = Path(config.interactions.path if config.interactions else "")
    log = Artefact("interactions", place)
    if features is not None and features.state in (MISSING, DAMAGED):
        log.differs([f"features are {features.state}: the items are not known"])
        return log, None, None
    store = None if features is None else FeatureStore(config.features)
    try:
        dataset = split_log(config, store).dataset
    except (InputError, RecsysInputError, OSError) as error:
        log.state, log.why = DAMAGED, [str(error)]
        return log, None, store
    log.facts = {"users": dataset.n_users, "interactions": dataset.report["kept"]}
    return log, dataset, store


def _evaluation(config: Config, dataset: Dataset | None, vectors: str) -> Artefact:
    path = config.output / "evaluation.json"
    found = look_at("evaluation", path, None, "provenance", "lineage")
    lineage = read_lineage(path, "provenance", "lineage", told=False) if found.state == FRESH else None
    if lineage is not None:
        index = read_lineage(config.output / "index" / "index.json", "lineage", told=False)
        wanted = {"vectors": vectors, "index": digest_json(index)}
        if dataset is not None:
            wanted["interactions"] = digest_dataset(dataset)
        found.differs([name for name, digest in wanted.items() if lineage[name] != digest])
        found.differs(differing_settings(path, config.evaluate))
    return found


def _published(config: Config, model: Artefact, index: Artefact, evaluation: Artefact) -> Artefact:
    folder = config.published
    if not is_published(folder):
        return Artefact("published", folder, MISSING, ["nothing is published yet"])
    try:
        bundle = open_published(folder)
    except (InputError, OSError) as error:
        return Artefact("published", folder, DAMAGED, [str(error)])
    account = _read(config.output / "model" / "config.json")
    made = {
        "index": read_lineage(config.output / "index" / "index.json", "lineage", told=False),
        "evaluation": read_lineage(config.output / "evaluation.json", "provenance", "lineage", told=False),
    }
    run = {
        "interactions": account.get("lineage", {}).get("interactions", ""),
        "vectors": account.get("vectors"),
    }
    run |= {what: digest_json(lineage) for what, lineage in made.items()}
    found = look_at_published("published", folder, bundle, run)
    events = read_history(folder)
    if found.state == STALE and events and events[-1]["event"] == REFUSED:
        found.why = [f"the gate refused the last run: {line}" for line in events[-1]["broken"]]
    elif found.state == STALE and withdrawn(events):
        found.why.append("a run was rolled back")
    found.follow(model, index, evaluation)
    return found


def _touched(config: Config, records: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether the catalogue's files are other than when features were last brought up to date; None where no
    record tells."""
    now = input_stamps(config).get("catalog")
    for record in reversed(records):
        made = {stage["name"] for stage in record["stages"] if stage["status"] == "done"}
        if "features" in made and now:
            return record["inputs"].get("catalog") != now
    return None


def _seen(record: Mapping[str, Any], at_work: bool) -> dict[str, Any]:
    """A record in short; one that says that it is running, where nobody is at work, was killed."""
    state = KILLED if record["status"] == RUNNING and not at_work else record["status"]
    error = record["error"]["message"] if record["error"] else None
    keys = ("id", "started", "seconds", "exit_code")
    stages = {stage["name"]: _did(stage) for stage in record["stages"]}
    return {**{key: record[key] for key in keys}, "status": state, "error": error, "stages": stages}


def _did(stage: Mapping[str, Any]) -> str:
    if stage["status"] != "done":
        return stage["status"]
    return {True: "reused", False: "made", None: "done"}[stage["up_to_date"]]


def _read(path: Path) -> dict[str, Any]:
    try:
        account = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return account if isinstance(account, dict) else {}


def _text(config: Config, graph: Sequence[Artefact], facts: Mapping[str, Any]) -> str:
    rows = [[item.name, _MARKS[item.state], _made(item.made), "; ".join(item.why)] for item in graph]
    texts = [table(f"artefacts of {config.output}", ["artefact", "state", "made", "why"], rows, words=True)]
    lock = facts["lock"]
    if lock is not None:
        texts.append(("at work: " if lock["alive"] else "left by a run that was killed: ") + lock["owner"])
    if config.publish is not None:
        texts.append(f"published: {facts['published'] or 'nothing'} ({config.published})")
    if facts["runs"]:
        columns = ["run", "status", "exit", "took", "stages", "error"]
        texts.append(table("last runs", columns, [_run_row(run) for run in facts["runs"]], words=True))
    return "\n\n".join(texts)


def _run_row(run: Mapping[str, Any]) -> list[str]:
    code = "-" if run["exit_code"] is None else str(run["exit_code"])
    did = {
        kind: [name for name, done in run["stages"].items() if done == kind]
        for kind in ("made", "failed", "running")
    }
    stages = [f"{kind} {', '.join(names)}" for kind, names in did.items() if names]
    error = (run["error"] or "").splitlines()
    return [
        run["id"],
        run["status"],
        code,
        seconds(run["seconds"]),
        "; ".join(stages) or ("all reused" if run["exit_code"] == 0 else "-"),
        error[0] if error else "",
    ]


def _made(made: float | None) -> str:
    if made is None:
        return "-"
    return datetime.datetime.fromtimestamp(made, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
