"""What a whole extraction is expected to take, from what its steps took on a sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .pace import TextLoad


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another setting of the encoder of images, tried out."""

    change: str
    images: float  # seconds of one item
    cosine: float  # of its vectors with those of the config, the smallest


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change, and what was measured that speaks for it."""

    change: str
    because: str


@dataclass(slots=True)
class Estimate:
    """All of one catalogue with one config on this machine; sizes in bytes."""

    items: int
    shards: int
    sampled: int  # items
    failed: int  # of these
    reasons: dict[str, int]
    read: float  # seconds of one item, when all readers read
    decode: float  # seconds of one item for one worker
    transform: float  # as well
    images: float  # seconds of one item for the encoder
    texts: float
    joint: float  # image and text in one pass
    workers: int
    cores: int
    on_gpu: bool
    batch_size: int  # that fits
    disk: int
    disk_free: int
    memory: int | None  # of all processes together; None where that cannot be known
    memory_free: int | None  # beside what this process takes
    gpu_memory: int | None
    text_load: TextLoad | None
    alternatives: list[Alternative] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)

    @property
    def encode(self) -> float:
        """Seconds of one item for the encoders."""
        return self.images + self.texts + self.joint

    @property
    def steps(self) -> dict[str, float]:
        """Seconds of one item for all that work at a step; decode and transform share their workers."""
        workers = min(self.workers, self.cores)
        return {
            "read": self.read,
            "decode": self.decode / workers,
            "transform": self.transform / workers,
            "encode": self.encode,
        }

    @property
    def item_seconds(self) -> float:
        """Seconds between one item and the next. Steps overlap, so the slowest counts; but where the encoder
        has no GPU, it has the cores only when they are not decoding.
        """
        decoding = self.decode + self.transform
        encode = self.encode if self.on_gpu else self.encode + decoding / self.cores
        return max(self.read, decoding / min(self.workers, self.cores), encode)

    @property
    def seconds(self) -> float:
        return self.items * self.item_seconds

    @property
    def limit(self) -> str:
        """The step that the others wait for."""
        steps = self.steps
        decoding = max(("decode", "transform"), key=lambda step: steps[step])
        crews = {"read": self.read, decoding: steps["decode"] + steps["transform"], "encode": self.encode}
        return max(crews, key=lambda step: crews[step])

    def facts(self) -> dict[str, Any]:
        """JSON-able."""
        facts = asdict(self)
        load = self.text_load
        facts["text_load"] = None
        if load is not None:
            counts = {"items": load.items, "texts": load.texts, "distinct": load.distinct, "long": load.long}
            facts["text_load"] = {**counts, "windows": len(load.windows)}
        whole = {
            "seconds": self.seconds,
            "items_per_second": 1 / self.item_seconds if self.item_seconds else None,
        }
        return {**whole, "limit": self.limit, "steps": self.steps, **facts}
