"""The base of all lists: read-only, limited to visible rows, sorted and paged by indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from console.access.who import note_read
from console.lists.paging import UncountedPaginator
from console.visible import visible
from conversations.numbers import whole_number

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class Sorted(ChangeList):
    """Sorts only by sortable columns. Django accepts any column from the address, even one without an index."""

    def get_ordering_field(self, field_name: Any) -> Any:
        return super().get_ordering_field(field_name) if field_name in (self.sortable_by or ()) else None


class ReadOnly(ModelAdmin):
    """A list of what the user may see. Nothing is added, changed or deleted here: console/forgetting/ does that."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = UncountedPaginator
    list_per_page = 50
    list_max_show_all = 0
    actions = None

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return visible(request, super().get_queryset(request))

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Only what the filters offer: from the address, Django takes conditions on any other column as well, and the
        number of rows would tell users of texts that they may not see.
        """
        filters = self.get_list_filter(request)
        offered = {each if isinstance(each, str) else getattr(each, "parameter_name", None) for each in filters}
        return lookup.split("__")[0] in offered

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
        return super().changelist_view(request, title | (extra_context or {}))

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
