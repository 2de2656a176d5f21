"""The base of all lists: read-only, limited to visible rows, sorted and paged by indexes."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from console.access.who import note_read
from console.lists.paging import UncountedPaginator
from console.saved import saved
from console.visible import visible
from conversations.numbers import whole_number

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


MOST_COUNTED = 1_000  # rows whose values are counted beside the filters


class Sorted(ChangeList):
    """Sorts only by sortable columns. Django accepts any column from the address, even one without an index."""

    def get_ordering_field(self, field_name: Any) -> Any:
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None

    @cached_property
    def counts(self) -> dict[str, Counter[Any]]:
        """How many of the first rows that are listed have each value of what the list counts: one query."""
        names: tuple[str, ...] = getattr(self.model_admin, "counted", ())
        rows = list(self.queryset.values_list(*names)[:MOST_COUNTED]) if names else []
        return {name: Counter(row[at] for row in rows) for at, name in enumerate(names)}

    @property
    def counts_are_cut(self) -> int:
        """The number of rows counted, if there may be more; else 0."""
        return MOST_COUNTED if any(sum(one.values()) == MOST_COUNTED for one in self.counts.values()) else 0


class ReadOnly(ModelAdmin):
    """A list of what the user may see. Nothing is added, changed or deleted here: console/forgetting/ does that."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = UncountedPaginator
    list_per_page = 50
    list_max_show_all = 0
    actions = None
    largest_first = False  # a first click on a column sorts downwards: their `ordering` begins with a minus
    counted: tuple[str, ...] = ()  # fields whose values are counted beside the filters

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return visible(request, super().get_queryset(request))

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Only what the filters offer: from the address, Django takes conditions on any other column as well, and the
        number of rows would tell users of texts that they may not see.
        """
        offered: set[str] = set()
        for each in self.get_list_filter(request):
            offered.update(getattr(each, "parameter_names", None) or [getattr(each, "parameter_name", each)])
        return lookup.split("__")[0] in {name.split("__")[0] for name in offered}

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return Sorted

    def get_paginator(self, request: HttpRequest, queryset: Any, per_page: int, *args: Any, **kwargs: Any) -> Any:
        paginator: Any = super().get_paginator(request, queryset, per_page, *args, **kwargs)
        asked = request.GET.get(PAGE_VAR, "1")
        page = whole_number(asked, most=99_999)
        paginator.page_asked_for = 1 if page is None else page
        return paginator

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        title = {"title": str(self.model._meta.verbose_name_plural).capitalize()}
        context = {"saved": saved(request, str(self.model._meta.model_name))}
        return super().changelist_view(request, title | context | (extra_context or {}))

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        found = self.get_object(request, object_id)
        if found is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[attr-defined, no-any-return]
        if not self.has_view_permission(request, found):
            raise PermissionDenied
        if left := found.get_deferred_fields():  # fields that the list deferred, in one query
            found.refresh_from_db(fields=left)
        note_read(request, found)
        return self.page(request, found)

    def page(self, request: HttpRequest, found: Any) -> HttpResponse:
        """The page of one row."""
        raise NotImplementedError
