"""Facts of a small run, written down by hand, and a reader that is strict about HTML."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

VOID = {"meta", "link", "img"}


class Strict(HTMLParser):
    """Fails on an element that is not closed where it should be; keeps tags, attributes and text."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []  # tag, name, value
        self.text = ""
        self.feed(document)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def of(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


@pytest.fixture
def read() -> Callable[[str], Strict]:
    return Strict


@pytest.fixture
def evaluation() -> dict[str, Any]:
    """Two splits, one baseline and three kinds of segments; the model beats the baseline on test."""

    def estimates(recall: float) -> dict[str, Any]:
        interval = {"mean": recall, "low": recall - 0.01, "high": recall + 0.01}
        return {"recall@10": interval, "ndcg@10": interval, "coverage@10": one(0.25)}

    def one(value: float) -> dict[str, Any]:
        return {"mean": value, "low": None, "high": None}

    def split(recall: float) -> dict[str, Any]:
        return {
            "users": 7,
            "skipped_users": 0,
            "positives": 9,
            "candidates": 50,
            "metrics": estimates(recall),
        }

    def segment(recall: float) -> dict[str, Any]:
        return {"users": 3, "positives": 4, "metrics": {"recall@10": estimates(recall)["recall@10"]}}

    return {
        "schema": 1,
        "model": "freedom",
        "splits": {"validation": split(0.3), "test": split(0.2)},
        "segments": {
            "test": {
                "activity": {"low (1-2)": segment(0.1)},
                "popularity": {"head (40-90)": segment(0.4), "cold (0)": segment(0.05)},
                "modality": {"image + text": segment(0.3), "text": segment(0.07)},
            }
        },
        "baselines": {"popularity": {"validation": split(0.25), "test": split(0.15)}},
        "provenance": {
            "lineage": {"vectors": "0123abcd"},
            "interactions": {"rows": 1234, "kept": 1200},
            "libraries": {"torch": "2.9.0"},
        },
    }
