"""The embedding model changes beside live traffic: real PostgreSQL, the local model, an endpoint of another length."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.utils import timezone

from conversations import reembedding
from conversations.backlog import work_off
from conversations.embedders.base import Embedder, EmbedderError
from conversations.embedding import EmbedderInUse, active_embedder, active_model, make
from conversations.messages import add_messages
from conversations.models import Embedding, EmbeddingModel, Message
from conversations.querysets import Scope
from conversations.recall.search import prepare_query, search
from conversations.scratch import scratch_partition
from conversations.turns import Turn
from tests.fake_provider.provider import FakeProvider

pytestmark = pytest.mark.django_db(transaction=True)

SCOPE = Scope("tests", "reembed")
LENGTH = 24
LONG = "Bees sleep at night. " * 60
TEXTS = ("My sister breeds alpacas.", LONG, "I am allergic to walnuts.", "", " \n ", "We live in Lisbon.")
WITH_WORDS = 4


@pytest.fixture
def local() -> Iterator[Embedder]:
    embedder = active_embedder()
    yield embedder
    embedder.close()


@pytest.fixture
def remote(provider: FakeProvider) -> str:
    """The spec of another model."""
    return f"{provider.base_url}#text-embedding-3-tiny"


def say(*texts: str) -> list[int]:
    turns = [
        Turn.from_payload(json.dumps(payload), payload)
        for text in texts
        for payload in [{"role": "user", "content": text}]
    ]
    return add_messages(scope=SCOPE, messages=[(one, datetime(2026, 1, 1, tzinfo=UTC)) for one in turns])


def store(embedder: Embedder) -> None:
    """Store messages and their vectors, as a server does."""
    say(*TEXTS)
    while work_off(embedder):
        pass


def reembed(*arguments: str) -> str:
    out = io.StringIO()
    call_command("reembed", *arguments, stdout=out)
    return out.getvalue()


def with_vectors(model: EmbeddingModel) -> set[int]:
    return set(Embedding.objects.filter(model=model).values_list("message_id", flat=True))


def lengths() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT vector_dims(vector) FROM conversations_embedding")
        return {row[0] for row in cursor.fetchall()}


def finds(embedder: Embedder, text: str) -> list[str]:
    """The texts that recall finds by vector only."""
    query = prepare_query(scope=SCOPE, text=text)
    vector = embedder.embed([query.wording])[0].tolist()
    found = search(query=query, vector=vector, model=embedder.name, without={"words", "session", "nearby"})
    return [candidate.content for candidate in found]


def test_the_first_start_uses_the_model_of_the_settings() -> None:
    model = active_model()
    assert (model.spec, model.dimensions, model.active) == ("local", 384, True)
    assert active_model() == model
    with pytest.raises(IntegrityError):
        EmbeddingModel.objects.create(name="another", dimensions=3, active=True)


def test_every_message_gets_a_vector_of_another_length_and_recall_uses_it(local: Embedder, remote: str) -> None:
    store(local)
    said = reembed("--model", remote, "--dimensions", str(LENGTH))
    model = active_model()
    assert (model.spec, model.dimensions) == (remote, LENGTH)
    assert f"{model.name} is in use" in said
    assert f"RESERVOIR_EMBEDDER={remote} and RESERVOIR_EMBEDDER_DIMENSIONS={LENGTH}" in said
    assert len(with_vectors(model)) == WITH_WORDS
    assert lengths() == {384, LENGTH}, "the old ones remain until they are dropped"
    with closing(active_embedder()) as embedder:
        assert finds(embedder, TEXTS[0])[0] == TEXTS[0]


def test_old_vectors_are_dropped_only_on_request(local: Embedder, remote: str) -> None:
    store(local)
    reembed("--model", remote, "--dimensions", str(LENGTH))
    said = reembed("--drop-old")
    assert lengths() == {LENGTH}
    assert EmbeddingModel.objects.get() == active_model()
    assert int(said.split()[0]) > WITH_WORDS, "a long message has several"


def test_recall_uses_the_old_model_until_the_change_is_complete(
    local: Embedder, remote: str, provider: FakeProvider
) -> None:
    store(local)
    embedder = make(remote, LENGTH)
    model = reembedding.begin(embedder, remote)
    reembedding.embed_all(embedder, model, lambda done: None)
    assert len(with_vectors(model)) == WITH_WORDS
    assert active_model().name == local.name
    assert finds(local, "What must my guest with an allergy not eat?")[0] == TEXTS[2]
    embedder.close()


def test_new_messages_are_embedded_before_the_switch(local: Embedder, remote: str) -> None:
    store(local)
    embedder = make(remote, LENGTH)
    model = reembedding.begin(embedder, remote)
    late = iter(["Said while others were embedded.", "Said while that one was."])

    def meanwhile(done: int) -> None:
        if text := next(late, None):
            say(text)
            assert work_off(local) == 1  # a server that knows the old model only

    reembedding.reembed(embedder, model, meanwhile)
    embedder.close()
    assert active_model() == model
    assert len(with_vectors(model)) == WITH_WORDS + 2
    assert not Message.objects.backlog().exists()


def test_messages_awaiting_their_first_vector_do_not_delay_the_switch(local: Embedder, remote: str) -> None:
    store(local)
    embedder = make(remote, LENGTH)
    model = reembedding.begin(embedder, remote)
    reembedding.embed_all(embedder, model, lambda done: None)
    (late,) = say("Not embedded by anybody yet.")
    assert reembedding.switch(model)
    assert list(Message.objects.backlog().values_list("pk", flat=True)) == [late]
    assert work_off(embedder) == 1
    assert late in with_vectors(model)
    embedder.close()


def test_a_message_without_its_new_vector_delays_the_switch(local: Embedder, remote: str) -> None:
    store(local)
    embedder = make(remote, LENGTH)
    model = reembedding.begin(embedder, remote)
    assert not reembedding.switch(model)
    assert active_model().name == local.name
    embedder.close()


def test_a_process_with_the_old_model_leaves_the_message_on_the_backlog(local: Embedder, remote: str) -> None:
    store(local)
    reembed("--model", remote, "--dimensions", str(LENGTH))
    (late,) = say("A server that has not noticed yet embeds this.")
    work_off(local)
    assert Message.objects.get(pk=late).embed_due is not None
    Message.objects.filter(pk=late).update(embed_due=datetime(2026, 1, 1, tzinfo=UTC))
    with closing(active_embedder()) as embedder:
        work_off(embedder)
    assert late in with_vectors(active_model())
    assert not Message.objects.backlog().exists()


def test_a_killed_reembed_continues_where_it_stopped(
    local: Embedder, remote: str, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reembedding, "BATCH", 2)
    store(local)
    embedder = make(remote, LENGTH)
    model = reembedding.begin(embedder, remote)

    def killed(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reembedding.reembed(embedder, model, killed)
    embedder.close()
    assert active_model().name == local.name
    assert len(with_vectors(model)) == 2
    provider.reset()
    reembed("--model", remote, "--dimensions", str(LENGTH))
    asked = [text for request in provider.requests for text in json.loads(request.body)["input"]]
    assert sorted(asked) == sorted([TEXTS[2], TEXTS[5]])
    assert active_model() == model


def test_a_failing_endpoint_changes_nothing_and_names_the_cause(local: Embedder) -> None:
    store(local)
    with pytest.raises(CommandError, match="cannot be reached"):
        reembed("--model", "http://127.0.0.1:1/v1#gone", "--dimensions", "8")
    assert active_model().spec == "local"


def test_a_message_that_cannot_be_embedded_is_named(
    local: Embedder, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(local)
    embedder = make(remote, LENGTH)
    model = reembedding.begin(embedder, remote)
    embed = embedder.embed

    def refuse(texts: Any, *, later: bool) -> Any:
        if TEXTS[0] in texts:
            raise EmbedderError("it will not")
        return embed(texts)

    monkeypatch.setattr(embedder, "embed", refuse)
    bad = Message.objects.get(content=TEXTS[0]).pk
    with pytest.raises(reembedding.ReembeddingError, match=f"1 messages .*ids {bad}"):
        reembedding.reembed(embedder, model, lambda done: None)
    assert len(with_vectors(model)) == WITH_WORDS - 1
    assert active_model().spec == "local"
    embedder.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Give --model"),
        (("--model", "what"), "embedder is invalid"),
        (("--model", "http://127.0.0.1:1/v1#m"), "number of dimensions"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        reembed(*arguments)


def test_a_second_reembed_is_refused() -> None:
    wanted = ("dbname", "user", "password", "host", "port")
    parameters = {key: value for key, value in connection.get_connection_params().items() if key in wanted}
    with psycopg.connect(**parameters) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [reembedding.ONE_AT_A_TIME])
        with pytest.raises(CommandError, match="Another process"):
            reembed("--model", "local")


def test_scratch_scopes_are_left_alone(local: Embedder, remote: str) -> None:
    store(local)
    with scratch_partition() as partition:
        add_messages(
            scope=Scope(partition, "x"),
            messages=[(Turn.from_payload("{}", {"content": "x"}), datetime.now(UTC))],
            embed=False,
        )
        reembed("--model", remote, "--dimensions", str(LENGTH))
    assert active_model().spec == remote


def test_a_running_server_switches_without_waiting_for_the_new_embedder(
    local: Embedder, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conversations.embedding.NOTICED_WITHIN", 0.05)
    store(local)
    used = EmbedderInUse()
    assert used().name == local.name
    reembed("--model", remote, "--dimensions", str(LENGTH))
    deadline = time.monotonic() + 300
    while used().name == local.name:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert used().embed(["x"]).shape == (1, LENGTH)
    used.close()


def test_settings_that_disagree_with_the_database_cause_a_warning(settings: Any, remote: str) -> None:
    assert run_checks(databases=["default"], tags=["database"]) == []
    active_model()
    assert run_checks(databases=["default"], tags=["database"]) == []
    settings.RESERVOIR_EMBEDDER, settings.RESERVOIR_EMBEDDER_DIMENSIONS = remote, LENGTH
    (warning,) = run_checks(databases=["default"], tags=["database"])
    assert warning.id == "conversations.W001"
    assert remote in warning.msg and "local" in warning.msg
    with closing(EmbedderInUse()) as used:
        assert used().name == active_model().name, "the database wins"


def test_a_model_whose_vectors_cannot_be_indexed_is_refused(remote: str) -> None:
    with (
        closing(make(remote, 4096)) as embedder,
        pytest.raises(reembedding.ReembeddingError, match="at most 4000"),
    ):
        reembedding.begin(embedder, remote)


def test_a_message_that_cannot_be_embedded_is_due_again_in_a_minute(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pk,) = say("one")

    def refuse(texts: Any, *, later: bool) -> Any:
        raise EmbedderError("it will not")

    with closing(make(remote, LENGTH)) as embedder:
        monkeypatch.setattr(embedder, "embed", refuse)
        with pytest.raises(EmbedderError):
            work_off(embedder)
    due = Message.objects.get(pk=pk).embed_due
    assert due and timedelta(seconds=50) < due - timezone.now() < timedelta(seconds=61)


def test_a_text_after_long_white_space_is_embedded_and_the_pieces_of_a_long_text_are_limited(local: Embedder) -> None:
    late, long = say(" " * 200_001 + "bees", "word " * 41_000)
    while work_off(local):
        pass
    assert Embedding.objects.filter(message=late).count() == 1
    ends = Embedding.objects.filter(message=long).values_list("end", flat=True)
    assert 199_000 < max(ends) <= 200_000
