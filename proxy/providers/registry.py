"""Which provider answers for a model, and what is known of the model. Built once, from the configuration.

A model's provider is, in this order: the one that its prefix names (`mistral/small` is Mistral's `small`); the one
with a matching pattern in the file; Ollama for any `name:tag` (`codestral:22b` is not Mistral's), unless the name
begins with `ft:`; the one with a matching built-in pattern; the default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TypeVar

from proxy.prompt.chat import MemoryRole
from proxy.providers import catalogue
from proxy.providers.catalogue import Price

T = TypeVar("T")

_OPENAIS_OWN = re.compile(r"(?:[\w.-]+/)*(?:ft:)?(?:gpt-(?!oss)|chatgpt-|o[134](?:$|-))")


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    base_url: str
    """Without a slash at its end: `{base_url}/chat/completions`."""
    key: str | None = field(default=None, repr=False)
    key_env: str = ""
    """The environment variable that holds its key; empty for a provider without one."""
    memory_role: MemoryRole | None = None
    """None: by the model, see Target.memory_role."""
    catalogue: str | None = None
    """The name under which genai-prices lists the provider's models."""


@dataclass(frozen=True, slots=True)
class Target:
    """The provider that answers a request, and the model as that provider names it."""

    provider: Provider
    model: str

    @property
    def memory_role(self) -> MemoryRole:
        """Where the memories stand. OpenAI's own models, by whatever gateway, accept a system message at any place; of
        no other model is that known.
        """
        return self.provider.memory_role or ("system" if _OPENAIS_OWN.match(self.model) else "inside")


class Providers:
    """All configured providers. `rules` are patterns of model names with the names of their providers, in order.

    `windows` and `prices` are those of the configuration, by `model` or `provider/model`; they win over the catalogue.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default: str,
        rules: Sequence[tuple[str, str]] = (),
        windows: Mapping[str, int] | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.default = providers[default]
        self._providers = providers
        self._rules = rules
        self._windows = windows or {}
        self._prices = prices or {}

    def select(self, model: str) -> Target:
        """The provider for a model's name as the client wrote it."""
        prefix, _, rest = model.partition("/")
        if rest and prefix in self._providers:
            return Target(self._providers[prefix], rest)
        for pattern, name in self._rules:
            if fnmatchcase(model, pattern):
                return Target(self._providers[name], model)
        return Target(self.default, model)

    def key_variable(self, provider: str) -> str:
        """The environment variable that holds a provider's key; empty for an unknown provider or one without a key."""
        known = self._providers.get(provider)
        return known.key_env if known else ""

    def window(self, target: Target) -> int | None:
        """Tokens that the model can read; None where that is not known."""
        configured = _configured(self._windows, target)
        return catalogue.window(target.provider.catalogue, target.model) if configured is None else configured

    def cost(self, target: Target, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal | None:
        """US dollars; None where no price is known. The cached tokens are part of the input tokens."""
        cached_tokens = min(cached_tokens, input_tokens)
        price = _configured(self._prices, target)
        if price is not None:
            return price.cost(input_tokens, output_tokens, cached_tokens)
        return catalogue.cost(target.provider.catalogue, target.model, input_tokens, output_tokens, cached_tokens)


def _configured(table: Mapping[str, T], target: Target) -> T | None:
    return table.get(f"{target.provider.name}/{target.model}", table.get(target.model))
