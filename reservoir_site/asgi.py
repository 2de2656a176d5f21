"""The ASGI application: the guard in front of the API and the admin, and what lives as long as the server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from contextlib import suppress
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from typing import cast

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reservoir_site.settings")

import django

django.setup()

from django.core.handlers.asgi import ASGIHandler  # noqa: E402

from proxy import runtime  # noqa: E402
from proxy.handler import ApiHandler  # noqa: E402
from reservoir_site import database  # noqa: E402
from reservoir_site.guard import App, Guard, Receive, Scope, Send  # noqa: E402
from reservoir_site.postgres import EmbeddedPostgres  # noqa: E402
from reservoir_site.postgres_folder import PostgresError  # noqa: E402

WATCH_SECONDS = 0.5
LEAVE_SECONDS = 5.0

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
    """Start what serves requests before the first one, and stop it after the last.

    The database is not waited for: a worker that begins while it is away serves without memory. If it gave up instead,
    uvicorn would stop the other workers too.
    """
    await receive()
    if parent := parent_process():
        threading.Thread(target=_end_with, args=[parent], name="parent", daemon=True).start()
    watching = asyncio.create_task(_watch_database())
    try:
        running = await runtime.start()
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
    _leave_behind()
    await send({"type": "lifespan.shutdown.complete"})


def _leave_behind() -> None:
    """A page that waits for the database, on a lock perhaps, does not keep the process: all is stored by now."""
    end = threading.Timer(LEAVE_SECONDS, os._exit, [0])
    end.daemon = True  # who is gone before has no need of it
    end.start()


def _end_with(parent: BaseProcess) -> None:
    """A worker whose server was killed ends, also while it begins, or it would keep the port from the next one."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


async def _watch_database() -> None:
    """Start the embedded PostgreSQL again whenever it has died, however long its recovery takes."""
    server = database.embedded()
    while server:
        await asyncio.to_thread(_see_to, server)  # even asking may take a second, when it hangs
        await asyncio.sleep(WATCH_SECONDS)


def _see_to(server: EmbeddedPostgres) -> None:
    try:
        if not server.is_held():
            server.hold()
        elif not server.is_alive() or server.is_stuck():
            log.warning("the embedded PostgreSQL has stopped and is started again")
            server.ensure_running()
            log.info("the embedded PostgreSQL runs again")
    except PostgresError as error:
        log.error("%s", error)
    except Exception:  # whatever it was, whoever watches must not stop watching
        log.exception("the embedded PostgreSQL could not be seen to")
