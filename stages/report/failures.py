"""What could not be read, by reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from .items import ItemCards
from .markup import Node, clipped, el, named
from .parts import LeftOut, Section, count, paragraph, table

_EXAMPLES = 3
_MEANINGS = {
    "missing": "no such file or object",
    "outside_root": "the path leads out of the folder of images",
    "refused": "by what [catalog] allows",
    "unreachable": "no answer; another time there may be one",
    "too_large": "more bytes than are read",
    "bomb": "more pixels than are decoded",
    "not_an_image": "in no known format",
    "truncated": "the end is missing",
    "corrupt": "damaged",
    "unreadable": "in a format that is not decoded",
    "crashed": "took its decoder down",
    "timeout": "took its decoder too long",
    "out_of_memory": "took its decoder too much memory",
    "not_finite": "the encoder gave no finite vector",
}


def failures_section(
    ledger: pl.DataFrame | str, views: Mapping[str, Mapping[str, int]], rows: int, cards: ItemCards
) -> Section | LeftOut:
    """`ledger` is failures.parquet, or why it is not there; `views` those of its manifest."""
    if isinstance(ledger, str):
        return LeftOut("Failures", ledger)
    body: list[Node] = []
    if ledger.is_empty():
        body.append(
            paragraph(f"Nothing failed: all that the catalogue has of {count(rows, 'item')} was read.")
        )
    else:
        items = ledger["item_id"].n_unique()
        body.append(
            paragraph(
                f"{count(items, 'item')} of {rows:,} have something that could not be read. It is missing "
                "there, and masked in training; nothing else of the item is lost."
            )
        )
        body.append(_by_reason(ledger, cards))
    body.append(_coverage(views, rows))
    return Section("failures", "Failures and gaps", body)


def examples(ledger: pl.DataFrame) -> pl.DataFrame:
    """The first failures of every reason, as they are in the ledger."""
    return ledger.group_by("reason", maintain_order=True).head(_EXAMPLES)


def _by_reason(ledger: pl.DataFrame, cards: ItemCards) -> Node:
    reasons = ledger.group_by("reason", maintain_order=True).agg(
        pl.len().alias("n"), pl.col("item_id").n_unique()
    )
    few = examples(ledger)
    rows: list[Sequence[Node]] = []
    for reason, failures, items in reasons.sort("n", descending=True, maintain_order=True).iter_rows():
        of_reason = few.filter(pl.col("reason") == reason)
        shown = [
            el("li", named(cards.name(item)), ": ", el("bdi", clipped(message or "", 200)))
            for item, message in of_reason.select("item_id", "message").iter_rows()
        ]
        rows.append(
            [
                named(reason),
                _MEANINGS.get(reason, ""),
                el("ul", *shown, class_="plain"),
                f"{failures:,}",
                f"{items:,}",
            ]
        )
    return table(
        "Failures by reason", ["reason", "meaning", "examples", "failures", "items"], rows, words=(1, 2)
    )


def _coverage(views: Mapping[str, Mapping[str, int]], rows: int) -> Node:
    lines: list[Sequence[Node]] = [
        [
            named(view),
            f"{facts['dim']:,}",
            f"{facts['present']:,}",
            f"{rows - facts['present']:,}",
            f"{100 * facts['present'] / max(rows, 1):.1f} %",
        ]
        for view, facts in views.items()
    ]
    return table("Items that have each view", ["view", "dimensions", "present", "missing", "share"], lines)
