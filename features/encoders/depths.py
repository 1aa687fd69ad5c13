"""How far each parameter of an encoder lies from its vectors: what layer decay and the last layers go by."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|\.)(?:resblocks|blocks|layers?|stages)\.?(\d+)\.")
_BELOW = re.compile(r"embed|position|cls_token|class_token|patch|stem|(?:ln|norm)_pre|conv\d|bn\d")


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Depth by parameter name: 0 for heads, final norms and temperatures, 1 for the last layer of each tower,
    and so on down; embeddings and positions lie one below the deepest first layer.

    Towers are told by what stands before a layer's number. Without any layer all depths are 0 or 1.
    """
    names = list(names)
    layers = {name: match for name in names if (match := _LAYER.search(name))}
    last: dict[str, int] = {}
    for name, match in layers.items():
        tower = name[: match.start()]
        last[tower] = max(last.get(tower, 0), int(match[1]))
    depths = {name: last[name[: match.start()]] - int(match[1]) + 1 for name, match in layers.items()}
    deepest = max(depths.values(), default=0) + 1
    return {name: depths.get(name, deepest if _BELOW.search(name) else 0) for name in names}
