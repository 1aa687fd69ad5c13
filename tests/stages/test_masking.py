import numpy as np
import polars as pl
import pytest

from mmrec.features.errors import InputError
from mmrec.features.store import FeatureStore, FeatureStoreWriter, ShardRows
from mmrec.recsys.config import FusionConfig, MaskConfig
from mmrec.stages.dataset import load_modalities
from mmrec.stages.masking import masked_items, modality_of, read_view

IDS = pl.Series("item_id", [f"i{n}" for n in range(9)])


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    everywhere, rows = np.ones(9, bool), np.arange(1, 19, dtype=np.float32).reshape(9, 2)
    views = {
        "image.full": rows,
        "image.center": rows,
        "text.title": -rows,
        "joint": 2 * rows,
        "joint.text": -2 * rows,
        "clip.large": np.ones((9, 3), np.float32),
    }
    writer = FeatureStoreWriter(tmp_path, {})
    vectors = {view: (values, everywhere) for view, values in views.items()}
    writer.write_shard(0, ShardRows(IDS, ["x"] * 9, vectors, {}))
    writer.commit({"request": {}})
    return FeatureStore(tmp_path)


def test_the_same_items_lose_a_modality_whatever_their_order() -> None:
    half, more = MaskConfig(modality="image"), MaskConfig(modality="image", share=0.8)
    masked = masked_items(IDS, half)
    assert masked.sum() == 4  # floor of half of 9
    assert (masked_items(IDS.reverse(), half)[::-1] == masked).all()
    assert masked_items(IDS, more)[masked].all()
    assert (masked_items(IDS, MaskConfig(modality="text")) != masked).any()
    assert (masked_items(IDS, MaskConfig(modality="image", seed=1)) != masked).any()


def test_rows_become_absent_or_zero_or_those_of_another_view(store) -> None:
    mask = MaskConfig(modality="image", replace={"joint": "text.title"})
    lost = masked_items(IDS, mask)
    full, _ = store.read("image.full")
    values, present = read_view(store, "image.center", IDS, mask, lost)
    assert (present == ~lost).all()
    assert not values[lost].any()
    assert (values[~lost] == full[~lost]).all()
    zeroed, present = read_view(store, "image.full", IDS, mask.model_copy(update={"rows": "zero"}), lost)
    assert present.all()
    assert not zeroed[lost].any()
    assert (read_view(store, "text.title", IDS, mask, lost)[0] == -full).all()
    joint, present = read_view(store, "joint", IDS, mask, lost)
    assert present.all()
    assert (joint == np.where(lost[:, None], -full, 2 * full)).all()
    hidden, _ = read_view(store, "joint", IDS, MaskConfig(modality="image"), lost)
    assert (hidden == np.where(lost[:, None], -2 * full, 2 * full)).all()
    assert (read_view(store, "joint.text", IDS, mask, lost)[0] == -2 * full).all()
    text = MaskConfig(modality="text")
    assert not read_view(store, "joint.text", IDS, text, lost)[1][lost].any()


def test_models_train_on_masked_views_fused_ones_too(store) -> None:
    mask = MaskConfig(modality="text")
    lost = masked_items(IDS, mask)
    views = load_modalities(store, IDS, ["image.full", "text.title"], mask=mask)
    assert (views["text.title"].present.numpy() == ~lost).all()
    assert views["image.full"].present.all()
    fusion = FusionConfig(kind="mean", views=("image.full", "text.title"))
    fused = load_modalities(store, IDS, None, fusion, mask)["fused"]
    rows = store.read("image.full")[0].astype(np.float32)
    assert np.allclose(fused.values.numpy(), np.where(lost[:, None], rows, 0))


def test_a_view_of_neither_pictures_nor_texts_is_a_modality_by_its_whole_name(store) -> None:
    names = {view: modality_of(view) for view in store.views}
    assert names == {
        "image.full": "image", "image.center": "image", "text.title": "text",
        "joint": "joint", "joint.text": "text", "clip.large": "clip.large",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"modality": "imge"}, "takes nothing .* there are image, text, joint, clip.large"),
        ({"modality": "image", "replace": {"jont": "joint.text"}}, "no view 'jont' .did you mean 'joint'"),
        ({"modality": "image", "replace": {"joint": "text.titel"}}, "no view 'text.titel'"),
        ({"modality": "image", "replace": {"joint": "clip.large"}}, "'joint' has 2 dimensions .* has 3"),
    ],
)
def test_a_mask_that_cannot_work_is_refused(store, mask, message) -> None:
    with pytest.raises(InputError, match=message):
        load_modalities(store, IDS, None, mask=MaskConfig(**mask))


def test_a_joint_view_that_keeps_what_others_lose_is_warned_of(store, caplog) -> None:
    load_modalities(store, IDS, ["image.full", "joint"], mask=MaskConfig(modality="image"))
    load_modalities(store, IDS, ["text.title"], mask=MaskConfig(modality="text"))
    assert not caplog.messages
    load_modalities(store, IDS, ["text.title", "joint"], mask=MaskConfig(modality="text"))
    assert "'joint' keeps the text of the masked items" in caplog.text
