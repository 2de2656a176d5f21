"""Which messages somebody means: to forget them, or to see what would go."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from django.db.models import F, Func, IntegerField

from conversations.models import Message
from conversations.querysets import LONGEST_SEARCH, MessageQuerySet, NoScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which messages. Criteria narrow each other, and None is no criterion.

    A whole instance or partition is asked for by `whole`, never by leaving criteria out. Raises ValueError, with
    what to do, for a selection that says too little or contradicts itself.
    """

    partition: str | None = None
    instance: str | None = None
    ids: tuple[int, ...] | None = None
    since: datetime | None = None  # included
    before: datetime | None = None  # not included
    larger_than: int | None = None  # bytes of a message as the API sent it
    role: str | None = None
    search: str | None = None  # words that all stand in it; "phrases", -exclusions
    whole: bool = False

    def __post_init__(self) -> None:
        narrowing = (self.ids, self.since, self.before, self.larger_than, self.role, self.search)
        narrowed = any(criterion is not None for criterion in narrowing)
        if self.instance is not None and self.partition is None:
            raise NoScope
        if "" in (self.partition, self.instance, self.role) or (self.search is not None and not self.search.strip()):
            raise ValueError("A criterion is empty: give it a value, or leave it out.")
        if self.ids == ():
            raise ValueError("No message is selected: select at least one.")
        if self.larger_than is not None and self.larger_than < 0:
            raise ValueError("A size is negative: give a number of bytes.")
        if self.larger_than is not None and self.larger_than >= 2**31:
            raise ValueError("No message is that large: give a number of bytes below 2 GB.")
        if self.search is not None and len(self.search) > LONGEST_SEARCH:
            raise ValueError(f"The words are too many to search for: give at most {LONGEST_SEARCH} characters.")
        if self.since and self.before and self.since >= self.before:
            raise ValueError("The span of time is empty: its end must be after its beginning.")
        if any(moment and moment.tzinfo is None for moment in (self.since, self.before)):
            raise ValueError("A time has no time zone: give one, such as UTC.")
        if self.whole and (narrowed or self.partition is None):
            raise ValueError("A whole partition or instance is named by its names alone, without other criteria.")
        if not self.whole and not narrowed:
            raise ValueError("Nothing says which messages: give a criterion, or ask for the whole.")

    @property
    def takes_exchanges(self) -> bool:
        """Whether exchanges go that hold no message: those of a scope and a time do."""
        return (self.ids, self.larger_than, self.role, self.search) == (None,) * 4

    def messages(self) -> MessageQuerySet:
        """The messages that are selected."""
        rows = Message.objects.within(self.partition, self.instance).between(self.since, self.before)
        if self.ids is not None:
            rows = rows.filter(pk__in=self.ids)
        if self.larger_than is not None:
            rows = rows.alias(size=octets("payload")).filter(size__gt=self.larger_than)
        if self.role is not None:
            rows = rows.filter(role=self.role)
        return rows if self.search is None else rows.matching(self.search)

    def described(self) -> dict[str, Any]:
        """For the audit: the criteria as JSON, without the words searched for, which may quote a message."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said |= {key: said[key].isoformat() for key in ("since", "before") if said[key]}
        if self.ids is not None:
            said["ids"] = list(self.ids) if len(self.ids) <= 100 else f"{len(self.ids)} messages"
        if self.search is not None:
            said["search"] = "words, not kept"
        return {key: value for key, value in said.items() if value not in (None, False)}


def octets(column: str) -> Func:
    """The bytes of a text."""
    return Func(F(column), function="octet_length", output_field=IntegerField())
