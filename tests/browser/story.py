"""Sample conversations: the real client asks the real server, in front of a scripted provider."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from openai import APIStatusError, OpenAI

from reservoir_site.postgres_folder import embedded_location
from tests.fake_provider.answers import Answer, Pause, Request, completion, error_body
from tests.fake_provider.provider import FakeProvider
from tests.server import Server

SCOPE = ("home", "kitchen-assistant")
QUESTION = "Which restaurant should I book for Friday, and is there anything we must not eat?"
ANSWER = (
    "Try Taberna do Mar in Alfama, a short walk from your hotel. Tell them that Mara is allergic to shellfish, also "
    "in soups and rice dishes, and ask for an early table."
)
SECRET = "Mara is badly allergic to shellfish"

Line = tuple[int, str, str]
DAY = 24 * 60


def _read(text: str) -> list[Line]:
    """Read story.txt: minutes since the previous message, a question, a rule, its answer."""
    lines = []
    for exchange in text.split("=== ")[1:]:
        minutes, said = exchange.split("\n", 1)
        question, answer = said.split("\n---\n", 1)
        lines.append((int(minutes), question, answer.strip()))
    return lines


TALK = _read(Path(__file__).with_name("story.txt").read_text())

ELSEWHERE = {
    ("support-desk", "ticket-4711"): (
        "My invoice of March shows the wrong VAT number.",
        "Can you send a corrected one?",
    ),
    ("support-desk", "ticket-4712"): ("The app logs me out every hour.", "Yes, on both devices.", "It is version 5.2."),
    ("support-desk", "ticket-4720"): ("How do I add a second user?",),
    ("code-review", "payments-api"): ("Review this diff: retry without idempotency key.", "And the timeout?"),
    ("code-review", "mobile"): ("Is a ViewModel right here?", "What about rotation?"),
    ("newsletter", "drafts"): ("A headline for our spring issue, please.", "Shorter.", "With a verb."),
}


def tell(server: Server, provider: FakeProvider) -> None:
    """Hold the conversations, spread over the last days; tests ask about the last exchange."""
    home = Teller(server, provider, SCOPE)
    others = [(Teller(server, provider, scope), list(lines)) for scope, lines in ELSEWHERE.items()]
    for minutes, question, answer in TALK:
        home.wait(minutes)
        home.say(question, answer)
        for other, lines in others:
            if lines and minutes >= 4:
                other.say(lines.pop(0), "Let me look into that. " * 3)
    others[0][0].fail("Is there a discount for schools?")
    home.tool_call()
    home.wait(DAY)
    home.say(QUESTION, ANSWER, seconds=0.35)


class Teller:
    """One conversation. Time passes by moving all earlier messages into the past."""

    def __init__(self, server: Server, provider: FakeProvider, scope: tuple[str, str]) -> None:
        self._server, self._provider, self._scope = server, provider, scope
        self._client = OpenAI(base_url=server.base_url(*scope), api_key="sk-story", max_retries=0)

    def say(self, question: str, answer: str, seconds: float = 0.0) -> None:
        def scripted(request: Request) -> Answer:
            given = sum(len(json.dumps(message)) for message in request.messages) // 4
            made = len(answer) // 4
            usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
            body = completion(answer, model="gpt-4o-mini", usage=usage)
            return Answer(body=body, before=[Pause(seconds)] if seconds else ())

        self._provider.answer(scripted)
        self._client.chat.completions.create(
            model="gpt-4o-mini",
            temperature=0.3,
            messages=[
                {"role": "system", "content": "You are the family's assistant. Answer briefly."},
                {"role": "user", "content": question},
            ],
        )

    def fail(self, question: str) -> None:
        self._provider.answer(
            Answer(status=429, body=error_body("Rate limit reached", kind="requests", code="rate_limit"))
        )
        try:
            self._client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": question}])
        except APIStatusError:
            return
        raise AssertionError("the provider was to fail")

    def tool_call(self) -> None:
        """A question that the model answers by using a tool."""
        call: dict[str, Any] = {
            "id": "call_weather",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Lisbon", "days": 3}'},
        }
        asking: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
        history: list[Any] = [{"role": "user", "content": "Will it rain in Lisbon this week?"}]
        self._provider.answer(Answer(body=completion("", model="gpt-4o-mini", message=asking)))
        self._client.chat.completions.create(model="gpt-4o-mini", messages=history)
        result = {
            "role": "tool",
            "tool_call_id": "call_weather",
            "content": '{"rain_mm": [0, 0.4, 6], "max": [18, 17, 15]}',
        }
        history += [asking, result]
        self._provider.answer(
            Answer(
                body=completion(
                    "Dry until Thursday, then a wet day. Take the oceanarium for Friday.", model="gpt-4o-mini"
                )
            )
        )
        self._client.chat.completions.create(model="gpt-4o-mini", messages=history)

    def date(self, moment: datetime) -> None:
        """Move this conversation's exchanges to a moment; those of other conversations stay."""
        with self._database() as connection:
            connection.execute(
                "UPDATE conversations_exchange e SET created = %(moment)s, finished = %(moment)s "
                "FROM conversations_instance i JOIN conversations_partition p ON p.id = i.partition_id "
                "WHERE e.instance_id = i.id AND (p.name, i.name) = (%(partition)s, %(instance)s)",
                {"moment": moment, "partition": self._scope[0], "instance": self._scope[1]},
            )

    def _database(self) -> psycopg.Connection:
        where = embedded_location(self._server.home)
        return psycopg.connect(host=where.host, port=where.port, user=where.user, dbname=where.dbname)

    def wait(self, minutes: int) -> None:
        with self._database() as connection:
            by = timedelta(minutes=minutes)
            connection.execute("UPDATE conversations_message SET created = created - %s", [by])
            connection.execute(
                "UPDATE conversations_exchange SET created = created - %s, finished = finished - %s", [by, by]
            )
            connection.execute(
                "UPDATE conversations_instance SET created = created - %s, last_active = last_active - %s", [by, by]
            )
