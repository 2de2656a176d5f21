"""proxy/prompt/chat.py: requests are decoded and encoded again without a change, and other bodies are refused."""

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.dialects.chat_completions.reply import decode_reply
from proxy.dialects.chat_completions.request import decode
from proxy.errors import BadRequest
from proxy.prompt.chat import Chat, ChatMessage, Reply

MINIMAL = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}'


def chat_of(*messages: dict[str, Any], **fields: Any) -> Chat:
    return decode(json.dumps({"messages": messages} | fields).encode())


white = st.text(" \t\r\n", max_size=2)
numbers = st.one_of(
    st.integers(),
    st.sampled_from(["1.0", "1.50", "-0", "-0.0", "1e5", "1E+05", "12345678901234567890123", "0.1000000000000000055"]),
)
json_texts = st.recursive(
    st.one_of(
        st.sampled_from(["null", "true", "false", '"\\u00e9\\/"', '"\\ud83d\\ude00"', '"\\ud800"', '"\\u0000"']),
        numbers.map(str),
        st.text().map(json.dumps),
        st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: json.dumps(text, ensure_ascii=False)),
    ),
    lambda inner: st.one_of(
        st.tuples(white, st.lists(inner, max_size=3)).map(lambda p: f"[{p[0]}{f',{p[0]}'.join(p[1])}{p[0]}]"),
        st.tuples(white, st.dictionaries(st.text(), inner, max_size=3)).map(lambda p: object_text(p[1], p[0])),
    ),
    max_leaves=8,
)


def object_text(fields: dict[str, str], space: str = "") -> str:
    """A JSON object from the texts of its values, with this white space between all parts."""
    pairs = [f"{json.dumps(key)}{space}:{space}{value}" for key, value in fields.items()]
    return "{" + space + f"{space},{space}".join(pairs) + space + "}"


messages_texts = st.lists(
    st.builds(
        lambda role, more, space: object_text({"role": json.dumps(role)} | more, space),
        st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]),
        st.dictionaries(st.text().filter(lambda key: key not in ("role", "content")), json_texts, max_size=3),
        white,
    ),
    min_size=1,
    max_size=4,
)
other_fields = st.dictionaries(st.text().filter(lambda key: key not in ("messages", "model")), json_texts, max_size=4)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, list[str], dict[str, str]]:
    """The text of a body, those of its messages, and those of its other fields."""
    messages, others, space = draw(messages_texts), draw(other_fields), draw(white)
    if draw(st.booleans()):
        others["model"] = '"gpt\\u002d4o"'
    fields = others | {"messages": f"[{space}{f' ,{space}'.join(messages)}{space}]"}
    order = draw(st.permutations(sorted(fields)))
    return space + object_text({key: fields[key] for key in order}, space) + space, messages, others


@given(requests())
def test_an_unchanged_request_is_encoded_as_its_original_bytes(
    request: tuple[str, list[str], dict[str, str]],
) -> None:
    text, messages, _ = request
    chat = decode(text.encode())
    assert chat.encode() == text.encode()
    assert [message.raw for message in chat.messages] == messages
    assert [message.payload for message in chat.messages] == [json.loads(message) for message in messages]
    assert chat.fields == json.loads(text)


@given(requests(), st.text(), st.integers(0, 4))
@example(('{"messages": [{"role": "user"}], "seed": 1.50}', ['{"role": "user"}'], {"seed": "1.50"}), "x", 0)
def test_a_changed_request_keeps_the_clients_spelling(
    request: tuple[str, list[str], dict[str, str]], content: str, at: int
) -> None:
    text, messages, others = request
    chat = decode(text.encode())
    added = ChatMessage.make({"role": "system", "content": content})
    changed = chat.with_messages([*chat.messages[:at], added, *chat.messages[at:]])
    sent = changed.encode().decode()

    assert chat.messages_span
    start, end = chat.messages_span
    assert sent.startswith(text[:start])
    assert sent.endswith(text[end:])
    assert list(json.loads(sent)) == list(json.loads(text))
    again = decode(sent.encode())
    assert [m.raw for m in again.messages] == [*messages[:at], added.raw, *messages[at:]]
    assert again.fields == chat.fields | {"messages": [m.payload for m in again.messages]}
    assert all(value in sent for value in others.values())
    assert chat.encode() == text.encode(), "the original request stays unchanged"


@given(requests(), st.text(min_size=1))
def test_another_model_name_changes_nothing_else(request: tuple[str, list[str], dict[str, str]], model: str) -> None:
    text, _, others = request
    chat = decode(text.encode())
    sent = chat.encode(model).decode()
    if "model" in others:
        start, end = chat.model_span or pytest.fail("no span")
        assert sent[:start] == text[:start]
        assert sent.endswith(text[end:])
        assert json.loads(sent) == json.loads(text) | {"model": model}
        assert decode(sent.encode()).model == model
    else:
        assert sent == text


def test_an_escaped_spelling_of_the_same_model_name_is_left_alone() -> None:
    body = b'{"model": "gpt\\u002d4o", "messages": [{"role": "user"}]}'
    assert decode(body).encode("gpt-4o") == body


def test_model_and_messages_can_change_together_in_either_order() -> None:
    for body in (MINIMAL, b'{"messages": [{"role": "user"}], "n": 1, "model": "gpt-4o"}'):
        chat = decode(body)
        changed = chat.with_messages([ChatMessage.make({"role": "system", "content": "é"}), *chat.messages])
        sent = json.loads(changed.encode("o3"))
        assert sent["model"] == "o3"
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"hello",
        b"{",
        b'{"messages"',
        b'{"messages": ',
        b'{"messages": [{"role": "user"}]',
        b'{"messages": [{"role": "user"}],}',
        b'{"messages": [{"role": "user"},]}',
        b'{"messages": [{"role": "user"}]} {}',
        b"{messages: []}",
        b"{'messages': []}",
        b'{"a": tru, "messages": [{"role": "user"}]}',
        b'{"a" "b"}',
        b'{"a": 1 "b": 2}',
        b'{"a": "\n"}',
        b'{"messages": [{"role": "user", "content": NaN}]}',
        b'{"temperature": NaN, "messages": [{"role": "user"}]}',
        b'{"temperature": Infinity, "messages": [{"role": "user"}]}',
        b'{"temperature": -Infinity, "messages": [{"role": "user"}]}',
        b"NaN",
        b'{"seed": ' + b"1" * 5000 + b', "messages": [{"role": "user"}]}',
        MINIMAL.decode().encode("utf-16"),
        MINIMAL.decode().encode("utf-16-le"),
        MINIMAL.replace(b"Hi", b"\xff"),
        MINIMAL.replace(b"Hi", b"\xc3"),
        MINIMAL.replace(b"Hi", b"\xed\xa0\x80"),
        b"[" * 100_000,
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b', "messages": [{"role": "user"}]}',
        b'{"messages": [{"role": "user", "content": ' + b'[{"a":' * 25_000 + b"0" + b"}]" * 25_000 + b"}]}",
    ],
)
def test_a_body_that_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode(body)
    assert refusal.value.code == "invalid_json"
    error = json.loads(refusal.value.body())["error"]
    assert error == {
        "message": refusal.value.message,
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_json",
    }
    assert refusal.value.status == 400


def test_a_refusal_says_where_the_json_breaks_without_quoting_it() -> None:
    with pytest.raises(BadRequest, match=r"at line 2, column 11\.$") as refusal:
        decode(b'{"messages":\n [{"role" oh secret}]}')
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"[]", "invalid_type", None),
        (b'"messages"', "invalid_type", None),
        (b"null", "invalid_type", None),
        (b"{}", None, "messages"),
        (b'{"model": "gpt-4o"}', None, "messages"),
        (b'{"messages": null}', None, "messages"),
        (b'{"messages": "Hi"}', None, "messages"),
        (b'{"messages": {"role": "user"}}', None, "messages"),
        (b'{"messages": []}', "empty_array", "messages"),
        (b'{"messages": ["Hi"]}', "invalid_type", "messages[0]"),
        (b'{"messages": [{"role": "user"}, null]}', "invalid_type", "messages[1]"),
        (b'{"messages": [{}]}', "invalid_value", "messages[0].role"),
        (b'{"messages": [{"role": null}]}', "invalid_value", "messages[0].role"),
        (b'{"messages": [{"role": ["user"]}]}', "invalid_value", "messages[0].role"),
        (b'{"messages": [{"role": ""}]}', "invalid_value", "messages[0].role"),
        (b'{"messages": [{"role": "user"}, {"role": "a\\u0000b"}]}', "invalid_value", "messages[1].role"),
        (b'{"messages": [{"role": "user"}, {"role": "' + b"x" * 17 + b'"}]}', "invalid_value", "messages[1].role"),
        (b'{"model": 4, "messages": [{"role": "user"}]}', "invalid_type", "model"),
        (b'{"model": null, "messages": [{"role": "user"}]}', "invalid_type", "model"),
        (b'{"messages": [{"role": "user"}], "messages": [{"role": "user"}]}', "duplicate_key", None),
        (b'{"n": 1, "messages": [{"role": "user"}], "\\u006e": 2}', "duplicate_key", None),
    ],
)
def test_json_that_is_not_a_chat_request_is_refused_with_the_reason(
    body: bytes, code: str | None, param: str | None
) -> None:
    with pytest.raises(BadRequest) as refusal:
        decode(body)
    error = json.loads(refusal.value.body())["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == "invalid_request_error"
    assert re.fullmatch(r"[^\n]+\.", error["message"])


@given(
    st.binary()
    | st.text().map(lambda text: text.encode(errors="replace"))
    | requests().map(lambda r: r[0].encode()[:-2])
)
@example(b'{"messages": [{"role": "user"}]')
def test_any_bytes_are_either_a_request_or_refused(body: bytes) -> None:
    try:
        chat = decode(body)
    except BadRequest as refusal:
        assert json.loads(refusal.body())["error"]["message"]
    else:
        assert chat.encode() == body


@pytest.mark.parametrize("content", [None, "", "Hi", [], [{"type": "text", "text": "Hi"}], [{"odd": 1}], 5, {}])
def test_content_may_be_absent_a_text_parts_or_what_only_a_provider_knows(content: Any) -> None:
    assert chat_of({"role": "user", "content": content}).messages[0].payload["content"] == content


def test_lone_surrogates_and_null_bytes_survive() -> None:
    body = b'{"messages": [{"role": "user", "content": "a\\ud800\\u0000"}]}'
    chat = decode(body)
    assert chat.encode() == body
    changed = chat.with_messages([ChatMessage.make(chat.messages[0].payload)])
    assert json.loads(changed.encode()) == json.loads(body)


def test_the_last_user_message_is_the_query_of_recall() -> None:
    user, assistant, tool = {"role": "user"}, {"role": "assistant"}, {"role": "tool"}
    assert chat_of({"role": "system"}, user, assistant, user, assistant, tool).last_user == 3
    assert chat_of(assistant, tool).last_user is None
    assert chat_of(user).last_user == 0


def test_a_tool_loop_is_a_request_that_ends_with_a_tools_result() -> None:
    assert chat_of({"role": "user"}, {"role": "assistant"}, {"role": "tool"}).in_tool_loop
    assert chat_of({"role": "user"}, {"role": "assistant"}, {"role": "function"}).in_tool_loop
    assert not chat_of({"role": "tool"}, {"role": "user"}).in_tool_loop


def test_history_is_what_the_client_sent_before_its_last_user_message() -> None:
    system, developer, user = {"role": "system"}, {"role": "developer"}, {"role": "user"}
    assert not chat_of(system, developer, user).has_history
    assert not chat_of(system, user, {"role": "assistant"}, {"role": "tool"}).has_history
    assert not chat_of(system, {"role": "assistant"}).has_history
    assert chat_of(system, {"role": "assistant"}, user).has_history
    assert chat_of(user, user).has_history


@pytest.mark.parametrize(
    ("fields", "reserve"),
    [
        ({}, 0),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
        ({"max_tokens": True}, 0),
        ({"max_tokens": -1}, 0),
        ({"max_tokens": "5"}, 0),
        ({"max_tokens": 5.0}, 0),
    ],
)
def test_the_tokens_reserved_for_the_answer_are_read_from_the_request(fields: dict[str, Any], reserve: int) -> None:
    assert chat_of({"role": "user"}, **fields).output_reserve == reserve


def test_only_true_asks_for_a_stream() -> None:
    assert chat_of({"role": "user"}, stream=True).stream
    for other in (False, None, 1, "true"):
        assert not chat_of({"role": "user"}, stream=other).stream


def test_an_answer_is_read_with_its_choices_in_the_order_of_their_index() -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        "id": "chatcmpl-1",
        "model": "gpt-4o-2024-08-06",
        "choices": [
            {
                "index": 1,
                "message": {"role": "assistant", "content": "b", "odd": 1},
                "finish_reason": "length",
            },
            {"index": 0, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"},
        ],
        "usage": usage,
    }
    reply = decode_reply(json.dumps(body).encode())
    assert [message.payload for message in reply.messages] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "assistant", "content": "b", "odd": 1},
    ]
    assert reply.finish_reasons == ("tool_calls", "length")
    assert (reply.usage, reply.error, reply.complete) == (usage, None, True)


def test_an_error_is_read_as_an_incomplete_answer() -> None:
    reply = decode_reply(b'{"error": {"message": "no", "type": "t", "code": null}}')
    assert reply == Reply(error={"message": "no", "type": "t", "code": None})
    assert not reply.complete


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"choices": []}',
        b'{"choices": 5}',
        b'{"choices": ["x"]}',
        b'{"choices": [{"text": "a completion"}]}',
        b'{"choices": [{"index": "a", "message": {}}, {"index": 1, "message": {}}]}',
        b"[" * 100_000,
    ],
)
def test_a_body_that_is_not_an_answer_gives_an_empty_reply(body: bytes) -> None:
    assert decode_reply(body) == Reply()


def test_a_role_that_only_a_provider_knows_is_passed_on() -> None:
    body = b'{"messages": [{"role": "control", "content": "thinking"}, {"role": "user", "content": "Hi"}]}'
    chat = decode(body)
    assert [message.role for message in chat.messages] == ["control", "user"]
    assert not chat.messages[0].is_system


def test_values_nested_beyond_the_limit_are_not_kept() -> None:
    deep: Any = {}
    for _ in range(500):
        deep = {"a": deep}
    body = {"choices": [{"message": {"role": "assistant", "content": "a"}}], "usage": deep}
    reply = decode_reply(json.dumps(body).encode())
    assert reply.usage is None and reply.complete
    body = {"choices": [{"message": {"role": "assistant", "content": "a", "odd": deep}}]}
    assert decode_reply(json.dumps(body).encode()) == Reply(finish_reasons=())
