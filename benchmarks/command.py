"""The command line of script/benchmark."""

from __future__ import annotations

import sys

from benchmarks import compare, migrating, phases, recall, size

HELP = """What does Reservoir cost? Run it on an idle machine.

  script/benchmark            Reservoir beside other gateways and the provider alone: CPU, times, requests a second
  script/benchmark profile    CPU time and SQL statements of each phase of a request
  script/benchmark scale      recall in scopes of 1,000, 10,000 and 100,000 messages, in a database of a million
  script/benchmark size       bytes in the database that a message takes
  script/benchmark migrations how long all migrations take on a million messages, and a client waits meanwhile

Each has its own --help (`script/benchmark compare --help` for the first). Results go to stdout, progress to stderr.
The first takes half an hour, with --quick a few minutes."""
COMMANDS = {
    "compare": compare.main,
    "profile": phases.main,
    "scale": recall.main,
    "size": size.main,
    "migrations": migrating.main,
}


def main(arguments: list[str]) -> None:
    if arguments in (["--help"], ["-h"]):
        print(HELP)
    elif arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
    else:
        compare.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
