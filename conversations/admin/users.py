"""Users as Django has them, with the limit to some partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest

from conversations.models import Partition, StaffLimit
from conversations.querysets import SCRATCH

if TYPE_CHECKING:
    LimitInlineBase = admin.StackedInline[StaffLimit, User]
    UserAdminBase = UserAdmin[User]
else:
    LimitInlineBase = admin.StackedInline
    UserAdminBase = UserAdmin


class LimitInline(LimitInlineBase):
    model = StaffLimit
    filter_horizontal = ("partitions",)
    verbose_name_plural = "limit to partitions (without one, the permissions above hold for all partitions)"

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **given: Any) -> Any:
        """Partitions that are there to measure with are no choice; all others are, or saving would drop them."""
        if db_field.name == "partitions":
            given["queryset"] = Partition.objects.exclude(name__startswith=SCRATCH)
        return super().formfield_for_manytomany(db_field, request, **given)


class LimitedUserAdmin(UserAdminBase):
    inlines = (LimitInline,)
    list_select_related = ("limit",)


admin.site.unregister(User)
admin.site.register(User, LimitedUserAdmin)
