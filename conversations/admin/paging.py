"""Paging through large tables without counting them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.core.paginator import Paginator
from django.utils.functional import cached_property

if TYPE_CHECKING:
    AnyPaginator = Paginator[Any]
else:
    AnyPaginator = Paginator

# As many pages as somebody turns by hand. Whoever wants more narrows the list down, or jumps to a date.
MOST_PAGES = 40


class UncountedPaginator(AnyPaginator):
    """Looks as far ahead as the pages that it offers, and no further: it reads primary keys, never counts."""

    object_list: Any
    looked_ahead = 0

    @property
    def is_cut(self) -> bool:
        """Whether there may be more than is offered."""
        return 0 < self.looked_ahead <= self.count

    @cached_property
    def count(self) -> int:
        if isinstance(self.object_list, Sequence):
            return len(self.object_list)
        self.looked_ahead = self.per_page * MOST_PAGES
        ahead = self.object_list.select_related(None).values_list("pk", flat=True)
        return len(ahead[: self.looked_ahead])
