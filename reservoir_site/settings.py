"""Every knob, with its default and one line of why. A test holds README's table of settings to this file."""

from __future__ import annotations

import warnings
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from reservoir_site import env, installation
from reservoir_site.database import database_settings

# The release, shown by `version`, /live and /v1/docs.
RESERVOIR_VERSION = installation.version()

# The folder for everything but code: the embedded database, secrets, caches.
RESERVOIR_HOME = env.folder("RESERVOIR_HOME", installation.data_folder())

# --- serving ---------------------------------------------------------------------------------------
RESERVOIR_PORT = env.integer("RESERVOIR_PORT", 3017, least=1, most=65535)
# Until there are access keys, a port that others reach is a memory that others read: hence the name.
RESERVOIR_BIND = env.text("RESERVOIR_EXPOSE_EVERY_PARTITION_TO_WHOEVER_REACHES", "127.0.0.1")
# Host names that requests may ask for; others are refused (DNS rebinding).
ALLOWED_HOSTS = env.hosts("RESERVOIR_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
# Web origins whose pages may call the API; by default no web page may.
RESERVOIR_ALLOWED_ORIGINS = env.origins("RESERVOIR_ALLOWED_ORIGINS")
# Server processes. One serves many clients at once; more use more cores.
RESERVOIR_WORKERS = env.integer("RESERVOIR_WORKERS", 1, least=1, most=64)
# More requests than this at once, in one process, are answered 503 at once, rather than everybody slowly.
RESERVOIR_MAX_REQUESTS = env.integer("RESERVOIR_MAX_REQUESTS", 1000, least=1)
# How long running answers may take to finish after SIGTERM.
RESERVOIR_SHUTDOWN_SECONDS = env.integer("RESERVOIR_SHUTDOWN_SECONDS", 30)
# The largest body that is parsed (a chat request), and the largest that is passed through (an upload).
RESERVOIR_BODY_LIMIT = env.integer("RESERVOIR_BODY_LIMIT", 32 * 2**20, least=1024)
RESERVOIR_UPLOAD_LIMIT = env.integer("RESERVOIR_UPLOAD_LIMIT", 2**30, least=1024)

# --- memory ----------------------------------------------------------------------------------------
# A recall that takes longer than this is given up, and the request goes on without it.
RESERVOIR_RECALL_DEADLINE_MS = env.integer("RESERVOIR_RECALL_DEADLINE_MS", 300, least=1)
# Bytes of exchanges that wait on disk while the database is away; beyond that, clients are served and not remembered.
RESERVOIR_SPOOL_LIMIT = env.integer("RESERVOIR_SPOOL_LIMIT", 2**30, least=2**20)
# Tokens, as rendered, of the block of recalled memories.
RESERVOIR_MEMORY_BUDGET = env.integer("RESERVOIR_MEMORY_BUDGET", 1000)
# The latest messages that are added as turns when the client sends no history, and their tokens.
RESERVOIR_RECENT_MESSAGES = env.integer("RESERVOIR_RECENT_MESSAGES", 15)
RESERVOIR_RECENT_TOKENS = env.integer("RESERVOIR_RECENT_TOKENS", 1000)
# The window that is assumed for a model whose window is not known; it limits only what we add.
RESERVOIR_DEFAULT_WINDOW = env.integer("RESERVOIR_DEFAULT_WINDOW", 8192, least=256)
# "local", or "<base URL of an OpenAI-compatible API>#<embedding model>".
RESERVOIR_EMBEDDER = env.text("RESERVOIR_EMBEDDER", "local")
RESERVOIR_EMBEDDER_KEY = env.text("RESERVOIR_EMBEDDER_KEY")
# Vector length to ask for from an endpoint that can shorten its vectors; 0: as the model has it.
RESERVOIR_EMBEDDER_DIMENSIONS = env.integer("RESERVOIR_EMBEDDER_DIMENSIONS", 0, most=4000)
# PostgreSQL's text search configuration: stems and stop words of a language ("simple" for none).
RESERVOIR_LANGUAGE = env.text("RESERVOIR_LANGUAGE", "english")

# --- providers -------------------------------------------------------------------------------------
# How long to wait for a connection to a provider, and for its next byte.
RESERVOIR_CONNECT_SECONDS = env.integer("RESERVOIR_CONNECT_SECONDS", 10, least=1)
RESERVOIR_READ_SECONDS = env.integer("RESERVOIR_READ_SECONDS", 600, least=1)

# --- Django ----------------------------------------------------------------------------------------
SECRET_KEY = env.secret("RESERVOIR_SECRET_KEY", RESERVOIR_HOME / "secret_key")
DEBUG = env.boolean("RESERVOIR_DEBUG", False)
ROOT_URLCONF = "reservoir_site.urls"
ASGI_APPLICATION = "reservoir_site.asgi.application"
APPEND_SLASH = False
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = None  # reservoir_site/asgi.py limits bodies, also those without a length

try:
    DATABASES: dict[str, dict[str, Any]] = {"default": database_settings(env.text("DATABASE_URL"), RESERVOIR_HOME)}
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from None

INSTALLED_APPS = [
    "reservoir_site",  # before staticfiles: its runserver serves ASGI
    "console",  # before the admin: its templates replace the admin's
    "console.apps.ConsoleSiteConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "conversations",
    "proxy",
    "ninja",  # the assets of /v1/docs
]

# For the admin only: the API has none of it (see reservoir_site/asgi.py).
MIDDLEWARE = [
    "reservoir_site.connections.close_connection",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["console.tags"],
        },
    }
]

STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # straight from the packages: nothing to collect
WHITENOISE_AUTOREFRESH = DEBUG
# Its files are small: Django may read one whole before it is sent.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators", Warning)

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname:<7} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {
        "handlers": ["console"],
        "level": env.choice("RESERVOIR_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
    },
    "loggers": {
        # One line a refused request stands in our own access log already.
        "django.request": {"level": "ERROR"},
        "django": {"handlers": [], "propagate": True},
        "httpx": {"level": "WARNING"},
    },
}
