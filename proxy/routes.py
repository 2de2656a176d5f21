"""The paths of the API: api.py mounts its routes there, and the guard tells by them which requests are the API's."""

VERSION = "/v1"
BASE = "/partition/{segment:partition}/instance/{segment:instance}"
MEMORY = f"{VERSION}/memory"
CHAT_COMPLETIONS = "/chat/completions"
RECALL = "/recall"

PREFIXES = (f"{VERSION}/", "/partition/")  # every path that begins with one of these is the API's
PARSED = (CHAT_COMPLETIONS, RECALL)  # the ends of the paths whose bodies are parsed here
