"""Imports each conversation into a scratch scope, asks its questions as a request would, and cleans up.

Ranking and packing are those of a request: proxy/memory/recollection.py and proxy/prompt/enrichment.py. There is no
deadline, and the latest turns, which a request without a history gains as well, are left out: they need no recall.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from conversations.backlog import embed
from conversations.embedders.base import Embedder
from conversations.embedding import model_of
from conversations.messages import add_messages
from conversations.models import Message
from conversations.querysets import Scope
from conversations.scratch import scratch_partition
from conversations.turns import Turn
from proxy.dialects.chat_completions.request import decode
from proxy.evaluation.measures import Answer
from proxy.evaluation.questions import Conversation, Said
from proxy.memory.recollection import RecallRequest, recollect
from proxy.prompt.enrichment import pack
from proxy.providers import tokens

ENCODING_OF = "gpt-4o"  # the model whose encoding, o200k, counts tokens
DEPTH = 200  # messages to rank: enough to fill 2,000 tokens with short ones
BATCH = 64  # messages to embed at once

Progress = Callable[[int], object]  # receives the number of items completed since the last call


@dataclass(frozen=True, slots=True)
class Trial:
    """Imported conversations, ready to be asked. `ids` maps the ids of stored messages to those of the file."""

    partition: str
    conversations: Sequence[Conversation]
    embedder: Embedder
    ids: dict[int, str]

    def ask(self, progress: Progress, *, without: Set[str] = frozenset(), baseline: str = "") -> list[Answer]:
        """Ask every question, one after the other.

        `without` names parts of recall to leave out; `baseline`, one of BASELINES to rank by in place of the formula.
        """
        return list(self._answers(tokens.counter(ENCODING_OF).count, progress, without, baseline))

    def _answers(
        self, count: Callable[[str], int], progress: Progress, without: Set[str], baseline: str
    ) -> Iterator[Answer]:
        for conversation in self.conversations:
            sizes = {said.id: count(said.content) for said in conversation.messages}
            scope = Scope(self.partition, conversation.id)
            for question in conversation.questions:
                chat = decode(json.dumps({"messages": [{"role": "user", "content": question.text}]}).encode())
                request = RecallRequest(
                    scope, chat, count, candidates=DEPTH, latest=False, without=without, baseline=baseline
                )
                started = time.perf_counter()
                recalled = recollect(lambda: self.embedder, request)
                elapsed = time.perf_counter() - started
                packed = pack(recalled.additions.memories, settings.RESERVOIR_MEMORY_BUDGET, count)
                ranking = tuple(self.ids[candidate.id] for candidate in recalled.candidates)
                yield Answer(
                    category=question.category,
                    conversation=conversation.id,
                    evidence=question.evidence,
                    ranking=ranking,
                    tokens=tuple(sizes[id_] for id_ in ranking),
                    rendered=frozenset(self.ids[kept.id] for kept in packed.kept),
                    rendered_tokens=packed.tokens,
                    milliseconds=elapsed * 1000,
                )
                progress(1)


@contextmanager
def imported(conversations: Sequence[Conversation], embedder: Embedder, progress: Progress) -> Iterator[Trial]:
    """Import the conversations, and embed every message. The end of the context deletes them.

    Raises EmbedderError when the embedder fails.
    """
    with scratch_partition() as partition:
        count = tokens.counter(ENCODING_OF).count
        ids: dict[int, str] = {}
        for conversation in conversations:
            stored = add_messages(
                scope=Scope(partition, conversation.id),
                messages=[(_turn(said), said.created) for said in conversation.messages],
                count=count,
                embed=False,
            )
            ids |= zip(stored, (said.id for said in conversation.messages), strict=True)
        model_of(embedder)  # vectors are written only for a model that has a row
        waiting = Message.objects.filter(pk__in=ids).order_by("pk")
        for start in range(0, len(ids), BATCH):
            batch = list(waiting[start : start + BATCH])
            embed(embedder, batch)
            progress(len(batch))
        yield Trial(partition, conversations, embedder, ids)


def _turn(said: Said) -> Turn:
    payload: dict[str, Any] = {"role": said.role, "content": said.content}
    if said.name:
        payload["name"] = said.name
    return Turn.from_payload(json.dumps(payload), payload)
