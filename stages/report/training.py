"""How training went: losses and validation figures over epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import curve
from .markup import Node, el
from .parts import LeftOut, Section, count, details, paragraph, took

_NOT_DRAWN = ("epoch", "seconds", "loss")


def training_section(training: Mapping[str, Any] | None) -> Section | LeftOut:
    """`training` is the content of model/metrics.json."""
    if training is None:
        return LeftOut("Training", "there is no trained model; run `mmrec train`")
    history = training.get("history") or []
    if not history:
        return LeftOut("Training", "the model is computed in closed form, without epochs")
    best = training.get("best_epoch")
    names = list(dict.fromkeys(name for record in history for name in record))
    metrics = [name for name in names if "@" in name]
    parts = [name for name in names if name not in (*_NOT_DRAWN, *metrics)]
    charts = _charts(history, [name for name in ("loss", *metrics) if name in names], best)
    seconds = sum(record.get("seconds", 0.0) for record in history)
    kept = f"; epoch {best} was kept, the best on validation" if best else ""
    body: list[Node] = [
        paragraph(f"{count(len(history), 'epoch')} in {took(seconds)}{kept}."),
        el("div", *charts, class_="charts"),
    ]
    if parts:
        body.append(details("Parts of the loss", el("div", *_charts(history, parts, best), class_="charts")))
    return Section("training", "Training", body)


def _charts(history: Sequence[Mapping[str, Any]], names: Sequence[str], best: int | None) -> list[Node]:
    charts: list[Node] = []
    for name in names:
        points = [
            (record["epoch"], float(record[name]))
            for record in history
            if isinstance(record.get(name), int | float) and math.isfinite(record[name])
        ]
        if points:
            title = f"validation {name}" if "@" in name else name
            epochs, values = zip(*points, strict=True)
            charts.append(curve(f"curve-{name}", title, epochs, values, best))
    return charts
