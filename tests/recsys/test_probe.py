import polars as pl
import pytest

from mmrec.recsys.config import InteractionsConfig
from mmrec.recsys.probe import draw_probe, withhold

CONFIG = InteractionsConfig(path="log.csv")


@pytest.fixture
def log() -> pl.DataFrame:
    """Ten users with seven interactions each, the newest with item `u % 7`, and one with four."""
    rows = [(f"u{u}", (u + t) % 7, 7 - t) for u in range(10) for t in range(7)]
    rows += [("brief", t, t) for t in range(4)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def test_the_newest_of_those_who_can_spare_one(log) -> None:
    probe = draw_probe(log, None, CONFIG, users=100, seed=0)
    assert dict(probe.iter_rows()) == {f"u{u}": u % 7 for u in range(10)}
    assert len(draw_probe(log, None, CONFIG, users=3, seed=0)) == 3


def test_what_is_withheld_is_in_no_row_whatever_the_type_of_its_ids(log) -> None:
    probe = draw_probe(log, None, CONFIG, users=100, seed=0)
    twice = pl.concat([log, log.head(1)]).with_columns(pl.col("item_id").cast(pl.String))
    kept = withhold(twice, probe, CONFIG)
    assert len(kept) == len(log) - 10
    assert set(probe.iter_rows()) & {(user, int(item)) for user, item, _ in kept.iter_rows()} == set()
