"""Users as Django has them, with the limit to some partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User

from conversations.models import StaffLimit

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


class LimitedUserAdmin(UserAdminBase):
    inlines = (LimitInline,)
    list_select_related = ("limit",)


admin.site.unregister(User)
admin.site.register(User, LimitedUserAdmin)
