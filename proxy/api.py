"""Routes: decode, call the pipeline, encode.

Paths arrive here as the client wrote them, not percent-decoded (see reservoir_site/guard.py), so that
`instance/team%2Falice` is one instance.
"""

from __future__ import annotations

import logging
import traceback
from typing import cast
from urllib.parse import unquote

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.urls import register_converter
from ninja import NinjaAPI, Path, Router
from ninja.errors import ValidationError

from proxy import pipeline, runtime
from proxy.call import Call
from proxy.errors import BadRequest, MethodNotAllowed, NotFound, ReservoirError
from proxy.handler import ApiRequest, RelayedResponse, WholeResponse
from proxy.memory_api import at_most, original_form
from proxy.memory_api import router as memory_router
from proxy.pipeline import Outcome

ALL = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NOT_POST = [method for method in ALL if method != "POST"]


class SegmentConverter:
    """A path segment, which may be empty: what is wrong with a name is said by Call."""

    regex = "[^/]*"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(SegmentConverter, "segment")
BASE = "/partition/{segment:partition}/instance/{segment:instance}"

log = logging.getLogger(__name__)

router = Router()


@router.api_operation(["POST"], "/chat/completions")
async def chat_completions(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """OpenAI's chat completions, with a memory."""
    return _encode(await pipeline.complete(_call(request, partition, instance), runtime.current()))


@router.api_operation(NOT_POST, "/chat/completions", include_in_schema=False)
async def kept_completions(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """Other methods on the same path are the provider's business."""
    return await pass_through(request, partition, instance, "chat/completions")


@router.api_operation(["GET", "POST"], "/recall")
async def recall(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """What a chat completion with a text would be given of its memory, and why."""
    return _encode(await pipeline.recall(_call(request, partition, instance), runtime.current()))


@router.api_operation([method for method in ALL if method not in ("GET", "POST")], "/recall", include_in_schema=False)
async def no_recall(request: HttpRequest, partition: Path[str], instance: Path[str]) -> HttpResponseBase:
    """This path is ours, not the provider's."""
    raise MethodNotAllowed("Recall takes GET and POST.")


@router.get("/command/view/{segment:count}", tags=["original"])
async def view(request: HttpRequest, partition: Path[str], instance: Path[str], count: Path[int]) -> HttpResponseBase:
    """The latest messages, oldest first, as the original Reservoir gives them."""
    scope = _call(request, partition, instance).options.scope
    return original_form(await runtime.current().history.view(at_most(count), **scope._asdict()))


@router.get("/command/search/{segment:count}", tags=["original"])
async def search(
    request: HttpRequest,
    partition: Path[str],
    instance: Path[str],
    count: Path[int],
    term: str,
    semantic: bool = False,
) -> HttpResponseBase:
    """Messages with these words, or near to them in meaning, as the original Reservoir gives them."""
    scope = _call(request, partition, instance).options.scope
    history = runtime.current().history
    return original_form(await history.search(term, semantic=semantic, limit=at_most(count), **scope._asdict()))


@router.api_operation(ALL, "/command/{path:rest}", include_in_schema=False)
async def no_command(request: HttpRequest, partition: Path[str], instance: Path[str], rest: str) -> HttpResponseBase:
    """A misspelt command, and what was searched for, are not the provider's business."""
    raise NotFound("There is no such command: there are command/view/{count} and command/search/{count}?term=…")


@router.api_operation(ALL, "/{path:rest}", include_in_schema=False)
async def pass_through(request: HttpRequest, partition: Path[str], instance: Path[str], rest: str) -> HttpResponseBase:
    """Everything else under the base URL goes to the provider untouched."""
    if any(unquote(part) in (".", "..") for part in unquote(rest).replace("\\", "/").split("/")):
        raise BadRequest("A path with dot segments is not passed on.", code="invalid_path")
    call = _call(request, partition, instance)
    return _encode(await pipeline.pass_through(call, rest, runtime.current()))


old_router = Router()  # the path as clients of the original Reservoir write it
old_router.api_operation(["POST"], "/chat/completions", include_in_schema=False)(chat_completions)

api = NinjaAPI(title="Reservoir", docs_url="/v1/docs", openapi_url="/v1/openapi.json")
api.add_router("/v1/memory", memory_router)
api.add_router("/v1" + BASE, router)
api.add_router(BASE + "/v1", old_router)


@api.exception_handler(ReservoirError)
def refuse(request: HttpRequest, error: ReservoirError) -> HttpResponseBase:
    """OpenAI's error shape, the same on every route."""
    return WholeResponse(error.status, error.headers, error.body())


@api.exception_handler(Exception)
def fail(request: HttpRequest, error: Exception) -> HttpResponseBase:
    """A fault of ours. The log says where, and not what the error says: that may quote content."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s %s failed (%s)\n%s", request.method, request.path, type(error).__name__, where)
    return refuse(request, ReservoirError("Something went wrong here; the server's log says where."))


@api.exception_handler(ValidationError)
def refuse_parameters(request: HttpRequest, error: ValidationError) -> HttpResponseBase:
    """What a parameter should be, without repeating what was sent."""
    first = error.errors[0]
    name = str(first["loc"][-1])
    return refuse(request, BadRequest(f"{name}: {first['msg']}.", code="invalid_parameter", param=name))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """Paths under /v1/ and /partition/ that are no route."""
    where = "/v1/partition/{partition}/instance/{instance}"
    return refuse(request, NotFound(f"There is no such route here: the base URL is {where}."))


def _call(request: HttpRequest, partition: str, instance: str) -> Call:
    request = cast(ApiRequest, request)
    return Call.of(
        request.method or "",
        partition=partition,
        instance=instance,
        headers=request.scope["headers"],  # as sent: Django's own joins repeated ones
        query=request.META["QUERY_STRING"],
        body=request.file,
        budget=settings.RESERVOIR_MEMORY_BUDGET,
        closing=request.closing,
    )


def _encode(outcome: Outcome) -> HttpResponseBase:
    if isinstance(outcome.body, bytes):
        return WholeResponse(outcome.status, outcome.headers, outcome.body)
    return RelayedResponse(outcome.status, outcome.headers, outcome.body)
