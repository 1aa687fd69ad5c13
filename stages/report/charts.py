"""Small drawings: a curve over epochs, and intervals on a scale; colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .markup import Element, el

_WIDTH, _HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 24
_MOST_POINTS = 400  # of a curve; more than there are pixels


def curve(key: str, title: str, epochs: Sequence[int], values: Sequence[float], best: int | None) -> Element:
    """A line over epochs, at least one, with the epoch `best` marked; `key` makes its ids unique."""
    low, high = min(values), max(values)
    ticks = nice_ticks(low, high)
    bottom, top = min(low, ticks[0]), max(high, ticks[-1])
    first, last = epochs[0], epochs[-1]

    def at(epoch: int, value: float) -> tuple[float, float]:
        along = (epoch - first) / max(last - first, 1)
        up = (value - bottom) / max(top - bottom, 1e-12)
        return _LEFT + along * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    points = list(zip(epochs, values, strict=True))
    step = math.ceil(len(points) / _MOST_POINTS)
    drawn = [at(*point) for point in dict.fromkeys([*points[::step], points[-1]])]
    path = " ".join(f"{'L' if n else 'M'}{x:.1f} {y:.1f}" for n, (x, y) in enumerate(drawn))
    parts = [_grid_line(at(first, tick)[1], label(tick, ticks)) for tick in ticks]
    parts += [
        el("text", str(first), x=_LEFT, y=_HEIGHT - 8, text_anchor="start"),
        el("text", f"epoch {last}", x=_WIDTH - _RIGHT, y=_HEIGHT - 8, text_anchor="end"),
        el("path", d=path, class_="curve"),
    ]
    marked = dict(points).get(best) if best is not None else None
    described = f"From {values[0]:.4g} in epoch {first} to {values[-1]:.4g} in epoch {last}"
    if best is not None and marked is not None:
        x, y = at(best, marked)
        parts += [
            el("line", x1=x, x2=x, y1=y, y2=_HEIGHT - _BOTTOM, class_="mark"),
            el("circle", cx=x, cy=y, r=4),
        ]
        described += f"; {marked:.4g} in epoch {best}, which was kept"
    return el(
        "figure",
        el("figcaption", title),
        el(
            "svg",
            el("title", title, id=f"{key}-title"),
            el("desc", described, id=f"{key}-desc"),
            *parts,
            viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
            role="img",
            aria_labelledby=f"{key}-title {key}-desc",
        ),
        el("p", described, class_="note"),
        class_="chart",
    )


def whisker(
    mean: float, low: float | None, high: float | None, largest: float, others: Sequence[float] = ()
) -> Element:
    """An interval with its mean on a scale from 0 to `largest`, and ticks for `others`.

    It is beside the figures that it shows, so readers of screens are spared it.
    """
    scale = 140 / largest if largest > 0 else 0.0
    parts = [el("line", x1=5, x2=145, y1=10, y2=10, class_="scale")]
    parts += [el("line", x1=5 + scale * x, x2=5 + scale * x, y1=3, y2=17, class_="other") for x in others]
    if low is not None and high is not None:
        parts.append(el("rect", x=5 + scale * low, y=7, width=max(scale * (high - low), 1), height=6, rx=3))
    parts.append(el("circle", cx=5 + scale * mean, cy=10, r=4))
    return el("svg", *parts, viewBox="0 0 150 20", width=150, height=20, class_="whisker", aria_hidden="true")


def nice_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Round values that divide the stretch from `low` to `high`, at least two and about `most`."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        span = abs(low) or 1.0
        low, high = low - span / 2, low + span / 2
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.floor(low / step)
    return [n * step for n in range(first, math.ceil(high / step) + 1)]


def label(tick: float, ticks: Sequence[float]) -> str:
    """The tick with as many decimals as its neighbours need."""
    step = abs(ticks[1] - ticks[0])
    if step >= 1000 or step < 1e-4:
        return f"{tick:.2g}"
    decimals = max(0, -math.floor(math.log10(step)))
    more = 0 if math.isclose(round(step, decimals), step, rel_tol=1e-6) else 1
    return f"{tick:.{decimals + more}f}"


def _grid_line(y: float, text: str) -> Element:
    return el(
        "g",
        el("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"),
        el("text", text, x=_LEFT - 6, y=y + 4, text_anchor="end"),
    )
