"""What the benchmarks take from a configuration: its data, and nothing that was chosen for one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmrec.pipeline.config import Config, build_config, load_sections, parse_override, set_value


def data_config(path: Path, overrides: Sequence[str]) -> Config:
    """The configuration of `path` without its [train], so that every model starts from its defaults, with
    `overrides` applied."""
    sections = load_sections(path)
    sections.pop("train", None)
    for override in overrides:
        set_value(sections, *parse_override(override))
    return build_config(sections, source=str(path))
