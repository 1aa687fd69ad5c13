"""The `[publish]` section: where bundles go, how many stay, and what a new one may not fall short of."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from ..recsys.config import Seed

Share = Annotated[float, Field(ge=0, le=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
Off = Literal[False]  # TOML has no null
_FLOOR = re.compile(r"^[a-z_]+@[1-9][0-9]*$")


class GateConfig(BaseModel, frozen=True, extra="forbid"):
    """`[publish.gate]`: a new bundle against the published one. A limit that is `false` is not looked at."""

    k: Annotated[int, Field(ge=1)] = 10  # length of the lists that are compared
    max_fall: Share | Off = 0.1  # relative, of recall@k and ndcg@k of the probe, beyond chance
    max_coverage_fall: Share | Off = 0.5  # relative, of the share of the catalogue that is listed
    max_changed: Share | Off = 0.98  # mean share of a list that is not in the published one
    min_cosine: Cosine | Off = 0.99  # of vectors of unchanged items
    min_mean_cosine: Cosine | Off = 0.9  # of the mean vectors of a view
    max_view_fall: Share | Off = 0.2  # of the share of items that have a view
    max_shrink: Share | Off = 0.5  # relative, of the numbers of items, users and interactions
    floors: dict[str, float] = {}  # metric of the test split -> the least that is published
    resamples: Annotated[int, Field(ge=100)] = 1000  # of users, for the interval of the fall
    seed: Seed = 0  # of the resamples

    @field_validator("floors")
    @classmethod
    def _are_metrics(cls, floors: dict[str, float]) -> dict[str, float]:
        unknown = [name for name in floors if not _FLOOR.match(name)]
        if unknown:
            raise ValueError(f"floors: {', '.join(unknown)}: expected metrics such as recall@20, coverage@10")
        return floors


class PublishConfig(BaseModel, frozen=True, extra="forbid"):
    """`[publish]`: what readers of the recommender open."""

    folder: Annotated[str, Field(min_length=1)] | None = None  # default: published in the run folder
    keep: Annotated[int, Field(ge=2)] = 5  # bundles that stay, the published one among them
    keep_hours: Annotated[float, Field(ge=0)] = 24.0  # since a bundle was the published one; it stays as long
    probe_users: Annotated[int, Field(ge=1)] = 2000  # at most; one interaction of each is never trained on
    seed: Seed = 0  # of the draw of these
    gate: GateConfig = GateConfig()
