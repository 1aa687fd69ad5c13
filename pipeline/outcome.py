"""What a command gives back: facts for machines, and the same as text for people."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..stages.meter import duration


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a command: `facts` is JSON-able, `text` is what a terminal shows."""

    facts: dict[str, Any]
    text: str


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A plain table; the first column is left-aligned, the others are numbers, unless all are `words`."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        grid.add_column(column, justify="left" if words or position == 0 else "right")
    for row in rows:
        grid.add_row(*map(escape, row))  # "[publish]" is a word, not a style
    return render(grid)


def render(renderable: Any, width: int = 120) -> str:
    """What rich would print, as plain text without trailing blanks."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def number(value: float | None) -> str:
    """Four decimals, the precision that papers report; a dash where there is no figure."""
    return "-" if value is None else f"{value:.4f}"


def seconds(value: float) -> str:
    """`0.8 s`, `42 s`, `3 min 5 s` or `5 h 12 min`."""
    return f"{value:.1f} s" if value < 10 else duration(value)


def counts(values: Mapping[str, int]) -> str:
    """`truncated 3, missing 1`."""
    return ", ".join(f"{name} {count:,}" for name, count in values.items())
