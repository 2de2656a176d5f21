"""The statements by which exchange_sql.py opens and closes exchanges. `{names}` are filled in by it."""

from __future__ import annotations

from conversations.lexemes import STORED

# The columns of a new turn, as exchange_sql.py sends them, and their types.
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

# Makes the scope, unless another request has.
MAKE = """
INSERT INTO conversations_partition (name, created, remember) VALUES (%(partition)s, %(now)s, %(remember)s)
ON CONFLICT DO NOTHING;
INSERT INTO conversations_instance (partition_id, name, created, message_count, exchange_count)
SELECT p.id, %(instance)s, %(now)s, 0, 0 FROM conversations_partition p WHERE p.name = %(partition)s
ON CONFLICT DO NOTHING;
"""

# Does not block foreign keys to the instance (see messages.lock_instance).
LOCK = """
SELECT i.id FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id
WHERE p.name = %(partition)s AND i.name = %(instance)s FOR NO KEY UPDATE OF i
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

# A scope without messages: all turns are new. It has just been made, by this request or by another one.
FRESH = """
place AS MATERIALIZED (
    SELECT '{}'::bigint[] AS known, NULL::bigint AS parent FROM scope
    WHERE NOT EXISTS (SELECT FROM conversations_message m WHERE m.instance_id = scope.id)
)"""

OPENED = """opened AS (
    INSERT INTO conversations_exchange (
        trace_id, instance_id, created, key_id, served_by, dialect, model, provider, streamed, ended, finish_reason,
        error, timings, memory, rule, memories, memory_tokens, parameters, prompts, request_ids, left_out, question_id
    )
    SELECT %(trace_id)s, scope.id, scope.moment, %(key_id)s, %(served_by)s::uuid, %(dialect)s, %(model)s,
           %(provider)s, %(streamed)s, 'open', '', '', '{}', %(memory)s, %(rule)s, %(memories)s, %(memory_tokens)s,
           %(parameters)s, %(prompts)s::jsonb, sent.ids, %(left_out)s::int[], sent.ids[%(question)s]
    FROM scope CROSS JOIN sent
    RETURNING id, instance_id, question_id
), counted AS (
    UPDATE conversations_instance i
    SET message_count = message_count + %(new)s, exchange_count = exchange_count + 1, last_active = scope.moment
    FROM scope CROSS JOIN opened WHERE i.id = scope.id
)"""

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
), {opened}, messages AS (
    INSERT INTO conversations_message (
        id, {columns}, created, parent_id, alone, choice, partial, abandoned
    )
    SELECT new.id, scope.id, opened.id, {derived},
           scope.moment, coalesce(lag(new.id) OVER (ORDER BY new.at), place.parent), %(alone)s, 0, false, false
    FROM scope CROSS JOIN place CROSS JOIN opened CROSS JOIN new
){ledger}{embedding}
SELECT id, instance_id, question_id, {is_embedded} FROM opened
"""

# A request of which no turn is stored, since a rule held for it.
OPEN_WITHOUT_TURNS = """
WITH {scope}, sent AS MATERIALIZED (
    SELECT '{{}}'::bigint[] AS ids FROM scope
    WHERE NOT EXISTS (SELECT FROM conversations_exchange e WHERE e.trace_id = %(trace_id)s)
), {opened}{ledger}
SELECT id, instance_id, question_id, false FROM opened
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

# The turn that the answers grow from, the last one of the request. It must be the exchange's own: an answer to an
# earlier one may replace what that one had. Nothing may follow it: a client may have brought the answer along already.
ASKED = """
asked AS MATERIALIZED (
    SELECT e.id, question.id AS question_id, question.abandoned,
           GREATEST(e.created, scope.moment) AS finished
    FROM scope
    JOIN conversations_exchange e ON e.instance_id = scope.id AND e.trace_id = %(trace_id)s
    JOIN conversations_message question
      ON question.id = e.request_ids[cardinality(e.request_ids)] AND question.exchange_id = e.id
    WHERE e.ended = ANY(%(open)s)
      AND NOT EXISTS (SELECT FROM conversations_message m WHERE m.parent_id = question.id AND NOT m.alone)
)"""

ASKED_WITHOUT_TURNS = """
asked AS MATERIALIZED (
    SELECT e.id, GREATEST(e.created, scope.moment) AS finished
    FROM scope JOIN conversations_exchange e ON e.instance_id = scope.id AND e.trace_id = %(trace_id)s
    WHERE e.ended = ANY(%(open)s) AND cardinality(e.request_ids) = 0
)"""

# Ends the exchange and adds to the scope's counters; ANSWERS stores the answers.
CLOSE = """
WITH {scope}, {asked}, closed AS (
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
