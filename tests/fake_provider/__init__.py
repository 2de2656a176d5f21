"""A provider that speaks the OpenAI API over real HTTP on loopback and records what it received.

In tests it runs in a thread of the test process, and every byte of its answers can be scripted:

    with FakeProvider() as provider:
        provider.answer(Answer(429, [("Retry-After", "7")], error_body("Slow down.")))
        provider.answer(stream_answer("Hello there", tail=[Cut.RST], done=False))
        ...
        assert provider.last.json["messages"][-1]["content"] == "Hi"
"""

from tests.fake_provider.answers import (
    Answer,
    Cut,
    Gate,
    Pause,
    Request,
    chunk,
    completion,
    error_body,
    event,
    pieces_of,
    stream_answer,
    stream_events,
    text_answer,
)
from tests.fake_provider.provider import FakeProvider, black_hole, closed_port

__all__ = [
    "Answer",
    "Cut",
    "FakeProvider",
    "Gate",
    "Pause",
    "Request",
    "black_hole",
    "chunk",
    "closed_port",
    "completion",
    "error_body",
    "event",
    "pieces_of",
    "stream_answer",
    "stream_events",
    "text_answer",
]
