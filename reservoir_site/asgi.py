"""The ASGI application: the guard in front of the API and the admin, and the tasks that live as long as the server."""

from __future__ import annotations

import asyncio
import gc
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

from django.conf import settings  # noqa: E402

from conversations.servers import Heartbeat  # noqa: E402
from proxy import runtime  # noqa: E402
from proxy.handler import ApiHandler, SiteHandler  # noqa: E402
from reservoir_site import database  # noqa: E402
from reservoir_site.guard import App, Guard, Receive, Scope, Send  # noqa: E402
from reservoir_site.hosts import this_host  # noqa: E402
from reservoir_site.postgres import EmbeddedPostgres  # noqa: E402
from reservoir_site.postgres_folder import PostgresError  # noqa: E402
from reservoir_site.slots import slots  # noqa: E402

WATCH_SECONDS = 0.5
EXIT_SECONDS = 5.0
STOP_SECONDS = 2.0
COLLECTED_AFTER = (700, 10, 1000)  # the last: a full collection after some 7 million objects

log = logging.getLogger("reservoir.database")


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI's entry point: serves HTTP and the lifespan, and closes WebSockets."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await _guard(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1008})


async def _gate(scope: Scope) -> Scope:
    return await runtime.current().gate.admit(scope)


_guard = Guard(api=cast(App, ApiHandler()), site=cast(App, SiteHandler()), gate=_gate)


async def lifespan(receive: Receive, send: Send) -> None:
    """Start the runtime before the first request, and stop it after the last.

    Does not wait for the database: a worker that starts while it is unreachable serves without memory. If the worker
    gave up instead, uvicorn would stop the other workers too.
    """
    await receive()
    if parent := parent_process():
        threading.Thread(target=_end_with, args=[parent], name="parent", daemon=True).start()
    watching = asyncio.create_task(_watch_database())
    try:
        running = await runtime.start(settings.RESERVOIR_ENVIRONMENT)
    except Exception as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    slots.tell()
    _collect_seldom()
    heartbeat = Heartbeat(this_host())
    heartbeat.start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await running.stop()
    await asyncio.to_thread(heartbeat.stop, STOP_SECONDS)
    if server := database.embedded():
        await asyncio.to_thread(server.release)
    _exit_soon()
    await send({"type": "lifespan.shutdown.complete"})


def _collect_seldom() -> None:
    """Set the garbage collector so that it never holds up requests for long.

    A full collection looks at every object: 100 ms with those of the start alone, a second while a request of 20,000
    turns is stored. The objects of the start are exempted, and full collections made rare; cycles are rare too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


def _exit_soon() -> None:
    """Exit even if a page still waits for the database, perhaps on a lock: everything is stored by now."""
    end = threading.Timer(EXIT_SECONDS, os._exit, [0])
    end.daemon = True  # the timer must not keep a process that exits earlier
    end.start()


def _end_with(parent: BaseProcess) -> None:
    """End a worker whose server was killed, even during startup: it would keep the port from the next server."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


async def _watch_database() -> None:
    """Restart the embedded PostgreSQL whenever it has died, however long its recovery takes."""
    server = database.embedded()
    while server:
        await asyncio.to_thread(_keep_running, server)  # if it hangs, even the check takes a second
        await asyncio.sleep(WATCH_SECONDS)


def _keep_running(server: EmbeddedPostgres) -> None:
    try:
        if not server.is_held():
            server.hold()
        elif not server.is_alive() or server.is_stuck():
            log.warning("the embedded PostgreSQL has stopped; restarting it")
            server.ensure_running()
            log.info("the embedded PostgreSQL runs again")
    except PostgresError as error:
        log.error("%s", error)
    except Exception:  # the watch must go on after any error
        log.exception("the embedded PostgreSQL could not be checked")
