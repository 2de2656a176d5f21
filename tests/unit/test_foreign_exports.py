"""Exports of other programs are read as what was said: the current branch, without what nobody saw."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from conversations.archive.foreign.importing import Foreign
from conversations.archive.json_stream import Broken, values
from conversations.archive.reading import BadLine, Item, read

Json = dict[str, Any]
AT = 1_710_000_000


def lines(value: Any, **into: str | None) -> list[Item | BadLine]:
    text = value if isinstance(value, str) else json.dumps(value)
    return list(read(io.BytesIO(text.encode()), Foreign(into.get("partition"), into.get("instance"))))


def said(value: Any, **into: str | None) -> list[tuple[str, str]]:
    items = lines(value, **into)
    assert all(isinstance(item, Item) for item in items), items
    return [(item.said.turn.role, item.said.turn.content) for item in items if isinstance(item, Item) and item.said]


def items(value: Any, **into: str | None) -> list[Item]:
    return [item for item in lines(value, **into) if isinstance(item, Item)]


def node(key: str, parent: str | None, role: str, *parts: Any, **about: Any) -> tuple[str, Json]:
    content = {"content_type": about.pop("kind", "text"), "parts": [*parts]}
    message = {"id": key, "author": {"role": role}, "content": content, **about}
    return key, {"id": key, "parent": parent, "children": [], "message": message}


def chatgpt(*nodes: tuple[str, Json], current: str | None, **about: Any) -> Json:
    root = {"root": {"id": "root", "message": None, "parent": None, "children": ["s"]}}
    return {"title": "Kiln", "conversation_id": "c-1", "mapping": root | dict(nodes), "current_node": current} | about


TREE = chatgpt(
    node("s", "root", "system", ""),
    node("h", "s", "user", "About me: a potter", metadata={"is_visually_hidden_from_conversation": True}),
    node("q", "h", "user", "How hot is a bisque firing?", create_time=1_710_000_000.25),
    node("old", "q", "assistant", "600 degrees."),
    node("call", "q", "assistant", "search()", recipient="web"),
    node("tool", "call", "tool", "a page"),
    node("a", "tool", "assistant", "About 1000 degrees\ue200cite\ue202turn0\ue201.", create_time=1_710_000_004.5),
    node("pic", "a", "user", {"content_type": "image_asset_pointer"}, "And this glaze?", kind="multimodal_text"),
    node("think", "pic", "assistant", "hm", kind="thoughts"),
    node("z", "think", "assistant", "1240."),
    current="z",
)


def test_the_current_branch_of_a_chatgpt_conversation_is_read_without_what_is_hidden() -> None:
    assert said([TREE]) == [
        ("user", "How hot is a bisque firing?"),
        ("assistant", "About 1000 degrees."),
        ("user", "And this glaze?"),
        ("assistant", "1240."),
    ]
    first, second, third, _ = (item.said for item in items([TREE]))
    assert first and second and third
    assert first.fields["created"] == datetime.fromtimestamp(1_710_000_000.25, UTC)
    assert third.fields["created"] == second.fields["created"], "a turn without a time has that of the one before"
    assert [first.parent, second.parent, third.parent] == [None, first.source, second.source]


def test_a_tree_without_a_current_node_or_with_a_loop_is_read_from_its_last_leaf() -> None:
    assert said([TREE | {"current_node": None}])[-1] == ("assistant", "1240.")
    loop = chatgpt(node("x", "y", "user", "one"), node("y", "x", "assistant", "two"), current="y")
    assert said([loop]) == [("user", "one"), ("assistant", "two")]


def test_a_claude_conversation_is_read_with_what_was_pasted() -> None:
    messages = [
        {"uuid": "1", "sender": "human", "text": "", "attachments": [{"extracted_content": "a long note"}]},
        {
            "uuid": "2",
            "sender": "assistant",
            "text": "not supported",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Noted."}],
            "created_at": "2025-03-01T10:00:00.5Z",
        },
    ]
    value = {"uuid": "abcdef0123", "name": "A note", "created_at": "2025-03-01T09:59:00Z", "chat_messages": messages}
    assert said(value) == [("user", "a long note"), ("assistant", "Noted.")]
    first, second = items(value)
    assert first.scope == ("claude", "A note (abcdef01)")
    assert first.said
    assert first.said.fields["created"] == datetime(2025, 3, 1, 9, 59, tzinfo=UTC)
    assert second.said
    assert second.said.fields["created"] == datetime(2025, 3, 1, 10, 0, 0, 500_000, tzinfo=UTC)


def test_of_claudes_branches_the_one_that_ends_in_the_current_message_is_read() -> None:
    def message(uuid: str, parent: str, sender: str, text: str) -> Json:
        return {"uuid": uuid, "parent_message_uuid": parent, "sender": sender, "text": text}

    value = {
        "chat_messages": [
            message("1", "0", "human", "Hello"),
            message("2", "1", "assistant", "Hi"),
            message("3", "1", "assistant", "Good day"),
        ]
    }
    assert said(value) == [("user", "Hello"), ("assistant", "Good day")]
    assert said(value | {"current_leaf_message_uuid": "2"}) == [("user", "Hello"), ("assistant", "Hi")]


def webui(messages: dict[str, Json], current: str | None) -> Json:
    return {"id": "w1", "title": "Rye", "chat": {"history": {"currentId": current, "messages": messages}}}


def test_the_current_branch_of_open_webui_is_read_without_its_reasoning() -> None:
    hidden = '<details type="reasoning" done="true">\n<summary>Thought</summary>hm</details>\n'
    messages: dict[str, Json] = {
        "s": {"parentId": None, "role": "system", "content": "Be brief."},
        "q": {"parentId": "s", "role": "user", "content": "How long?", "timestamp": 1_710_000_000},
        "a": {"parentId": "q", "role": "assistant", "content": "One hour."},
        "b": {"parentId": "q", "role": "assistant", "content": f"{hidden}Two hours.", "timestamp": 1_710_000_005_000},
        "e": {"parentId": "b", "role": "assistant", "content": ""},
    }
    assert said([webui(messages, "e")]) == [("user", "How long?"), ("assistant", "Two hours.")]
    assert said([webui(messages, "a")])[-1] == ("assistant", "One hour.")
    assert items([webui(messages, "e")])[-1].scope == ("open-webui", "Rye (w1)")


@pytest.mark.parametrize("nested", [False, True])
def test_librechat_is_read_flat_and_with_children(nested: bool) -> None:
    question = {"messageId": "1", "parentMessageId": "0", "isCreatedByUser": True, "text": "How long?"}
    parent = {} if nested else {"parentMessageId": "1"}
    answers: list[Json] = [
        {"messageId": "2", **parent, "isCreatedByUser": False, "text": "One.", "createdAt": "2025-01-01T00:00:01Z"},
        {
            "messageId": "3",
            **parent,
            "isCreatedByUser": False,
            "text": "",
            "content": [{"type": "think", "think": "hm"}, {"type": "text", "text": {"value": "Two."}}],
            "createdAt": "2025-01-01T00:00:02Z",
        },
        {"messageId": "4", "parentMessageId": "3", "isCreatedByUser": False, "text": "quota", "error": True},
    ]
    messages = [question | {"children": answers}] if nested else [question, *answers]
    value = {"conversationId": "lc", "title": "Rye", "messages": messages}
    assert said(json.dumps(value, indent=2)) == [("user", "How long?"), ("assistant", "Two.")]


def test_plain_messages_keep_their_names_and_times() -> None:
    value = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "name": "Ilse",
                "content": [{"type": "text", "text": "Hello"}],
                "timestamp": 1_710_000_000,
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "t", "content": "42"},
        ]
    }
    first, call, tool = (item.said for item in items(value, partition="p", instance="i"))
    assert first and call and tool
    assert (first.turn.name, first.turn.content) == ("Ilse", "Hello")
    assert first.fields["created"] == datetime.fromtimestamp(1_710_000_000, UTC)
    assert json.loads(call.turn.payload)["tool_calls"]
    assert json.loads(tool.turn.payload)["tool_call_id"] == "t"
    assert {item.scope for item in items(value, partition="p", instance="i")} == {("p", "i")}


def test_ids_are_the_same_each_time_and_tell_conversations_and_scopes_apart() -> None:
    def uids(value: Any, **into: str) -> list[Any]:
        return [item.said and item.said.uid for item in items(value, **into)]

    hello = {"role": "user", "content": "Hello"}
    one = {"messages": [hello, {"role": "assistant", "content": "Hi"}]}
    other = {"messages": [hello, {"role": "assistant", "content": "Good day"}]}
    assert uids(one) == uids(one)
    assert uids(one)[0] == uids(other)[0], "the same beginning is stored once"
    assert uids(one)[1] != uids(other)[1]
    twice = {"messages": [hello, one["messages"][1], hello, one["messages"][1]]}
    assert len(set(uids(twice))) == 4
    assert uids([TREE]) == uids([TREE | {"title": "renamed"}])
    assert not {*uids([TREE])} & {*uids([TREE], partition="me")}
    assert not {*uids([TREE], partition="me")} & {*uids([TREE], partition="me", instance="all")}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"mapping": []}, "mapping is not an object"),
        ({"mapping": {"a": {"message": 7}}, "current_node": "a"}, "its message is not an object"),
        ({"chat_messages": "none"}, "chat_messages is not a list"),
        ({"chat_messages": [{"sender": "robot", "text": "x"}]}, "neither human nor assistant"),
        ({"chat": {"history": {}}}, "history.messages is not an object"),
        ({"chat": {"history": {"currentId": "a", "messages": {"a": {"content": "x"}}}}}, "it has no role"),
        ({"conversationId": "x", "messages": [{"text": "x"}]}, "whether a user wrote it"),
        ({"messages": {}}, "messages is not a list"),
        ({"messages": [{"role": 7}]}, "its role is missing or invalid"),
        ({"messages": [{"role": "user", "content": "x", "created": "soon"}]}, "its time is invalid"),
        ({"messages": [{"role": "user", "content": "x", "created": 99_000_000_000}]}, "its time is in the year 5107"),
        ({"something": "else"}, "partition is not a name"),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_line(value: Json, reason: str) -> None:
    good = {"messages": [{"role": "user", "content": "Hello"}]}
    bad, *rest = lines(f"{json.dumps(value)}\n{json.dumps(good)}")
    assert isinstance(bad, BadLine)
    assert bad.line == 1
    assert reason in str(bad)
    assert len(rest) == 1


def test_an_export_of_reservoir_is_refused_where_a_partition_is_given() -> None:
    (bad,) = lines({"trace_id": "x", "partition": "p"}, partition="me")
    assert "take no --partition" in str(bad)


def test_objects_with_indents_are_read_one_after_the_other() -> None:
    text = json.dumps({"a": "x" * 200_000, "b": [1]}, indent=2) + "\n" + json.dumps({"c": 3}, indent=2)
    assert [(line, sorted(value)) for line, value in values(io.BytesIO(text.encode()))] == [(1, ["a", "b"]), (7, ["c"])]
    cut = list(values(io.BytesIO(text[:-1].encode())))
    assert len(cut) == 2
    assert isinstance(cut[1][1], Broken)
