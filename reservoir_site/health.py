"""The probes: /live depends on nothing, /ready names the parts that are not ready."""

from __future__ import annotations

import json

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from proxy import runtime
from reservoir_site.slots import slots


async def live(request: HttpRequest) -> HttpResponse:
    """200 while the process serves, with the version."""
    body = {"status": "live", "version": settings.RESERVOIR_VERSION}
    return HttpResponse(json.dumps(body), content_type="application/json")


async def ready(request: HttpRequest) -> HttpResponse:
    """200 if every part is ready, otherwise 503; each part is "ready" or says its problem."""
    parts = await runtime.current().memory.health() | {"slots": slots.problem}
    ok = all(problem is None for problem in parts.values())
    body = {"status": "ready" if ok else "not ready"} | {k: v or "ready" for k, v in parts.items()}
    return HttpResponse(json.dumps(body), status=200 if ok else 503, content_type="application/json")
