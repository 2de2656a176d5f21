"""Homes with an embedded PostgreSQL; processes that a failed test left there are killed afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reservoir_site.postgres import EmbeddedPostgres
from tests.integration.embedded.processes import (
    Holder,
    processes_of,
    stop_everything_below,
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet; processes that a failed test left there are killed afterwards."""
    yield tmp_path / "home"
    stop_everything_below(tmp_path)


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server for tests that change nothing, in a home below pytest's closed folder."""
    home = tmp_path_factory.mktemp("shared") / "home"
    server = EmbeddedPostgres(home)
    server.hold()
    yield server
    server.release()
    assert processes_of(home) == set()


@pytest.fixture
def shared_home(running: EmbeddedPostgres) -> Path:
    return running.folder.home


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="reservoir-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    stop_everything_below(folder)
    shutil.rmtree(folder)


@pytest.fixture
def start() -> Iterator[Callable[[Path], Holder]]:
    holders = []

    def start_holder(home: Path) -> Holder:
        holders.append(Holder(home))
        return holders[-1]

    yield start_holder
    for holder in holders:
        holder.kill()
