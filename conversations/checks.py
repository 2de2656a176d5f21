"""Warnings about the configuration, for `manage.py check --database default` and `migrate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Tags, Warning, register  # noqa: A004
from django.db import DatabaseError, connection, transaction

from conversations.embedding import disagreement
from conversations.models import EmbeddingModel


@register(Tags.database)
def one_embedding_model(databases: Sequence[str] | None, **kwargs: Any) -> list[CheckMessage]:
    """Warn if the settings and the database name different embedding models."""
    if not databases or connection.alias not in databases:
        return []
    try:
        with transaction.atomic():
            problem = disagreement() if EmbeddingModel.objects.filter(active=True).exists() else None
    except DatabaseError:
        return []  # not migrated yet
    if problem is None:
        return []
    hint = "Change the model with `manage.py reembed --model ...`, or set RESERVOIR_EMBEDDER to the model in use."
    return [Warning(f"{problem}.", hint=hint, id="conversations.W001")]
