"""The object of a response -> its Reply. Pure.

https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from conversations.shapes import objects
from proxy.answer.json_events import decoded
from proxy.answer.usage import usage_in
from proxy.prompt.chat import ChatMessage, Json, Reply, is_shallow

PENDING = ("queued", "in_progress")


def decode_reply(body: bytes) -> Reply:
    """The body of an answer that was not streamed -> its Reply; an empty Reply for anything else."""
    response = decoded(body)
    return reply_of(response) if isinstance(response, dict) else Reply()


def reply_of(response: Json, items: Sequence[Any] = ()) -> Reply:
    """`items` stand for an output that the response itself does not repeat."""
    status, output = response.get("status"), response.get("output")
    found = [item for item in objects(output) or objects(list(items)) if is_shallow(item)]
    complete = status in ("completed", "incomplete") or (status is None and isinstance(output, list))
    details, id_ = response.get("incomplete_details"), response.get("id")
    reason = details.get("reason") if isinstance(details, dict) else status
    error = response.get("error")
    return Reply(
        messages=(run(found),) if found else (),
        finish_reasons=(reason,) if isinstance(reason, str) else (),
        usage=usage_in(response),
        error=error if is_shallow(error) else None,
        complete=complete and not error,
        pending=status in PENDING and response.get("background") is True,
        id=id_ if isinstance(id_, str) else "",
    )


def run(items: Sequence[Json]) -> ChatMessage:
    """What the model said, as one turn."""
    text = ", ".join(json.dumps(item) for item in items)
    return ChatMessage(text, {"role": "assistant", "output": list(items)}, "assistant", is_run=True)
