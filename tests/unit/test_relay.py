"""What an exchange cost, from figures that may be anything."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from proxy.answer import relay
from proxy.providers.registry import Providers, Target


class Dear(Providers):
    """A dollar for each token."""

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
def test_a_cost_that_nobody_would_have_is_unknown(usage: dict[str, Any], dollars: Decimal | None) -> None:
    target: Any = None
    assert relay.cost(Dear(), target, usage) == dollars
