"""Histories that a provider keeps: requests that continue an answer by its id, and turns that only refer to it.

With OpenAI's Responses a request may name the answer, or the conversation, that it continues, and bring new turns
alone. Where that answer is stored, the turns grow from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from conversations.capture import Alignment
from conversations.models import Exchange, Instance, Message
from conversations.querysets import Scope
from conversations.shapes import references_in
from conversations.states import Ended
from conversations.turns import Turn

LONGEST = 10_000  # exchanges of a chain that are looked at

# The exchanges of a chain, from the one that a request continues up to the first.
CHAIN = """
WITH RECURSIVE chain AS (
    SELECT e.id, e.follows, e.request_ids FROM conversations_exchange e
    WHERE e.instance_id = %(instance)s
      AND (e.response_id = %(follows)s AND e.response_id <> '' OR e.follows = %(follows)s AND e.follows <> '')
    UNION
    SELECT e.id, e.follows, e.request_ids FROM chain JOIN conversations_exchange e
      ON e.instance_id = %(instance)s AND e.response_id = chain.follows AND e.response_id <> ''
), links AS (SELECT * FROM chain LIMIT %(longest)s)
SELECT unnest(request_ids) FROM links
UNION SELECT m.id FROM links
    JOIN conversations_message m ON m.exchange_id = links.id AND m.instance_id = %(instance)s
UNION SELECT unnest(l.message_ids) FROM links
    JOIN conversations_ledger l ON l.exchange_id = links.id AND l.instance_id = %(instance)s
"""


def told(scope: Scope, follows: str) -> frozenset[int]:
    """The ids of the messages that the earlier requests of a chain said, got as answers, or were shown."""
    instance = Instance.objects.of_scope(scope).values_list("pk", flat=True).first()
    if instance is None or not follows:
        return frozenset()
    with connection.cursor() as cursor:
        cursor.execute(CHAIN, {"instance": instance, "follows": follows, "longest": LONGEST})
        return frozenset(row[0] for row in cursor.fetchall())


def answer_of(instance_id: int, follows: str) -> int | None:
    """The id of the stored answer that a request continues; None where that is not known here."""
    if not follows:
        return None
    here = Message.objects.filter(instance_id=instance_id, role="assistant").order_by("-id")
    answers = here.filter(exchange__instance_id=instance_id, exchange__response_id=follows)
    in_conversation = here.filter(exchange__instance_id=instance_id, exchange__follows=follows)
    found = answers.values_list("id", flat=True).first()
    return found if found is not None else in_conversation.values_list("id", flat=True).first()


def after(instance_id: int, answer: int, turns: Sequence[Turn]) -> Alignment:
    """Where the turns of a request stand that continues an answer: those that were asked there before are known."""
    ids: list[int | None] = []
    parent = answer
    for turn in turns:
        same = Message.objects.filter(instance_id=instance_id, parent_id=parent, digest=turn.digest)
        known = same.order_by("abandoned", "-id").values_list("id", flat=True).first()
        if known is None:
            break
        ids.append(known)
        parent = known
    path = frozenset({answer, *(pk for pk in ids if pk is not None)})
    ids += [None] * (len(turns) - len(ids))
    # Another answer may come where all was asked before: until then the present one stays.
    forks = path - ({parent} if None not in ids else set())
    return Alignment(tuple(ids), parent, path, forks, revived=True)


# An answer by one of the provider's ids in it and the digest of the turn before it, which may occur many times.
REFERRED = """
SELECT DISTINCT ON (wanted.at) wanted.at, answer.digest
FROM unnest(%(before)s::bytea[], %(ids)s::text[]) WITH ORDINALITY wanted(before, id, at)
CROSS JOIN LATERAL (
    SELECT id FROM conversations_message
    WHERE instance_id = %(instance)s AND digest = wanted.before ORDER BY id DESC LIMIT 20
) parent
JOIN conversations_message answer
  ON answer.parent_id = parent.id AND answer.instance_id = %(instance)s AND answer.role = 'assistant'
     AND strpos(answer.payload, wanted.id) > 0
ORDER BY wanted.at, answer.id DESC
"""


def resolved(instance_id: int, turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with the stored answer's digest for each that only refers to it by the provider's ids."""
    answers = _answers(instance_id, [turn.payload for turn in turns], [turn.digest for turn in turns])
    return [turn._replace(digest=answers.get(at, turn.digest)) for at, turn in enumerate(turns)]


def referred(scope: Scope, payloads: Sequence[str], digests: Sequence[bytes]) -> frozenset[bytes]:
    """The digests of the stored answers to which turns refer by the provider's ids."""
    if not any(map(references_in, payloads)):
        return frozenset()
    instance = Instance.objects.of_scope(scope).values_list("pk", flat=True).first()
    return frozenset(_answers(instance, payloads, digests).values()) if instance else frozenset()


def _answers(instance_id: int, payloads: Sequence[str], digests: Sequence[bytes]) -> dict[int, bytes]:
    """The places of turns that only refer to an answer -> that answer's digest."""
    wanted = [(at, ids[-1]) for at, payload in enumerate(payloads) if at and (ids := references_in(payload))]
    if not wanted:
        return {}
    before, ids = [digests[at - 1] for at, _ in wanted], [f'"{id_}"' for _, id_ in wanted]
    with connection.cursor() as cursor:
        cursor.execute(REFERRED, {"instance": instance_id, "before": before, "ids": ids})
        return {wanted[number - 1][0]: bytes(digest) for number, digest in cursor.fetchall()}


class Pending(NamedTuple):
    """An exchange whose answer the provider makes in the background."""

    trace_id: UUID
    model: str
    provider: str
    rule: str  # the rule that held for the request: its messages are not stored
    memories: int  # how many it was shown


def pending(scope: Scope, response_id: str) -> Pending | None:
    """The exchange that waits for this answer; None without one."""
    waiting = Exchange.objects.in_scope(scope).filter(
        response_id=response_id, ended__in=(Ended.OPEN, Ended.INTERRUPTED)
    )
    row = waiting.order_by("-id").values_list(*Pending._fields).first()
    return Pending(*row) if row else None


def note_pending(*, scope: Scope, trace_id: UUID, response_id: str) -> None:
    """Note the provider's id of an answer that is still being made: the exchange stays open until it is fetched."""
    instance = Instance.objects.of_scope(scope).values_list("pk", flat=True).first()
    waiting = Exchange.objects.filter(instance=instance, trace_id=trace_id, ended=Ended.OPEN)
    waiting.update(response_id=response_id)
