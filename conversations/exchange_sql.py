"""Opens and closes exchanges by plain SQL, in one round trip each, where the scope's history simply goes on.

Each function sends its statements in one message, which PostgreSQL runs as one transaction. The first locks the scope's
instance, so that writers of a scope take turns. The next sees what earlier writers committed, since it gets a
snapshot of its own; it checks that the case is the common one and stores everything, or stores nothing. A new scope
takes a second message, which makes it first. In all other cases (forks, changed histories, retries) the caller goes the
long way, by way of capture.align().
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from conversations import scopes
from conversations.exchange_statements import (
    AFTER_AN_ANSWER,
    ALONE,
    ANSWERS,
    ASKED,
    ASKED_WITHOUT_TURNS,
    CLOSE,
    COLUMNS,
    DERIVED,
    DUE_WITH_VECTOR,
    EMBEDDING,
    EMBEDDING_MODEL,
    FRESH,
    LEDGER,
    LOCK,
    MAKE,
    OPEN,
    OPEN_WITHOUT_TURNS,
    OPENED,
    SCOPE,
    TURN,
)
from conversations.ledger_entries import only_considered, pack
from conversations.lexemes import asks, indexed_text
from conversations.messages import tokens_of, whole_count, wishes
from conversations.payloads import without_content
from conversations.shapes import references_in
from conversations.states import Ended, Remember
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
    follows yet, and turns after it; or anything in a new scope; or no turn at all, where a rule holds.
    capture.align() and this agree; a test compares them.

    The question's vector is stored with it, if it is of the model in use.
    """
    if (opening := _opening(asked, count, replayed, vector)) is None:
        return None
    is_there, (row,) = _results(opening)
    if not is_there and (opening := _opening(asked, count, replayed, vector, fresh=True)):
        _, (row,) = _results(opening, make=True)
    return Opened(*row) if row else None


def close_in_one(asked: Asked, answered: Answered, count: Count) -> bool:
    """Store the answer of an open exchange that asked its last turn itself. False, and nothing stored, in other cases:
    a retry, a forgotten question, an exchange that is closed already or not there.
    """
    if (closing := _closing(asked, answered, count)) is None:
        return False
    _, (row,) = _results(closing)
    return row is not None


def store_in_one(asked: Asked, answered: Answered, count: Count) -> bool:
    """Store a replayed request and its answer, each as open_in_one and close_in_one do. False if that is not all: then
    nothing is stored, or the request alone.
    """
    opening, closing = _opening(asked, count, True), _closing(asked, answered, count)
    if opening is None or closing is None:
        return False
    closing = _apart(closing)
    is_there, rows = _results(opening, closing)
    if not is_there and (opening := _opening(asked, count, True, fresh=True)):
        _, rows = _results(opening, closing, make=True)
    return rows[-1] is not None


def _opening(
    asked: Asked, count: Count, replayed: bool, vector: QuestionVector | None = None, *, fresh: bool = False
) -> Sql | None:
    """The statement of open_in_one; None for a request that cannot be the common case. `fresh`: its scope is new."""
    if scopes.is_distributed():  # Citus takes no INSERT inside WITH
        return None
    turns = asked.turns
    known = max((at + 1 for at, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    if fresh:
        known = 0
    new = turns[known:]
    if (
        asked.follows
        or any(references_in(turn.payload) for turn in turns[:-1])
        or (turns and not new)
        or (not known and len(turns) > 1 and not fresh)
        or sum(len(turn.payload) for turn in new) > MOST_CHARACTERS
    ):
        return None
    ledger = asked.ledger
    values: Values = {
        **_scope_values(asked, timedelta() if replayed else SKEW),
        "moment": asked.created,
        "digests": [turn.digest for turn in turns[:known]],
        "known": known,
        "last": turns[known - 1].digest if known else b"",
        "unexplained": [turn.digest for turn in new[:-1]],
        "next": new[0].digest if new else b"",
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
    if not turns:
        statement = OPEN_WITHOUT_TURNS.format(scope=SCOPE, opened=OPENED, ledger=LEDGER if ledger else "")
        return Sql(statement, values)
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
        place=FRESH if fresh else AFTER_AN_ANSWER if known else ALONE,
        opened=OPENED,
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
    known = ASKED_WITHOUT_TURNS if asked.rule and not asked.turns and not answered.turns else ASKED
    return Sql(CLOSE.format(scope=SCOPE, asked=known, answers=answers), values)


def _apart(sql: Sql) -> Sql:
    """With other names for its values, so that it can be sent together with another statement."""
    values = {f"{name}_": value for name, value in sql.values.items()}
    return Sql(_VALUE.sub(r"%(\1_)s", sql.text), values)


def _scope_values(asked: Asked, skew: timedelta) -> Values:
    return {
        "partition": asked.scope.partition,
        "instance": asked.scope.instance,
        "trace_id": asked.trace_id,
        "now": timezone.now(),
        "set_back": SET_BACK,
        "skew": skew,
        "language": settings.RESERVOIR_LANGUAGE,
        "remember": Remember.PEOPLE.value,
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


def _results(*statements: Sql, make: bool = False) -> tuple[bool, list[tuple[Any, ...] | None]]:
    """Whether the scope is there, and the first row of each statement.

    They are sent at once, after LOCK, and are one transaction, which makes the scope first if told to.
    """
    lock = Sql(LOCK, statements[0].values)
    with connection.cursor() as cursor:
        if (plans := _plans.get()) and not make:
            plans.execute(cursor, [lock, *statements])
        else:
            values = {name: value for each in statements for name, value in each.values.items()}
            texts = ";".join(each.text for each in (lock, *statements))
            cursor.execute((MAKE if make else "") + texts, values)
        for _ in range(MAKE.count(";") if make else 0):
            cursor.nextset()
        rows = [cursor.fetchone()]
        for _ in statements:
            cursor.nextset()
            rows.append(cursor.fetchone())
    return rows[0] is not None, rows[1:]


class Plans:
    """Statements that PostgreSQL has planned for the transaction under way."""

    def __init__(self) -> None:
        self._prefix = f"reservoir_{secrets.token_hex(8)}"  # a pooler's connections may remember others
        self._known: dict[
            str, tuple[str, list[str]]
        ] = {}  # by its text: the name of a statement, and its values' names

    def execute(self, cursor: CursorWrapper, statements: Sequence[Sql]) -> None:
        """Send these at once."""
        texts, values = [], []
        for each in statements:
            name, names = self._known.get(each.text) or self._prepare(cursor, each.text)
            texts.append(f"EXECUTE {name} ({', '.join(['%s'] * len(names))})")
            values += [each.values[name] for name in names]
        cursor.execute(";".join(texts), values)

    def _prepare(self, cursor: CursorWrapper, text: str) -> tuple[str, list[str]]:
        names = list(dict.fromkeys(_VALUE.findall(text)))
        places = {name: f"${place}" for place, name in enumerate(names, 1)}
        name = f"{self._prefix}_{len(self._known)}"
        cursor.execute(f"PREPARE {name} AS {_VALUE.sub(lambda found: places[found[1]], text)}", None)
        self._known[text] = name, names
        return self._known[text]

    def drop(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(";".join(f"DEALLOCATE {name}" for name, _ in self._known.values()) or "SELECT")


@contextmanager
def planned_once() -> Iterator[None]:
    """Plan each statement once for all exchanges that are stored inside, which must be in one transaction.

    Planning takes half of PostgreSQL's time. The plans do not depend on the values: a scope's number is read by each
    statement itself. No plan outlives the transaction, so a pooler does no harm.
    """
    plans = Plans()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL plan_cache_mode TO force_generic_plan")
    token = _plans.set(plans)
    try:
        yield
    finally:
        _plans.reset(token)
    plans.drop()


_plans: ContextVar[Plans | None] = ContextVar("plans", default=None)
_VALUE = re.compile(r"%\((\w+)\)s")
