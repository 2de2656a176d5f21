"""Access keys in the admin: made, rotated and revoked. A key is shown once, on the page that answers the form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from access import keys
from access.keys import KeyProblem, Wanted
from access.models import AccessKey, Credential, PartitionLimit
from access.rights import APP, Right
from console.access.who import ForUnlimited, who
from console.pages import page

if TYPE_CHECKING:
    KeyFormBase = forms.ModelForm[AccessKey]
else:
    KeyFormBase = forms.ModelForm

LIMITS = ("requests_a_minute", "tokens_a_minute", "parallel_requests", "dollars_a_month")


class KeyForm(KeyFormBase):
    """A new key. Partitions and instances are patterns, one in each line."""

    rights = forms.MultipleChoiceField(
        choices=[(right.value, right.value) for right in Right],
        initial=[right.value for right in APP],
        widget=forms.CheckboxSelectMultiple,
    )
    partitions = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="one in each line: a name, team/* for all that begin with team/, or * for all",
    )
    instances = forms.CharField(widget=forms.Textarea(attrs={"rows": 3}), initial="*", help_text="as above")

    class Meta:
        model = AccessKey
        fields = ("name", "owner", "rights", "partitions", "instances", "credentials", "expires", *LIMITS)

    def clean(self) -> dict[str, Any]:
        given = super().clean() or self.cleaned_data
        try:
            self.wanted = Wanted(
                name=given.get("name", ""),
                owner=given.get("owner", ""),
                rights=[Right(right) for right in given.get("rights", ())],
                partitions=_lines(given.get("partitions", "")),
                instances=_lines(given.get("instances", "")),
                expires=given.get("expires"),
                limits=AccessKey(**{name: given.get(name) for name in LIMITS}).limits,
                credentials=[each.name for each in given.get("credentials", ())],
            )
            keys.check(self.wanted)
        except KeyProblem as problem:
            raise forms.ValidationError(str(problem)) from None
        return given

    def _post_clean(self) -> None:
        """The row is made by keys.create, not from this form."""


@admin.register(AccessKey)
class KeyAdmin(ForUnlimited):
    list_display = ("name", "public_id", "owner", "reaches", "may", "expires", "revoked", "last_used")
    search_fields = ("name", "public_id", "owner")
    actions = ("rotate", "revoke")
    form = KeyForm

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Keys are not edited; the actions of the list need the permission all the same."""
        return obj is None and super().has_change_permission(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return KeyForm.Meta.fields
        return (*self.list_display, "instances", "credentials", *LIMITS, "created", "previous_until")

    @admin.display(description="partitions")
    def reaches(self, row: AccessKey) -> str:
        return ", ".join(row.partitions)

    @admin.display(description="rights")
    def may(self, row: AccessKey) -> str:
        return ", ".join(row.rights)

    def save_model(self, request: HttpRequest, obj: AccessKey, form: Any, change: bool) -> None:
        made = keys.create(form.wanted, who(request))
        obj.pk = AccessKey.objects.get(public_id=made.public_id).pk
        request.made_key = (form.wanted.name, made.text)  # type: ignore[attr-defined]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """keys.create has done it."""

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        return _shown(request, [request.made_key])  # type: ignore[attr-defined]

    @admin.action(description="Rotate: a new secret, the old one works for 24 hours", permissions=["change"])
    def rotate(self, request: HttpRequest, rows: QuerySet[AccessKey]) -> HttpResponse | None:
        try:
            return _shown(request, [(row.name, keys.rotate(row, who(request)).text) for row in rows])
        except KeyProblem as problem:
            self.message_user(request, str(problem), messages.ERROR)
            return None

    @admin.action(description="Revoke: refuse it from now on", permissions=["change"])
    def revoke(self, request: HttpRequest, rows: QuerySet[AccessKey]) -> None:
        for row in rows:
            keys.revoke(row, who(request))
        self.message_user(request, "Revoked: every server refuses them within 5 seconds.")


@admin.register(PartitionLimit)
class PartitionLimitAdmin(ForUnlimited):
    list_display = ("partition", *LIMITS)

    def save_model(self, request: HttpRequest, obj: PartitionLimit, form: Any, change: bool) -> None:
        keys.limit_partition(obj.partition, obj.limits, who(request))
        obj.pk = PartitionLimit.objects.filter(partition=obj.partition).values_list("pk", flat=True).first() or 0

    def delete_model(self, request: HttpRequest, obj: PartitionLimit) -> None:
        keys.limit_partition(obj.partition, PartitionLimit().limits, who(request))

    def delete_queryset(self, request: HttpRequest, rows: QuerySet[PartitionLimit]) -> None:
        for row in rows:
            self.delete_model(request, row)


@admin.register(Credential)
class CredentialAdmin(ForUnlimited):
    """Which credentials there are. `manage.py credentials set` keeps one; no page shows it."""

    list_display = ("name", "provider", "changed")
    fields = list_display

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _shown(request: HttpRequest, made: list[tuple[str, str]]) -> HttpResponse:
    return page(request, "new_key", title="Keep this key", made=made, first=AccessKey.objects.count() == 1)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
