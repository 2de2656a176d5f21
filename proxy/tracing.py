"""Traces for OpenTelemetry: a span for each exchange, in the names of its GenAI conventions, and one for each phase.

They are made where OTEL_EXPORTER_OTLP_ENDPOINT names a collector, and sent by OpenTelemetry's own thread. They have
no content: model, provider, counts and times alone. https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from proxy.metrics import Ended

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

ENDPOINT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def start_traces(environment: Mapping[str, str]) -> None:
    """Make traces if a collector is named. Raises ValueError where OpenTelemetry is not installed."""
    global _provider, _tracer
    if not any(environment.get(name) for name in ENDPOINT):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ValueError(
            f"{ENDPOINT[0]} asks for traces: install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http."
        ) from None
    named = {"service.name": environment.get("OTEL_SERVICE_NAME") or "reservoir"}
    _provider = TracerProvider(resource=Resource.create(named))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("reservoir")


def end_traces() -> None:
    """Send the last traces, and make no more. Blocks."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider:
        provider.shutdown()


def exchange_ended(found: Ended, *, trace_id: str, parent: str) -> None:
    """Make the spans of an exchange. `parent` is the client's traceparent (W3C Trace Context), if it sent one."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    end = time.time_ns()
    begun = end - _nanoseconds(found.timings.get("total", 0))
    told: dict[str, str | int] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": found.provider,
        "gen_ai.request.model": found.model,
        "reservoir.trace_id": trace_id,
        "reservoir.ended": found.ended,
        "reservoir.memories": found.memories,
    }
    for attribute, name in (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens")):
        if type(count := found.usage.get(name)) is int:
            told[f"gen_ai.usage.{attribute}"] = count
    context = TraceContextTextMapPropagator().extract({"traceparent": parent})
    span = _tracer.start_span(f"chat {found.model}", context, SpanKind.CLIENT, told, start_time=begun)
    at = begun
    for phase, milliseconds in found.timings.items():
        if phase != "total":
            part = _tracer.start_span(phase, set_span_in_context(span), start_time=at)
            at += _nanoseconds(milliseconds)
            part.end(at)
    if found.ended in ("failed", "cut"):
        span.set_attribute("error.type", found.ended)
        span.set_status(Status(StatusCode.ERROR))
    span.end(end)


def _nanoseconds(milliseconds: float) -> int:
    return int(milliseconds * 1_000_000)
