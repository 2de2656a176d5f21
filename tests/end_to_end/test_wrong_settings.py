"""Invalid settings abort startup with a sentence that says what to write."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import ROOT, clean_environment, free_port


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RESERVOIR_LOG_LEVEL", "loud", "RESERVOIR_LOG_LEVEL is 'LOUD': write one of DEBUG, INFO, WARNING, ERROR."),
        ("RESERVOIR_HOME", os.devnull, "set RESERVOIR_HOME to a folder of your own."),
        ("RESERVOIR_LANGUAGE", "klingon", "RESERVOIR_LANGUAGE is 'klingon': write one of arabic, "),
        ("RESERVOIR_RECALL_DEADLINE_MS", "many", "RESERVOIR_RECALL_DEADLINE_MS is 'many': write a whole number"),
        ("OPENAI_API_KEY", "sk\nx", "OPENAI_API_KEY: write the key alone"),
    ],
)
def test_an_invalid_setting_aborts_startup_with_one_sentence(
    tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    settings = {"RESERVOIR_HOME": str(tmp_path / "home"), "RESERVOIR_PORT": str(free_port()), name: value}
    command = [sys.executable, "manage.py", "serve"]
    environment = clean_environment() | settings
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_occupied_port_is_reported_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        settings = {"RESERVOIR_HOME": str(tmp_path / "home"), "RESERVOIR_PORT": port}
        ended = subprocess.run(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env=clean_environment() | settings,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert ended.returncode == 1
    assert f"Port {port} of 127.0.0.1 is in use" in ended.stderr and "Traceback" not in ended.stderr
    assert "Reservoir" not in ended.stdout and not (tmp_path / "home" / "postgres").exists()
