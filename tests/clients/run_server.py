"""Run the real server until standard input ends. Called with the project's interpreter: HOME PROVIDER_URL.

Prints the server's address as its first line. The client libraries' environments have no Django, so their tests cannot
use tests.server themselves.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.server import PATIENT, Server


def main(home: str, provider_url: str) -> None:
    with Server(Path(home), provider_url, settings=PATIENT) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
