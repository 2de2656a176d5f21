"""Routes: decode, call the pipeline, encode.

Paths arrive as the client wrote them, not percent-decoded (see reservoir_site/guard.py), so `instance/team%2Falice`
is one instance.
"""

from __future__ import annotations

import logging
import traceback
from typing import cast
from urllib.parse import unquote

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponseBase
from django.urls import register_converter
from ninja import NinjaAPI, Path, Router
from ninja.errors import ValidationError

from access.rights import Right
from proxy import background, pipeline, runtime
from proxy.admission.gate import caller_of
from proxy.authorization import needs, needs_any, needs_scope, require_relay
from proxy.call import Call
from proxy.dialects.dialect import Dialect
from proxy.dialects.known import BY_PATH, refusal
from proxy.errors import BadRequest, MethodNotAllowed, NotFound, ReservoirError
from proxy.handler import ApiRequest, RelayedResponse, WholeResponse
from proxy.mcp import http
from proxy.mcp.assistant import Assistant
from proxy.memory_api import Text, at_most, original_form
from proxy.memory_api import router as memory_router
from proxy.pipeline import Outcome
from proxy.routes import BASE, CHAT_COMPLETIONS, MCP, MEMORY, MESSAGES, NO_MEMORY, RECALL, RESPONSES, VERSION, spelled

ALL = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NOT_POST = [method for method in ALL if method != "POST"]
NEITHER_GET_NOR_POST = [method for method in NOT_POST if method != "GET"]


class SegmentConverter:
    """A path segment, which may be empty: Call refuses wrong names with an explanation."""

    regex = "[^/]*"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(SegmentConverter, "segment")

log = logging.getLogger(__name__)

router = Router(auth=needs(Right.COMPLETE))  # unless a route declares another right


async def ask(dialect: Dialect, request: HttpRequest, partition: str, instance: str) -> HttpResponseBase:
    """A question to a model, with a memory."""
    return _encode(await pipeline.complete(_call(request, partition, instance), dialect, runtime.current()))


@router.api_operation(["POST"], CHAT_COMPLETIONS, auth=needs(Right.COMPLETE))
async def chat_completions(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """OpenAI's chat completions, with a memory."""
    return await ask(BY_PATH[CHAT_COMPLETIONS], request, partition, instance)


@router.api_operation(NOT_POST, CHAT_COMPLETIONS, auth=needs(Right.COMPLETE), include_in_schema=False)
async def kept_completions(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """Other methods on this path go to the provider."""
    return await pass_through(request, partition, instance, "chat/completions")


@router.api_operation(["POST"], RESPONSES, auth=needs(Right.COMPLETE))
async def responses(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """OpenAI's Responses, with a memory."""
    return await ask(BY_PATH[RESPONSES], request, partition, instance)


@router.api_operation(NOT_POST, RESPONSES, auth=needs(Right.COMPLETE), include_in_schema=False)
async def other_responses(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """Other methods on this path go to the provider."""
    return await pass_through(request, partition, instance, "responses")


@router.api_operation(["POST"], MESSAGES, auth=needs(Right.COMPLETE))
async def messages(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """Anthropic's Messages, with a memory."""
    return await ask(BY_PATH[MESSAGES], request, partition, instance)


@router.api_operation(NOT_POST, MESSAGES, auth=needs(Right.COMPLETE), include_in_schema=False)
async def other_messages(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """Other methods on this path go to the provider."""
    return await pass_through(request, partition, instance, "messages")


@router.api_operation(["GET", "POST"], RECALL, auth=needs(Right.RECALL))
async def recall(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """The memories that a chat completion with this text would be given, and why."""
    return _encode(await pipeline.recall(_call(request, partition, instance), runtime.current()))


@router.api_operation(NEITHER_GET_NOR_POST, RECALL, auth=needs(Right.RECALL), include_in_schema=False)
async def no_recall(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """Other methods on this path do not go to the provider: the path is ours."""
    raise MethodNotAllowed("Recall takes GET and POST.")


@router.api_operation(ALL, MCP, auth=needs_scope(), include_in_schema=False)
async def mcp(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """The memory of the scope as MCP tools, each of which asks for its own right."""
    call = _call(request, partition, instance)
    assistant = Assistant(call.scope, call.caller)
    return _encode(await http.answer(cast(ApiRequest, request), assistant))


@router.get("/command/view/{segment:count}", auth=needs(Right.READ), tags=["original"])
async def view(request: HttpRequest, partition: Path[str], instance: Path[str], count: Path[int]) -> HttpResponseBase:
    """The latest messages, oldest first, in the original Reservoir's format."""
    scope = _call(request, partition, instance).scope
    return await original_form(await runtime.current().history.view(at_most(count), **scope._asdict()))


@router.get("/command/search/{segment:count}", auth=needs(Right.READ), tags=["original"])
async def search(
    request: HttpRequest,
    partition: Path[str],
    instance: Path[str],
    count: Path[int],
    term: Text,
    semantic: bool = False,
) -> HttpResponseBase:
    """Messages with these words, or similar in meaning, in the original Reservoir's format."""
    scope = _call(request, partition, instance).scope
    history = runtime.current().history
    return await original_form(await history.search(term, semantic=semantic, limit=at_most(count), **scope._asdict()))


@router.api_operation(ALL, "/command/{path:rest}", auth=needs(Right.READ), include_in_schema=False)
async def no_command(request: HttpRequest, partition: Path[str], instance: Path[str], rest: str) -> HttpResponseBase:
    """A misspelt command does not go to the provider, and neither does its search term."""
    raise NotFound("No such command: use command/view/{count} or command/search/{count}?term=…")


@router.api_operation(ALL, "/{path:rest}", auth=needs(Right.COMPLETE), include_in_schema=False)
async def pass_through(request: HttpRequest, partition: Path[str], instance: Path[str], rest: str) -> HttpResponseBase:
    """Everything else under the base URL goes to the provider untouched."""
    if any(unquote(part) in (".", "..") for part in unquote(rest).replace("\\", "/").split("/")):
        raise BadRequest("Paths with dot segments are not passed on.", code="invalid_path")
    if request.method == "POST" and (dialect := BY_PATH.get(spelled(rest))):
        return await ask(dialect, request, partition, instance)
    call, run = _call(request, partition, instance), runtime.current()
    awaited = background.response_id(spelled(rest)) if request.method == "GET" else ""
    if awaited and (fetched := await background.fetch(call, rest, awaited, run)):
        return _encode(fetched)
    require_relay(call.caller, call.method, spelled(rest), call.headers)
    return _encode(await pipeline.pass_through(call, rest, run))


# For clients that append /v1 to a base URL: the original Reservoir's, and Anthropic's.
old_router = Router(auth=needs(Right.COMPLETE))
old_router.api_operation(["GET", "POST"], RECALL, auth=needs(Right.RECALL), include_in_schema=False)(recall)
old_router.api_operation(ALL, MCP, auth=needs_scope(), include_in_schema=False)(mcp)
old_router.api_operation(ALL, "/command/{path:rest}", auth=needs(Right.READ), include_in_schema=False)(no_command)
old_router.api_operation(ALL, "/{path:rest}", auth=needs(Right.COMPLETE), include_in_schema=False)(pass_through)

api = NinjaAPI(
    title="Reservoir",
    version=settings.RESERVOIR_VERSION,
    docs_url=f"{VERSION}/docs",
    openapi_url=f"{VERSION}/openapi.json",
    docs_decorator=needs_any,
)
api.add_router(MEMORY, memory_router)
api.add_router(VERSION + BASE, router)
api.add_router(BASE + VERSION, old_router)


@api.exception_handler(ReservoirError)
def refuse(request: HttpRequest, error: ReservoirError) -> HttpResponseBase:
    """Every route reports errors in OpenAI's shape; below a scope the answer says that memory had no part in it."""
    headers = error.headers
    if "/instance/" in request.path and not any(name == NO_MEMORY[0] for name, _ in headers):
        headers = [*headers, NO_MEMORY]
    sent = getattr(request, "scope", {}).get("headers", ())
    return WholeResponse(error.status, headers, refusal(request.path, sent, error))


@api.exception_handler(Exception)
def fail(request: HttpRequest, error: Exception) -> HttpResponseBase:
    """A fault of ours. The log names the place, not the error's message: that may quote content."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s %s failed (%s)\n%s", request.method, request.path, type(error).__name__, where)
    return refuse(request, ReservoirError("Internal error in Reservoir: see the server's log."))


@api.exception_handler(SuspiciousOperation)
def refuse_suspicious(request: HttpRequest, error: Exception) -> HttpResponseBase:
    """Django refuses to read more than 1,000 parameters."""
    return refuse(request, BadRequest("The parameters of this request cannot be read.", code="invalid_parameter"))


@api.exception_handler(ValidationError)
def refuse_parameters(request: HttpRequest, error: ValidationError) -> HttpResponseBase:
    """Says what the parameter should be, without repeating its value."""
    first = error.errors[0]
    name = str(first["loc"][-1])
    return refuse(request, BadRequest(f"{name}: {first['msg']}.", code="invalid_parameter", param=name))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """For paths of the API that match no route."""
    base_url = f"{VERSION}/partition/{{partition}}/instance/{{instance}}"
    return refuse(request, NotFound(f"This route does not exist: the base URL is {base_url}."))


def _call(request: HttpRequest, partition: str, instance: str) -> Call:
    request = cast(ApiRequest, request)
    return Call.of(
        request.method or "",
        partition=partition,
        instance=instance,
        headers=request.scope["headers"],  # as sent: Django joins repeated headers
        query=request.META["QUERY_STRING"],
        body=request.file,
        budget=settings.RESERVOIR_MEMORY_BUDGET,
        closing=request.closing,
        caller=caller_of(request.scope),
    )


def _encode(outcome: Outcome) -> HttpResponseBase:
    if isinstance(outcome.body, bytes):
        return WholeResponse(outcome.status, outcome.headers, outcome.body)
    return RelayedResponse(outcome.status, outcome.headers, outcome.body)
