"""Lays an exchange that is stored late among the later ones of its scope, as if each had been stored at its time.

Servers on several hosts store what they spooled when they can, and meanwhile others go on with the scope. A client that
resends its history has then brought the turns of the late exchange along; one that sends new turns alone has left a gap
in the line of parents. So the late exchange adopts the turns that are there and closes the gap. What came later decides
which branches are alive.

`moment` is the time of what is stored late. The scope's instance is locked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import connection
from django.utils import timezone

from conversations.branches import graft
from conversations.capture import Alignment, Known
from conversations.lexemes import asks
from conversations.messages import stored_lexemes, tokens_of, wishes
from conversations.models import Exchange, Instance, Message
from conversations.turns import Count, Turn

Values = dict[str, Any]


def known_then(instance: Instance, known: Sequence[Known], moment: datetime) -> list[Known]:
    """The messages without those sent alone later: a request cannot have repeated them."""
    with connection.cursor() as cursor:
        given: Values = {"instance": instance.pk, "ids": [message.id for message in known], "moment": moment}
        cursor.execute(SENT_ALONE_LATER, given)
        left_out = {pk for (pk,) in cursor.fetchall()}
    return [message for message in known if message.id not in left_out]


def resent_question(
    instance: Instance, turn: Turn, moment: datetime, answers: Sequence[Turn], *, failed: bool
) -> int | None:
    """The id of a question, if it is there: from a later request that had it in its history.

    If it got no answer (`failed`), the client may also have asked again, alone.
    """
    given: Values = {
        "instance": instance.pk,
        "digest": turn.digest,
        "moment": moment,
        "answers": [answer.digest for answer in answers],
    }
    with connection.cursor() as cursor:
        cursor.execute(RESENT_QUESTION, given)
        if (row := cursor.fetchone()) is None and failed:
            cursor.execute(ASKED_AGAIN, given)
            row = cursor.fetchone()
    return row[0] if row else None


def resent_answers(question: Message, exchange: Exchange) -> dict[bytes, int]:
    """By digest, the ids of the question's answers that came in the history of another exchange."""
    with connection.cursor() as cursor:
        cursor.execute(RESENT_ANSWERS, _given(exchange) | {"question": question.pk})
        return {bytes(digest): pk for digest, pk in cursor.fetchall()}


def adopt(pk: int, turn: Turn, exchange: Exchange, count: Count, created: datetime, **fields: object) -> None:
    """Make a message the exchange's own. Its text becomes what the exchange had: clients may resend it differently."""
    message = Message.objects.get(pk=pk, instance=exchange.instance_id)
    if message.payload != turn.payload:
        fields |= {
            "name": turn.name,
            "content": turn.content,
            "payload": turn.payload,
            "tokens": tokens_of(turn.content, count),
            "asks": asks(turn.content),
            "wish": wishes(turn),
            "lexemes": stored_lexemes(exchange.instance_id, turn.name, turn.content),
        }
        if message.content != turn.content:
            message.embeddings.filter(instance=exchange.instance_id).delete()
            fields["embed_due"] = timezone.now() if turn.content.strip() else None
    Message.objects.filter(pk=pk, instance=exchange.instance_id).update(exchange=exchange, created=created, **fields)


def place_sent_alone(pk: int, instance: Instance, latest: int | None) -> None:
    """Let a turn that was sent alone, and begins a resent history, grow from what was the scope's latest message."""
    if Message.objects.filter(pk=pk, instance=instance, parent=None).update(alone=True) and latest:
        graft(instance, pk, latest)


def connect(ids: Sequence[int], instance: Instance) -> None:
    """Let what begins a resent history inside these turns grow from the turn before it."""
    roots = Message.objects.filter(pk__in=ids[1:], instance=instance, parent=None)
    for root in roots.values_list("pk", flat=True):
        graft(instance, root, ids[ids.index(root) - 1])


def take_history(ids: Sequence[int], exchange: Exchange, moment: datetime) -> set[int]:
    """Date the turns of the request that later requests brought along: they are at least this old. Returns them."""
    with connection.cursor() as cursor:
        cursor.execute(TAKE_HISTORY, _given(exchange) | {"ids": list(ids), "moment": moment})
        return {pk for (pk,) in cursor.fetchall()}


def is_left(where: Alignment, instance: Instance, moment: datetime) -> bool:
    """Whether the client has left what grows here: the branch, or for another one that it began here later.

    If later requests brought the last turn along, the new ones stand before it, and share its branch.
    """
    if (last := where.ids[-1]) is not None:
        return Message.objects.filter(pk=last, instance=instance, abandoned=True).exists()
    parent = Message.objects.filter(pk=where.parent, instance=instance).first() if where.parent else None
    if parent is None:
        return False
    others = parent.children.filter(instance=instance, alone=False, abandoned=False, created__gt=moment)
    return parent.abandoned or others.exclude(pk__in=where.path).exists()


def is_replaced(question: Message, moment: datetime, keep: Iterable[int]) -> bool:
    """Whether a later answer to the question replaces one given at the moment."""
    answers = question.children.filter(instance=question.instance_id, role="assistant")
    others = answers.filter(alone=False, abandoned=False, created__gt=moment)
    return others.exclude(pk__in=list(keep)).exists()


def go_on_from(pk: int, instance: Instance, moment: datetime, *, answers: int | None = None) -> None:
    """Let what was said next, alone, grow from this message. If it `answers` a question, so do the question's other
    followers: their client omits answers.
    """
    with connection.cursor() as cursor:
        given: Values = {"message": pk, "instance": instance.pk, "moment": moment, "question": answers}
        cursor.execute(GO_ON, given)


def _given(exchange: Exchange) -> Values:
    return {"instance": exchange.instance_id, "exchange": exchange.pk}


# Not by the column `alone`, which says whether it still is alone.
SENT_ALONE_LATER = """
SELECT m.id FROM conversations_message m
JOIN conversations_exchange e ON e.id = m.exchange_id AND e.instance_id = %(instance)s
WHERE m.id = ANY(%(ids)s) AND m.instance_id = %(instance)s AND m.created > %(moment)s AND e.request_ids = ARRAY[m.id]
"""

# A user's turn of a later request's history that no exchange has asked; best with the same answer, then without any.
RESENT_QUESTION = """
SELECT m.id FROM conversations_message m
JOIN conversations_exchange e ON e.id = m.exchange_id AND e.instance_id = %(instance)s
WHERE m.instance_id = %(instance)s AND m.digest = %(digest)s AND m.created > %(moment)s AND NOT m.alone
  AND m.id = ANY(e.request_ids)
  AND NOT EXISTS (
      SELECT FROM conversations_exchange asked WHERE asked.question_id = m.id AND asked.instance_id = %(instance)s
  )
ORDER BY EXISTS (SELECT FROM conversations_message a
                 WHERE a.parent_id = m.id AND a.instance_id = %(instance)s
                   AND a.digest = ANY(%(answers)s::bytea[])) DESC,
         EXISTS (SELECT FROM conversations_message a
                 WHERE a.parent_id = m.id AND a.instance_id = %(instance)s AND a.role = 'assistant'),
         m.created, m.id
LIMIT 1
"""

ASKED_AGAIN = """
SELECT next.id FROM (
    SELECT id, digest, alone FROM conversations_message
    WHERE instance_id = %(instance)s AND created > %(moment)s AND role = 'user' ORDER BY created, id LIMIT 1
) next WHERE next.digest = %(digest)s AND next.alone
"""

RESENT_ANSWERS = """
SELECT m.digest, m.id FROM conversations_message m
JOIN conversations_exchange e ON e.id = m.exchange_id AND e.instance_id = %(instance)s
WHERE m.parent_id = %(question)s AND m.instance_id = %(instance)s AND m.role = 'assistant'
  AND e.id <> %(exchange)s AND m.id = ANY(e.request_ids)
ORDER BY m.id DESC
"""

TAKE_HISTORY = """
UPDATE conversations_message m SET created = %(moment)s, exchange_id = %(exchange)s FROM conversations_exchange e
WHERE m.id = ANY(%(ids)s) AND m.instance_id = %(instance)s AND m.created > %(moment)s AND NOT m.alone
  AND e.id = m.exchange_id AND e.instance_id = %(instance)s AND m.id = ANY(e.request_ids)
  AND NOT EXISTS (
      SELECT FROM conversations_exchange asked
      WHERE asked.question_id = m.id AND asked.instance_id = %(instance)s AND asked.id <> %(exchange)s
  )
RETURNING m.id
"""

# Not the message itself nor those before it, of which some may have a later time: clocks differ by less than an hour.
GO_ON = """
WITH RECURSIVE up AS (
    SELECT id, parent_id FROM conversations_message WHERE id = %(message)s AND instance_id = %(instance)s
    UNION
    SELECT m.id, m.parent_id FROM up
    JOIN conversations_message m ON m.id = up.parent_id AND m.instance_id = %(instance)s
    WHERE m.created >= %(moment)s::timestamptz - interval '1 hour'
), later AS (
    SELECT m.id, m.parent_id, e.request_ids = ARRAY[m.id] AS sent_alone
    FROM conversations_message m
    JOIN conversations_exchange e ON e.id = m.exchange_id AND e.instance_id = %(instance)s
    WHERE m.instance_id = %(instance)s AND m.created > %(moment)s ORDER BY m.created, m.id LIMIT 100
)
UPDATE conversations_message m SET parent_id = %(message)s
FROM later
LEFT JOIN conversations_message before ON before.id = later.parent_id AND before.instance_id = %(instance)s
WHERE m.id = later.id AND m.instance_id = %(instance)s AND m.id NOT IN (SELECT id FROM up) AND (
    later.sent_alone AND (before.id IS NULL OR before.created <= %(moment)s)
    OR NOT later.sent_alone AND later.parent_id = %(question)s AND m.role = 'user'
)
"""
