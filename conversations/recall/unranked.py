"""Recall without ranking: a scope's latest questions with their answers, and earlier injections of a tool loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from django.db import connection

from conversations import scopes
from conversations.querysets import Scope

LONGEST_TOKEN = 16  # characters; a text with more than this for each token of the budget is too long, uncounted
MESSAGE_OVERHEAD = 4  # tokens that a message costs besides its text
LOOKED_AT = 20  # messages for each of the latest wanted: most are no calls of tools


CALLS = r'"(tool_calls"\s*:\s*\[|function_call"\s*:)\s*\{|"type"\s*:\s*"(tool_use|[a-z_]*_call)"'  # in a payload


class LatestMessage(NamedTuple):
    """One of a scope's latest messages."""

    id: int
    role: str
    name: str
    created: datetime
    digest: bytes
    text: str


class _Row(NamedTuple):
    """A row of LATEST."""

    id: int
    role: str
    name: str
    created: datetime
    digest: bytes
    parent_id: int | None
    question_id: int | None  # of its exchange
    text: str


class EarlierInjection(NamedTuple):
    """What an earlier round of a tool loop was given: its texts, or else ids of stored messages and their rendering."""

    injected: tuple[str, ...]
    rendering: bytes
    message_ids: tuple[int, ...]
    tokens: int
    instance_id: int


Pair = tuple[LatestMessage, LatestMessage]  # a question and its answer


def latest_pairs(instance_id: int, *, most: int, budget: int, count: Callable[[str], int]) -> list[Pair]:
    """The scope's latest questions with their answers, oldest first, among its `most` latest messages and within
    `budget` tokens as counted by `count`.

    Roles of a chat alternate: some chat templates refuse anything else. A question without an answer is left out, and
    so is an answer that calls tools: without its calls and their results it would be half a turn. Stops at the first
    pair that exceeds the budget: the list has no gaps between pairs.
    """
    pairs: list[Pair] = []
    left = budget
    answers: dict[int, _Row] = {}
    orphan: _Row | None = None  # an answer without an exchange, as imports have: it belongs to the message before it
    for row in _latest(instance_id, most, LONGEST_TOKEN * budget + 1):
        if row.role == "assistant":
            if row.question_id is None:
                orphan = row
            else:
                answers.setdefault(row.question_id, row)
            continue
        answer = answers.pop(row.id, None)
        if answer is None and orphan is not None and orphan.parent_id == row.id:
            answer = orphan
        orphan = None
        if answer is None:
            continue
        if len(row.text) + len(answer.text) > LONGEST_TOKEN * left:
            break
        left -= sum(count(one.text) + MESSAGE_OVERHEAD for one in (row, answer))
        if left < 0:
            break
        pairs.append((_shown(row), _shown(answer)))
    return pairs[::-1]


def _shown(row: _Row) -> LatestMessage:
    return LatestMessage(row.id, row.role, row.name, row.created, bytes(row.digest), row.text)


def _latest(instance_id: int, most: int, characters: int) -> list[_Row]:
    """The latest messages, newest first, with the beginnings of their texts, which may have megabytes."""
    with connection.cursor() as cursor:
        values = {"instance": instance_id, "most": most, "looked_at": LOOKED_AT * most}
        cursor.execute(LATEST, {**values, "characters": characters, "calls": CALLS})
        return [_Row(*row) for row in cursor.fetchall()]


# The condition of MessageQuerySet.recallable(), and no calls of tools. A request with several choices (`n`) is
# represented by its first answer: one turn follows another. Payloads may be long, so few are read: of messages further
# back than LOOKED_AT, none is a latest one. CALLS is slow, so its words are looked for first.
LATEST = """
SELECT m.id, m.role, m.name, m.created, m.digest, m.parent_id, e.question_id, left(m.content, %(characters)s)
FROM (
    SELECT id, exchange_id, role, name, created, digest, parent_id, content, payload FROM conversations_message
    WHERE instance_id = %(instance)s AND role IN ('user', 'assistant') AND NOT abandoned AND content <> ''
      AND choice = 0
    ORDER BY created DESC, id DESC LIMIT %(looked_at)s
) m LEFT JOIN conversations_exchange e ON e.id = m.exchange_id AND e.instance_id = %(instance)s
WHERE NOT (
    (strpos(m.payload, '"tool_calls"') > 0 OR strpos(m.payload, 'tool_use"') > 0 OR strpos(m.payload, '_call"') > 0)
    AND m.payload ~ %(calls)s
)
ORDER BY m.created DESC, m.id DESC LIMIT %(most)s
"""


def earlier_injection(scope: Scope, key: bytes) -> EarlierInjection | None:
    """What the latest exchange with this ledger key was given, None without one."""
    named = scopes.in_sql(scope)
    with connection.cursor() as cursor:
        cursor.execute(EARLIER.format(scope=named.condition), named.values | {"key": key})
        row = cursor.fetchone()
    if row is None:
        return None
    injected, rendering, message_ids, tokens, instance_id = row
    return EarlierInjection(tuple(json.loads(injected)), bytes(rendering), tuple(message_ids), tokens, instance_id)


# A round whose recall was late added nothing: the round before it decides.
EARLIER = """
SELECT l.injected, l.rendering, l.message_ids, l.tokens, i.id
FROM conversations_partition p JOIN conversations_instance i ON i.partition_id = p.id
JOIN conversations_ledger l ON l.instance_id = i.id
JOIN conversations_exchange e ON e.id = l.exchange_id AND e.instance_id = i.id
WHERE {scope} AND l.key = %(key)s
  AND NOT (e.memory = 'degraded' AND l.injected = '[]'::jsonb AND l.message_ids = '{{}}')
ORDER BY l.id DESC LIMIT 1
"""


def stored_texts(ids: Sequence[int], *, instance_id: int | None) -> list[tuple[int, str, str, datetime, str]]:
    """(id, role, name, time, text) of those of an instance's messages that still exist."""
    with connection.cursor() as cursor:
        cursor.execute(TEXTS, {"instance": instance_id, "ids": list(ids)})
        rows: list[tuple[int, str, str, datetime, str]] = cursor.fetchall()
        return rows


TEXTS = """
SELECT id, role, name, created, content FROM conversations_message
WHERE instance_id = %(instance)s AND id = ANY(%(ids)s::bigint[])
"""
