"""The command line: `manage.py` in a checkout, `reservoir` where the package is installed."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command that the arguments name. Exits with one sentence when a setting or the database is unusable."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reservoir_site.settings")
    from django.core.exceptions import ImproperlyConfigured

    from reservoir_site.command_line import CommandLine
    from reservoir_site.postgres_folder import PostgresError

    # SIGTERM exits cleanly too, as the last process to exit stops the embedded PostgreSQL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        CommandLine(sys.argv).execute()
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)  # as shells do
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ImproperlyConfigured, PostgresError) as error:
        sys.exit(f"{error}")
