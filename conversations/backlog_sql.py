"""The statements of the backlog, one for each step: lease messages, write their vectors, put one off.

A message is named by its id and its scope's. Leasing and writing commit without waiting for the disk: what a crash lost
would be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.db import connection

from conversations.embedders.base import Vectors
from conversations.embedders.pieces import Piece
from conversations.nearest import vector_literal


class Text(NamedTuple):
    """A message to embed."""

    id: int
    instance_id: int
    content: str


class Embedded(NamedTuple):
    """A message's pieces with a vector each."""

    message_id: int
    instance_id: int
    pieces: Sequence[Piece]
    vectors: Sequence[Vectors]


def lease(now: datetime, *, until: timedelta, most: int) -> list[Text]:
    """At most `most` messages that are due, now due again after `until`. Those that others lease are passed over."""
    with connection.cursor() as cursor:
        cursor.execute(_LEASE, {"now": now, "later": now + until, "most": most})
        return [Text(*row) for row in cursor.fetchall()]


def write(model: str, embedded: Sequence[Embedded], *, overtaken: datetime | None, take_off: bool = True) -> None:
    """Write messages' vectors by the model of this name; existing ones stay, and forgotten messages get none.

    `take_off` takes the messages off the backlog. They are due at `overtaken` instead if another model is in use by
    then. That is asked after the table of vectors is locked for writing, since a change of model waits for all writers
    (see reembedding.py).
    """
    pieces = [
        (each, piece, vector) for each in embedded for piece, vector in zip(each.pieces, each.vectors, strict=True)
    ]
    values: dict[str, Any] = {
        "messages": [each.message_id for each in embedded],
        "instances": [each.instance_id for each in embedded],
        "of": [each.message_id for each, _, _ in pieces],
        "starts": [piece.start for _, piece, _ in pieces],
        "ends": [piece.end for _, piece, _ in pieces],
        "vectors": [vector_literal(vector) for _, _, vector in pieces],
        "model": model,
        "overtaken": overtaken,
    }
    with connection.cursor() as cursor:
        cursor.execute(_WRITE + (_TAKE_OFF if take_off else _LEAVE_ON), values)


def put_off(message: Text, due: datetime) -> None:
    """Have a message embedded later."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE conversations_message SET embed_due = %s WHERE id = %s AND instance_id = %s",
            [due, message.id, message.instance_id],
        )


# `soon` does what commits.py does, without a statement of its own; it is joined where nothing is ordered.

# No lease ends later than `later`, unless the clock was set back.
_LEASE = """
WITH soon AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), due AS (
    SELECT id, instance_id FROM conversations_message
    WHERE embed_due IS NOT NULL AND (embed_due <= %(now)s OR embed_due > %(later)s)
    ORDER BY embed_due LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
UPDATE conversations_message m SET embed_due = %(later)s FROM due CROSS JOIN soon
WHERE m.id = due.id AND m.instance_id = due.instance_id
RETURNING m.id, m.instance_id, m.content
"""

# Forgetting waits for a message's vectors, or they for it: messages are locked before anything is written.
_WRITE = """
WITH soon AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true)
), message AS MATERIALIZED (
    SELECT m.id, m.instance_id FROM conversations_message m
    JOIN unnest(%(messages)s::bigint[], %(instances)s::bigint[]) given(id, instance_id)
        ON m.id = given.id AND m.instance_id = given.instance_id
    ORDER BY m.id FOR UPDATE OF m
), model AS MATERIALIZED (
    SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s
), written AS (
    INSERT INTO conversations_embedding (message_id, instance_id, model_id, start, "end", vector)
    SELECT message.id, message.instance_id, model.id, piece.start, piece.last, piece.vector::halfvec
    FROM unnest(%(of)s::bigint[], %(starts)s::int[], %(ends)s::int[], %(vectors)s::text[])
        piece(message_id, start, last, vector)
    JOIN message ON message.id = piece.message_id CROSS JOIN model
    ON CONFLICT DO NOTHING
)
"""

_TAKE_OFF = """
UPDATE conversations_message m SET embed_due = CASE
    WHEN NOT EXISTS (SELECT FROM model)
        OR EXISTS (SELECT FROM conversations_embeddingmodel WHERE active AND name <> %(model)s)
    THEN %(overtaken)s::timestamptz
END
FROM message CROSS JOIN soon WHERE m.id = message.id AND m.instance_id = message.instance_id
"""

_LEAVE_ON = "SELECT count(*) FROM message CROSS JOIN soon"
