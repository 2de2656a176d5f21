"""Branches of a scope: which message is the latest, and which branches the client has left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from django.db import connection

from conversations.capture import Alignment
from conversations.models import Instance, Message

LAST = datetime.max.replace(tzinfo=UTC)


def latest_messages(instance: Instance, until: datetime | None) -> tuple[int | None, int | None]:
    """The ids of the instance's latest user message and of its latest message, up to a time if one is given."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT (SELECT id FROM conversations_message
                    WHERE instance_id = %(instance)s AND role = 'user' AND created <= %(until)s
                    ORDER BY created DESC, id DESC LIMIT 1),
                   (SELECT id FROM conversations_message WHERE instance_id = %(instance)s AND created <= %(until)s
                    ORDER BY created DESC, id DESC LIMIT 1)
            """,
            {"instance": instance.pk, "until": until or LAST},
        )
        row: tuple[int | None, int | None] = cursor.fetchone()
        return row


def follow(where: Alignment, instance: Instance, *, keep: Sequence[int], until: datetime | None) -> None:
    """Record that the client took this path: revive it, and abandon the branches that fork off it.

    The client did so at the time `until`, if that is given: what came later stays as it is.
    """
    messages = Message.objects.filter(instance=instance)
    if where.joined:
        messages.filter(pk__in=where.path, alone=True, parent__in=where.path).update(alone=False)
    if where.revived and until is None:
        messages.filter(pk__in=where.path, abandoned=True).update(abandoned=False)
    if where.forks:
        abandon_siblings(instance, parents=[*where.forks], keep=[*where.path, *keep], until=until)
    if where.replaced:
        replaced = messages.filter(pk__in=where.replaced, abandoned=False)
        (replaced.filter(created__lte=until) if until else replaced).update(abandoned=True)


def abandon_siblings(
    instance: Instance, *, parents: Sequence[int], keep: Sequence[int], until: datetime | None
) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE branch AS (
                SELECT id FROM conversations_message
                WHERE instance_id = %(instance)s AND parent_id = ANY(%(parents)s) AND NOT alone
                  AND id <> ALL(%(keep)s) AND created <= %(until)s
                UNION
                SELECT child.id FROM branch
                JOIN conversations_message child ON child.parent_id = branch.id AND child.instance_id = %(instance)s
                WHERE NOT child.alone
            )
            UPDATE conversations_message SET abandoned = true
            WHERE instance_id = %(instance)s AND id IN (SELECT id FROM branch) AND NOT abandoned
            """,
            {"instance": instance.pk, "parents": list(parents), "keep": list(keep), "until": until or LAST},
        )


def graft(instance: Instance, root: int, before: int | None) -> None:
    """Let a message without a parent grow from another, unless that grew from it."""
    with connection.cursor() as cursor:
        cursor.execute(GRAFT, {"instance": instance.pk, "root": root, "before": before})


# Climbs no further than to where none can be as old as the root: clocks differ by less than an hour.
GRAFT = """
WITH RECURSIVE root AS (
    SELECT id, created FROM conversations_message
    WHERE id = %(root)s AND instance_id = %(instance)s AND parent_id IS NULL
), up AS (
    SELECT id, parent_id FROM conversations_message WHERE id = %(before)s AND instance_id = %(instance)s
    UNION
    SELECT m.id, m.parent_id FROM up
    JOIN conversations_message m ON m.id = up.parent_id AND m.instance_id = %(instance)s
    WHERE m.created >= (SELECT created FROM root) - interval '1 hour'
)
UPDATE conversations_message m SET parent_id = %(before)s
FROM root WHERE m.id = root.id AND m.instance_id = %(instance)s AND m.id NOT IN (SELECT id FROM up)
"""
