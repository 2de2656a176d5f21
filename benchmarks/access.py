"""How much CPU time do access keys and limits add to a request?

    python -m benchmarks.access
    python -m benchmarks.access --requests 20000

CPU time of this process, its threads included: what PostgreSQL does beside it is not counted. The gate, the reach of
the key and its limits see each request as in the server. The last key has a limit of every kind, so that batches of
requests, slots and figures go through the database. Compare with the first line, an open server.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

from benchmarks.home import home

WARM_UP = 200
TOGETHER = 8  # requests at the same time
HEADERS = [(f"x-header-{at}".encode(), b"a value of thirty characters..") for at in range(12)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    number = parser.parse_args().requests
    with home():
        from reservoir_site import database, server

        server.prepare_database()
        try:
            for name, microseconds in asyncio.run(measured(number)):
                print(f"{name:<44} {microseconds:7.1f} us of CPU a request")
        finally:
            if embedded := database.embedded():
                embedded.release()


async def measured(number: int) -> list[tuple[str, float]]:
    """The CPU time of each kind of caller, in microseconds a request."""
    from access.limits import Limits
    from proxy.admission.denials import Denials
    from proxy.admission.gate import Gate
    from proxy.admission.keyring import Keyring
    from proxy.admission.quotas import Quotas

    keyring = Keyring()
    await keyring.start()
    gate, quotas = Gate(keyring, Denials(keyring), open_to_all=True), Quotas(keyring, slots=1000)
    quotas.start()
    results = [("open, without a key", await _run(gate, quotas, None, number))]
    for name, limits in [
        ("a key without limits", Limits()),
        ("a key with every limit", Limits(6_000_000, 10**9, 500, Decimal(10**6))),
    ]:
        key = await asyncio.to_thread(_make, name, limits)
        results.append((name, await _run(gate, quotas, key, number)))
    await quotas.stop()
    await asyncio.to_thread(keyring.stop, 5)
    return results


def _make(name: str, limits: Any) -> str:
    from access import keys
    from access.audit import Who
    from access.rights import APP

    wanted = keys.Wanted(name=name, rights=APP, partitions=["shop", "help/*"], instances=["*"], limits=limits)
    return keys.create(wanted, Who(actor="benchmark")).text


async def _run(gate: Any, quotas: Any, key: str | None, number: int) -> float:
    from access.rights import Right
    from proxy.admission.gate import caller_of

    headers = [*HEADERS, *([(b"authorization", f"Bearer {key}".encode())] if key else [])]
    scope = {"headers": headers, "query_string": b"", "client": ("127.0.0.1", 50000)}

    async def one() -> None:
        async with AsyncExitStack() as closing:
            caller = caller_of(await gate.admit(scope))
            caller.require(Right.COMPLETE)
            caller.require_scope("shop", "alice")
            await quotas.admit(caller, "shop", closing)
            await asyncio.sleep(0)

    async def some(count: int) -> None:
        for _ in range(count):
            await one()

    await some(WARM_UP)
    began = time.process_time()
    await asyncio.gather(*(some(number // TOGETHER) for _ in range(TOGETHER)))
    return (time.process_time() - began) / number * 1e6


if __name__ == "__main__":
    main()
