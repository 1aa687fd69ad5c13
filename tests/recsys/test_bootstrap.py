import numpy as np
import pytest

from mmrec.recsys.bootstrap import Estimate, estimate, mean_over_users


def test_the_interval_of_a_mean_is_two_standard_errors_wide_on_either_side() -> None:
    values = np.random.default_rng(0).normal(3, 2, 4000)
    found = estimate({"x": mean_over_users(values)}, 2000, seed=1)["x"]
    error = values.std() / np.sqrt(4000)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_users_without_a_value_count_nowhere() -> None:
    values = np.array([1.0, np.nan, 1.0, np.nan, 1.0] * 20)
    assert estimate({"x": mean_over_users(values)}, 100, seed=0)["x"] == Estimate(1, 1, 1)


def test_ratios_are_of_sums() -> None:
    ratios = {
        "pooled": (np.array([1.0, 0.0]), np.array([1.0, 3.0])),
        "mean": mean_over_users(np.array([1.0, 0.0])),
        "two": mean_over_users(np.array([2.0, 2.0])),
    }
    found = estimate(ratios, 200, seed=0)
    assert (found["pooled"].mean, found["mean"].mean, found["two"]) == (0.25, 0.5, Estimate(2, 2, 2))
    assert (found["pooled"].low, found["pooled"].high) == (0, 1)  # both draws the one or the other user


def test_the_seed_decides_and_resamples_are_shared() -> None:
    values = np.random.default_rng(0).random(50)
    ratios = {"x": mean_over_users(values), "twice": mean_over_users(2 * values)}
    found = estimate(ratios, 100, seed=4)
    assert found == estimate(ratios, 100, seed=4) != estimate(ratios, 100, seed=5)
    assert found["twice"].low == pytest.approx(2 * found["x"].low)


def test_without_resamples_or_values_there_is_no_interval() -> None:
    found = estimate({"x": mean_over_users(np.array([1.0, 3.0]))}, 0, seed=0)["x"]
    assert found.as_json() == {"mean": 2.0, "low": None, "high": None}
    nothing = estimate({"x": mean_over_users(np.full(3, np.nan))}, 10, seed=0)["x"]
    assert nothing.as_json() == {"mean": None, "low": None, "high": None}
