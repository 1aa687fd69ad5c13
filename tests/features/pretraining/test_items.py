import numpy as np
import pytest

from mmrec.features.pretraining.config import AlignConfig
from mmrec.features.pretraining.items import (
    Items,
    draw_batch,
    epoch_batches,
    split_held_out,
    step_generator,
)


def items(n: int = 40) -> Items:
    """Every fourth item without an image, every fifth without a text."""
    has_image = np.arange(n) % 4 > 0
    tokens = [[] if row % 5 == 0 else [4, 5, 6, row] for row in range(n)]
    numbers = np.arange(n)
    return Items(np.zeros((n, 3, 8, 8), np.uint8), has_image, tokens, numbers, numbers)


def draw(**settings):
    return draw_batch(items(), np.arange(40), 4, AlignConfig(**settings), np.random.default_rng(0))


def test_items_are_asked_for_what_they_have() -> None:
    batch, rows = draw(blank=0.0), np.arange(40)
    assert (batch.mim == (rows % 4 > 0)).all() and (batch.mlm == (rows % 5 > 0)).all()
    assert (batch.no_image == (rows % 4 == 0)).all() and (batch.no_text == (rows % 5 == 0)).all()
    assert (batch.paired == (batch.mim & batch.mlm)).all()


def test_more_of_a_text_is_hidden_beside_an_image() -> None:
    batch = draw(blank=0.0, text_mask=0.75, text_mask_unpaired=0.25)
    lengths = np.array([len(hidden) for hidden in batch.hidden_tokens])
    assert set(lengths[batch.paired]) == {3} and set(lengths[batch.mlm & batch.no_image]) == {1}


def test_blank_hides_a_modality_of_complete_items_and_never_both() -> None:
    batch = draw(blank=0.9)
    assert (batch.no_image & batch.paired).any() and (batch.no_text & batch.paired).any()
    assert not (batch.no_image & batch.no_text & batch.paired).any()
    assert (batch.mlm & batch.no_text).any()  # the pass of mlm shows the text
    both = draw(blank=0.9, mask_both=True)  # one pass for both does not
    assert not (both.mlm & both.no_text).any() and not (both.mim & both.no_image).any()


def test_totals_count_what_is_predicted() -> None:
    batch = draw()
    hidden = sum(len(places) for places, asked in zip(batch.hidden_tokens, batch.mlm, strict=True) if asked)
    assert batch.counts(of_image=False) == {
        "mlm": hidden, "mim": 6 * 30, "contrastive": 24, "joint": 24
    }  # fmt: skip
    assert batch.counts(of_image=True)["mim"] == 30
    assert len(batch.part(slice(3, 9))) == 6


def test_an_epoch_holds_every_row_once_in_batches_of_like_size() -> None:
    batches = epoch_batches(np.arange(100, 165), 32, seed=0, epoch=1)
    assert sorted(map(len, batches)) == [21, 22, 22]
    assert sorted(np.concatenate(batches).tolist()) == list(range(100, 165))
    assert not np.array_equal(batches[0], epoch_batches(np.arange(100, 165), 32, seed=0, epoch=2)[0])


def test_what_a_step_draws_follows_from_its_number() -> None:
    drawn = [step_generator(0, *place).random() for place in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert drawn[0] == drawn[1] and len(set(drawn)) == 3


@pytest.mark.parametrize(("n", "share", "held_out"), [(100, 0.1, 10), (2, 0.9, 1), (3, 0.01, 1)])
def test_some_items_are_held_out_and_some_are_not(n, share, held_out) -> None:
    train, kept = split_held_out(n, share, seed=0)
    assert len(kept) == held_out
    assert sorted([*train, *kept]) == list(range(n))


def test_items_with_the_same_text_or_image_are_the_same() -> None:
    groups = [np.array([0, 0, 1]), np.array([0, 1, 1])]
    three = Items(np.zeros((3, 3, 8, 8), np.uint8), np.ones(3, bool), [[4], [5], [5]], *groups)
    rows = np.arange(3)
    assert three.same(rows, rows).tolist() == [[True, True, False], [True, True, True], [False, True, True]]
