"""`mmrec demo`: a generated shop through the whole job, and three recommenders side by side."""

from __future__ import annotations

from pathlib import Path

from ..features.files import atomic_path
from .config import load_config
from .outcome import Outcome
from .run import run
from .shop import generate_shop
from .summary import comparison_text

MODELS = {"popularity": "no taste", "lightgcn": "IDs", "freedom": "IDs and content"}
CONFIG = """\
# The generated shop of `mmrec demo`; run it again with: mmrec run -c {name}

[catalog]
items = "{items}"
image = "image"

[interactions]
path = "{interactions}"
cold_items = 0.2

[extract]
encoder = "tiny"
image_views = ["full"]
text_views = {{ title = "{{title}}", all = "{{title}}. {{brand}}. {{category}}. {{description}}" }}
max_failures = 0.05

[train]
model = "freedom"
patience = 10

[run]
output = "freedom"
features = "features"
"""


def demo(output: Path) -> Outcome:
    """Generate the shop in `output`/shop, run the `MODELS` on it and compare them on the test split."""
    shop = generate_shop(output / "shop")
    file = output / "demo.toml"
    names = {"items": shop.items.relative_to(output), "interactions": shop.interactions.relative_to(output)}
    with atomic_path(file) as temporary:
        temporary.write_text(CONFIG.format(name=file, **names), encoding="utf-8")
    evaluations = {}
    for model, label in MODELS.items():
        config = load_config(file, [f"train.model={model}", f"run.output={output / model}"])
        evaluations[f"{model} ({label})"] = run(config).facts["evaluation"]
    sizes = f"{shop.n_items:,} items, {shop.n_users:,} users, {shop.n_interactions:,} interactions"
    title = f"{sizes}; means with 95 % intervals"
    text = comparison_text(title, evaluations, k=20)
    hint = f"Everything is in {output}; look into it with: mmrec inspect {output / 'freedom'}"
    return Outcome(
        {name: evaluation["splits"] for name, evaluation in evaluations.items()}, f"{text}\n{hint}"
    )
