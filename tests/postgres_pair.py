"""A primary and its synchronous replica, from the embedded binaries, to be killed and promoted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import psycopg

from reservoir_site.postgres_folder import Folder, program
from tests.faults.watching import children
from tests.server import PATIENCE, free_port


class PostgresServer:
    """One server on a port of 127.0.0.1, with its data in a folder of its own."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.port = free_port()
        self.data = folder.path / name
        self._prefix = folder.as_user()
        self._log = folder.path / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def conninfo(self, user: str = "reservoir", dbname: str = "reservoir") -> str:
        return f"host=127.0.0.1 port={self.port} user={user} dbname={dbname} connect_timeout=5"

    def execute(self, query: str, *, dbname: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.conninfo("postgres", dbname), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def make(self) -> None:
        """Make the data folder of a new primary, start it, and make the role and the database."""
        self._run(
            "initdb", "-D", str(self.data), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"
        )
        self.start()
        self.execute("CREATE ROLE reservoir LOGIN")
        self.execute("CREATE EXTENSION vector", dbname="template1")
        self.execute("CREATE DATABASE reservoir OWNER reservoir")

    def copy(self, primary: PostgresServer) -> None:
        """Become a replica of the primary, which waits from then on for this server to store its commits."""
        shutil.rmtree(self.data, ignore_errors=True)
        self._run(
            "pg_basebackup",
            "-D",
            str(self.data),
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
            "-d",
            primary.conninfo("postgres"),
        )
        self.start()
        wait(lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"))
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        wait(lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))

    def start(self) -> None:
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=100",
        ]
        options = [part for setting in settings for part in ("-c", setting)]
        with self._log.open("ab") as log:
            command = [*self._prefix, program("postgres"), "-D", str(self.data), *options]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait(self._answers)

    def promote(self) -> None:
        """Let the replica take writes. Returns once it does."""
        self.execute("SELECT pg_promote()")

    def kill(self) -> None:
        """kill -9 of all its processes."""
        if self._process:
            for pid in [self._process.pid, *children(self._process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, self._log.read_text(errors="replace")
        try:
            return bool(self.execute("SELECT 1"))
        except psycopg.OperationalError:
            return False

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._prefix, program(name), *arguments], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr


class Pair:
    """A primary and a replica that change places at every failover. As a context manager it ends both."""

    def __init__(self, home: Path) -> None:
        folder = Folder(home)
        folder.make()
        self.primary, self.replica = PostgresServer(folder, "a"), PostgresServer(folder, "b")
        self.url = (
            f"postgresql://reservoir@127.0.0.1:{self.primary.port},127.0.0.1:{self.replica.port}/reservoir"
            "?target_session_attrs=read-write"
        )

    def __enter__(self) -> Self:
        try:
            self.primary.make()
            self.replica.copy(self.primary)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.primary.kill()
        self.replica.kill()

    def fail_over(self) -> None:
        """Promote the replica of a primary that was killed."""
        self.primary, self.replica = self.replica, self.primary
        self.primary.promote()

    def rejoin(self) -> None:
        """Make the killed server the replica of the new primary."""
        self.replica.copy(self.primary)


def wait(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
