"""Search by meaning: the messages whose vectors are nearest to a text's."""

from __future__ import annotations

from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.http import HttpRequest

from console.search.place import Place
from console.visible import allowed_partitions, instances_of
from conversations import nearest
from conversations.embedding import in_use

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
SAID = """ AND EXISTS (
    SELECT FROM conversations_message m WHERE m.id = message_id
      AND m.created >= coalesce(%(since)s::timestamptz, '-infinity')
      AND m.created < coalesce(%(before)s::timestamptz, 'infinity')
)"""


def likeness(request: HttpRequest, text: str, place: Place, *, limit: int) -> dict[int, float]:
    """Message ids with their cosine similarity to the text, nearest first. Raises EmbedderError."""
    embedder = in_use()
    vector = embedder.embed([text])[0]
    instance = place.instance
    partitions = [place.partition.pk] if place.partition else allowed_partitions(request)
    instances = [instance.pk] if instance else None if partitions is None else instances_of(partitions)
    values: dict[str, Any] = {
        "vector": nearest.vector_literal(vector),
        "model": embedder.name,
        "instances": instances,
        "partitions": partitions,
        "since": place.since,
        "before": place.before,
        "most": None if instance else NEAREST_OF,
        "limit": limit,
    }
    of = OF_ALL if instances is None else OF_INSTANCES
    if isinstance(instances, QuerySet):  # too many to list
        of, values["instances"] = OF_PARTITIONS, None
    dated = bool(place.since or place.before)
    statement, search_settings = NEAREST.format(of=of + SAID if dated else of), ""
    if instance and not dated and (model := nearest.searchable(instance.pk, embedder.name)):
        statement = INDEXED.format(expression=model.expression, type=model.type, instance=instance.pk, model=model.id)
        search_settings = model.search_settings
    with transaction.atomic(), connection.cursor() as cursor:
        if search_settings:
            cursor.execute(search_settings)
        cursor.execute(statement, values)
        return dict(cursor.fetchall())
