"""Finds, queries and kills processes of the embedded PostgreSQL and of its holders."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import embedded_location

REPOSITORY = Path(__file__).parents[3]
NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


class Holder:
    """A process that holds the PostgreSQL of a home."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.integration.embedded.holder", str(home)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until_it_holds(self) -> Holder:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "holding\n":
            raise AssertionError(self.process.communicate()[1])
        return self

    def exit(self) -> None:
        _, complaints = self.process.communicate(timeout=300)
        assert (self.process.returncode, complaints) == (0, "")

    def kill(self) -> None:
        with self.process:  # also closes its pipes
            self.process.kill()


def stop_everything_below(folder: Path) -> None:
    homes = {found.parent.parent for found in folder.rglob("family.lock")}
    for home in homes:
        while left := processes_of(home):
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(embedded_location(home).host, ignore_errors=True)


def command_lines() -> Iterator[tuple[int, str]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            yield int(process.name), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def processes_of(home: Path) -> set[int]:
    marks = (EmbeddedPostgres(home).folder.mark, f"-D {home}/postgres/data")
    return {pid for pid, line in command_lines() if any(mark in line for mark in marks)}


def postmaster_of(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])


def query(home: Path, sql: str) -> list[tuple[object, ...]]:
    with connect(home) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def connect(home: Path) -> psycopg.Connection[tuple[object, ...]]:
    where = embedded_location(home)
    return psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname, autocommit=True)


def eventually(holds: Callable[[], bool], seconds: float = 300) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def exit_code_in_a_fork(body: Callable[[], None], user: pwd.struct_passwd | None = None) -> int:
    """Run the body in a forked child, as another user if one is given; 0 if it raised nothing."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
            body()
            code = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
