"""The first page of an empty installation: the base URL, the lines of clients, and a scope filled for a trial."""

from __future__ import annotations

from urllib.parse import quote

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponseRedirect
from django.urls import reverse

from conversations.models import Instance
from conversations.querysets import Scope
from proxy.demo.tour import fill

DEMO = Scope("demo", "mira")

# As docs/clients.md has them; BASE stands for the base URL.
CLIENTS = (
    ("openai (Python)", 'OpenAI(base_url="BASE")'),
    ("openai (Node)", 'new OpenAI({ baseURL: "BASE" })'),
    ("LangChain", 'ChatOpenAI(base_url="BASE")'),
    ("Pydantic AI", 'OpenAIProvider(base_url="BASE")'),
    ("LiteLLM", 'completion(model="openai/gpt-4", api_base="BASE")'),
    ("Instructor", 'from_openai(OpenAI(base_url="BASE"))'),
    ("Haystack", 'OpenAIChatGenerator(api_base_url="BASE")'),
    ("LlamaIndex", 'OpenAILike(api_base="BASE", is_chat_model=True)'),
    ("Vercel AI SDK", 'createOpenAICompatible({ name: "reservoir", baseURL: "BASE", apiKey })'),
    ("Open WebUI", "OPENAI_API_BASE_URL=BASE"),
)


def first_steps(request: HttpRequest) -> dict[str, object]:
    """What the first page shows: an example of a base URL, and each client's line with it."""
    name = quote(request.user.get_username(), safe="")
    base = f"{request.scheme}://{request.get_host()}/v1/partition/my-project/instance/{name}"
    return {"base_url": base, "clients": [(client, line.replace("BASE", base)) for client, line in CLIENTS]}


def fill_demo(request: HttpRequest) -> HttpResponseRedirect:
    """Fill the demo's scope with the story of the tour, once, and lead to it."""
    if request.method != "POST":
        raise Http404
    if not request.user.is_superuser:
        raise PermissionDenied
    rows = Instance.objects.filter(partition__name=DEMO.partition, name=DEMO.instance)
    if not rows.exists():
        fill(DEMO)
        messages.success(request, "The demo is filled. Forget its partition when you have seen enough.")
    return HttpResponseRedirect(reverse("admin:conversations_instance_change", args=[rows.get().pk]))
