"""The dialects that have a memory."""

from __future__ import annotations

from collections.abc import Iterable

from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.dialects.dialect import Dialect
from proxy.dialects.messages.dialect import MESSAGES
from proxy.dialects.responses.dialect import RESPONSES
from proxy.errors import ReservoirError
from proxy.routes import spelled

DIALECTS: tuple[Dialect, ...] = (CHAT_COMPLETIONS, RESPONSES, MESSAGES)

BY_PATH = {f"/{dialect.path}": dialect for dialect in DIALECTS}
"""By the route below a base URL."""

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}
"""By the name that is stored with an exchange."""

ANTHROPIC_HEADER = b"anthropic-version"  # Anthropic's clients send it with every request

Headers = Iterable[tuple[bytes, bytes]]


def spoken(path: str, headers: Headers) -> Dialect | None:
    """The dialect of a request to this path below a base URL; None for routes that belong to none."""
    path = spelled(path)
    for route, dialect in BY_PATH.items():
        if path == route or path.startswith(f"{route}/"):
            return dialect
    return MESSAGES if any(name.lower() == ANTHROPIC_HEADER for name, _ in headers) else None


def refusal(url_path: str, headers: Headers, error: ReservoirError) -> bytes:
    """The body of a refusal, in the shape of the API that the client speaks; OpenAI's where that is not known."""
    _, below, rest = url_path.partition("/instance/")
    dialect = spoken(rest.partition("/")[2] if below else "", headers)
    return (dialect or CHAT_COMPLETIONS).error(error)
