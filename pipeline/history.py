"""What happened to a publish folder: a line of JSON for every bundle published, refused or rolled back."""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..features.files import atomic_path
from ..stages.published import HISTORY

PUBLISHED, REFUSED, ROLLED_BACK = "published", "refused", "rolled back"
Event = dict[str, Any]  # event, time, id (None of a refused one), lineage, and what else is worth saying


def read_history(folder: Path) -> list[Event]:
    """The events in their order; what a person has broken is left out."""
    path = folder / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    events = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and {"event", "time", "id"} <= event.keys():
            events.append(event)
    return events


def append_history(folder: Path, events: Sequence[Event]) -> None:
    """Add events; the file is replaced as a whole, so that no line is ever half there."""
    path = folder / HISTORY
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = [json.dumps(event, ensure_ascii=False, allow_nan=False) for event in events]
    with atomic_path(path) as temporary:
        temporary.write_text(before + "".join(f"{line}\n" for line in lines), encoding="utf-8")


def event(kind: str, identifier: str | None, lineage: str, **facts: Any) -> Event:
    return {"event": kind, "time": now(), "id": identifier, "lineage": lineage, **facts}


def withdrawn(events: Sequence[Event]) -> set[str]:
    """The lineages that were rolled back and not published again since: no run publishes them unasked."""
    found: set[str] = set()
    for happened in events:
        if happened["event"] == ROLLED_BACK:
            found.add(happened["from_lineage"])
        if happened["event"] in (PUBLISHED, ROLLED_BACK):
            found.discard(happened.get("lineage", ""))
    return found


def last_holder(events: Sequence[Event]) -> str | None:
    """The bundle that was published last, or gone back to."""
    held = [happened["id"] for happened in events if happened["event"] in (PUBLISHED, ROLLED_BACK)]
    return held[-1] if held else None


def last_current(events: Sequence[Event], current: str | None) -> dict[str, float]:
    """Bundle -> when it was last the published one, in seconds since 1970; infinite for the one that is."""
    found: dict[str, float] = {}
    holder: str | None = None
    for happened in events:
        if happened["event"] in (PUBLISHED, ROLLED_BACK):
            time = datetime.datetime.fromisoformat(happened["time"]).timestamp()
            if holder is not None:
                found[holder] = time
            holder = happened["id"]
            found[happened["id"]] = time  # at least until then
    if current is not None:
        found[current] = float("inf")
    return found


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def new_id(folder: Path, taken: Collection[str] = ()) -> str:
    """A name neither in `folder` nor in `taken`: the time in UTC, `20261121T030000Z`, or with `-2`."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    number = 1
    while (folder / (name := stamp if number == 1 else f"{stamp}-{number}")).exists() or name in taken:
        number += 1
    return name
