"""`mmrec run` as a scheduler calls it: under one lock and a time limit, with a record of what happened."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Any

from ..features.errors import InputError
from ..stages.published import is_published, open_published
from .config import Config
from .deadline import deadline
from .lock import LockedError, locked
from .outcome import Outcome
from .prometheus import write_metrics
from .record import RunRecord, bury, prune_records, read_records
from .run import run
from .steps import Steps
from .tracking import check_trackers, track

log = logging.getLogger(__name__)


def nightly(config: Config, file: Path | None = None) -> Outcome:
    """`run` with retries, within `run.time_limit`; raises what it raises, and TimeLimitError.

    Whatever happens but a kill is in runs/<id>/run.json and in the metrics afterwards.
    """
    check_trackers(config)
    with _Account(config, file) as account, deadline(config.run.time_limit), locked(config.output):
        for killed in bury(config.output, account.record.id):
            log.warning("the run %s was killed; going on from what it has left", killed)
        steps = Steps(config.run.retries, config.run.backoff, account.record.write)
        account.record.steps = steps.done
        account.outcome = outcome = run(config, steps, account.record.id)
        return outcome


class _Account:
    """The record of a run around its work: begun with it, finished however it ends."""

    def __init__(self, config: Config, file: Path | None) -> None:
        self._config = config
        self.record = RunRecord(config, file)
        self.outcome: Outcome | None = None

    def __enter__(self) -> _Account:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.record.finish(error, _results(self.outcome))
        if isinstance(error, LockedError):  # the run that holds the folder writes its metrics
            return
        config = self._config
        published = _published(config)
        records = read_records(config.output)
        try:
            write_metrics(config.prometheus, config.output.absolute().name, records, published)
        except OSError as unwritten:  # how the run ended matters more
            log.warning("no metrics were written: %s", unwritten)
        if error is None:
            track(config, self.record.facts)
            kept = {self.record.id, published["run"] if published else None}
            prune_records(config.output, config.run.keep_records, kept)


def _results(outcome: Outcome | None) -> dict[str, Any]:
    """What a record keeps of an outcome: the metrics of every split, and what became of the bundle."""
    if outcome is None:
        return {"metrics": None, "published": None}
    splits = outcome.facts["evaluation"]["splits"]
    metrics = {
        split: {name: value["mean"] for name, value in facts["metrics"].items()}
        for split, facts in splits.items()
    }
    return {"metrics": metrics, "published": outcome.facts.get("published")}


def _published(config: Config) -> dict[str, Any] | None:
    """The account of the published bundle; None without one that is sound."""
    if not is_published(config.published):
        return None
    try:
        return open_published(config.published).account
    except (InputError, OSError) as error:
        log.warning("%s", error)
        return None
