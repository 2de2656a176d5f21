"""Providers' credentials at rest: encrypted by keys that are not in the database, and never shown again.

RESERVOIR_CREDENTIAL_KEYS holds Fernet keys, the newest first: it encrypts, all of them decrypt. `credentials rotate`
encrypts everything anew with the first one, after which the others can go.
"""

from __future__ import annotations

import binascii

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.db import transaction

from access import audit
from access.audit import Action, Who
from access.models import Credential


class CredentialProblem(ValueError):
    """A credential cannot be kept or read; the message is one sentence with the remedy."""


@transaction.atomic
def put(name: str, provider: str, secret: str, who: Who) -> None:
    """Keep a credential for a provider, in place of one of this name. Raises CredentialProblem."""
    if not (secret and secret.isascii() and secret.isprintable()) or " " in secret:
        raise CredentialProblem("Give the credential alone: one line of ASCII letters, digits and signs.")
    token = _box().encrypt(secret.encode()).decode()
    Credential.objects.update_or_create(name=name, defaults={"provider": provider, "token": token})
    audit.record(Action.CREDENTIAL_SET, who, details={"name": name, "provider": provider})


def opened(row: Credential) -> str:
    """The credential in clear. Raises CredentialProblem."""
    try:
        return _box().decrypt(row.token.encode()).decode()
    except InvalidToken:
        raise CredentialProblem(
            f"The credential {row.name!r} cannot be read: add the key that it was encrypted with to "
            "RESERVOIR_CREDENTIAL_KEYS, or set it again."
        ) from None


def check() -> None:
    """Read every credential. Raises CredentialProblem for the first that cannot be read."""
    for row in Credential.objects.all():
        opened(row)


@transaction.atomic
def rotate(who: Who) -> int:
    """Encrypt all credentials anew with the first key. Returns their number. Raises CredentialProblem."""
    rows = list(Credential.objects.select_for_update())
    for row in rows:
        row.token = _box().encrypt(opened(row).encode()).decode()
    Credential.objects.bulk_update(rows, ["token"])
    audit.record(Action.CREDENTIALS_ROTATED, who, details={"credentials": len(rows)})
    return len(rows)


@transaction.atomic
def remove(name: str, who: Who) -> None:
    """Raises CredentialProblem where there is none of this name, or a key uses it."""
    row = Credential.objects.filter(name=name).first()
    if row is None:
        raise CredentialProblem(f"There is no credential {name!r}: `credentials list` shows them.")
    if users := list(row.keys.filter(revoked__isnull=True).values_list("name", flat=True)):
        raise CredentialProblem(f"The keys {', '.join(users)} use this credential: revoke them first.")
    row.delete()
    audit.record(Action.CREDENTIAL_REMOVED, who, details={"name": name, "provider": row.provider})


def _box() -> MultiFernet:
    keys = settings.RESERVOIR_CREDENTIAL_KEYS
    if not keys:
        raise CredentialProblem("Set RESERVOIR_CREDENTIAL_KEYS to a key that `credentials new-key` prints.")
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except (ValueError, binascii.Error):
        raise CredentialProblem(
            "RESERVOIR_CREDENTIAL_KEYS holds something that is no key: use those that `credentials new-key` prints."
        ) from None
