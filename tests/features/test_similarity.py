"""Cosines, view weights and mismatches, worked out by hand."""

import math

import numpy as np
import pytest

from mmrec.features.similarity import contrasts, cosines, distribution, mismatch_scores, view_weights

NAN = math.nan


def test_cosines_do_not_depend_on_norms_and_are_missing_where_a_side_is() -> None:
    images = np.array([[2, 0], [3, 4], [1, 1], [0, 0]], np.float32)
    texts = np.array([[0, 5], [3, 4], [1, 1], [1, 0]], np.float32)
    found = cosines(images, texts, np.array([True, True, False, True]))
    np.testing.assert_allclose(found, [0, 1, NAN, 0], atol=1e-6)


def test_weights_are_a_softmax_over_the_views_that_are_there() -> None:
    similarity = np.array([[0.2, 0.4, NAN], [NAN, NAN, 0.1], [NAN, NAN, NAN]])
    weights = view_weights(similarity, 0.2)
    e = math.e
    np.testing.assert_allclose(weights, [[1 / (1 + e), e / (1 + e), 0], [0, 0, 1], [0, 0, 0]], atol=1e-12)


def test_temperature_goes_from_the_best_view_to_the_mean_of_all() -> None:
    similarity = np.array([[0.31, 0.30, NAN, -0.9]])
    np.testing.assert_allclose(view_weights(similarity, 1e-6), [[1, 0, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(view_weights(similarity, 1e9), [[1 / 3, 1 / 3, 0, 1 / 3]], atol=1e-8)


def test_a_contrast_is_the_distance_from_random_pairings_in_their_deviations() -> None:
    images = np.array([[1, 0], [0, 1], [3, 4]], np.float32)
    texts = np.array([[1, 0], [3, 4], [0, 1]], np.float32)
    found, random_mean = contrasts(images, texts, np.ones(3, bool))
    # Item 0: its own pair has 1, its image with the others' texts 0.6 and 0, its text with the others'
    # images 0 and 0.6. Item 1: its own pair has 0.8, the others' texts 0 and 1, the others' images 0.6 and 1.
    first = (1 - 0.3) / 0.3
    second = ((0.8 - 0.5) / 0.5 + (0.8 - 0.8) / 0.2) / 2
    np.testing.assert_allclose(found[:2], [first, second], atol=1e-5)
    assert random_mean == pytest.approx((0.3 + 0.5 + (0.6 + 1.0) / 2) / 3)


def test_contrast_is_unknown_where_all_pairings_are_alike_and_of_a_single_item() -> None:
    same = np.ones((4, 3), np.float32)
    assert np.isnan(contrasts(same, same, np.ones(4, bool))[0]).all()
    pair = np.eye(2, 3, dtype=np.float32)  # one other item to be paired with
    assert np.isnan(contrasts(pair, pair, np.ones(2, bool))[0]).all()
    alone, mean = contrasts(same, same, np.array([True, False, False, False]))
    assert np.isnan(alone).all() and math.isnan(mean)


def test_swapped_pictures_rank_first_whatever_the_view_and_however_many_are_missing() -> None:
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(600, 16)).astype(np.float32)
    images = topics + 0.3 * rng.normal(size=topics.shape).astype(np.float32)
    images[[3, 40]] = images[[40, 3]]
    columns = []
    for noise in (0.3, 1.5):
        texts = topics + noise * rng.normal(size=topics.shape).astype(np.float32)
        there = rng.random(len(texts)) < 0.8
        there[3], there[40] = True, True
        columns.append(contrasts(images, texts, there)[0])
    scores = mismatch_scores(np.stack(columns, axis=1))
    assert set(np.argsort(-np.nan_to_num(scores, nan=-1))[:2]) == {3, 40}
    repeated = contrasts(images, texts, there)[0]
    np.testing.assert_array_equal(repeated, columns[1])


def test_mismatch_counts_what_lies_below_a_views_median_in_its_own_spread() -> None:
    contrast = np.array([[1, 10], [2, 20], [3, 30], [4, NAN], [5, NAN], [NAN, NAN]], np.float32)
    scores = mismatch_scores(contrast)
    one, two = 2 / 1.4826, 10 / (1.4826 * 10)  # medians 3 and 20, deviations 1 and 10
    expected = [((one**2 + two**2) / 2) ** 0.5, (1 / 1.4826**2 / 2) ** 0.5, 0, 0, 0, NAN]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_a_distribution_counts_what_is_missing() -> None:
    facts = distribution(np.array([0.1, NAN, 0.3], np.float32))
    assert (facts["compared"], facts["missing"]) == (2, 1)
    assert facts["mean"] == pytest.approx(0.2) and facts["quantiles"]["0.5"] == pytest.approx(0.2)
    assert distribution(np.array([NAN], np.float32)) == {
        "compared": 0,
        "missing": 1,
        "mean": None,
        "std": None,
        "quantiles": {},
    }
