import numpy as np
import pytest
from scipy import stats

from mmrec.recsys.errors import InputError
from mmrec.recsys.significance import holm, paired_tests, wilcoxon


def test_holm_multiplies_the_smallest_by_the_count_and_never_decreases() -> None:
    # 0.01 * 4, 0.02 * 3, 0.03 * 2 -> raised to 0.06, 0.5 * 1; given in another order
    corrected = holm(np.array([0.5, 0.01, 0.03, 0.02]))
    assert corrected == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1.0, 1.0])


def test_five_gains_of_different_size_have_two_in_32_chances() -> None:
    # all five signs alike: 2 of the 2^5 sign patterns are as extreme
    assert wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)


def test_users_without_a_difference_do_not_count() -> None:
    assert wilcoxon(np.zeros(7)) == 1.0
    assert wilcoxon(np.array([0, 0.1, 0, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(2 / 32)


def test_a_test_against_scipy() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((1, 300)), rng.random((1, 300)) + 0.05
    (test,) = paired_tests(ours, theirs, resamples=4000, seed=1)
    expected = stats.bootstrap(((theirs - ours)[0],), np.mean, method="percentile", rng=2).confidence_interval
    assert test.p_value == pytest.approx(stats.wilcoxon(theirs[0], ours[0]).pvalue)
    assert (test.low, test.high) == pytest.approx((expected.low, expected.high), abs=2e-3)
    assert test.low < test.difference < test.high


def test_means_differences_and_shares_by_hand() -> None:
    reference = np.array([[0.2, 0.4, 0.6], [0.0, 0.0, 0.0]])
    systems = np.array([[0.3, 0.5, 0.7], [0.0, 0.0, 0.0]])
    gain, same = paired_tests(reference, systems, resamples=50, seed=0)
    assert (gain.reference, gain.mean, gain.difference) == pytest.approx((0.4, 0.5, 0.1))
    assert gain.relative == pytest.approx(0.25)
    assert (gain.low, gain.high) == pytest.approx((0.1, 0.1))  # every user gains the same
    assert gain.p_value == pytest.approx(stats.wilcoxon([1, 1, 1]).pvalue)  # equal gains are ties
    assert (same.difference, same.p_value, same.p_holm) == (0, 1, 1) and np.isnan(same.relative)


def test_a_user_without_a_value_in_one_system_is_left_out() -> None:
    reference, system = np.array([[0.1, np.nan, 0.3]]), np.array([[0.2, 0.9, np.nan]])
    (test,) = paired_tests(reference, system, resamples=20, seed=0)
    assert (test.users, test.reference, test.mean) == (1, 0.1, 0.2)
    with pytest.raises(InputError, match="no user"):
        paired_tests(np.array([[np.nan]]), np.array([[1.0]]), 10, 0)


def test_the_same_seed_gives_the_same_interval() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.random((2, 40)), rng.random((2, 40))
    assert paired_tests(ours, theirs, 100, 7) == paired_tests(ours, theirs, 100, 7)
