"""How much CPU time do opening and closing an exchange take?

    python -m benchmarks.store                  a scope that goes on, histories of ten turns
    python -m benchmarks.store --exchanges 500

CPU time, not the clock: of this process and of PostgreSQL's, by /proc. Each exchange resends the last ten turns, has a
ledger of fifty candidates, and is opened and closed through conversations.actions. Compare two versions by their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.home import home

WINDOW = 10  # turns that the client resends
CANDIDATES = 50
WARM_UP = 30


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exchange(number: int, history: list[dict[str, Any]]) -> None:
    """One question and its answer, after the history; both are added to it."""
    from django.utils import timezone

    from conversations import actions
    from conversations.querysets import Scope
    from conversations.turns import Turn

    def turn(message: dict[str, Any]) -> Turn:
        return Turn.from_payload(json.dumps(message), message)

    history.append({"role": "user", "content": f"Question {number}: which of the harbours did we name before?"})
    candidates = tuple(
        {"id": at, "score": 0.5, "kept": at < 10, "why": "less relevant", "words": 3, "vector": 7, "tokens": 40}
        for at in range(1, CANDIDATES + 1)
    )
    ledger = actions.Ledger(bytes(16), candidates, (json.dumps("memory " * 400),), tuple(range(1, 11)), 400)
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=Scope("benchmark", "store"),
        created=timezone.now(),
        model="gpt-4o",
        provider="openai",
        streamed=True,
        turns=tuple(turn(message) for message in history[-WINDOW + 1 :]),
        parameters='{"model": "gpt-4o", "stream": true}',
        ledger=ledger,
    )
    actions.open_exchange(asked=asked)
    history.append({"role": "assistant", "content": f"Answer {number}: " + "you named the harbour of Lund. " * 10})
    answered = actions.Answered(
        finished=timezone.now(),
        ended="answered",
        status=200,
        turns=(turn(history[-1]),),
        usage={"prompt_tokens": 10, "completion_tokens": 20},
        timings={"recall": 1.0},
    )
    actions.close_exchange(asked=asked, answered=answered)


def measure(exchanges: int) -> None:
    """Print the CPU milliseconds and the calls to the database of one exchange."""
    from django.core.management import call_command
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    from reservoir_site import database

    database.reach()
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    history: list[dict[str, Any]] = []
    for number in range(WARM_UP):
        exchange(number, history)
    with CaptureQueriesContext(connection) as queries:
        exchange(WARM_UP, history)
    postgres, python = cpu_seconds(backend), time.process_time()
    for number in range(WARM_UP + 1, WARM_UP + 1 + exchanges):
        exchange(number, history)
    python, postgres = time.process_time() - python, cpu_seconds(backend) - postgres
    print("CPU ms an exchange, opened and closed:")
    print(f"Python {1000 * python / exchanges:.2f}, PostgreSQL {1000 * postgres / exchanges:.2f}")
    print(f"calls to the database beside BEGIN and COMMIT: {len(queries)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=300)
    options = parser.parse_args()
    with home():
        measure(options.exchanges)
        from reservoir_site import database

        if server := database.embedded():
            server.release()


if __name__ == "__main__":
    main()
