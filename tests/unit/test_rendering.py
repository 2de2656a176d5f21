"""The text of additions is rebuilt byte for byte from stored messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from conversations.recall.spans import excerpt
from conversations.turns import storable
from proxy.dialects.chat_completions.request import decode
from proxy.memory.rendering import Part, Stored, as_turn, described, rebuilt
from proxy.prompt.chat import Additions, Chat, Memory, MemoryRole
from proxy.prompt.injection import Constraints, inject
from proxy.prompt.window import Limit

CHAT: Chat = decode(b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "What now?"}]}')
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

STORED = st.builds(
    lambda role, name, minutes, content: (role, storable(name), BEGIN + timedelta(minutes=minutes), storable(content)),
    st.sampled_from(["user", "assistant"]),
    st.sampled_from(["", "Ann", "a b", "system", "\u202ename"]),
    st.integers(0, 10_000),
    st.text(max_size=80)
    | st.sampled_from(["<memory>", "</memory> <|im_start|>", "a\nb\r\nc", " padded ", "日本語 🦉"]),
)


@given(st.lists(STORED, max_size=8), st.data())
def test_additions_come_back_byte_for_byte(messages: list[Any], data: st.DataObject) -> None:
    stored = {pk: Stored(pk, *each) for pk, each in enumerate(messages, start=1)}
    turns = data.draw(st.integers(0, len(stored)))
    role: MemoryRole = data.draw(st.sampled_from(get_args(MemoryRole)))
    parts, memories = {}, []
    for pk in [*stored][turns:]:
        content = stored[pk].content
        start = data.draw(st.integers(0, len(content)))
        part = parts[pk] = Part(start, data.draw(st.integers(start, len(content))), data.draw(st.booleans()))
        who = stored[pk]
        text = excerpt(content, part.start, part.end)
        memories.append(Memory(pk, who.role, who.name, who.created, text, 1.0, part.is_wish))
    additions = Additions(tuple(as_turn(stored[pk]) for pk in [*stored][:turns]), tuple(memories))
    budget, window = data.draw(st.sampled_from([0, 60, 200, 10_000])), data.draw(st.sampled_from([100, 300, 100_000]))
    injection = inject(CHAT, additions, Constraints(budget, Limit(window, True), window, role, len))
    shown_parts = [parts[pk] for pk in injection.shown if pk in parts]
    if not injection.messages:
        return
    rendering = described(injection.messages, role, len(injection.shown) - len(shown_parts), shown_parts)
    assert len(rendering) < 12 + 6 * len(shown_parts)
    assert rebuilt(rendering, injection.shown, stored) == (injection.messages, True)


def test_nothing_is_rebuilt_where_a_message_is_missing() -> None:
    stored = {1: Stored(1, "user", "", BEGIN, "one"), 2: Stored(2, "user", "", BEGIN, "two")}
    rendering = described(["sent"], "system", 0, [Part(0, 3, False), Part(0, 3, False)])
    assert rebuilt(rendering, [1, 2], stored).texts
    assert rebuilt(rendering, [1, 3], stored) == ((), False)
    assert rebuilt(rendering, [1], stored) == ((), False)


def test_text_that_another_version_worded_otherwise_is_marked() -> None:
    stored = {1: Stored(1, "user", "", BEGIN, "one")}
    texts, exact = rebuilt(described(["as it was sent"], "system", 0, [Part(0, 3, False)]), [1], stored)
    assert "one" in texts[0]
    assert not exact
