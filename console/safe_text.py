"""Stored text -> safe HTML. The text is untrusted, so its HTML, scripts and images have no effect, its links lead only
to the web or to mail, and characters that hide or reorder the text beside them are made visible. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import nh3
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

# Longer texts are shown as written: rendering them would take too long.
MARKDOWN_CHARACTERS = 20_000

# Invisible, or turning the direction of what follows: C0 and C1 controls, bidi embeddings, overrides and isolates,
# zero-width spaces, and the tags and variation selectors that hide instructions. Joiners and plain direction marks
# belong to scripts, and a variation selector to the ideograph before it.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u2028\u2029\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
    "|(?<![\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\U000e0100-\U000e01ef]"
)
_LINE_ENDS = re.compile(r"\r\n?")
_SCHEMES = ("http", "https", "mailto")

_TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "span"),
}
_ATTRIBUTES = {"a": {"href", "class", "title"}, "ol": {"start"}, "span": {"class"}}


def shown(text: str) -> str:
    """The text with its hidden characters made visible: ESC as ␛, U+202E as ⟦U+202E⟧."""
    if text.isascii() and text.isprintable():
        return text
    return _HIDDEN.sub(_mark, _LINE_ENDS.sub("\n", text))


def escaped(json_text: str) -> str:
    """The same JSON with its hidden characters escaped, so that pasting it gives exactly what is shown."""
    return _HIDDEN.sub(_escape, json_text)


def plain(text: str) -> SafeString:
    """The text as written; white space is kept by the style sheet."""
    return format_html('<div class="text plain" dir="auto">{}</div>', shown(text))


def inline(text: str, length: int = 160) -> SafeString:
    """The beginning of a text on one line."""
    words = " ".join(text[: 4 * length].split())
    cut = words if len(words) <= length else words[: length - 1].rstrip() + "…"
    return format_html("<bdi>{}</bdi>", shown(cut))


def formatted(text: str) -> SafeString:
    """The text as Markdown: headings, lists, tables, code. HTML in it is shown as text, images as links."""
    if len(text) > MARKDOWN_CHARACTERS:
        return plain(text)
    # Call shown() again: Markdown turns references such as &#x202e; into characters, which must be visible too.
    html = nh3.clean(
        shown(_MARKDOWN.render(shown(text))),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=set(_SCHEMES),
        link_rel="noopener noreferrer nofollow",
    )
    return mark_safe(f'<div class="text" dir="auto">{html}</div>')  # noqa: S308, it has just been cleaned


def web_address(url: object) -> str:
    """The address if it leads to the web, else an empty text."""
    if not isinstance(url, str) or len(url) > 4096:
        return ""
    try:
        return url if urlsplit(url.strip()).scheme.lower() in ("http", "https") else ""
    except ValueError:
        return ""


def marked(text: str, words: Iterable[str], notes: Mapping[str, Sequence[int]] | None = None) -> SafeString:
    """The text as written, with these words (whole, in any case) marked; `notes` are numbers to stand beside a word."""
    text = shown(text)
    wanted = sorted({word for word in words if word}, key=len, reverse=True)
    if not wanted:
        return format_html('<div class="text plain" dir="auto">{}</div>', text)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, wanted))})(?!\w)", re.IGNORECASE)
    return mark_safe(f'<div class="text plain" dir="auto">{_with_marks(text, pattern, notes or {})}</div>')  # noqa: S308, escaped there


def excerpt(text: str, stems: Sequence[str], length: int = 320) -> SafeString:
    """The part of a text around the first word that begins like one of the stems, with such words marked."""
    text = " ".join(text.split())
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, stems))})\w*", re.IGNORECASE) if stems else None
    first = pattern.search(text) if pattern else None
    start = max(0, first.start() - length // 3) if first else 0
    cut = shown(text[start : start + length])
    html = _with_marks(cut, pattern, {}) if pattern else escape(cut)
    before, after = "…" if start else "", "…" if start + length < len(text) else ""
    return mark_safe(f"<bdi>{before}{html}{after}</bdi>")  # noqa: S308, escaped there


def _with_marks(text: str, pattern: re.Pattern[str], notes: Mapping[str, Sequence[int]]) -> str:
    html, at = [], 0
    for found in pattern.finditer(text):
        html += [escape(text[at : found.start()]), "<mark>", escape(found.group()), "</mark>"]
        if numbers := notes.get(found.group().casefold()):
            html.append(f"<sup>{', '.join(map(str, numbers))}</sup>")
        at = found.end()
    return "".join([*html, escape(text[at:])])


def _escape(found: re.Match[str]) -> str:
    if found.group() in "\n\r\x0b\x0c":  # white space between its values
        return found.group()
    units = found.group().encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _mark(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟦U+{code:04X}⟧"


class _Renderer(RendererHTML):
    """Images become links: loading one would tell its server who reads this page, and when."""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        token = tokens[idx]
        source = str(token.attrs.get("src") or "")
        label = f"image: {token.content or source[:80]}"
        if not web_address(source):
            return f'<span class="image">{escape(label)}</span>'
        return f'<a class="image" href="{escape(source)}">{escape(label)}</a>'


def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable(["table", "strikethrough"])
    markdown.validateLink = _may_be_linked  # type: ignore[method-assign]
    return markdown


def _may_be_linked(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme.lower() in (*_SCHEMES, "data")  # an inline image is named, never linked
    except ValueError:
        return False


_MARKDOWN = _markdown()
