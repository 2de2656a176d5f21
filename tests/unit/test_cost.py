"""The cost of an exchange, from arbitrary usage."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

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
