"""HTTP connections that go to checked addresses, keep to a deadline and are used again."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import weakref
from http.client import HTTPConnection
from typing import Any, NamedTuple

from .addresses import Address, resolve

_CONNECT_SECONDS = 10.0  # for one address: a host that is up takes one
_MAX_IDLE = 64


class Origin(NamedTuple):
    """What one connection can serve."""

    scheme: str  # "http" or "https"
    host: str
    port: int


class _Socket(socket.socket):
    """Every read has only what is left of the time; else a byte a second would last for ever."""

    deadline = 0.0

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        self.settimeout(time_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


class _TlsSocket(ssl.SSLSocket):
    """The same, encrypted."""

    deadline = 0.0

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(time_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


class Connection(HTTPConnection):
    """HTTP/1.1 with one origin, whose address is checked in the same breath as it is connected to."""

    def __init__(self, origin: Origin, tls: ssl.SSLContext | None, allow_private: bool) -> None:
        super().__init__(origin.host, origin.port)
        self.origin = origin
        self.used = False  # has served before: the other side may have closed it
        self._tls, self._allow_private = tls, allow_private
        self._deadline = 0.0
        self._socket: _Socket | _TlsSocket | None = None
        if tls is not None:
            self.default_port = 443  # goes without saying in the Host header

    def start(self, deadline: float) -> None:
        """Allow the next exchange until `deadline`, by time.monotonic; connects where that is due."""
        self._deadline = deadline
        if self.sock is None:
            self.connect()
        if self._socket is not None:
            self._socket.settimeout(time_left(deadline))
            self._socket.deadline = deadline

    def connect(self) -> None:
        """Raises ImageFailure where no address may be connected to, OSError where none answers."""
        plain = self._connect_first(resolve(self.host, self.port, self._allow_private))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain
        if self._tls is not None:
            plain.settimeout(time_left(self._deadline))
            encrypted = self._tls.wrap_socket(plain, server_hostname=self.host)
            assert isinstance(encrypted, _TlsSocket)
            self._socket = encrypted
        self._socket.deadline = self._deadline
        self.sock = self._socket

    def _connect_first(self, addresses: list[Address]) -> _Socket:
        for number, (family, sockaddr) in enumerate(addresses, start=1):
            candidate = _Socket(family, socket.SOCK_STREAM)
            try:
                candidate.settimeout(min(time_left(self._deadline), _CONNECT_SECONDS))
                candidate.connect(sockaddr)
                return candidate
            except OSError:
                candidate.close()
                if number == len(addresses):
                    raise
        raise AssertionError("resolve gives at least one address")

    def abort(self) -> None:
        """Make whatever waits on this connection fail now; from another thread."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                return


class Connections:
    """Connections that are open, shared by threads; at most `_MAX_IDLE` wait for further use."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._lock = threading.Lock()
        self._idle: list[Connection] = []  # the one used last comes last
        self._busy: set[Connection] = set()
        self._closed = False
        self._tls: ssl.SSLContext | None = None
        weakref.finalize(self, _close_all, self._idle)

    def take(self, origin: Origin, fresh: bool = False) -> Connection:
        """A connection that the caller alone has until it gives it back; `fresh`: none that was used."""
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("reading has been stopped")
            found = next((one for one in reversed(self._idle) if one.origin == origin and not fresh), None)
            if found is None:
                found = Connection(origin, self._context(origin), self._allow_private)
            else:
                self._idle.remove(found)
                found.used = True
            self._busy.add(found)
            return found

    def give_back(self, connection: Connection, usable: bool) -> None:
        """Keep the connection for further use, or close it."""
        with self._lock:
            self._busy.discard(connection)
            if usable:
                self._idle.append(connection)
            closing = self._idle.pop(0) if len(self._idle) > _MAX_IDLE else None if usable else connection
        if closing is not None:
            closing.close()

    def close(self) -> None:
        """Close those that wait, and end those that are in use."""
        with self._lock:
            self._closed = True
            _close_all(self._idle)
            for connection in self._busy:
                connection.abort()

    def _context(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.scheme != "https":
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()  # certificates and host names are verified
            self._tls.set_alpn_protocols(["http/1.1"])
            self._tls.sslsocket_class = _TlsSocket
        return self._tls


def time_left(deadline: float) -> float:
    """Seconds until `deadline`; TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("out of time")
    return left


def _close_all(connections: list[Connection]) -> None:
    while connections:
        connections.pop().close()
