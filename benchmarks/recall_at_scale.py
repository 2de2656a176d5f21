"""How long does recall take in scopes of 1,000, 10,000 and 100,000 messages among a million, and what do indexes miss?

    RESERVOIR_HOME=/somewhere/with/5/GB python -m benchmarks.recall_at_scale

Builds a database of a million messages in that home, unless it is there already, makes the index of the largest
scope, and asks one question after the other: embedding included, beside nothing else that runs.

The messages are made up: words with frequencies as in real text, a few topics for each scope, a vector for each
topic and some of their own for each message. A few conversations go on at any time, so that the messages of one scope
do not lie side by side. Each question is made of words of one message, and its vector lies near that message's.
"""

# ruff: noqa: E402, Django is set up before its models are imported

from __future__ import annotations

import itertools
import os
import statistics
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reservoir_site.settings")

import django

django.setup()

import numpy as np
from django.db import connection, transaction
from numpy.typing import NDArray

from conversations import frames, indexes
from conversations.embedding import configured_embedder, model_of
from conversations.models import EmbeddingModel, Instance, Message
from conversations.querysets import Scope
from conversations.recall import Candidate, ask, recall
from reservoir_site import database

PARTITION = "benchmark-recall"
SIZES = {"1,000": 1_000, "10,000": 10_000, "100,000": 100_000}
MEASURED = {"1,000": 5, "10,000": 5, "100,000": 1}  # scopes of each size
MESSAGES = 1_000_000
REST = 2_000  # messages of each other scope
AT_ONCE = 3  # conversations that go on at any time
TOPICS, TOPIC_WORDS = 20, 60  # of a scope
VOCABULARY = 60_000
QUESTIONS = 200
DIMENSIONS = 384

Vector = NDArray[np.float64]


class World:
    """What is said where: the same for the same seed."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
        self._words = np.array(
            ["".join(p) for p in itertools.islice(itertools.product(syllables, repeat=3), VOCABULARY)]
        )
        self._random.shuffle(self._words)
        self._common = np.cumsum(1 / np.arange(10, VOCABULARY + 10))  # Zipf's law
        self._common /= self._common[-1]
        self._topic_words: dict[tuple[int, int], NDArray[np.int64]] = {}
        self._topic_vectors: dict[tuple[int, int], Vector] = {}

    def text(self, scope: int, topic: int) -> str:
        """A third of the words belong to the topic."""
        length = int(self._random.integers(6, 45))
        words = np.searchsorted(self._common, self._random.random(length))
        own = self._topic_words.setdefault(
            (scope, topic), np.random.default_rng([scope, topic]).integers(200, VOCABULARY, TOPIC_WORDS)
        )
        from_topic = self._random.random(length) < 1 / 3
        words[from_topic] = self._random.choice(own, int(from_topic.sum()))
        return " ".join(self._words[words])

    def vector(self, scope: int, topic: int) -> Vector:
        centre = self._topic_vectors.setdefault(
            (scope, topic), _unit(np.random.default_rng([scope, topic, 1]).normal(size=DIMENSIONS))
        )
        return _unit(0.8 * centre + _unit(self._random.normal(size=DIMENSIONS)))

    def schedule(self, sizes: list[int]) -> Iterator[tuple[int, int, datetime]]:
        """Scope, topic and time of each message."""
        left = np.array(sizes)
        now = datetime(2025, 1, 1, tzinfo=UTC)
        going: list[list[int]] = []
        while left.any() or going:
            while len(going) < AT_ONCE and left.any():
                scope = int(np.searchsorted(np.cumsum(left), self._random.integers(left.sum()), side="right"))
                length = int(min(left[scope], self._random.integers(6, 60)))
                left[scope] -= length
                going.append([scope, int(self._random.integers(TOPICS)), length])
            at = int(self._random.integers(len(going)))
            now += timedelta(seconds=15)
            yield going[at][0], going[at][1], now
            going[at][2] -= 1
            if not going[at][2]:
                going.pop(at)


def _unit(vector: Vector) -> Vector:
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


def build(model: EmbeddingModel) -> None:
    """The database, unless it is there."""
    if Message.objects.filter(instance__partition__name=PARTITION).exists():
        return
    print("building the database: ten minutes")
    sizes = [SIZES[name] for name, scopes in MEASURED.items() for _ in range(scopes)]
    sizes += [REST] * ((MESSAGES - sum(sizes)) // REST)
    world = World()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO conversations_partition (name, created) VALUES (%s, now()) RETURNING id", [PARTITION]
        )
        (partition,) = cursor.fetchone()
        cursor.execute(
            "INSERT INTO conversations_instance (partition_id, name, created, message_count, exchange_count) "
            "SELECT %s, 'scope-' || n, now(), size, 0 FROM unnest(%s::int[]) WITH ORDINALITY s(size, n) RETURNING id",
            [partition, sizes],
        )
        instances = [row[0] for row in cursor.fetchall()]
        cursor.execute("SELECT coalesce(max(id), 0) FROM conversations_message")
        (last,) = cursor.fetchone()
        cursor.execute(
            "CREATE TEMP TABLE said (id int8, instance_id int8, created timestamptz, role text, content text)"
        )
        plan = list(world.schedule(sizes))
        with cursor.copy("COPY said FROM STDIN") as copy:
            for number, (scope, topic, when) in enumerate(plan):
                role = ("user", "assistant")[number % 2]
                copy.write_row((last + 1 + number, instances[scope], when, role, world.text(scope, topic)))
        cursor.execute(
            """
            INSERT INTO conversations_message (id, instance_id, choice, created, role, name, content, payload, digest,
                tokens, partial, abandoned, alone, asks, lexemes)
            SELECT id, instance_id, 0, created, role, '', content,
                json_build_object('role', role, 'content', content)::text, decode(md5(content), 'hex'),
                length(content) / 4, false, false, false, false,
                to_tsvector('english', content) || array_to_tsvector(ARRAY['#' || instance_id])
            FROM said ORDER BY id
            """
        )
        cursor.execute("SELECT setval(pg_get_serial_sequence('conversations_message', 'id'), max(id)) FROM said")
        with cursor.copy(
            'COPY conversations_embedding (message_id, instance_id, model_id, start, "end", vector) '
            "FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for number, (scope, topic, _) in enumerate(plan):
                half = world.vector(scope, topic).astype(">f2").tobytes()
                head = struct.pack(
                    ">hiqiqiqiiiiihh",
                    *(6, 8, last + 1 + number, 8, instances[scope], 8, model.pk, 4, 0, 4, 100),
                    *(len(half) + 4, DIMENSIONS, 0),
                )
                copy.write(head + half)
            copy.write(struct.pack(">h", -1))
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE conversations_message")
        cursor.execute("VACUUM ANALYZE conversations_embedding")


def questions(instance: Instance, number: int) -> Iterator[tuple[str, list[float], int]]:
    """Words of a message, a vector near its own, and its id."""
    random = np.random.default_rng(instance.pk)
    rows = Message.objects.filter(instance=instance).order_by("digest").values_list("pk", "content")[:number]
    for pk, content in rows:
        words = content.split()
        text = " ".join(random.choice(words, min(5, len(words)), replace=False))
        with connection.cursor() as cursor:
            cursor.execute("SELECT vector::text FROM conversations_embedding WHERE message_id = %s", [pk])
            (vector,) = cursor.fetchone()
        own = np.array([float(x) for x in vector.strip("[]").split(",")])
        yield text, _unit(own + _unit(random.normal(size=DIMENSIONS))).tolist(), pk


def main() -> None:
    database.reach()
    embedder = configured_embedder()
    embedder.embed(["warm"])
    model = model_of(embedder)
    build(model)
    largest = Instance.objects.get(partition__name=PARTITION, message_count=max(SIZES.values()))
    if any(scope.instance_id == largest.pk for scope in indexes.without_index(model)):
        print("making the index of the largest scope: some minutes")
        indexes.create(largest.pk, model)

    def timed(scope: Scope, text: str, vector: list[float]) -> tuple[float, list[Candidate]]:
        started = time.perf_counter()
        question = ask(scope=scope, query=text)
        embedder.embed([question.wording])  # takes as long as it takes; what it means is made up
        with transaction.atomic():
            found = recall(question=question, vector=vector, model=model.name)
        return (time.perf_counter() - started) * 1000, found

    print(f"{'messages':>10}{'p50 ms':>10}{'p95 ms':>10}{'of exact top 10':>18}{'message found':>16}{'by exact':>10}")
    for name, size in SIZES.items():
        times, overlaps, hits, exact_hits = [], [], [], []
        for instance in Instance.objects.filter(partition__name=PARTITION, message_count=size).order_by("pk")[:5]:
            scope = Scope(PARTITION, instance.name)
            asked = list(questions(instance, QUESTIONS // MEASURED[name] + 5))
            for number, (text, vector, pk) in enumerate(asked):
                elapsed, found = timed(scope, text, vector)
                if number < 5:
                    continue  # the cache is cold
                times.append(elapsed)
                first = {candidate.id for candidate in found[:10]}
                hits.append(pk in first)
                if size > frames.READ_WHOLE:
                    threshold, frames.READ_WHOLE = frames.READ_WHOLE, size
                    exact = {candidate.id for candidate in timed(scope, text, vector)[1][:10]}
                    frames.READ_WHOLE = threshold
                    overlaps.append(len(first & exact) / len(exact))
                    exact_hits.append(pk in exact)
        print(
            f"{name:>10}{statistics.median(times):10.1f}{statistics.quantiles(times, n=20)[-1]:10.1f}"
            f"{100 * statistics.mean(overlaps or [1]):17.1f}%{100 * statistics.mean(hits):15.1f}%"
            f"{100 * statistics.mean(exact_hits or hits):9.1f}%"
        )


if __name__ == "__main__":
    main()
