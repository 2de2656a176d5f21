"""Pure: who asks, and what they may."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from access.limits import NO_LIMITS, Limits
from access.rights import ALL as ALL_RIGHTS
from access.rights import Right
from conversations.reach import ALL, Reach
from proxy.errors import Forbidden

NOT_REACHED = "This access key does not reach this partition and instance."


@dataclass(frozen=True, slots=True)
class Caller:
    """The key of a request, by its public id, with its rights and its reach; an empty id means that none was needed.

    The methods raise Forbidden, and say the same whether what is asked for exists or not.
    """

    key_id: str = ""
    name: str = ""
    rights: frozenset[Right] = ALL_RIGHTS
    reach: Reach = ALL
    address: str = ""
    limits: Limits = NO_LIMITS
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)  # by provider: added to its requests

    def require(self, right: Right) -> None:
        if right not in self.rights:
            raise Forbidden(f"This access key lacks the right to {right}.", code="right_missing")

    def require_scope(self, partition: str, instance: str) -> None:
        if not self.reach.covers(partition, instance):
            raise Forbidden(NOT_REACHED, code="scope_not_allowed")

    def require_part(self, partition: str | None, instance: str | None, *, whole: bool) -> None:
        """A part of all that is stored. `whole`: all of it must be reached, otherwise some: the answer is narrowed.

        An instance without its partition is left to those who refuse it.
        """
        if partition is None:
            if whole and not self.reach.is_everything:
                raise Forbidden("This access key reaches a part of the memory: name it.", code="scope_not_allowed")
        elif instance is not None:
            self.require_scope(partition, instance)
        elif not self.reach.covers_partition(partition) or (whole and not self.reach.has_every_instance):
            raise Forbidden(NOT_REACHED, code="scope_not_allowed")


EVERYBODY = Caller()
"""On a server that needs no key."""
