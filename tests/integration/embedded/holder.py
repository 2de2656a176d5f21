"""A process that holds the embedded PostgreSQL of a home until its standard input ends."""

import sys
from pathlib import Path

from reservoir_site.postgres import EmbeddedPostgres

if __name__ == "__main__":
    EmbeddedPostgres(Path(sys.argv[1])).hold()
    print("holding", flush=True)
    sys.stdin.read()  # then an ordinary exit, without a call of release()
