from pathlib import Path

import polars as pl
import pytest

CONFIG = """
[interactions]
path = "log.csv"
ratios = [0.6, 0.2, 0.2]
[train]
model = "bpr"
dim = 4
epochs = 2
[evaluate]
k = [2, 3]
bootstrap = 10
[run]
output = "out"
"""


@pytest.fixture
def log_only(tmp_path) -> Path:
    """A folder with run.toml and a log of twelve users and eight items, without a catalogue."""
    rows = [
        (f"u{u:02d}", "abcdefgh"[(u + t * (1 + u % 3)) % 8], 10 * u + t) for u in range(12) for t in range(5)
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    log.unique(["user_id", "item_id"], maintain_order=True).write_csv(tmp_path / "log.csv")
    (tmp_path / "run.toml").write_text(CONFIG)
    return tmp_path
