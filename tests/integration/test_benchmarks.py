"""The clients and the provider of the benchmarks, over real sockets."""

from __future__ import annotations

import asyncio

from benchmarks.clients import Client, load
from benchmarks.instant_provider import Answers, Connection


async def test_clients_and_provider_understand_each_other() -> None:
    answers = Answers()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answers), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    clients = [Client(url, {}, seed=seed) for seed in range(2)]
    async with server:
        whole = await load(clients, 0.05)
        paced = await load(clients[:1], 0.05, stream=True, pace=5)
        for client in clients:
            await client.close()
    assert whole.statuses.keys() == paced.statuses.keys() == {200}
    assert all(first < end for first, end in zip(paced.first_bytes, paced.times, strict=True))
