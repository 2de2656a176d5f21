"""The model that a request names: in its JSON, in a field of its form, or in its path. Pure."""

from __future__ import annotations

import json
import re
from email.message import Message
from urllib.parse import quote, unquote

from proxy.prompt.json_cost import is_costly

LOOKED_AT = 2**16  # bytes at each end of a form; a file may lie between them
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\\x00-\x1f]{1,500})"')
_MODELS = "models/"
_MOST_FIELDS = 1000  # of a form; the model is not looked for in later ones
_LONGEST_NAME = 500  # bytes of a model's name
_LONGEST_TYPE = 500  # bytes of a Content-Type that is parsed: the parser's work grows with the square of its length
_LONGEST_BOUNDARY = 70  # characters (RFC 2046)
_LINE = b"\r\n"
_EMPTY_LINE = b"\r\n\r\n"


def in_json(body: bytes) -> str:
    """The model that a JSON body names; empty if it names none. One that is costly to parse names it near an end."""
    if is_costly(body):
        span = span_in_json(body)
        return body[slice(*span)].decode(errors="replace") if span else ""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    model = fields.get("model") if isinstance(fields, dict) else None
    return model if isinstance(model, str) else ""


def span_in_json(body: bytes) -> tuple[int, int] | None:
    """The span of the model's name in a body that is not parsed: many thousand numbers, for embeddings."""
    tail = max(LOOKED_AT, len(body) - LOOKED_AT)
    found = _MODEL.search(body, 0, LOOKED_AT) or _MODEL.search(body, tail)
    return found.span(1) if found else None


def in_form(part: bytes, content_type: bytes) -> str:
    """The model that this part of a form names; empty if it names none."""
    span = _field(part, content_type)
    return part[slice(*span)].decode(errors="replace") if span else ""


def in_path(rest: str) -> str:
    """The model in the path models/{model}; empty in other paths."""
    return unquote(rest.removeprefix(_MODELS)) if rest.startswith(_MODELS) else ""


def renamed_in_form(body: bytes, content_type: bytes, model: str) -> bytes:
    """The form with another model."""
    span = _field(body, content_type)
    return body[: span[0]] + model.encode() + body[span[1] :] if span else body


def renamed_in_path(model: str) -> str:
    """The path models/{model}."""
    return _MODELS + quote(model, safe="/:")


def _field(part: bytes, content_type: bytes) -> tuple[int, int] | None:
    """The span of the value of the field `model` (RFC 7578). Files cannot contain the boundary, so none is mistaken.

    Each byte is looked at a fixed number of times, whatever the form contains.
    """
    boundary = _boundary(content_type)
    if not boundary:
        return None
    edge = b"--" + boundary
    end = part.find(edge)
    for _ in range(_MOST_FIELDS):
        if end < 0:
            break
        start, end = end + len(edge), part.find(edge, end + len(edge))
        if end >= 0 and (span := _value_of_model(part, start, end)):
            return span
    return None


def _boundary(content_type: bytes) -> bytes:
    """The boundary that a Content-Type names; empty for one that no form can have."""
    if len(content_type) > _LONGEST_TYPE:
        return b""
    header = Message()
    header["Content-Type"] = content_type.decode("latin-1")
    try:
        boundary = (header.get_boundary() or "").encode("ascii")
    except (ValueError, LookupError, TypeError):  # as of boundary*=utf-8''%ff
        return b""
    return boundary if len(boundary) <= _LONGEST_BOUNDARY else b""


def _value_of_model(part: bytes, start: int, end: int) -> tuple[int, int] | None:
    """The span of the value between two edges, if the field there is `model`."""
    if not part.startswith(_LINE, start) or not part.endswith(_LINE, start, end):
        return None
    head_end, value_end = part.find(_EMPTY_LINE, start, end), end - len(_LINE)
    value_start = head_end + len(_EMPTY_LINE)
    if head_end < 0 or not 0 < value_end - value_start <= _LONGEST_NAME:
        return None
    value = part[value_start:value_end]
    if b"\r" in value or b"\n" in value:
        return None
    lines = part[start + len(_LINE) : head_end].split(_LINE)
    return (value_start, value_end) if any(_names_model(line) for line in lines) else None


def _names_model(line: bytes) -> bool:
    """Whether a header line is `Content-Disposition: form-data; name="model"`."""
    name, _, value = line.lower().partition(b":")
    parts = [piece.strip(b" ") for piece in value.split(b";")]
    return name == b"content-disposition" and parts == [b"form-data", b'name="model"']
