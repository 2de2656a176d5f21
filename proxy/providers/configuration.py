"""The environment, and the file that RESERVOIR_PROVIDERS names -> Providers.

The file adds to the built-in providers or changes them:

    default = "groq"                        # otherwise openai

    [providers.groq]
    base_url = "https://api.groq.com/openai/v1"
    key_env = "GROQ_API_KEY"                # leave it out where no key is needed
    patterns = ["moonshotai/*"]             # tried before the built-in ones
    dialects = ["chat_completions"]         # the APIs that it speaks; all without this line
    memory_role = "inside"                  # the last user message; or "system", "user": a message of its own before it

    [windows]                               # tokens, by model or by provider/model
    "groq/moonshotai/kimi-k2" = 131072

    [prices]                                # US dollars for a million tokens
    "groq/moonshotai/kimi-k2" = { input = 1.0, cached = 0.5, output = 3.0 }

RSV_..._BASE_URL wins over the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from proxy.providers.built_in import ALL_DIALECTS, BUILT_IN
from proxy.providers.providers_file import ProvidersFile
from proxy.providers.registry import BUILT_IN as BUILT_IN_PATTERN
from proxy.providers.registry import DECLARED, Provider, Providers, Rule

VARIABLES = ("RESERVOIR_PROVIDERS", *(known.url_env for known in BUILT_IN.values()))
"""The environment variables that are read here, besides those of keys."""


def from_environment(environ: Mapping[str, str]) -> Providers:
    """Raises ValueError, with a sentence that says what to write instead."""
    file = ProvidersFile.read(environ.get("RESERVOIR_PROVIDERS", ""))
    declared = file.providers()
    names = dict.fromkeys([*BUILT_IN, *declared])
    providers = {name: _provider(name, declared.get(name, {}), file, environ) for name in names}
    default = file.default(providers)
    gateway = not _is_openai(providers[default].base_url)
    patterns = ((pattern, name) for name in declared for pattern in declared[name].get("patterns", ()))
    prefixes = {name for name, one in providers.items() if name != "openai" and (not gateway or one.is_set_up)}
    if not gateway or (default != "openai" and "openai" in declared):
        prefixes.add("openai")
    rules = [
        *(Rule(pattern, name, DECLARED) for pattern, name in patterns),
        *_built_in_rules(providers, default, gateway=gateway),
    ]
    return Providers(providers, default, rules, prefixes, file.windows(), file.prices())


def _built_in_rules(providers: Mapping[str, Provider], default: str, *, gateway: bool) -> Iterator[Rule]:
    """What the names of models say. No pattern is meant for a name with a slash or, but for Ollama's, a tag."""
    yield Rule("ft:*", default, "a fine-tuned model of the default provider")
    ollama = providers["ollama"]
    if not gateway and (ollama.is_set_up or _is_loopback(ollama.base_url)):
        yield Rule("?*:?*", "ollama", "a name and a tag as Ollama writes them")
    for name, known in BUILT_IN.items():
        # Gateways have Claude's models under their own names.
        if name in ("ollama", "anthropic") and gateway and not providers[name].is_set_up:
            continue
        yield from (Rule(pattern, name, BUILT_IN_PATTERN) for pattern in known.patterns)


def _is_openai(base_url: str) -> bool:
    return f".{urlsplit(base_url).hostname}".endswith(".openai.com")


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _provider(name: str, declared: Mapping[str, Any], file: ProvidersFile, environ: Mapping[str, str]) -> Provider:
    known = BUILT_IN.get(name)
    overriding = environ.get(known.url_env, "").strip() if known else ""
    if known and overriding:
        base_url = _base_url(overriding, known.url_env)
    elif "base_url" in declared:
        base_url = _base_url(declared["base_url"], file.place(f"providers.{name}.base_url"))
    elif known:
        base_url = known.base_url
    else:
        raise file.wrong(f"providers.{name}", 'its base_url, as base_url = "https://api.example.com/v1"')
    # A key goes only to the provider that it is named for: there is no common key.
    key_env = declared.get("key_env", known.key_env if known else "")
    key = environ.get(key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{key_env}: write the key alone: one line of ASCII letters, digits and signs.")
    return Provider(
        name=name,
        base_url=base_url,
        key=key or None,
        key_env=key_env,
        memory_role=declared.get("memory_role"),
        catalogue=known.catalogue if known else None,
        dialects=frozenset(declared.get("dialects") or _dialects(name, base_url)),
        is_set_up=bool(key or overriding or declared),
    )


def _dialects(name: str, base_url: str) -> tuple[str, ...]:
    """The APIs that a provider speaks. A gateway may speak any: it refuses what it does not."""
    known = BUILT_IN.get(name)
    return ALL_DIALECTS if known is None or (name == "openai" and not _is_openai(base_url)) else known.dialects


def _base_url(written: str, where: str) -> str:
    """An address without `/chat/completions` and without slashes at its end. Raises ValueError."""
    url = written.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    wanted = f"{where}: write an address such as https://api.example.com/v1"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018, raises ValueError for a port that is not a number
    except ValueError:
        raise ValueError(f"{wanted}, its port a number up to 65535 if it has one.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"{wanted}, which begins with http:// or https://.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{wanted}, without a user, a password, a query or a fragment.")
    return url
