"""The recall route's question and its answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from conversations.numbers import whole_number
from proxy.call import Call
from proxy.dialects.chat_completions.request import decode
from proxy.errors import BadRequest
from proxy.memory.service import Scope
from proxy.prompt.chat import Chat, Json
from proxy.prompt.enrichment import block_of
from proxy.prompt.injection import Injection
from proxy.prompt.json_cost import is_costly

MOST_CANDIDATES = 1000
MOST_TOKENS = 999_999_999

_ENCODER = json.JSONEncoder()


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Which memories would a request with this text get? `budget` is in tokens, `limit` in messages to rank."""

    query: str
    budget: int
    limit: int | None

    @classmethod
    def of(cls, call: Call) -> Inquiry:
        """Reads the query string of a GET, or else a JSON body. Raises BadRequest."""
        fields = _from_url(call.query) if call.method in ("GET", "HEAD") else _from_body(call.read())
        if "query" not in fields:
            raise BadRequest("Missing required parameter: 'query', the text to recall for.", param="query")
        query = fields["query"]
        if not isinstance(query, str):
            raise BadRequest("Invalid type for 'query': expected a string.", code="invalid_type", param="query")
        return cls(
            query=query,
            budget=_whole(fields, "budget", 0, MOST_TOKENS, call.budget),
            limit=_whole(fields, "limit", 1, MOST_CANDIDATES, 0) or None,
        )

    @property
    def chat(self) -> Chat:
        """The request in question."""
        return decode(json.dumps({"messages": [{"role": "user", "content": self.query}]}).encode())

    def answer(
        self, scope: Scope, *, state: str, entries: Sequence[Json], injection: Injection, timings: Mapping[str, float]
    ) -> bytes:
        """The JSON body. `entries` are the ledger's, with their messages; `timings` are in milliseconds."""
        body: dict[str, Any] = {
            "object": "reservoir.recall",
            "partition": scope.partition,
            "instance": scope.instance,
            "query": self.query,
            "budget": self.budget,
            "memory": state,
            "memories": [entry for entry in entries if entry["arm"] == "recall"],
            "latest": [entry for entry in entries if entry["arm"] == "latest"],
            "block": block_of(injection.messages),
            "tokens": injection.tokens,
            "timings": timings,
        }
        return b"".join(part.encode() for part in _ENCODER.iterencode(body))  # in steps: texts may be long


def _from_url(query: str) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True, errors="strict"))
    except ValueError:
        raise BadRequest("The query string must be percent-encoded UTF-8.", code="invalid_query") from None
    for name in ("budget", "limit"):
        if (number := whole_number(fields.get(name), most=MOST_TOKENS)) is not None:
            fields[name] = number
    return fields


def _from_body(body: bytes) -> dict[str, Any]:
    if is_costly(body):
        raise BadRequest("The JSON body of the request holds too many values.", code="too_many_values")
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise BadRequest('The JSON body must be an object, {"query": "..."}.', code="invalid_type")
    return fields


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadRequest(f"Invalid '{name}': write a whole number from {least} to {most}.", param=name)
    return value
