"""What can be checked of Dockerfile and docker-compose.yml without a Docker engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_docs import settings_read

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DATABASE, APP = COMPOSE["services"]["database"], COMPOSE["services"]["app"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES_OWN = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PATH"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, with continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    parts = (line.partition(" ") for line in text.splitlines() if line.strip())
    return [(name, rest.strip()) for name, _, rest in parts]


def base() -> str:
    """The image that both stages begin with."""
    (image,) = {re.split(r"\s", image)[0] for image in arguments("FROM")}
    return image


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def ignored(path: str) -> bool:
    """Whether .dockerignore hides a top-level path from the builder: the last matching line decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch.fnmatch(path, line.removeprefix("!")):
            verdict = not line.startswith("!")
    return verdict


def test_every_copied_path_exists_and_reaches_the_builder() -> None:
    sources = [source for copy in arguments("COPY") if "--from=" not in copy for source in shlex.split(copy)[:-1]]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists() or ignored(source)] == []


def test_every_package_of_the_project_is_in_the_image() -> None:
    copied = " ".join(arguments("COPY"))
    for package in ("manage.py", "reservoir_site", "console", "conversations", "access", "proxy"):
        assert package in copied


def test_nothing_private_reaches_the_builder() -> None:
    for path in (".git", ".venv", ".reservoir", ".env", "tests", "docs"):
        assert ignored(path), path


def test_the_image_runs_as_an_unprivileged_user() -> None:
    names = [name for name, _ in instructions()]
    user = arguments("USER")[-1]
    assert user.isdigit()
    assert int(user) > 0
    after = names[len(names) - names[::-1].index("USER") :]
    assert not {"RUN", "COPY", "ADD"} & set(after), "these would run as, or belong to, that user"


def test_the_image_serves_and_is_probed() -> None:
    assert json.loads(arguments("CMD")[-1]) == ["python", "manage.py", "serve"]
    assert arguments("EXPOSE") == ["3017"]
    assert "/live" in arguments("HEALTHCHECK")[0]
    probe = json.loads(arguments("HEALTHCHECK")[0].partition("CMD ")[2])
    compile(probe[-1], "healthcheck", "exec")


def test_the_final_image_has_no_compiler() -> None:
    text = (ROOT / "Dockerfile").read_text()
    final = text[text.rindex("\nFROM ") :]
    assert not re.search(r"apt-get|gcc|build-essential|pip install", final)


def test_the_images_python_is_supported_by_the_project() -> None:
    version = re.fullmatch(r"python:3\.(\d+)-slim@sha256:[0-9a-f]{64}", base())
    assert version
    assert int(version[1]) >= 11


def test_the_image_installs_hashed_packages_and_no_postgresql() -> None:
    (install,) = (run for run in arguments("RUN") if "pip install" in run)
    assert "--require-hashes" in install
    assert re.findall(r"-r (\S+)", install) == ["requirements.txt"]
    assert "pgserver" not in (ROOT / "requirements.txt").read_text()
    assert "pgserver" in (ROOT / "requirements-embedded.txt").read_text()


def test_the_code_of_the_image_is_compiled() -> None:
    (compiling,) = (run for run in arguments("RUN") if "compileall" in run)
    for package in ("reservoir_site", "console", "conversations", "access", "proxy"):
        assert package in compiling.split()
    # Regardless of time stamps, as the image is read-only.
    assert "--invalidation-mode unchecked-hash" in compiling
    assert arguments("COPY")[-1] == "--from=build /app /app"


def test_the_image_is_labelled() -> None:
    (text,) = arguments("LABEL")
    labels = dict(label.split("=", 1) for label in shlex.split(text))
    name, digest = base().split("@")
    assert {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()} == {
        "title": "Reservoir",
        "description": PROJECT["description"],
        "version": PROJECT["version"],
        "licenses": PROJECT["license"],
        "base.name": f"docker.io/library/{name}",
        "base.digest": digest,
    }


def test_every_variable_of_image_and_compose_is_a_known_setting() -> None:
    in_image = set(re.findall(r"(\w+)=", " ".join(arguments("ENV")))) - IMAGES_OWN
    assert in_image | set(APP["environment"]) <= settings_read()


def test_the_database_image_is_postgresql_18_with_pgvector() -> None:
    assert re.fullmatch(r"pgvector/pgvector:0\.8\.\d+-pg18@sha256:[0-9a-f]{64}", DATABASE["image"])
    assert DATABASE["volumes"] == ["database:/var/lib/postgresql"]
    assert "ports" not in DATABASE, "only the app may reach it"
    assert "pg_isready" in DATABASE["healthcheck"]["test"][1]
    assert set(COMPOSE["volumes"]) == {"database", "home", "uploads"}


def test_the_app_waits_for_the_database_and_uses_it() -> None:
    assert APP["depends_on"]["database"]["condition"] == "service_healthy"
    url = APP["environment"]["DATABASE_URL"]
    password = DATABASE["environment"]["POSTGRES_PASSWORD"]
    assert url == f"postgresql://reservoir:{password}@database:5432/reservoir"
    assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?Set POSTGRES_PASSWORD to [^}]+\.\}", password), "no default"
    assert DATABASE["environment"]["POSTGRES_USER"] == DATABASE["environment"]["POSTGRES_DB"] == "reservoir"


def test_the_app_is_reachable_from_this_machine_only() -> None:
    assert APP["environment"]["RESERVOIR_LISTEN"] == "0.0.0.0"
    assert APP["ports"] == ["127.0.0.1:${RESERVOIR_PORT:-3017}:3017"]
    assert "/live" in APP["healthcheck"]["test"][-1]


@pytest.mark.parametrize("service", [DATABASE, APP])
def test_a_container_writes_only_to_its_volumes_and_gains_no_privileges(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    folders = {volume.partition(":")[2] for volume in service["volumes"]} | set(service.get("tmpfs", []))
    assert "/tmp" in folders


def test_the_app_has_no_capability() -> None:
    assert "cap_add" not in APP
    assert set(DATABASE["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}


def test_containers_get_more_time_to_stop_than_answers_to_finish() -> None:
    assert int(APP["stop_grace_period"].removesuffix("s")) > 30
