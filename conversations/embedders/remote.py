"""Edge: any endpoint that speaks OpenAI's `POST /v1/embeddings`.

One request for each batch, without hidden retries: the caller decides whether to try again.
"""

from collections.abc import Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
import numpy as np

from conversations.embedders.base import EmbedderError, Vectors, well_formed

BATCH = 64
"""Texts in one request. The strictest common limit is 8,192 tokens a request: 64 pieces of 128."""

SHORTENED_ON_REQUEST = ("text-embedding-3-", "gemini-embedding-")
"""Models that shorten their vectors to the requested `dimensions`. Others reject a request with that field."""

BYTES_PER_TOKEN = 3
"""A cautious estimate for models without a tokenizer here: English has about 4.5, Chinese 3."""

REMEDIES = {
    401: "check its key",
    403: "check its key",
    404: "check its address and the model's name",
    429: "wait, or ask for a higher rate limit",
}


class RemoteEmbedder:
    def __init__(
        self, base_url: str, model: str, *, api_key: str | None, dimensions: int, timeout: float = 30.0
    ) -> None:
        self.dimensions = dimensions
        self.name = f"{model}@{dimensions}"
        self._model = model
        self._url = base_url.rstrip("/").removesuffix("/embeddings") + "/embeddings"
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=timeout,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def embed(self, texts: Sequence[str], *, later: bool = False) -> Vectors:
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        for start in range(0, len(texts), BATCH):
            batch = [well_formed(text) for text in texts[start : start + BATCH]]
            vectors[start : start + len(batch)] = self._vectors(self._ask(batch), len(batch))
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.all(np.isfinite(lengths) & (lengths > 0)):
            raise self._error("returned a vector that is zero or not finite", "try another model")
        vectors /= lengths
        return vectors

    def count(self, text: str) -> int:
        return -(-len(well_formed(text).encode()) // BYTES_PER_TOKEN)

    def close(self) -> None:
        self._client.close()

    def _ask(self, texts: list[str]) -> Any:
        body: dict[str, Any] = {"model": self._model, "input": texts}
        if self._model.startswith(SHORTENED_ON_REQUEST):
            body["dimensions"] = self.dimensions
        try:
            response = self._client.post(self._url, json=body)
        except httpx.TimeoutException as error:
            raise self._error("did not answer in time", "check its load, or send it less") from error
        except httpx.HTTPError as error:
            raise self._error("cannot be reached", "check its address and that it runs") from error
        if response.status_code != 200:
            remedy = REMEDIES.get(response.status_code, "check its log")
            raise self._error(f"answered {response.status_code}", remedy)
        try:
            return response.json()
        except ValueError:
            # Not chained: the decoder's error contains the whole answer.
            raise self._error("answered with something other than JSON", "check its address") from None

    def _vectors(self, answer: Any, expected: int) -> Vectors:
        """The vectors in the order of the texts, which the answer gives by `index`."""
        try:
            by_index = {item["index"]: item["embedding"] for item in answer["data"]}
            rows = [by_index[index] for index in range(expected)]
            with np.errstate(over="ignore"):  # an overflow becomes infinite, which embed() rejects
                vectors = np.array(rows, np.float32)
        except (KeyError, TypeError, ValueError):
            raise self._error("did not return one vector for each text", "check its address") from None
        if len(by_index) != expected or vectors.ndim != 2:
            raise self._error("did not return one vector for each text", "check its address")
        if vectors.shape[1] != self.dimensions:
            raise self._error(
                f"returned {vectors.shape[1]} dimensions, but {self.dimensions} are configured",
                f"configure {vectors.shape[1]}",
            )
        return vectors

    def _error(self, problem: str, remedy: str) -> EmbedderError:
        return EmbedderError(f"The embedding endpoint {self._url} {problem}: {remedy}.")
