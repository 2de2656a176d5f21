"""Prices and windows of models. Those that the configuration lacks come from the data that `genai-prices` carries.

Nothing here uses the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from genai_prices import Usage, data_snapshot
from genai_prices.types import ModelInfo
from genai_prices.types import Provider as Catalogue

MILLION = Decimal(1_000_000)
NAME_LIMIT = 256
"""Characters. Clients choose names, and look-ups are cached: long names must not fill the memory."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input: Decimal
    cached: Decimal
    output: Decimal

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int) -> Decimal:
        """US dollars; the cached tokens are part of the input tokens."""
        fresh = input_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * self.cached + output_tokens * self.output) / MILLION


def window(catalogue: str | None, model: str) -> int | None:
    """Tokens that a model can read; None where the catalogue, or the model in it, is not known."""
    known = _look_up(catalogue, model)
    if model.startswith("ft:") and (known is None or known.context_window is None):
        # A fine-tuned model has a price of its own, and the window of the model it was made from.
        known = _look_up(catalogue, model.split(":")[1])
    return known.context_window if known else None


def cost(
    catalogue: str | None, model: str, input_tokens: int, output_tokens: int, cached_tokens: int
) -> Decimal | None:
    """US dollars at today's price; None where no price is known."""
    known = _look_up(catalogue, model)
    prices = vars(known.get_prices(datetime.now(UTC))) if known else {}
    # A few models are priced by the hour or the page only; their tokens are not free.
    if catalogue is None or known is None or "input_mtok" not in prices:
        return None
    if flat := _flat(prices):  # almost every model; the library's general way takes as long as all of our routing
        return flat.cost(input_tokens, output_tokens, cached_tokens)
    usage = Usage(input_tokens=input_tokens, cache_read_tokens=cached_tokens, output_tokens=output_tokens)
    return known.calc_price(usage, _catalogues()[catalogue]).total_price


def _flat(prices: Mapping[str, Any]) -> Price | None:
    """The prices of a model that charges for each token alone, and the same for each; None for others."""
    if "requests_kcount" in prices:
        return None
    fresh, output = prices["input_mtok"], prices.get("output_mtok")
    cached = prices.get("cache_read_mtok", fresh)
    if isinstance(fresh, Decimal) and isinstance(cached, Decimal) and isinstance(output, Decimal):
        return Price(fresh, cached, output)
    return None


@cache
def _catalogues() -> dict[str, Catalogue]:
    return {catalogue.id: catalogue for catalogue in data_snapshot.get_snapshot().providers}


def _look_up(catalogue: str | None, model: str) -> ModelInfo | None:
    return _search(catalogue, model) if catalogue and len(model) <= NAME_LIMIT else None


@lru_cache(maxsize=1024)
def _search(catalogue: str, model: str) -> ModelInfo | None:
    """Takes up to 1 ms the first time. genai-prices' own search is not used: its cache has no limit."""
    return _catalogues()[catalogue].find_model(model.removeprefix("models/"))
