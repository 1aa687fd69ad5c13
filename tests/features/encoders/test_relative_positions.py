import numpy as np
import pytest
import torch

from mmrec.features.encoders.relative_positions import (
    image_index,
    joint_index,
    resize_distances,
    table_rows,
    text_index,
)


def test_rows_of_the_published_table() -> None:
    """14 x 14 patches and texts of up to 196 tokens, of which 40 are used."""
    assert table_rows(14, 196) == 1126
    image, text, joint = image_index(14), text_index(40, 14, 196), joint_index(40, 14, 196)
    assert image[1, 1] == image[8, 8] == 13 * 27 + 13  # a patch and itself
    assert image[1, 2] == image[1, 1] - 1 and image[15, 1] == image[1, 1] + 27  # query minus key; row first
    assert (image[0, 5], image[5, 0], image[0, 0]) == (729, 730, 731)
    assert image[1:, 1:].unique().tolist() == list(range(729))
    assert text[3, 3] == 734 + 194 and text[3, 4] == text[3, 3] + 1  # key minus query
    assert (text[0, 5], text[5, 0], text[0, 0]) == (1123, 1124, 1125)
    torch.testing.assert_close(joint[:40, :40], text)
    torch.testing.assert_close(joint[40:, 40:], image)
    assert joint[:40, 40:].unique() == 732 and joint[40:, :40].unique() == 733


def test_a_table_of_another_grid_keeps_all_but_the_distances() -> None:
    table = torch.randn(table_rows(4, 6), 5, generator=torch.Generator().manual_seed(0))
    resized = resize_distances(table, 4, 6)
    assert resized.shape == (table_rows(6, 6), 5) and resized.dtype == torch.float32
    torch.testing.assert_close(resized[11**2 :], table[7**2 :])


def test_near_distances_keep_their_bias_and_the_farthest_goes_to_the_farthest() -> None:
    known = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    table = torch.cat([known.flatten(), torch.zeros(table_rows(4, 6) - 49)])[:, None]
    grid = resize_distances(table, 4, 6)[:121].reshape(11, 11)
    near, corner = known[2:5, 2:5], known[::6, ::6]
    torch.testing.assert_close(grid[4:7, 4:7], near, atol=1e-5, rtol=0)
    torch.testing.assert_close(grid[::10, ::10], corner, atol=1e-5, rtol=0)


def test_a_linear_bias_is_stretched_by_growing_steps() -> None:
    """Distances 0, 1, 2, 3 lie at 0, 1, 1 + q, 1 + q + q^2 = 5: q is (sqrt(17) - 1) / 2."""
    q = (17**0.5 - 1) / 2
    places = np.array([0, 1, 1 + q, 5])
    signed = torch.from_numpy(np.concatenate([-places[:0:-1], places]))  # the bias of a distance: its place
    known = signed.float()[:, None].expand(7, 7).reshape(-1, 1)
    table = torch.cat([known, torch.zeros(table_rows(4, 6) - 49, 1)])
    grid = resize_distances(table, 4, 6)[:121].reshape(11, 11)
    expected = torch.arange(-5.0, 6.0)[:, None].expand(11, 11)
    torch.testing.assert_close(grid, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), [(4, 2), (2, 3), (1, 2)])
def test_smaller_grids_and_tiny_tables(old: int, new: int) -> None:
    known = torch.arange(float((2 * old - 1) ** 2)).reshape(2 * old - 1, -1)
    table = torch.cat([known.flatten(), torch.zeros(table_rows(old, 6) - known.numel())])[:, None]
    grid = resize_distances(table, old, new)[: (2 * new - 1) ** 2].reshape(2 * new - 1, -1)
    if new < old:  # the distances that are left
        torch.testing.assert_close(grid, known[old - new : new - old, old - new : new - old])
    else:  # farther than known: as the farthest
        middle = slice(new - old, old - new)
        torch.testing.assert_close(grid[middle, middle], known)
        torch.testing.assert_close(grid[0, 0], known[0, 0], atol=1e-6, rtol=0)
