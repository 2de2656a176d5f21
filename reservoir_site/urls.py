"""The site's routes: probes, the admin and the API."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import path
from django.views.defaults import page_not_found

from proxy.api import api, not_found
from proxy.routes import PREFIXES
from reservoir_site.health import figures, live, ready

urlpatterns = [
    path("", lambda request: redirect("admin:index")),
    path("live", live),
    path("health", live),
    path("healthz", live),
    path("ready", ready),
    path("metrics", figures),
    path("admin", lambda request: redirect("admin:index")),
    path("admin/", admin.site.urls),
    path("v1", lambda request: redirect("/v1/docs")),
    path("v1/", lambda request: redirect("/v1/docs")),
    path("", api.urls),
]


def handler404(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """404 as JSON below the API's paths, otherwise as a page."""
    if request.path.startswith(PREFIXES):
        return not_found(request, exception)
    return page_not_found(request, exception)
