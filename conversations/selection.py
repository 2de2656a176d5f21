"""A selection of messages by criteria, to forget them or to show what would be removed."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from conversations.models import Message
from conversations.querysets import LONGEST_SEARCH, PAYLOAD_SIZE, MessageQuerySet, NoScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Messages that meet all criteria; None is no criterion.

    `whole` selects an entire instance or partition; omitting the criteria does not. Raises ValueError, with advice, for
    a selection that is too vague or contradicts itself.
    """

    partition: str | None = None
    instance: str | None = None
    ids: tuple[int, ...] | None = None
    since: datetime | None = None  # inclusive
    before: datetime | None = None  # exclusive
    larger_than: int | None = None  # bytes of a message as the API sent it
    role: str | None = None
    search: str | None = None  # all of these words; "phrases", -exclusions
    whole: bool = False

    def __post_init__(self) -> None:
        narrowing = (self.ids, self.since, self.before, self.larger_than, self.role, self.search)
        narrowed = any(criterion is not None for criterion in narrowing)
        if self.instance is not None and self.partition is None:
            raise NoScope
        if "" in (self.partition, self.instance, self.role) or (self.search is not None and not self.search.strip()):
            raise ValueError("A criterion is empty: give it a value or omit it.")
        if self.ids == ():
            raise ValueError("No message is selected: select at least one.")
        if self.larger_than is not None and self.larger_than < 0:
            raise ValueError("A size is negative: give a number of bytes.")
        if self.larger_than is not None and self.larger_than >= 2**31:
            raise ValueError("No message is that large: give a size below 2 GB.")
        if self.search is not None and len(self.search) > LONGEST_SEARCH:
            raise ValueError(f"The search is too long: give at most {LONGEST_SEARCH} characters.")
        if self.since and self.before and self.since >= self.before:
            raise ValueError("The time range is empty: its end must be after its start.")
        if any(moment and moment.tzinfo is None for moment in (self.since, self.before)):
            raise ValueError("A time has no time zone: add one, such as UTC.")
        if self.whole and (narrowed or self.partition is None):
            raise ValueError("A whole partition or instance takes no other criteria: give only its names.")
        if not self.whole and not narrowed:
            raise ValueError("No messages are selected: give a criterion, or ask for the whole.")

    @property
    def takes_exchanges(self) -> bool:
        """Whether exchanges without messages are selected too: yes, if only scope and time are given."""
        return (self.ids, self.larger_than, self.role, self.search) == (None,) * 4

    def messages(self) -> MessageQuerySet:
        """The selected messages."""
        rows = Message.objects.within(self.partition, self.instance).between(self.since, self.before)
        if self.ids is not None:
            rows = rows.filter(pk__in=self.ids)
        if self.larger_than is not None:
            rows = rows.alias(size=PAYLOAD_SIZE).filter(size__gt=self.larger_than)
        if self.role is not None:
            rows = rows.filter(role=self.role)
        return rows if self.search is None else rows.matching(self.search)

    def described(self) -> dict[str, Any]:
        """The criteria as JSON for the audit. The search words are omitted, since they may quote a message."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        said |= {key: said[key].isoformat() for key in ("since", "before") if said[key]}
        if self.ids is not None:
            said["ids"] = list(self.ids) if len(self.ids) <= 100 else f"{len(self.ids)} messages"
        if self.search is not None:
            said["search"] = "words, not kept"
        return {key: value for key, value in said.items() if value not in (None, False)}
