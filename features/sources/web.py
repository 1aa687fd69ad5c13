"""GET over http and https to hosts that nobody vouches for: bounded in time, size, redirects and reach."""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..config import ReadingConfig
from ..errors import ImageFailure, first_line
from .connections import Connection, Connections, Origin
from .policy import bounded, check_host, check_scheme, scheme_of, shown, too_large
from .retries import MayPass

log = logging.getLogger(__name__)

WEB = frozenset(("http", "https"))
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_MAX_REDIRECTS = 5
_MAY_PASS = frozenset((408, 425, 429))  # and all of 500 and above
_GONE = frozenset((404, 410))
_CHUNK = 2**16
_SAFE = "%/:=&?~+!$,;'@()*[]"  # stays as it is in a path or query: it is quoted already, or need not be
_HEADERS = {"User-Agent": "mmrec", "Accept": "*/*"}
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


@dataclass(frozen=True, slots=True)
class Target:
    """One URI, taken apart once: what is checked is what is connected to."""

    uri: str
    origin: Origin
    path: str  # with the query
    authorization: str | None

    @classmethod
    def of(cls, uri: str) -> Target:
        """Raises ImageFailure where this is no URI of a host."""
        try:
            parts = urlsplit(uri)
            host = (parts.hostname or "").encode("idna").decode()
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as error:  # UnicodeError is a ValueError
            raise ImageFailure("unreadable", f"{shown(uri)}: not a URI of the web") from error
        if not host:
            raise ImageFailure("unreadable", f"{shown(uri)}: no host")
        path = quote(parts.path or "/", _SAFE) + (f"?{quote(parts.query, _SAFE)}" if parts.query else "")
        return cls(uri, Origin(parts.scheme, host, port), path, _basic(parts.username, parts.password))


class _Answer(NamedTuple):
    status: int
    location: str | None
    content: bytes
    pause: float  # seconds that the server asks for


class WebClient:
    """Reads URIs of the web as `config` allows; many threads may share it."""

    def __init__(self, config: ReadingConfig) -> None:
        self._config = config
        self._connections = Connections(config.allow_private)
        self._warned = False

    def read(self, uri: str, max_bytes: int) -> bytes:
        """The body of one successful answer, redirects followed.

        Raises ImageFailure, or MayPass.
        """
        self._warn_of_proxies()
        deadline = time.monotonic() + self._config.timeout
        target = Target.of(uri)
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(target)
            answer = self._get(target, deadline, max_bytes)
            if answer.status not in _REDIRECTS:
                return _judged(answer, target)
            target = _redirected(target, answer.location)
        raise ImageFailure("refused", f"{shown(uri)}: more than {_MAX_REDIRECTS} redirects")

    def close(self) -> None:
        """End every exchange that is going on."""
        self._connections.close()

    def _check(self, target: Target) -> None:
        check_scheme(target.uri, self._config)
        check_host(target.origin.host, target.uri, self._config)

    def _get(self, target: Target, deadline: float, max_bytes: int) -> _Answer:
        try:
            connection = self._connections.take(target.origin)
            try:
                return self._exchange(connection, target, deadline, max_bytes)
            except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not connection.used:
                    raise
            # It had been kept open for too long.
            connection = self._connections.take(target.origin, fresh=True)
            return self._exchange(connection, target, deadline, max_bytes)
        except (OSError, HTTPException, ValueError) as error:
            raise _explained(error, target, self._config.timeout) from error

    def _exchange(self, connection: Connection, target: Target, deadline: float, max_bytes: int) -> _Answer:
        usable = False
        try:
            connection.start(deadline)
            own = {"Authorization": target.authorization} if target.authorization else {}
            connection.request("GET", target.path, headers={**_HEADERS, **own})
            with connection.getresponse() as response:
                is_wanted = response.status in (200, 203)
                content = _body(response, target, max_bytes) if is_wanted else response.read(_CHUNK)
                usable = response.isclosed() and not response.will_close
                headers = response.headers
                pause = _pause(headers.get("Retry-After", "").strip())
                return _Answer(response.status, headers["Location"], content, pause)
        finally:
            self._connections.give_back(connection, usable)

    def _warn_of_proxies(self) -> None:
        if not self._warned:
            self._warned = True
            found = [name for name in os.environ if name.lower() in _PROXIES]
            if found:
                log.warning(
                    "%s is set, but images of the web are read without a proxy: it would reach "
                    "addresses that catalog.allow_private excludes",
                    " and ".join(sorted(found)),
                )


def _body(response: HTTPResponse, target: Target, max_bytes: int) -> bytes:
    """The body, at most `max_bytes` of it whatever the header says; IncompleteRead when it breaks off."""
    name = shown(target.uri)
    if response.length is not None and response.length > max_bytes:
        raise too_large(name, response.length, max_bytes)
    content = bytearray()
    while len(content) <= max_bytes and (chunk := response.read(_CHUNK)):
        content += chunk
    if response.length and len(content) <= max_bytes:
        raise IncompleteRead(b"", response.length)
    return bounded(bytes(content), max_bytes, name)


def _judged(answer: _Answer, target: Target) -> bytes:
    """The content of a good answer; the error that another one stands for."""
    if answer.status in (200, 203):
        return answer.content
    known = next((status for status in HTTPStatus if status == answer.status), None)
    said = f"{answer.status} {known.phrase}" if known else str(answer.status)
    if answer.status in _MAY_PASS or answer.status >= 500:
        raise MayPass(f"the server answers {said}", answer.pause)
    reason = "missing" if answer.status in _GONE else "unreadable"
    raise ImageFailure(reason, f"{shown(target.uri)}: the server answers {said}")


def _redirected(target: Target, location: str | None) -> Target:
    """Where an answer leads; the credentials of a URI go no further than its own host."""
    name = shown(target.uri)
    if not location:
        raise ImageFailure("unreadable", f"{name}: redirected to nowhere")
    # Headers are decoded as Latin-1, but what goes beyond ASCII is UTF-8.
    location = location.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        uri = urljoin(target.uri, location)
    except ValueError as error:
        raise ImageFailure("unreadable", f"{name}: redirected to what is no URI") from error
    if scheme_of(uri) not in WEB:
        raise ImageFailure("refused", f"{name}: redirected to what is not of the web: {shown(uri)}")
    onward = Target.of(uri)
    authorization = target.authorization if onward.origin == target.origin else None
    return replace(onward, authorization=authorization)


def _explained(error: Exception, target: Target, timeout: float) -> Exception:
    """What a failed exchange means: ImageFailure, or MayPass."""
    name = shown(target.uri)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ImageFailure("refused", f"{name}: {error.verify_message}")
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return ImageFailure("unreachable", f"{name}: there is no host {target.origin.host}")
    if isinstance(error, TimeoutError):
        return MayPass(f"no whole answer within {timeout:g} s")
    if isinstance(error, IncompleteRead):
        return MayPass("the answer breaks off")
    if isinstance(error, OSError):  # RemoteDisconnected is one
        return MayPass(error.strerror or first_line(error))
    return ImageFailure("unreadable", f"{name}: the answer is not HTTP ({type(error).__name__})")


def _pause(value: str) -> float:
    """The seconds of Retry-After, which is a number or a date; 0 without it."""
    if value.isdecimal():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):  # no date, or one without a time zone
        return 0.0


def _basic(user: str | None, password: str | None) -> str | None:
    """The header that stands for user:password@ in a URI."""
    if user is None:
        return None
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"
