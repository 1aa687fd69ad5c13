import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrec.stages.report.markup import Element, clean, clipped, el, rendered

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title>",
    "]]>",
    "<!--",
    "&lt;",
)
words = st.text(st.characters()) | st.sampled_from(HOSTILE)  # halves of surrogate pairs among them


def document(body: Element) -> str:
    return rendered(el("html", el("head"), el("body", body)), "p { color: red; }")


@given(words, words)
def test_any_text_comes_back_as_text_and_as_nothing_else(inner: str, label: str) -> None:
    from html.parser import HTMLParser

    seen: list[tuple[str, list[tuple[str, str | None]]]] = []
    texts: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, attrs))

        def handle_data(self, data):
            texts.append(data)

        def handle_comment(self, data):
            raise AssertionError(data)

    text = document(el("p", inner, aria_label=label))
    text.encode("utf-8")
    Reader().feed(text)
    assert [tag for tag, _ in seen] == ["html", "head", "style", "body", "p"]
    assert seen[-1][1] == [("aria-label", clean(label))]
    assert "".join(texts) == "\n" + "p { color: red; }" + clean(inner) + "\n"


def test_what_turns_text_around_or_cannot_be_shown_is_replaced() -> None:
    assert clean("a\x00b\u202ec\ud800d\x85e\ufffe") == "a\ufffdb\ufffdc\ufffdd\ufffde\ufffd"
    assert clean("one\r\ntwo\u2028three\tfour") == "one\n\ntwo\nthree\tfour"
    assert clean("שלום 日本 👩‍🚀 é") == "שלום 日本 👩‍🚀 é"


def test_long_names_are_cut_to_one_short_line() -> None:
    assert clipped("  a\n b ") == "a b"
    assert clipped("x" * 10_000, 20) == "x" * 19 + "…"


@pytest.mark.parametrize(
    ("tag", "attributes"),
    [
        ("script", {}),
        ("iframe", {}),
        ("p", {"onclick": "x()"}),
        ("p", {"style": "color: red"}),
        ("a", {"href": "javascript:alert(1)"}),
        ("a", {"href": "//example.com"}),
        ("a", {"href": "#x y"}),
        ("img", {"src": "x.png"}),
        ("img", {"src": "data:image/svg+xml;base64,AAAA"}),
        ("img", {"src": 'data:image/png;base64,AA"onerror='}),
    ],
)
def test_what_a_report_has_no_use_for_cannot_be_made(tag: str, attributes: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        el(tag, **attributes)


def test_a_style_sheet_cannot_end_itself() -> None:
    with pytest.raises(ValueError):
        rendered(el("html", el("head")), "</style><script>")
