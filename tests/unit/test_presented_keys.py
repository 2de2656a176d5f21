"""Access keys are taken out of a request, wherever they stand."""

from __future__ import annotations

import pytest

from access.key_format import make
from proxy.admission.presented import take_out

KEY = make("app").text
OTHER = make("app").text
OWN = (b"authorization", b"Bearer sk-the-apps-own")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", "Bearer {}"),
        ("Authorization", "bearer  {}"),
        ("authorization", "{}"),
        ("x-api-key", "{}"),
        ("X-API-Key", " {} "),
        ("api-key", "{}"),
        ("x-goog-api-key", "{}"),
        ("x-reservoir-key", "{}"),
        ("X-Reservoir-Key", "{}"),
    ],
)
def test_a_key_is_found_and_no_longer_sent(name: str, value: str) -> None:
    headers = [(b"host", b"localhost"), (name.encode(), value.format(KEY).encode())]
    assert take_out(headers) == ([(b"host", b"localhost")], frozenset({KEY}))


@pytest.mark.parametrize("name", ["x-reservoir-key", "x-api-key"])
def test_a_key_stands_beside_the_apps_own(name: str) -> None:
    assert take_out([OWN, (name.encode(), KEY.encode())]) == ([OWN], frozenset({KEY}))


@pytest.mark.parametrize("name", ["user-agent", "cookie", "x-custom", "referer"])
def test_a_key_in_another_header_is_dropped_and_does_not_count(name: str) -> None:
    assert take_out([OWN, (name.encode(), f"a={KEY}; b".encode())]) == ([OWN], frozenset())


def test_the_same_key_twice_is_one_and_two_keys_are_two() -> None:
    again = [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", KEY.encode())]
    assert take_out(again).keys == {KEY}
    assert take_out([*again, (b"x-reservoir-key", OTHER.encode())]).keys == {KEY, OTHER}


@pytest.mark.parametrize(
    "wrong", ["rsv_", "rsv_app_short", KEY[:-1], KEY + "x", ""], ids=["begun", "short", "cut", "long", "empty"]
)
def test_what_is_meant_as_a_key_counts_as_one(wrong: str) -> None:
    assert take_out([(b"x-reservoir-key", wrong.encode())]) == ([], frozenset({wrong}))
    if wrong:
        assert take_out([(b"authorization", f"Bearer {wrong}".encode())]) == ([], frozenset({wrong}))


def test_other_headers_stay_as_they_are() -> None:
    headers = [
        OWN,
        (b"x-about", b"rsv_ is a prefix"),
        (b"x-api-key", b"sk-ant-own"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
    ]
    assert take_out(headers) == (headers, frozenset())
