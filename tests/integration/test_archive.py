"""An export is imported unchanged and once, and invalid lines are refused. Real PostgreSQL."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.utils import timezone

from conversations import actions, forgetting
from conversations.archive.fields import uid
from conversations.archive.reading import BadLine, Item, read
from conversations.archive.storing import Imported, Importer
from conversations.archive.writing import as_array, as_lines, export
from conversations.backlog import save_vectors
from conversations.embedders.pieces import Piece
from conversations.messages import add_messages
from conversations.models import Embedding, EmbeddingModel, Exchange, Instance, Ledger, Message
from conversations.querysets import Scope
from conversations.selection import Selection
from conversations.turns import Turn

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "archive/ü")
HOSTILE = "\x1b[2J\u202ereversed\u2028<script>alert(1)</script>=cmd|' /C calc'!A0 \U0001f9f8 \x07"
MODEL = "tests"
BEGIN = timezone.now() - timedelta(hours=1)


def store(messages: list[dict[str, Any]], *answers: dict[str, Any], scope: Scope = SCOPE, **fields: Any) -> Exchange:
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=fields.pop("at", None) or BEGIN + Exchange.objects.count() * timedelta(seconds=10),
        model="gpt-4",
        provider="openai",
        streamed=True,
        turns=tuple(Turn.from_payload(json.dumps(m), m) for m in messages if m["role"] != "system"),
        prompts=tuple((i, json.dumps(m)) for i, m in enumerate(messages) if m["role"] == "system"),
        parameters='{"model": "gpt-4", "messages": [], "temperature": 0.70}',
        ledger=fields.pop("ledger", None),
        memory=fields.pop("memory", "on"),
        left_out=fields.pop("left_out", ()),
        rule=fields.pop("rule", ""),
    )
    actions.open_exchange(asked=asked)
    answered = actions.Answered(
        finished=asked.created + timedelta(seconds=2, microseconds=7),
        ended=fields.pop("ended", Exchange.Ended.ANSWERED),
        status=fields.pop("status", 200),
        turns=tuple(Turn.from_payload(json.dumps(m), m) for m in answers),
        **fields,
    )
    actions.close_exchange(asked=asked, answered=answered)
    return Exchange.objects.get(trace_id=asked.trace_id)


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def embed(message: Message, *vectors: list[float], model: str = MODEL) -> None:
    row, _ = EmbeddingModel.objects.get_or_create(name=model, defaults={"dimensions": len(vectors[0])})
    pieces = [Piece(i, i + 1) for i in range(len(vectors))]
    given = np.array(vectors, np.float32)
    save_vectors(message_id=message.pk, instance_id=message.instance_id, model=row, pieces=pieces, vectors=given)


def a_history() -> None:
    """Store every kind of row, with every field set somewhere."""
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    first = store(
        [{"role": "system", "content": "Be brief."}, user(HOSTILE, name="Ada")],
        assistant(None, tool_calls=[call], refusal=None),
        usage={"prompt_tokens": 12, "completion_tokens": 3, "details": {"cached": 1}},
        cost=Decimal("0.00012345"),
        timings={"recall": 1.25, "total": 812.5},
        finish_reason="tool_calls",
    )
    history = [user(HOSTILE, name="Ada"), assistant(None, tool_calls=[call])]
    tool = {"role": "tool", "tool_call_id": "c1", "content": "42"}
    store([*history, tool], assistant("It is 42, " + "so " * 400), assistant("Another choice"))
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    store(
        [*history, user(parts)],
        assistant("half an ans"),
        left_out=(0, 1),
        ended=Exchange.Ended.CUT,
        error="reset",
        status=502,
    )
    store([user("nul \x00 and half \ud83d a pair")], ended=Exchange.Ended.FAILED, status=500, error="no")
    store([user("nul \x00 and half \ud83d a pair")], ended=Exchange.Ended.FAILED, status=500, memory="degraded")
    asked, answered = first.messages.order_by("id")
    last = store(
        [user("what was it?")],
        assistant("42"),
        ledger=actions.Ledger(
            key=bytes(range(16)),
            candidates=({"id": asked.pk, "score": 0.5, "kept": True}, {"id": answered.pk, "kept": False}),
            injected=('{"role": "system", "content": "quoted"}',),
            message_ids=(asked.pk,),
            tokens=9,
        ),
    )
    store([user("From now on, call me Ada.")], assistant("too"), scope=Scope("tests", "another"), rule="title")
    embed(asked, [0.125, 0.3333, -1.0], [0.0, 1.0, 0.0001])
    embed(asked, [0.5, 0.25], model="of two")
    embed(last.messages.get(role="user"), [0.1, 0.2, 0.3])
    add_messages(
        scope=SCOPE,
        messages=[(Turn.from_payload(json.dumps(m), m), timezone.now()) for m in (user("noted"), user("and noted"))],
    )


def snapshot() -> dict[str, Any]:
    """Every field of every row, with names instead of ids, which differ between databases."""
    who = {
        m.pk: str(uid(m, m.exchange.trace_id if m.exchange else None))
        for m in Message.objects.select_related("exchange")
    }
    who[0] = "nobody"
    skipped = {"id", "origin", "embed_due", "lexemes"}

    def row(given: Any, **named: Any) -> dict[str, Any]:
        fields = [f for f in given._meta.concrete_fields if f.name not in skipped | named.keys()]
        values = {f.name: getattr(given, f.attname) for f in fields if f.name != "instance"}
        values = {key: bytes(value) if isinstance(value, memoryview) else value for key, value in values.items()}
        return values | named | ({"instance": str(given.instance)} if hasattr(given, "instance") else {})

    return {
        "messages": [
            row(
                m,
                uid=who[m.pk],
                parent=who.get(m.parent_id or 0),
                exchange=m.exchange and m.exchange.trace_id,
                waits=m.embed_due is not None,
                lexemes=(m.lexemes or "").replace(f"'#{m.instance_id}'", "'#'"),
            )
            for m in Message.objects.select_related("instance", "exchange").order_by("instance__name", "id")
        ],
        "exchanges": [
            row(e, request_ids=[who.get(pk) for pk in e.request_ids], question=who.get(e.question_id or 0))
            for e in Exchange.objects.select_related("instance").order_by("trace_id")
        ],
        "ledgers": [
            row(
                ledger,
                exchange=ledger.exchange.trace_id,
                message_ids=[who[pk] for pk in ledger.message_ids],
                candidates=[{**c, "id": who[c["id"]]} for c in ledger.candidates],
                considered=[who[pk] for pk in ledger.considered],
            )
            for ledger in Ledger.objects.select_related("exchange").order_by("exchange__trace_id")
        ],
        "embeddings": [
            (who[v.message_id], str(v.model), v.start, v.end, list(v.vector))
            for v in sorted(
                Embedding.objects.select_related("model"), key=lambda v: (who[v.message_id], v.model.name, v.start)
            )
        ],
        "instances": [
            (str(i.partition), str(i), i.message_count, i.exchange_count, i.last_active)
            for i in Instance.objects.select_related("partition")
        ],
    }


def empty() -> None:
    forgetting.forget(Selection(partition="tests", whole=True), by="tests")
    assert not Message.objects.exists()
    assert not Exchange.objects.exists()


def load(text: str | bytes, *, model: str = MODEL) -> tuple[Imported, list[str]]:
    refused: list[str] = []

    def good() -> Iterable[Any]:
        for item in read(io.BytesIO(text.encode() if isinstance(text, str) else text)):
            if isinstance(item, BadLine):
                refused.append(str(item))
            else:
                yield item

    importer = Importer(embedding_model=model, refuse=lambda bad: refused.append(str(bad)))
    for _ in importer.store(good()):
        pass
    connection.check_constraints()
    return importer.done, refused


def test_export_and_import_preserve_every_field() -> None:
    a_history()
    before = snapshot()
    assert all(any(m[key] for m in before["messages"]) for key in before["messages"][0]), "a field is never set"
    text = "".join(as_lines(export(embeddings=True)))
    empty()
    EmbeddingModel.objects.all().delete()
    done, refused = load(text)
    assert refused == []
    assert snapshot() == before
    assert done.messages == len(before["messages"])
    assert "".join(as_lines(export(embeddings=True))).count("\n") == text.count("\n")


def test_importing_twice_stores_once_even_at_the_source_and_after_a_detour() -> None:
    a_history()
    before, text = snapshot(), "".join(as_lines(export(embeddings=True)))
    assert load(text)[0].messages == 0
    assert snapshot() == before
    empty()
    load(text)
    again = "".join(as_lines(export(embeddings=True)))  # with other numbers
    assert load(text)[0] == Imported(known=len(before["messages"]))
    assert load(again)[0].messages == 0
    assert snapshot() == before


def test_an_interrupted_import_continues_where_it_stopped() -> None:
    a_history()
    before, lines = snapshot(), list(as_lines(export(embeddings=True)))
    empty()
    load("".join(lines[:5]))
    load("".join(lines))
    assert snapshot() == before


def test_a_ledger_is_imported_as_soon_as_its_messages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conversations.archive.storing.CHUNK", 1)
    for _ in range(4):  # all but the first exchange brought no message
        store([user("one")], ended=Exchange.Ended.FAILED, ledger=actions.Ledger(key=bytes(16), tokens=7))
    lines = list(as_lines(export()))
    assert ["role" in json.loads(line) for line in lines] == [True, False, False, False]
    empty()
    importer = Importer(embedding_model=MODEL, refuse=lambda bad: None)
    items = (item for item in read(io.BytesIO("".join(lines).encode())) if isinstance(item, Item))
    assert [Ledger.objects.count() for _ in importer.store(items)] == [1, 2, 3, 4]


def test_json_export_is_the_originals_array_and_can_be_imported() -> None:
    a_history()
    text = "".join(as_array(export(embeddings=True, exchanges=False)))
    original = {"trace_id", "partition", "instance", "content", "role", "embedding", "url", "timestamp"}
    objects = json.loads(text)
    assert all(list(each)[:8] and original <= each.keys() for each in objects)
    assert {type(each["embedding"]) for each in objects} == {list, type(None)}
    before = snapshot()["messages"]
    empty()
    load(text)
    assert snapshot()["messages"] == before
    assert json.loads("".join(as_array([]))) == []


def test_every_exported_message_is_one_line_of_ascii() -> None:
    store([user(HOSTILE)], assistant("\n\r\x85\u2029"))
    text = "".join(as_lines(export()))
    assert text.isascii()
    assert text.isprintable() is False
    assert set(text) - set(map(chr, range(32, 127))) == {"\n"}
    assert [json.loads(line)["content"] for line in text.splitlines()] == [HOSTILE, "\n\r\x85\u2029"]


def test_an_export_is_narrowed_by_scope_and_time() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    store([user("old")], assistant("older"), at=start)
    store([user("new")], assistant("newer"), at=start + timedelta(days=3))
    store([user("other")], assistant("another"), scope=Scope("tests", "another"), at=start)
    told = [each["content"] for each in export(partition="tests", instance=SCOPE.instance)]
    assert told == ["old", "older", "new", "newer"]
    assert [each["content"] for each in export(since=start + timedelta(days=1))] == ["new", "newer"]


def test_a_partial_export_has_no_dangling_references() -> None:
    first = store([user("one")], assistant("two"), at=timezone.now() - timedelta(days=9))
    asked = first.messages.get(role="user")
    ledger = actions.Ledger(
        key=b"k" * 16, candidates=({"id": asked.pk},), injected=('"one"',), message_ids=(asked.pk,), tokens=3
    )
    store([user("one"), assistant("two"), user("three")], assistant("four"), ledger=ledger)
    text = "".join(as_lines(export(since=timezone.now() - timedelta(days=1))))
    empty()
    load(text)
    exchange = Exchange.objects.get()
    assert exchange.request_ids[:2] == [0, 0]
    assert exchange.request_ids[2] == exchange.question_id == Message.objects.get(content="three").pk
    kept = Ledger.objects.get()
    assert (kept.candidates, kept.injected, kept.message_ids) == ([], [], [])


ORIGINAL: list[dict[str, Any]] = [
    {"trace_id": "11111111-1111-4111-8111-111111111111", "partition": "alice", "instance": "notes", "content": "Hello",
     "role": "user", "embedding": [0.1] * 1536, "url": None, "timestamp": 1747000000000},
    {"trace_id": "11111111-1111-4111-8111-111111111111", "partition": "alice", "instance": "notes", "content": "Hi!",
     "role": "assistant", "embedding": None, "url": None, "timestamp": 1747000001500},
]  # fmt: skip


@pytest.mark.parametrize("text", [json.dumps(ORIGINAL), json.dumps(ORIGINAL, indent=4)], ids=["compact", "indented"])
def test_an_export_of_the_original_reservoir_becomes_a_history(text: str) -> None:
    done, refused = load(text)
    assert (done.messages, done.exchanges, refused) == (2, 1, [])
    question, answer = Message.objects.order_by("id")
    assert (question.content, answer.content, answer.parent) == ("Hello", "Hi!", question)
    assert question.created == datetime.fromtimestamp(1747000000, UTC)
    assert question.embed_due is not None  # its vector has no model's name
    exchange = Exchange.objects.get()
    assert (str(exchange.trace_id), exchange.question, exchange.request_ids) == (
        ORIGINAL[0]["trace_id"],
        question,
        [question.pk],
    )
    assert load(text)[0].messages == 0
    # A client that continues this conversation adds no duplicates.
    store([user("Hello"), assistant("Hi!"), user("How are you?")], assistant("Fine."), scope=Scope("alice", "notes"))
    assert Message.objects.count() == 4


def test_vectors_of_another_model_are_kept_and_the_message_waits_for_its_own() -> None:
    embed(store([user("one")], assistant("two")).messages.get(role="user"), [1.0, 0.0])
    text = "".join(as_lines(export(embeddings=True)))
    empty()
    load(text, model="another")
    assert Embedding.objects.get().model.name == MODEL
    assert Message.objects.backlog().count() == 2
    empty()
    load(text, model=MODEL)
    assert [m.content for m in Message.objects.backlog()] == ["two"]


GOOD = {"trace_id": "11111111-1111-4111-8111-111111111111", "partition": "p", "instance": "i", "content": "x",
        "role": "user", "timestamp": 1747000000000}  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        "not json",
        "[]",
        json.dumps({**GOOD, "role": None}),
        json.dumps({**GOOD, "partition": "  "}),
        json.dumps({**GOOD, "partition": "a\x00b"}),
        json.dumps({**GOOD, "instance": "x" * 201}),
        json.dumps({**GOOD, "trace_id": "1234"}),
        json.dumps({**GOOD, "timestamp": "yesterday"}),
        json.dumps({**GOOD, "timestamp": 10**30}),
        json.dumps({**GOOD, "timestamp": 99999999999999}),
        json.dumps({**GOOD, "timestamp": 1747000000}),
        json.dumps({**GOOD, "content": ["a"]}),
        json.dumps({**GOOD, "payload": "{"}),
        json.dumps({**GOOD, "payload": '{"role": "user", "content": "something else"}'}),
        json.dumps({**GOOD, "choice": -1}),
        json.dumps({**GOOD, "tokens": 2**40}),
        json.dumps({**GOOD, "abandoned": "yes"}),
        json.dumps({**GOOD, "parent": "x"}),
        json.dumps({**GOOD, "embeddings": [{"model": "m", "start": 0, "end": 99, "vector": [1]}]}),
        json.dumps({**GOOD, "embeddings": [{"model": "m", "start": 0, "end": 1, "vector": ["1"]}]}),
        json.dumps({**GOOD, "embeddings": [{"model": "m", "start": 0, "end": 1, "vector": [1e9]}]}),
        json.dumps({**GOOD, "exchange": {"created": "2026-01-01T00:00:00+00:00", "ended": "sometime"}}),
        json.dumps({**GOOD, "exchange": {"created": "2026-01-01T00:00:00"}}),
        json.dumps({**GOOD, "exchange": {"created": "2026-01-01T00:00:00Z", "usage": {"a": "\x00"}}}),
        json.dumps({**GOOD, "exchange": {"created": "2026-01-01T00:00:00Z", "timings": {"total": "12"}}}),
        json.dumps({**GOOD, "exchange": {"created": "2026-01-01T00:00:00Z", "prompts": ["x"]}}),
        '{"trace_id": "11111111-1111-4111-8111-111111111111", "partition": "\\ud800"}',
    ],
)
def test_an_invalid_line_is_refused_by_its_number_and_other_lines_are_imported(bad: str) -> None:
    other = {**GOOD, "content": "y", "timestamp": 1747000000001}
    done, refused = load("\n".join([json.dumps(GOOD), "", bad, json.dumps(other)]))
    assert done.messages == 2
    assert [text.partition(":")[0] for text in refused] == ["line 3"]


def test_errors_of_the_database_are_reported_by_line_too() -> None:
    elsewhere = {**GOOD, "instance": "another", "content": "y"}
    lines = [GOOD, elsewhere, {**GOOD, "content": "z", "timestamp": 1747000000001}]
    done, refused = load("\n".join(map(json.dumps, lines)))
    assert (done.messages, done.refused) == (2, 1)
    assert refused == ["line 2: its trace_id belongs to an exchange of another scope"]
    assert list(Message.objects.order_by("id").values_list("content", flat=True)) == ["x", "z"]


def test_a_broken_array_is_imported_up_to_the_break() -> None:
    text = json.dumps([GOOD, {**GOOD, "content": "y"}], indent=1)
    done, refused = load(text.replace('"y"', '"y" oops'))
    assert done.messages == 1
    assert refused == ["line 14: it is not JSON (Expecting ',' delimiter); nothing after it can be read"]
    assert load(text[:-20])[1][0].startswith("line ")


def test_large_arrays_and_lines_are_read_in_pieces() -> None:
    many = [{**GOOD, "content": f"{i} " + "ü" * (i % 7 * 20_000), "timestamp": 1747000000000 + i} for i in range(40)]
    for text in (json.dumps(many, ensure_ascii=False), "\n".join(json.dumps(m, ensure_ascii=False) for m in many)):
        items = list(read(io.BytesIO(text.encode())))
        assert [i.said.turn.content for i in items if not isinstance(i, BadLine) and i.said] == [
            m["content"] for m in many
        ]


@pytest.mark.parametrize("text", [b"", b"\n \n", b"\xef\xbb\xbf", b"[ ]", b"\xef\xbb\xbf[]"])
def test_an_empty_file_imports_nothing(text: bytes) -> None:
    assert load(text) == (Imported(), [])
