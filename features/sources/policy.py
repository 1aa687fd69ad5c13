"""What may be read, and how a reference is named in messages, which never hold its secrets."""

from __future__ import annotations

import re

from ..config import ReadingConfig
from ..errors import ImageFailure

LOCAL = frozenset(("file", "local"))
_SHOWN = 300  # characters; a cell may hold anything


def scheme_of(reference: str) -> str | None:
    """The scheme of a URI in lower case, None for a path."""
    head, mark, _ = reference.partition("://")
    return head.lower() if mark else None


def shown(reference: str) -> str:
    """The reference without user, password, query and fragment, any of which may hold a secret."""
    head, mark, rest = reference.partition("://")
    if mark:
        where, *hidden = re.split(r"[?#]", rest, maxsplit=1)
        authority, slash, path = where.partition("/")
        reference = f"{head}://{authority.rpartition('@')[2]}{slash}{path}{'?...' if hidden else ''}"
    reference = reference if len(reference) <= _SHOWN else f"{reference[:_SHOWN]}..."
    return reference if reference.isprintable() else repr(reference)[1:-1]


def without_secrets(message: str, uri: str) -> str:
    """What another library says of `uri`, without the parts that `shown` leaves out."""
    where, *hidden = re.split(r"[?#]", uri.partition("://")[2], maxsplit=1)
    user = where.partition("/")[0].rpartition("@")[0]
    secrets = [part for part in (*hidden, user, user.partition(":")[2]) if part]
    for secret in secrets:
        message = message.replace(secret, "...")
    return message[:_SHOWN]


def check_scheme(uri: str, config: ReadingConfig) -> None:
    """Raise ImageFailure unless `config` lets the scheme of `uri` be read."""
    scheme = scheme_of(uri)
    if scheme not in config.schemes:
        allowed = ", ".join(config.schemes) or "none"
        raise ImageFailure("refused", f"{shown(uri)}: catalog.schemes allows {allowed}, not {scheme}")


def check_host(host: str, uri: str, config: ReadingConfig) -> None:
    """Raise ImageFailure unless `config` lets the host, or bucket, of `uri` be read."""
    name = host.rstrip(".").lower()
    allowed = (
        name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern
        for pattern in config.hosts
    )
    if config.hosts and not any(allowed):
        raise ImageFailure("refused", f"{shown(uri)}: {name or 'no host'} is not in catalog.hosts")


def bounded(content: bytes, max_bytes: int, name: str) -> bytes:
    """The content; ImageFailure when it is longer than `max_bytes`."""
    if len(content) > max_bytes:
        raise too_large(name, len(content), max_bytes)
    return content


def too_large(name: str, size: int, max_bytes: int) -> ImageFailure:
    return ImageFailure("too_large", f"{name}: {size} bytes or more; at most {max_bytes} are read")
