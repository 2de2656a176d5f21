"""Stored text as HTML: formatted where that is safe, plain text otherwise."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import safe_text
from console.reading import parts

TAGS = re.compile(r"<(/?)([a-z0-9]+)([^>]*)>")
HARMLESS = {"div", "span", "bdi", "mark", "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "a"}
HARMLESS |= {"ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"}


def test_markdown_is_rendered() -> None:
    html = safe_text.formatted("# Bees\n\n- *one*\n- **two**\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n```py\nx < 1\n```")
    for piece in ("<h1>Bees</h1>", "<em>one</em>", "<strong>two</strong>", "<td>1</td>", "<code>x &lt; 1\n</code>"):
        assert piece in html, html


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[a](javascript:alert(1))",
        "[a](JaVaScRiPt:alert(1))",
        "[a](java\nscript:alert(1))",
        "[a](&#106;avascript:alert(1))",
        "[a](vbscript:x) [b](data:text/html;base64,PHN) [c](file:///etc/passwd)",
        "<javascript:alert(1)>",
        '[a](https://e.example/"onmouseover="alert(1))',
        "![a](javascript:alert(1))",
        "![x](https://e.example/p.png)",
        "[a]: javascript:alert(1)\n\n[a]",
        "<a href='javascript:x'>a</a>",
        "<style>*{}</style><iframe src=//e.example>",
        "`<script>`\n\n    <script>\n",
    ],
)
def test_hostile_markdown_becomes_text(hostile: str) -> None:
    html = safe_text.formatted(hostile)
    for _, name, attributes in TAGS.findall(html):
        assert name in HARMLESS, html
        assert not re.search(r"\bon\w+=|\bsrc=|\bstyle=", re.sub(r'"[^"]*"', '""', attributes)), html
    assert not re.search(r'href="(?!https?:|mailto:)', html), html


def test_images_are_links_so_that_nothing_is_fetched() -> None:
    html = safe_text.formatted("![a cat](https://e.example/cat.png)")
    assert 'href="https://e.example/cat.png"' in html and "image: a cat" in html and "<img" not in html
    assert "href" not in safe_text.formatted("![a cat](data:image/png;base64,AAAA)")


def test_hidden_characters_are_shown() -> None:
    assert safe_text.shown("\x1b[31mred\x00") == "␛[31mred␀"
    assert safe_text.shown("txt\u202egnp.exe") == "txt⟦U+202E⟧gnp.exe"
    assert safe_text.shown("a\u200bb\U000e0041") == "a⟦U+200B⟧b⟦U+E0041⟧"
    assert safe_text.shown("one\r\ntwo\rthree\ttab") == "one\ntwo\nthree\ttab"


def test_scripts_keep_the_characters_that_they_need() -> None:
    for text in ("می‌خواهم", "👩‍👩‍👧", "שלום\u200f!", "ไทย", "日本語"):
        assert safe_text.shown(text) == text


def test_marks_are_put_around_whole_words() -> None:
    html = safe_text.marked("Bees & <bees> beeswax BEES.", ["bees"])
    assert html.count("<mark>") == 3 and "beeswax" in html and "&lt;<mark>bees</mark>&gt;" in html


def test_an_excerpt_begins_near_the_first_hit() -> None:
    html = safe_text.excerpt("x " * 500 + "the <b>bees</b> came", ["bee"])
    assert "<mark>bees</mark>" in html and "&lt;b&gt;" in html and html.startswith("<bdi>…")


@given(st.text(max_size=200))
def test_no_text_produces_markup(text: str) -> None:
    for html in (
        safe_text.formatted(text),
        safe_text.plain(text),
        safe_text.inline(text),
        safe_text.excerpt(text, ["a"]),
    ):
        assert {name for _, name, _ in TAGS.findall(html)} <= HARMLESS
        assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e]", html)


def test_parts_of_a_message_are_distinguished() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://e.example/cat.png"}}
    payload = (
        '{"content": [{"type": "text", "text": "Look"}, %s, {"type": "input_audio", "input_audio": {"data": "AA"}}]}'
    )
    found = parts("user", "Look", payload % str(image).replace("'", '"'))
    assert [part.kind for part in found] == ["text", "link", "note"]
    assert found[1].url == "https://e.example/cat.png"

    call = '{"content": null, "tool_calls": [{"function": {"name": "look_up", "arguments": "{\\"q\\": 1}"}}]}'
    (folded,) = parts("assistant", "", call)
    assert folded.kind == "fold" and folded.title == "calls look_up" and "&quot;q&quot;: 1" in folded.html

    (result,) = parts("tool", '{"a": [1]}', '{"tool_call_id": "call_1", "content": "{}"}')
    assert result.kind == "fold" and result.title == "result call_1"


@pytest.mark.parametrize("payload", ["", "[]", "null", "{", '{"content": [1, null]}', '{"tool_calls": 3}'])
def test_an_invalid_payload_shows_the_text(payload: str) -> None:
    assert [part.kind for part in parts("user", "Hello", payload)] == ["text"]


def test_a_script_address_in_an_image_part_is_not_a_link() -> None:
    payload = '{"content": [{"type": "image_url", "image_url": {"url": "javascript:alert(1)"}}]}'
    assert [(part.kind, part.url) for part in parts("user", "", payload)] == [("note", "")]


def test_references_in_markdown_are_shown_too() -> None:
    html = safe_text.formatted("a &#x202e;gnp.exe &shy;b [x](https://a.example/ '&#8203;')")
    assert "⟦U+202E⟧gnp.exe" in html and "⟦U+00AD⟧b" in html and "⟦U+200B⟧" in html


def test_variation_selectors_that_hide_a_text_are_shown_and_those_of_ideographs_are_not() -> None:
    assert safe_text.shown("😀\U000e0150\U000e0151") == "😀⟦U+E0150⟧⟦U+E0151⟧"
    assert safe_text.shown("葛\U000e0100城") == "葛\U000e0100城"


def test_json_with_escaped_hidden_characters_has_the_same_value() -> None:
    text = json.dumps({"a": "x\u202e\x7f\U000e0041\n"}, ensure_ascii=False, indent=1)
    assert "\u202e" not in safe_text.escaped(text)
    assert json.loads(safe_text.escaped(text)) == json.loads(text)
