"""The dialects that have a memory."""

from __future__ import annotations

from proxy.dialects.chat_completions.dialect import CHAT_COMPLETIONS
from proxy.dialects.dialect import Dialect
from proxy.dialects.responses.dialect import RESPONSES

DIALECTS: tuple[Dialect, ...] = (CHAT_COMPLETIONS, RESPONSES)

BY_PATH = {f"/{dialect.path}": dialect for dialect in DIALECTS}
"""By the route below a base URL."""
