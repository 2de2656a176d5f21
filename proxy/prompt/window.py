"""(chat, limit, count) -> a chat that fits the window. Our additions are dropped first, then the oldest turns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from conversations.shapes import ids_answered, ids_called
from proxy.errors import ContextLengthExceeded
from proxy.prompt.chat import Additions, Chat, Memory, Turn
from proxy.prompt.counting import (
    MESSAGE_OVERHEAD,
    Count,
    fixed_tokens,
    message_at_most,
    message_tokens,
    request_at_most,
    text_at_most,
)

Render = Callable[[Sequence[Memory]], str]

WINDOW = "window"  # why something was dropped

DEFAULT_WINDOW = 8192
MARGIN = 0.1
ANSWER_SHARE = 8
ANSWER_ROOM = 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """A model's window in tokens, and whether tokens are counted with the model's own tokenizer."""

    tokens: int | None
    exact: bool

    @property
    def known(self) -> bool:
        return self.tokens is not None and self.exact


@dataclass(frozen=True, slots=True)
class Fitted:
    """The parts of a request and its additions that are sent."""

    chat: Chat
    additions: Additions
    block: str  # the memories, rendered
    dropped: dict[int, str] = field(default_factory=dict)  # id of a memory or turn -> WINDOW
    cut: frozenset[int] = frozenset()  # indices of the client's own messages that were dropped


def admit(chat: Chat, limit: Limit, count: Count) -> None:
    """Raises ContextLengthExceeded when the last message alone is longer than a known window."""
    if limit.tokens is None or not limit.known or not chat.messages:
        return
    last = chat.messages[-1]
    if message_at_most(last) <= limit.tokens:
        return
    tokens = message_tokens(last.payload, count)
    if tokens > limit.tokens:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit.tokens} tokens, "
            f"but your last message alone has {tokens} tokens. Please shorten it.",
            param=chat.messages_field,
        )


def fit(
    chat: Chat,
    additions: Additions,
    limit: Limit,
    count: Count,
    *,
    render: Render,
    block: str | None = None,
    default_window: int = DEFAULT_WINDOW,
) -> Fitted:
    """Drop parts of a request and its additions until it fits the window, with room left for the answer.

    Memories are dropped first, from the least relevant; then added turns, from the oldest (a user's turn together
    with the assistant's turns up to the next user's turn); then the client's own turns, from the oldest. The client's
    turns are dropped only if the limit is known and the request does not fit on its own. System and developer
    prompts, the last user message, the last message, and half of a call and its results are never dropped.

    The room for the answer is the room that the request asks for. Without such a wish, our additions leave 1,024 tokens
    or an eighth of the window free, whichever is less. If the limit is not known, our additions must fit
    `default_window`, less a margin of a tenth.

    The client's turns stay where dropping them would not help: if the rest is too long already, or if the room asked
    for is larger than the window, the provider refuses the request.

    `block` is what `render` makes of all memories, if the caller has rendered them already.
    """
    if block is None:
        block = render(additions.memories)
    window = limit.tokens or default_window
    if not limit.known:
        window -= int(window * MARGIN)
    answer = chat.output_reserve or min(ANSWER_ROOM, window // ANSWER_SHARE)
    at_most = request_at_most(chat) + _additions_at_most(additions, block)
    if at_most + answer <= window or not (limit.known or additions.turns or additions.memories):
        return Fitted(chat, additions, block)

    sizes = [message_tokens(message.payload, count) for message in chat.messages]
    own = sum(sizes) + fixed_tokens(chat, count)
    fitted = _fit_additions(Fitted(chat, additions, block), window - answer - own, count, render)
    over = own + chat.output_reserve - window
    return _cut(fitted, sizes, over) if limit.known and over > 0 else fitted


def _fit_additions(fitted: Fitted, room: int, count: Count, render: Render) -> Fitted:
    turns, memories = fitted.additions.turns, fitted.additions.memories
    sizes = [message_tokens(turn.message.payload, count) for turn in turns]
    for_memories = room - sum(sizes)

    def fits(block: str) -> bool:
        return (count(block) + MESSAGE_OVERHEAD if block else 0) <= for_memories

    if fits(fitted.block):
        return fitted
    kept, too_many = 0, len(memories)
    block = ""
    while too_many - kept > 1:
        middle = (kept + too_many) // 2
        attempt = render(memories[:middle])
        if fits(attempt):
            kept, block = middle, attempt
        else:
            too_many = middle
    first = 0
    while first < len(turns) and sum(sizes[first:]) > room:
        first += 1
        while first < len(turns) and turns[first].message.role == "assistant":
            first += 1
    gone: Iterable[Memory | Turn] = (*memories[kept:], *turns[:first])
    return replace(
        fitted,
        additions=Additions(turns[first:], memories[:kept]),
        block=block,
        dropped={addition.id: WINDOW for addition in gone},
    )


def _cut(fitted: Fitted, sizes: Sequence[int], over: int) -> Fitted:
    messages = fitted.chat.messages
    gone: set[int] = set()
    for group in _groups_that_may_go(fitted.chat):
        gone.update(group)
        over -= sum(sizes[i] for i in group)
        if over <= 0:
            chat = fitted.chat.with_messages([m for i, m in enumerate(messages) if i not in gone])
            return replace(fitted, chat=chat, cut=frozenset(gone))
    return fitted


def _groups_that_may_go(chat: Chat) -> list[list[int]]:
    """Indices of the client's turns that are dropped together, oldest first.

    A question is dropped with everything up to the next question. After the last question, which stays, each answer
    is dropped with the results of the tools that it called. A result goes with its call, wherever it stands.
    """
    last_user = chat.last_user
    groups: list[list[int]] = []
    callers: dict[str, list[int]] = {}
    for i, message in enumerate(chat.messages):
        if message.is_system:
            continue
        answers_last = message.role == "assistant" and (last_user is None or i > last_user)
        if not groups or message.role == "user" or answers_last:
            groups.append([])
        group = groups[-1]
        if message.role == "tool":
            group = next((callers[id_] for id_ in ids_answered(message.payload) if id_ in callers), group)
        group.append(i)
        for id_ in ids_called(message.payload):
            callers[id_] = group
    stay = {last_user, len(chat.messages) - 1}
    return [group for group in groups if stay.isdisjoint(group)]


def _additions_at_most(additions: Additions, block: str) -> int:
    turns = sum(message_at_most(turn.message) for turn in additions.turns)
    return turns + (text_at_most(block) + MESSAGE_OVERHEAD if block else 0)
