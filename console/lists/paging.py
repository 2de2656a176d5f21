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
AHEAD = 4  # pages beyond the one that is shown, to choose from


class UncountedPaginator(AnyPaginator):
    """Looks a few pages ahead of the one that is asked for, and no further: it reads primary keys, never counts."""

    object_list: Any
    page_asked_for = 1  # set by whoever knows

    @property
    def looked_ahead(self) -> int:
        """How many rows are looked at, at most."""
        return int(self.per_page) * min(self.page_asked_for + AHEAD, MOST_PAGES)

    @cached_property
    def count(self) -> int:
        if isinstance(self.object_list, Sequence):
            return len(self.object_list)
        ahead = self.object_list.select_related(None).values_list("pk", flat=True)
        return len(ahead[: self.looked_ahead])

    @property
    def is_cut(self) -> bool:
        """Whether there may be more than has been looked at."""
        return self.count >= self.looked_ahead
