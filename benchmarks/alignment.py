"""How long it takes to align a resent history of 2,000 turns of which a client changed ten.

    python -m benchmarks.alignment

Prints the best and the median of 20 runs, in milliseconds of wall time, without the database's part.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence

from conversations.changed import Node, Said, lay
from conversations.turns import Turn

TURNS, CHANGED, RUNS = 2_000, 10, 20


def turn(number: int, text: str) -> Turn:
    payload = {"role": "assistant" if number % 2 else "user", "content": text}
    return Turn.from_payload(json.dumps(payload), payload)


def main() -> None:
    stored = [turn(number, f"turn {number} " + "word " * 60) for number in range(TURNS)]
    branch = [Node(at + 1, one.digest, one.role, at or None) for at, one in enumerate(stored)]
    sent = list(stored)
    for number in random.Random(1).sample(range(TURNS - 1), CHANGED):
        sent[number] = turn(number, f"changed: {sent[number].content}")
    sent.append(turn(TURNS, "and now?"))

    def said(ids: Sequence[int]) -> Mapping[int, Said]:
        return {pk: Said(stored[pk - 1].content, stored[pk - 1].payload) for pk in ids}

    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        laid = lay(sent, branch, said)
        times.append((time.perf_counter() - begun) * 1000)
    assert laid is not None and laid.known >= TURNS - CHANGED
    print(f"{TURNS} turns, {CHANGED} changed: best {min(times):.1f} ms, median {statistics.median(times):.1f} ms")


if __name__ == "__main__":
    main()
