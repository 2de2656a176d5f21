"""A real PgBouncer in transaction mode, Debian's, in front of the embedded PostgreSQL of a home."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from reservoir_site.postgres_folder import Folder, embedded_location
from tests.server import PATIENCE, free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class PgBouncer:
    """Runs while the context lasts. `pool` is the most connections to PostgreSQL: fewer than a server's own."""

    def __init__(self, folder: Path, home: Path, *, pool: int) -> None:
        self.port = free_port()
        self._home = home
        self._to = embedded_location(home)
        self._folder = folder
        self._pool = pool
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, dbname: str) -> str:
        return f"postgresql://{self._to.user}@127.0.0.1:{self.port}/{dbname}"

    def __enter__(self) -> Self:
        assert PROGRAM
        users, settings = self._folder / "users", self._folder / "pgbouncer.ini"
        users.write_text(f'"{self._to.user}" ""\n')
        settings.write_text(
            f"""[databases]
* = host={self._to.host} port={self._to.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {self._pool}
"""
        )
        with (self._folder / "pgbouncer.log").open("wb") as log:
            # As PostgreSQL's user: PgBouncer refuses to run as root, and no other user reaches the socket.
            command = [*Folder(self._home).as_user(), PROGRAM, str(settings)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.kill()
        self._process.wait(PATIENCE)

    @property
    def log(self) -> str:
        return (self._folder / "pgbouncer.log").read_text(errors="replace")
