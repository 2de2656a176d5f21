"""The admin site: addresses, navigation and security headers. Its index is the dashboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, path, reverse
from django.utils.module_loading import import_string

from console.visible import allowed_partitions, may

# Only our own files, and no inline scripts or styles: even unescaped stored text could do nothing.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

# Pages beside the lists: their address, their name, the view, and the permission that a link at the top needs.
PAGES = (
    ("usage/", "usage", "console.usage_page.usage_page", "view_exchange"),
    ("search/", "search", "console.search.page.search_page", "view_message"),
    ("prune/", "prune", "console.forgetting.page.prune_page", "delete_message"),
    ("prune/retention/<int:pk>/", "retention", "console.forgetting.retention.retention", ""),
    ("prune/remember/<int:pk>/", "remember", "console.forgetting.retention.remember", ""),
    ("playground/", "playground", "console.playground.playground", "view_message"),
    ("demo/", "demo", "console.welcome.fill_demo", ""),
    ("saved/", "saved", "console.saved.save", ""),
    ("export/", "export", "console.exporting.export_page", ""),
    ("map/<int:pk>/", "map", "console.conversation.memory_map.map_page", ""),
)

TITLES = {"prune": "Forget"}


class ReservoirAdminSite(admin.AdminSite):
    site_header = "Reservoir"
    site_title = "Reservoir"
    index_title = "Dashboard"
    enable_nav_sidebar = False

    def get_urls(self) -> list[URLResolver | URLPattern]:
        pages = [path(where, self.admin_view(import_string(view)), name=name) for where, name, view, _ in PAGES]
        return [*pages, *super().get_urls()]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        view: Callable[..., TemplateResponse] = import_string("console.dashboard.dashboard")
        return view(request)

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        guarded = super().admin_view(view, cacheable)

        def page(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            return _harden(guarded(request, *args, **kwargs))

        return page

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return _harden(super().login(request, extra_context))

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {"navigation": _navigation(request), "site_url": None}


def _harden(response: HttpResponse) -> HttpResponse:
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    response.headers.setdefault("Cache-Control", "no-store")  # pages hold conversations
    return response


def _sees_all(request: HttpRequest, permission: str) -> bool:
    """Whether the user has the permission, and is not limited to some partitions."""
    return bool(request.user.has_perm(permission)) and allowed_partitions(request) is None


def _navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """The links at the top that the user may follow."""
    if not request.user.is_authenticated:
        return []
    here = request.path
    wanted = [
        ("Dashboard", reverse("admin:index"), True),
        *(
            (title, reverse(f"admin:conversations_{model}_changelist"), may(request, f"view_{model}"))
            for title, model in (
                ("Partitions", "partition"),
                ("Conversations", "instance"),
                ("Exchanges", "exchange"),
                ("Messages", "message"),
            )
        ),
        *(
            (TITLES.get(name, name.capitalize()), reverse(f"admin:{name}"), may(request, permission))
            for _, name, _, permission in PAGES
            if permission
        ),
        ("Keys", reverse("admin:access_accesskey_changelist"), _sees_all(request, "access.view_accesskey")),
        (
            "Audit",
            reverse("admin:access_auditrecord_changelist"),
            _sees_all(request, "access.view_auditrecord"),
        ),
        ("Users", reverse("admin:auth_user_changelist"), bool(request.user.has_perm("auth.view_user"))),
    ]
    home = reverse("admin:index")
    return [
        {"title": title, "url": url, "here": here == url or (url != home and here.startswith(url))}
        for title, url, allowed in wanted
        if allowed
    ]
