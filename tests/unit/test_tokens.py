"""proxy/providers/tokens.py: tokens are counted without the network, exactly where the encoding is known."""

import gzip
import hashlib
import importlib.resources
import multiprocessing
import os
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from proxy.providers import tokens


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prepared tables for the whole module, since a process loads each encoding once."""
    folder = tmp_path_factory.mktemp("home") / "tiktoken"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(tokens.CACHE_VARIABLE, "restored afterwards")
        patch.delenv(tokens.CACHE_VARIABLE)
        tokens.prepare(folder)
        yield folder


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tokens.CACHE_VARIABLE, "restored afterwards")
    monkeypatch.delenv(tokens.CACHE_VARIABLE)


def tables(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


TABLES = {table.name: table.sha256 for table in tokens.TABLES}


def test_tables_have_the_names_that_tiktoken_expects() -> None:
    for table in tokens.TABLES:
        name = table.source.removesuffix(".gz")
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}"
        assert hashlib.sha1(url.encode()).hexdigest() == table.name


@pytest.mark.usefixtures("unset")
def test_tables_are_unpacked_into_a_private_folder(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "tiktoken"
    tokens.prepare(folder)
    assert tables(folder) == TABLES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ[tokens.CACHE_VARIABLE] == str(folder)


@pytest.mark.usefixtures("unset")
def test_intact_tables_are_kept_and_damaged_ones_replaced(tmp_path: Path) -> None:
    tokens.prepare(tmp_path)
    whole, damaged = (tmp_path / table.name for table in tokens.TABLES)
    os.utime(whole, (1, 1))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    tokens.prepare(tmp_path)
    assert whole.stat().st_mtime == 1
    assert tables(tmp_path) == TABLES


def test_a_folder_set_by_the_user_is_used_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs"
    monkeypatch.setenv(tokens.CACHE_VARIABLE, str(theirs))
    tokens.prepare(tmp_path / "ours")
    assert os.environ[tokens.CACHE_VARIABLE] == str(theirs)
    assert tables(theirs) == TABLES
    assert not (tmp_path / "ours").exists()


def prepare_in_a_process(folder: Path) -> None:
    os.environ.pop(tokens.CACHE_VARIABLE, None)
    tokens.prepare(folder)


def test_several_processes_can_prepare_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=prepare_in_a_process, args=(tmp_path / "new",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert tables(tmp_path / "new") == TABLES


@pytest.mark.usefixtures("unset")
def test_a_package_with_other_tables_is_refused_without_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package" / "data").mkdir(parents=True)
    other = tmp_path / "package" / "data" / tokens.TABLES[0].source
    other.write_bytes(gzip.compress(b"other"))
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path / "package")
    with pytest.raises(RuntimeError, match="is damaged: run pip install"):
        tokens.prepare(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert tokens.CACHE_VARIABLE not in os.environ


@pytest.mark.usefixtures("unset")
def test_a_failing_disk_leaves_no_partial_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        tokens.prepare(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("unset")
def test_counting_before_preparing_is_refused_since_it_would_download() -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        tokens.counter("gpt-4o")


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("model", "exact", "encoding"),
    [
        ("gpt-4o-mini", True, "o200k_base"),
        ("gpt-4", True, "cl100k_base"),
        ("gpt-3.5-turbo-0125", True, "cl100k_base"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", True, "o200k_base"),
        ("gpt-oss-20b", True, "o200k_harmony"),
        ("mistral-small-latest", False, "o200k_base"),
        ("llama3.2:3b", False, "o200k_base"),
        ("davinci", False, "o200k_base"),  # its own encoding is not on this machine
        ("", False, "o200k_base"),
    ],
)
def test_a_count_is_exact_where_the_models_encoding_is_known(model: str, exact: bool, encoding: str) -> None:
    counter = tokens.counter(model)
    text = "Reservoir remembers 1234567 things: 記憶, naïve, 😀!"
    assert counter.exact is exact
    assert counter.count(text) == len(tiktoken.get_encoding(encoding).encode(text))


@pytest.mark.usefixtures("cache")
def test_counts_match_known_values() -> None:
    assert tokens.counter("gpt-4").count("tiktoken is great!") == 6
    assert tokens.counter("gpt-4o").count("") == 0


@pytest.mark.usefixtures("cache")
def test_special_tokens_in_a_text_are_plain_text() -> None:
    assert tokens.counter("gpt-4").count("<|endoftext|>") == 7


@pytest.mark.usefixtures("cache")
@given(st.text(st.characters(), max_size=50))
def test_any_text_can_be_counted(text: str) -> None:
    for model in ("gpt-4o", "gpt-4"):
        count = tokens.counter(model).count(text + "\ud800\x00")
        assert 0 < count <= len((text + "??").encode("utf-8", "replace"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("unit", ["word, and another word. ", "x  \n", "a\tb\r\n ", "naïve 記憶 ", "1234 "])
def test_a_long_text_with_spaces_is_counted_exactly(unit: str) -> None:
    text = unit * (3 * tokens.SLICE // len(unit))
    for model, encoding in (("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")):
        whole = len(tiktoken.get_encoding(encoding).encode_ordinary(text))
        assert tokens.counter(model).count(text) == whole


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("unit", ["a", " ", "\n", "\t", "😀", "!", "記", "a1", "\x00", "\ud800", "12", "lorem"])
def test_a_megabyte_without_a_place_to_cut_is_not_counted_in_quadratic_time(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    short = text[: 2 * tokens.SLICE].encode("utf-8", "replace").decode()
    for model, encoding in (("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")):
        counter = tokens.counter(model)
        whole = len(tiktoken.get_encoding(encoding).encode_ordinary(short))
        assert abs(counter.count(short) - whole) <= 3
        started = time.process_time()
        counter.count(text)
        assert time.process_time() - started < 10


@pytest.mark.usefixtures("cache")
def test_counts_are_remembered_by_encoding_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "REMEMBERED", 4)
    texts = [f"Ünder the harbour {number}" for number in range(9)]
    for _ in range(2):
        for text in texts:
            for model, encoding in (("gpt-4", "cl100k_base"), ("gpt-4o", "o200k_base")):
                assert tokens.counter(model).count(text) == len(tiktoken.get_encoding(encoding).encode(text))
                assert len(tokens._counts) <= 4


@pytest.mark.usefixtures("cache")
def test_threads_can_count_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: tokens.counter("gpt-4o").count("hello world " * 100), range(32)))
    assert len(set(counts)) == 1


def test_the_network_is_never_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})  # so that they are loaded from our tables again
    for model in ("gpt-4", "gpt-4o", "gpt-oss-20b", "davinci", "text-davinci-003", "unknown"):
        assert tokens.counter(model).count("hello") == 1
    assert tables(cache) == TABLES
