"""The steps of a tool loop: exchanges that answer one question, one after another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any


@dataclass(frozen=True, slots=True)
class Steps:
    """What a row's loop is: its question's id, how many of the listed rows it has, and what they cost together."""

    of: int
    count: int
    cost: Decimal | None
    is_last: bool  # this row is the loop's latest


def steps_of(exchanges: Iterable[Any]) -> dict[int, Steps]:
    """For each exchange of a loop of several, by its id. The exchanges are listed newest first."""
    loops = defaultdict(list)
    for exchange in exchanges:
        if exchange.question_id is not None:
            loops[exchange.question_id].append(exchange)
    found = {}
    for question, steps in loops.items():
        if len(steps) > 1:
            cost = sum((step.cost for step in steps if step.cost is not None), Decimal())
            for step in steps:
                found[step.pk] = Steps(question, len(steps), cost or None, is_last=step is steps[0])
    return found
