import numpy as np
import pytest

from mmrec.features.pretraining.masks import hide_patches, hide_tokens


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("grid", "ratio", "hidden"), [(14, 0.4, 78), (4, 0.5, 8), (2, 0.01, 1), (2, 0.99, 3)]
)
def test_every_mask_hides_the_same_number_of_patches(grid, ratio, hidden) -> None:
    masks = hide_patches(rng(), 50, grid, ratio)
    assert masks.shape == (50, grid**2) and masks.dtype == bool
    assert set(masks.sum(axis=1)) == {hidden}
    assert len(np.unique(masks, axis=0)) > 1


def test_hidden_patches_lie_in_blocks() -> None:
    def neighbours_alike(masks: np.ndarray) -> float:
        grids = masks.reshape(-1, 14, 14)
        return float((grids[:, :, 1:] == grids[:, :, :-1]).mean())

    blocks = hide_patches(rng(), 100, 14, 0.4)
    scattered = rng().permuted(blocks, axis=1)
    assert neighbours_alike(blocks) > 0.75 > 0.6 > neighbours_alike(scattered)


def test_no_place_is_hidden_much_more_often_than_the_border_must_be_less() -> None:
    share = hide_patches(rng(), 2000, 4, 0.5).mean(axis=0)
    assert share.min() > 0.3 and share.max() < 0.75


def test_tokens_are_hidden_by_their_own_ratio_at_least_one_of_any_text() -> None:
    hidden = hide_tokens(rng(), [20, 20, 2, 1, 0], [0.5, 0.15, 0.15, 0.5, 0.5])
    assert [len(places) for places in hidden] == [10, 3, 1, 1, 0]
    assert all((np.diff(places) > 0).all() for places in hidden)
    assert hidden[0].max() < 20


def test_no_items_have_no_masks() -> None:
    assert hide_patches(rng(), 0, 4, 0.5).shape == (0, 16)
