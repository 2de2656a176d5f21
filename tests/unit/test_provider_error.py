"""Errors of providers, in any form."""

from __future__ import annotations

import json

import pytest

from proxy.answer.provider_error import error_line, error_line_of_body, redacted


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ({"error": {"message": "No such model.", "code": "model_not_found"}}, "model_not_found: No such model."),
        ({"error": "model not found"}, "model not found"),
        ([{"error": {"code": 400, "message": "missing a signature", "status": "INVALID"}}], "400: missing a signature"),
        ({"object": "error", "message": "too long", "type": "BadRequestError"}, "BadRequestError: too long"),
        ({"detail": "Not authenticated"}, "Not authenticated"),
        ({"detail": [{"loc": ["body", 0], "msg": "field required"}]}, "body.0: field required"),
        ({"message": {"detail": [{"loc": ["body"], "msg": "no"}]}}, "body: no"),
        ({"code": 7}, '{"code": 7}'),
        ({}, "{}"),
    ],
)
def test_an_error_in_any_words_is_one_line(body: object, line: str) -> None:
    assert error_line_of_body(json.dumps(body).encode()) == line


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"upstream\n connect error", "upstream connect error"),
        (b"<html><head><style>b{}</style></head><h1>502 Bad  Gateway</h1></html>", "502 Bad Gateway"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_an_error_that_is_not_json_is_kept_as_text(body: bytes, line: str) -> None:
    assert error_line_of_body(body) == line


def test_a_long_error_is_cut() -> None:
    assert len(error_line({"message": "x" * 10_000})) == 500
    assert len(error_line_of_body(b"<" * 1_000_000)) <= 500


def test_a_key_in_an_error_becomes_dots() -> None:
    assert redacted("Incorrect API key: sk-secret-123.", ["sk-secret-123"]) == "Incorrect API key: …."
    assert redacted("a word", ["a"]) == "a word"
