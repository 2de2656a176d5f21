"""Model name -> provider, key, window.

A model's provider is, in this order: the one that its prefix names (`mistral/small` is Mistral's `small`);
the one whose pattern in the file fits; Ollama for any `name:tag` (`codestral:22b` is no name of Mistral's),
unless it begins with `ft:`; the one whose built-in pattern fits; the default.

The file that RESERVOIR_PROVIDERS names adds to what is built in, or changes it:

    default = "groq"                        # otherwise openai

    [providers.groq]
    base_url = "https://api.groq.com/openai/v1"
    key_env = "GROQ_API_KEY"                # leave it out where no key is needed
    patterns = ["moonshotai/*"]             # tried before the built-in ones
    memory_role = "system"                  # or "user", where a second system message is refused

    [windows]                               # tokens, by model or by provider/model
    "groq/moonshotai/kimi-k2" = 131072

    [prices]                                # US dollars for a million tokens
    "groq/moonshotai/kimi-k2" = { input = 1.0, cached = 0.5, output = 3.0 }

RSV_..._BASE_URL wins over the file. Windows and prices that the file does not give come from the data that
`genai-prices` carries; nothing here asks the network.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from genai_prices import Usage, data_snapshot
from genai_prices.types import ModelInfo
from genai_prices.types import Provider as Catalogue

MemoryRole = Literal["system", "user"]
MILLION = Decimal(1_000_000)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    base_url: str
    """Without a slash at its end: `{base_url}/chat/completions`."""
    key: str | None = field(default=None, repr=False)
    memory_role: MemoryRole = "system"
    catalogue: str | None = None
    """Under which name genai-prices lists the provider's models."""


@dataclass(frozen=True, slots=True)
class Target:
    provider: Provider
    model: str
    """As the provider knows it."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input: Decimal
    cached: Decimal
    output: Decimal


class _BuiltIn(NamedTuple):
    base_url: str
    url_env: str
    key_env: str
    patterns: tuple[str, ...]
    memory_role: MemoryRole
    catalogue: str | None


_BUILT_IN = {
    "openai": _BuiltIn("https://api.openai.com/v1", "RSV_OPENAI_BASE_URL", "OPENAI_API_KEY", (), "system", "openai"),
    "mistral": _BuiltIn(
        "https://api.mistral.ai/v1",
        "RSV_MISTRAL_BASE_URL",
        "MISTRAL_API_KEY",
        ("mistral-*", "ministral-*", "codestral*", "devstral*", "magistral*", "open-mi*"),
        "user",
        "mistral",
    ),
    "gemini": _BuiltIn(
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "RSV_GEMINI_BASE_URL",
        "GEMINI_API_KEY",
        ("gemini-*", "models/gemini-*"),
        "system",
        "google",
    ),
    "ollama": _BuiltIn(
        "http://localhost:11434/v1",
        "RSV_OLLAMA_BASE_URL",
        "OLLAMA_API_KEY",
        ("llama*", "qwen*", "gemma*", "phi*"),
        "system",
        None,
    ),
}

_NAME_LIMIT = 256
"""Characters. Clients choose names and look-ups are remembered: nobody shall fill the memory with them."""


class Providers:
    """Which provider answers for a model, and what is known of the model. Built once."""

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

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Raises ValueError, with a sentence that says what to write instead."""
        file = _File.read(environ.get("RESERVOIR_PROVIDERS", ""))
        declared = file.providers()
        names = dict.fromkeys([*_BUILT_IN, *declared])
        providers = {name: _provider(name, declared.get(name, {}), file, environ) for name in names}
        default = file.default(providers)
        rules = [
            *((pattern, name) for name in declared for pattern in declared[name].get("patterns", ())),
            ("ft:*", default),
            ("?*:?*", "ollama"),
            *((pattern, name) for name, known in _BUILT_IN.items() for pattern in known.patterns),
        ]
        return cls(providers, default, rules, file.windows(), file.prices())

    def select(self, model: str) -> Target:
        prefix, _, rest = model.partition("/")
        if rest and prefix in self._providers:
            return Target(self._providers[prefix], rest)
        for pattern, name in self._rules:
            if fnmatchcase(model, pattern):
                return Target(self._providers[name], model)
        return Target(self.default, model)

    def window(self, target: Target) -> int | None:
        """Tokens that the model can read; None where nobody says."""
        given = _given(self._windows, target)
        if given is not None:
            return given
        known = _look_up(target.provider.catalogue, target.model)
        if target.model.startswith("ft:") and (known is None or known.context_window is None):
            # A fine-tuned model has a price of its own, and the window of the model it was made from.
            known = _look_up(target.provider.catalogue, target.model.split(":")[1])
        return known.context_window if known else None

    def cost(self, target: Target, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> Decimal | None:
        """US dollars; None where no price is known. The cached tokens are some of the input tokens."""
        cached_tokens = min(cached_tokens, input_tokens)
        given = _given(self._prices, target)
        if given is not None:
            fresh = input_tokens - cached_tokens
            spent = fresh * given.input + cached_tokens * given.cached + output_tokens * given.output
            return spent / MILLION
        known = _look_up(target.provider.catalogue, target.model)
        # A few models have a price by the hour or the page only; their tokens are not free.
        if known is None or "input_mtok" not in vars(known.get_prices(datetime.now(UTC))):
            return None
        usage = Usage(input_tokens=input_tokens, cache_read_tokens=cached_tokens, output_tokens=output_tokens)
        return known.calc_price(usage, _catalogues()[target.provider.catalogue or ""]).total_price


def _given(table: Mapping[str, T], target: Target) -> T | None:
    return table.get(f"{target.provider.name}/{target.model}", table.get(target.model))


@cache
def _catalogues() -> dict[str, Catalogue]:
    return {catalogue.id: catalogue for catalogue in data_snapshot.get_snapshot().providers}


def _look_up(catalogue: str | None, model: str) -> ModelInfo | None:
    return _search(catalogue, model) if catalogue and len(model) <= _NAME_LIMIT else None


@lru_cache(maxsize=1024)
def _search(catalogue: str, model: str) -> ModelInfo | None:
    """Takes up to 1 ms the first time. Not by genai-prices' own search, whose memory has no limit."""
    return _catalogues()[catalogue].find_model(model.removeprefix("models/"))


def _base_url(written: str, where: str) -> str:
    """With or without `/chat/completions`, and any number of slashes after it."""
    url = written.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    wanted = f"{where}: write an address such as https://api.example.com/v1"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018, raises ValueError where it is no number
    except ValueError:
        raise ValueError(f"{wanted}, its port a number up to 65535 if it has one.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"{wanted}, which begins with http:// or https://.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{wanted}, without a user, a password, a query or a fragment.")
    return url


def _provider(name: str, declared: Mapping[str, Any], file: "_File", environ: Mapping[str, str]) -> Provider:
    known = _BUILT_IN.get(name)
    from_environment = environ.get(known.url_env, "").strip() if known else ""
    if known and from_environment:
        base_url = _base_url(from_environment, known.url_env)
    elif "base_url" in declared:
        base_url = _base_url(declared["base_url"], file.place(f"providers.{name}.base_url"))
    elif known:
        base_url = known.base_url
    else:
        raise file.wrong(f"providers.{name}", 'its base_url, as base_url = "https://api.example.com/v1"')
    # A key goes to the provider it is named for, and to no other: there is no key for all.
    key_env = declared.get("key_env", known.key_env if known else "")
    key = environ.get(key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{key_env}: write the key alone, letters, digits and signs of ASCII in one line.")
    return Provider(
        name=name,
        base_url=base_url,
        key=key or None,
        memory_role=declared.get("memory_role", known.memory_role if known else "system"),
        catalogue=known.catalogue if known else None,
    )


@dataclass(frozen=True, slots=True)
class _File:
    """What RESERVOIR_PROVIDERS says, each part checked as it is taken out."""

    path: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: str) -> Self:
        path = path.strip()
        if not path:
            return cls("", {})
        try:
            content = tomllib.loads(Path(path).read_text("utf-8"), parse_float=Decimal)
        except OSError as error:
            raise ValueError(
                f"RESERVOIR_PROVIDERS: {path} cannot be read ({error.strerror}): name a TOML file."
            ) from error
        except ValueError as error:
            raise ValueError(f"RESERVOIR_PROVIDERS: {path} is not TOML in UTF-8: {error}.") from error
        file = cls(path, content)
        file.only("the file", content, ("default", "providers", "windows", "prices"))
        return file

    def place(self, where: str) -> str:
        return f"{self.path}, {where}"

    def wrong(self, where: str, wanted: str) -> ValueError:
        return ValueError(f"{self.place(where)}: write {wanted}.")

    def only(self, where: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
        for key in table:
            if key not in allowed:
                raise self.wrong(where, f"{', '.join(allowed)}; {key!r} is none of them")

    def table(self, where: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        table = content.get(where.rpartition(".")[2], {})
        if not isinstance(table, dict):
            raise self.wrong(where, f"a table, as [{where}]")
        return table

    def default(self, providers: Mapping[str, Provider]) -> str:
        name = self.content.get("default", "openai")
        if not isinstance(name, str) or name not in providers:
            raise self.wrong("default", f"one of {', '.join(providers)}")
        return name

    def providers(self) -> Mapping[str, Mapping[str, Any]]:
        declared = self.table("providers", self.content)
        for name in declared:
            where = f"providers.{name}"
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
                raise self.wrong(where, "a name of a-z, 0-9, - and _, to stand before the / of a model")
            self._check_provider(where, self.table(where, declared))
        return declared

    def _check_provider(self, where: str, table: Mapping[str, Any]) -> None:
        self.only(where, table, ("base_url", "key_env", "patterns", "memory_role"))
        for key in ("base_url", "key_env"):
            if not isinstance(table.get(key, ""), str):
                raise self.wrong(f"{where}.{key}", "text in quotes")
        patterns = table.get("patterns", [])
        if not isinstance(patterns, list) or not all(isinstance(one, str) and one for one in patterns):
            raise self.wrong(f"{where}.patterns", 'a list of patterns, as ["deepseek-*"]')
        if table.get("memory_role", "system") not in ("system", "user"):
            raise self.wrong(f"{where}.memory_role", '"system" or "user"')

    def windows(self) -> Mapping[str, int]:
        windows = self.table("windows", self.content)
        for model, tokens in windows.items():
            if type(tokens) is not int or tokens < 1:
                raise self.wrong(f'windows."{model}"', "a number of tokens, as 131072")
        return windows

    def prices(self) -> Mapping[str, Price]:
        prices = self.table("prices", self.content)
        return {model: self._price(f'prices."{model}"', price) for model, price in prices.items()}

    def _price(self, where: str, price: Any) -> Price:
        wanted = "US dollars for a million tokens, as { input = 1.0, cached = 0.5, output = 3.0 }"
        if not isinstance(price, dict) or not {"input", "output"} <= price.keys():
            raise self.wrong(where, wanted)
        self.only(where, price, ("input", "cached", "output"))
        if not all(_is_amount(one) for one in price.values()):
            raise self.wrong(where, wanted)
        given = {kind: Decimal(value) for kind, value in price.items()}
        return Price(input=given["input"], cached=given.get("cached", given["input"]), output=given["output"])


def _is_amount(value: Any) -> bool:
    return type(value) in (int, Decimal) and Decimal(value).is_finite() and value >= 0
