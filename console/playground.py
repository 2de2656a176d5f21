"""The playground: a chat against a scope that shows what was recalled, and why. Its script asks the API as apps do."""

from __future__ import annotations

import os

from django.http import HttpRequest, HttpResponse

from console.pages import page, to_instance, to_partition
from console.search.place import asked_place, offered
from console.visible import require
from proxy.providers import configuration


def playground(request: HttpRequest) -> HttpResponse:
    """The page, for the scope that the address names, if any."""
    require(request, "view_message")
    place = asked_place(request)
    trail = to_instance(place.instance) if place.instance else to_partition(place.partition) if place.partition else []
    return page(
        request,
        "playground",
        title="Playground",
        trail=trail,
        place=place,
        instance=place.instance,
        partition=place.partition,
        partitions=offered(request),
        providers=_providers(),
    )


def _providers() -> list[tuple[str, bool]]:
    """The providers' names, and whether the server has a key for each or needs none."""
    try:
        known = configuration.from_environment(os.environ)
    except ValueError:  # the providers' file has become invalid since the server started
        return []
    return [(one.name, bool(one.key or not one.key_env)) for one in known.all()]
