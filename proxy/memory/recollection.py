"""What a scope's memory holds for a chat. Blocks.

Decides what to search for, and which results to offer: those that the request does not contain already. Requests, the
recall route and the evaluation all come through `recollect`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from django.conf import settings

from conversations import reranker
from conversations.chains import referred, told
from conversations.embedders.base import Embedder, EmbedderError, Vectors
from conversations.querysets import Scope
from conversations.recall.baselines import BASELINES
from conversations.recall.reranking import FIRST, reranked
from conversations.recall.search import CANDIDATES, PARTS, Candidate, Query, prepare_query, search
from conversations.recall.unranked import LatestMessage, earlier_injection, latest_pairs
from conversations.reranker import RerankerError
from conversations.states import MemoryState
from conversations.turns import conversation_key, digest, plain_text
from proxy.memory.added import added_by
from proxy.memory.rendering import Stored, as_turn
from proxy.prompt.chat import Additions, Chat, Memory, Turn
from proxy.prompt.counting import Count
from proxy.prompt.enrichment import wishes_first, without_block
from proxy.prompt.injection import Reused

__all__ = [
    "BASELINES",
    "CANDIDATES",
    "PARTS",
    "RecallRequest",
    "Recollection",
    "as_memory",
    "question_key",
    "recollect",
]

log = logging.getLogger(__name__)

LONGEST_QUESTION = 60_000  # characters; only as much of a message's words is indexed
PATIENCE = 30.0  # seconds for a reranker where recall has no deadline
SPARE = 0.1  # seconds of the deadline that the rest of recall needs after the reranker
EMBEDDED = 4_000  # characters of a question; vectors of longer texts say little more, and endpoints may refuse them


@dataclass(frozen=True, slots=True)
class RecallRequest:
    """The chat to recall for, and within what bounds. `count` gives the tokens of a text."""

    scope: Scope
    chat: Chat
    count: Count
    candidates: int = CANDIDATES  # how many messages to rank
    latest: bool = True  # add the latest turns as well, unless the chat brings a history
    milliseconds: int = 0  # after which PostgreSQL cancels a query; 0: never
    without: Set[str] = frozenset()  # the parts of the formula (of PARTS) to leave out
    baseline: str = ""  # the plain ranking (of BASELINES) to use in place of the formula


@dataclass(frozen=True, slots=True)
class Recollection:
    """The result of recall for a request. `reused`, in a tool loop, is to be injected unchanged."""

    state: MemoryState = MemoryState.OFF
    additions: Additions = field(default_factory=Additions)
    candidates: tuple[Candidate, ...] = ()
    reused: Reused | None = None
    vector: Vectors | None = None  # of the question, by `model`
    model: str = ""  # the embedding model's name
    question: str = ""
    late: bool = False  # the deadline passed without a result


def recollect(embedder: Callable[[], Embedder], request: RecallRequest) -> Recollection:
    """Recall for the chat's last user message, which must exist. Raises django.db.Error.

    Without an embedder recall uses words alone, and its state is DEGRADED.
    """
    started = time.monotonic()
    chat = request.chat
    if chat.in_tool_loop and (earlier := earlier_injection(request.scope, question_key(chat))):
        texts = added_by(earlier).texts
        return Recollection(
            MemoryState.ON, reused=Reused(texts, earlier.message_ids, earlier.tokens, earlier.rendering)
        )
    assert chat.last_user is not None
    text = _shortened(plain_text(without_block(chat.messages[chat.last_user].payload)))
    query = prepare_query(scope=request.scope, text=text, milliseconds=request.milliseconds)
    state, vectors, model = _embedded(embedder, text, query)
    digests = [digest(without_block(message.payload)) for message in chat.messages]
    present = {*digests, *referred(request.scope, [message.stored for message in chat.messages], digests)}
    turns = _latest_turns(request, query, present)
    found = search(
        query=query,
        vector=None if vectors is None else vectors[0 if request.baseline else -1].tolist(),
        model=model,
        limit=request.candidates,
        present=present,
        without=request.without,
        baseline=request.baseline,
    )
    if not request.baseline:
        left = request.milliseconds / 1000 - (time.monotonic() - started) if request.milliseconds else PATIENCE
        found = _reranked(found, text, left - SPARE)
    present |= {digest(turn.message.payload) for turn in turns}
    added = {turn.id for turn in turns}  # a turn with an image is added as its text, which has another digest
    if chat.follows:  # the provider keeps what this chain has said, and what it was shown
        added |= told(request.scope, chat.follows)
    relevant = (each for each in found if each.relevant and each.digest not in present and each.id not in added)
    memories = wishes_first([*map(as_memory, relevant)], settings.RESERVOIR_WISH_BUDGET, request.count)
    return Recollection(
        state=state,
        additions=Additions(turns, memories),
        candidates=tuple(found),
        vector=None if vectors is None else vectors[:1],
        model=model,
        question=text,
    )


def _reranked(found: list[Candidate], text: str, seconds: float) -> list[Candidate]:
    """The results in the order of the reranker, if the settings name one and it answers in time."""
    used = reranker.configured()
    if used is None or not found or seconds <= 0:
        return found
    try:
        relevances = used.relevances(text[:EMBEDDED], [each.text for each in found[:FIRST]], seconds)
    except RerankerError as error:
        log.warning("recall ranks without the reranker: %s", error)
        return found
    return reranked(found, relevances)


def as_memory(candidate: Candidate) -> Memory:
    """A candidate as the model would see it."""
    return Memory(
        candidate.id,
        candidate.role,
        candidate.name,
        candidate.created,
        candidate.text,
        candidate.score,
        candidate.is_wish,
    )


def question_key(chat: Chat) -> bytes:
    """The key of the conversation up to its last user message: the same in every round of a tool loop."""
    end = (chat.last_user or 0) + 1
    return conversation_key(digest(without_block(m.payload)) for m in chat.messages[:end] if not m.is_system)


def _embedded(embedder: Callable[[], Embedder], text: str, query: Query) -> tuple[MemoryState, Vectors | None, str]:
    """The state of recall; the vectors of the text (first) and of the question's wording (last); their model."""
    if not text.strip():
        return MemoryState.ON, None, ""
    # The text's vector is stored with the message; the wording to search for may differ from the text.
    texts = [*dict.fromkeys(part[:EMBEDDED] for part in (text, query.wording))]
    try:
        used = embedder()
        return MemoryState.ON, used.embed(texts), used.name
    except EmbedderError as error:
        log.warning("recall uses words alone: %s", error)
        return MemoryState.DEGRADED, None, ""


def _shortened(question: str) -> str:
    """The question, or the beginning and the end of a very long one."""
    half = LONGEST_QUESTION // 2
    return question if len(question) <= LONGEST_QUESTION else f"{question[:half]}\n{question[-half:]}"


def _latest_turns(request: RecallRequest, query: Query, present: Set[bytes]) -> tuple[Turn, ...]:
    """The scope's latest questions with their answers that the request does not contain, oldest first.

    None if the request is not to have them, or brings a history.
    """
    if query.instance_id is None or not request.latest or request.chat.has_history:
        return ()
    latest = latest_pairs(
        query.instance_id,
        most=settings.RESERVOIR_RECENT_MESSAGES,
        budget=settings.RESERVOIR_RECENT_TOKENS,
        count=request.count,
    )
    return tuple(_as_turn(message) for pair in latest if present.isdisjoint(m.digest for m in pair) for message in pair)


def _as_turn(message: LatestMessage) -> Turn:
    return as_turn(Stored(message.id, message.role, message.name, message.created, message.text))
