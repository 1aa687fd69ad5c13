import pytest

from mmrec.stages.report.charts import curve, label, nice_ticks, whisker


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.083, 0.155, ["0.08", "0.10", "0.12", "0.14", "0.16"]),
        (0, 10, ["0.0", "2.5", "5.0", "7.5", "10.0"]),
        (3, 3, ["1", "2", "3", "4", "5"]),
        (0, 0, ["-0.50", "-0.25", "0.00", "0.25", "0.50"]),
        (0, 40_000, ["0", "1e+04", "2e+04", "3e+04", "4e+04"]),
    ],
)
def test_ticks_are_round_and_cover_what_is_drawn(low: float, high: float, ticks: list[str]) -> None:
    found = nice_ticks(low, high)
    assert found[0] <= low and high <= found[-1]
    assert [label(tick, found) for tick in found] == ticks


def test_a_curve_says_in_words_what_it_shows() -> None:
    figure = curve("c", "loss", range(1, 2001), [1 / n for n in range(1, 2001)], best=4)
    svg = next(child for child in figure.children if not isinstance(child, str) and child.tag == "svg")
    texts = {child.tag: child.children[0] for child in svg.children if child.tag in ("title", "desc")}
    assert texts == {
        "title": "loss",
        "desc": "From 1 in epoch 1 to 0.0005 in epoch 2000; 0.25 in epoch 4, which was kept",
    }
    path = next(dict(child.attributes)["d"] for child in svg.children if child.tag == "path")
    assert path.count("L") <= 401


def test_an_interval_is_drawn_to_scale() -> None:
    parts = {child.tag: dict(child.attributes) for child in whisker(0.5, 0.25, 0.75, 1.0, [0.1]).children}
    assert (parts["rect"]["x"], parts["rect"]["width"], parts["circle"]["cx"]) == ("40", "70", "75")
    assert "rect" not in [child.tag for child in whisker(0.0, None, None, 0.0).children]
