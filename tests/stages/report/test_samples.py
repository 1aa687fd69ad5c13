import base64
import io

import numpy as np
import polars as pl
from PIL import Image

from mmrec.features.catalog import read_catalog
from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.recsys.config import EvaluateConfig
from mmrec.recsys.evaluation import exact_search
from mmrec.recsys.interactions import Dataset
from mmrec.recsys.pairs import Pairs
from mmrec.stages.report.items import Picture
from mmrec.stages.report.nearest import nearest_rows
from mmrec.stages.report.sample_users import BEST, TYPICAL, WORST, choose, sample_users
from mmrec.stages.report.thumbnails import SIDE, encoded, thumbnails, unpadded


def test_best_typical_and_worst_users_are_chosen_and_nobody_twice() -> None:
    values = np.array([0.0, 1.0, 0.4, 0.0, 1.0, 0.2, 0.1])  # the median of the hits is 0.4
    held_out = np.array([1, 1, 1, 5, 2, 3, 1])
    assert choose(values, held_out, 3) == [(BEST, 4), (TYPICAL, 2), (WORST, 3)]
    assert choose(values, held_out, 5) == [(BEST, 4), (BEST, 1), (TYPICAL, 2), (TYPICAL, 5), (WORST, 3)]
    assert len(choose(values, held_out, 60)) == 7
    assert choose(values * 0, held_out, 3) == [(BEST, 3), (WORST, 5)]
    assert choose(values[:0], held_out[:0], 3) == []


def test_a_users_past_is_newest_first_and_hits_are_marked() -> None:
    pairs = {"train": ([0, 0, 1], [0, 1, 0]), "validation": ([0], [2]), "test": ([0, 0, 1], [3, 4, 4])}
    splits = {name: Pairs(*map(np.array, parts)) for name, parts in pairs.items()}
    ids = pl.Series(["u", "v"]), pl.Series("item_id", list("abcdef"))
    dataset = Dataset(*ids, splits, np.array([], int), {}, train_times=np.array([10, 20, 10]))
    scores = np.array([[9, 8, 7, 6, 0, 5], [0, 0, 0, 0, 1, 0]], np.float32)
    per_user = pl.DataFrame({"user_id": ["u", "v"], "split": "test", "ndcg@2": [0.5, 1.0]})
    search = exact_search(np.eye(2, dtype=np.float32), np.ascontiguousarray(scores.T))
    config = EvaluateConfig(mask="train+validation")
    found = sample_users(per_user, "test", ["ndcg@2"], dataset, search, config, count=2, length=2)
    assert [(user.kind, user.user_id) for user in found] == [(BEST, "v"), (TYPICAL, "u")]
    user = found[1]
    assert (user.had, user.n_had, user.n_held_out) == (["b", "a"], 2, 2)
    assert user.listed == [("d", True), ("f", False)]  # neither history nor validation
    assert user.missed == ["e"]


def test_nearest_rows_agree_with_sorting_all_cosines(monkeypatch) -> None:
    monkeypatch.setattr("mmrec.stages.report.nearest._BLOCK", 7)
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 5)).astype(np.float16)
    present = generator.random(40) > 0.3
    rows = np.flatnonzero(present)[:3]
    found, cosines = nearest_rows(vectors, present, rows, 4)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    for row, near, cosine in zip(rows, found, cosines, strict=True):
        every = np.where(present & (np.arange(40) != row), unit @ unit[row], -np.inf)
        assert near.tolist() == np.argsort(-every)[:4].tolist()
        assert np.allclose(cosine, every[near], atol=1e-3)
    few, _ = nearest_rows(vectors[:2], np.array([True, True]), np.array([0]), 4)
    assert few.tolist() == [[1, -1, -1, -1]]


def test_pictures_keep_their_shape_and_failures_their_reason(tmp_path, png) -> None:
    Image.new("RGB", (300, 100), (0, 0, 0)).save(tmp_path / "wide.png")
    (tmp_path / "cut.png").write_bytes(png((1, 2, 3))[:40])
    rows = {"item_id": [1, 2, 3, 4], "image": ["wide.png", "cut.png", None, "gone.png"]}
    pl.DataFrame(rows).write_csv(tmp_path / "items.csv")
    catalog = read_catalog(CatalogConfig(items=str(tmp_path / "items.csv"), image="image"))
    found = thumbnails(catalog, ["4", "3", "2", "1", "99"], ExtractConfig(workers=1))
    wide = found.pop("1")
    assert isinstance(wide, Picture)
    assert (wide.width, wide.height) == (SIDE, SIDE // 3)
    image = Image.open(io.BytesIO(base64.b64decode(wide.source.partition(",")[2])))
    assert image.format == "JPEG" and image.size == (SIDE, SIDE // 3)
    assert found == {"2": "picture truncated", "3": "no picture", "4": "picture missing"}


def test_black_and_white_edges_are_no_padding() -> None:
    picture = np.zeros((3, 4, 2), np.uint8)
    picture[:, :, 1] = 255
    on_black, on_white = (np.pad(picture, ((0, 0), (0, 0), (1, 1)), constant_values=n) for n in (0, 255))
    assert (unpadded(on_black, on_white) == picture).all()


def test_a_picture_of_noise_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    assert len(encoded(noise).source) < 24_000
