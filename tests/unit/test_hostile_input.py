"""Inputs that were answered with 500 or not at all: cursors, and a provider's header fields."""

from __future__ import annotations

import base64

import pytest

from conversations.lookup import BadCursor, _name, _read_cursor, _row_id
from proxy.upstream import relayed


@pytest.mark.parametrize(
    "text", ["[1e999]", "[" * 30_000, '["\\ud83d"]', '["a\\u0000"]', "[1" + "0" * 5000 + "]", "[]", "{}", "5", "\x00"]
)
@pytest.mark.parametrize("kind", [_name, _row_id])
def test_a_cursor_that_came_from_no_page_is_refused(text: str, kind: type) -> None:
    if kind is _name and text == "[1e999]":
        return  # "inf" is a name
    with pytest.raises(BadCursor):
        _read_cursor(base64.urlsafe_b64encode(text.encode()).decode(), kind)


def test_fields_about_an_origin_and_bytes_that_no_field_can_hold_are_not_relayed() -> None:
    kept = [(b"content-type", b"text/html"), (b"x-latin", b"\xff"), (b"x-request-id", b"1")]
    dropped = [(b"X-Bell", b"\x07"), (b"bad name", b"x"), (b"", b"x"), (b"x-nul", b"a\x00")]
    names = "service-worker-allowed clear-site-data www-authenticate refresh link nel report-to content-security-policy"
    origin = [(name.title().encode(), b"x") for name in names.split()]
    assert relayed([*kept, *dropped, *origin]) == kept
