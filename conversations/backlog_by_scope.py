"""The statements of the backlog where the database is distributed (see distribution.py): each goes to one node.

The look for what is due asks all nodes and locks nothing. Who leases a message first has it: the statement of another
worker waits for that, and then finds the message leased. Functions are those of backlog_sql.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import starmap

from django.db import connection, transaction
from pgvector import HalfVector

from conversations.backlog_sql import Embedded, Text
from conversations.models import Embedding, EmbeddingModel, Message


def lease(now: datetime, *, until: timedelta, most: int) -> list[Text]:
    with connection.cursor() as cursor:
        cursor.execute(_DUE, {"now": now, "later": now + until, "most": most})
        due = defaultdict(list)
        for instance, message in cursor.fetchall():
            due[instance].append(message)
        leased: list[Text] = []
        for instance, messages in due.items():
            cursor.execute(_LEASE, {"now": now, "later": now + until, "instance": instance, "messages": messages})
            leased += starmap(Text, cursor.fetchall())
    return leased


def write(model: str, embedded: Sequence[Embedded], *, overtaken: datetime | None, take_off: bool = True) -> None:
    by_scope = defaultdict(list)
    for each in embedded:
        by_scope[each.instance_id].append(each)
    for instance, messages in by_scope.items():
        _write(model, instance, messages, overtaken, take_off=take_off)


@transaction.atomic
def _write(
    model: str, instance: int, embedded: Sequence[Embedded], overtaken: datetime | None, *, take_off: bool
) -> None:
    """Write vectors of one scope: as a transaction on one node, it commits without asking the others."""
    ids = [each.message_id for each in embedded]
    messages = Message.objects.filter(instance=instance, pk__in=ids)
    there = {
        *messages.order_by("pk").select_for_update().values_list("pk", flat=True)
    }  # forgetting waits, or this does
    row = EmbeddingModel.objects.filter(name=model).first()
    if row:
        vectors = [
            Embedding(
                message_id=each.message_id,
                instance_id=instance,
                model=row,
                start=piece.start,
                end=piece.end,
                vector=HalfVector(vector),
            )
            for each in embedded
            if each.message_id in there
            for piece, vector in zip(each.pieces, each.vectors, strict=True)
        ]
        Embedding.objects.bulk_create(vectors, ignore_conflicts=True)
    if take_off:
        # Asked after the table of vectors is locked for writing: a change of model waits for all writers.
        other = row is None or EmbeddingModel.objects.filter(active=True).exclude(pk=row.pk).exists()
        messages.filter(pk__in=there).update(embed_due=overtaken if other else None)


_DUE = """
SELECT instance_id, id FROM conversations_message
WHERE embed_due IS NOT NULL AND (embed_due <= %(now)s OR embed_due > %(later)s)
ORDER BY embed_due LIMIT %(most)s
"""

_LEASE = """
UPDATE conversations_message SET embed_due = %(later)s
WHERE instance_id = %(instance)s AND id = ANY(%(messages)s)
  AND (embed_due <= %(now)s OR embed_due > %(later)s)
RETURNING id, instance_id, content
"""
