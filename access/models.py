"""Tables: access keys, limits and what is used of them, and the audit."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from access.key_format import ID_LENGTH
from access.limits import Limits


class Credential(models.Model):
    """A provider's credential, encrypted: see credentials.py."""

    name = models.CharField(max_length=100, unique=True)
    provider = models.TextField()
    token = models.TextField()  # of MultiFernet
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Limited(models.Model):
    """How much may be used; null is no limit. See limits.py."""

    requests_a_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_a_minute = models.PositiveIntegerField(null=True, blank=True)
    parallel_requests = models.PositiveIntegerField(null=True, blank=True)
    dollars_a_month = models.DecimalField(max_digits=12, decimal_places=2, null=True, blank=True)

    class Meta:
        abstract = True

    @property
    def limits(self) -> Limits:
        return Limits(self.requests_a_minute, self.tokens_a_minute, self.parallel_requests, self.dollars_a_month)


class AccessKey(Limited):
    """A key of an app or a person. The key itself is nowhere: `digest` is its HMAC, see digests.py.

    A rotation gives the row a new secret; the one before works until `previous_until`.
    """

    public_id = models.CharField(max_length=ID_LENGTH, unique=True)
    kind = models.CharField(max_length=8)
    digest = models.BinaryField(max_length=32)
    previous_digest = models.BinaryField(max_length=32, null=True)
    previous_until = models.DateTimeField(null=True)
    pepper_id = models.CharField(max_length=8)  # of the pepper that `digest` was made with

    name = models.CharField(max_length=100)
    owner = models.CharField(max_length=200, blank=True)
    rights = ArrayField(models.CharField(max_length=16))  # values of Right
    partitions = ArrayField(models.TextField())  # patterns, see conversations/reach.py
    instances = ArrayField(models.TextField())
    credentials = models.ManyToManyField(Credential, related_name="keys", blank=True)  # those it adds to requests
    expires = models.DateTimeField(null=True, blank=True)
    revoked = models.DateTimeField(null=True)
    created = models.DateTimeField(auto_now_add=True)
    last_used = models.DateTimeField(null=True)  # at most a minute old

    class Meta:
        ordering = ["name", "id"]
        constraints = [
            models.UniqueConstraint(fields=["name"], name="one_live_key_of_a_name", condition=Q(revoked__isnull=True))
        ]

    def __str__(self) -> str:
        return self.name


class PartitionLimit(Limited):
    """The limits of a partition, which all keys share. It is named, as limits may be set before it exists."""

    partition = models.TextField(unique=True)

    class Meta:
        ordering = ["partition"]

    def __str__(self) -> str:
        return self.partition


class Meter(models.Model):
    """What a key or a partition has used in one window. Written by metering.py."""

    pk = models.CompositePrimaryKey("subject", "kind", "starts")
    subject = models.TextField()
    kind = models.CharField(max_length=8)  # a Kind
    starts = models.DateTimeField()
    used = models.DecimalField(max_digits=20, decimal_places=8)

    def __str__(self) -> str:
        return f"{self.subject} {self.kind}"


class Lease(models.Model):
    """Slots of parallel requests that a server process holds. Written by metering.py."""

    pk = models.CompositePrimaryKey("subject", "holder")
    subject = models.TextField()
    holder = models.UUIDField()
    slots = models.PositiveIntegerField()
    expires = models.DateTimeField()

    def __str__(self) -> str:
        return self.subject


class AuditRecord(models.Model):
    """Something that was done or refused: who, from where, by which key. Never a secret, never a text.

    The database refuses to change or delete rows.
    """

    created = models.DateTimeField(auto_now_add=True)
    action = models.CharField(max_length=40)  # an Action of audit.py
    actor = models.TextField(blank=True)  # a user of the admin, "command line", or empty for a key
    address = models.TextField(blank=True)  # of the client
    key_id = models.CharField(max_length=ID_LENGTH, blank=True)
    partition = models.TextField(blank=True)
    instance = models.TextField(blank=True)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-created", "-id"]
        indexes = [models.Index(fields=["-created", "-id"], name="access_audit_by_time")]

    def __str__(self) -> str:
        return f"{self.action} {self.created:%Y-%m-%d %H:%M}"
