"""Making, rotating and revoking keys. Each change leaves a line in the audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from access import audit, key_format
from access.audit import Action, Who
from access.digests import digest, pepper_id
from access.limits import NO_LIMITS, Limits
from access.models import AccessKey, Credential, PartitionLimit
from access.rights import Right
from conversations.reach import Reach

KIND, KIND_OF_OPERATORS = "app", "ops"
OVERLAP = timedelta(hours=24)  # for which the secret before a rotation still works


class KeyProblem(ValueError):
    """A key cannot be made, found or changed; the message is one sentence with the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A key to be made. `partitions` and `instances` are patterns (see conversations/reach.py). Raises KeyProblem."""

    name: str
    owner: str = ""
    rights: Sequence[Right]
    partitions: Sequence[str]
    instances: Sequence[str]
    expires: datetime | None = None
    limits: Limits = NO_LIMITS
    credentials: Sequence[str] = ()  # names; at most one of each provider

    def __post_init__(self) -> None:
        check_patterns(self.partitions, self.instances)
        if not self.name.strip() or len(self.name) > 100:
            raise KeyProblem("A key needs a name of at most 100 characters.")
        if not self.rights:
            raise KeyProblem(f"A key needs a right: {', '.join(Right)}.")
        if self.expires and self.expires <= timezone.now():
            raise KeyProblem("This key would have expired already: give a time to come.")


def check_patterns(partitions: Sequence[str], instances: Sequence[str]) -> None:
    """Raises KeyProblem for a pattern that is none, or for none at all."""
    try:
        Reach.of(list(partitions), list(instances))
    except ValueError as error:
        raise KeyProblem(str(error)) from None
    if not partitions or not instances:
        raise KeyProblem("A key needs at least one partition and one instance, or * for all.")


def check(wanted: Wanted) -> list[Credential]:
    """Returns the credentials of a key that can be made. Raises KeyProblem."""
    if AccessKey.objects.filter(name=wanted.name, revoked__isnull=True).exists():
        raise KeyProblem(f"There is a key named {wanted.name!r}: rotate it, revoke it, or give another name.")
    return _credentials(wanted.credentials)


@transaction.atomic
def create(wanted: Wanted, who: Who) -> key_format.Key:
    """Make a key. Its text is in the result and nowhere else. Raises KeyProblem."""
    credentials = check(wanted)
    kind = KIND_OF_OPERATORS if Right.MANAGE in wanted.rights else KIND
    key = key_format.make(kind)
    row = AccessKey.objects.create(
        public_id=key.public_id,
        kind=kind,
        digest=digest(key.text),
        pepper_id=pepper_id(),
        name=wanted.name,
        owner=wanted.owner,
        rights=[right.value for right in wanted.rights],
        partitions=list(wanted.partitions),
        instances=list(wanted.instances),
        expires=wanted.expires,
        **fields_of(wanted.limits),
    )
    row.credentials.set(credentials)
    audit.record(Action.KEY_CREATED, who, details={"key": key.public_id, "name": wanted.name})
    return key


def _credentials(names: Sequence[str]) -> list[Credential]:
    """Raises KeyProblem for a name that does not exist, and for two of one provider."""
    rows = list(Credential.objects.filter(name__in=names))
    if missing := set(names) - {row.name for row in rows}:
        raise KeyProblem(f"There is no credential {sorted(missing)[0]!r}: `credentials list` shows them.")
    if len({row.provider for row in rows}) < len(rows):
        raise KeyProblem("Two of these credentials are for the same provider: give one of each.")
    return rows


def fields_of(limits: Limits) -> dict[str, Any]:
    """Limits as the columns of a row."""
    return {
        "requests_a_minute": limits.requests,
        "tokens_a_minute": limits.tokens,
        "parallel_requests": limits.parallel,
        "dollars_a_month": limits.dollars,
    }


@transaction.atomic
def limit(row: AccessKey, limits: Limits, who: Who) -> None:
    """Set the limits of a key; servers follow within seconds."""
    AccessKey.objects.filter(pk=row.pk).update(**fields_of(limits))
    audit.record(Action.LIMITS_CHANGED, who, details={"key": row.public_id, "name": row.name} | told(limits))


@transaction.atomic
def limit_partition(partition: str, limits: Limits, who: Who) -> None:
    """Set the limits of a partition, which all its keys share."""
    if limits.is_none:
        PartitionLimit.objects.filter(partition=partition).delete()
    else:
        PartitionLimit.objects.update_or_create(partition=partition, defaults=fields_of(limits))
    audit.record(Action.LIMITS_CHANGED, who, partition=partition, details=told(limits))


def told(limits: Limits) -> dict[str, Any]:
    """Limits as JSON."""
    return {name: None if value is None else str(value) for name, value in fields_of(limits).items()}


@transaction.atomic
def rotate(row: AccessKey, who: Who, *, overlap: timedelta = OVERLAP) -> key_format.Key:
    """Give a key a new secret. The present one works for `overlap` longer, one before it no more. Raises KeyProblem."""
    row = AccessKey.objects.select_for_update().get(pk=row.pk)
    if row.revoked:
        raise KeyProblem(f"The key {row.name!r} is revoked: make a new one.")
    key = key_format.make(row.kind, row.public_id)
    row.previous_digest, row.digest = row.digest, digest(key.text)
    row.previous_until = timezone.now() + overlap
    row.pepper_id = pepper_id()
    row.save(update_fields=["previous_digest", "digest", "previous_until", "pepper_id"])
    details = {"key": row.public_id, "name": row.name, "overlap_seconds": int(overlap.total_seconds())}
    audit.record(Action.KEY_ROTATED, who, details=details)
    return key


@transaction.atomic
def revoke(row: AccessKey, who: Who) -> None:
    """Refuse a key from now on; servers that have read it follow within verifying.FRESH_SECONDS."""
    if AccessKey.objects.filter(pk=row.pk, revoked__isnull=True).update(revoked=timezone.now()):
        audit.record(Action.KEY_REVOKED, who, details={"key": row.public_id, "name": row.name})


def find(name_or_id: str) -> AccessKey:
    """The live key of a name or a public id. Raises KeyProblem."""
    rows = AccessKey.objects.filter(Q(public_id=name_or_id) | Q(name=name_or_id, revoked__isnull=True))
    row = rows.order_by("revoked").first()
    if row is None:
        raise KeyProblem(f"There is no key {name_or_id!r}: `key list` shows their names and ids.")
    return row
