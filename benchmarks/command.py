"""The command line of script/benchmark."""

from __future__ import annotations

import sys

from benchmarks import phases, recall, size

HELP = """What does Reservoir cost? Run it on an idle machine.

  script/benchmark profile    CPU time and SQL statements of each phase of a request
  script/benchmark scale      recall in scopes of 1,000, 10,000 and 100,000 messages, in a database of a million
  script/benchmark size       bytes in the database that a message takes

Each has its own --help. Results go to stdout, progress to stderr."""
COMMANDS = {"profile": phases.main, "scale": recall.main, "size": size.main}


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
    elif arguments in (["--help"], ["-h"]):
        print(HELP)
    else:
        sys.exit(HELP)


if __name__ == "__main__":
    main(sys.argv[1:])
