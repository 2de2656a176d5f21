"""How long does one hostile request make another client wait?

    python -m benchmarks.hostile [NAME]

One worker, a provider on loopback, and a second process that asks /live without a pause. For each kind of input, or
those whose names contain NAME, the longest wait of that second client is printed; the first line is its longest wait
while nothing else happens. `loop` is the longest stretch of CPU time for which the event loop stood still: it hardly
depends on what else the machine is doing.
"""

from __future__ import annotations

import http.client
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from tests.fake_provider.provider import FakeProvider
from tests.faults.hostile import KINDS, feed
from tests.faults.watching import WATCHED, stall
from tests.server import Server


def watch(port: int, stop: Event, waits: multiprocessing.Queue[float]) -> None:
    """Ask /live until told to stop, then report the longest wait in seconds."""
    longest = 0.0
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not stop.is_set():
        started = time.perf_counter()
        connection.request("GET", "/live")
        connection.getresponse().read()
        longest = max(longest, time.perf_counter() - started)
        time.sleep(0.002)
    waits.put(longest)


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    with (
        tempfile.TemporaryDirectory(prefix="reservoir-benchmark-") as home,
        FakeProvider() as provider,
        Server(Path(home), provider.base_url, settings=WATCHED) as server,
    ):
        for kind in ["nothing", *(kind for kind in KINDS if wanted in kind)]:
            stop: Event = multiprocessing.Event()
            waits: multiprocessing.Queue[float] = multiprocessing.Queue()
            watching = multiprocessing.Process(target=watch, args=[server.port, stop, waits])
            watching.start()
            time.sleep(0.5)
            stall(server)
            if kind == "nothing":
                time.sleep(3)
            else:
                feed(kind, server, provider)
            longest = stall(server).seconds
            stop.set()
            print(f"{kind:45} {waits.get() * 1000:8.0f} ms   loop {longest * 1000:6.1f} ms", flush=True)
            watching.join()


if __name__ == "__main__":
    main()
