"""Write the reference pages of the documentation from the code: every command and every key.

    python tools/write_reference.py

`tests/test_docs.py` fails while docs/reference/ is not what this writes.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from inspect import isclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typer.models import ArgumentInfo

from mmrec.cli import app
from mmrec.pipeline.config import SECTIONS
from mmrec.recsys.models import MODELS, model_class

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minLength": "characters: at least",
    "minItems": "entries: at least",
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, page in pages().items():
        (FOLDER / name).write_text(page, encoding="utf-8")


def pages() -> dict[str, str]:
    """File name -> content, of all pages."""
    return {"commands.md": "\n".join(_commands()), "keys.md": "\n".join(_keys())}


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "All of them, as `--help` has them. Results go to stdout, logs and progress to stderr; what exit"
    yield "codes mean is in [operations](../operations.md#exit-codes).\n"
    yield "    mmrec [OPTIONS] COMMAND ...\n"
    assert app.registered_callback is not None and app.registered_callback.callback is not None
    yield from _parameters(app.registered_callback.callback)
    for command in app.registered_commands:
        function = command.callback
        assert function is not None
        yield f"## mmrec {command.name or function.__name__.removesuffix('_').replace('_', '-')}\n"
        yield f"{_text(command.help or function.__doc__)}\n"
        if command.epilog:
            yield f"    {command.epilog.removeprefix('Example: ')}\n"
        yield from _parameters(function)


def _parameters(function: Callable[..., Any]) -> Iterator[str]:
    hints = get_type_hints(function, include_extras=True)
    rows = [
        _parameter(name, hints[name], parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if get_origin(hints[name]) is Annotated
    ]
    if rows:
        yield "| option | value | default | meaning |\n| --- | --- | --- | --- |"
        yield "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows) + "\n"


def _parameter(name: str, hint: Any, default: Any) -> list[str]:
    kind, info = get_args(hint)[:2]
    kinds = [one for one in get_args(kind) or (kind,) if one is not type(None)]
    flag = bool in kinds
    if isinstance(info, ArgumentInfo):
        names = f"`{info.metavar or name.upper()}`"
    else:
        # Where an option stands in Annotated, Typer has its first name in place of a default.
        given = [one for one in (info.default, *(info.param_decls or ())) if str(one).startswith("-")]
        names = ", ".join(f"`{one}`" for one in given or [f"--{name.replace('_', '-')}"])
    choices = [
        f"`{choice.value}`" for one in kinds if isclass(one) and issubclass(one, Enum) for choice in one
    ]
    value = "" if flag else ", ".join(choices) or f"`{info.metavar or kinds[0].__name__.upper()}`"
    if default is inspect.Parameter.empty:
        shown = "required"
    elif flag or default is None:
        shown = ""
    else:
        shown = ", ".join(f"`{getattr(one, 'value', one)}`" for one in _listed(default))
    return [names, value, shown, _text(info.help)]


def _listed(default: Any) -> list[Any]:
    return default if isinstance(default, list) else [default]


def _keys() -> Iterator[str]:
    yield "# Keys\n"
    yield "Every key of the configuration, with its type, limits and default. What they mean is in"
    yield "[configuration](../configuration.md).\n"
    for section, model in SECTIONS.items():
        yield f"## [{section}]\n"
        yield from _table(model)
        if section == "train":
            for name in MODELS:
                options: type[BaseModel] = model_class(name).Options
                if options.model_fields:
                    yield f"### [train.{name}]\n"
                    yield from _table(options)


def _table(model: type[BaseModel]) -> Iterator[str]:
    schema = model.model_json_schema()
    known = schema.get("$defs", {})
    yield "| key | type | default |\n| --- | --- | --- |"
    nested: list[tuple[str, Mapping[str, Any]]] = []
    rows = []
    for name, facts in schema["properties"].items():
        target = _resolved(facts, known)
        if "properties" in target:
            nested.append((name, target))
            rows.append(f"| `{name}` | table, see below | |")
        else:
            default = "required" if name in schema.get("required", ()) else _default(facts)
            rows.append(f"| `{name}` | {_cell(_type(facts, known))} | {_cell(default)} |")
    for outer, target in nested:
        for name, facts in target["properties"].items():
            rows.append(f"| `{outer}.{name}` | {_cell(_type(facts, known))} | {_cell(_default(facts))} |")
    yield "\n".join(rows) + "\n"


def _resolved(facts: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    return known[facts["$ref"].rsplit("/", 1)[1]] if "$ref" in facts else facts


def _default(facts: Mapping[str, Any]) -> str:
    value = facts.get("default")
    return "none" if value is None or value == {} else f"`{json.dumps(value)}`"


def _type(facts: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """The type in words, with its limits."""
    facts = _resolved(facts, known)
    for key in ("anyOf", "oneOf"):
        if key in facts:
            return " or ".join(_type(one, known) for one in facts[key] if one.get("type") != "null")
    if "enum" in facts or "const" in facts:
        return ", ".join(f"`{json.dumps(value)}`" for value in facts.get("enum", [facts.get("const")]))
    if "prefixItems" in facts:
        return _kind(facts, known)
    limits = ", ".join(f"{words} {facts[key]}" for key, words in _LIMITS.items() if key in facts)
    return _kind(facts, known) + (f" ({limits})" if limits else "")


def _kind(facts: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    match facts.get("type"):
        case "array" if "prefixItems" in facts:
            return f"{len(facts['prefixItems'])} of: {_type(facts['prefixItems'][0], known)}"
        case "array":
            return f"list of: {_type(facts.get('items', {}), known)}"
        case "object":
            return f"table of: {_type(facts['additionalProperties'], known)}" if _open(facts) else "table"
        case "boolean":
            return "true or false"
        case None:
            return "any"
        case kind:
            return str(kind)


def _open(facts: Mapping[str, Any]) -> bool:
    return isinstance(facts.get("additionalProperties"), dict)


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
