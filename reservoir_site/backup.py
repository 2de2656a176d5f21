"""Backup and restore of the embedded database, by PostgreSQL's own pg_dump and pg_restore.

A backup is a snapshot: consistent while the server runs. A restore fills a new database beside the present one, and
then swaps them in one step: an earlier failure changes nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
from django.db import connection
from psycopg import sql

from reservoir_site import database
from reservoir_site.postgres_folder import Location, program

RESTORED, REPLACED = "reservoir_restored", "reservoir_replaced"


class BackupError(Exception):
    """A backup or restore failed; the message is one sentence with the remedy."""


def backup(file: Path) -> int:
    """Write a backup that only its owner can read; the file appears once it is complete. Returns its size in bytes.

    Raises BackupError, PostgresError.
    """
    if file.exists() and not file.is_file():  # a device such as /dev/null would be replaced
        raise BackupError(f"{file} exists and is not a regular file: name another.")
    where = _embedded("pg_dump --format=custom --no-owner --exclude-extension=vector")
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.touch(mode=0o600, exist_ok=False)
        # Every database of the embedded server has the extension already; only a superuser could create it.
        _run("pg_dump", where, "--format=custom", "--exclude-extension=vector", f"--file={draft}", where.dbname)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.rename(file)
    except OSError as error:
        raise BackupError(f"{file} cannot be written ({os.strerror(error.errno or 0)}): name another file.") from error
    finally:
        draft.unlink(missing_ok=True)
    return file.stat().st_size


def restore(file: Path) -> None:
    """Replace the database with the contents of a backup. No process may be using the database.

    Raises BackupError, PostgresError.
    """
    where = _embedded("pg_restore --no-owner --clean --if-exists --single-transaction")
    if not file.is_file():
        raise BackupError(f"{file} does not exist: name a file that `manage.py backup` wrote.")
    connection.close()
    with psycopg.connect(
        host=where.host, port=where.port, user=where.user, dbname="postgres", autocommit=True
    ) as admin:
        in_use = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", [where.dbname]).fetchone()
        if in_use and in_use[0]:
            raise BackupError("The database is in use: stop the server, then restore.")
        for left_over in (RESTORED, REPLACED):
            _drop(admin, left_over)
        admin.execute(_statement("CREATE DATABASE {}", RESTORED))
        try:
            options = ("--no-owner", "--single-transaction", "--exit-on-error", f"--dbname={RESTORED}")
            _run("pg_restore", where, *options, str(file))
            with admin.transaction():
                admin.execute(_statement("ALTER DATABASE {} RENAME TO {}", where.dbname, REPLACED))
                admin.execute(_statement("ALTER DATABASE {} RENAME TO {}", RESTORED, where.dbname))
        except psycopg.errors.ObjectInUse as error:
            raise BackupError("The database is in use: stop the server, then restore.") from error
        finally:
            _drop(admin, RESTORED)
        _drop(admin, REPLACED)


def _embedded(instead: str) -> Location:
    server = database.embedded()
    if server is None:
        raise BackupError(
            f"This command works on the embedded database only: for DATABASE_URL, use `{instead}` of its version."
        )
    database.reach()
    return server.location


def _run(name: str, where: Location, *arguments: str) -> None:
    command = [program(name), f"--host={where.host}", f"--port={where.port}", f"--username={where.user}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  no shell parses it
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BackupError(f"{name} failed: {reason}")


def _drop(admin: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    admin.execute(_statement("DROP DATABASE IF EXISTS {} WITH (FORCE)", name))


def _statement(text: str, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*map(sql.Identifier, names))
