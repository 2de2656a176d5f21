"""Tokens and cost, as different providers report them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from proxy.answer.usage import usage_in
from proxy.providers import configuration
from proxy.providers.cost import exchange_cost


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 7}}, (5, 7, None)),
        ({"x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 7}}}, (5, 7, None)),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 7, "prompt_cache_hit_tokens": 3}}, (5, 7, 3)),
        ({"usage": {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 30}}, (35, 7, 30)),
        (
            {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 7, "cachedContentTokenCount": 2}},
            (5, 7, 2),
        ),
    ],
)
def test_tokens_are_read_under_any_names(fields: dict[str, object], counts: tuple[int, int, int | None]) -> None:
    usage = usage_in(fields)
    assert usage is not None
    details = usage.get("prompt_tokens_details") or {}
    assert (usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens")) == counts


@pytest.mark.parametrize("fields", [{}, {"usage": None}, {"usage": []}, {"usage": {}}, {"x_groq": 1}])
def test_missing_usage_is_unknown(fields: dict[str, object]) -> None:
    assert usage_in(fields) is None


@pytest.mark.parametrize("wrong", [-1, 1.5, "7", True, 2**40])
def test_absurd_counts_are_ignored(wrong: object) -> None:
    assert usage_in({"usage": {"input_tokens": wrong}}) == {"input_tokens": wrong}


@pytest.mark.parametrize(
    ("cost", "dollars"),
    [(0.00123, Decimal("0.00123")), ({"total_cost": 0.006}, Decimal("0.006")), (-1, None), (True, None), ("1", None)],
)
def test_a_cost_stated_by_the_provider_is_used(cost: object, dollars: Decimal | None) -> None:
    providers = configuration.from_environment({})
    assert exchange_cost(providers, providers.select("some-model"), {"prompt_tokens": 5, "cost": cost}) == dollars
