"""Database connections of the admin end with its requests."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection
from django.http import HttpRequest, HttpResponse


def close_connection(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware. Under ASGI each request has a thread of its own, and nobody comes back to that thread's connection:
    kept open, it would hold one of PostgreSQL's until the garbage collector finds it.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            return get_response(request)
        finally:
            if not connection.in_atomic_block:  # in a test, whose transaction this is
                connection.close()

    return middleware
