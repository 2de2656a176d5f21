"""The export format: which fields of a message, an exchange and a ledger are written, and how values are validated.

Each message is one object. Its first fields are those of the original Reservoir, so that its users can read the file:
trace_id, partition, instance, content, role, embedding, url, timestamp (milliseconds). Ours follow: `payload` is the
message's JSON as the API sent it, `id` and `parent` are numbers valid within the file, and `uid` identifies the
message in any database. `exchange` has the fields of its exchange. The texts of the request and the ledger appear
only at the first message of an exchange, since one request may bring thousands of messages. A ledger's `rendering` is
how the messages in `message_ids` were added to the request (proxy/memory/rendering.py), as hexadecimal digits.

The import reads this format and the original Reservoir's. It imports nothing twice, so an interrupted import can
simply be started again.

Fields are taken from the models, so a field added there is exported without a change here.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models

from conversations.ledger_entries import PackedEntriesField
from conversations.models import Exchange, Ledger, Message
from conversations.turns import UNSTORABLE, Json, storable_json

Fields = Mapping[str, "models.Field[Any, Any]"]

NAMESPACE = uuid.UUID("6a1f3a5e-6f0e-4c56-9a38-0d5c3f0f7c11")

# Not exported: keys, columns derived from others, and what has a meaning in one database only.
NOT_OF_MESSAGE = {"id", "instance", "exchange", "parent", "digest", "lexemes", "embed_due", "origin"}
NOT_OF_EXCHANGE = {"id", "instance", "trace_id", "question", "key_id", "served_by"}
EARLIER_CANDIDATES = {"single_candidates", "earlier_candidates"}
NOT_OF_LEDGER = {"id", "exchange", "instance", "key", "considered", "rendering"} | EARLIER_CANDIDATES


def _fields(model: type[models.Model], without: set[str]) -> Fields:
    return {f.name: f for f in model._meta.concrete_fields if f.name not in without}


MESSAGE = _fields(Message, NOT_OF_MESSAGE)
EXCHANGE = _fields(Exchange, NOT_OF_EXCHANGE)
LEDGER = _fields(Ledger, NOT_OF_LEDGER)
# Fields of an exchange that appear at its first message only: each may be as long as the request.
AT_LENGTH = ("parameters", "prompts", "request_ids", "left_out")


def uid(message: Message, trace_id: uuid.UUID | None) -> uuid.UUID:
    """An identifier for a message that is the same in every database."""
    if message.origin:
        return message.origin
    moment = message.created.astimezone(UTC).isoformat()
    return uuid.uuid5(NAMESPACE, f"{trace_id}/{message.pk}/{moment}/{bytes(message.digest).hex()}")


def written(value: Any) -> Any:
    """A field's value as JSON can hold it."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case Decimal():
            return str(value)
        case _:
            return value


def checked(fields: Fields, given: Json, what: str) -> Json:
    """The given values of these fields, converted for the model. Raises ValueError for an invalid value."""
    found = {}
    for name, field in fields.items():
        if name not in given:
            continue
        value = given[name]
        try:
            found[name] = None if value is None and field.null else _value(field, value)
        except (ValidationError, ValueError, TypeError, OverflowError):
            raise ValueError(f"{what}{name} is invalid") from None
    return found


def _value(field: models.Field[Any, Any], value: Any) -> Any:
    kinds: type | tuple[type, ...] = object
    if isinstance(field, models.CharField | models.TextField | models.DateTimeField):
        kinds = str
    elif isinstance(field, models.BooleanField):
        kinds = bool
    elif isinstance(field, models.IntegerField):
        kinds = int
    elif isinstance(field, models.JSONField) and field.has_default():
        kinds = type(field.get_default())
    elif isinstance(field, ArrayField | PackedEntriesField):
        kinds = list
    if value is None or not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
        raise ValueError
    if isinstance(value, str) and UNSTORABLE.search(value):
        raise ValueError
    if isinstance(field, models.JSONField):
        if storable_json(value) != value:
            raise ValueError
        return value
    if isinstance(field, PackedEntriesField):
        if storable_json(value) != value:
            raise ValueError
        return value
    made = field.to_python(value)
    if isinstance(made, datetime) and made.tzinfo is None:
        raise ValueError
    if isinstance(field, ArrayField):
        if not all(isinstance(each, int) and abs(each) < 2**63 for each in made):
            raise ValueError
        return made
    if field.choices and made not in dict(field.flatchoices):
        raise ValueError
    field.run_validators(made)
    return made
