"""The states of exchanges and partitions. They need no tables, so the proxy may name them."""

from __future__ import annotations

from django.db.models import TextChoices


class Ended(TextChoices):
    """How an exchange ended. OPEN while the provider is working; INTERRUPTED when the server died meanwhile."""

    OPEN = "open", "in progress"
    ANSWERED = "answered", "answered"
    CUT = "cut", "cut short by the provider"
    GONE = "gone", "client gone"
    FAILED = "failed", "provider failed"
    INTERRUPTED = "interrupted", "server stopped"


class Remember(TextChoices):
    """What is stored of a partition's requests. PEOPLE: of those that no person made, no messages (see proxy/rules)."""

    ALL = "all", "everything, also what no person asked"
    PEOPLE = "people", "people's turns"
    NOTHING = "nothing", "nothing"


CHAT_COMPLETIONS = "chat_completions"  # the dialect of exchanges that name no other


class MemoryState(TextChoices):
    """What memory did for an exchange. DEGRADED when recall or storing was late or failed."""

    ON = "on", "on"
    OFF = "off", "off"
    DEGRADED = "degraded", "degraded"
