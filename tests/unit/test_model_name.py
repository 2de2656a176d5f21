"""proxy/providers/model_name.py: the model in a JSON body, a form or a path."""

from __future__ import annotations

import pytest

from proxy.providers import model_name


def form(*fields: bytes) -> bytes:
    return b"".join(b"--b\r\n" + field + b"\r\n" for field in fields) + b"--b--\r\n"


KIND = b"multipart/form-data; charset=utf-8; boundary=b"
MODEL = b'Content-Disposition: form-data; name="model"\r\n\r\nmistral/voxtral-mini'
TYPED = b'content-disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\nwhisper-1'
FILE = b'Content-Disposition: form-data; name="file"; filename="model"\r\n\r\nRIFF name="model" \r\n\r\nx'


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(MODEL, FILE), "mistral/voxtral-mini"),
        (form(FILE, MODEL), "mistral/voxtral-mini"),
        (form(TYPED), "whisper-1"),
        (form(FILE), ""),
        (
            form(
                b'Content-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
                + form(MODEL).replace(b"--b", b"--c")
            ),
            "",
        ),
        (b"", ""),
    ],
)
def test_a_form_has_the_model_in_a_field(body: bytes, model: str) -> None:
    assert model_name.in_form(body, KIND) == model
    assert model_name.in_form(body, KIND.replace(b"=b", b'="b"')) == model
    assert model_name.in_form(body, b"multipart/form-data") == ""


def test_a_models_name_is_replaced_in_a_form() -> None:
    body = form(FILE, MODEL)
    assert model_name.renamed_in_form(body, KIND, "voxtral-mini") == body.replace(
        b"mistral/voxtral-mini", b"voxtral-mini"
    )
    assert model_name.renamed_in_form(form(FILE), KIND, "x") == form(FILE)


@pytest.mark.parametrize(
    ("rest", "model"),
    [("models/gpt-4o", "gpt-4o"), ("models/a%2Fb", "a/b"), ("models", ""), ("files/models/x", ""), ("models/", "")],
)
def test_a_path_has_the_model(rest: str, model: str) -> None:
    assert model_name.in_path(rest) == model


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": 5}', b"[" * 100_000])
def test_a_body_without_a_model_has_none(body: bytes) -> None:
    assert model_name.in_json(body) == ""


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\n" * 100_000,
        b"--b\r\na\r\n" * 60_000,
        b"--b\r\n" + b"a\r\n" * 100_000,
        b"--b\r\n\r\n" * 60_000,
        b"-" * 400_000,
        b"--b\r\n" + MODEL[:40] + b" " * 400_000,
    ],
)
def test_a_hostile_form_is_read_in_one_pass(body: bytes) -> None:
    assert model_name.in_form(body, KIND) == ""


@pytest.mark.parametrize(
    "boundary",
    [
        b"boundary*=utf-8''%ff",
        b"boundary*=nonsense''%ff",
        b"boundary*=utf-8''%00",
        b"boundary*0*=x",
        b"boundary=" + b"b" * 71,
        b"boundary=\xff",
        b"boundary=",
        b"boundary*",
        b";" * 60_000,
        b'="' + b';"' * 30_000,
    ],
)
def test_a_boundary_that_no_form_can_have_names_no_model(boundary: bytes) -> None:
    assert model_name.in_form(form(MODEL), b"multipart/form-data; " + boundary) == ""
