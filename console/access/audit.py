"""The audit in the admin: a list that only grows."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from access.models import AuditRecord
from console.access.who import ForUnlimited
from console.lists.paging import UncountedPaginator


@admin.register(AuditRecord)
class AuditAdmin(ForUnlimited):
    list_display = ("created", "action", "actor", "key_id", "address", "partition", "instance", "told")
    list_display_links = None
    list_filter = ("action",)
    search_fields = ("actor", "key_id", "partition")
    show_full_result_count = False
    paginator = UncountedPaginator
    list_per_page = 100
    list_max_show_all = 0
    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="details")
    def told(self, row: AuditRecord) -> str:
        return ", ".join(f"{name}: {value}" for name, value in row.details.items() if value is not None)
