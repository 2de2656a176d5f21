"""How much later than chat completions is the first byte of a streamed answer through the other APIs?

    python -m benchmarks.first_byte
    python -m benchmarks.first_byte --rounds 200

One client with memory on, in a scope of 1,000 messages for each API, asks a new question each time; the APIs take
turns. The provider answers at once. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.texts import Writer, history
from tests.fake_provider.provider import FakeProvider
from tests.server import ROOT, Server, clean_environment

PARTITION = "first-byte"
MESSAGES = 1_000
WARM = 10  # rounds that are not counted


def bodies(question: str) -> dict[str, dict[str, Any]]:
    """The same question for each API, by its path."""
    said = [{"role": "user", "content": question}]
    return {
        "chat/completions": {"model": "gpt-4o", "stream": True, "messages": said},
        "responses": {"model": "gpt-4o", "stream": True, "input": question},
        "messages": {"model": "claude-sonnet-4-5", "stream": True, "max_tokens": 500, "messages": said},
    }


def fill(server: Server, scopes: list[str]) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as archive:
        for number, scope in enumerate(scopes):
            archive.writelines(history(PARTITION, scope, MESSAGES, seed=number))
        archive.flush()
        environment = clean_environment() | {"RESERVOIR_HOME": str(server.home)}
        subprocess.run([sys.executable, "manage.py", "import", archive.name], cwd=ROOT, env=environment, check=True)


def first_byte(client: httpx.Client, url: str, body: dict[str, Any]) -> float:
    """Milliseconds until the first byte of the body."""
    started = time.perf_counter()
    with client.stream("POST", url, json=body) as answer:
        assert answer.status_code == 200 and answer.headers["x-reservoir-memory"] == "on", answer.headers
        chunks = answer.iter_raw()
        next(chunks)
        elapsed = time.perf_counter() - started
        for _ in chunks:
            pass
    return elapsed * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="requests to each API; default: 100")
    options = parser.parse_args()
    writer = Writer(seed=5)
    names = [*bodies("")]
    times: dict[str, list[float]] = {name: [] for name in names}
    with FakeProvider() as provider, tempfile.TemporaryDirectory(prefix="reservoir-benchmark-") as folder:
        settings = {
            "RSV_ANTHROPIC_BASE_URL": provider.base_url,
            "OPENAI_API_KEY": "k",
            "ANTHROPIC_API_KEY": "k",
            "RESERVOIR_RECALL_DEADLINE_MS": "20000",
        }
        with Server(Path(folder), provider.base_url, settings=settings) as server, httpx.Client(timeout=300) as client:
            scopes = {name: name.replace("/", "-") for name in names}
            fill(server, [*scopes.values()])
            for number in range(WARM + options.rounds):
                for name, body in bodies(f"{writer.question()} {number}").items():
                    url = f"{server.base_url(PARTITION, scopes[name])}/{name}"
                    elapsed = first_byte(client, url, body)
                    if number >= WARM:
                        times[name].append(elapsed)
                    time.sleep(0.1)  # the answer is embedded meanwhile
    usual = statistics.median(times[names[0]])
    print("| API | first byte, ms: p50 | p90 | more than chat completions |\n| --- | ---: | ---: | ---: |")
    for name, found in times.items():
        middle = statistics.median(found)
        print(f"| {name} | {middle:.1f} | {statistics.quantiles(found, n=10)[-1]:.1f} | {middle / usual - 1:+.1%} |")
    print(f"\n{options.rounds} requests each; load of the machine {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
