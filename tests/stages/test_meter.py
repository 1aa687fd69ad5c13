import logging
import time

import pytest

from mmrec.stages.meter import Meter, duration

CREWS = {("read",): 4, ("decode", "transform"): 2, ("encode",): 1}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, monkeypatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def test_the_limit_is_the_step_whose_workers_are_busiest(clock) -> None:
    meter = Meter("extract", 100, CREWS)
    with meter.busy("encode"):
        clock.now += 5
        with meter.waiting("encode"):
            clock.now += 5
    meter.add("read", 12)  # of 4 x 10
    meter.add("decode", 11)  # of 2 x 10, together with the next
    meter.add("transform", 5)
    meter.advance(30)
    lap = meter.lap()
    assert lap.busy == pytest.approx({"read": 0.3, "decode": 0.55, "transform": 0.25, "encode": 0.5})
    assert (lap.limit, lap.rate) == ("decode", pytest.approx(3.0))


def test_a_step_that_has_not_ended_counts_up_to_now(clock) -> None:
    meter = Meter("extract", 100, CREWS)
    with meter.busy("encode"):
        clock.now += 4
        assert meter.lap().busy["encode"] == pytest.approx(1.0)
        with meter.waiting("encode"):
            clock.now += 4
            assert meter.lap().busy["encode"] == pytest.approx(0.5)


def test_lines_tell_rate_time_left_and_limit_of_the_last_stretch(caplog) -> None:
    meter = Meter("extract", 1000, CREWS)
    with caplog.at_level(logging.INFO), meter.reporting(interval=0.05):
        meter.advance(10)
        meter.add("decode", 0.05)
        time.sleep(0.4)
    first, *_, last = (record.message for record in caplog.records)
    assert first.startswith("extract: 10 of 1,000 items, ") and " left; " in first
    assert "items/s, the limit is decode (busy: read 0%, decode " in first
    assert last.startswith("extract: 10 of 1,000 items, no item finished; 0.0 items/s (busy: ")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41.6, "42 s"), (185, "3 min 5 s"), (18720, "5 h 12 min"), (273600, "3 d 4 h"), (0, "0 s")],
)
def test_durations_are_told_in_two_units(seconds, text) -> None:
    assert duration(seconds) == text
