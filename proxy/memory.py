"""The only door to conversations/: what is recalled for a request, and what is remembered of it.

Django's ORM blocks, so its work is done on a few threads that keep their connections: some recall, others store, so
that a slow recall delays no commit. No connection is held while a provider thinks. Nothing here raises on account
of the memory: what fails is logged with the trace id, and the request goes on without it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, TypeVar

from django.conf import settings
from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    ProgrammingError,
    connection,
    transaction,
)
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from conversations import actions, capture
from conversations.backlog import Worker, embedding_model, save_vectors
from conversations.embedders import Embedder, EmbedderError, Vectors, make_embedder
from conversations.embedders.pieces import Piece
from conversations.models import Exchange, Message
from conversations.models import Ledger as KeptLedger
from conversations.querysets import Scope
from conversations.recall import CANDIDATES, Candidate, recall
from proxy.chat import Additions, Chat, ChatMessage, Json, Memory, Reply, Turn
from proxy.enrichment import BUDGET, DUPLICATE, EMPTY, note_tokens
from proxy.injection import Injection, Reused
from proxy.providers import Target
from proxy.window import WINDOW

__all__ = ["Door", "Ended", "Recollection", "Record", "Result", "Scope", "Wishes"]

T = TypeVar("T")
Count = Callable[[str], int]
Cost = Callable[[Mapping[str, Any]], Decimal | None]

log = logging.getLogger(__name__)

Ended = Exchange.Ended

RECALL_THREADS = 4
STORE_THREADS = 4
# A question this short is one piece, and the vector that recall made of it is the one to keep.
WHOLE_QUESTION = 400  # characters


class Wishes(NamedTuple):
    """Whose memory a request is about, and what of it the client wants."""

    trace_id: uuid.UUID
    scope: Scope
    recall: bool
    store: bool
    candidates: int = CANDIDATES  # how many messages to consider


@dataclass(frozen=True, slots=True)
class Result:
    """How an exchange ended and what it brought."""

    ended: str
    status: int | None = None
    reply: Reply = field(default_factory=Reply)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Recollection:
    """What recall brought for a request. `reused`, in a tool loop, is to be injected as it is."""

    state: str = "off"  # on, off, degraded
    additions: Additions = field(default_factory=Additions)
    candidates: tuple[Candidate, ...] = ()
    reused: Reused | None = None
    vector: Vectors | None = None
    question: str = ""


class Door:
    """Opened once for a server process."""

    def __init__(self) -> None:
        self._recalling = ThreadPoolExecutor(RECALL_THREADS, thread_name_prefix="recall")
        self._storing = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store")
        self._embedder: Embedder | None = None
        self._embedder_lock = threading.Lock()
        self._worker = Worker(self.embedder)
        self._unfinished: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Load the embedder, so that the first request does not wait for it, and work off the backlog."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._recalling, lambda: self.embedder().embed(["warm"]))
        except EmbedderError as error:
            log.warning("recall goes by words alone: %s", error)
        self._worker.start()

    async def stop(self) -> None:
        """Finish what is being stored, then let go of everything."""
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        await asyncio.to_thread(self._worker.stop)
        for pool in (self._recalling, self._storing):
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)
        if self._embedder:
            self._embedder.close()

    def embedder(self) -> Embedder:
        """The configured embedder, loaded on first use. Blocks."""
        with self._embedder_lock:
            if self._embedder is None:
                self._embedder = make_embedder(
                    settings.RESERVOIR_EMBEDDER,
                    api_key=settings.RESERVOIR_EMBEDDER_KEY or None,
                    dimensions=settings.RESERVOIR_EMBEDDER_DIMENSIONS or None,
                )
            return self._embedder

    def begin(self, *, wishes: Wishes, chat: Chat, target: Target, count: Count) -> Record:
        """An exchange begins."""
        return Record(self, wishes=wishes, chat=chat, target=target, count=count)

    async def recall(self, chat: Chat, wishes: Wishes, count: Count) -> Recollection:
        """What the scope knows that matters for the chat's last user message, within the deadline."""
        if chat.last_user is None:
            return Recollection("on")
        work = partial(
            look,
            self.embedder,
            scope=wishes.scope,
            chat=chat,
            count=count,
            candidates=wishes.candidates,
            milliseconds=settings.RESERVOIR_RECALL_DEADLINE_MS,
        )
        future = asyncio.get_running_loop().run_in_executor(self._recalling, work)
        try:
            async with asyncio.timeout(settings.RESERVOIR_RECALL_DEADLINE_MS / 1000):
                return await future
        except TimeoutError:
            log.warning("recall for %s took too long and was left out", wishes.trace_id)
        except Exception as error:
            log.error("recall for %s failed and was left out (%s)", wishes.trace_id, _named(error))
        return Recollection("degraded")

    async def health(self) -> dict[str, str | None]:
        """Each part and what is wrong with it, None for nothing."""
        loop = asyncio.get_running_loop()
        parts = await loop.run_in_executor(self._storing, _database_health)
        try:
            await loop.run_in_executor(self._recalling, lambda: self.embedder().embed(["ready"]))
            return parts | {"embedder": None}
        except EmbedderError as error:
            return parts | {"embedder": str(error)}

    def track(self, task: asyncio.Future[T]) -> asyncio.Future[T]:
        """Wait for it before stopping."""
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return task

    def save(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Do blocking work on a storing thread; it is finished even if nobody waits for it any more."""
        return self.track(asyncio.get_running_loop().run_in_executor(self._storing, _on_database, work))

    def wake(self) -> None:
        """Tell the backlog's worker that there is something new."""
        self._worker.wake()


class Record:
    """One exchange being remembered: its question while the provider thinks, its answer before its last byte."""

    def __init__(self, door: Door, *, wishes: Wishes, chat: Chat, target: Target, count: Count) -> None:
        self._door = door
        self._wishes = wishes
        self._chat = chat
        self._target = target
        self._count = count
        self._recalled = Recollection()
        self._asked = actions.Asked(
            trace_id=wishes.trace_id,
            scope=wishes.scope,
            created=timezone.now(),
            model=capture.storable(target.model),
            provider=target.provider.name,
            streamed=chat.stream,
        )
        self._opening: asyncio.Future[None] | None = None
        self._finished = False
        self._shown = self._tokens = 0

    async def recall(self) -> Recollection:
        """What the scope knows that matters for this request; nothing where the client wants none."""
        if self._wishes.recall:
            self._recalled = await self._door.recall(self._chat, self._wishes, self._count)
        return self._recalled

    def remember_question(self, injection: Injection) -> None:
        """Begin to store the request. Does not wait."""
        self._shown, self._tokens = len(injection.shown), injection.tokens
        if self._wishes.store:
            self._opening = self._door.save(partial(self._open, injection))

    async def headers(self, timing: str) -> list[tuple[bytes, bytes]]:
        """What the client is told of its memory."""
        state = self._recalled.state
        if self._opening:
            await asyncio.wait([self._opening], timeout=settings.RESERVOIR_RECALL_DEADLINE_MS / 1000)
            if not self._opening.done() or self._opening.exception():
                state = "degraded"
        told = {
            "x-reservoir-trace-id": str(self._wishes.trace_id),
            "x-reservoir-memory": state,
            "x-reservoir-memories": str(self._shown),
            "x-reservoir-memory-tokens": str(self._tokens),
            "server-timing": timing,
        }
        return [(name.encode(), value.encode()) for name, value in told.items()]

    async def remember_answer(self, result: Result, *, timings: Callable[[], dict[str, float]], cost: Cost) -> None:
        """Store what came back, and wait until that is committed. Goes on when the waiting task is cancelled."""
        if self._opening is None or self._finished:
            return
        self._finished = True
        usage = result.reply.usage or {}
        answered = actions.Answered(
            finished=timezone.now(),
            ended=result.ended,
            status=result.status,
            turns=tuple(capture.turn(m.raw, m.payload) for m in result.reply.messages if _says_anything(m)),
            finish_reason=capture.storable(",".join(filter(None, result.reply.finish_reasons)))[:100],
            error=capture.storable(result.error),
            usage=capture.storable_json(usage),
            cost=cost(usage),
            timings=timings(),
        )
        await asyncio.shield(self._door.track(asyncio.ensure_future(self._close(self._opening, answered))))

    async def _close(self, opening: asyncio.Future[None], answered: actions.Answered) -> None:
        await asyncio.wait([opening])
        if error := opening.exception():
            log.error("exchange %s: its question could not be stored (%s)", self._wishes.trace_id, _named(error))
        work = partial(actions.close_exchange, answered=answered, count=self._count)
        try:
            await self._door.save(lambda: work(asked=self._asked))
        except Exception as error:
            log.error("exchange %s could not be stored (%s)", self._wishes.trace_id, _named(error))
        self._door.wake()

    def _open(self, injection: Injection) -> None:
        messages = self._chat.messages
        self._asked = replace(
            self._asked,
            memory=self._recalled.state,
            turns=tuple(capture.turn(m.raw, m.payload) for m in messages if not m.is_system),
            prompts=tuple((i, m.raw) for i, m in enumerate(messages) if m.is_system),
            parameters=self._chat.without_messages(),
            ledger=_ledger(self._chat, self._recalled, injection, self._count) if self._wishes.recall else None,
        )
        exchange = actions.open_exchange(asked=self._asked, count=self._count)
        vector, question = self._recalled.vector, self._recalled.question
        if vector is not None and exchange.question_id and 0 < len(question) <= WHOLE_QUESTION:
            save_vectors(
                message_id=exchange.question_id,
                instance_id=exchange.instance_id,
                model=embedding_model(self._door.embedder()),
                pieces=[Piece(0, len(question))],
                vectors=vector,
            )


def _says_anything(message: ChatMessage) -> bool:
    return bool(
        capture.plain_text(message.payload)
        or {key for key, value in message.payload.items() if value} - {"role", "content", "refusal"}
    )


def _ledger(chat: Chat, recalled: Recollection, injection: Injection, count: Count) -> actions.Ledger:
    return actions.Ledger(
        key=_key(chat),
        candidates=tuple(entries(recalled, injection, count)),
        injected=injection.messages,
        message_ids=injection.shown,
        tokens=injection.tokens,
    )


# Why a message is not shown, for readers who have never seen the code.
REASONS = {
    BUDGET: "left out: no room for it in the budget for memories",
    DUPLICATE: "left out: the same text is shown already",
    EMPTY: "left out: it has no text that could be shown",
    WINDOW: "left out: the request would not have fitted the model's window",
}


def entries(recalled: Recollection, injection: Injection, count: Count) -> list[Json]:
    """The ledger: every message that was considered, the latest turns first, then the recalled ones, best first.

    Each has its id, where it came from, whether it is shown and why; a recalled one its score, each arm's rank
    (from 1) and score, which piece of its text (offsets) is meant, and the tokens it takes in the block.
    """
    shown = set(injection.shown)
    turns = recalled.additions.turns
    found: list[Json] = [
        {
            "id": turn.id,
            "arm": "latest",
            "tokens": count(str(turn.message.payload["content"])),
            "kept": turn.id in shown,
            "why": REASONS.get(injection.reasons.get(turn.id, ""), "shown: one of the latest messages"),
        }
        for turn in turns
    ]
    latest = {turn.id for turn in turns}
    offered = {memory.id: memory for memory in recalled.additions.memories}
    for candidate in recalled.candidates:
        if candidate.id in shown:
            why = "shown: relevant"
        elif candidate.id in latest:
            why = "not repeated: it is among the latest messages, which are added as turns"
        elif candidate.id in offered:
            why = REASONS.get(injection.reasons.get(candidate.id, ""), "left out")
        else:
            why = "not repeated: the request holds it already"
        memory = offered.get(candidate.id) or as_memory(candidate)
        found.append(
            {
                "id": candidate.id,
                "arm": "recall",
                "score": round(candidate.score, 4),
                "arms": {
                    "vector": {"rank": candidate.vector_rank, "score": round(candidate.vector_score, 4)},
                    "words": {"rank": candidate.word_rank, "score": round(candidate.word_score, 4)},
                },
                "tokens": note_tokens(memory, count),
                "kept": candidate.id in shown,
                "why": why,
            }
        )
    return found


def _key(chat: Chat) -> bytes:
    """Stands for the conversation up to its last user message, the same in every round of a tool loop."""
    end = (chat.last_user or 0) + 1
    return capture.conversation_key(capture.digest(m.payload) for m in chat.messages[:end] if not m.is_system)


def _sent_before(scope: Scope, chat: Chat) -> KeptLedger | None:
    """The ledger of the exchange that asked this question first."""
    ledgers = KeptLedger.objects.filter(
        key=_key(chat),
        exchange__instance__partition__name=scope.partition,
        exchange__instance__name=scope.instance,
    )
    return ledgers.order_by("-pk").first()


def look(
    embedder: Callable[[], Embedder],
    *,
    scope: Scope,
    chat: Chat,
    count: Count,
    candidates: int = CANDIDATES,
    milliseconds: int = 0,
) -> Recollection:
    """What the scope knows that matters for the chat's last user message, which there must be. Blocks.

    The server gives up a query after `milliseconds` (0: never). Raises django.db.Error.
    """
    if chat.in_tool_loop and (kept := _on_database(lambda: _sent_before(scope, chat))):
        return Recollection("on", reused=Reused(tuple(kept.injected), tuple(kept.message_ids), kept.tokens))
    last = chat.last_user
    assert last is not None
    question = capture.plain_text(chat.messages[last].payload)
    state, vector, model = "on", None, ""
    if question.strip():
        try:
            used = embedder()
            vector, model = used.embed([question]), used.name
        except EmbedderError as error:
            log.warning("recall goes by words alone: %s", error)
            state = "degraded"
    asked = partial(_look_up, scope, chat, question, vector, model, count, candidates, milliseconds)
    return replace(_on_database(asked), state=state)


def _look_up(
    scope: Scope,
    chat: Chat,
    question: str,
    vector: Vectors | None,
    model: str,
    count: Count,
    limit: int,
    milliseconds: int,
) -> Recollection:
    """The database's part of recall: one transaction that the server gives up when the deadline has passed."""
    present = {capture.digest(message.payload) for message in chat.messages}
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {milliseconds:d}")
        turns = () if chat.has_history else _latest_turns(scope, present, count)
        candidates = recall(
            scope=scope,
            query=question,
            vector=None if vector is None else vector[0].tolist(),
            model=model,
            limit=limit,
        )
    shown = present | {capture.digest(turn.message.payload) for turn in turns}
    return Recollection(
        additions=Additions(turns, tuple(as_memory(c) for c in candidates if c.digest not in shown)),
        candidates=tuple(candidates),
        vector=vector,
        question=question,
    )


def as_memory(candidate: Candidate) -> Memory:
    """A candidate as it would be shown to the model."""
    return Memory(
        candidate.id, candidate.role, candidate.name, candidate.created, candidate.content, candidate.score
    )


def _latest_turns(scope: Scope, present: set[bytes], count: Count) -> tuple[Turn, ...]:
    """The scope's latest messages as turns, oldest first, beginning with a user's."""
    left = settings.RESERVOIR_RECENT_TOKENS
    turns: list[Turn] = []
    rows = Message.objects.in_scope(scope).recallable().recent(settings.RESERVOIR_RECENT_MESSAGES)
    for row in rows.values("id", "role", "name", "content", "created", "digest"):
        left -= count(row["content"]) + 4
        if left < 0:
            break
        if bytes(row["digest"]) not in present:
            payload = {"role": row["role"], "content": row["content"]} | ({"name": row["name"]} if row["name"] else {})
            turns.insert(0, Turn(row["id"], ChatMessage.make(payload), row["created"]))
    while turns and turns[0].message.role != "user":
        turns.pop(0)
    return tuple(turns)


def _database_health() -> dict[str, str | None]:
    try:
        _on_database(lambda: Message.objects.values("id").first())
    except ProgrammingError:
        return {"database": None, "migrations": "run manage.py migrate"}
    except DatabaseError as error:
        return {"database": f"it does not answer ({_named(error)})", "migrations": None}
    executor = MigrationExecutor(connection)
    behind = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return {"database": None, "migrations": "run manage.py migrate" if behind else None}


def _on_database(work: Callable[[], T]) -> T:
    """Do the work; once more on a new connection where the thread's old one turns out to be dead."""
    try:
        return work()
    except (OperationalError, InterfaceError):
        if connection.connection is not None and not connection.connection.closed:
            raise
        connection.close()
        return work()


def _named(error: BaseException) -> str:
    """An error for the log: its class alone, since messages of database errors quote content."""
    return type(error).__name__
