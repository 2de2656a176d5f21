"""Conversations in the database, for tests of the admin."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from django.contrib.auth.models import Group, User

from console.roles import make_groups
from conversations.actions import Answered, Asked, Ledger, close_exchange, open_exchange
from conversations.models import Exchange, Message, Partition, StaffLimit
from conversations.querysets import Scope
from conversations.turns import Turn

START = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)


def said(role: str, content: Any, **more: Any) -> Any:
    payload = {"role": role, "content": content, **more}
    return Turn.from_payload(json.dumps(payload), payload)


def exchange(
    scope: Scope,
    question: Any,
    answer: str,
    *,
    minutes: int = 0,
    shown: tuple[int, ...] = (),
    injected: tuple[str, ...] = (),
    ended: str = "answered",
    error: str = "",
    history: tuple[Any, ...] = (),
    left_out: tuple[int, ...] = (),
) -> Exchange:
    """One exchange, `minutes` after the first of May; `shown` are ids that the ledger kept.

    `history` are the turns before the question; `left_out` are indexes of turns that did not fit the window.
    """
    created = START + timedelta(minutes=minutes)
    candidates = tuple(
        {
            "id": pk,
            "arm": "recall",
            "score": 1.5,
            "arms": {"vector": {"rank": 1, "score": 0.9}, "words": {"rank": None, "score": 0.0}},
            "tokens": 12,
            "kept": True,
            "why": "shown: relevant",
        }
        for pk in shown
    )
    asked = Asked(
        trace_id=uuid.uuid4(),
        scope=scope,
        created=created,
        model="gpt-4o",
        provider="openai",
        streamed=False,
        turns=(*history, said("user", question)),
        left_out=left_out,
        prompts=((0, '{"role": "system", "content": "Be brief."}'),),
        parameters='{"model": "gpt-4o", "messages": [], "temperature": 0.30}',
        ledger=Ledger(key=b"k" * 16, candidates=candidates, injected=injected, message_ids=shown, tokens=40),
    )
    open_exchange(asked=asked)
    close_exchange(
        asked=asked,
        answered=Answered(
            finished=created + timedelta(seconds=2),
            ended=ended,
            status=200,
            turns=(said("assistant", answer),) if answer else (),
            finish_reason="stop",
            error=error,
            usage={"prompt_tokens": 100, "completion_tokens": 20},
            timings={"recall": 12.0, "enrich": 1.0, "provider": 180.0, "total": 200.0},
        ),
    )
    return Exchange.objects.select_related("instance__partition").get(trace_id=asked.trace_id)


def question_of(one: Exchange) -> int:
    assert one.question_id
    return one.question_id


def answer_of(one: Exchange) -> Message:
    return Message.objects.get(exchange=one, role="assistant")


def staff(name: str, group: str, *, only: tuple[str, ...] | None = None) -> User:
    """A staff member of a ready-made group; `only` these partitions where given."""
    make_groups()
    user = User.objects.create_user(name, is_staff=True)
    user.groups.add(Group.objects.get(name=group))
    if only is not None:
        limit = StaffLimit.objects.create(user=user)
        limit.partitions.set(Partition.objects.filter(name__in=only))
    return user
