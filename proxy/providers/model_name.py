"""The model that a request names: in its JSON, in a field of its form, or in its path. Pure."""

from __future__ import annotations

import json
import re
from email.message import Message
from urllib.parse import quote, unquote

LOOKED_AT = 2**16  # bytes at each end of a form; a file may lie between them
_MODELS = "models/"
_NAMED_MODEL = re.compile(rb'^Content-Disposition: *form-data; *name="model" *$', re.IGNORECASE | re.MULTILINE)


def in_json(body: bytes) -> str:
    """The model that a JSON body names; empty if it names none."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    model = fields.get("model") if isinstance(fields, dict) else None
    return model if isinstance(model, str) else ""


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
    """The span of the value of the field `model` (RFC 7578). Files cannot contain the boundary, so none is mistaken."""
    header = Message()
    header["Content-Type"] = content_type.decode("latin-1")
    boundary = header.get_boundary()
    if not boundary:
        return None
    edge = re.escape(b"--" + boundary.encode("latin-1"))
    for match in re.finditer(edge + rb"\r\n((?:[^\r\n]+\r\n)+)\r\n([^\r\n]{1,500})(?=\r\n" + edge + rb")", part):
        if _NAMED_MODEL.search(match.group(1).replace(b"\r\n", b"\n")):
            return match.span(2)
    return None
