"""What the tests themselves rely on: their servers and their children's signals."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import server
from tests.server import ROOT, Server, ServerDied

REPORT_SIGINT = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"


def test_children_can_be_interrupted_although_pytest_was_started_with_sigint_ignored(tmp_path: Path) -> None:
    """As under nohup, or after a shell's `&` in a script."""
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        "import subprocess, sys\n"
        "def test_inner():\n"
        f"    told = subprocess.run([sys.executable, '-c', {REPORT_SIGINT!r}], capture_output=True, text=True)\n"
        "    assert told.stdout == 'True\\n'\n"
    )
    pytest_here = (
        f"{sys.executable} -m pytest -q -p tests.conftest -c {ROOT}/pyproject.toml --rootdir={tmp_path} {inner}"
    )
    done = subprocess.run(
        ["bash", "-c", f"trap '' INT; {pytest_here}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_server_that_was_not_ready_in_time_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start_something_else(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(popen(["sleep", "600"], **options))
        return started[-1]

    monkeypatch.setattr(server, "_never_ready", {})
    monkeypatch.setattr("tests.server.subprocess.Popen", start_something_else)
    kind = partial(Server, tmp_path, "http://127.0.0.1:1", database_url="postgres://nowhere/x")
    try:
        with pytest.raises(ServerDied, match="was not ready within"):
            kind(settings={"A": "1"}).start(seconds=0.1)
        with pytest.raises(ServerDied, match="Not started: an earlier server"):
            kind(settings={"A": "1"}).start()
        assert len(started) == 1
        with pytest.raises(ServerDied, match="was not ready within"):
            kind(settings={"A": "2"}).start(seconds=0.1)
        assert [process.poll() for process in started] == [-9, -9]
    finally:
        for process in started:
            process.kill()
            process.wait()
