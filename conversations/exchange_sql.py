"""Opens and closes exchanges by plain SQL, in one round trip each, where the scope's history simply goes on.

Each function sends its statements in one message, which PostgreSQL runs as one transaction. The first locks the scope's
instance, so that writers of a scope take turns. The next sees what earlier writers committed, since it gets a
snapshot of its own; it checks that the case is the common one and stores everything, or stores nothing. In all other
cases (new scopes, forks, changed histories, retries) the caller goes the long way, by way of capture.align().
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.db import connection
from django.utils import timezone

from conversations import scopes
from conversations.ledger_entries import only_considered, pack
from conversations.lexemes import STORED, asks, indexed_text
from conversations.messages import tokens_of, whole_count, wishes
from conversations.payloads import without_content
from conversations.shapes import references_in
from conversations.states import Ended
from conversations.turns import Count, Turn

if TYPE_CHECKING:
    from conversations.actions import Answered, Asked

Values = dict[str, Any]

# The clock has been set back if a scope's latest time is further ahead of it than this.
SET_BACK = timedelta(hours=1)
# The clocks of hosts may differ by this much.
SKEW = timedelta(milliseconds=250)

# Texts that would be sent again, and counted again, on the long way.
MOST_CHARACTERS = 2**20


class Sql(NamedTuple):
    """A statement, and the values that it names."""

    text: str
    values: Values


class Opened(NamedTuple):
    """An exchange that has been opened: its id, its scope's instance, its question, and whether that has a vector."""

    id: int
    instance_id: int
    question_id: int | None
    embedded: bool = False


class QuestionVector(NamedTuple):
    """The vector of a question that is a single piece: `start` and `end` are offsets in its text."""

    text: str
    start: int
    end: int
    model: str  # the embedding model's name
    literal: str  # see nearest.vector_literal()


def open_in_one(asked: Asked, count: Count, replayed: bool, vector: QuestionVector | None = None) -> Opened | None:
    """Store a request whose new turns follow the end of what is known. None, and nothing stored, in all other cases.

    That is a single turn that does not repeat the scope's latest question; or a history up to an answer that no turn
    follows yet, and turns after it. capture.align() and this agree; a test compares them.

    The question's vector is stored with it, if it is of the model in use.
    """
    if (opening := _opening(asked, count, replayed, vector)) is None:
        return None
    *_, row = _results(opening)
    return Opened(*row) if row else None


def close_in_one(asked: Asked, answered: Answered, count: Count) -> bool:
    """Store the answer of an open exchange that asked its last turn itself. False, and nothing stored, in other cases:
    a retry, a forgotten question, an exchange that is closed already or not there.
    """
    if (closing := _closing(asked, answered, count)) is None:
        return False
    *_, row = _results(closing)
    return row is not None


def store_in_one(asked: Asked, answered: Answered, count: Count) -> bool:
    """Store a replayed request and its answer, each as open_in_one and close_in_one do. False if that is not all: then
    nothing is stored, or the request alone.
    """
    opening, closing = _opening(asked, count, True), _closing(asked, answered, count)
    if opening is None or closing is None:
        return False
    *_, row = _results(opening, _apart(closing))
    return row is not None


def _opening(asked: Asked, count: Count, replayed: bool, vector: QuestionVector | None = None) -> Sql | None:
    """The statement of open_in_one; None for a request that cannot be the common case."""
    if scopes.is_distributed():  # Citus takes no INSERT inside WITH
        return None
    turns = asked.turns
    known = max((at + 1 for at, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    new = turns[known:]
    if (
        asked.follows
        or any(references_in(turn.payload) for turn in turns[:-1])
        or not new
        or (not known and len(turns) > 1)
        or sum(len(turn.payload) for turn in new) > MOST_CHARACTERS
    ):
        return None
    ledger = asked.ledger
    values: Values = {
        **_scope_values(asked, timedelta() if replayed else SKEW),
        "moment": asked.created,
        "digests": [turn.digest for turn in turns[:known]],
        "known": known,
        "last": turns[known - 1].digest,
        "unexplained": [turn.digest for turn in new[:-1]],
        "next": new[0].digest,
        "alone": len(turns) == 1,
        "new": len(new),
        "dialect": asked.dialect,
        "model": asked.model,
        "provider": asked.provider,
        "streamed": asked.streamed,
        "memory": asked.memory,
        "rule": asked.rule,
        "key_id": asked.key_id,
        "served_by": asked.served_by,
        "memories": len(ledger.message_ids) if ledger else 0,
        "memory_tokens": ledger.tokens if ledger else 0,
        "parameters": asked.parameters,
        "prompts": json.dumps([list(prompt) for prompt in asked.prompts]),
        "left_out": list(asked.left_out),
        "question": max((at + 1 for at, turn in enumerate(turns) if turn.role == "user"), default=0),
    }
    if ledger:
        values |= {
            "key": ledger.key,
            "entries": pack(ledger.candidates),
            "considered": only_considered(ledger.candidates, ledger.message_ids),
            "injected": json.dumps(list(ledger.injected)),
            "message_ids": list(ledger.message_ids),
            "rendering": ledger.rendering,
        }
    embedded = values["question"] - 1 - known  # the question's place among the new turns
    if vector and embedded >= 0 and new[embedded].content == vector.text:
        values |= {
            "embedded": embedded,
            "piece_start": vector.start,
            "piece_end": vector.end,
            "embedding_model": vector.model,
            "vector": vector.literal,
        }
    else:
        vector = None
    statement = OPEN.format(
        scope=SCOPE,
        place=AFTER_AN_ANSWER if known else ALONE,
        turns=_rows(new, count, values),
        turn=", ".join(TURN),
        columns=COLUMNS,
        derived=DERIVED.replace("new.due", DUE_WITH_VECTOR) if vector else DERIVED,
        ledger=LEDGER if ledger else "",
        embedding_model=EMBEDDING_MODEL if vector else "",
        embedding=EMBEDDING if vector else "",
        is_embedded="EXISTS (SELECT FROM embedding)" if vector else "false",
    )
    return Sql(statement, values)


def _closing(asked: Asked, answered: Answered, count: Count) -> Sql | None:
    """The statement of close_in_one; None for an answer that is too long."""
    if scopes.is_distributed() or sum(len(turn.payload) for turn in answered.turns) > MOST_CHARACTERS:
        return None
    usage = answered.usage or {}
    values: Values = {
        **_scope_values(asked, timedelta()),
        "moment": answered.finished,
        "open": [Ended.OPEN, Ended.INTERRUPTED],
        "new": len(answered.turns),
        "partial": answered.ended != Ended.ANSWERED,
        "ended": answered.ended,
        "status": answered.status,
        "finish_reason": answered.finish_reason,
        "error": answered.error,
        "usage": json.dumps(dict(usage)) if usage else None,
        "input_tokens": whole_count(usage.get("prompt_tokens")),
        "output_tokens": whole_count(usage.get("completion_tokens")),
        "cost": answered.cost,
        "timings": json.dumps(dict(answered.timings)),
        "response_id": answered.response_id,
    }
    answers = ""
    if answered.turns:
        turns = _rows(answered.turns, count, values)
        answers = ANSWERS.format(turns=turns, turn=", ".join(TURN), columns=COLUMNS, derived=DERIVED)
    return Sql(CLOSE.format(scope=SCOPE, answers=answers), values)


def _apart(sql: Sql) -> Sql:
    """With other names for its values, so that it can be sent together with another statement."""
    values = {f"{name}_": value for name, value in sql.values.items()}
    return Sql(re.sub(r"%\((\w+)\)s", r"%(\1_)s", sql.text), values)


def _scope_values(asked: Asked, skew: timedelta) -> Values:
    return {
        "partition": asked.scope.partition,
        "instance": asked.scope.instance,
        "trace_id": asked.trace_id,
        "now": timezone.now(),
        "set_back": SET_BACK,
        "skew": skew,
        "language": settings.RESERVOIR_LANGUAGE,
    }


def _rows(turns: Sequence[Turn], count: Count, values: Values) -> str:
    """SQL for VALUES: one row of TURN for each turn. Adds what the rows refer to to `values`."""
    now = timezone.now()
    rows = []
    for at, turn in enumerate(turns):
        spaced, pairs = indexed_text(turn.name, turn.content)
        row: Mapping[str, Any] = {
            "at": at,
            "role": turn.role,
            "name": turn.name,
            "content": turn.content,
            "payload": without_content(turn.payload, turn.content),
            "digest": turn.digest,
            "tokens": tokens_of(turn.content, count),
            "asks": asks(turn.content),
            "wish": wishes(turn),
            "spaced": spaced,
            "pairs": pairs,
            "due": now if turn.content.strip() else None,
        }
        rows.append("(" + ", ".join(f"%({name}{at})s::{TURN[name]}" for name in row) + ")")
        values |= {f"{name}{at}": value for name, value in row.items()}
    return ", ".join(rows)


def _results(*statements: Sql) -> list[tuple[Any, ...] | None]:
    """The first row of each statement. They are sent at once, after LOCK, and are one transaction."""
    values = {name: value for each in statements for name, value in each.values.items()}
    rows = []
    with connection.cursor() as cursor:
        cursor.execute(LOCK + ";".join(each.text for each in statements), values)
        for _ in statements:
            cursor.nextset()
            rows.append(cursor.fetchone())
    return rows


TURN = {
    "at": "int",
    "role": "text",
    "name": "text",
    "content": "text",
    "payload": "text",
    "digest": "bytea",
    "tokens": "int",
    "asks": "bool",
    "wish": "bool",
    "spaced": "text",
    "pairs": "text",
    "due": "timestamptz",
}

# Does not block foreign keys to the instance (see messages.lock_instance).
LOCK = """
SELECT i.id FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id
WHERE p.name = %(partition)s AND i.name = %(instance)s FOR NO KEY UPDATE OF i;
"""

# The scope that is locked, and the time to store with, unless it is late (see actions._time).
SCOPE = """
scope AS MATERIALIZED (
    SELECT i.id, GREATEST(i.last_active, %(moment)s::timestamptz) AS moment
    FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id
    WHERE p.name = %(partition)s AND i.name = %(instance)s
      AND coalesce(i.last_active - %(moment)s::timestamptz <= %(skew)s::interval
                   OR i.last_active - %(now)s::timestamptz > %(set_back)s::interval, true)
)"""

# A single turn grows from the scope's latest message, whatever that is. It must not have the digest of the scope's
# latest question: then it may be a retry.
ALONE = """
place AS MATERIALIZED (
    SELECT '{}'::bigint[] AS known,
           (SELECT m.id FROM conversations_message m WHERE m.instance_id = scope.id
            ORDER BY m.created DESC, m.id DESC LIMIT 1) AS parent
    FROM scope
    WHERE (SELECT m.digest FROM conversations_message m WHERE m.instance_id = scope.id AND m.role = 'user'
           ORDER BY m.created DESC, m.id DESC LIMIT 1) IS DISTINCT FROM %(next)s::bytea
)"""

# `tail` is the last answer in the request. It is the only message of the scope with its digest, and the turns before it
# in the request are those before it on its branch, down to the first, all alive. Nothing grows from it, and its parent
# has no other living branch. No turn after it but the last is stored anywhere in the scope: it could be part of a
# history that the client changed. Then capture.align() finds the same branch, with nothing to revive, join or abandon.
AFTER_AN_ANSWER = """
tail AS MATERIALIZED (
    SELECT m.id, m.instance_id, m.parent_id, m.abandoned, m.alone
    FROM scope JOIN conversations_message m ON m.instance_id = scope.id AND m.digest = %(last)s::bytea LIMIT 2
), branch AS (
    SELECT id, instance_id, parent_id, alone, %(known)s::int AS place FROM tail WHERE NOT abandoned
    UNION ALL
    SELECT m.id, m.instance_id, m.parent_id, m.alone, branch.place - 1
    FROM branch JOIN conversations_message m ON m.id = branch.parent_id AND m.instance_id = branch.instance_id
    WHERE branch.place > 1 AND NOT branch.alone AND NOT m.abandoned
      AND m.digest = (%(digests)s::bytea[])[branch.place - 1]
), place AS MATERIALIZED (
    SELECT array_agg(branch.id ORDER BY branch.place) AS known, (SELECT id FROM tail) AS parent FROM branch
    HAVING count(*) = %(known)s AND (SELECT count(*) FROM tail) = 1
       AND NOT EXISTS (SELECT FROM conversations_message m JOIN tail ON m.parent_id = tail.id)
       AND NOT EXISTS (
           SELECT FROM conversations_message m JOIN tail ON m.parent_id = tail.parent_id AND m.id <> tail.id
           WHERE NOT m.alone
       )
       AND NOT EXISTS (
           SELECT FROM conversations_message m JOIN scope ON m.instance_id = scope.id
           WHERE m.digest = ANY(%(unexplained)s::bytea[])
       )
)"""

# What a row of `new` becomes in the table of messages, beside what the statement says of its place.
COLUMNS = "instance_id, exchange_id, role, name, content, payload, digest, tokens, asks, wish, embed_due, lexemes"
WORDS = STORED.format(
    vector="to_tsvector(%(language)s::regconfig, new.spaced) || ('''#' || scope.id || ''' ' || new.pairs)::tsvector"
)
DERIVED = f"""new.role, new.name, new.content, new.payload, new.digest, new.tokens, new.asks,
           new.wish, new.due, {WORDS}"""

# Stores the request unless its exchange is there already: new ids for its new turns, the exchange, the messages, each
# growing from the one before it, the ledger, and the scope's counters.
OPEN = """
WITH RECURSIVE {scope}, {place}, {embedding_model}new AS MATERIALIZED (
    SELECT turn.*, nextval(pg_get_serial_sequence('conversations_message', 'id')) AS id
    FROM place CROSS JOIN (VALUES {turns}) turn({turn})
    WHERE NOT EXISTS (SELECT FROM conversations_exchange e WHERE e.trace_id = %(trace_id)s)
    ORDER BY turn.at
), sent AS MATERIALIZED (
    SELECT place.known || array_agg(new.id ORDER BY new.at) AS ids FROM place CROSS JOIN new GROUP BY place.known
), opened AS (
    INSERT INTO conversations_exchange (
        trace_id, instance_id, created, key_id, served_by, dialect, model, provider, streamed, ended, finish_reason,
        error, timings, memory, rule, memories, memory_tokens, parameters, prompts, request_ids, left_out, question_id
    )
    SELECT %(trace_id)s, scope.id, scope.moment, %(key_id)s, %(served_by)s::uuid, %(dialect)s, %(model)s,
           %(provider)s, %(streamed)s, 'open', '', '', '{{}}', %(memory)s, %(rule)s, %(memories)s, %(memory_tokens)s,
           %(parameters)s, %(prompts)s::jsonb, sent.ids, %(left_out)s::int[], sent.ids[%(question)s]
    FROM scope CROSS JOIN sent
    RETURNING id, instance_id, question_id
), messages AS (
    INSERT INTO conversations_message (
        id, {columns}, created, parent_id, alone, choice, partial, abandoned
    )
    SELECT new.id, scope.id, opened.id, {derived},
           scope.moment, coalesce(lag(new.id) OVER (ORDER BY new.at), place.parent), %(alone)s, 0, false, false
    FROM scope CROSS JOIN place CROSS JOIN opened CROSS JOIN new
), counted AS (
    UPDATE conversations_instance i
    SET message_count = message_count + %(new)s, exchange_count = exchange_count + 1, last_active = scope.moment
    FROM scope CROSS JOIN opened WHERE i.id = scope.id
){ledger}{embedding}
SELECT id, instance_id, question_id, {is_embedded} FROM opened
"""

# The model of the question's vector, if it is in use. A change of model locks the table of vectors: this statement has
# waited for that lock before it looks, or the change waits for this statement (see reembedding.py).
EMBEDDING_MODEL = """embedding_model AS MATERIALIZED (
    SELECT id FROM conversations_embeddingmodel WHERE name = %(embedding_model)s AND active
), """
DUE_WITH_VECTOR = "CASE WHEN new.at = %(embedded)s AND EXISTS (SELECT FROM embedding_model) THEN NULL ELSE new.due END"
EMBEDDING = """, embedding AS (
    INSERT INTO conversations_embedding (message_id, instance_id, model_id, start, "end", vector)
    SELECT new.id, opened.instance_id, embedding_model.id, %(piece_start)s, %(piece_end)s, %(vector)s::halfvec
    FROM opened CROSS JOIN embedding_model CROSS JOIN new WHERE new.at = %(embedded)s
    RETURNING message_id
)"""


LEDGER = """, ledger AS (
    INSERT INTO conversations_ledger (
        exchange_id, instance_id, key, entries, packed, considered, candidates, injected, message_ids, rendering, tokens
    )
    SELECT opened.id, opened.instance_id, %(key)s, %(entries)s::bytea, NULL, %(considered)s::bigint[], '[]',
           %(injected)s::jsonb, %(message_ids)s::bigint[], %(rendering)s, %(memory_tokens)s
    FROM opened
)"""

# Ends the exchange and adds to the scope's counters; ANSWERS stores the answers, all growing from the last turn of the
# request. That turn must be the exchange's own: an answer to an earlier one may replace what that one had. Nothing may
# follow it: a client may have brought the answer along already.
CLOSE = """
WITH {scope}, asked AS MATERIALIZED (
    SELECT e.id, question.id AS question_id, question.abandoned,
           GREATEST(e.created, scope.moment) AS finished
    FROM scope
    JOIN conversations_exchange e ON e.instance_id = scope.id AND e.trace_id = %(trace_id)s
    JOIN conversations_message question
      ON question.id = e.request_ids[cardinality(e.request_ids)] AND question.exchange_id = e.id
    WHERE e.ended = ANY(%(open)s)
      AND NOT EXISTS (SELECT FROM conversations_message m WHERE m.parent_id = question.id AND NOT m.alone)
), closed AS (
    UPDATE conversations_exchange e
    SET finished = asked.finished, ended = %(ended)s, status = %(status)s, finish_reason = %(finish_reason)s,
        error = %(error)s, usage = %(usage)s::jsonb, input_tokens = %(input_tokens)s,
        output_tokens = %(output_tokens)s, cost = %(cost)s, timings = %(timings)s::jsonb,
        response_id = %(response_id)s
    FROM asked WHERE e.id = asked.id
), counted AS (
    UPDATE conversations_instance i SET message_count = message_count + %(new)s, last_active = asked.finished
    FROM scope CROSS JOIN asked WHERE i.id = scope.id
){answers}
SELECT id FROM asked
"""

ANSWERS = """, answers AS (
    INSERT INTO conversations_message ({columns}, created, parent_id, alone, choice, partial, abandoned)
    SELECT scope.id, asked.id, {derived},
           asked.finished, asked.question_id, false, new.at, %(partial)s, asked.abandoned
    FROM scope CROSS JOIN asked CROSS JOIN (VALUES {turns}) new({turn})
    ORDER BY new.at
)"""
