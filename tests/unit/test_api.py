"""The answer to a client when Reservoir itself fails unexpectedly."""

from __future__ import annotations

import json

import pytest
from django.test import RequestFactory

from proxy.api import fail


def test_an_unexpected_error_is_a_500_in_openais_shape_and_the_log_quotes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(said: str) -> None:
        raise RuntimeError(said)

    with pytest.raises(RuntimeError) as caught:
        broken("what " + "the user said")
    answer = fail(RequestFactory().get("/v1/x"), caught.value)
    assert answer.status_code == 500
    assert set(json.loads(answer.content)["error"]) == {"message", "type", "param", "code"}  # type: ignore[attr-defined]
    assert "RuntimeError" in caplog.text and "in broken" in caplog.text
    assert "what the user said" not in caplog.text
