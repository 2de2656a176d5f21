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

# More pages than anyone turns by hand. To find older rows, readers filter the list or jump to a date.
MOST_PAGES = 40
AHEAD = 4  # pages beyond the one that is shown, to choose from


class UncountedPaginator(AnyPaginator):
    """Looks only a few pages ahead of the requested one: it reads primary keys and never counts."""

    object_list: Any
    page_asked_for = 1  # set by the list, which knows the request

    @property
    def looked_ahead(self) -> int:
        """The maximum number of rows to read."""
        return int(self.per_page) * min(self.page_asked_for + AHEAD, MOST_PAGES)

    @cached_property
    def count(self) -> int:
        if isinstance(self.object_list, Sequence):
            return len(self.object_list)
        ahead = self.object_list.select_related(None).values_list("pk", flat=True)
        return len(ahead[: self.looked_ahead])

    @property
    def is_cut(self) -> bool:
        """Whether more rows may exist."""
        return self.count >= self.looked_ahead
