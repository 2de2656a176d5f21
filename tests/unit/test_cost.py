"""The cost of an exchange, from arbitrary usage."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage, data_snapshot

from proxy.providers import catalogue
from proxy.providers.cost import exchange_cost
from proxy.providers.registry import Providers, Target


class Expensive(Providers):
    """One dollar a token."""

    def __init__(self) -> None:
        pass

    def cost(self, target: Target, prompt: int, completion: int, cached: int = 0) -> Decimal | None:
        return Decimal(prompt + completion)


@pytest.mark.parametrize(
    ("usage", "dollars"),
    [
        ({"prompt_tokens": 2, "completion_tokens": 3}, Decimal(5)),
        ({"prompt_tokens": 2**31 - 1, "completion_tokens": 2**31 - 1}, None),
        ({"prompt_tokens": 1_000_000}, None),
        ({"prompt_tokens": "2"}, None),
        ({}, None),
    ],
)
def test_an_impossible_cost_is_unknown(usage: dict[str, Any], dollars: Decimal | None) -> None:
    target: Any = None
    assert exchange_cost(Expensive(), target, usage) == dollars


@pytest.mark.parametrize(("fresh", "cached", "output"), [(60, 40, 25), (1_234_567, 0, 999), (0, 1_234_567, 7)])
def test_each_model_of_the_catalogue_costs_what_its_library_says(fresh: int, cached: int, output: int) -> None:
    usage = Usage(input_tokens=fresh + cached, cache_read_tokens=cached, output_tokens=output)
    compared = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            known = provider.find_model(model.id)
            dollars = catalogue.cost(provider.id, model.id, fresh + cached, output, cached)
            if known is not None and dollars is not None:
                assert dollars == known.calc_price(usage, provider).total_price, f"{provider.id}/{model.id}"
                compared += 1
    assert compared > 1_000
