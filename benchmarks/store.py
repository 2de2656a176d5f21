"""How much CPU time do opening and closing an exchange take, directly and by a replay of the spool?

    python -m benchmarks.store                  a scope that goes on, histories of ten turns
    python -m benchmarks.store --exchanges 500
    python -m benchmarks.store --replay         exchanges of twenty scopes, stored from the spool after an outage

CPU time is that of this process and of PostgreSQL's, by /proc. Each exchange resends the last ten turns, has a ledger
of twenty entries, and is opened and closed through conversations.actions. Compare two versions by their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.home import home

if TYPE_CHECKING:
    from conversations.actions import Answered, Asked

WINDOW = 10  # turns that the client resends
CANDIDATES = 20
SCOPES = 20  # of a replay
WARM_UP = 30


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exchange(number: int, history: list[dict[str, Any]], instance: str = "store") -> tuple[Asked, Answered]:
    """One question and its answer, after the history; both are added to it."""
    from django.utils import timezone

    from conversations import actions
    from conversations.querysets import Scope
    from conversations.turns import Turn

    def turn(message: dict[str, Any]) -> Turn:
        return Turn.from_payload(json.dumps(message), message)

    history.append({"role": "user", "content": f"Question {number}: which of the harbours did we name before?"})
    parts = ("vector", "words", "session", "nearby", "user", "short")
    candidates = tuple(
        {
            "id": at,
            "arm": "recall",
            "score": 0.5,
            "arms": {name: {"rank": 7 * at, "score": 0.1} for name in parts},
            "piece": [0, 140],
            "tokens": 40,
            "kept": at < 12,
            "why": "shown: relevant",
        }
        for at in range(1, CANDIDATES + 1)
    )
    ledger = actions.Ledger(bytes(16), candidates, (), tuple(range(1, 12)), 400, bytes(70))
    asked = actions.Asked(
        trace_id=uuid.uuid4(),
        scope=Scope("benchmark", instance),
        created=timezone.now(),
        model="gpt-4o",
        provider="openai",
        streamed=True,
        turns=tuple(turn(message) for message in history[-WINDOW + 1 :]),
        parameters='{"model": "gpt-4o", "stream": true}',
        ledger=ledger,
    )
    history.append({"role": "assistant", "content": f"Answer {number}: " + "you named the harbour of Lund. " * 10})
    answered = actions.Answered(
        finished=timezone.now(),
        ended="answered",
        status=200,
        turns=(turn(history[-1]),),
        usage={"prompt_tokens": 10, "completion_tokens": 20},
        timings={"recall": 1.0},
    )
    return asked, answered


def store(asked: Asked, answered: Answered) -> None:
    from conversations import actions

    actions.open_exchange(asked=asked)
    actions.close_exchange(asked=asked, answered=answered)


def fill_spool(folder: Path, exchanges: int) -> None:
    """Write exchanges as a server does during an outage."""
    from proxy.spool.record import Entry
    from proxy.spool.writing import Spool

    spool = Spool(folder, limit=2**30)
    histories: list[list[dict[str, Any]]] = [[] for _ in range(SCOPES)]
    waiting = []
    for number in range(exchanges):
        at = number % SCOPES
        asked, answered = exchange(number, histories[at], f"replayed {at}")
        bare = replace(asked, turns=(), ledger=None, parameters="")  # the question is there already
        waiting += [spool.keep(partial(Entry, asked)), spool.keep(partial(Entry, bare, answered, opened=True))]
    for future in waiting:
        future.result()
    spool.close()


def measure_replay(exchanges: int) -> None:
    """Print the CPU milliseconds of one exchange that is stored from the spool, and how many are stored a second."""
    from django.conf import settings
    from django.db import connection

    from proxy.providers import tokens
    from proxy.spool.replaying import replay_to_database, spool_folder
    from reservoir_site import server

    server.prepare_database()
    tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
    tokens.counter("gpt-4o").count("its tables are read once")
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone() or (0,)
    fill_spool(spool_folder(), exchanges)
    postgres, python, clock = cpu_seconds(backend), time.process_time(), time.monotonic()
    done = replay_to_database(spool_folder())
    seconds = time.monotonic() - clock
    python, postgres = time.process_time() - python, cpu_seconds(backend) - postgres
    assert done.stored == 2 * exchanges, done
    print("CPU ms an exchange, replayed:")
    print(f"Python {1000 * python / exchanges:.2f}, PostgreSQL {1000 * postgres / exchanges:.2f}")
    print(
        f"exchanges a second: {exchanges / seconds:.0f} by the clock, {exchanges / (python + postgres):.0f} by CPU time"
    )


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
        store(*exchange(number, history))
    with CaptureQueriesContext(connection) as queries:
        store(*exchange(WARM_UP, history))
    postgres, python = cpu_seconds(backend), time.process_time()
    for number in range(WARM_UP + 1, WARM_UP + 1 + exchanges):
        store(*exchange(number, history))
    python, postgres = time.process_time() - python, cpu_seconds(backend) - postgres
    print("CPU ms an exchange, opened and closed:")
    print(f"Python {1000 * python / exchanges:.2f}, PostgreSQL {1000 * postgres / exchanges:.2f}")
    print(f"calls to the database beside BEGIN and COMMIT: {len(queries)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=300)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--spool", type=Path, metavar="FOLDER", help="only write exchanges to this spool")
    options = parser.parse_args()
    with home():
        if options.spool:
            fill_spool(options.spool, options.exchanges)
            return
        (measure_replay if options.replay else measure)(options.exchanges)
        from reservoir_site import database

        if server := database.embedded():
            server.release()


if __name__ == "__main__":
    main()
