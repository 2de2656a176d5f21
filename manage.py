#!/usr/bin/env python
"""Django's command line. `manage.py serve` runs Reservoir; `manage.py help` lists the rest."""

import os
import signal
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reservoir_site.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    from reservoir_site.postgres_folder import PostgresError

    # A clean exit also when told to stop: whoever exits last stops the embedded PostgreSQL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        _prepare(sys.argv[1:])
        execute_from_command_line(sys.argv)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell has it
    except BrokenPipeError:  # whoever reads, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ImproperlyConfigured, PostgresError) as error:
        sys.exit(f"{error}")


def _prepare(arguments: list[str]) -> None:
    """See to the database before a command of ours that works on it: the server need not run."""
    if not arguments or not {"-h", "--help"}.isdisjoint(arguments):
        return
    import django
    from django.core.management import get_commands

    django.setup()
    if get_commands().get(arguments[0]) in ("conversations", "proxy") and arguments[0] != "fakeprovider":
        from reservoir_site import server

        server.prepare_database()


if __name__ == "__main__":
    main()
