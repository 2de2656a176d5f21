"""Edge: any reranking endpoint of the form that Cohere, Jina, vLLM and others share, or of text-embeddings-inference.

It is asked once, within the time that recall has left. Messages of RerankerError are safe to log: they never contain a
text, a key, or an endpoint's answer.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from functools import lru_cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urldefrag, urlsplit

import httpx
from django.conf import settings

from conversations.embedders.base import well_formed

LONGEST_ANSWER = 2**20  # bytes
REMEDIES = {401: "check its key", 403: "check its key", 404: "check its address", 429: "ask for a higher rate limit"}


class RerankerError(Exception):
    """The texts were not reranked. A later attempt may succeed."""


class Reranker:
    """Thread-safe."""

    def __init__(self, spec: str, *, api_key: str | None) -> None:
        """`spec` is the endpoint's URL, with `#` and a model for all but text-embeddings-inference.

        Raises ValueError, with advice, for an invalid one.
        """
        self._url, self._model = urldefrag(spec)
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(
                'RESERVOIR_RERANKER is no endpoint: write it as "https://api.jina.ai/v1/rerank#jina-reranker-v2-base-'
                'multilingual", or without a model for text-embeddings-inference.'
            )
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def relevances(self, query: str, texts: Sequence[str], seconds: float) -> list[float]:
        """How well each text answers the query, on the endpoint's own scale. Raises RerankerError."""
        body: dict[str, Any] = {"query": well_formed(query)}
        sent = [well_formed(text) for text in texts]
        if self._model:
            body |= {"model": self._model, "documents": sent, "top_n": len(sent)}
        else:
            body |= {"texts": sent}
        return self._read(self._ask(body, seconds), len(sent))

    def _ask(self, body: dict[str, Any], seconds: float) -> bytes:
        ends = time.monotonic() + seconds
        answer = b""
        try:
            with self._client.stream("POST", self._url, json=body, timeout=seconds) as response:
                if response.status_code != 200:
                    raise self._error(
                        f"answered {response.status_code}", REMEDIES.get(response.status_code, "check its log")
                    )
                for chunk in response.iter_bytes():
                    answer += chunk
                    if time.monotonic() > ends:  # httpx limits each step, not their sum
                        raise self._error("did not answer in time", "check its load")
                    if len(answer) > LONGEST_ANSWER:
                        raise self._error("answered with more than scores", "check its address")
        except httpx.TimeoutException as error:
            raise self._error("did not answer in time", "check its load") from error
        except httpx.HTTPError as error:
            raise self._error("cannot be reached", "check its address and that it runs") from error
        return answer

    def _read(self, answer: bytes, expected: int) -> list[float]:
        """The scores in the order of the texts, which the answer gives by `index`."""
        problem = self._error("did not return one score for each text", "check its address")
        try:
            found = json.loads(answer)
            rows = found if isinstance(found, list) else found.get("results") or found["data"]
            scores = {row["index"]: float(row.get("relevance_score", row.get("score"))) for row in rows}
            relevances = [scores[index] for index in range(expected)]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise problem from None  # not chained: the decoder's error contains the whole answer
        if len(scores) != expected or not all(map(math.isfinite, relevances)):
            raise problem
        return relevances

    def _error(self, problem: str, remedy: str) -> RerankerError:
        return RerankerError(f"The reranker {self._url} {problem}: {remedy}.")


def configured() -> Reranker | None:
    """The reranker that the settings name, one for the process; None without one. Raises ValueError."""
    return _made(settings.RESERVOIR_RERANKER, settings.RESERVOIR_RERANKER_KEY) if settings.RESERVOIR_RERANKER else None


@lru_cache(maxsize=1)
def _made(spec: str, api_key: str) -> Reranker:
    return Reranker(spec, api_key=api_key or None)
