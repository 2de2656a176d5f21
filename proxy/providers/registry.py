"""Which provider answers for a model, and what is known of the model. Built once, from the configuration.

A model's provider is, in this order: the one with a matching pattern in the file; the one that its prefix names
(`mistral/small` is Mistral's `small`); the one with a matching built-in pattern; the default. A client's key goes with
its request, so a name alone never moves a request to a host that the operator did not set up:

- `openai/gpt-4o` stays at the default provider. OpenAI itself knows no prefix, so there it is taken off; a gateway
  behind the base URL of `openai`, or another default, gets the name whole.
- A gateway has names of its own, with slashes and colons in them: behind one, only the prefixes and patterns of
  providers that were set up count.
- `name:tag` means Ollama where no gateway claims it and Ollama is on this machine or was set up; `ft:…` never does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from proxy.errors import BadRequest
from proxy.prompt.chat import MemoryRole
from proxy.providers import catalogue
from proxy.providers.built_in import ALL_DIALECTS
from proxy.providers.catalogue import Price

T = TypeVar("T")

_OPENAIS_OWN = re.compile(r"(?:[\w.-]+/)*(?:ft:)?(?:gpt-(?!oss)|chatgpt-|o[134](?:$|-))")

DECLARED = "a pattern in the file that RESERVOIR_PROVIDERS names"
BUILT_IN = "a built-in pattern"


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
    dialects: frozenset[str] = frozenset(ALL_DIALECTS)
    """The APIs that it speaks."""
    is_set_up: bool = False
    """Whether the operator named its address or its key."""


@dataclass(frozen=True, slots=True)
class Target:
    """The provider that answers a request, the model as that provider names it, and why it is this provider."""

    provider: Provider
    model: str
    why: str = field(default="", compare=False)

    @property
    def memory_role(self) -> MemoryRole:
        """Where the memories stand. OpenAI's own models, by whatever gateway, accept a system message at any place; of
        no other model is that known.
        """
        return self.provider.memory_role or ("system" if _OPENAIS_OWN.match(self.model) else "inside")


class Rule(NamedTuple):
    """Models whose name matches `pattern` go to `provider`."""

    pattern: str
    provider: str
    why: str

    def matches(self, model: str) -> bool:
        """Built-in patterns are for names as their provider writes them: a gateway's have more slashes and tags."""
        if not fnmatchcase(model, self.pattern):
            return False
        if self.why != BUILT_IN:
            return True
        return model.count("/") == self.pattern.count("/") and (self.provider == "ollama" or ":" not in model)


class Providers:
    """All configured providers. `rules` are tried in order; `prefixes` are the providers that a prefix may select.

    `windows` and `prices` are those of the configuration, by `model` or `provider/model`; they win over the catalogue.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default: str,
        rules: Sequence[Rule] = (),
        prefixes: Collection[str] = (),
        windows: Mapping[str, int] | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self.default = providers[default]
        self._providers = providers
        self._rules = rules
        self._prefixes = prefixes
        self._windows = windows or {}
        self._prices = prices or {}

    def all(self) -> tuple[Provider, ...]:
        """Every provider, in the order of the configuration."""
        return tuple(self._providers.values())

    def speaking(self, dialect: str, model: str) -> Target:
        """The provider for a model's name in a request of this API. Raises BadRequest where it does not speak it.

        A request that names no model goes to the first that does, if the default does not.
        """
        target = self.select(model)
        if dialect in target.provider.dialects:
            return target
        other = next((one for one in self._providers.values() if dialect in one.dialects), None)
        if other is not None and not model:
            return Target(other, model, f"it speaks {dialect}")
        raise BadRequest(
            f"The provider {target.provider.name}, which answers for the model {model[:100]!r}, does not speak this "
            f"API: name a model of another provider, or add {dialect} to the dialects of this one in the file that "
            "RESERVOIR_PROVIDERS names.",
            code="dialect_not_spoken",
            param="model",
        )

    def select(self, model: str) -> Target:
        """The provider for a model's name as the client wrote it."""
        rules = [rule for rule in self._rules if rule.matches(model)]
        if rules and rules[0].why == DECLARED:
            return self._target(rules[0], model)
        prefix, _, rest = model.partition("/")
        if rest and prefix in self._prefixes:
            return Target(self._providers[prefix], rest, f"its prefix {prefix}/ names the provider")
        if rules:
            return self._target(rules[0], model)
        return Target(self.default, model, "no pattern matches it, so it goes to the default provider")

    def _target(self, rule: Rule, model: str) -> Target:
        return Target(self._providers[rule.provider], model, f"it matches {rule.pattern}, {rule.why}")

    def target(self, provider: str, model: str) -> Target | None:
        """A model of the provider with this name; None where no such provider is configured."""
        known = self._providers.get(provider)
        return Target(known, model) if known else None

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
