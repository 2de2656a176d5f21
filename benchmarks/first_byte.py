"""How much later does the first byte of a stream arrive, and how much memory does a worker take?

    python -m benchmarks.first_byte

One worker, a scope of 1,000 messages, and a provider on loopback that answers at once. Requests alternate between the
provider itself, Reservoir without memory, and Reservoir with memory, so that other load on the machine affects all
three equally.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.end_to_end import store
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

MESSAGES = 1000
ROUNDS = 200
SCOPE = ("benchmark", "first-byte")
WORDS = Path(__file__).read_text().split() + [f"topic{i}" for i in range(400)]


def sentence(generator: random.Random) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(5, 40)))


def fill(server: Server, client: httpx.Client, generator: random.Random) -> None:
    """Store a history of 1,000 messages, and wait until it is embedded."""
    url = f"{server.base_url(*SCOPE)}/chat/completions"
    for _ in range(MESSAGES // 2):
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": sentence(generator)}]}
        client.post(url, json=body, headers={"X-Reservoir-Recall": "off"}).raise_for_status()
    while any(message["embed_due"] for message in store.messages(server, SCOPE)):
        time.sleep(0.5)


def first_byte(client: httpx.Client, url: str, question: str, **headers: str) -> float:
    """Milliseconds until the first byte of a stream's body."""
    history = [
        {"role": "user", "content": "Good morning"},
        {"role": "assistant", "content": "Good morning to you"},
        {"role": "user", "content": question},
    ]
    body = json.dumps({"model": "gpt-4o", "stream": True, "messages": history})
    names = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    started = time.perf_counter()
    with client.stream("POST", url, content=body, headers=names) as answer:
        parts = answer.iter_raw()
        next(parts)
        elapsed = (time.perf_counter() - started) * 1000
        for _ in parts:
            pass
    return elapsed


def resident(pid: int) -> dict[str, int]:
    """Megabytes of resident memory, now and at the peak."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) // 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def main() -> None:
    generator = random.Random(1)
    with (
        tempfile.TemporaryDirectory() as home,
        FakeProvider() as provider,
        Server(Path(home) / "home", provider.base_url) as server,
        httpx.Client(trust_env=False, timeout=30) as client,
    ):
        fill(server, client, generator)
        through = f"{server.base_url(*SCOPE)}/chat/completions"
        times: dict[str, list[float]] = {"provider": [], "memory off": [], "memory on": []}
        for _ in range(ROUNDS):
            question = sentence(generator)
            off = {"X_Reservoir_Recall": "off", "X_Reservoir_Store": "off"}
            times["provider"].append(first_byte(client, f"{provider.base_url}/chat/completions", question))
            times["memory off"].append(first_byte(client, through, question, **off))
            times["memory on"].append(first_byte(client, through, question, X_Reservoir_Store="off"))
        base = statistics.median(times["provider"])
        print("first byte of a stream, ms      p50     p95   p50 more than the provider alone")
        for name, values in times.items():
            p95 = statistics.quantiles(values, n=20)[-1]
            print(f"{name:<26} {statistics.median(values):8.1f}{p95:8.1f}{statistics.median(values) - base:10.1f}")
        assert server.process
        print("resident memory of the worker, MB:", resident(server.process.pid))


if __name__ == "__main__":
    main()
