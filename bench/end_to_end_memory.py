"""Peak memory of an end-to-end step, by micro-batch and by batch, the other one fixed; a Markdown table.

python bench/end_to_end_memory.py --device cpu

The recommender is VBPR, the encoder a vision transformer of the given size on random pixels, all of whose
parameters are trained in float32. Each row is a process of its own. The memory is what two steps take at most
beyond what the process held before: activations, gradients, and the moments of AdamW, which no batch changes.
On a CPU it is resident memory (Linux), on a GPU what torch has allocated.
"""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path
from typing import Any

MB = 2**20
N_USERS, N_ITEMS, DIM = 2000, 4000, 64
MICRO_BATCHES, BATCHES = (4, 8, 16, 32, 64, 128), (32, 64, 128, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=64, help="interactions of the first table")
    parser.add_argument("--micro-batch", type=int, default=16, help="items of the second table")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--micro-batches", type=int, nargs="+", default=list(MICRO_BATCHES))
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("image_size", "patch", "width", "layers", "device")}
    print("| interactions | items encoded | micro-batch | peak MB of a step |\n| ---: | ---: | ---: | ---: |")
    grid = [(arguments.batch, micro_batch) for micro_batch in arguments.micro_batches]
    grid += [(batch, arguments.micro_batch) for batch in arguments.batches]
    for batch, micro_batch in grid:
        items, peak = measured(sizes, batch, micro_batch)
        print(f"| {batch} | {items} | {micro_batch} | {peak:,.0f} |", flush=True)


def measured(sizes: dict[str, Any], batch: int, micro_batch: int) -> tuple[int, float]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sizes, batch, micro_batch, sender))
    process.start()
    sender.close()
    found: tuple[int, float] = receiver.recv()
    process.join()
    return found


def _measure(sizes: dict[str, Any], batch: int, micro_batch: int, sender: Any) -> None:
    import torch
    from open_clip.transformer import VisionTransformer
    from torch import Tensor, nn

    from mmrec.recsys.adam import Adam
    from mmrec.recsys.config import EndToEndConfig
    from mmrec.recsys.end_to_end import EndToEnd, EndToEndStep
    from mmrec.recsys.feature_bank import FeatureBank
    from mmrec.recsys.modalities import Modality
    from mmrec.recsys.models.base import TrainingData
    from mmrec.recsys.models.vbpr import VBPR
    from mmrec.recsys.team import Team

    device = torch.device(sizes["device"])
    generator = torch.Generator().manual_seed(0)
    side = sizes["image_size"]

    class Pictures:
        """Random pixels of every item."""

        def __init__(self) -> None:
            torch.manual_seed(0)
            heads = sizes["width"] // 64
            self.module: nn.Module = VisionTransformer(
                side, sizes["patch"], sizes["width"], sizes["layers"], heads, 4.0, output_dim=DIM
            ).to(device)
            self.depths = {name: 0 for name, _ in self.module.named_parameters()}
            self.contents = {"image.full": torch.arange(N_ITEMS, device=device)}
            self.pixels = torch.randint(256, (N_ITEMS, 3, side, side), dtype=torch.uint8, generator=generator)

        def encode(self, rows: Tensor) -> dict[str, Tensor]:
            pixels = self.pixels[rows.cpu()].to(device)
            return {"image.full": nn.functional.normalize(self.module(pixels.float() / 255), dim=1)}

    values = nn.functional.normalize(torch.randn(N_ITEMS, DIM, generator=generator), dim=1).to(device)
    views = {"image.full": Modality(values, torch.ones(N_ITEMS, dtype=torch.bool, device=device))}
    bank = FeatureBank(views)
    keys = torch.randint(N_USERS * N_ITEMS, (40_000,), generator=generator).unique().to(device)
    data = TrainingData(N_USERS, N_ITEMS, keys // N_ITEMS, keys % N_ITEMS, bank.joined(views))
    model = VBPR(data, DIM, VBPR.Options())
    encoder = EndToEnd(Pictures(), bank, EndToEndConfig(micro_batch=micro_batch, warmup_epochs=0))
    step = EndToEndStep(model, Adam(model, 1e-3), Team(), encoder)
    encoder.start_epoch(1)
    before = _reset(device)
    for _ in range(2):
        users, positives, negatives = (
            torch.randint(n, (batch,), generator=generator).to(device) for n in (N_USERS, N_ITEMS, N_ITEMS)
        )
        step((users, positives, negatives))
    items = len(torch.cat([positives, negatives]).unique())
    sender.send((items, (_peak(device) - before) / MB))


def _reset(device: Any) -> int:
    """Forget the peak so far; the bytes held now."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: Any) -> int:
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(entry: str) -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 2**10


if __name__ == "__main__":
    main()
