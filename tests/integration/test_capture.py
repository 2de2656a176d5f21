"""Each turn is stored once, whatever a client resends. Real PostgreSQL."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from conversations import actions
from conversations.messages import unsaved_message
from conversations.models import Exchange, Instance, Message
from conversations.querysets import Scope
from conversations.turns import Turn

pytestmark = pytest.mark.django_db

SCOPE = Scope("tests", "capture")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def ask(messages: Sequence[dict[str, Any]], scope: Scope = SCOPE) -> actions.Asked:
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=timezone.now(),
        model="gpt-4",
        provider="openai",
        streamed=False,
        turns=tuple(Turn.from_payload(json.dumps(message), message) for message in messages),
    )
    actions.open_exchange(asked=asked)
    return asked


def answer(asked: actions.Asked, *texts: str, ended: str = Exchange.Ended.ANSWERED) -> None:
    turns = tuple(Turn.from_payload(json.dumps(assistant(text)), assistant(text)) for text in texts)
    actions.close_exchange(
        asked=asked, answered=actions.Answered(finished=timezone.now(), ended=ended, status=200, turns=turns)
    )


def exchange(messages: Sequence[dict[str, Any]], *texts: str, ended: str = Exchange.Ended.ANSWERED) -> None:
    answer(ask(messages), *texts, ended=ended)


def kept(**where: Any) -> list[str]:
    messages = Message.objects.in_scope(SCOPE).filter(**where).order_by("id")
    return list(messages.values_list("content", flat=True))


WHOLE = [user("one"), assistant("a"), user("two"), assistant("b"), user("three"), assistant("c")]


@pytest.mark.parametrize("window", [1, 3, 4, 100])
def test_the_stored_history_does_not_depend_on_how_much_is_resent(window: int) -> None:
    for end in (1, 3, 5):
        exchange(WHOLE[max(0, end - window) : end], WHOLE[end]["content"])
    assert kept() == ["one", "a", "two", "b", "three", "c"]
    assert kept(abandoned=True) == []


def test_a_client_that_omits_answers_produces_the_same_history() -> None:
    exchange([user("one")], "a")
    exchange([user("one"), user("two")], "b")
    exchange([user("one"), user("two"), user("three")], "c")
    assert kept() == ["one", "a", "two", "b", "three", "c"]
    assert kept(abandoned=True) == []


def test_a_repeated_sentence_is_two_turns() -> None:
    exchange([user("yes")], "a")
    exchange([user("yes")], "b")
    assert kept() == ["yes", "a", "yes", "b"]


def test_a_repeated_sentence_in_a_resent_history_is_two_turns() -> None:
    exchange([user("yes")], "a")
    exchange([user("yes"), assistant("a"), user("yes")], "b")
    exchange([user("yes"), assistant("a"), user("yes"), assistant("b"), user("yes")], "c")
    assert kept() == ["yes", "a", "yes", "b", "yes", "c"]


@pytest.mark.parametrize("ended", [Exchange.Ended.FAILED, Exchange.Ended.GONE, Exchange.Ended.INTERRUPTED])
def test_a_question_repeated_after_an_unfinished_exchange_is_a_retry(ended: str) -> None:
    exchange([user("one")], ended=ended)
    exchange([user("one")], "a")
    assert kept() == ["one", "a"]


def test_a_retry_after_a_partial_answer_abandons_the_partial_answer() -> None:
    exchange([user("one")], "a bro", ended=Exchange.Ended.CUT)
    exchange([user("one")], "a whole answer")
    assert kept() == ["one", "a bro", "a whole answer"]
    assert kept(abandoned=True) == ["a bro"]
    assert kept(partial=True) == ["a bro"]


def test_a_question_whose_first_copy_is_still_being_answered_is_not_a_retry() -> None:
    first, second = ask([user("ping")]), ask([user("ping")])
    answer(first, "a")
    answer(second, "b")
    assert kept() == ["ping", "ping", "a", "b"]


def test_an_edited_question_is_a_fork_and_the_old_branch_is_abandoned() -> None:
    exchange([user("one")], "a")
    exchange([user("one"), assistant("a"), user("two")], "b")
    exchange([user("one"), assistant("a"), user("two, edited")], "c")
    assert kept() == ["one", "a", "two", "b", "two, edited", "c"]
    assert kept(abandoned=True) == ["two", "b"]


def test_returning_to_an_abandoned_branch_revives_it() -> None:
    exchange([user("one")], "a")
    exchange([user("one"), assistant("a"), user("two")], "b")
    exchange([user("one"), assistant("a"), user("two, edited")], "c")
    exchange([user("one"), assistant("a"), user("two"), assistant("b"), user("three")], "d")
    assert kept(abandoned=False) == ["one", "a", "two", "b", "three", "d"]
    assert kept(abandoned=True) == ["two, edited", "c"]


def test_a_regenerated_answer_replaces_the_first() -> None:
    exchange([user("one")], "a")
    exchange([user("one"), assistant("a"), user("two")], "b")
    exchange([user("one"), assistant("a"), user("two")], "b again")
    assert kept() == ["one", "a", "two", "b", "b again"]
    assert kept(abandoned=True) == ["b"]


def test_the_choice_that_the_client_continues_stays_alive() -> None:
    exchange([user("one")], "a", "b")
    assert kept(abandoned=True) == []
    exchange([user("one"), assistant("b"), user("two")], "c")
    assert kept() == ["one", "a", "b", "two", "c"]
    assert kept(abandoned=True) == ["a"]


def test_a_window_whose_head_is_a_summary_repeats_nothing() -> None:
    for end in (1, 3, 5):
        exchange(WHOLE[:end], WHOLE[end]["content"])
    exchange([user("In short: one, two."), *WHOLE[3:], user("four")], "d")
    assert kept() == ["one", "a", "two", "b", "three", "c", "In short: one, two.", "four", "d"]


def test_conversations_with_the_same_beginning_do_not_abandon_each_other() -> None:
    for _ in range(2):
        exchange([user("hello")], "hi")
    exchange([user("hello"), assistant("hi"), user("cats")], "meow")
    exchange([user("hello"), assistant("hi"), user("dogs")], "woof")
    assert kept(abandoned=True) == []


def test_an_answer_is_recognised_however_the_client_spells_it() -> None:
    exchange([user("one")], "a")
    spelled = {"role": "assistant", "content": [{"type": "text", "text": " a\n"}], "refusal": None, "audio": None}
    exchange([user("one"), spelled, user("two")], "b")
    assert kept() == ["one", "a", "two", "b"]


def test_tool_calls_and_their_results_are_stored_once() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "42"}
    first = ask([user("one")])
    actions.close_exchange(
        asked=first,
        answered=actions.Answered(
            finished=timezone.now(),
            ended=Exchange.Ended.ANSWERED,
            turns=(Turn.from_payload(json.dumps(calling), calling),),
        ),
    )
    exchange([user("one"), calling, result], "It is 42.")
    exchange([user("one"), calling, result, assistant("It is 42."), user("thanks")], "welcome")
    assert kept() == ["one", "", "42", "It is 42.", "thanks", "welcome"]


def test_text_that_postgresql_cannot_hold_is_kept_in_the_payload_and_replaced_in_the_content() -> None:
    message = {"role": "user", "content": "nul \x00 and half \ud83d a pair"}
    exchange([message], "a")
    stored = Message.objects.in_scope(SCOPE).get(role="user")
    assert stored.content == "nul \ufffd and half \ufffd a pair"
    assert json.loads(stored.payload) == message


def test_opening_and_closing_are_idempotent() -> None:
    asked = ask([user("one")])
    actions.open_exchange(asked=asked)
    answer(asked, "a")
    answer(asked, "a")
    assert kept() == ["one", "a"]
    assert Instance.objects.get().message_count == 2
    assert Instance.objects.get().exchange_count == 1


def test_a_question_and_its_answer_wait_for_the_disk() -> None:
    """A question lost in a crash of PostgreSQL would look forgotten, and its answer would not be stored."""
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit TO on")
        exchange([user("one")], "a")
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)


def test_history_never_crosses_an_instance() -> None:
    exchange([user("one")], "a")
    other = Scope("tests", "other")
    ask([user("one"), assistant("a"), user("two")], other)
    assert Message.objects.in_scope(other).count() == 3
    assert kept() == ["one", "a"]


def test_a_long_unseen_history_is_stored_in_order() -> None:
    exchange([m for i in range(300) for m in (user(f"q{i}"), assistant(f"a{i}"))] + [user("last")], "z")
    assert kept() == [t for i in range(300) for t in (f"q{i}", f"a{i}")] + ["last", "z"]


def test_a_message_repeated_a_thousand_times_is_aligned_quickly_and_stored_once() -> None:
    history = [m for _ in range(500) for m in (user("x"), assistant("y"))]
    exchange([*history, user("x")], "y")
    exchange([*history, user("x"), assistant("y"), user("x")], "y")
    assert Message.objects.in_scope(SCOPE).count() == 1004


def test_an_answer_stored_late_does_not_become_the_latest_message() -> None:
    """An answer that the client did not wait for may arrive after later ones."""
    given_up = ask([user("zero")])
    ended = timezone.now()
    exchange([user("one")], "a")
    late = (Turn.from_payload(json.dumps(assistant("z")), assistant("z")),)
    answered = actions.Answered(finished=ended, ended=Exchange.Ended.GONE, turns=late)
    actions.close_exchange(asked=given_up, answered=answered)
    exchange([user("two")], "b")
    exchange([user("one"), assistant("a"), user("two"), assistant("b"), user("three")], "c")
    assert sorted(kept()) == ["a", "b", "c", "one", "three", "two", "z", "zero"]


def test_messages_after_a_set_back_clock_still_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    for end, hours in ((1, 0), (3, -5), (5, -7)):
        now = datetime.now(UTC) + timedelta(hours=hours)
        monkeypatch.setattr(timezone, "now", lambda now=now: now)
        exchange([WHOLE[end - 1]], WHOLE[end]["content"])
    in_time = Message.objects.in_scope(SCOPE).recent(10).values_list("content", flat=True)
    assert list(in_time)[::-1] == ["one", "a", "two", "b", "three", "c"]


def test_a_history_of_thousands_of_messages_is_recognized() -> None:
    history = [m for i in range(1100) for m in (user(f"question {i}"), assistant(f"answer {i}"))]
    exchange([*history, user("and now?")], "this")
    exchange([*history, user("and now?"), assistant("this"), user("and then?")], "that")
    assert Message.objects.in_scope(SCOPE).count() == 2204
    assert kept(abandoned=True) == []


def test_frequent_sentences_hide_no_earlier_turn() -> None:
    history = [m for i in range(10) for m in (user("ok" if i == 4 else f"question {i}"), assistant(f"answer {i}"))]
    exchange([*history, user("and now?")], "this")
    instance = Instance.objects.get()
    said = Turn.from_payload(json.dumps(user("ok")), user("ok"))
    many = [unsaved_message(instance, None, said, len, created=timezone.now()) for _ in range(2100)]
    Message.objects.bulk_create(many)
    exchange([*history, user("and now?"), assistant("this"), user("and then?")], "that")
    assert Message.objects.in_scope(SCOPE).count() == 24 + 2100
    assert kept(abandoned=True) == []


def test_two_alternating_sentences_are_found_without_climbing_the_whole_branch() -> None:
    history = [m for _ in range(3000) for m in (user("ping"), assistant("pong"))]
    exchange([*history, user("ping")], "pong")
    window = [user("ping"), assistant("pong"), user("ping")]
    digests = [Turn.from_payload(json.dumps(message), message).digest for message in window]
    known = Message.objects.known(Instance.objects.get().pk, digests)
    assert len(known) < 2100
    exchange(window, "pong")
    assert Message.objects.in_scope(SCOPE).count() <= 6004


@pytest.mark.parametrize(
    ("sent", "resent"),
    [
        (
            {
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":1,"b":"é"}'}}
                ]
            },
            {"tool_calls": [{"id": "1", "function": {"arguments": '{"b": "\\u00e9", "a": 1}', "name": "f"}}]},
        ),
        (
            {"content": [{"type": "thinking", "thinking": [{"text": "Hm."}]}, {"type": "text", "text": "Yes"}]},
            {"content": "Yes"},
        ),
    ],
)
def test_differently_spelt_calls_and_answers_without_thinking_are_recognized(
    sent: dict[str, Any], resent: dict[str, Any]
) -> None:
    asked = ask([user("one")])
    message = {"role": "assistant", **sent}
    turns = (Turn.from_payload(json.dumps(message), message),)
    answered = actions.Answered(finished=timezone.now(), ended=Exchange.Ended.ANSWERED, status=200, turns=turns)
    actions.close_exchange(asked=asked, answered=answered)
    exchange([user("one"), {"role": "assistant", "content": None, **resent}, user("two")], "b")
    assert Message.objects.in_scope(SCOPE).count() == 4
    assert kept(abandoned=True) == []


def test_transcripts_of_audio_are_stored_as_text() -> None:
    message = {"role": "assistant", "content": None, "audio": {"id": "a1", "transcript": "Bees sleep."}}
    assert Turn.from_payload(json.dumps(message), message).content == "Bees sleep."


def test_absurdly_nested_arguments_are_stored_unchanged() -> None:
    for depth in (100, 900, 960, 985, 995, 100_000):
        call = {"id": "1", "function": {"name": "f", "arguments": "[" * depth + "]" * depth}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert len(Turn.from_payload(json.dumps(message), message).digest) == 16
