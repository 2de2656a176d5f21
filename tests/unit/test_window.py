"""proxy/prompt/counting.py and window.py: a request's tokens, and what is dropped to fit the window."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.chat_completions.request import decode
from proxy.errors import ContextLengthExceeded
from proxy.prompt import counting, window
from proxy.prompt.chat import Additions, Chat, ChatMessage, Memory, Turn
from proxy.prompt.counting import definition_tokens, message_tokens, request_tokens
from proxy.prompt.enrichment import additions_to_send, render, splice
from proxy.prompt.window import Fitted, Limit, admit, fit

NOON = datetime(2026, 7, 2, 12, 0, tzinfo=UTC)
UNKNOWN = Limit(None, exact=False)


def words(text: str) -> int:
    return len(text.split())


def octets(text: str) -> int:
    """The most tokens that a text can have."""
    return len(text.encode(errors="replace"))


def never(text: str) -> int:
    raise AssertionError("nothing needs to be counted here")


def chat_of(*messages: dict[str, Any], **fields: Any) -> Chat:
    return decode(json.dumps({"model": "gpt-4o", "messages": messages} | fields).encode())


def say(role: str, size: int, **more: Any) -> dict[str, Any]:
    """A message of `size` tokens, as `words` counts."""
    return {"role": role, "content": "word " * (size - 4)} | more


def call(*ids: str) -> dict[str, Any]:
    """An assistant's message that calls a tool for each id: 4 tokens, and 5 for each."""
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id_ in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(id_: str, size: int = 10) -> dict[str, Any]:
    return say("tool", size, tool_call_id=id_)


def memories(*texts: str) -> tuple[Memory, ...]:
    return tuple(Memory(i, "user", "", NOON + timedelta(minutes=i), text) for i, text in enumerate(texts, 1))


def turns(*payloads: dict[str, Any]) -> tuple[Turn, ...]:
    return tuple(Turn(100 + i, ChatMessage.make(payload)) for i, payload in enumerate(payloads))


def ids(additions: Additions) -> set[int]:
    return {m.id for m in additions.memories} | {t.id for t in additions.turns}


def fitted(chat: Chat, additions: Additions, tokens: int | None, **more: Any) -> Fitted:
    return fit(chat, additions, Limit(tokens, exact=tokens is not None), words, render=render, **more)


def left(result: Fitted) -> list[str]:
    return [str(message.payload.get("content") or "call").split()[0] for message in result.chat.messages]


def named(role: str, name: str, size: int = 10) -> dict[str, Any]:
    return {"role": role, "content": f"{name} " + "word " * (size - 5)}


@pytest.mark.parametrize(
    ("payload", "tokens"),
    [
        ({"role": "user", "content": "two words"}, 6),
        ({"role": "user", "content": None}, 4),
        ({"role": "user", "content": "two words", "name": "ann"}, 8),
        ({"role": "assistant", "content": "a", "refusal": "b c"}, 7),
        (call("a", "b"), 14),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": "1 2"}}, 10),
        (
            {
                "role": "assistant",
                "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "1 2"}}],
            },
            10,
        ),
        ({"role": "tool", "tool_call_id": "never counted", "content": "a"}, 5),
        ({"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}]}, 7),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "a b"}]}, 6),
        ({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"text": "a b"}]}]}, 6),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, 4 + 765),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, 4 + 765),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"detail": "auto"}}]}, 4 + 765),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"detail": "low"}}]}, 4 + 85),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"detail": "high"}}]}, 4 + 1105),
        ({"role": "user", "content": [{"type": "file", "file": {"file_data": "x " * 9000}}]}, 4 + 1000),
        ({"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}, 4 + 1000),
        ({"role": "assistant", "audio": {"id": "audio_1"}}, 4 + 250),
        ({"role": "user", "content": 5, "name": 5, "tool_calls": 5, "function_call": 5, "audio": 5}, 4),
    ],
)
def test_a_message_counts_its_texts_and_estimates_the_rest(payload: dict[str, Any], tokens: int) -> None:
    assert message_tokens(payload, words) == tokens


def test_audio_counts_by_its_length_in_time() -> None:
    ten_seconds_of_wav = "A" * (10 * 24_000 * 2 * 4 // 3)
    wav = {"type": "input_audio", "input_audio": {"data": ten_seconds_of_wav, "format": "wav"}}
    mp3 = {"type": "input_audio", "input_audio": {"data": ten_seconds_of_wav, "format": "mp3"}}
    assert message_tokens({"role": "user", "content": [wav]}, words) == 4 + 100
    assert message_tokens({"role": "user", "content": [mp3]}, words) == 4 + 301


def test_the_names_and_texts_of_definitions_count_and_their_json_does_not() -> None:
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where to look"},
            "type": {"enum": ["a", "b"]},
        },
        "required": ["city"],
    }
    tool = {
        "type": "function",
        "function": {"name": "get_weather", "description": "The weather", "parameters": schema},
    }
    assert definition_tokens({"tools": [tool]}, words) == (
        12 + 10 + 2 * 3 + words("function get_weather The weather object city string Where to look type a b")
    )
    assert definition_tokens({"functions": [{"name": "f"}]}, words) == 12 + 10 + 1
    assert definition_tokens({"response_format": {"type": "json_object"}}, words) == 1
    assert definition_tokens({"tools": [], "response_format": None, "functions": "x"}, words) == 1
    assert definition_tokens({}, never) == 0


def test_a_request_is_its_messages_its_definitions_and_the_priming_of_the_reply() -> None:
    chat = chat_of(say("system", 10), say("user", 20), functions=[{"name": "f"}])
    assert request_tokens(chat, words) == 10 + 20 + 23 + 3


def test_definitions_nested_to_any_depth_are_counted() -> None:
    deep: Any = "word"
    for _ in range(5000):
        deep = [deep]
    assert definition_tokens({"tools": deep}, words) == 1


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "type", "properties", "$defs", "enum", "required", "parameters", "é"]) | st.text(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)
tools = st.lists(st.fixed_dictionaries({"name": st.text()}) | st.fixed_dictionaries({"f": json_values}) | json_values)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "refusal", "thinking", "image_url", "input_audio", "file", "x"])},
    optional={
        "text": st.text() | json_values,
        "refusal": st.text(),
        "thinking": st.lists(st.fixed_dictionaries({"text": st.text()})) | json_values,
        "image_url": st.fixed_dictionaries({"detail": st.sampled_from(["low", "high", "auto"])}) | json_values,
        "input_audio": st.fixed_dictionaries({"data": st.text(), "format": st.text()}) | json_values,
    },
)
named_things = st.fixed_dictionaries({}, optional={"name": st.text(), "arguments": st.text(), "input": st.text()})
wild_messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
        optional={
            "content": st.text() | st.none() | st.lists(parts, max_size=3),
            "name": st.text() | json_values,
            "refusal": st.text(),
            "audio": json_values,
            "function_call": named_things | json_values,
            "tool_calls": json_values
            | st.lists(st.fixed_dictionaries({}, optional={"function": named_things, "custom": named_things})),
        },
    ),
    min_size=1,
    max_size=4,
)


@given(
    wild_messages,
    st.fixed_dictionaries({}, optional={"tools": tools, "functions": tools, "response_format": json_values}),
)
@example([{"role": "user"}], {})
@example([{"role": "user", "content": "\N{WAVING HAND SIGN}" * 50}], {})
@example([{"role": "user"}], {"tools": [{"name": ""}]})
def test_bytes_are_an_upper_bound_of_tokens(messages: list[dict[str, Any]], fields: dict[str, Any]) -> None:
    body = json.dumps({"messages": messages} | fields, ensure_ascii=False, separators=(",", ":"))
    chat = decode(body.encode(errors="replace"))
    assert request_tokens(chat, octets) <= counting.request_at_most(chat)
    for message in chat.messages:
        assert message_tokens(message.payload, octets) <= counting.message_at_most(message)


def test_a_last_message_longer_than_the_window_is_refused_with_both_numbers() -> None:
    chat = chat_of(say("system", 5), say("user", 150))
    with pytest.raises(ContextLengthExceeded) as refusal:
        admit(chat, Limit(100, exact=True), words)
    assert refusal.value.code == "context_length_exceeded"
    assert refusal.value.param == "messages"
    assert re.findall(r"\d+", refusal.value.message) == ["100", "150"]


@pytest.mark.parametrize("limit", [Limit(150, exact=True), Limit(100, exact=False), UNKNOWN])
def test_a_last_message_is_admitted_when_it_fits_or_the_window_is_unknown(limit: Limit) -> None:
    admit(chat_of(say("user", 5000), say("user", 150)), limit, words)


def test_a_request_whose_bytes_fit_is_not_counted() -> None:
    chat = chat_of(say("user", 10), tools=[{"type": "function", "function": {"name": "f"}}])
    added = Additions(turns(say("user", 10)), memories("one", "two"))
    admit(chat, Limit(8192, exact=True), never)
    for limit in (Limit(8192, exact=True), Limit(8192, exact=False), UNKNOWN):
        kept = fit(chat, added, limit, never, render=render)
        assert kept.chat is chat
        assert kept.additions is added
        assert kept.block == render(added.memories)
        assert kept.dropped == {}


def test_requests_without_additions_or_a_known_limit_are_not_counted() -> None:
    chat = chat_of(say("user", 10_000))
    assert fit(chat, Additions(), UNKNOWN, never, render=render).chat is chat


def test_a_request_that_fits_is_returned_unchanged() -> None:
    chat = chat_of(say("system", 50), say("user", 30))
    added = Additions(turns(say("user", 10)), memories("one", "two"))
    block = words(render(added.memories)) + 4
    answer = 64
    tokens = 50 + 30 + 3 + 10 + block + answer
    result = fitted(chat_of(say("system", 50), say("user", 30), max_tokens=answer), added, tokens)
    assert result.additions is added
    assert result.dropped == {}
    less = fitted(chat_of(say("system", 50), say("user", 30), max_tokens=answer), added, tokens - 1)
    assert less.dropped == {2: "window"}
    assert fitted(chat, Additions(), 83).chat is chat


def test_memories_are_dropped_first_from_the_least_relevant() -> None:
    added = Additions(turns(say("user", 20), say("assistant", 20)), memories("a b c d", "e f g h", "i j k l"))
    chat = chat_of(say("system", 100), say("user", 100), max_tokens=50)
    base = 100 + 100 + 3 + 40 + 50
    for kept in (3, 2, 1):
        room = words(render(added.memories[:kept])) + 4
        result = fitted(chat, added, base + room)
        assert result.additions == Additions(added.turns, added.memories[:kept])
        assert result.block == render(added.memories[:kept])
        assert result.dropped == dict.fromkeys(range(kept + 1, 4), "window")
    result = fitted(chat, added, base)
    assert result.additions == Additions(added.turns, ())
    assert result.block == ""


def test_added_turns_are_dropped_next_from_the_oldest_with_their_answers() -> None:
    added = Additions(
        turns(say("user", 20), say("assistant", 20), say("assistant", 20), say("user", 20), say("assistant", 20)),
        memories("a b c"),
    )
    chat = chat_of(say("user", 100), max_tokens=50)
    base = 100 + 3 + 50
    assert fitted(chat, added, base + 100).additions == Additions(added.turns, ())
    result = fitted(chat, added, base + 99)
    assert result.additions.turns == added.turns[3:]
    assert result.dropped == {1: "window", 100: "window", 101: "window", 102: "window"}
    assert fitted(chat, added, base + 39).additions.turns == ()


def test_the_clients_own_turns_are_dropped_last_from_the_oldest_with_their_answers() -> None:
    chat = chat_of(
        named("system", "S"),
        named("user", "q1"),
        named("assistant", "a1"),
        named("developer", "D"),
        named("user", "q2"),
        named("assistant", "a2"),
        named("user", "q3"),
    )
    added = Additions(turns(say("user", 20)), memories("a b c"))
    assert left(fitted(chat, added, 73)) == ["S", "q1", "a1", "D", "q2", "a2", "q3"]
    for tokens in (72, 53):
        result = fitted(chat, added, tokens)
        assert left(result) == ["S", "D", "q2", "a2", "q3"]
        assert result.additions == Additions()
        assert len(result.cut) == 2
        assert set(result.dropped) == {1, 100}
    for tokens in (52, 33):
        assert left(fitted(chat, added, tokens)) == ["S", "D", "q3"]


def test_the_clients_turns_stay_where_dropping_them_would_not_help() -> None:
    chat = chat_of(named("system", "S"), named("user", "q1"), named("assistant", "a1"), named("user", "q2"))
    result = fitted(chat, Additions(turns(say("user", 20)), memories("a")), 22)
    assert result.chat is chat
    assert result.additions == Additions()


def test_a_reservation_larger_than_the_window_is_left_to_the_provider() -> None:
    chat = chat_of(named("user", "q1"), named("user", "q2"), max_completion_tokens=1000)
    result = fitted(chat, Additions((), memories("a")), 500)
    assert result.chat is chat
    assert result.additions == Additions()


def test_the_reservation_for_the_answer_is_kept_free_of_the_clients_turns() -> None:
    messages = [named("user", "q1"), named("user", "q2")]
    assert left(fitted(chat_of(*messages, max_tokens=77), Additions(), 100)) == ["q1", "q2"]
    assert left(fitted(chat_of(*messages, max_tokens=78), Additions(), 100)) == ["q2"]


def test_additions_leave_room_for_the_answer_even_if_the_request_reserves_none() -> None:
    chat = chat_of(say("user", 800))
    added = Additions(turns(say("user", 72)))
    assert fitted(chat, added, 1000).additions == added
    assert fitted(chat, Additions(turns(say("user", 73))), 1000).additions == Additions()
    large = Additions(turns(say("user", 98_173)))
    assert fitted(chat, large, 100_000).additions == large
    assert fitted(chat, Additions(turns(say("user", 98_174))), 100_000).additions == Additions()


@pytest.mark.parametrize("limit", [UNKNOWN, Limit(None, exact=True), Limit(8192, exact=False)])
def test_an_unknown_limit_restricts_only_our_additions_with_a_margin(limit: Limit) -> None:
    window_less_margin = 8192 - 819
    chat = chat_of(say("user", 3000), say("assistant", 3000), say("user", 800), max_tokens=300)
    room = window_less_margin - 6803 - 300
    added = Additions(turns(say("user", room)))
    assert fit(chat, added, limit, words, render=render).additions is added
    over = Additions(turns(say("user", room + 1)))
    assert fit(chat, over, limit, words, render=render).additions == Additions()
    long = chat_of(say("user", 90_000), say("user", 90_000))
    result = fit(long, added, limit, words, render=render)
    assert result.chat is long
    assert result.additions == Additions()


def test_the_assumed_window_can_be_set() -> None:
    chat = chat_of(say("user", 1000))
    added = Additions(turns(say("user", 1000)))
    assert fitted(chat, added, None, default_window=32_000).additions is added
    assert fitted(chat, added, None, default_window=2000).additions == Additions()


def test_a_call_is_dropped_with_its_results() -> None:
    chat = chat_of(
        named("user", "q1"),
        call("a", "b"),
        result("a"),
        result("b"),
        named("assistant", "a1"),
        named("user", "q2"),
    )
    total = request_tokens(chat, words)
    assert left(fitted(chat, Additions(), total)) == left(Fitted(chat, Additions(), ""))
    assert left(fitted(chat, Additions(), total - 1)) == ["q2"]


def test_a_tool_loop_keeps_its_question_and_last_call_and_drops_older_calls() -> None:
    chat = chat_of(
        named("user", "q1"),
        named("assistant", "a1"),
        named("user", "q2"),
        call("a"),
        result("a"),
        call("b", "c"),
        result("b"),
        result("c"),
    )
    total = request_tokens(chat, words)
    assert left(fitted(chat, Additions(), total - 1)) == ["q2", "call", "word", "call", "word", "word"]
    assert left(fitted(chat, Additions(), total - 21)) == ["q2", "call", "word", "word"]
    least = 10 + 14 + 20 + 3
    assert left(fitted(chat, Additions(), least)) == ["q2", "call", "word", "word"]
    assert fitted(chat, Additions(), least - 1).chat is chat


def test_a_separated_result_is_dropped_with_its_call() -> None:
    chat = chat_of(named("user", "q1"), call("a"), named("user", "q2"), result("a"), named("user", "q3"))
    total = request_tokens(chat, words)
    assert left(fitted(chat, Additions(), total - 1)) == ["q2", "q3"]


def test_a_last_result_keeps_its_call_at_any_distance() -> None:
    chat = chat_of(named("user", "q1"), call("a"), named("user", "q2"), result("a"))
    assert fitted(chat, Additions(), request_tokens(chat, words) - 1).chat is chat


def test_an_answer_begun_by_the_client_stays() -> None:
    chat = chat_of(named("user", "q1"), named("user", "q2"), named("assistant", "begun"))
    assert left(fitted(chat, Additions(), 32)) == ["q2", "begun"]


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Valid conversations: each call is followed by its results."""
    messages: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 8))):
        size = draw(st.integers(5, 40))
        kind = draw(st.sampled_from(["system", "developer", "user", "user", "assistant", "assistant", "tools"]))
        if kind == "tools":
            reused = draw(st.booleans())
            ids = [f"call_{j if reused else f'{i}_{j}'}" for j in range(draw(st.integers(1, 3)))]
            messages += [call(*ids), *(result(id_, size) for id_ in ids)]
        else:
            messages.append(say(kind, size))
    return messages


@given(
    conversations(),
    st.lists(st.sampled_from(["user", "assistant"]), max_size=5),
    st.lists(st.text(max_size=30), max_size=5),
    st.integers(1, 400),
    st.integers(0, 100),
    st.booleans(),
)
def test_fitting_leaves_a_valid_request_that_fits_if_possible(
    messages: list[dict[str, Any]],
    roles: Sequence[str],
    texts: Sequence[str],
    tokens: int,
    reserve: int,
    exact: bool,
) -> None:
    chat = chat_of(*messages, max_tokens=reserve)
    added = Additions(turns(*(say(role, 12) for role in roles)), memories(*texts))
    limit = Limit(tokens, exact=exact)
    result = fit(chat, added, limit, words, render=render)

    own, room = request_tokens(chat, words), tokens - reserve
    kept = list(result.chat.messages)
    identities = {id(m) for m in kept}
    assert [m for m in chat.messages if id(m) in identities] == kept
    assert [m for m in chat.messages if m.is_system] == [m for m in kept if m.is_system]
    assert kept[-1] is chat.messages[-1]
    if chat.last_user is not None:
        assert any(m is chat.messages[chat.last_user] for m in kept)
    calls = [c["id"] for m in kept for c in m.payload.get("tool_calls") or ()]
    results = [m.payload["tool_call_id"] for m in kept if m.role == "tool"]
    assert calls == results

    if own <= room or not exact:
        assert result.chat is chat
    if result.chat is not chat:
        assert request_tokens(result.chat, words) <= room
        assert len(result.cut) == len(chat.messages) - len(kept)
    if result.additions.turns or result.additions.memories:
        sent = splice(result.chat, additions_to_send(result.additions, result.block, "system"))
        assert request_tokens(sent, words) <= room or chat.last_user is None
    elif exact and own > room and result.chat is chat:
        gone = {i for group in window._groups_that_may_go(chat) for i in group}
        least = chat.with_messages([m for i, m in enumerate(chat.messages) if i not in gone])
        assert request_tokens(least, words) > room

    assert result.block == render(result.additions.memories)
    assert result.additions.memories == added.memories[: len(result.additions.memories)]
    assert result.additions.turns == added.turns[len(roles) - len(result.additions.turns) :]
    if result.additions.turns != added.turns:
        assert not result.additions.memories
        assert [t.message.role for t in result.additions.turns[:1]] in ([], ["user"])
    assert result.dropped == dict.fromkeys(ids(added) - ids(result.additions), "window")

    again = fit(result.chat, result.additions, limit, words, render=render)
    assert (again.chat, again.additions, again.block) == (result.chat, result.additions, result.block)
    assert again.dropped == {}
