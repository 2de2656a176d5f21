"""Data folders of earlier versions rely on these: addresses, permissions and content types keep their names."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from tests.integration.admin.data import exchange
from tests.integration.admin.pages import HOME, browser, change

pytestmark = pytest.mark.django_db

MODELS = {
    "auditentry",
    "embedding",
    "embeddingmodel",
    "exchange",
    "instance",
    "ledger",
    "message",
    "partition",
    "savedfilter",
    "serverprocess",
    "stafflimit",
}
ADDRESSES = {
    "index": "/admin/",
    "search": "/admin/search/",
    "prune": "/admin/prune/",
    "auth_user_changelist": "/admin/auth/user/",
    "conversations_partition_changelist": "/admin/conversations/partition/",
    "conversations_instance_changelist": "/admin/conversations/instance/",
    "conversations_exchange_changelist": "/admin/conversations/exchange/",
    "conversations_message_changelist": "/admin/conversations/message/",
}


def test_the_pages_keep_their_addresses() -> None:
    assert {name: reverse(f"admin:{name}") for name in ADDRESSES} == ADDRESSES
    assert reverse("admin:retention", args=[7]) == "/admin/prune/retention/7/"
    assert reverse("admin:map", args=[7]) == "/admin/map/7/"
    for model in ("partition", "instance", "exchange", "message"):
        assert reverse(f"admin:conversations_{model}_change", args=[7]) == f"/admin/conversations/{model}/7/change/"


def test_content_types_and_permissions_keep_their_app() -> None:
    types = ContentType.objects.filter(app_label="conversations")
    assert set(types.values_list("model", flat=True)) == MODELS
    assert not ContentType.objects.filter(app_label="console").exists()
    expected = {f"{action}_{model}" for action in ("add", "change", "delete", "view") for model in MODELS}
    permissions = Permission.objects.filter(content_type__in=types)
    assert set(permissions.values_list("codename", flat=True)) == expected


def test_a_permission_of_an_earlier_version_still_opens_the_pages() -> None:
    """Rows of content types and permissions from before the admin became an app of its own stay in use."""
    one = exchange(HOME, "I keep bees.", "Lovely.")
    before = set(Permission.objects.values_list("pk", "codename")), set(ContentType.objects.values_list("pk", "model"))
    user = User.objects.create_user("vera", is_staff=True)
    for name in ("exchange", "message"):
        kind = ContentType.objects.get(app_label="conversations", model=name)
        user.user_permissions.add(Permission.objects.get(content_type=kind, codename=f"view_{name}"))
    call_command("migrate", verbosity=0)
    after = set(Permission.objects.values_list("pk", "codename")), set(ContentType.objects.values_list("pk", "model"))
    assert after == before
    client: Client = browser(user)
    assert client.get(change(one)).status_code == 200
    assert client.get(reverse("admin:prune")).status_code == 403
