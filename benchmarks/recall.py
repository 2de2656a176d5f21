"""How long does recall take in scopes of 1,000, 10,000 and 100,000 messages, in a database of a million?

    script/benchmark scale                   builds the database below a temporary folder, measures, removes it
    script/benchmark scale --home DIR        keeps it in DIR and reuses it the next time

One client asks one question after another; times include the question's embedding by the local model. Texts are
generated: sessions on topics, with words drawn by a language's frequencies (Zipf). Vectors are generated around one
centre for each topic, since embedding a million texts would take hours; a question is embedded for its time, and then
gets a generated vector near that of the message it is about. Each question has one message as its answer. This shows
what an index misses and reading the whole scope finds. Each scope is measured twice: read from the database for each
question, and kept in the process, as the scopes are that are asked often.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.home import home
from benchmarks.recall_chat import cpu_of
from conversations.lexemes import STORED

SIZES = (1_000, 10_000, 100_000)
SMALL = 1_000  # messages of each of the other scopes
QUESTIONS = 200
WARM_UP = 10
WORDS, TOPICS, TOPIC_WORDS = 30_000, 2_000, 150
SESSION = 20  # messages
DIMENSIONS = 384
AT_ONCE = 50  # sessions
BLOCK = 1_000  # sessions made at once
PARTITION = "benchmark"
FIRST = 1_700_000_000  # seconds, when everything begins

Matrix = NDArray[np.float32]


class Language:
    """Words and topics, determined by a seed."""

    def __init__(self, seed: int = 1) -> None:
        self.random = np.random.default_rng(seed)
        syllables = np.array([c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "ai", "ou")])
        lengths = self.random.integers(2, 5, WORDS)
        made = ["".join(self.random.choice(syllables, n)) for n in lengths]
        counts = Counter(made)
        self.words = np.array([f"{word}{number}" if counts[word] > 1 else word for number, word in enumerate(made)])
        weights = 1 / np.arange(1, WORDS + 1) ** 1.05
        self.frequencies = np.cumsum(weights / weights.sum())
        self.topic_words = self.random.integers(200, WORDS, (TOPICS, TOPIC_WORDS))
        self.centres = _unit(self.random.normal(size=(TOPICS, DIMENSIONS)))

    def numbers(self, topics: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Words for each of the topics; a third of them are its own."""
        common = np.searchsorted(self.frequencies, self.random.random((len(topics), length)))
        own = self.topic_words[topics[:, None], self.random.integers(0, TOPIC_WORDS, (len(topics), length))]
        return np.where(self.random.random((len(topics), length)) < 1 / 3, own, np.minimum(common, WORDS - 1))

    def vectors(self, topics: NDArray[np.int64]) -> Matrix:
        """Vectors whose cosines are about .5 within a topic and about 0 between topics."""
        noise = _unit(self.random.normal(size=(len(topics), DIMENSIONS)))
        return _unit(self.centres[topics] + noise)

    def near(self, vector: Matrix) -> Matrix:
        """A vector whose cosine with this one is about .3."""
        return _unit(vector[None] + 3 * _unit(self.random.normal(size=(1, DIMENSIONS))))


def _unit(values: NDArray[Any]) -> Matrix:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


# --- building -----------------------------------------------------------------------------------------


def build(language: Language, messages: int) -> None:
    """Fill all scopes: the measured ones and small ones around them. Fifty sessions alternate, so that the messages of
    a scope are not adjacent on disk."""
    from django.db import connection

    from conversations.embedding import active_model
    from conversations.models import Instance, Partition

    sizes = [*SIZES, *[SMALL] * ((messages - sum(SIZES)) // SMALL)]
    partition = Partition.objects.create(name=PARTITION)
    instances = Instance.objects.bulk_create(
        Instance(partition=partition, name=str(size) if number < len(SIZES) else f"other-{number}", message_count=size)
        for number, size in enumerate(sizes)
    )
    model = active_model()
    sessions = np.repeat([instance.pk for instance in instances], np.array(sizes) // SESSION)
    language.random.shuffle(sessions)
    numbers = _numbers_in_scope(sessions)
    with connection.cursor() as cursor, _without_indexes(cursor):
        for start in range(0, len(sessions), BLOCK):
            block = slice(start, start + BLOCK)
            _store(cursor, language, model.pk, 1 + start * SESSION, sessions[block], numbers[block])
            print(f"\r{min(start + BLOCK, len(sessions)) * SESSION:,} messages", end="", file=sys.stderr)
        print(file=sys.stderr)
    with connection.cursor() as cursor:
        cursor.execute("SELECT setval(pg_get_serial_sequence('conversations_message', 'id'), %s)", [sum(sizes)])
        cursor.execute("ANALYZE")


def _numbers_in_scope(sessions: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each session, the number of earlier sessions of its scope."""
    order = np.argsort(sessions, kind="stable")
    ordered = sessions[order]
    firsts = np.searchsorted(ordered, ordered)
    numbers = np.empty_like(sessions)
    numbers[order] = np.arange(len(sessions)) - firsts
    return numbers


def _store(
    cursor: Any, language: Language, model: int, first: int, sessions: NDArray[np.int64], numbers: NDArray[np.int64]
) -> None:
    """Store the messages of sessions, given the scope of each and its number there."""
    order = _interleaved(len(sessions))
    session, turn = order // SESSION, order % SESSION
    count = len(order)
    topics = language.random.integers(0, TOPICS, len(sessions))[session]
    words = language.numbers(topics, 36)
    lengths = language.random.integers(6, 36, count)
    asks = language.random.random(count) < 0.15
    whens = FIRST + 86_400 * numbers[session] + 60 * turn
    cursor.execute(
        "CREATE TEMP TABLE IF NOT EXISTS made "
        "(id int8, instance int8, created int8, role text, content text, asks bool, digest bytea)"
    )
    cursor.execute("TRUNCATE made")
    with cursor.copy("COPY made FROM STDIN") as copy:
        for at in range(count):
            text = " ".join(language.words[words[at, : lengths[at]]]) + ("?" if asks[at] else ".")
            role, digest = ("user", "assistant")[turn[at] % 2], language.random.bytes(16)
            row = (first + at, int(sessions[session[at]]), int(whens[at]), role, text, bool(asks[at]), digest)
            copy.write_row(row)
    cursor.execute(
        f"""
        INSERT INTO conversations_message (id, instance_id, choice, created, role, name, content, payload, digest,
            tokens, partial, abandoned, asks, alone, lexemes)
        SELECT id, instance, 0, to_timestamp(created), role, '', content,
            json_build_object('role', role, 'content', content)::text, digest, length(content) / 4, false, false, asks,
            false, {STORED.format(vector=_WORDS)}
        FROM made ORDER BY id
        """
    )
    rows = np.zeros(count, _ROW)
    rows["columns"] = len(_COLUMNS)
    values = (np.arange(first, first + count), sessions[session], model, 0, 1)
    for name, value in zip(("message", "instance", "model", "start", "end"), values, strict=True):
        rows[f"{name}_size"] = rows.dtype[name].itemsize
        rows[name] = value
    rows["vector_size"] = 4 + 2 * DIMENSIONS
    rows["dimensions"] = DIMENSIONS
    rows["vector"] = language.vectors(topics)
    with cursor.copy(f"COPY conversations_embedding ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff")


def _interleaved(sessions: int) -> NDArray[np.int64]:
    """Positions of messages, grouped by session, in the order of time, in which fifty sessions alternate."""
    places = np.arange(sessions * SESSION).reshape(sessions, SESSION)
    return np.concatenate([places[at : at + AT_ONCE].T.ravel() for at in range(0, sessions, AT_ONCE)])


_WORDS = "to_tsvector('english', content) || array_to_tsvector(ARRAY['#' || instance])"

_COLUMNS = ("message_id", "instance_id", "model_id", "start", '"end"', "vector")
_ROW = np.dtype(
    [
        ("columns", ">i2"),
        *(pair for name in ("message", "instance", "model") for pair in ((f"{name}_size", ">i4"), (name, ">i8"))),
        *(pair for name in ("start", "end") for pair in ((f"{name}_size", ">i4"), (name, ">i4"))),
        ("vector_size", ">i4"),
        ("dimensions", ">i2"),
        ("unused", ">i2"),
        ("vector", ">f2", (DIMENSIONS,)),
    ]
)


class _without_indexes:  # noqa: N801, a context manager
    """Drops secondary indexes and recreates them at the end: loading takes a fraction of the time without them."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def __enter__(self) -> None:
        self._cursor.execute(
            """SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
               WHERE indrelid IN ('conversations_message'::regclass, 'conversations_embedding'::regclass)
                 AND NOT indisunique"""
        )
        self._made = self._cursor.fetchall()
        for name, _ in self._made:
            self._cursor.execute(f"DROP INDEX {name}")

    def __exit__(self, *_: object) -> None:
        self._cursor.execute("SET maintenance_work_mem = '512MB'")
        for _, definition in self._made:
            self._cursor.execute(definition)
        self._cursor.execute("RESET maintenance_work_mem")


# --- measuring ----------------------------------------------------------------------------------------


class Embedder:
    """Takes as long as the local model, but returns the invented vector of the current question."""

    def __init__(self) -> None:
        from conversations.embedding import active_embedder

        self._local = active_embedder()
        self.name, self.dimensions = self._local.name, self._local.dimensions
        self.vector: Matrix = np.zeros((1, DIMENSIONS), np.float32)

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Matrix:
        self._local.embed(texts)
        return np.repeat(self.vector, len(texts), axis=0)

    def count(self, text: str) -> int:
        return self._local.count(text)

    def close(self) -> None:
        self._local.close()


def questions(language: Language, size: int, count: int) -> Iterator[tuple[str, Matrix, int]]:
    """Texts, vectors and answers: an answer shares two words with its question and has a near vector."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT m.id, m.content, e.vector::text FROM conversations_message m
               JOIN conversations_embedding e ON e.message_id = m.id
               JOIN conversations_instance i ON i.id = m.instance_id
               WHERE i.name = %s AND NOT m.asks ORDER BY hashint8(m.id) LIMIT %s""",
            [str(size), count],
        )
        for id_, content, vector in cursor.fetchall():
            words = content.rstrip(".").split()
            kept = language.random.choice(words, min(2, len(words)), replace=False)
            others = language.words[language.numbers(np.zeros(1, np.int64), 4)[0]]
            text = " ".join([*kept, *others]) + "?"
            yield text, language.near(np.array(json.loads(vector), np.float32)), id_


def measure(language: Language, embedder: Embedder, size: int) -> dict[str, Any]:
    """Times of recall and CPU of the thread and of PostgreSQL, in ms; the share of answers among the first ten (%)."""
    from django.db import connection

    from conversations.querysets import Scope
    from proxy.dialects.chat_completions.request import decode
    from proxy.memory.recollection import RecallRequest, recollect
    from proxy.providers import tokens

    count = tokens.counter("gpt-4o").count
    times, firsts, hits = [], [], 0
    language.random = np.random.default_rng(size)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
    python = postgres = 0.0
    for number, (text, vector, answer) in enumerate(questions(language, size, WARM_UP + QUESTIONS)):
        embedder.vector = vector
        chat = decode(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
        request = RecallRequest(Scope(PARTITION, str(size)), chat, count, latest=False)
        before = time.perf_counter(), time.thread_time(), cpu_of(backend)
        found = recollect(lambda: embedder, request)
        if number < WARM_UP:
            continue
        times.append(1000 * (time.perf_counter() - before[0]))
        python += time.thread_time() - before[1]
        postgres += cpu_of(backend) - before[2]
        firsts.append([candidate.id for candidate in found.candidates[:10]])
        hits += answer in firsts[-1]
    times.sort()
    return {
        "p50": statistics.median(times),
        "p95": times[int(0.95 * len(times))],
        "python": 1000 * python / len(times),
        "postgres": 1000 * postgres / len(times),
        "found": 100 * hits / len(times),
        "firsts": firsts,
    }


def tell(size: int, found: dict[str, Any], how: str) -> None:
    print(
        f"{size:8,}  {found['p50']:7.1f} {found['p95']:7.1f}  {found['python']:14.1f}  {found['postgres']:10.1f}"
        f"  {found['found']:.1f}   {how}"
    )


def keep(size: int, model: str) -> None:
    """Load a scope into the process, as a server does when it is asked often."""
    from conversations.models import Instance
    from conversations.recall import news
    from conversations.recall.cache import Key, cache

    started = time.process_time()
    news.load(Key(Instance.objects.get(partition__name=PARTITION, name=str(size)).pk, model))
    print(f"{size:8,}  loaded in {time.process_time() - started:.2f} s of CPU, {cache.size / 2**20:.0f} MiB in all")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="script/benchmark scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="keep the database here")
    parser.add_argument("--messages", type=int, default=1_000_000, metavar="N", help="in the database (1,000,000)")
    options = parser.parse_args(arguments)
    with home(options.home):
        run(options.messages)


def run(messages: int) -> None:
    from django.conf import settings

    from conversations import indexes
    from conversations.embedding import active_model
    from conversations.models import Partition
    from conversations.recall import retrieval
    from proxy.providers import tokens
    from reservoir_site import database, server

    server.prepare_database()
    tokens.prepare(settings.RESERVOIR_HOME / "tiktoken")
    language = Language()
    if not Partition.objects.filter(name=PARTITION).exists():
        started = time.perf_counter()
        build(language, messages)
        print(f"built in {time.perf_counter() - started:.0f} s")
    model = active_model()
    for scope in indexes.without_index(model):
        started = time.perf_counter()
        indexes.create(scope.instance_id, model)
        print(f"index over {scope.messages:,} messages made in {time.perf_counter() - started:.0f} s")
    embedder = Embedder()
    print("\nmessages   p50 ms  p95 ms  CPU ms: Python  PostgreSQL  answer in the first 10 (%)")
    settings.RESERVOIR_CACHE_MB = 0
    for size in SIZES:
        found = measure(language, embedder, size)
        tell(size, found, "read from the database")
    retrieval.READ_WHOLE, around = 10**9, retrieval.READ_WHOLE
    exact = measure(language, embedder, size)
    retrieval.READ_WHOLE = around
    tell(size, exact, "read from the database, completely")
    settings.RESERVOIR_CACHE_MB = 512
    for size in SIZES:
        keep(size, model.name)
        tell(size, measure(language, embedder, size), "kept in the process")
    same = sum(len({*a} & {*b}) for a, b in zip(found["firsts"], exact["firsts"], strict=True))
    print(
        f"loss {exact['found'] - found['found']:.1f} points by the index; "
        f"{100 * same / sum(map(len, exact['firsts'])):.1f} % of the first ten are the same"
    )
    for scope in indexes.large_scopes(model):
        seen = indexes.measure(scope.instance_id, model)
        print(
            f"index alone: {100 * seen.recall:.1f} % of the 10 nearest vectors, {seen.index_ms:.1f} ms; "
            f"exactly: {seen.exact_ms:.1f} ms"
        )
    embedder.close()
    if running := database.embedded():
        running.release()
