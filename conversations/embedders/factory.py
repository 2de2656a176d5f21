"""Chooses an embedder by its spec, as RESERVOIR_EMBEDDER has it."""

from urllib.parse import urldefrag, urlsplit

from conversations.embedders.base import Embedder

SPEC_HELP = 'write "local", or an endpoint and its model as "https://api.openai.com/v1#text-embedding-3-small"'


def make_embedder(spec: str, *, api_key: str | None, dimensions: int | None, threads: int = 1) -> Embedder:
    """`dimensions` belongs to a remote model and `threads` to the local one; neither touches the other."""
    # The edges are imported where they are chosen: the local one brings 40 MB of onnxruntime along.
    if spec == "local":
        from conversations.embedders.local import LocalEmbedder

        return LocalEmbedder(threads=threads)

    from conversations.embedders.remote import RemoteEmbedder

    base_url, model = urldefrag(spec)
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not model:
        raise ValueError(f"The embedder is not understood: {SPEC_HELP}.")
    if parts.username or parts.password or parts.query:
        raise ValueError("The embedder's address holds a user, a password or a query: give its key separately.")
    if dimensions is None or dimensions < 1:
        raise ValueError(f"The remote embedding model {model} needs its number of dimensions, such as 1536.")
    return RemoteEmbedder(base_url, model, api_key=api_key, dimensions=dimensions)
