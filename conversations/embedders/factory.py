"""Chooses an embedder by its spec, as RESERVOIR_EMBEDDER has it."""

from urllib.parse import urldefrag, urlsplit

from conversations.embedders.base import Embedder

SPEC_HELP = (
    'write "local", "local-multilingual", or an endpoint and its model as '
    '"https://api.openai.com/v1#text-embedding-3-small"'
)
LOCAL = ("local", "local-multilingual")  # specs of models that run here


def make_embedder(spec: str, *, api_key: str | None, dimensions: int | None, threads: int = 1) -> Embedder:
    """The embedder for a spec. `dimensions` applies only to a remote model, `threads` only to a local one.

    Raises ValueError, with advice, for an invalid spec.
    """
    # Imported on demand: the local embedder loads 40 MB of onnxruntime.
    if spec in LOCAL:
        from conversations.embedders.local import LocalEmbedder
        from conversations.embedders.local_models import ENGLISH, MULTILINGUAL

        return LocalEmbedder(ENGLISH if spec == "local" else MULTILINGUAL, threads=threads)

    from conversations.embedders.remote import RemoteEmbedder

    base_url, model = urldefrag(spec)
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not model:
        raise ValueError(f"The embedder is invalid: {SPEC_HELP}.")
    if parts.username or parts.password or parts.query:
        raise ValueError("The embedder's address contains a user, a password or a query: set its key separately.")
    if dimensions is None or dimensions < 1:
        raise ValueError(f"The remote embedding model {model} needs its number of dimensions, such as 1536.")
    return RemoteEmbedder(base_url, model, api_key=api_key, dimensions=dimensions)
