"""A provider to try Reservoir with, without a key: it repeats what it is told, and prints what it receives."""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading

from tests.fake_provider import FakeProvider, Request


def _print_request(request: Request) -> None:
    print(f"\n{request.method} {request.target}")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        for message in request.messages:
            print(f"  {message['role']:>9}: {message.get('content')}")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_provider", description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds between the words of a stream")
    options = parser.parse_args()
    with FakeProvider(options.port, word_delay=options.delay, log=_print_request) as provider:
        print(f"A provider that repeats what it is told: {provider.base_url}\n")
        print(f"    RSV_OPENAI_BASE_URL={provider.base_url} script/server\n", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
