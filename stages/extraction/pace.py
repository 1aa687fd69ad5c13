"""How long an encoder takes for one input, found out within a budget of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from ...features.text import cut_text
from ..encoding import render
from .batches import FittingBatches
from .plan import Plan
from .vectors import texts_of

BUDGET = 10.0  # seconds for one measurement, roughly: a batch that was begun is finished


def seconds_each(
    encode: Callable[..., np.ndarray], inputs: Sequence[Sequence[Any]], batches: FittingBatches
) -> float:
    """Seconds of one input in batches of `batches.size`, or as near to that as the budget allows.

    `inputs` are the arguments of `encode`, equally long; they are repeated to fill a batch.
    """
    spent, size, each = 0.0, 1, 0.0
    while True:
        batch = [list(islice(cycle(column), size)) for column in inputs]
        taken = []
        for _ in range(2):  # the first of a size may have memory to find and kernels to choose
            started = time.perf_counter()
            batches.encode(encode, *batch)
            taken.append(time.perf_counter() - started)
        spent += sum(taken)
        each = min(taken) / size
        if size >= batches.size or spent + 8 * min(taken) > BUDGET:
            return each
        size = min(4 * size, batches.size)


@dataclass(frozen=True, slots=True)
class TextLoad:
    """The texts of one shard as its encoder gets them."""

    items: int
    texts: int
    distinct: int
    long: int  # of the distinct ones, those of several windows
    windows: list[list[int]]  # of the distinct ones, shortest first

    @classmethod
    def of(cls, plan: Plan, shard: int) -> TextLoad:
        rendered = render(plan.items(shard), plan.views, None)
        encoder, config = plan.encoders.texts, plan.config
        texts, prompts = texts_of(rendered, range(len(rendered.items)))
        pairs = [(text, prompt) for text, prompt in zip(texts, prompts, strict=True) if text is not None]
        cut = [cut_text(encoder, *pair, config.long_text).ids for pair in dict.fromkeys(pairs)]
        windows = sorted((window for of_text in cut for window in of_text), key=len)
        long = sum(len(of_text) > 1 for of_text in cut)
        return cls(len(rendered.items), len(pairs), len(cut), long, windows)

    def seconds_per_item(self, plan: Plan, batches: FittingBatches) -> float:
        """As measured on batches from all over the shard: long ones cost more than short ones."""
        size = batches.size
        n_batches = -(-len(self.windows) // size)
        chosen = sorted({round(at) for at in np.linspace(0, n_batches - 1, min(n_batches, 4))})
        found = [
            seconds_each(
                plan.encoders.texts.encode_tokens, [self.windows[at * size : (at + 1) * size]], batches
            )
            for at in chosen
        ]
        return float(np.mean(found)) * len(self.windows) / self.items if found else 0.0
