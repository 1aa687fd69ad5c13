"""Fine-tuning as a stage; this file is also the program that each of two processes runs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.errors import InputError
from mmrec.features.finetuning.config import FinetuneConfig
from mmrec.features.store import FeatureStore
from mmrec.recsys import parallel
from mmrec.recsys.team import Team
from mmrec.stages.encoder_run import EncoderReport
from mmrec.stages.encoder_training import EncoderTraining
from mmrec.stages.extract import extract
from mmrec.stages.finetune import finetune

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
WEIGHTS = "model.safetensors"
SMALL = {"epochs": 2, "batch_size": 12, "learning_rate": 1e-3, "checkpoint_every": 0, "device": "cpu"}


def write_shop(folder: Path, n_items: int = 40) -> None:
    """Pictures of two colours with a text that names them; one item without a picture, one without a text."""
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    rows = []
    for n in range(n_items):
        first, second = names[n % 4], names[n // 4 % 4]
        pixels = np.zeros((16, 16, 3))
        pixels[:, :8], pixels[:, 8:] = COLOURS[first], COLOURS[second]
        noisy = np.clip(pixels + rng.normal(0, 20, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{n}.png")
        rows.append({"item_id": n, "image": f"{n}.png", "title": f"{first} beside {second}, number {n}"})
    rows[3]["image"], rows[5]["title"] = None, None
    pl.DataFrame(rows).write_csv(folder / "items.csv")


def write_clip(folder: Path) -> None:
    """A random CLIP, so small that a step takes milliseconds."""
    vision = {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 24, "vocab_size": 1024, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**config).state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))


def run(folder: Path, encoder: str = "encoder", team: Team | None = None, **settings: Any) -> EncoderReport:
    catalog = CatalogConfig(items=str(folder / "items.csv"), image="image")
    start = f"open_clip:small/{folder / 'clip'}"
    config = FinetuneConfig(**{"start": start, "text": "{title}", **SMALL, **settings})
    return finetune(catalog, config, ExtractConfig(), folder / encoder, team)


def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


@pytest.fixture
def shop(tmp_path) -> Path:
    write_shop(tmp_path)
    write_clip(tmp_path / "clip")
    return tmp_path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, EncoderReport]:
    folder = tmp_path_factory.mktemp("tuned")
    write_shop(folder, 120)
    write_clip(folder / "clip")
    return folder, run(folder, epochs=15, learning_rate=3e-3, batch_size=30)


def test_held_out_pairs_find_each_other_better_afterwards(tuned) -> None:
    folder, report = tuned
    before, after = report.tested
    assert (report.items, report.held_out, report.without_image, report.without_text) == (120, 24, 1, 1)
    assert after["text_recall@1"] > max(2 * before["text_recall@1"], 2 * after["chance@1"])
    assert before["chance@10"] == after["chance@10"] == pytest.approx(10 / 12)
    account = json.loads((folder / "encoder" / "finetune.json").read_text())
    recalls = [
        sum(value for name, value in record["retrieval"].items() if "recall" in name)
        for record in account["history"][1:]
    ]
    assert report.kept_epoch == 1 + int(np.argmax(recalls))
    assert not list(folder.glob(".*"))


def test_extraction_takes_the_encoder_as_it_is(tuned) -> None:
    folder, _ = tuned
    config = ExtractConfig(
        encoder=f"open_clip:small/{folder / 'encoder'}", text_views={"title": "{title}"}, device="cpu"
    )
    extract(CatalogConfig(items=str(folder / "items.csv"), image="image"), config, folder / "features")
    fit = FeatureStore(folder / "features").similarity("title")
    assert np.isfinite(fit).sum() == 118 and np.nanmean(fit) > 0.2


def test_a_second_run_reuses_the_encoder_and_other_input_does_not(shop) -> None:
    first = run(shop)
    again = run(shop, device="auto", micro_batch=5)
    assert again.up_to_date and again.tested == first.tested
    assert run(shop, seed=1).changed == ["settings"]
    state = load_file(shop / "clip" / "model.safetensors")
    save_file({name: tensor + 1e-3 for name, tensor in state.items()}, shop / "clip" / "model.safetensors")
    assert run(shop, seed=1).changed == ["start"]


@pytest.mark.parametrize("after", [1, 3, 5])  # of 2 epochs with 3 steps each
@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_interrupted_run_ends_bit_for_bit_as_an_undisturbed_one(shop, monkeypatch, after, method) -> None:
    settings = {"method": method, "micro_batch": 5, "crop": 0.5, "patience": 1}
    undisturbed = run(shop, "undisturbed", **settings)
    step, done = EncoderTraining.step, []

    def stop(self: EncoderTraining) -> None:
        done.append(0)
        if len(done) == after + 1:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(EncoderTraining, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(shop, **settings)
    resumed = run(shop, **settings)
    assert weights(shop / "encoder") == weights(shop / "undisturbed")
    assert (resumed.tested, resumed.last) == (undisturbed.tested, undisturbed.last)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lora", "lora_rank": 2},
        {"method": "last-layers", "last_layers": 1, "layer_decay": 0.7},
        {"precision": "bf16"},
        {"context_length": 30},
    ],
    ids=str,
)
def test_other_ways_to_train_leave_a_checkpoint_of_the_same_layout(shop, settings) -> None:
    run(shop, **settings)
    start, saved = (load_file(shop / name / "model.safetensors") for name in ("clip", "encoder"))
    assert start.keys() == saved.keys()
    frozen = torch.equal(start["token_embedding.weight"], saved["token_embedding.weight"])
    assert frozen == ("method" in settings)
    encoder = load_encoder(f"open_clip:small/{shop / 'encoder'}", device="cpu")
    assert encoder.context_length == settings.get("context_length", 24)


def test_a_vlmo_learns_from_all_three_losses_and_resumes(shop, vlmo, monkeypatch) -> None:
    settings = {"start": f"vlmo:{vlmo}", "micro_batch": 7}
    report = run(shop, "undisturbed", **settings)
    assert report.last["held_out"].keys() == {"loss", "contrastive", "matching", "mlm"}
    step, done = EncoderTraining.step, []

    def stop(self: EncoderTraining) -> None:
        done.append(0)
        if len(done) == 3:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(EncoderTraining, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(shop, **settings)
    run(shop, **settings)
    assert weights(shop / "encoder") == weights(shop / "undisturbed")
    encoder = load_encoder(f"vlmo:{shop / 'encoder'}", device="cpu")
    assert encoder.encode_tokens([encoder.tokenize("red mug")]).shape == (1, 16)


def test_a_beit3_is_tuned_where_it_has_heads_for_retrieval(shop, make_beit3, tmp_path) -> None:
    start = make_beit3(tmp_path / "beit3", retrieval_heads=True)
    report = run(shop, start=f"beit3:{start}")
    assert report.last["held_out"].keys() == {"loss", "contrastive"}
    make_beit3(tmp_path / "bare")
    with pytest.raises(InputError, match="has no heads of contrastive training"):
        run(shop, start=f"beit3:{tmp_path / 'bare'}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objectives": {"contrastive": 0}}, "nothing to learn"),
        ({"text": "{titel}"}, "did you mean 'title'"),
        ({"image_size": 32}, "has a size of its own"),
    ],
)
def test_what_cannot_be_tuned_is_refused(shop, settings, message) -> None:
    with pytest.raises(InputError, match=message):
        run(shop, **settings)


def test_an_encoder_of_pictures_and_one_of_texts_are_tuned_together(
    shop, timm_checkpoint, sentence_folder, monkeypatch
) -> None:
    settings = {
        **{"start": timm_checkpoint, "image_size": 32, "text_start": f"sentence:{sentence_folder}"},
        **{"context_length": 24, "head_dim": 8, "method": "last-layers", "micro_batch": 5, "crop": 0.5},
    }
    report = run(shop, "undisturbed", **settings)
    for side, start in (("image", shop / "timm/vit.safetensors"), ("text", sentence_folder / WEIGHTS)):
        old, new = load_file(start), load_file(shop / "undisturbed" / side / WEIGHTS)
        same = [name for name in new if torch.equal(old[name], new[name])]
        assert same and len(same) < len(new)
    step, done = EncoderTraining.step, []

    def stop(self: EncoderTraining) -> None:
        done.append(0)
        if len(done) == 5:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(EncoderTraining, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(shop, **settings)
    assert run(shop, **settings).tested == report.tested
    assert all(weights(shop / "encoder" / s) == weights(shop / "undisturbed" / s) for s in ("image", "text"))
    named = {
        "encoder": f"timm:test_vit/{shop / 'encoder' / 'image'}",
        "text_encoder": f"sentence:{shop / 'encoder' / 'text'}",
    }
    config = ExtractConfig(**named, text_views={"title": "{title}"}, device="cpu")
    extract(CatalogConfig(items=str(shop / "items.csv"), image="image"), config, shop / "features")
    shapes = [FeatureStore(shop / "features").read(view)[0].shape for view in ("image.full", "text.title")]
    assert shapes == [(40, 64), (40, 16)]  # the encoders' own widths
    assert run(shop, **settings, device="auto").up_to_date
    state = load_file(sentence_folder / WEIGHTS)
    save_file({name: tensor + 1e-3 for name, tensor in state.items()}, sentence_folder / WEIGHTS)
    assert run(shop, **settings).changed == ["text_start"]
    with pytest.raises(InputError, match=r"finetune\.text_start lies in .* which this run writes"):
        run(shop, **settings | {"text_start": named["text_encoder"]})


def test_an_encoder_is_not_tuned_into_its_own_place(shop) -> None:
    run(shop)
    before = weights(shop / "encoder")
    with pytest.raises(InputError, match="which this run writes"):
        run(shop, start=f"open_clip:small/{shop / 'encoder'}")
    assert weights(shop / "encoder") == before


def test_an_interrupted_run_outlives_those_of_other_encoders_beside_it(shop, monkeypatch) -> None:
    def stop(self: EncoderTraining) -> None:
        raise KeyboardInterrupt

    run(shop, "tuned-a")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(EncoderTraining, "_end_epoch", stop)
        run(shop, "tuned")
    begun = list(shop.glob(".finetune-*"))
    assert run(shop, "tuned-a").up_to_date and len(begun) == 1
    assert list(shop.glob(".finetune-*")) == begun
    run(shop, "tuned")
    assert not list(shop.glob(".finetune-*"))


def test_a_folder_that_is_no_encoders_is_not_replaced(shop) -> None:
    (shop / "notes").mkdir()
    (shop / "notes" / "thesis.txt").write_text("dear reader")
    with pytest.raises(InputError, match=r"holds none \(thesis.txt\); name a folder of its own"):
        run(shop, "notes")
    assert (shop / "notes" / "thesis.txt").exists()


def test_a_catalogue_of_one_modality_is_refused(shop) -> None:
    config = FinetuneConfig(start=f"open_clip:small/{shop / 'clip'}", **SMALL)
    with pytest.raises(InputError, match="needs two image-text pairs at least"):
        finetune(CatalogConfig(items=str(shop / "items.csv")), config, ExtractConfig(), shop / "none")


def test_parts_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="leave less than a tenth"):
        FinetuneConfig(validation=0.5, held_out=0.5)


def program(folder: Path, settings: dict[str, Any]) -> None:
    """What one of two processes does."""
    parallel.GRACE = 0.0
    with parallel.team("cpu") as team:
        report = run(folder, "pair", team, epochs=3, micro_batch=4, **settings)
        (folder / f"report-{team.rank}.json").write_text(json.dumps(report.facts()))


@pytest.fixture(params=["a CLIP", "two encoders"])
def start(request, tmp_path) -> dict[str, Any]:
    """Settings that name what is tuned; without dropout, which each process draws for itself."""
    if request.param == "a CLIP":
        return {}
    images, folder = (request.getfixturevalue(name) for name in ("timm_checkpoint", "sentence_folder"))
    config = json.loads((folder / "config.json").read_text())
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config | none))
    return {"start": images, "image_size": 32, "text_start": f"sentence:{folder}", "head_dim": 8}


def test_two_processes_train_the_encoder_of_one(shop, start) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(shop), json.dumps(start)],
            env=os.environ | shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in running:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    alone = run(shop, "alone", epochs=3, **start)
    reports = [json.loads((shop / f"report-{rank}.json").read_text()) for rank in range(2)]
    assert reports[0]["last"] == reports[1]["last"]
    assert reports[0]["last"]["held_out"] == pytest.approx(alone.last["held_out"], abs=1e-4)
    files = [path.relative_to(shop / "alone") for path in (shop / "alone").rglob(WEIGHTS)]
    assert len(files) == (2 if start else 1)
    for file in files:
        one, two = (load_file(shop / name / file) for name in ("alone", "pair"))
        assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one), file


def test_each_process_draws_dropout_of_its_own(shop, monkeypatch) -> None:
    class Second(Team):
        rank, size = 1, 2

    drawn: dict[int, list[int]] = {0: [], 1: []}
    for team in (Team(), Second()):
        monkeypatch.setattr(torch, "manual_seed", drawn[team.rank].append)
        run(shop, f"encoder-{team.rank}", team, epochs=1)
    assert len(drawn[0]) == 3 and not set(drawn[0]) & set(drawn[1])


if __name__ == "__main__":
    program(Path(sys.argv[1]), json.loads(sys.argv[2]))
