"""Users as Django has them, with the limit to some partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import ManyToManyRawIdWidget
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.http import HttpRequest

from console import safe_text
from conversations.models import Partition, StaffLimit

if TYPE_CHECKING:
    LimitFormBase = forms.ModelForm[StaffLimit]
    LimitInlineBase = admin.StackedInline[StaffLimit, User]
    UserAdminBase = UserAdmin[User]
else:
    LimitFormBase = forms.ModelForm
    LimitInlineBase = admin.StackedInline
    UserAdminBase = UserAdmin


# With more partitions than this, the form asks for ids instead of offering a list.
MOST_CHOICES = 1_000


class LimitForm(LimitFormBase):
    """Ticking `limited` creates a limit, even to no partition: Django ignores an inline form without a change."""

    limited = forms.BooleanField(
        required=False,
        label="Limit this user",
        help_text="to the partitions chosen below, or, with none chosen, to nothing; "
        "without a limit the permissions above hold for all partitions",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:  # the limit exists, and "Delete" removes it
            self.fields["limited"].widget = forms.HiddenInput()
            self.fields["limited"].disabled = True


class LimitInline(LimitInlineBase):
    model = StaffLimit
    form = LimitForm
    fields = ("limited", "partitions")
    filter_horizontal = ("partitions",)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **given: Any) -> Any:
        """Offer all partitions but scratch ones: saving would drop any that the form does not offer."""
        if db_field.name == "partitions":
            given["queryset"] = Partition.objects.without_scratch()
            if given["queryset"].count() > MOST_CHOICES:
                given["widget"] = ManyToManyRawIdWidget(db_field.remote_field, self.admin_site)
                given["help_text"] = "ids of partitions, with commas between them"
        field: Any = super().formfield_for_manytomany(db_field, request, **given)
        if db_field.name == "partitions":
            field.label_from_instance = lambda partition: safe_text.shown(partition.name)
        return field


class LimitedUserAdmin(UserAdminBase):
    inlines = (LimitInline,)
    list_select_related = ("limit",)


admin.site.unregister(User)
admin.site.register(User, LimitedUserAdmin)
