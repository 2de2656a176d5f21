"""The cost of an exchange, from the usage that the provider reports."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from proxy.providers.registry import Providers, Target

HIGHEST = Decimal(1_000_000)  # US dollars; a higher cost means that the usage is wrong


def exchange_cost(providers: Providers, target: Target, usage: Mapping[str, Any]) -> Decimal | None:
    """US dollars for a `usage` object of the OpenAI API: as the provider states them, else by the model's price.

    None where neither is known.
    """
    if (stated := _stated(usage)) is not None:
        return Decimal(str(stated))
    details = usage.get("prompt_tokens_details")
    reported = (
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        details.get("cached_tokens") if isinstance(details, dict) else 0,
    )
    counts = [n if type(n) is int and 0 <= n < 2**31 else 0 for n in reported]
    dollars = providers.cost(target, *counts) if any(counts) else None
    return dollars if dollars is not None and dollars < HIGHEST else None


def _stated(usage: Mapping[str, Any]) -> float | None:
    """US dollars as the provider states them (OpenRouter: `cost`; Perplexity: `cost.total_cost`); None without."""
    cost = usage.get("cost")
    if isinstance(cost, dict):
        cost = cost.get("total_cost")
    return float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) and 0 <= cost < 1e6 else None
