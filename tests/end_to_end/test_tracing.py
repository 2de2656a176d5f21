"""Traces reach a collector that speaks OTLP over HTTP: GenAI's names, the client's trace, and no content."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.end_to_end.conftest import StartServer
from tests.fake_provider.answers import Answer, error_body
from tests.fake_provider.provider import FakeProvider
from tests.faults.watching import eventually

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Keeps what it receives at /v1/traces."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        keep = self.bodies.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keep(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Any]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_exchange_is_a_span_with_its_phases_in_the_clients_trace(
    start_beside: StartServer, provider: FakeProvider, collector: Collector, scope: tuple[str, str]
) -> None:
    server = start_beside({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"})
    url = f"{server.base_url(*scope)}/chat/completions"
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": "A telling question"}]}
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    assert httpx.post(url, json=body, headers=headers, trust_env=False, timeout=300).status_code == 200
    provider.answer(Answer(500, body=error_body("Broken.")))
    assert httpx.post(url, json=body, trust_env=False, timeout=300).status_code == 500
    eventually(lambda: len([span for span in collector.spans if span.name == "chat gpt-4"]) == 2)

    good, bad = (span for span in collector.spans if span.name == "chat gpt-4")
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, SPAN)
    told = {one.key: one.value.string_value or one.value.int_value for one in good.attributes}
    assert told["gen_ai.operation.name"] == "chat" and told["gen_ai.provider.name"] == "openai"
    assert told["gen_ai.request.model"] == "gpt-4" and told["gen_ai.usage.input_tokens"] > 0
    phases = {span.name for span in collector.spans if span.parent_span_id == good.span_id}
    assert phases >= {"recall", "enrich", "provider"}
    assert (good.status.code, bad.status.code) == (0, 2)
    assert b"telling" not in b"".join(collector.bodies)
    assert scope[0].encode() not in b"".join(collector.bodies)
