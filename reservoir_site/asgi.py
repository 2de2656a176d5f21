"""The ASGI application: the guard in front of the API and the admin, and what lives as long as the server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reservoir_site.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402

from proxy import runtime  # noqa: E402
from proxy.handler import ApiHandler  # noqa: E402
from reservoir_site import database  # noqa: E402
from reservoir_site.guard import App, Guard, Receive, Scope, Send  # noqa: E402
from reservoir_site.postgres import EmbeddedPostgres, PostgresError  # noqa: E402

WATCH_SECONDS = 0.5

log = logging.getLogger("reservoir.database")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await _guard(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


_guard = Guard(api=cast(App, ApiHandler()), site=cast(App, ASGIHandler()))


async def lifespan(receive: Receive, send: Send) -> None:
    """Start what serves requests before the first one, and stop it after the last."""
    await receive()
    try:
        await asyncio.to_thread(database.reach)
        running = await runtime.start()
        watching = asyncio.create_task(_watch(os.getppid()))
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await running.stop()
    if server := database.embedded():
        await asyncio.to_thread(server.release)
    await send({"type": "lifespan.shutdown.complete"})


async def _watch(parent: int) -> None:
    """Start the embedded PostgreSQL again whenever it has died, however long its recovery takes.

    A worker whose server was killed ends, or it would keep the port from the next one.
    """
    server = database.embedded()
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        if settings.RESERVOIR_WORKERS > 1 and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if server is not None:
            await asyncio.to_thread(_see_to, server)  # even asking may take a second, when it hangs


def _see_to(server: EmbeddedPostgres) -> None:
    try:
        if not server.is_alive() or server.is_stuck():
            log.warning("the embedded PostgreSQL has stopped and is started again")
            server.ensure_running()
            log.info("the embedded PostgreSQL runs again")
    except PostgresError as error:
        log.error("%s", error)
    except Exception:  # whatever it was, whoever watches must not stop watching
        log.exception("the embedded PostgreSQL could not be seen to")
