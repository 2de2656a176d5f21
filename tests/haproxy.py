"""A real HAProxy, Debian's, that hands requests to servers in turn."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.server import PATIENCE, free_port, is_taken

PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


class HAProxy:
    """Runs while the context lasts, in front of servers on these ports of 127.0.0.1. One that is down gets nothing."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.port = free_port()
        self._ports = ports
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def base_url(self, partition: str, instance: str) -> str:
        return f"http://127.0.0.1:{self.port}/v1/partition/{partition}/instance/{instance}"

    def __enter__(self) -> Self:
        assert PROGRAM
        settings = self._folder / "haproxy.cfg"
        servers = "\n".join(f"    server s{port} 127.0.0.1:{port} check inter 200ms fall 1" for port in self._ports)
        # Another server is tried if a connection fails, before anything is sent; no request is sent twice.
        settings.write_text(
            f"""defaults
    mode http
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    retries 2
    option redispatch 1
frontend clients
    bind 127.0.0.1:{self.port}
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /live
    option forwardfor
{servers}
"""
        )
        with (self._folder / "haproxy.log").open("wb") as log:
            command = [PROGRAM, "-db", "-f", str(settings)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while not is_taken(self.port):
            assert self._process.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process
        self._process.kill()
        self._process.wait(PATIENCE)

    @property
    def log(self) -> str:
        return (self._folder / "haproxy.log").read_text(errors="replace")
