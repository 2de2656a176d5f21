"""Polls: the same text again and again, sent without history."""

from __future__ import annotations

from datetime import timedelta

from django.db import connection, transaction
from django.utils import timezone

from conversations.messages import lock_instance
from conversations.models import Message
from conversations.querysets import Scope

OFTEN = 5  # copies that are stored before a text counts as a poll
WITHIN = timedelta(days=1)
# Characters. People say "yes" and "go on" all the time: a shorter text is a poll only if nothing else was asked lately.
SHORT = 20

LATEST = """
    SELECT count(*), count(*) FILTER (WHERE digest = %(digest)s) FROM (
        SELECT digest FROM conversations_message WHERE instance_id = %(instance)s AND role = 'user'
        ORDER BY created DESC, id DESC LIMIT %(often)s) latest
"""


def is_repeated(*, scope: Scope, digest: bytes, length: int) -> bool:
    """Whether a question of this digest and length, sent without history, is a poll in this scope."""
    copies = Message.objects.in_scope(scope).filter(
        digest=digest, role="user", alone=True, created__gt=timezone.now() - WITHIN
    )
    found = list(copies.values_list("instance_id", flat=True)[:OFTEN])
    if len(found) < OFTEN or length >= SHORT:
        return len(found) >= OFTEN
    with connection.cursor() as cursor:
        cursor.execute(LATEST, {"digest": digest, "instance": found[0], "often": OFTEN})
        return bool(cursor.fetchone() == (OFTEN, OFTEN))


@transaction.atomic
def set_aside(*, scope: Scope, digest: bytes) -> int:
    """Take a poll's stored copies and their answers out of recall, as abandoned. Returns the number of messages."""
    left = Message.objects.in_scope(scope).filter(digest=digest, role="user", alone=True, abandoned=False)
    if not left.exists():
        return 0
    if (instance := lock_instance(scope=scope, make=False)) is None:
        return 0
    copies = Message.objects.filter(instance=instance, digest=digest, role="user", alone=True)
    ids = list(copies.values_list("pk", flat=True))
    answers = Message.objects.filter(instance=instance, parent__in=ids, role="assistant", abandoned=False)
    return answers.update(abandoned=True) + copies.filter(abandoned=False).update(abandoned=True)
