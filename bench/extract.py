"""The pace of extraction on film posters, beside what the encoder alone can do in the same run.

    python bench/extract.py ../shared            # ViT-B-32 in bf16, the tiny CLIP, decoding, texts
    python bench/extract.py ../shared --only images --openvino

Weights are random: they cost what trained ones cost. Figures are medians over rounds, in which what is
compared takes turns. JSON on stdout, progress on stderr.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmrec.pipeline.process import settle_process

settle_process()  # as the command line does; the library of threads reads it when torch is imported

# ruff: noqa: E402
import numpy as np
import open_clip
import polars as pl
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from mmrec.features.config import CatalogConfig, ExtractConfig
from mmrec.features.decoding.item import Crop, decode_crops
from mmrec.features.encoders.registry import load_encoder
from mmrec.features.text import encode_texts
from mmrec.stages.encoders import Encoders
from mmrec.stages.extract import extract

ARCHITECTURE = "ViT-B-32"
TEXTS = {  # five views of every poster
    "title": "{title}",
    "genres": "{genres}",
    "tags": "{tags}",
    "year": "{year}",
    "all": "{title}. {year}. {genres}. {tags}.",
}
PADDED = 512  # texts that the padded way is timed on, drawn over all of them
MAX_PIXELS = 100_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder of the real data")
    parser.add_argument("--only", choices=sorted(PARTS), action="append", help="part to measure; repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--openvino", action="store_true", help="images by OpenVINO too")
    parser.add_argument("--workers", type=int, default=2, help="decoding processes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("mmrec.stages").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        options.weights = random_weights(options.work)
        figures = {part: PARTS[part](options) for part in options.only or PARTS}
    print(json.dumps({"threads": torch.get_num_threads(), **figures}, indent=2))


def random_weights(folder: Path) -> str:
    """The name of a ViT-B-32 without training."""
    torch.manual_seed(0)
    state = open_clip.create_model(ARCHITECTURE).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "random.safetensors")
    return f"open_clip:{ARCHITECTURE}/{folder / 'random.safetensors'}"


def images(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of the encoder on pixels that lie ready, and of the whole job, taking turns."""
    runtimes = ("torch", "openvino") if options.openvino else ("torch",)
    return {runtime: images_by(runtime, options) for runtime in runtimes}


def images_by(runtime: str, options: argparse.Namespace) -> dict[str, Any]:
    catalog, paths = posters(options.shared), poster_paths(options.shared)
    config = ExtractConfig.model_validate(
        {"encoder": options.weights, "precision": "bf16", "runtime": runtime}
        | {"batch_size": 64, "workers": options.workers}
    )
    encoder = Encoders(config, options.work).images
    transform = load_encoder(options.weights).transform
    pixels = [transform(Image.open(path).convert("RGB")) for path in paths[:512]]
    bare, whole, paces = [], [], []
    encoder.encode_images(pixels[:64])
    for turn in range(options.rounds):
        bare.append(len(pixels) / seconds(lambda: in_batches(encoder.encode_images, pixels, 64)))
        report = extract(catalog, config, options.work / f"{runtime}-{turn}")
        whole.append(report.items / report.seconds)
        paces.append(report.pace.rate if report.pace else 0.0)
    one = one_thread(lambda: len(pixels[:128]) / seconds(lambda: encoder.encode_images(pixels[:128])))
    return {
        "encoder_alone": statistics.median(bare),
        "encoder_alone_one_thread": one if runtime == "torch" else None,
        "job": statistics.median(paces),
        "job_with_start": statistics.median(whole),
        "share": statistics.median(pace / alone for pace, alone in zip(paces, bare, strict=True)),
        "times_clip_retrieval": statistics.median(paces) / 8.7,
        "limit": str(report.pace),
    }


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Images a second of one core from bytes to pixels, as a worker has it and as open_clip has it."""
    contents = [path.read_bytes() for path in poster_paths(options.shared)[:600]]
    encoder = load_encoder(options.weights)
    crop = Crop((0.0, 0.0, 1.0, 1.0), encoder.transform)
    pixels = np.empty((3, *encoder.transform.size), np.uint8)
    model_config = open_clip.get_model_preprocess_cfg(open_clip.create_model(ARCHITECTURE))
    reference = image_transform_v2(PreprocessCfg(**model_config), is_train=False)
    torch.set_num_threads(1)

    def ours() -> None:
        for content in contents:
            decode_crops(content, [crop], [pixels], MAX_PIXELS, True)

    def theirs() -> None:
        for content in contents:
            reference(Image.open(io.BytesIO(content)))

    rates: dict[str, list[float]] = {"ours": [], "open_clip": []}
    for _ in range(options.rounds):
        rates["ours"].append(len(contents) / seconds(ours))
        rates["open_clip"].append(len(contents) / seconds(theirs))
    exact = load_encoder(options.weights)
    expected = torch.stack([reference(Image.open(io.BytesIO(content))) for content in contents[:256]])
    with torch.inference_mode():
        model = open_clip.create_model(ARCHITECTURE, pretrained=options.weights.partition("/")[2]).eval()
        truth = torch.nn.functional.normalize(model.encode_image(expected), dim=1).numpy()
    fast = []
    for content in contents[:256]:
        decode_crops(content, [crop], [pixels], MAX_PIXELS, True)
        fast.append(pixels.copy())
    cosine = (exact.encode_images(fast) * truth).sum(axis=1)
    return {name: statistics.median(of_name) for name, of_name in rates.items()} | {
        "cosine_with_reference_min": float(cosine.min())
    }


def texts(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds for five text views of all posters, and for the same padded and with repetitions."""
    items = pl.read_csv(options.shared / "data/movielens-posters/items.csv").fill_null("")
    rendered = [template.format(**row) for template in TEXTS.values() for row in items.to_dicts()]
    encoder: Any = load_encoder(options.weights, precision="bf16")
    drawn = rendered[:: max(len(rendered) // PADDED, 1)][:PADDED]
    tokenizer = open_clip.get_tokenizer(ARCHITECTURE)

    def padded() -> np.ndarray:
        with torch.inference_mode():
            rows = [
                encoder.module.encode_text(tokenizer(drawn[start : start + 64])).float()
                for start in range(0, len(drawn), 64)
            ]
        return torch.nn.functional.normalize(torch.cat(rows), dim=1).numpy()

    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(seconds(lambda: encode_texts(encoder, rendered)))
        theirs.append(seconds(padded) * len(rendered) / len(drawn))
    exact: Any = load_encoder(options.weights)
    encoder.module = exact.module  # cosines are those of fp32: bf16 rounds by more than the padding changes
    cosine = (encode_texts(exact, drawn).vectors * padded()).sum(axis=1)
    return {
        "texts": len(rendered),
        "distinct": len(set(rendered)),
        "seconds": statistics.median(ours),
        "padded_seconds": statistics.median(theirs),
        "share": statistics.median(own / other for own, other in zip(ours, theirs, strict=True)),
        "cosine_min": float(cosine.min()),
    }


def tiny(options: argparse.Namespace) -> dict[str, Any]:
    """Items a second of a job whose encoder is small, and what limits it."""
    catalog = posters(options.shared)
    paces = []
    for turn in range(options.rounds):
        config = ExtractConfig(encoder="tiny", precision="bf16", workers=options.workers)
        report = extract(catalog, config, options.work / f"tiny-{turn}")
        paces.append(report.pace.rate if report.pace else 0.0)
    return {"job": statistics.median(paces), "limit": str(report.pace)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "images": images,
    "decode": decode,
    "texts": texts,
    "tiny": tiny,
}


def posters(shared: Path) -> CatalogConfig:
    return CatalogConfig(items=str(shared / "data/movielens-posters/items.csv"), image="image")


def poster_paths(shared: Path) -> list[Path]:
    items = pl.read_csv(shared / "data/movielens-posters/items.csv")
    return [shared / "data/movielens-posters" / image for image in items["image"]]


def in_batches(
    encode: Callable[[Sequence[np.ndarray]], Any], pixels: Sequence[np.ndarray], size: int
) -> None:
    for start in range(0, len(pixels), size):
        encode(pixels[start : start + size])


def one_thread(measure: Callable[[], float]) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
