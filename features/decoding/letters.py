"""Small messages with open files between two processes."""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("=I")


def send(link: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    content = json.dumps(message).encode()
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    link.sendmsg([_LENGTH.pack(len(content))], ancillary)
    link.sendall(content)


def receive(link: socket.socket, files: int = 0) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its files, up to so many; None when the other side has hung up."""
    head, found, _, _ = socket.recv_fds(link, _LENGTH.size, files)
    content = b""
    while head and len(content) < _LENGTH.unpack(head)[0]:
        part = link.recv(_LENGTH.unpack(head)[0] - len(content))
        if not part:
            return None
        content += part
    return (json.loads(content), list(found)) if head else None
