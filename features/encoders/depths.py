"""How far each parameter of an encoder lies from its vectors: what layer decay and the last layers go by."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|\.)(?:resblocks|blocks|block(?=\.)|layers?|levels|stages?)\.?(\d+)\.")
_BELOW = re.compile(r"embed|position|cls_token|class_token|patch|stem|(?:ln|norm)_pre|(?:^|\.)shared\.")
_NUMBERED = re.compile(r"conv\d|bn\d")  # of a stem where it comes before the layers, else of a head


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Depth by parameter name: 0 for heads, final norms and temperatures, 1 for the last layer of each tower,
    and so on down; embeddings and positions lie one below the deepest first layer, as does the network that
    makes patches. `names` are in the module's own order.

    Towers are told by what stands before a layer's number. Without any layer all depths are 0 or 1.
    """
    names = list(names)
    layers = {name: match for name in names if (match := _layer(name))}
    last: dict[str, int] = {}
    for name, match in layers.items():
        tower = name[: match.start()]
        last[tower] = max(last.get(tower, 0), int(match[1]))
    deepest = max((last[name[: m.start()]] - int(m[1]) for name, m in layers.items()), default=-1) + 2
    depths: dict[str, int] = {}
    begun: tuple[str, ...] = ()  # towers of whose layers there was one before
    for name in names:
        if match := layers.get(name):
            tower = name[: match.start()]
            depths[name] = last[tower] - int(match[1]) + 1
            begun = tuple({*begun, tower})
        else:
            stem = _NUMBERED.search(name) and not name.startswith(begun)
            depths[name] = deepest if stem or _BELOW.search(name) else 0
    return depths


def _layer(name: str) -> re.Match[str] | None:
    found = _LAYER.search(name)
    return None if found is None or _BELOW.search(name[: found.start()]) else found
