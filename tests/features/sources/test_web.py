import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmrec.features.config import ReadingConfig
from mmrec.features.errors import ImageFailure
from mmrec.features.sources import addresses, connections, retries
from mmrec.features.sources.reading import ImageReader

MAX_BYTES = 10_000
PUBLIC = "93.184.216.34"
Page = Callable[["Handler"], None]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Site"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.connections.add(self.client_address)
        self.server.headers.append(dict(self.headers))
        self.server.pages[self.path.partition("?")[0]](self)

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


class Site(http.server.ThreadingHTTPServer):
    """A host on this machine; `pages` says what each path answers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {"/a.jpg": lambda page: page.answer(200, b"a picture")}
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections: set[Any] = set()

    @property
    def port(self) -> int:
        return self.server_address[1]

    def uri(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # clients that hang up are what the tests are about


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host -> addresses; PUBLIC is in truth this machine."""
    known: dict[str, list[str]] = {}

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        found = known.get(host, [host])
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        socket.socket.connect(sock, ("127.0.0.1" if address[0] == PUBLIC else address[0], address[1]))

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(connections._Socket, "connect", connect, raising=False)
    return known


def reader(root: str | None = None, **keys: Any) -> ImageReader:
    return ImageReader(root, ReadingConfig(**{"allow_private": True, "timeout": 5, **keys}), MAX_BYTES)


def failure(uri: str, root: str | None = None, **keys: Any) -> ImageFailure:
    with pytest.raises(ImageFailure) as caught:
        reader(root, **keys).read(uri)
    return caught.value


def test_pages_are_read_over_one_connection_by_their_quoted_paths(site: Site) -> None:
    site.pages["/b%20%C3%BC.jpg"] = site.pages["/c%20d.jpg"] = site.pages["/a.jpg"]
    one = reader(root=site.uri("/"))
    for reference in ("a.jpg", site.uri("/a.jpg?w=1"), "b ü.jpg", site.uri("/c%20d.jpg#top")):
        assert one.read(reference) == b"a picture"
    assert site.requests == ["/a.jpg", "/a.jpg?w=1", "/b%20%C3%BC.jpg", "/c%20d.jpg"]
    assert len(site.connections) == 1


def test_a_connection_that_the_server_has_closed_is_opened_again(site: Site) -> None:
    def part(page: Handler) -> None:
        page.answer(200, b"last")
        page.close_connection = True  # without having said so

    site.pages["/last.jpg"] = part
    one = reader(retries=0)
    assert [one.read(site.uri("/last.jpg")) for _ in range(3)] == [b"last"] * 3


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[::]"),
    ],
)
def test_no_address_of_this_machine_is_connected_to(site: Site, host: str) -> None:
    refused = failure(f"http://{host}:{site.port}/a.jpg", allow_private=False)
    assert refused.reason == "refused"
    assert "catalog.allow_private" in refused.message
    assert not site.requests


@pytest.mark.parametrize(
    ("address", "expected"),
    [(PUBLIC, True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("64:ff9b::808:808", True)]
    + [
        (address, False)
        for address in (
            *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.0.8"),
            *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "168.63.129.16"),
            *("fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "3fff::1"),
            *("64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "::127.0.0.1", "::ffff:10.0.0.1"),
        )
    ],
)
def test_public_addresses_are_those_of_the_internet(address: str, expected: bool) -> None:
    assert addresses.is_public(address) is expected


def test_the_address_that_was_checked_is_the_one_connected_to(
    monkeypatch: pytest.MonkeyPatch, resolver: dict[str, list[str]]
) -> None:
    answers = iter([PUBLIC, "127.0.0.1"])  # a name that means another address from one moment to the next
    connected = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(connections._Socket, "connect", connect)
    assert failure("http://rebinding.example/", allow_private=False).reason == "refused"  # at the retry
    assert connected == [(PUBLIC, 80)]


def test_of_several_addresses_only_public_ones_are_tried(site: Site, resolver: dict[str, list[str]]) -> None:
    resolver["mixed.example"] = ["10.0.0.1", PUBLIC]
    assert reader(allow_private=False).read(f"http://mixed.example:{site.port}/a.jpg") == b"a picture"


def test_redirects_are_checked_as_the_first_uri_is(site: Site, resolver: dict[str, list[str]]) -> None:
    resolver |= {"shop.example": [PUBLIC], "other.example": [PUBLIC], "inner.example": ["127.0.0.1"]}

    def leads_to(uri: str) -> str:
        site.pages["/from"] = lambda page: page.answer(302, b"moved", Location=uri)
        return f"http://shop.example:{site.port}/from"

    read = reader(allow_private=False).read
    assert read(leads_to("/a.jpg")) == b"a picture"
    assert read(leads_to(f"http://other.example:{site.port}/a.jpg")) == b"a picture"
    for uri in (
        f"http://127.0.0.1:{site.port}/a.jpg",
        f"//inner.example:{site.port}/a.jpg",
        "file:///etc/passwd",
        "ftp://shop.example/a.jpg",
        "data:image/png;base64,AAAA",
    ):
        assert failure(leads_to(uri), allow_private=False).reason == "refused"
    other = leads_to(f"http://other.example:{site.port}/a.jpg")
    assert failure(other, allow_private=False, hosts=["shop.example"]).reason == "refused"
    assert failure(leads_to(f"https://shop.example:{site.port}/"), schemes=["http"]).reason == "refused"
    assert failure(leads_to("http://[bad/"), allow_private=False).reason == "unreadable"


def test_at_most_five_redirects_are_followed(site: Site) -> None:
    for number in range(6):
        site.pages[f"/{number}"] = lambda page, to=number + 1: page.answer(307, Location=f"/{to}")
    site.pages["/6"] = site.pages["/a.jpg"]
    assert reader().read(site.uri("/1")) == b"a picture"
    assert failure(site.uri("/0")).reason == "refused"


def test_hosts_and_schemes_are_allow_lists(site: Site, resolver: dict[str, list[str]]) -> None:
    resolver |= {host: [PUBLIC] for host in ("cdn.example.com", "a.b.example.com", "example.com")}
    listed = {"hosts": ["*.example.com"], "allow_private": False}
    for host in ("cdn.example.com", "a.b.EXAMPLE.com"):
        assert reader(**listed).read(f"http://{host}:{site.port}/a.jpg") == b"a picture"
    for uri in ("http://example.com/", "http://badexample.com/", "http://example.com.evil.org/"):
        assert failure(uri, **listed).reason == "refused"
    assert failure("http://cdn.example.com@evil.org/", **listed).reason == "refused"
    assert failure(site.uri("/a.jpg"), schemes=["https"]).reason == "refused"
    assert failure("gs://evil/a.jpg", hosts=["shop"]).reason == "refused"


def test_a_body_is_bounded_whatever_its_header_says(site: Site) -> None:
    def endless(page: Handler) -> None:
        page.send_response(200)
        page.send_header("Transfer-Encoding", "chunked")
        page.end_headers()
        while True:
            page.wfile.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    site.pages |= {
        "/endless": endless,
        "/huge": lambda page: page.answer(200, b"x" * (MAX_BYTES + 1)),
        "/liar": lambda page: page.answer(200, b"x" * 5, Content_Length="99999999999"),
        "/whole": lambda page: page.answer(200, b"x" * MAX_BYTES),
    }
    for path in ("/endless", "/huge", "/liar"):
        assert failure(site.uri(path)).reason == "too_large"
    assert len(reader().read(site.uri("/whole"))) == MAX_BYTES


@pytest.mark.parametrize("after", ["nothing", "status", "headers"])
def test_a_server_that_sends_a_byte_at_a_time_runs_out_of_time(site: Site, after: str) -> None:
    def slow(page: Handler) -> None:
        if after != "nothing":
            page.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if after == "headers":
            page.wfile.write(b"Content-Length: 1000\r\n\r\n")
        for _ in range(1000):
            page.wfile.write(b"x")
            time.sleep(0.02)

    site.pages["/slow"] = slow
    started = time.monotonic()
    assert failure(site.uri("/slow"), timeout=0.3, retries=1).reason == "unreachable"
    assert 0.6 <= time.monotonic() - started < 2
    assert site.requests == ["/slow"] * 2


def test_only_what_may_pass_is_tried_again(site: Site) -> None:
    answers = iter([500, 503, 429])

    def flaky(page: Handler) -> None:
        status = next(answers, 200)
        page.answer(status, b"at last", Retry_After="0")

    def breaks_off(page: Handler) -> None:
        page.answer(200, b"half", Content_Length="100")
        page.close_connection = True

    site.pages |= {
        "/flaky": flaky,
        "/gone": lambda page: page.answer(404),
        "/denied": lambda page: page.answer(403),
        "/later": lambda page: page.answer(429, Retry_After="3600"),
        "/down": lambda page: page.answer(502),
        "/half": breaks_off,
    }
    assert reader(retries=3).read(site.uri("/flaky")) == b"at last"
    for path, reason, attempts in (
        ("/gone", "missing", 1),
        ("/denied", "unreadable", 1),
        ("/later", "unreachable", 1),
        ("/down", "unreachable", 3),
        ("/half", "unreachable", 3),
    ):
        site.requests.clear()
        assert failure(site.uri(path), retries=2).reason == reason
        assert len(site.requests) == attempts, path


def test_a_server_says_how_long_to_wait(site: Site) -> None:
    answers = iter([503])
    site.pages["/busy"] = lambda page: page.answer(next(answers, 200), b"now", Retry_After="1")
    started = time.monotonic()
    assert reader().read(site.uri("/busy")) == b"now"
    assert time.monotonic() - started >= 1


def test_a_dead_host_is_not_asked_again_and_again(site: Site) -> None:
    site.pages["/down"] = lambda page: page.answer(503)
    one = reader(retries=2)

    def attempts(path: str) -> int:
        site.requests.clear()
        try:
            one.read(site.uri(path))
        except ImageFailure:
            return len(site.requests)
        return 0

    assert [attempts("/down") for _ in range(7)] == [3, 3, 3, 3, 3, 1, 1]
    assert attempts("/a.jpg") == 0  # it is back
    assert attempts("/down") == 3


def test_credentials_are_sent_to_their_own_host_and_named_nowhere(
    site: Site, resolver: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    resolver |= {"shop.example": [PUBLIC], "other.example": [PUBLIC]}
    site.pages["/to"] = lambda page: page.answer(302, Location=f"http://other.example:{site.port}/no?sig=S3")
    site.pages["/no"] = lambda page: page.answer(403)
    with caplog.at_level("DEBUG"):
        failed = failure(f"http://user:S3cret@shop.example:{site.port}/to?token=S3cret")
    assert [headers.get("Authorization") for headers in site.headers] == ["Basic dXNlcjpTM2NyZXQ=", None]
    assert "S3" not in failed.message + caplog.text
    assert f"http://other.example:{site.port}/no?..." in failed.message
    for uri in ("http://u:S3cret@nowhere.invalid/?S3cret", "s4://u:S3cret@x/?S3cret", "http://u:S3cret@[/"):
        assert "S3" not in failure(uri, retries=0).message


def test_what_is_no_http_is_unreadable(site: Site) -> None:
    site.pages["/ssh"] = lambda page: page.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n") and None
    for uri in (site.uri("/ssh"), "http://", "http://[::1", "http://host:99999/", "http://a..b/"):
        assert failure(uri, retries=0).reason == "unreadable", uri


def test_close_ends_what_is_going_on(site: Site) -> None:
    site.pages["/hangs"] = lambda page: time.sleep(10)
    one = reader(timeout=10)
    caught = []

    def wait() -> None:
        try:
            one.read(site.uri("/hangs"))
        except ImageFailure as error:
            caught.append(error.reason)

    thread = threading.Thread(target=wait)
    thread.start()
    while not site.requests:
        time.sleep(0.01)
    one.close()
    thread.join(timeout=2)
    assert caught == ["unreachable"]
    with pytest.raises(ImageFailure):
        one.read(site.uri("/a.jpg"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_that_nobody_vouches_for_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    site.socket = server.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)
    uri = site.uri("/a.jpg").replace("http:", "https:")
    refused = failure(uri)
    assert (refused.reason, "certificate" in refused.message) == ("refused", True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert reader().read(uri) == b"a picture"
    other_name = failure(uri.replace("127.0.0.1", "localhost"))
    assert other_name.reason == "refused"


def test_a_proxy_in_the_environment_is_not_used_and_that_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:S3cret@127.0.0.1:9")
    one = reader()
    assert [one.read(site.uri("/a.jpg")) for _ in range(2)] == [b"a picture"] * 2
    assert caplog.text.count("HTTP_PROXY is set") == 1
    assert "S3cret" not in caplog.text
