"""The paths of the API: api.py mounts its routes there, and the guard tells by them which requests are the API's."""

VERSION = "/v1"
BASE = "/partition/{segment:partition}/instance/{segment:instance}"
MEMORY = f"{VERSION}/memory"
CHAT_COMPLETIONS = "/chat/completions"
RESPONSES = "/responses"
MESSAGES = "/messages"
MCP = "/mcp"
RECALL = "/recall"

PROBES = ("/live", "/ready", "/health", "/healthz")
"""Paths that say whether the server serves; the last two answer like /live, for platforms that ask there."""

METRICS = "/metrics"  # figures for Prometheus

NO_MEMORY = (b"x-reservoir-memory", b"off")  # the header of an answer in which memory had no part

PREFIXES = (f"{VERSION}/", "/partition/")  # every path that begins with one of these is the API's
PARSED = (CHAT_COMPLETIONS, RESPONSES, MESSAGES, RECALL, MCP)  # the ends of the paths whose bodies are parsed here


def spelled(path: str) -> str:
    """A path below a base URL in the spelling of our routes: clients add slashes and a second `v1`."""
    parts = [part for part in path.split("/") if part]
    return "/" + "/".join(parts[1:] if parts[:1] == ["v1"] else parts)


ASKED_AND_ANSWERED = frozenset(
    {
        "/audio/speech",
        "/audio/transcriptions",
        "/audio/translations",
        "/completions",
        "/embeddings",
        "/fim/completions",
        "/images/edits",
        "/images/generations",
        "/images/variations",
        "/messages/count_tokens",
        "/moderations",
        "/ocr",
        "/rerank",
        "/responses/input_tokens",
    }
)
"""Paths whose POST is answered at once, and leaves nothing at the provider that another app could list or read."""


def leaves_nothing(method: str, path: str) -> bool:
    """Whether a passed-through request, with its path as `spelled` has it, is one of those, or asks for models."""
    if method == "POST":
        return path in ASKED_AND_ANSWERED
    return method in ("GET", "HEAD") and (path in ("/", "/models") or path.startswith("/models/"))


def kind(path: str) -> str:
    """What a request asks for, in one of a few words: for figures."""
    if path in PROBES:
        return "probe"
    if not path.startswith(PREFIXES):
        return "metrics" if path == METRICS else "admin"
    if path.startswith(f"{MEMORY}/"):
        return "memory"
    if "/instance/" not in path:
        return "other"
    return next((end[1:].replace("/", "_") for end in PARSED if path.endswith(end)), "passed_through")
