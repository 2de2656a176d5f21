"""(chat, limit, count) -> chat that fits: first goes what we add, then the client's oldest turns.

Tokens are those of OpenAI's counting recipe, which is an estimate for what is not plain text. Where it errs,
it errs towards too few: what we count refuses and cuts requests that a provider might have answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proxy.errors import ContextLengthExceeded
from proxy.prompt.chat import Additions, Chat, ChatMessage, Json, Memory, Turn

Count = Callable[[str], int]
Render = Callable[[Sequence[Memory]], str]

WINDOW = "window"  # why something was dropped

MESSAGE_OVERHEAD = 4  # three tokens of framing, one for the role
NAME_OVERHEAD = 1
CALL_OVERHEAD = 3
PROPERTY_OVERHEAD = 3
TOOL_OVERHEAD = 10
TOOLS_OVERHEAD = 12
REPLY_PRIMING = 3

LOW_DETAIL_IMAGE = 85
IMAGE = 765
HIGH_DETAIL_IMAGE = 1105
FILE = 1000
EARLIER_AUDIO = 250
BASE64_PER_AUDIO_TOKEN = {"wav": 6400, "mp3": 2133}

DEFAULT_WINDOW = 8192
MARGIN = 0.1
ANSWER_SHARE = 8
ANSWER_ROOM = 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """A model's window, and whether its tokenizer is the one that counts."""

    tokens: int | None
    exact: bool

    @property
    def known(self) -> bool:
        return self.tokens is not None and self.exact


@dataclass(frozen=True, slots=True)
class Fitted:
    """What of a request and its additions goes out."""

    chat: Chat
    additions: Additions
    block: str  # the memories, rendered
    dropped: dict[int, str] = field(default_factory=dict)  # id of a memory or turn -> WINDOW
    cut: frozenset[int] = frozenset()  # places of the client's own messages that were left out


def message_tokens(payload: Mapping[str, Any], count: Count) -> int:
    """Tokens of one message.

    Three tokens a message, one for its role, one more for a name, and its texts, as in
    https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken. Names and arguments of tool calls
    count as text, with three tokens for each call; ids do not reach the model. What is not text is estimated:

    - an image: 85 in low detail, 1,105 in high, else 765: the worked examples of
      https://platform.openai.com/docs/guides/images-vision#calculating-costs;
    - audio: a token for 100 ms (https://platform.openai.com/docs/guides/realtime-costs), that is for 6,400
      characters of base64 of WAV (24 kHz, 16 bits, mono), for 2,133 of MP3 (128 kbit/s); 250 for an earlier
      answer that is only named by its id;
    - a file, and a part of a kind not known here: 1,000.
    """
    return MESSAGE_OVERHEAD + sum(map(count, _texts(payload))) + _extras(payload)


def definition_tokens(fields: Json, count: Count) -> int:
    """Tokens of what a request defines beside its messages: tools, functions, the schema of the answer.

    Models are shown these as type definitions, not as JSON: names, types, descriptions and values count as
    text, with 3 tokens for each property, 10 for each function, 12 for having any, after the recipe of
    `message_tokens` (whose example, of 101 tokens, comes out as 100).
    """
    words, properties = _definitions(fields)
    tools = [*_objects(fields.get("functions")), *_objects(fields.get("tools"))]
    named = sum(map(_is_named, tools))
    marks = PROPERTY_OVERHEAD * properties + TOOL_OVERHEAD * named + (TOOLS_OVERHEAD if named else 0)
    return marks + (count(" ".join(words)) if words else 0)


def request_tokens(chat: Chat, count: Count) -> int:
    """Tokens of a whole request: messages, definitions, and the three that prime the reply."""
    messages = sum(message_tokens(message.payload, count) for message in chat.messages)
    return messages + definition_tokens(chat.fields, count) + REPLY_PRIMING


def admit(chat: Chat, limit: Limit, count: Count) -> None:
    """Raises ContextLengthExceeded where the last message alone is longer than a known window."""
    last = chat.messages[-1]
    if limit.tokens is None or not limit.known or _at_most(last) <= limit.tokens:
        return
    tokens = message_tokens(last.payload, count)
    if tokens > limit.tokens:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {limit.tokens} tokens, "
            f"but your last message alone has {tokens} tokens. Please shorten it.",
            param="messages",
        )


def fit(
    chat: Chat,
    additions: Additions,
    limit: Limit,
    count: Count,
    *,
    render: Render,
    default_window: int = DEFAULT_WINDOW,
) -> Fitted:
    """What of a request and its additions fits the window, with room left for the answer.

    Dropped are memories from the least relevant, then added turns from the oldest (with a turn of the user
    go the assistant's turns up to the next), then the client's own turns from the oldest. These only where
    the limit is known and the request does not fit by itself; never system or developer prompts, the last
    user message, the last message, or half of a call and its results.

    Room for the answer is what the request asks for. Where it asks for none, what we add leaves 1,024 tokens
    or an eighth of the window free, whichever is less. Where the limit is not known, what we add has to fit
    the window that is assumed, less a margin of a tenth.

    Nothing of the client's is dropped where that would not help: when what may not go is too long already,
    or when the room asked for is larger than the window, the provider says so.
    """
    block = render(additions.memories)
    window = limit.tokens or default_window
    if not limit.known:
        window -= int(window * MARGIN)
    answer = chat.output_reserve or min(ANSWER_ROOM, window // ANSWER_SHARE)
    at_most = _request_at_most(chat) + _additions_at_most(additions, block)
    if at_most + answer <= window or not (limit.known or additions.turns or additions.memories):
        return Fitted(chat, additions, block)

    sizes = [message_tokens(message.payload, count) for message in chat.messages]
    own = sum(sizes) + definition_tokens(chat.fields, count) + REPLY_PRIMING
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
    """Indices of the client's turns that go together, oldest first.

    A question goes with all that follows it up to the next one. After the last question, which stays, each
    answer goes with the results of the tools that it called. A result follows its call wherever it stands.
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
            group = callers.get(str(message.payload.get("tool_call_id")), group)
        group.append(i)
        for call in _objects(message.payload.get("tool_calls")):
            callers[str(call.get("id"))] = group
    stay = {last_user, len(chat.messages) - 1}
    return [group for group in groups if stay.isdisjoint(group)]


def _request_at_most(chat: Chat) -> int:
    """An upper bound of `request_tokens` that needs no counting.

    A token is at least one byte of text, and a byte of text is at least one byte of the JSON that carries
    it; JSON's own marks outnumber what we add for framing.
    """
    start, end = chat.messages_span
    around = _bytes(chat.body[:start]) + _bytes(chat.body[end:])
    return around + sum(map(_at_most, chat.messages))


def _additions_at_most(additions: Additions, block: str) -> int:
    turns = sum(_at_most(turn.message) for turn in additions.turns)
    return turns + (_bytes(block) + MESSAGE_OVERHEAD if block else 0)


def _at_most(message: ChatMessage) -> int:
    return _bytes(message.raw) + _media(message.payload)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _extras(payload: Mapping[str, Any]) -> int:
    """Tokens of a message beside its overhead and its texts."""
    name = NAME_OVERHEAD if isinstance(payload.get("name"), str) else 0
    calls = [*_objects(payload.get("tool_calls")), payload.get("function_call")]
    return name + CALL_OVERHEAD * sum(isinstance(call, Mapping) for call in calls) + _media(payload)


def _texts(payload: Mapping[str, Any]) -> Iterable[str]:
    """All of a message that reaches the model as text."""
    content = payload.get("content")
    texts = [content, payload.get("name"), payload.get("refusal")]
    for part in _objects(content):
        texts += [part.get("text"), part.get("refusal")]
        texts += [thought.get("text") for thought in _objects(part.get("thinking"))]
    calls = [call.get(kind) for call in _objects(payload.get("tool_calls")) for kind in ("function", "custom")]
    for call in [*calls, payload.get("function_call")]:
        if isinstance(call, Mapping):
            texts += [call.get("name"), call.get("arguments"), call.get("input")]
    return (text for text in texts if isinstance(text, str))


def _media(payload: Mapping[str, Any]) -> int:
    """The estimate for all of a message that is not text."""
    earlier = EARLIER_AUDIO if isinstance(payload.get("audio"), Mapping) else 0
    return earlier + sum(map(_part, _objects(payload.get("content"))))


def _part(part: Mapping[str, Any]) -> int:
    match part:
        case {"type": "text" | "refusal" | "thinking"}:
            return 0
        case {"type": "image_url", "image_url": {"detail": "low"}}:
            return LOW_DETAIL_IMAGE
        case {"type": "image_url", "image_url": {"detail": "high"}}:
            return HIGH_DETAIL_IMAGE
        case {"type": "image_url"}:
            return IMAGE
        case {"type": "input_audio", "input_audio": {"data": str(data), **rest}}:
            return -(-len(data) // BASE64_PER_AUDIO_TOKEN["wav" if rest.get("format") == "wav" else "mp3"])
        case _:
            return FILE


def _definitions(fields: Json) -> tuple[list[str], int]:
    """The words of the request's definitions, and how many properties these have.

    Not recursive: a client may nest them as deep as it likes.
    """
    words: list[str] = []
    properties = 0
    todo: list[tuple[Any, bool]] = [(fields.get(key), False) for key in ("response_format", "functions", "tools")]
    while todo:
        value, is_map_of_names = todo.pop()
        match value:
            case str():
                words.append(value)
            case list():
                todo += [(item, False) for item in reversed(value)]
            case dict():
                if is_map_of_names:
                    words += value
                    properties += len(value)
                todo += [
                    (item, key in ("properties", "$defs", "definitions") and not is_map_of_names)
                    for key, item in value.items()
                    if is_map_of_names or key != "required"
                ]
    return words, properties


def _is_named(tool: Mapping[str, Any]) -> bool:
    return any(isinstance(part.get("name"), str) for part in (tool, *_objects(list(tool.values()))))


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
