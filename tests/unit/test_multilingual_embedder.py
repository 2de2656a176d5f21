# ruff: noqa: RUF001, the marks of East Asian texts
"""The multilingual local model, from the file in its package."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations.embedders import e5
from conversations.embedders.base import Embedder
from conversations.embedders.factory import make_embedder
from conversations.embedders.local_models import MULTILINGUAL_WINDOW


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make_embedder("local-multilingual", api_key=None, dimensions=None)


QUESTIONS = {
    "Wie heißt meine Katze?": 0,
    "我的猫叫什么名字？": 0,
    "What is my cat called?": 0,
    "Wohin fahren wir im Sommer?": 1,
    "夏天我们去哪里？": 1,
    "Where do we travel in summer?": 1,
}
ANSWERS = {
    "German": ("Meine Katze heißt Minka und mag keinen Fisch.", "Wir fahren im August nach Lissabon."),
    "Chinese": ("我的猫叫米卡，她不喜欢吃鱼。", "我们八月去里斯本。"),
    "English": ("My cat is called Minka and does not like fish.", "We go to Lisbon in August."),
}


@pytest.mark.parametrize("language", ANSWERS)
def test_a_question_in_one_language_finds_its_answer_in_another(embedder: Embedder, language: str) -> None:
    answers = embedder.embed(ANSWERS[language])
    for question, right in QUESTIONS.items():
        assert (answers @ embedder.embed([question])[0]).argmax() == right, question


def test_a_vector_does_not_depend_on_the_texts_beside_it(embedder: Embedder) -> None:
    texts = ["Wort " * length for length in (1, 150, 3, 40, 5)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)


def test_texts_longer_than_the_window_are_cut_off(embedder: Embedder) -> None:
    full = "船 " * MULTILINGUAL_WINDOW
    long, longer = embedder.embed([full, full + "山"])
    assert np.allclose(long, longer, atol=1e-6)


def test_token_counts_leave_out_what_the_model_adds(embedder: Embedder) -> None:
    assert embedder.count("") == 0
    assert embedder.count("ship house") == 2
    assert embedder.count("ship house " * 500) in (1000, 1001)  # perhaps one for the blank at the end


# Letters that fall apart into many, invisible ones, and half a character.
WILD = st.text(st.sampled_from("a é\u0301ﷺﷺ\x00\x01\ud800\u200d🚢的 \n"), max_size=300) | st.text(max_size=300)


@settings(max_examples=25, deadline=None)
@given(WILD)
def test_any_text_has_a_vector(embedder: Embedder, text: str) -> None:
    (vector,) = embedder.embed([text])
    assert np.isfinite(vector).all() and abs(np.linalg.norm(vector) - 1) < 1e-4
    assert embedder.count(text) >= 0


def test_text_is_written_as_the_model_was_trained(embedder: Embedder) -> None:
    plain, wide = embedder.embed(["file ABC 12", "ﬁle　ＡＢＣ  １２"])
    assert np.allclose(plain, wide, atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"something else", b"E5S1" + bytes(40)])
def test_data_that_is_no_model_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, struct.error), match=re.compile(".")):
        e5.read(memoryview(data))
