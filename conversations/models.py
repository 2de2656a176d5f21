"""Tables: fields, constraints and indexes. Reads are in querysets.py; writes in messages.py and actions.py.

A foreign key has an index of its own (`db_index`) unless another index begins with its column.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex, GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models import F, Q
from pgvector.django import HalfVectorField

from conversations import states
from conversations.foreign_keys import ForeignKeyWithinScope, OneToOneWithinScope
from conversations.ledger_entries import EntriesField, PackedEntriesField
from conversations.payloads import PayloadField
from conversations.querysets import (
    HAS_MS,
    HAS_TOKENS,
    MODEL_NAME,
    PROVIDER_NAME,
    TOTAL_MS,
    TOTAL_TOKENS,
    EmbeddingQuerySet,
    ExchangeQuerySet,
    InstanceQuerySet,
    LedgerQuerySet,
    MessageQuerySet,
    PartitionQuerySet,
)
from conversations.turns import NAME_LENGTH, ROLE_LENGTH

FIGURES = ["provider", "ended", "input_tokens", "output_tokens", "cost", "memory", "memories"]


class Partition(models.Model):
    """A broad category: a project, an app, or a user of the system."""

    Remember = states.Remember

    name = models.CharField(max_length=NAME_LENGTH, unique=True)
    created = models.DateTimeField(auto_now_add=True)
    keep_days = models.PositiveIntegerField(null=True, blank=True)  # older messages are forgotten; None keeps all
    remember = models.CharField(max_length=8, choices=Remember.choices, default=states.Remember.PEOPLE)

    objects = PartitionQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Instance(models.Model):
    """A context inside a partition. History never crosses an instance.

    Every write updates the counters, so that no page has to count a million rows.
    """

    partition = models.ForeignKey(Partition, on_delete=models.CASCADE, related_name="instances", db_index=False)
    name = models.CharField(max_length=NAME_LENGTH)
    created = models.DateTimeField(auto_now_add=True)
    message_count = models.PositiveIntegerField(default=0)
    exchange_count = models.PositiveIntegerField(default=0)
    last_active = models.DateTimeField(null=True)
    # The last transaction that changed or removed messages of it, by triggers (see recall/cache.py).
    revision = models.BigIntegerField(default=0, db_default=0)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        ordering = ["partition", "name"]
        verbose_name = "conversation"
        constraints = [models.UniqueConstraint(fields=["partition", "name"], name="instance_once_a_partition")]
        indexes = [models.Index(fields=["-last_active"], name="instance_by_activity")]

    def __str__(self) -> str:
        return self.name


class Exchange(models.Model):
    """One request and its answer."""

    Ended = states.Ended

    trace_id = models.UUIDField(default=uuid.uuid4, unique=True)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="exchanges", db_index=False)
    created = models.DateTimeField()
    finished = models.DateTimeField(null=True)
    dialect = models.TextField(default=states.CHAT_COMPLETIONS, db_default=states.CHAT_COMPLETIONS)
    model = models.TextField(blank=True)
    provider = models.TextField(blank=True)
    streamed = models.BooleanField(default=False)
    ended = models.CharField(max_length=12, choices=Ended.choices, default=Ended.OPEN)
    served_by = models.UUIDField(null=True)  # the ServerProcess that is to end it
    status = models.PositiveSmallIntegerField(null=True)
    finish_reason = models.TextField(blank=True)
    error = models.TextField(blank=True)
    usage = models.JSONField(null=True)
    input_tokens = models.PositiveIntegerField(null=True)
    output_tokens = models.PositiveIntegerField(null=True)
    cost = models.DecimalField(max_digits=14, decimal_places=8, null=True)  # US dollars
    timings = models.JSONField(default=dict)  # phase -> milliseconds
    memory = models.CharField(max_length=8, default=states.MemoryState.ON)  # a MemoryState
    memories = models.PositiveIntegerField(default=0)  # how many stored messages were shown; the ledger names them
    memory_tokens = models.PositiveIntegerField(default=0)
    key_id = models.TextField(blank=True, default="", db_default="")  # the public id of the access key, if it had one
    rule = models.TextField(blank=True)  # the rule that held: no person made it, and its messages are not stored

    # The request as sent: `parameters` without its messages, which are ids of stored ones and texts of system prompts.
    parameters = models.TextField(blank=True)
    prompts = models.JSONField(default=list)  # [[position in the request, JSON text], ...]
    request_ids = ArrayField(models.BigIntegerField(), default=list)
    left_out = ArrayField(models.IntegerField(), default=list)  # positions that the window had no room for

    # Of APIs that keep the history themselves: the provider's id of the answer, and the id of the answer or of the
    # conversation that the request continues.
    response_id = models.TextField(blank=True, default="", db_default="")
    follows = models.TextField(blank=True, default="", db_default="")
    question = ForeignKeyWithinScope("Message", on_delete=models.SET_NULL, null=True, related_name="asked_in")

    objects = ExchangeQuerySet.as_manager()

    class Meta:
        ordering = ["-created", "-id"]
        indexes = [
            # Ascending: an index that grows at its end has full pages, one that grows at its beginning half full ones.
            models.Index(fields=["instance", "created"], name="exchange_by_scope_then_time"),
            # Includes what the dashboard sums up, so that it reads no rows.
            models.Index(fields=["created"], include=FIGURES, name="exchange_time_and_figures"),
            models.Index(fields=["id"], name="exchange_open", condition=Q(ended="open")),
            # Rare values that people search for: without these indexes, such a list would read all other rows first.
            models.Index(fields=["-created", "-id"], name="exchange_not_answered", condition=~Q(ended="answered")),
            models.Index(fields=["-created", "-id"], name="exchange_without_memory", condition=~Q(memory="on")),
            models.Index(fields=["-created", "-id"], name="exchange_by_rule", condition=~Q(rule="")),
            models.Index(fields=["key_id", "-created", "-id"], name="exchange_by_key", condition=~Q(key_id="")),
            models.Index(PROVIDER_NAME, MODEL_NAME, name="exchange_by_provider_and_model"),
            # For lists sorted by a figure, which leave out exchanges where it is unknown.
            models.Index(fields=["-cost", "-id"], name="exchange_by_cost", condition=Q(cost__isnull=False)),
            models.Index(TOTAL_TOKENS.desc(), F("id").desc(), name="exchange_by_tokens", condition=HAS_TOKENS),
            models.Index(TOTAL_MS.desc(), F("id").desc(), name="exchange_by_duration", condition=HAS_MS),
            models.Index(fields=["instance", "response_id"], name="exchange_by_response", condition=~Q(response_id="")),
            models.Index(fields=["instance", "follows"], name="exchange_by_what_follows", condition=~Q(follows="")),
        ]

    def __str__(self) -> str:
        return str(self.trace_id)


class Ledger(models.Model):
    """What recall found for one exchange: each message shown and the nearest that were not, with ranks, score and why.

    `message_ids` are the stored messages that were added to the request, and `rendering` says how (proxy/prompt/
    rendering.py), so that the added text is rebuilt from them. `injected` holds that text, as JSON texts of messages,
    where it was not made by a rendering. Forgetting one of the messages empties all three.
    """

    exchange = OneToOneWithinScope(Exchange, on_delete=models.CASCADE, related_name="ledger")
    # Null in rows that an earlier version writes beside this one. The exchange vouches for it, so it is not checked.
    instance = models.ForeignKey(
        Instance, on_delete=models.DO_NOTHING, null=True, db_constraint=False, db_index=False, related_name="+"
    )
    key = models.BinaryField(max_length=16)  # conversation_key() of the turns up to the last user message
    candidates = PackedEntriesField(default=list, null=True, db_column="entries")
    considered = ArrayField(models.BigIntegerField(), default=list)  # the candidates' ids, without `message_ids`
    # In rows of earlier versions. There `considered` has all ids of candidates.
    single_candidates = EntriesField(null=True, db_column="packed")
    earlier_candidates = models.JSONField(default=list, db_column="candidates")
    injected = models.JSONField(default=list)
    message_ids = ArrayField(models.BigIntegerField(), default=list)
    rendering = models.BinaryField(default=b"", db_default=b"")
    tokens = models.PositiveIntegerField(default=0)

    objects = LedgerQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["key"], name="ledger_by_key"),
        ]

    def __str__(self) -> str:
        return f"{len(self.entries)} candidates"

    @property
    def entries(self) -> list[dict[str, Any]]:
        """One for each message considered (see ledger_entries.py), whatever version wrote them."""
        entries: list[dict[str, Any]] = self.candidates or self.single_candidates or self.earlier_candidates
        return entries


class Message(models.Model):
    """One turn: `payload` is its JSON text as the API sent it, `content` its plain text."""

    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="messages", db_index=False)
    exchange = ForeignKeyWithinScope(Exchange, on_delete=models.CASCADE, related_name="messages", null=True)
    # The turn before it in the client's conversation. Forks share a parent.
    parent = ForeignKeyWithinScope("self", on_delete=models.SET_NULL, null=True, related_name="children")
    # Sent without history: `parent` is then the scope's latest message at that time.
    alone = models.BooleanField(default=False)
    choice = models.PositiveSmallIntegerField(default=0)
    created = models.DateTimeField()
    role = models.CharField(max_length=ROLE_LENGTH)
    name = models.TextField(blank=True)
    content = models.TextField(blank=True)
    payload = PayloadField()  # stored without the content, see payloads.py
    digest = models.BinaryField(max_length=16)
    tokens = models.PositiveIntegerField(default=0)
    partial = models.BooleanField(default=False)  # the answer was cut short
    abandoned = models.BooleanField(default=False)  # on a branch that the client has left
    asks = models.BooleanField(default=False)  # is a question, see lexemes.asks()
    wish = models.BooleanField(default=False, db_default=False)  # says what the user always wants, see wishes.py
    lexemes = SearchVectorField(null=True)  # for search by words, see lexemes.py
    # When the backlog should embed it, or the end of a worker's lease; None if there is nothing to do.
    embed_due = models.DateTimeField(null=True)
    # The uid it was imported with, so that a second import finds it; None for messages that came from a client.
    origin = models.UUIDField(null=True)

    objects = MessageQuerySet.as_manager()

    class Meta:
        ordering = ["created", "id"]
        constraints = [
            models.UniqueConstraint(fields=["origin"], name="imported_once", condition=Q(origin__isnull=False))
        ]
        indexes = [
            models.Index(fields=["instance", "created", "id"], name="message_by_scope_and_time"),
            models.Index(fields=["instance", "digest"], name="message_by_digest"),
            models.Index(fields=["embed_due"], name="message_backlog", condition=Q(embed_due__isnull=False)),
            # Without a list of pending entries, which every search would have to scan.
            GinIndex(fields=["lexemes"], name="message_by_words", fastupdate=False),
            models.Index(fields=["instance", "name"], name="message_by_name", condition=~Q(name="")),
            models.Index(fields=["instance", "-created"], name="message_wish", condition=Q(wish=True)),
            models.Index(fields=["-id"], name="message_of_tool", condition=Q(role="tool")),  # also rare
            # Days of the past. Ids grow with time, so this index has a few bytes for a thousand messages.
            BrinIndex(fields=["created"], name="message_by_day", pages_per_range=32, autosummarize=True),
        ]

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:60]}"


class EmbeddingModel(models.Model):
    """An embedding model. Vectors of different models are never compared."""

    name = models.TextField(unique=True)
    dimensions = models.PositiveSmallIntegerField()
    created = models.DateTimeField(auto_now_add=True)
    spec = models.TextField(blank=True)  # where to find it, as in RESERVOIR_EMBEDDER
    active = models.BooleanField(default=False)  # recall uses its vectors

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["active"], condition=Q(active=True), name="one_embedding_model_in_use")
        ]

    def __str__(self) -> str:
        return self.name


class Embedding(models.Model):
    """One piece of a message under one embedding model; `start` and `end` are offsets in its content."""

    message = ForeignKeyWithinScope(Message, on_delete=models.CASCADE, related_name="embeddings", db_index=False)
    instance = models.ForeignKey(Instance, on_delete=models.CASCADE, related_name="+", db_index=False)
    model = models.ForeignKey(EmbeddingModel, on_delete=models.CASCADE, related_name="embeddings")
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    vector = HalfVectorField()  # no fixed dimension: models differ

    objects = EmbeddingQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["message", "model", "start"], name="one_vector_a_piece")]
        indexes = [models.Index(fields=["instance", "model"], name="embedding_by_scope")]

    def __str__(self) -> str:
        return f"{self.message_id}[{self.start}:{self.end}]"


class ServerProcess(models.Model):
    """A process that serves, or did lately (see servers.py). Times are the database's."""

    id = models.UUIDField(primary_key=True)
    name = models.TextField()  # of its host
    home = models.TextField()  # its RESERVOIR_HOME
    secret = models.TextField()  # a fingerprint: all hosts need the same secret
    has_login = models.BooleanField(default=False)  # the file with the first admin's login is in its home
    started = models.DateTimeField()
    seen = models.DateTimeField()

    class Meta:
        verbose_name_plural = "server processes"

    def __str__(self) -> str:
        return f"{self.name}, {self.home}"


class StaffLimit(models.Model):
    """A user who sees only these partitions. Without a limit, a user's permissions hold for all partitions."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="limit")
    partitions = models.ManyToManyField(Partition, related_name="+", blank=True)

    class Meta:
        verbose_name = "limit to partitions"
        verbose_name_plural = "limits to partitions"

    def __str__(self) -> str:
        return "sees only these partitions"


class SavedFilter(models.Model):
    """A list or a search of the admin as a user narrowed and sorted it, under a name of theirs."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="saved_filters", db_index=False
    )
    page = models.TextField()  # a key of console/saved.py's PAGES
    name = models.TextField()
    query = models.TextField()  # of the address

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "page", "name"], name="saved_once_a_name")]

    def __str__(self) -> str:
        return self.name


class AuditEntry(models.Model):
    """A record of forgetting: who, when, by which criteria, and how much. Never the text."""

    created = models.DateTimeField(auto_now_add=True)
    by = models.TextField()  # a user of the admin, "command line", "api", "retention"
    criteria = models.JSONField()  # from Selection.described()
    counts = models.JSONField()  # the fields of forgetting.Counts

    class Meta:
        ordering = ["-created", "-id"]
        verbose_name_plural = "audit entries"
        indexes = [models.Index(fields=["-created"], name="audit_by_time")]

    def __str__(self) -> str:
        return f"{self.by}, {self.created:%Y-%m-%d %H:%M}"
