"""Stage 1 as a job: in one go, in parts that know nothing of each other, and the parts joined."""

from __future__ import annotations

from ..features.store import FeatureStore
from ..stages.extract import ExtractReport, check_failures
from ..stages.extract import extract as extract_stage
from ..stages.extraction.merge import merge as merge_stage
from ..stages.extraction.parts import Part
from ..stages.extraction.ray_engine import extract_on_ray as ray_stage
from ..stages.extraction.rehearsal import rehearse as rehearse_stage
from ..stages.similarity import check_similarity
from .config import Config, write_config
from .lock import locked, locked_part
from .outcome import Outcome
from .summary import estimate_text, extract_text


def extract(config: Config, retry: str | None = None) -> Outcome:
    """The feature store of `config`; items that failed for the reason `retry`, or "any", once more."""
    with locked(config.features):
        report = bring_up_to_date(config, retry)
    return _outcome(report, config)


def extract_on_ray(config: Config, address: str | None = None, retry: str | None = None) -> Outcome:
    """As `extract`, by the Ray cluster at `address`, or one that is started here."""
    with locked(config.features):
        report = ray_stage(config.catalog, config.extract, config.features, address, retry)
        _conclude(config, report)
    return _outcome(report, config)


def extract_part(config: Config, part: Part, retry: str | None = None) -> Outcome:
    """One part's shards, beside other parts; nobody reads them before `merge`."""
    with locked_part(config.features, str(part)):
        report = extract_stage(config.catalog, config.extract, config.features, part, retry)
    return _outcome(report, config)


def merge(config: Config) -> Outcome:
    """The feature store of the shards that all parts have made."""
    with locked(config.features):
        report = merge_stage(config.catalog, config.extract, config.features)
        _conclude(config, report)
    return _outcome(report, config)


def rehearse(config: Config) -> Outcome:
    """What `extract` would take; nothing is written, and nobody kept waiting."""
    estimate = rehearse_stage(config.catalog, config.extract, config.features)
    return Outcome(estimate.facts(), estimate_text(estimate, config.features))


def bring_up_to_date(config: Config, retry: str | None = None) -> ExtractReport:
    """`extract` for a caller that holds the lock."""
    report = extract_stage(config.catalog, config.extract, config.features, retry=retry)
    _conclude(config, report)
    return report


def _conclude(config: Config, report: ExtractReport) -> None:
    """Record the config, then judge: TooManyFailuresError or QualityGateError, with the store kept."""
    write_config(config, config.features)
    check_failures(report, config.extract, config.features)
    if config.extract.has_gate:
        check_similarity(FeatureStore(config.features), config.extract)


def _outcome(report: ExtractReport, config: Config) -> Outcome:
    return Outcome({"features": report.facts()}, extract_text(report, config.features))
