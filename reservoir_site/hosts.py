"""This host among those that serve on one database: they share a secret, and one has the first admin's login."""

from __future__ import annotations

import hashlib
import socket

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from conversations import servers
from conversations.servers import Host

LOGIN = "admin_login"  # in RESERVOIR_HOME


def this_host() -> Host:
    """This host as it tells others about itself."""
    return Host(
        name=socket.gethostname(),
        home=str(settings.RESERVOIR_HOME),
        # Enough to see a difference, too little to guess a weak secret.
        secret=hashlib.blake2b(settings.SECRET_KEY.encode(), digest_size=4).hexdigest(),
        has_login=(settings.RESERVOIR_HOME / LOGIN).exists(),
    )


def check_secret() -> None:
    """Check that the servers of other hosts have the same secret. Raises ImproperlyConfigured, django.db.Error.

    With another one, each would reject the sessions of the admin that the others began.
    """
    own = this_host()
    for other in servers.serving():
        if (other.name, other.home) != (own.name, own.home) and other.secret != own.secret:
            raise ImproperlyConfigured(
                f"The server on {other.name} ({other.home}) uses another secret, so the admin would log its users out "
                "at every change of the server: set RESERVOIR_SECRET_KEY to the same long random text on all hosts."
            )


def login_hint() -> str:
    """Where the first admin's login is. Raises django.db.Error."""
    own = settings.RESERVOIR_HOME / LOGIN
    if own.exists():
        return f"login: {own}"
    if other := servers.with_login():
        return f"login: on {other.name}, {other.home}/{LOGIN}"
    return "login: manage.py createsuperuser makes one"
