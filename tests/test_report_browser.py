"""A report of hostile data in a real browser: nothing runs, nothing is asked for, all can be read."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from mmrec.cli import app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}

HOSTILE = (
    "<script>window.harmed = 1; alert(1)</script>",
    '"><img src=x onerror="window.harmed = 1">',
    "javascript:window.harmed=1",
    "</style><script>window.harmed = 1</script>",
    "]]><svg onload=window.harmed=1>",
    "nul \x00 and bell \x07",
    "\u202egnp.exe turned around",
    "x" * 10_000,
    "</title><base href=//evil.example><iframe srcdoc='<script>parent.harmed=1</script>'>",
    "' onmouseover='window.harmed=1",
)
CONFIG = """
[catalog]
items = "items.parquet"
image = "image"
[interactions]
path = "log.parquet"
ratios = [0.6, 0.2, 0.2]
[extract]
text_views = { title = "{title}" }
max_failures = 1.0
workers = 1
[train]
model = "bpr"
dim = 4
epochs = 3
[evaluate]
bootstrap = 10
[run]
output = "out"
"""
# What the page's own policy must stop, if escaping ever failed.
INJECTED = (
    "<script>window.harmed = 1</script><img src=x.png onerror='window.harmed = 1'><img src=data:, onerror="
    "'window.harmed = 1'><style>@import url(x.css);</style><iframe src=x.html></iframe><link rel=stylesheet "
    "href=y.css><object data=x.swf></object><p style='background: url(y.png)'>"
)
# Elements with text of their own whose colour is too close to what is behind them (WCAG 2, 1.4.3).
FAINT = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => channels(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0) return colour;
    }
  };
  const faint = [];
  for (const element of document.body.querySelectorAll('*')) {
    const words = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!words || element.tagName === 'desc' || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const ink = element.tagName === 'text' ? style.fill : style.color;
    const [dark, bright] = [light(ink), light(behind(element))].sort((a, b) => a - b);
    const ratio = (bright + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faint.push([element.tagName, element.className, ratio]);
  }
  return faint;
}"""
INTERACTIVE = "a[href], summary, [tabindex='0']"
# Which of these has the focus, and the outline that it has.
FOCUSED = f"""() => [
  [...document.querySelectorAll("{INTERACTIVE}")].indexOf(document.activeElement),
  getComputedStyle(document.activeElement).outlineStyle,
]"""


@pytest.fixture
def report(tmp_path, encoder, png) -> Path:
    """The report of a small run on items, users and files with hostile names."""
    ids = [f"{n} {text[:60]}" for n, text in enumerate(HOSTILE)]
    names = [f"{n}.png" for n in range(7)]
    for n, name in enumerate(names):
        content = png((30 * n, 100, 255 - 30 * n))
        (tmp_path / name).write_bytes(content if n else content[:40])
    images = [*names, None, '<img src="x" onerror="window.harmed=1">.png', "gone.png"]
    items = {"item_id": ids, "image": images, "title": HOSTILE, "<b>note</b>": HOSTILE[::-1]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    users = [f"user {n} {text[:60]}" for n, text in enumerate(HOSTILE)]
    log = [(user, ids[(n + t) % 10], 10 * n + t) for n, user in enumerate(users) for t in range(5)]
    columns = ["user_id", "item_id", "timestamp"]
    pl.DataFrame(log, schema=columns, orient="row").write_parquet(tmp_path / "log.parquet")
    (tmp_path / "run.toml").write_text(CONFIG)
    for command in ("run", "report"):
        result = CliRunner().invoke(app, [command, "-c", str(tmp_path / "run.toml")])
        assert result.exit_code == 0, result.output
    return tmp_path / "out" / "report.html"


@pytest.fixture
def address(report) -> Iterator[tuple[str, list[str]]]:
    """Where the report is served, and every path that the server is asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = report.read_text(encoding="utf-8")
            pages = {"/report.html": page, "/broken.html": page.replace("</main>", f"{INJECTED}</main>")}
            self.send_response(200 if self.path in pages else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(pages.get(self.path, "").encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is printed."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/report.html", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


def test_a_report_of_hostile_data_is_only_read(browser, address) -> None:
    url, asked = address
    heard: list[str] = []

    def open_page(scheme: str, viewport: dict[str, int]) -> Any:
        page = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
        page.on("dialog", lambda dialog: heard.append(dialog.message))
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    desk = open_page("light", DESK)
    for summary in desk.query_selector_all("summary"):
        summary.click()
    desk.mouse.move(300, 300)
    assert desk.evaluate("window.harmed") is None
    assert "onmouseover='window.harmed=1" in desk.inner_text("body")
    assert "\ufffdgnp.exe turned around" in desk.content()
    loaded = desk.evaluate("[...document.images].filter(i => i.complete && i.naturalWidth).length")
    assert loaded == desk.locator("img").count() > 10
    assert desk.evaluate(FAINT) == []

    wanted = set(range(desk.locator(INTERACTIVE).count()))
    desk.evaluate("document.activeElement.blur()")
    outlined = set()
    for _ in range(len(wanted) + 2):  # the focus starts behind what was clicked last, and wraps around
        desk.keyboard.press("Tab")
        place, outline = desk.evaluate(FOCUSED)
        outlined |= {place} if outline != "none" else set()
    assert outlined >= wanted

    phone = open_page("dark", PHONE)
    for summary in phone.query_selector_all("summary"):
        summary.click()
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert phone.evaluate(FAINT) == []
    paper = "getComputedStyle(document.body).backgroundColor"
    assert phone.evaluate(paper) != desk.evaluate(paper)

    assert heard == []
    assert {path for path in asked if not path.startswith("data:")} == {"/report.html", url}


def test_the_pages_policy_stops_what_escaping_would_let_through(browser, address) -> None:
    url, asked = address
    page = browser.new_page()
    page.goto(url.replace("report.html", "broken.html"))
    page.wait_for_load_state("networkidle")
    assert page.locator("script").count() == 1
    assert page.evaluate("window.harmed") is None
    assert asked == ["/broken.html"]
