"""Closes the admin's database connections at the end of its requests."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection
from django.http import HttpRequest, HttpResponse


def close_connection(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware that closes the connection. Under ASGI each request runs in its own thread and no later request reuses
    that thread's connection: it would occupy one of PostgreSQL's until it is garbage collected.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            return get_response(request)
        finally:
            if not connection.in_atomic_block:  # a test's transaction goes on
                connection.close()

    return middleware
