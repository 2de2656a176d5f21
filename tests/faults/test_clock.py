"""The clock is set back by hours in a running server, also while its embedding endpoint is down."""

from __future__ import annotations

import re
from pathlib import Path

import httpx

from tests.fake_provider.provider import FakeProvider
from tests.faults.app import App
from tests.faults.breaking import postgres_down
from tests.faults.conftest import StartServer
from tests.faults.stored import recovered, rows
from tests.faults.watching import eventually
from tests.server import ROOT, Server

HOUR = 3600


def set_clock(home: Path, hours: float) -> None:
    """Set the server's clock off by this much."""
    draft = home / "clock.draft"
    draft.write_text(str(hours * HOUR))
    draft.rename(home / "clock")


def logged_in(server: Server) -> httpx.Client:
    login = dict(line.split() for line in (server.home / "admin_login").read_text().splitlines())
    browser = httpx.Client(base_url=server.url, trust_env=False, follow_redirects=True)
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get("/admin/login/").text)
    assert token
    form = {"username": login["user"], "password": login["password"], "csrfmiddlewaretoken": token[1]}
    assert browser.post("/admin/login/?next=/admin/", data=form).url.path == "/admin/"
    return browser


def in_order_of_time(app: App) -> list[str]:
    """The app's messages as each reader that sorts by time returns them."""
    found = rows(
        app.server.home,
        """SELECT m.content FROM conversations_message m JOIN conversations_instance i ON i.id = m.instance_id
           WHERE i.name = %s AND m.role = 'user' ORDER BY m.created, m.id""",
        app.scope[1],
    )
    return [content for (content,) in found]


def test_a_clock_that_is_set_back_reorders_and_stops_nothing(start_server: StartServer, provider: FakeProvider) -> None:
    with FakeProvider() as endpoint:
        server = start_server(
            {
                "PYTHONPATH": str(ROOT / "tests" / "faults" / "inside"),
                "RESERVOIR_EMBEDDER": f"{endpoint.base_url}#small",
                "RESERVOIR_EMBEDDER_DIMENSIONS": "1536",
                "RESERVOIR_RECENT_MESSAGES": "4",
            }
        )
        app = App(server)
        app.ask("my parrot is called Kiko")
        browser = logged_in(server)

        # The endpoint goes down: recall uses words only, and new messages wait for their vectors.
        endpoint.stop()
        assert [app.memory(f"before {n}") for n in range(3)] == ["degraded"] * 3
        count = "SELECT count(*) FROM conversations_message WHERE embed_due IS NOT NULL"
        assert rows(server.home, count) != [(0,)]

        # Set back by 5 hours, then, without PostgreSQL, by 2 more.
        set_clock(server.home, -5)
        for n in range(3):
            app.ask(f"after {n}")
        with postgres_down(server.home):
            app.ask("away 0")
            set_clock(server.home, -7)
            for n in range(1, 3):
                app.ask(f"away {n}")
        endpoint.start()
        recovered(server)

        said = ["warm", "my parrot is called Kiko"]
        said += [f"{when} {n}" for when in ("before", "after", "away") for n in range(3)]
        assert app.said() == said, "not in the order in which it was said"
        assert in_order_of_time(app) == said, "a later turn has an earlier time"

        # Work that was due before the jump must not wait until the clock has caught up.
        eventually(lambda: rows(server.home, count) == [(0,)])
        provider.reset()
        assert app.memory("what is my parrot called?") == "on"
        shown = [str(message["content"]) for message in provider.chats[-1].messages]
        latest = [text for text in shown if text.removeprefix("You said: ").startswith("away")]
        assert latest == ["away 1", "You said: away 1", "away 2", "You said: away 2"]
        assert any("Kiko" in text for text in shown), "recall found nothing"
        assert browser.get("/admin/").url.path == "/admin/", "the login does not count any more"
        browser.close()
