"""A real PgBouncer in transaction mode, Debian's, in front of a PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from reservoir_site.postgres_folder import Location
from tests.server import PATIENCE, free_port

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


class PgBouncer:
    """Runs while the context lasts. `pool` is the most connections to PostgreSQL: fewer than a server's own."""

    def __init__(self, folder: Path, to: Location, *, pool: int) -> None:
        self.port = free_port()
        self._to = to
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
        for file in (users, settings):
            file.chmod(0o644)
        # It refuses to run as root, and only PostgreSQL's own user reaches the socket.
        owner = Path(self._to.host).stat()
        as_user: dict[str, Any] = (
            {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        )
        with (self._folder / "pgbouncer.log").open("wb") as log:
            self._process = subprocess.Popen(
                [PROGRAM, str(settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **as_user
            )
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
