"""The embedded PostgreSQL's data folder and server process: made, checked and started. postgres.py decides when.

Clients connect as the role `reservoir`, which owns its database and is no superuser: an injected query can
neither run programs nor read files. Only a superuser can install pgvector, so the template database has it, and every
new database of the cluster inherits it.
"""

import fcntl
import logging
import os
import shutil
from pathlib import Path

import psycopg

from reservoir_site.postgres_folder import (
    MAJOR,
    NAME,
    PORT,
    Folder,
    PostgresError,
    opened,
    program,
    run,
)

logger = logging.getLogger(__name__)

SETTINGS = (
    "listen_addresses=",
    f"port={PORT}",
    "unix_socket_permissions=0700",
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "max_connections=100",
    "shared_buffers=512MB",  # allocated as needed; recall reads 150 MB for 10,000 messages scattered among others
    "jit=off",
    "max_parallel_maintenance_workers=0",  # a parallel HNSW build outgrows a container's /dev/shm of 64 MB
    "timezone=UTC",
    "log_timezone=UTC",
    "log_checkpoints=off",
    "log_min_error_statement=panic",  # keeps users' texts out of the log: no statements,
    "log_error_verbosity=terse",  # and no "Key (...)=(...) already exists"
)
INITDB = (
    "--username=postgres",
    "--auth=trust",  # only users who can pass two folders of mode 0700 reach the socket
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--lc-ctype=C.UTF-8",  # under plain C, text search treats “ and — as letters
    "--text-search-config=english",
    "--no-instructions",
)


def start(folder: Folder) -> None:
    """Start PostgreSQL, making its data folder first if it is missing. Returns before PostgreSQL answers.

    Call it only when no process of an earlier server is left. Raises PostgresError, OSError.
    """
    with folder.file("family.lock") as family:  # closed here without unlocking: the server inherits it
        fcntl.flock(family, fcntl.LOCK_SH)
        prefix = folder.as_user()
        if not folder.data.exists():
            _initdb(folder, prefix, family)
        _check_version(folder)
        # PostgreSQL would trust a stale file whose process id now belongs to another program.
        for stale in (folder.data / "postmaster.pid", folder.socket, Path(f"{folder.socket}.lock")):
            stale.unlink(missing_ok=True)
        server = [*prefix, program("postgres"), "-D", str(folder.data)]
        server += [f"--unix_socket_directories={folder.location.host}", f"--cluster_name={folder.mark}"]
        server += [f"--{setting}" for setting in SETTINGS]
        folder.trim_log()
        with folder.file("log", os.O_WRONLY | os.O_APPEND) as log:
            # The shell exits at once and init adopts the server: a killed child of ours would stay a zombie.
            run(["/bin/sh", "-c", '"$@" &', "sh", *server], keep=family, output=log)


def create_database(folder: Folder) -> None:
    """Create the role, pgvector and the database unless they exist. Raises psycopg.Error."""
    with _connect(folder, "postgres") as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone():
            return
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone():
            connection.execute(f"CREATE ROLE {NAME} LOGIN CREATEDB")
        with _connect(folder, "template1") as template:
            template.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"CREATE DATABASE {NAME} OWNER {NAME}")  # last: its existence marks the setup as complete


def _connect(folder: Folder, dbname: str) -> psycopg.Connection[tuple[object, ...]]:
    where = folder.location.host
    return psycopg.connect(host=where, port=PORT, user="postgres", dbname=dbname, autocommit=True)


def _initdb(folder: Folder, prefix: list[str], family: int) -> None:
    """Make the data folder completely or not at all: the next start repeats a killed attempt."""
    unfinished = folder.data.with_name("data.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    logger.info("Making a new PostgreSQL data folder in %s.", folder.data)
    done = run([*prefix, program("initdb"), "-D", str(unfinished), *INITDB], keep=family)
    if done.returncode != 0:
        reason = (done.stdout.strip().splitlines() or ["no reason given"])[-1]
        raise PostgresError(f"The data folder {folder.data} cannot be made: {reason}")
    unfinished.rename(folder.data)
    with opened(folder.path, os.O_RDONLY) as handle:
        os.fsync(handle)  # otherwise a power cut could bring the unfinished name back, with users' rows in it


def _check_version(folder: Folder) -> None:
    found = (folder.data / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        raise PostgresError(
            f"{folder.data} was written by PostgreSQL {found} and this Reservoir runs PostgreSQL {MAJOR}: "
            "export with the Reservoir that wrote it and import here under another RESERVOIR_HOME, "
            "or set DATABASE_URL to a server of your own."
        )
