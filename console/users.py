"""Users as Django has them, with the limit to some partitions, and one form that makes a colleague."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import ManyToManyRawIdWidget
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.forms import AdminUserCreationForm, UsernameField
from django.contrib.auth.models import Group, User
from django.db.models import Prefetch
from django.http import HttpRequest

from console import safe_text, tags
from console.roles import VIEWER
from conversations.models import Partition, StaffLimit

if TYPE_CHECKING:
    LimitFormBase = forms.ModelForm[StaffLimit]
    LimitInlineBase = admin.StackedInline[StaffLimit, User]
    UserAdminBase = UserAdmin[User]
    ColleagueFormBase = AdminUserCreationForm[User]
else:
    LimitFormBase = forms.ModelForm
    LimitInlineBase = admin.StackedInline
    UserAdminBase = UserAdmin
    ColleagueFormBase = AdminUserCreationForm


# With more partitions than this, the form asks for ids instead of offering a list.
MOST_CHOICES = 1_000
MOST_NAMES = 3  # partitions named in the list of users


class LimitForm(LimitFormBase):
    """Choosing partitions creates a limit. So does ticking `limited`, even to no partition: Django ignores an inline
    form without a change.
    """

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
    verbose_name_plural = "Limit to partitions"

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **given: Any) -> Any:
        """Offer all partitions but scratch ones: saving would drop any that the form does not offer."""
        if db_field.name == "partitions":
            given["queryset"] = Partition.objects.without_scratch().order_by("name")
            if given["queryset"].count() > MOST_CHOICES:
                given["widget"] = ManyToManyRawIdWidget(db_field.remote_field, self.admin_site)
                given["help_text"] = "ids of partitions, with commas between them"
        field: Any = super().formfield_for_manytomany(db_field, request, **given)
        if db_field.name == "partitions":
            field.label_from_instance = lambda partition: safe_text.shown(partition.name)
        return field


class ColleagueForm(ColleagueFormBase):
    """A new user who may log in here and read, unless the form says otherwise."""

    class Meta:
        model = User
        field_classes = {"username": UsernameField}
        fields = ("username", "groups", "is_staff")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["is_staff"].initial = True
        self.fields["groups"].initial = list(Group.objects.filter(name=VIEWER))


class LimitedUserAdmin(UserAdminBase):
    inlines = (LimitInline,)
    add_form = ColleagueForm
    add_fieldsets = (
        (None, {"fields": ("username", "password1", "password2")}),
        ("Access", {"fields": ("groups", "is_staff")}),
    )
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("first_name", "last_name", "email")}),
        ("Access", {"fields": ("groups", "is_staff", "is_active", "is_superuser")}),
        ("Single permissions, beside those of the groups", {"fields": ("user_permissions",), "classes": ("collapse",)}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")
    filter_horizontal = ()
    list_display = ("username", "called", "in_groups", "limited_to", "is_active", "last_login")
    list_filter = ("groups", "is_active", "is_superuser")
    list_select_related = ("limit",)

    def get_queryset(self, request: HttpRequest) -> Any:
        partitions = Prefetch("limit__partitions", Partition.objects.order_by("name").only("name"))
        return super().get_queryset(request).prefetch_related("groups", partitions)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **given: Any) -> Any:
        if db_field.name == "groups":
            given["widget"] = forms.CheckboxSelectMultiple()
            given["help_text"] = ""
        return super().formfield_for_manytomany(db_field, request, **given)

    @admin.display(description="name", ordering="first_name")
    def called(self, user: User) -> str:
        return user.get_full_name() or tags.NONE

    @admin.display(description="groups")
    def in_groups(self, user: User) -> str:
        if user.is_superuser:
            return "may do everything"
        return ", ".join(group.name for group in user.groups.all()) or tags.NONE

    @admin.display(description="sees")
    def limited_to(self, user: User) -> str:
        limit: StaffLimit | None = getattr(user, "limit", None)
        if user.is_superuser or limit is None:
            return "all partitions"
        names = [safe_text.shown(partition.name) for partition in limit.partitions.all()]
        if len(names) > MOST_NAMES:
            return f"{', '.join(names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"
        return ", ".join(names) or "no partition"


admin.site.unregister(User)
admin.site.register(User, LimitedUserAdmin)
