"""Search for messages by words or by meaning, in one scope or in all that the user may see."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.safestring import SafeString

from console import safe_text
from console.pages import page, to_instance, to_partition
from console.visible import allowed_partitions, instances_of, require, visible
from conversations import nearest
from conversations.embedders.base import EmbedderError
from conversations.embedding import in_use
from conversations.models import Exchange, Instance, Message, Partition
from conversations.numbers import whole_number

A_PAGE = 30
MOST_QUESTIONS = 200
TEXT = 4_000  # characters of a message that are searched for words to mark

# Across scopes no index serves nearness, so the latest pieces are compared, one by one. Of one scope all are.
NEAREST_OF = 20_000

# Of a scope that has an index of its vectors.
INDEXED = """
SELECT message_id, 1 - min(distance) FROM (
    SELECT message_id, {expression} <=> %(vector)s::{type} AS distance FROM conversations_embedding
    WHERE instance_id = {instance:d} AND model_id = {model:d} ORDER BY distance LIMIT 2 * %(limit)s
) pieces GROUP BY message_id ORDER BY min(distance), message_id DESC LIMIT %(limit)s
"""

# The latest are found before their vectors are read.
NEAREST = """
WITH compared AS MATERIALIZED (
    SELECT id FROM conversations_embedding
    WHERE model_id = (SELECT id FROM conversations_embeddingmodel WHERE name = %(model)s)
      AND {of}
    ORDER BY id DESC LIMIT %(most)s
)
SELECT message_id, 1 - min(vector <=> %(vector)s::halfvec) FROM conversations_embedding JOIN compared USING (id)
GROUP BY message_id ORDER BY 2 DESC, message_id DESC LIMIT %(limit)s
"""


OF_ALL = "true"
OF_INSTANCES = "instance_id = ANY(%(instances)s)"
OF_PARTITIONS = "instance_id IN (SELECT id FROM conversations_instance WHERE partition_id = ANY(%(partitions)s))"


@dataclass(frozen=True, slots=True)
class Found:
    message: Message
    excerpt: SafeString
    likeness: float | None = None


def by_words(messages: QuerySet[Any], term: str) -> QuerySet[Any]:
    """Those of the messages that hold the words; all of them for an empty term."""
    return messages.filter(pk__in=Message.objects.matching(term).values("pk")) if term.strip() else messages


def exchanges(request: HttpRequest, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
    """The exchange with this trace id, or those whose question holds the words: of the latest such questions, in the
    partition or the conversation that the address names.
    """
    term = term.strip()
    if not term:
        return rows
    try:
        return rows.filter(trace_id=uuid.UUID(term))
    except ValueError:
        require(request, "view_message")
        questions = _rows(request, _instance(request), _partition(request)).filter(role="user").matching(term)
        latest = questions.order_by("-pk").values_list("pk", flat=True)
        return rows.filter(question__in=list(latest[:MOST_QUESTIONS]))


def search_page(request: HttpRequest) -> HttpResponse:
    """Search for words, for a meaning, or for the trace id of an exchange.

    Results by meaning come with `?compared`, which the page's script requests.
    """
    require(request, "view_message")
    term = request.GET.get("q", "").replace("\x00", " ").strip()[:1000]
    if where := _exchange_with(request, term):
        return HttpResponseRedirect(where)
    instance, partition = _instance(request), _partition(request)
    meaning = request.GET.get("by") == "meaning"
    found: list[Found] = []
    problem, older, later = "", None, ""
    if term and meaning and "compared" not in request.GET:
        later = f"?{request.GET.urlencode()}&compared=1"
    elif term and meaning:
        try:
            found = _nearest(request, term, instance, partition)
        except EmbedderError as error:
            problem = f"Search by meaning is unavailable: {error}"
    elif term:
        found, older = _matching(request, term, instance, partition)
    trail = to_instance(instance) if instance else to_partition(partition) if partition else []
    return page(
        request,
        "search",
        title="Search",
        trail=trail,
        term=term,
        meaning=meaning,
        instance=instance,
        partition=partition,
        found=found,
        older=older,
        later=later,
        problem=problem,
        bounded=meaning and instance is None,
        most=NEAREST_OF,
    )


def _matching(
    request: HttpRequest, term: str, instance: Instance | None, partition: Partition | None
) -> tuple[list[Found], int | None]:
    """Messages that hold the words, newest first, and where the next page begins."""
    rows = _rows(request, instance, partition).matching(term)
    before = request.GET.get("before", "")
    if (last := whole_number(before)) is not None:
        rows = rows.filter(pk__lt=last)
    messages = list(rows.order_by("-pk")[: A_PAGE + 1])
    stems = _stems(term)
    found = [Found(message, safe_text.excerpt(message.text, stems)) for message in messages[:A_PAGE]]
    return found, messages[A_PAGE - 1].pk if len(messages) > A_PAGE else None


def _nearest(request: HttpRequest, term: str, instance: Instance | None, partition: Partition | None) -> list[Found]:
    """The messages closest to the term in meaning, nearest first. Raises EmbedderError."""
    embedder = in_use()
    vector = embedder.embed([term])[0]
    partitions = [partition.pk] if partition else allowed_partitions(request)
    instances = [instance.pk] if instance else None if partitions is None else instances_of(partitions)
    values: dict[str, Any] = {
        "vector": nearest.vector_literal(vector),
        "model": embedder.name,
        "instances": instances,
        "partitions": partitions,
        "most": None if instance else NEAREST_OF,
        "limit": A_PAGE,
    }
    of = OF_ALL if instances is None else OF_INSTANCES
    if isinstance(instances, QuerySet):  # too many to list
        of, values["instances"] = OF_PARTITIONS, None
    statement, search_settings = NEAREST.format(of=of), ""
    if instance and (model := nearest.searchable(instance.pk, embedder.name)):
        statement = INDEXED.format(expression=model.expression, type=model.type, instance=instance.pk, model=model.id)
        search_settings = model.search_settings
    with transaction.atomic(), connection.cursor() as cursor:
        if search_settings:
            cursor.execute(search_settings)
        cursor.execute(statement, values)
        likeness = dict(cursor.fetchall())
    rows = {message.pk: message for message in _rows(request, instance, partition).filter(pk__in=likeness)}
    return [Found(rows[pk], safe_text.excerpt(rows[pk].text, ()), likeness[pk]) for pk in likeness if pk in rows]


def _rows(request: HttpRequest, instance: Instance | None, partition: Partition | None) -> Any:
    rows = visible(request, Message.objects.select_related("instance__partition"))
    if instance:
        rows = rows.filter(instance=instance)
    elif partition:
        rows = rows.filter(instance__in=instances_of([partition.pk]))
    return rows.annotate(text=Left("content", TEXT)).defer("content", "payload", "lexemes", "digest")


def _stems(term: str) -> Sequence[str]:
    """Prefixes of the words that the search finds; shortened, since a stem may change the end of a word."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT tsvector_to_array(to_tsvector(%s::regconfig, %s))", [settings.RESERVOIR_LANGUAGE, term])
        (stems,) = cursor.fetchone() or ([],)
    return [stem[:-1] if len(stem) > 4 else stem for stem in stems]


def _exchange_with(request: HttpRequest, term: str) -> str:
    """The address of the exchange with this trace id."""
    try:
        rows = visible(request, Exchange.objects.filter(trace_id=uuid.UUID(term)))
    except ValueError:
        return ""
    pk = rows.values_list("pk", flat=True).first()
    return reverse("admin:conversations_exchange_change", args=[pk]) if pk else ""


def searched_place(request: HttpRequest) -> tuple[Instance | None, Partition | None]:
    """The conversation that the address names, and its partition, or the partition alone. Of a conversation or
    partition that the user may not see, None.
    """
    instance = _instance(request)
    return instance, instance.partition if instance else _partition(request)


def _instance(request: HttpRequest) -> Instance | None:
    given = request.GET.get("instance", "")
    rows = visible(request, Instance.objects.select_related("partition"))
    return rows.filter(pk=int(given)).first() if _is_id(given) else None


def _partition(request: HttpRequest) -> Partition | None:
    given = request.GET.get("partition", "")
    return visible(request, Partition.objects.filter(pk=int(given))).first() if _is_id(given) else None


def _is_id(given: str) -> bool:
    return whole_number(given) is not None
