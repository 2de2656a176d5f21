"""All settings, each with its default and its reason. A test compares README's table of settings with this file."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from reservoir_site import env, installation
from reservoir_site.database import databases

# The release, shown by `version`, /live and /v1/docs.
RESERVOIR_VERSION = installation.version()

# The folder for everything but code: the embedded database, secrets, caches.
RESERVOIR_HOME = env.folder("RESERVOIR_HOME", installation.data_folder())

# --- serving ---------------------------------------------------------------------------------------
RESERVOIR_PORT = env.integer("RESERVOIR_PORT", 3017, least=1, most=65535)
# The address to listen on. The second name is the older one; it said what it did before there were access keys.
RESERVOIR_BIND = env.text("RESERVOIR_LISTEN", env.text(env.EXPOSED, "127.0.0.1"))
# Whether a server that others reach starts without access keys. The first key closes the door in any case.
RESERVOIR_OPEN = env.boolean("RESERVOIR_OPEN", bool(env.text(env.EXPOSED)))
# Host names that requests may name; others are refused, against DNS rebinding.
ALLOWED_HOSTS = env.hosts("RESERVOIR_ALLOWED_HOSTS", ("localhost", "127.0.0.1", "[::1]"))
# Where people and apps reach the server through a proxy, such as https://memory.example.com.
RESERVOIR_PUBLIC_URL = env.public_url("RESERVOIR_PUBLIC_URL")
if RESERVOIR_PUBLIC_URL:
    ALLOWED_HOSTS.append(str(urlsplit(RESERVOIR_PUBLIC_URL).hostname))
# Behind a proxy, others reach a server that listens on loopback, too.
RESERVOIR_OPEN_WITHOUT_KEYS = RESERVOIR_OPEN or (env.is_loopback(RESERVOIR_BIND) and not RESERVOIR_PUBLIC_URL)
# Web origins whose pages may call the API; none by default.
RESERVOIR_ALLOWED_ORIGINS = env.origins("RESERVOIR_ALLOWED_ORIGINS")
# Networks of proxies whose X-Forwarded-For, -Proto and -Host are believed; those of others are ignored.
RESERVOIR_TRUSTED_PROXIES = env.networks("RESERVOIR_TRUSTED_PROXIES")
# Server processes. One serves many clients concurrently; more of them use more cores.
RESERVOIR_WORKERS = env.integer("RESERVOIR_WORKERS", 1, least=1, most=64)
# Concurrent requests per process; further ones get 503 at once, so that the others stay fast.
RESERVOIR_MAX_REQUESTS = env.integer("RESERVOIR_MAX_REQUESTS", 1000, least=1)
# Seconds that running answers have to finish after SIGTERM.
RESERVOIR_SHUTDOWN_SECONDS = env.integer("RESERVOIR_SHUTDOWN_SECONDS", 30)
# Bytes of the largest body that is parsed (a chat request), and of the largest that is passed through (an upload).
RESERVOIR_BODY_LIMIT = env.integer("RESERVOIR_BODY_LIMIT", 32 * 2**20, least=1024)
RESERVOIR_UPLOAD_LIMIT = env.integer("RESERVOIR_UPLOAD_LIMIT", 2**30, least=1024)

# Whether /metrics tells partitions apart; their names may be private.
RESERVOIR_METRICS_PARTITIONS = env.boolean("RESERVOIR_METRICS_PARTITIONS", False)

# --- memory ----------------------------------------------------------------------------------------
# Milliseconds that recall may run before the request continues without it. A model's first token takes as long, and a
# memory that is missing is worse than a token that is late.
RESERVOIR_RECALL_DEADLINE_MS = env.integer("RESERVOIR_RECALL_DEADLINE_MS", 2000, least=1)
# Bytes of exchanges on disk while the database is unreachable; further exchanges are served but not stored.
RESERVOIR_SPOOL_LIMIT = env.integer("RESERVOIR_SPOOL_LIMIT", 2**30, least=2**20)
# MiB for scopes that are asked often, in each process. A short message takes 1 kB.
RESERVOIR_CACHE_MB = env.integer("RESERVOIR_CACHE_MB", 64)
# Tokens of the block of recalled memories, as rendered.
RESERVOIR_MEMORY_BUDGET = env.integer("RESERVOIR_MEMORY_BUDGET", 1000)
# Tokens of that block that standing wishes ("always ...", "I prefer ...") take before anything else.
RESERVOIR_WISH_BUDGET = env.integer("RESERVOIR_WISH_BUDGET", 150)
# Number and tokens of the latest messages that are added as turns if the client sends no history.
RESERVOIR_RECENT_MESSAGES = env.integer("RESERVOIR_RECENT_MESSAGES", 15)
RESERVOIR_RECENT_TOKENS = env.integer("RESERVOIR_RECENT_TOKENS", 1000)
# MCP clients may read the memory, and neither add to it nor forget.
RESERVOIR_MCP_READ_ONLY = env.boolean("RESERVOIR_MCP_READ_ONLY", False)
# Tags in which coding tools write what no person said into users' messages, besides those known (tool_marks.py).
RESERVOIR_TOOL_TAGS = env.tags("RESERVOIR_TOOL_TAGS")
# Tokens assumed for the window of an unknown model; limits only the added messages.
RESERVOIR_DEFAULT_WINDOW = env.integer("RESERVOIR_DEFAULT_WINDOW", 8192, least=256)
# "local", "local-multilingual", or "<base URL of an OpenAI-compatible API>#<embedding model>".
RESERVOIR_EMBEDDER = env.text("RESERVOIR_EMBEDDER", "local")
RESERVOIR_EMBEDDER_KEY = env.text("RESERVOIR_EMBEDDER_KEY")
# Vector length to request from an endpoint that can shorten vectors; 0 means the model's own.
RESERVOIR_EMBEDDER_DIMENSIONS = env.integer("RESERVOIR_EMBEDDER_DIMENSIONS", 0, most=4000)
# "<URL of a reranking endpoint>#<model>"; without a model for text-embeddings-inference.
RESERVOIR_RERANKER = env.text("RESERVOIR_RERANKER", "")
RESERVOIR_RERANKER_KEY = env.text("RESERVOIR_RERANKER_KEY")
# PostgreSQL's text search configuration: the stems and stop words of a language, or "simple" for neither.
RESERVOIR_LANGUAGE = env.text("RESERVOIR_LANGUAGE", "english")

# Where providers and their keys are read from: the environment, and the files that NAME_FILE names.
RESERVOIR_ENVIRONMENT = env.environment

# --- providers -------------------------------------------------------------------------------------
# Seconds to wait for a connection to a provider, and for its next byte.
RESERVOIR_CONNECT_SECONDS = env.integer("RESERVOIR_CONNECT_SECONDS", 10, least=1)
RESERVOIR_READ_SECONDS = env.integer("RESERVOIR_READ_SECONDS", 600, least=1)

# --- access ----------------------------------------------------------------------------------------
# What keys are hashed with, beside the database and never in it; servers that share a database need the same one.
RESERVOIR_KEY_PEPPER = env.secret("RESERVOIR_KEY_PEPPER", RESERVOIR_HOME / "key_pepper")

# Fernet keys that providers' credentials are encrypted with, the newest first; `credentials new-key` prints one.
RESERVOIR_CREDENTIAL_KEYS = env.words("RESERVOIR_CREDENTIAL_KEYS")

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
DATA_UPLOAD_MAX_MEMORY_SIZE = None  # the guard limits bodies, even those without a length

try:
    # The second URL leads past a connection pooler, for migrations and for building indexes.
    DATABASES: dict[str, dict[str, Any]] = databases(
        env.text("DATABASE_URL"), env.text("DATABASE_DIRECT_URL"), RESERVOIR_HOME
    )
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from None

# Behind TLS, cookies travel by TLS alone, and browsers are told to come back by it.
CSRF_TRUSTED_ORIGINS = [RESERVOIR_PUBLIC_URL] if RESERVOIR_PUBLIC_URL else []
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = RESERVOIR_PUBLIC_URL.startswith("https://")
SECURE_HSTS_SECONDS = 31_536_000 if SESSION_COOKIE_SECURE else 0
# The proxy redirects to TLS. Whether that holds for subdomains, and for browsers' lists, is its operator's decision.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]

INSTALLED_APPS = [
    "reservoir_site",  # before staticfiles: its runserver serves ASGI
    "console",  # before the admin: its templates replace the admin's
    "console.apps.ConsoleSiteConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "conversations",
    "access",
    "proxy",
    "ninja",  # the assets of /v1/docs
]

# For the admin only: the API runs without middleware (see reservoir_site/asgi.py).
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
    "axes.middleware.AxesMiddleware",
]

# Those who guess passwords of the admin wait. `manage.py axes_reset` lets them in at once.
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_LOCKOUT_PARAMETERS = ["username", "ip_address"]  # each counts on its own
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

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
WHITENOISE_USE_FINDERS = True  # serves from the packages, without collectstatic
WHITENOISE_AUTOREFRESH = DEBUG
# Static files are small: Django may read each completely before sending it.
warnings.filterwarnings("ignore", "StreamingHttpResponse must consume synchronous iterators", Warning)

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "LINE": {"format": "{asctime} {levelname:<7} {name}: {message}", "style": "{"},
        "JSON": {"()": "reservoir_site.json_log.JsonFormatter"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": env.choice("RESERVOIR_LOG_FORMAT", "LINE", ("LINE", "JSON")),
        }
    },
    "root": {
        "handlers": ["console"],
        "level": env.choice("RESERVOIR_LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
    },
    "loggers": {
        # The guard's access log already has a line for each refused request.
        "django.request": {"level": "ERROR"},
        "django": {"handlers": [], "propagate": True},
        "httpx": {"level": "WARNING"},
        "axes": {"level": "ERROR"},  # its lines name users
    },
}
