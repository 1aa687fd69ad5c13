"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden numbers; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MMREC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "parity").is_dir():
        pytest.skip(f"no {folder.name}/ folder beside the repository")
    return folder
