"""Pre-training as a stage; this file is also the program that each of two processes runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders.beit3_checkpoint import load_beit3
from mmrec.features.errors import InputError
from mmrec.features.pretraining.config import AlignConfig
from mmrec.features.pretraining.model import initial_model, initial_sizes, load_start
from mmrec.features.store import FeatureStore
from mmrec.recsys import parallel
from mmrec.recsys.errors import DivergedError
from mmrec.recsys.team import Team
from mmrec.stages.align import align
from mmrec.stages.encoder_run import EncoderReport
from mmrec.stages.encoder_training import EncoderTraining, learning_rate
from mmrec.stages.extract import extract

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
SMALL = {
    "width": 16, "layers": 2, "heads": 2, "image_size": 16, "patch_size": 4, "vocabulary": 64,
    "context_length": 12, "batch_size": 9, "epochs": 2, "checkpoint_every": 0, "device": "cpu",
}  # fmt: skip


def write_catalogue(folder: Path, n_items: int = 30) -> CatalogConfig:
    """Coloured pictures with a text that names the colour; one item without a picture, one with a broken one,
    one without a text."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(n_items):
        name = list(COLOURS)[n % 4]
        pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
        rows.append({"item_id": n, "image": f"{n}.png", "title": f"a {name} thing", "made": f"in {n % 7}"})
    rows[3]["image"] = None
    (folder / "4.png").write_bytes(b"no picture")
    rows[5]["title"] = rows[5]["made"] = None
    pl.DataFrame(rows).write_csv(folder / "items.csv")
    return CatalogConfig(items=str(folder / "items.csv"), image="image")


def run(folder: Path, encoder: str = "encoder", team: Team | None = None, **settings: Any) -> EncoderReport:
    catalog = CatalogConfig(items=str(folder / "items.csv"), image="image")
    config = AlignConfig(**({"start": settings["start"]} if "start" in settings else SMALL) | settings)
    return align(catalog, config, ExtractConfig(), folder / encoder, team)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def shop(tmp_path) -> Path:
    write_catalogue(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, EncoderReport]:
    """A shop with an encoder that was trained long enough to tell colours."""
    folder = tmp_path_factory.mktemp("trained")
    write_catalogue(folder, 60)
    return folder, run(folder, epochs=20, learning_rate=5e-3)


def test_losses_fall_and_held_out_pairs_find_each_other(trained) -> None:
    _, report = trained
    assert (report.items, report.held_out, report.failed) == (60, 6, 1)
    assert (report.without_image, report.without_text) == (2, 1)
    for name in ("mlm", "mim", "contrastive", "joint"):
        assert report.last["held_out"][name] < report.first["held_out"][name]
    found = report.last["retrieval"]
    assert found["text_recall@1"] > 2 * found["chance@1"]


def test_what_could_not_be_read_is_listed(trained) -> None:
    folder, report = trained
    ledger = pl.read_parquet(folder / "encoder" / report.ledger)
    assert ledger["item_id"].to_list() == [4] and ledger["reason"].to_list() == ["not_an_image"]


def test_nothing_but_the_encoder_is_left(trained) -> None:
    folder, _ = trained
    assert [path.name for path in folder.glob(".*")] == []


def test_extraction_takes_the_encoder_as_it_is(trained) -> None:
    folder, _ = trained
    config = ExtractConfig(
        encoder=f"beit3:{folder / 'encoder'}", joint="{title}. {made}", joint_blanked=True,
        text_views={"title": "{title}"}, max_failures=1, device="cpu",
    )  # fmt: skip
    extract(CatalogConfig(items=str(folder / "items.csv"), image="image"), config, folder / "features")
    store = FeatureStore(folder / "features")
    assert store.manifest["space"]["encoder"]["context_length"] == 12
    for view, lacking in {"joint": [], "joint.image": [3, 4], "joint.text": [5], "text.title": [5]}.items():
        vectors, present = store.read(view)
        assert np.flatnonzero(~present).tolist() == lacking and np.isfinite(vectors).all()
    fit = store.similarity("title")
    assert np.isfinite(fit).sum() == 57


def test_a_second_run_reuses_the_encoder_and_other_settings_do_not(shop) -> None:
    first = run(shop)
    before = weights(shop / "encoder")
    again = run(shop, device="auto", checkpoint_every=9)
    assert again.up_to_date and again.last == first.last
    changed = run(shop, seed=1)
    assert changed.changed == ["settings"] and weights(shop / "encoder") != before
    (shop / "7.png").unlink()
    assert run(shop, seed=1).changed == ["catalogue"]


def interrupt(monkeypatch, after: int) -> None:
    """Stop the next run after so many steps, and let those after it through."""
    step, done = EncoderTraining.step, []

    def stop(self: EncoderTraining) -> None:
        if len(done) == after:
            done.append(0)
            raise KeyboardInterrupt
        done.append(0)
        step(self)

    monkeypatch.setattr(EncoderTraining, "step", stop)


@pytest.mark.parametrize("after", [1, 3, 5])  # of 2 epochs with 3 steps each
def test_an_interrupted_run_ends_bit_for_bit_as_an_undisturbed_one(shop, monkeypatch, after) -> None:
    settings = {"patience": 1, "accumulate": 2}
    undisturbed = run(shop, "undisturbed", **settings)
    assert len(list(shop.glob(".align-*"))) == 0
    interrupt(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        run(shop, **settings)
    assert len(list(shop.glob(".align-*"))) == 1
    (shop / "0.png").touch()
    resumed = run(shop, **settings)
    assert weights(shop / "encoder") == weights(shop / "undisturbed")
    assert (resumed.last, resumed.epochs) == (undisturbed.last, undisturbed.epochs)


def test_leftovers_of_a_run_with_other_settings_are_removed(shop, monkeypatch) -> None:
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    run(shop, seed=1)
    assert not list(shop.glob(".align-*"))


def test_what_a_kill_left_half_written_is_removed(shop, monkeypatch) -> None:
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    (half,) = [folder / ".checkpoint.safetensors.0a1b2c3d.tmp" for folder in shop.glob(".align-*")]
    half.write_bytes(b"half")
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run(shop)
    assert half.parent.is_dir() and not half.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"mask_both": True},
        {"mask_contrast": True},
        {"objectives": {"contrastive": 0, "joint": 0}},
        {"objectives": {"mlm": 0, "mim": 0}},
        {"objectives": {"mlm": 0}, "mask_both": True},
        {"precision": "bf16"},
        {"mim_target": "teacher", "teacher": "tiny"},
        {"text": "{title}", "blank": 0.5},
    ],
    ids=str,
)
def test_other_ways_to_train(shop, settings) -> None:
    report = run(shop, **settings)
    weights = {"mlm": 1, "mim": 1, "contrastive": 1, "joint": 1, **settings.get("objectives", {})}
    named = {name for name, weight in weights.items() if weight} | {"loss"}
    assert report.last["held_out"].keys() == named
    model = load_beit3(shop / "encoder")
    outputs = {"teacher": 128}.get(settings.get("mim_target", ""), 3 * 4 * 4) if weights["mim"] else 0
    assert model.config.mim_outputs == outputs
    assert model.config.retrieval_heads == bool(weights["contrastive"])


def test_codes_are_predicted_patch_by_patch(shop) -> None:
    np.save(shop / "codes.npy", np.arange(30 * 16).reshape(30, 16) % 8)
    report = run(shop, mim_target="codes", codes=str(shop / "codes.npy"), visual_codes=8)
    assert report.first["held_out"]["mim"] == pytest.approx(np.log(8), abs=0.6)
    np.save(shop / "codes.npy", np.arange(30 * 9).reshape(30, 9) % 8)
    with pytest.raises(InputError, match=r"shape \(30, 9\); expected one for each patch"):
        run(shop, mim_target="codes", codes=str(shop / "codes.npy"), visual_codes=8)


@pytest.mark.parametrize("settings", [{"mask_both": True}, {"objectives": {"mlm": 0}}], ids=str)
def test_pieces_that_lack_what_is_asked_of_others_are_passed_over(shop, settings) -> None:
    """Few items have both, so that some pieces hold images alone and some no pair."""
    items = pl.read_csv(shop / "items.csv").with_row_index()
    sixth = pl.col("index") % 6
    kept = [pl.when(sixth < 3).then(pl.col("image")), pl.when(sixth > 1).then(pl.col("title"))]
    items.select("item_id", *kept).write_csv(shop / "items.csv")
    report = run(shop, batch_size=8, accumulate=4, **settings)
    assert np.isfinite(report.last["held_out"]["loss"])


def test_recomputed_layers_change_nothing(shop) -> None:
    run(shop, "plain", epochs=1)
    run(shop, "recomputed", epochs=1, gradient_checkpointing=True)
    plain, recomputed = (load_file(shop / name / "model.safetensors") for name in ("plain", "recomputed"))
    assert all(torch.allclose(plain[key], recomputed[key], atol=1e-6) for key in plain)


def test_pieces_of_a_batch_add_up_to_it(shop) -> None:
    settings = {"objectives": {"contrastive": 0, "joint": 0}, "epochs": 1}
    run(shop, "whole", **settings)
    run(shop, "pieces", accumulate=3, **settings)
    whole, pieces = (load_file(shop / name / "model.safetensors") for name in ("whole", "pieces"))
    assert all(torch.allclose(whole[key], pieces[key], atol=1e-4) for key in whole)


def test_a_checkpoint_to_start_from_brings_sizes_tokenizer_and_parameters(trained, tmp_path) -> None:
    folder, _ = trained
    config = AlignConfig(start=str(folder / "encoder"), image_size=24, mim_target="codes", codes="c.npy")
    start = load_start(config)
    assert start is not None
    model = initial_model(config, initial_sizes(config, start, start.config.vocabulary), start)
    assert model.config.image_size == 24 and model.config.mim_outputs == 8192
    assert torch.equal(model.mlm_head.weight, start.mlm_head.weight)
    write_catalogue(tmp_path)
    report = run(tmp_path, start=str(folder / "encoder"), epochs=1, batch_size=9, learning_rate=1e-5)
    assert report.first["held_out"]["mlm"] < 0.7 * np.log(start.config.vocabulary)
    assert (tmp_path / "encoder" / "beit3.spm").read_bytes() == (
        folder / "encoder" / "beit3.spm"
    ).read_bytes()


def test_a_catalogue_of_one_modality_trains_on_it_alone(shop) -> None:
    catalog = CatalogConfig(items=str(shop / "items.csv"))
    config = AlignConfig(**SMALL)
    report = align(catalog, config, ExtractConfig(), shop / "texts", None)
    assert report.last["held_out"].keys() == {"loss", "mlm"} and report.last["retrieval"] == {}
    fresh = initial_model(config, load_beit3(shop / "texts").config, None)
    before, after = fresh.state_dict(), load_beit3(shop / "texts").state_dict()
    for untouched in ("beit3.vision_embed.proj", "vision_head", "language_head", "mim_head"):
        assert torch.equal(before[f"{untouched}.weight"], after[f"{untouched}.weight"])
    with pytest.raises(InputError, match="has no images, so none of"):
        align(catalog, AlignConfig(**SMALL, objectives={"mlm": 0}), ExtractConfig(), shop / "none")


def test_pictures_alone_are_enough(shop) -> None:
    pl.read_csv(shop / "items.csv").select("item_id", "image").write_csv(shop / "items.csv")
    assert run(shop).last["held_out"].keys() == {"loss", "mim"}


def test_what_nothing_can_be_learned_from_is_said_before_training(shop, caplog) -> None:
    for picture in shop.glob("*.png"):
        picture.unlink()
    for objectives in ({"mlm": 0}, {"mlm": 0, "contrastive": 0, "joint": 0}):
        with pytest.raises(InputError, match=r"of 30 items 0 have a picture that can be read, 29 a text"):
            run(shop, objectives=objectives)
    assert run(shop).last["held_out"].keys() == {"loss", "mlm"}
    assert "29 pictures cannot be read, items count as without: missing 29" in caplog.text
    assert "no item has what mim or contrastive or joint is learned from" in caplog.text


def test_codes_of_no_item_are_nothing_to_predict(shop) -> None:
    np.save(shop / "codes.npy", np.full((30, 16), -1))
    settings = {"mim_target": "codes", "codes": str(shop / "codes.npy")}
    with pytest.raises(InputError, match="nothing for mim to learn from"):
        run(shop, objectives={"mlm": 0, "contrastive": 0, "joint": 0}, **settings)


def test_a_run_that_diverges_says_so_and_writes_nothing(shop) -> None:
    with pytest.raises(DivergedError, match=r"diverged after \d+ steps .*Try a lower align.learning_rate"):
        run(shop, learning_rate=1e30, warmup=0, clip=1e30, epochs=9)
    assert not (shop / "encoder").exists()


def test_a_last_step_that_diverges_is_found_on_the_held_out_items(shop) -> None:
    with pytest.raises(DivergedError, match="held-out loss nan"):
        run(shop, learning_rate=1e30, warmup=0, batch_size=64, epochs=1)
    assert not (shop / "encoder").exists()


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    config = AlignConfig(learning_rate=1.0, warmup=0.2)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5) and 0 < rates[9] < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mim_target": "teacher"}, "teacher is not set; name an encoder"),
        ({"codes": "codes.npy"}, 'codes is set, but mim_target is "pixels"'),
        ({"objectives": {"mlm": 0, "mim": 0, "contrastive": 0, "joint": 0}}, "nothing to learn"),
        ({"objectives": {"contrastive": 0}}, "set it to 0 too"),
        ({"width": 100, "heads": 3}, "cannot be divided among 3 heads"),
        ({"image_size": 60}, "not a multiple"),
        ({"start": "x.pth", "layers": 3}, "layers: the checkpoint in start has its own"),
        ({"batch_size": 4, "accumulate": 3}, "no two items to contrast"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        AlignConfig(**settings)


def program(folder: Path) -> None:
    """What one of two processes does."""
    parallel.GRACE = 0.0
    with parallel.team("cpu") as team:
        report = run(folder, "pair", team, epochs=3, accumulate=2)
        (folder / f"report-{team.rank}.json").write_text(json.dumps(report.facts()))


def test_two_processes_train_the_encoder_of_one(shop) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(shop)], env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in running:
            _, errors = process.communicate(timeout=90)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    alone = run(shop, "alone", epochs=3, accumulate=2)
    reports = [json.loads((shop / f"report-{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["last"] == reports[1]["last"]
    assert reports[0]["last"]["held_out"] == pytest.approx(alone.last["held_out"], abs=1e-4)
    one, two = (load_file(shop / name / "model.safetensors") for name in ("alone", "pair"))
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one)


if __name__ == "__main__":
    program(Path(sys.argv[1]))
