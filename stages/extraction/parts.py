"""The shards of one catalogue shared out among jobs that know nothing of each other. Light to import."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Part `number` of `count`, from 0 on as schedulers count: shards number, number + count, ..."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that "2/8" names; ValueError for anything else."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
        if found is None:
            raise ValueError(f"{text!r} is no part; expected i/n, such as 0/8 for the first of eight")
        number, count = int(found[1]), int(found[2])
        if not number < count:
            raise ValueError(
                f"{text!r}: parts count from 0, so those of {count} are 0/{count} to {count - 1}/{count}"
                if count
                else f"{text!r}: there must be at least one part"
            )
        return cls(number, count)

    def shards(self, n_shards: int) -> range:
        """Those of shards 0 to `n_shards` - 1 that are this part's."""
        return range(self.number, n_shards, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7,11-20`, as a Slurm array takes it; `numbers` in ascending order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
