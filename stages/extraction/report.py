"""What an extraction did, and whether too much of it failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...features.config import ExtractConfig
from ...features.errors import REASONS, InputError, TooManyFailuresError
from ...features.shards import Failure
from ..meter import Lap
from .vectors import NOT_FINITE

ANY_REASON = "any"


@dataclass(slots=True)
class ExtractReport:
    """What one extraction did; `up_to_date` when there was nothing to do."""

    items: int
    shards: int  # that hold these items
    part: str | None = None  # "2/8", where this was one part of the catalogue: nothing is committed
    merged: bool = False  # of shards that were there
    encoded: int = 0  # items that went through the encoder
    reused: int = 0  # items taken over from the store as it was
    failed: int = 0  # items with at least one failure
    reasons: dict[str, int] = field(default_factory=dict)  # failures by reason
    ledger: str = "failures.parquet"  # the file of the store that lists the failures
    up_to_date: bool = False
    seconds: float = 0.0
    pace: Lap | None = None  # of the work on shards, where there was any

    def count_failures(self, failures: Sequence[Failure]) -> None:
        """Add those of one shard."""
        self.failed += len({failure.item_id for failure in failures})
        reasons = Counter(self.reasons)
        reasons.update(failure.reason for failure in failures)
        self.reasons = dict(reasons.most_common())

    def facts(self) -> dict[str, Any]:
        facts = asdict(self)
        if self.pace is not None:
            facts["pace"]["items_per_second"] = self.pace.rate
        return facts


def retried_reasons(retry: str | None) -> frozenset[str]:
    """The reasons that "any" or the name of one stands for; InputError for a name that no ledger holds."""
    known = (*REASONS, NOT_FINITE)
    if retry is None:
        return frozenset()
    if retry not in (ANY_REASON, *known):
        raise InputError(f"no item can have failed as '{retry}'; reasons are {', '.join(known)}")
    return frozenset(known if retry == ANY_REASON else (retry,))


class Ledgered(Protocol):
    """A report of work on items some of which may have failed."""

    items: int
    failed: int
    reasons: dict[str, int]
    ledger: str


def check_failures(report: Ledgered, config: ExtractConfig, folder: Path) -> None:
    """TooManyFailuresError when more than `max_failures` of the items failed; the work is kept."""
    share = report.failed / report.items
    if share > config.max_failures:
        reasons = ", ".join(f"{reason} {count}" for reason, count in report.reasons.items())
        raise TooManyFailuresError(
            f"{report.failed} of {report.items} items failed ({share:.1%}, extract.max_failures allows "
            f"{config.max_failures:.1%}): {reasons}. All else is finished; they are listed in "
            f"{folder / report.ledger}"
        )
