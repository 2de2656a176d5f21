"""Capture: which messages of a request are new.

Clients resend their whole history, a window of it, or just the new turn; the history that is left must be
the same. Stored messages form trees: each knows the turn before it (`parent`). The turns of a request are
laid along those trees, and what does not lie there is new:

- The longest beginning of the request that lies on a branch is known; the rest grows from its end. Where
  something grew there already, that is a fork, and the older branch is abandoned.
- A window whose head was rewritten (a summary in place of old turns) is known from where it
  lies on a branch.
- A single turn has no history to lie along: it is new, unless it is the scope's latest question and was never
  answered. Then it is a retry. A new one grows from the scope's latest message, marked as sent alone: that is
  no fork, and becomes history when a client resends it as such.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

# What PostgreSQL's text cannot hold (NUL) or UTF-8 cannot encode (lone surrogates).
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class Turn(NamedTuple):
    """A message on its way into the store. `payload` is its JSON text as the API sent it."""

    role: str
    name: str
    content: str
    payload: str
    digest: bytes


def turn(raw: str, payload: Mapping[str, Any]) -> Turn:
    """A message of the API made ready for the store."""
    name = payload.get("name")
    return Turn(
        role=storable(str(payload.get("role") or ""))[:16],
        name=storable(name)[:200] if isinstance(name, str) else "",
        content=plain_text(payload),
        payload=raw,
        digest=digest(payload),
    )


def storable(text: str) -> str:
    """The text with what cannot be stored replaced by U+FFFD."""
    if "\0" not in text:
        with suppress(UnicodeEncodeError):
            text.encode()  # tells ten times faster than the expression whether there is anything to replace
            return text
    return UNSTORABLE.sub("\ufffd", text)


def storable_json(value: Any) -> Any:
    """A JSON value from outside as PostgreSQL's jsonb can hold it: no NUL, no half pairs, no NaN."""
    match value:
        case str():
            return storable(value)
        case dict():
            return {storable(str(key)): storable_json(item) for key, item in value.items()}
        case list():
            return [storable_json(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value


def plain_text(payload: Mapping[str, Any]) -> str:
    """The words of a message: its text content, text parts joined by line breaks, its refusal, or what was spoken."""
    content = payload.get("content")
    if isinstance(content, str):
        texts = [content]
    else:
        parts = _objects(content)
        texts = [text for part in parts if isinstance(text := part.get("text") or part.get("refusal"), str)]
    if not any(texts) and isinstance(refusal := payload.get("refusal"), str):
        texts = [refusal]
    audio = payload.get("audio")
    if not any(texts) and isinstance(audio, dict) and isinstance(transcript := audio.get("transcript"), str):
        texts = [transcript]
    return storable("\n".join(texts))


NO_ATTACHMENT = {"text", "refusal", "thinking"}  # keys of parts of a content that are words


def digest(payload: Mapping[str, Any]) -> bytes:
    """16 bytes that are equal for what is one turn to a reader, however a client library spells it.

    Libraries resend an answer with null fields added or left out, its text as a string or as a list of one
    part, with white space trimmed, without its thinking, a call's arguments as JSON of their own spelling. Text, calls
    and attachments count; so does the role.
    """
    attachments = [part for part in _objects(payload.get("content")) if not NO_ATTACHMENT.intersection(part)]
    essence = [
        payload.get("role"),
        plain_text(payload).strip(),
        attachments,
        [_call(call) for call in _objects(payload.get("tool_calls"))],
        payload.get("function_call") or None,
        payload.get("tool_call_id") or None,
    ]
    text = json.dumps(essence, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list: what a client or provider sends may be anything."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _call(call: Mapping[str, Any]) -> list[Any]:
    function = call.get("function")
    body = function if isinstance(function, dict) else call.get("custom")
    if isinstance(body, dict) and isinstance(arguments := body.get("arguments"), str):
        body = body | {"arguments": _spelt_alike(arguments)}
    return [call.get("id"), body]


def _spelt_alike(arguments: str) -> str:
    """The JSON text that says the same, and is one for all spellings; any other text as it is."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments


def conversation_key(digests: Iterable[bytes]) -> bytes:
    """16 bytes that stand for a run of turns."""
    return hashlib.blake2b(b"".join(digests), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Known:
    """A stored message, with what is needed to lay a request along its branch."""

    id: int
    digest: bytes
    role: str
    parent: int | None = None
    parent_digest: bytes = b""
    parent_role: str = ""
    parent_first: bool = False  # its parent is where a conversation begins
    grandparent: int | None = None
    grandparent_digest: bytes = b""
    answer: int | None = None  # its latest answer, if it is a question
    answered: bool = False  # in full, or being answered right now
    leaf: bool = True  # no client has gone on from here
    alone: bool = False  # sent without history
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where a request lies: for each turn the stored message's id or None, and what the new turns grow from.

    `path` are the stored messages it runs along, answers that the client left out included. What else grows
    from one of `forks` is a branch that the client has left.
    """

    ids: tuple[int | None, ...]
    parent: int | None = None
    path: frozenset[int] = frozenset()
    forks: frozenset[int] = frozenset()
    revived: bool = False  # part of the path was abandoned
    joined: bool = False  # part of the path was sent alone, and has now been resent as history


def align(turns: Sequence[Turn], known: Iterable[Known], latest_question: int | None) -> Alignment:
    """Lay the turns of a request (no system prompts among them) along what is stored.

    `known` are the scope's messages that share a digest with one of the turns; `latest_question` is the
    scope's latest user message.
    """
    by_id = {message.id: message for message in known}
    by_digest: dict[bytes, list[Known]] = {}
    for message in sorted(by_id.values(), key=lambda m: (not m.leaf, -m.id)):
        by_digest.setdefault(message.digest, []).append(message)

    if len(turns) == 1:
        only = by_id.get(latest_question or 0)
        if only and only.digest == turns[0].digest and not only.answered:
            return Alignment((only.id,), only.id, frozenset({only.id}))
        return Alignment((None,))

    runs = _runs(turns, by_id, by_digest)
    if not runs:
        return Alignment((None,) * len(turns))
    # From the first turn on if possible; then as far as possible; then the branch that nothing continues.
    start, end, last = runs[0]
    if start == 0 and end == len(turns) - 1 and by_id[last].answered:
        # Asked again for another answer, unless all but the last turn lie where nobody has gone on: then the
        # window has slid over a sentence that is said again.
        start, end, last = next(
            (run for run in runs if run[:2] == (0, end - 1) and by_id[run[2]].leaf), (start, end, last)
        )
    if start > 0 and (end - start < 1 or _edited_first(turns, by_id, start, end, last)):
        return Alignment((None,) * len(turns))
    ids: list[int | None] = [None] * len(turns)
    path = set()
    node: Known | None = by_id[last]
    at = end
    while node is not None and at >= start:
        ids[at] = node.id
        path.add(node.id)
        at -= 1
        before = _before(node, turns[at], by_id) if at >= start else None
        if before and before.id != node.parent:
            path.add(node.parent or 0)
        node = before
    parent = last
    tail = by_id[last]
    if end + 1 < len(turns) and turns[end + 1].role == tail.role == "user" and tail.answer:
        parent = tail.answer  # the client left the answer out
        path.add(parent)
    nodes = [by_id[pk] for pk in path if pk in by_id]
    revived = any(node.abandoned for node in nodes)
    # A fork further up was seen when it came about, unless the client is going back to an abandoned branch.
    forks = path if revived else {pk for pk in (parent, last, tail.parent) if pk is not None}
    if end == len(turns) - 1:  # asked again: its answers stay until there is another one
        forks = forks - {last}
    joined = any(node.alone and node.parent in path for node in nodes)
    return Alignment(tuple(ids), parent, frozenset(path), frozenset(forks), revived, joined)


def _runs(
    turns: Sequence[Turn], by_id: Mapping[int, Known], by_digest: Mapping[bytes, list[Known]]
) -> list[tuple[int, int, int]]:
    """Runs of turns that lie on a branch, as (first turn, last turn, id of the last), best first."""
    begins: dict[tuple[int, int], int] = {}
    runs = []
    for end, current in enumerate(turns):
        for order, message in enumerate(by_digest.get(current.digest, ())):
            before = _before(message, turns[end - 1], by_id) if end else None
            begin = begins.get((before.id, end - 1), end) if before else end
            begins[message.id, end] = begin
            runs.append((begin, end, order, message.id))
    runs.sort(key=lambda run: (run[0] > 0, -run[1], run[0], run[2]))
    return [(begin, end, message_id) for begin, end, _, message_id in runs]


def _before(message: Known, wanted: Turn, by_id: Mapping[int, Known]) -> Known | None:
    """The stored message that `wanted` would be, right before `message`; a left-out answer is skipped."""
    if message.parent_digest == wanted.digest:
        return by_id.get(message.parent or 0)
    skips_answer = message.parent_role == "assistant" and wanted.role == "user"
    if skips_answer and message.grandparent_digest == wanted.digest:
        return by_id.get(message.grandparent or 0)
    return None


def _edited_first(turns: Sequence[Turn], by_id: Mapping[int, Known], start: int, end: int, last: int) -> bool:
    """Whether only the conversation's first turn was edited, which is a fork, not a rewritten head."""
    node = by_id[last]
    for at in range(end - 1, start - 1, -1):
        before = _before(node, turns[at], by_id)
        if before is None:
            return False
        node = before
    return start == 1 and node.parent_role == turns[0].role and node.parent_first
