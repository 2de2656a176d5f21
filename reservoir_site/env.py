"""Typed readers of environment variables. All raise ImproperlyConfigured for an invalid value.

The message is one sentence that says what to write instead; it aborts startup.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

YES = frozenset({"1", "true", "yes", "on"})
NO = frozenset({"0", "false", "no", "off"})

HOST = re.compile(r"\*|[^\s/:@\[\]]+|\[[0-9a-fA-F:.]+\]")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^\sA-Z/:@?#\[\]]+|\[[0-9a-f:.]+\])(:[0-9]+)?")


EXPOSED = "RESERVOIR_EXPOSE_EVERY_PARTITION_TO_WHOEVER_REACHES"  # an alias of RESERVOIR_LISTEN with RESERVOIR_OPEN=yes

SECRETS = ("_KEY", "_KEYS", "_PEPPER", "_SECRET", "_PASSWORD", "DATABASE_URL", "DATABASE_DIRECT_URL")

_read: set[str] = set()


def unknown(also: Iterable[str]) -> list[str]:
    """A sentence for each variable that looks like a setting of ours and is none; `also` names those read elsewhere."""
    known = sorted(_read.union(also))
    found = []
    for name in sorted(os.environ):
        if name.startswith(("RESERVOIR_", "RSV_")) and name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f": do you mean {near[0]}?" if near else "; see the table of settings in README."
            found.append(f"{name} is not a setting of Reservoir and has no effect{hint}")
    return found


def text(name: str, default: str = "") -> str:
    """The variable without surrounding white space; the default if it is unset or empty.

    A secret may lie in a file instead, as containers mount them: NAME_FILE names it.
    """
    _read.add(name)
    return environment.get(name, "").strip() or default


class Environment(Mapping[str, str]):
    """The process's variables. Where NAME is unset and NAME_FILE is not, NAME is what that file holds, for secrets."""

    def __getitem__(self, name: str) -> str:
        given, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
        if not file or not is_secret(name):
            return os.environ[name]
        if given:
            raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: unset one of them.")
        _read.add(f"{name}_FILE")
        try:
            return Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ImproperlyConfigured(f"{name}_FILE is {file!r}, which cannot be read: name a text file.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def is_secret(name: str) -> bool:
    """Whether a variable may be given as a file: keys, passwords, and addresses that hold one."""
    return name.endswith(SECRETS)


environment = Environment()


def integer(name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
    """A whole number from `least` to `most`, both included."""
    given = text(name)
    if not given:
        return default
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    try:
        value = int(given)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {given!r}: write a whole number {bounds}, such as {default}.") from None
    if value < least or (most is not None and value > most):
        raise ImproperlyConfigured(f"{name} is {value}: write a whole number {bounds}, such as {default}.")
    return value


def boolean(name: str, default: bool) -> bool:
    """True or False, from any word of YES or NO in any case."""
    given = text(name).lower()
    if not given:
        return default
    if given not in YES | NO:
        raise ImproperlyConfigured(f"{name} is {given!r}: write yes or no.")
    return given in YES


def words(name: str, default: tuple[str, ...] = ()) -> list[str]:
    """A list of the words between commas."""
    given = text(name)
    return [word.strip() for word in given.split(",") if word.strip()] if given else list(default)


def choice(name: str, default: str, among: tuple[str, ...]) -> str:
    """One of the given upper-case words; the variable may have any case."""
    given = text(name, default).upper()
    if given not in among:
        raise ImproperlyConfigured(f"{name} is {given!r}: write one of {', '.join(among)}.")
    return given


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address that a server listens on."""
    try:
        return address == "localhost" or ip_address(address).is_loopback
    except ValueError:
        return False


def hosts(name: str, default: tuple[str, ...]) -> list[str]:
    """Host names as Django compares them, without scheme and port."""
    return _each(
        name, words(name, default), HOST, "host names such as app.example.com or [::1], without scheme and port"
    )


def origins(name: str) -> list[str]:
    """Web origins as browsers send them, in lower case: scheme, host, and port unless it is the scheme's default."""
    return _each(name, words(name), ORIGIN, "origins such as https://app.example.com, in lower case, without a path")


def tags(name: str) -> list[str]:
    """Names of tags, without their brackets. Raises ImproperlyConfigured."""
    return _each(name, words(name), re.compile(r"[A-Za-z][\w.-]{0,60}"), "names of tags, such as editor_context")


def public_url(name: str) -> str:
    """Scheme and host, and a port if it is not the scheme's own, as browsers send them in Origin; empty if unset."""
    given = text(name).rstrip("/").lower()
    if given and not (ORIGIN.fullmatch(given) and given.startswith(("http://", "https://"))):
        raise ImproperlyConfigured(f"{name} is {given!r}: write an address such as https://memory.example.com.")
    return given


def networks(name: str) -> list[IPv4Network | IPv6Network]:
    """Networks and addresses; host bits may be set."""
    try:
        return [ip_network(word, strict=False) for word in words(name)]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is invalid ({error}): write networks such as 10.0.0.0/8.") from None


def _each(name: str, given: list[str], pattern: re.Pattern[str], wanted: str) -> list[str]:
    for word in given:
        if not pattern.fullmatch(word):
            raise ImproperlyConfigured(f"{name} holds {word!r}: write {wanted}.")
    return given


def folder(name: str, default: Path) -> Path:
    """An absolute path."""
    return Path(text(name, str(default))).expanduser().absolute()


def secret(name: str, kept_in: Path) -> str:
    """The variable; if unset, a random secret that is made once and kept in a file that only its owner can read."""
    try:
        return text(name) or _kept_secret(kept_in)
    except OSError as error:
        raise ImproperlyConfigured(
            f"{kept_in} cannot be read or written ({error.strerror}): set RESERVOIR_HOME to a folder of your own."
        ) from None


def _kept_secret(kept_in: Path) -> str:
    try:
        return kept_in.read_text()
    except FileNotFoundError:
        pass
    kept_in.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = kept_in.with_name(f".{kept_in.name}.{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(50))
    try:
        os.link(draft, kept_in)  # if several processes start at once, one wins
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return kept_in.read_text()
