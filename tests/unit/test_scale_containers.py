"""What can be checked of docker-compose.scale.yml without a Docker engine."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.haproxy import PROGRAM
from tests.unit.test_containers import COMPOSE, ROOT, base
from tests.unit.test_docs import settings_read

SCALE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.scale.yml").read_text())
SERVICES = SCALE["services"]
SERVERS = [SERVICES["first"], SERVICES["second"]]
BALANCER, POOLER = SERVICES["balancer"], SERVICES["pooler"]


def config(name: str) -> str:
    content: str = SCALE["configs"][name]["content"]
    return content


def test_the_servers_differ_in_their_volumes_alone() -> None:
    first, second = ({name: value for name, value in server.items() if name != "volumes"} for server in SERVERS)
    assert first == second
    volumes = [volume.partition(":")[0] for server in SERVERS for volume in server["volumes"]]
    assert len(set(volumes)) == 4
    assert {*volumes, "database"} == set(SCALE["volumes"])


def test_a_server_is_set_up_as_in_the_other_file_but_for_where_things_are() -> None:
    alone, scaled = COMPOSE["services"]["app"], SERVERS[0]
    assert set(scaled["environment"]) <= settings_read()
    more = set(scaled["environment"]) - set(alone["environment"])
    assert more == {
        "DATABASE_DIRECT_URL",
        "RESERVOIR_KEY_PEPPER",
        "RESERVOIR_SECRET_KEY",
        "RESERVOIR_TRUSTED_PROXIES",
    }
    elsewhere = {"environment", "volumes", "ports", "depends_on"}
    assert {name: alone[name] for name in alone if name not in elsewhere} == {
        name: scaled[name] for name in scaled if name not in elsewhere
    }
    targets = [volume.partition(":")[2] for volume in alone["volumes"]]
    assert [volume.partition(":")[2] for volume in scaled["volumes"]] == targets


def test_requests_pass_the_balancer_and_queries_the_pooler() -> None:
    given = SERVERS[0]["environment"]
    assert given["DATABASE_URL"].endswith("@pooler:6432/reservoir")
    assert given["DATABASE_DIRECT_URL"].endswith("@database:5432/reservoir")
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["balancer"]
    assert BALANCER["ports"] == ["127.0.0.1:${RESERVOIR_PORT:-3017}:3017"]
    assert re.findall(r"server \w+ (\w+):3017", config("balancer")) == ["first", "second"]
    assert "listen_port = 6432" in config("pooler") and "host=database port=5432" in config("pooler")
    assert SERVICES["database"] == {"extends": {"file": "docker-compose.yml", "service": "database"}}


def test_the_balancer_is_a_trusted_proxy() -> None:
    (network,) = SCALE["networks"]["default"]["ipam"]["config"]
    assert SERVERS[0]["environment"]["RESERVOIR_TRUSTED_PROXIES"] == network["subnet"]
    assert ipaddress.ip_network(network["subnet"]).is_private


def test_no_secret_has_a_default() -> None:
    text = (ROOT / "docker-compose.scale.yml").read_text()
    for name in ("POSTGRES_PASSWORD", "RESERVOIR_SECRET_KEY"):
        assert re.search(rf"\$\{{{name}:\?Set {name} to", text)
        assert f"{name}:-" not in text


@pytest.mark.parametrize("service", [BALANCER, POOLER])
def test_what_stands_around_the_servers_is_built_on_the_pinned_image_and_has_no_privileges(service: Any) -> None:
    lines = service["build"]["dockerfile_inline"].splitlines()
    assert lines[0] == f"FROM {base()}"
    assert any(line.startswith("USER ") for line in lines)
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {entry["source"] for entry in service["configs"]} <= set(SCALE["configs"])


@pytest.mark.skipif(not PROGRAM, reason="needs HAProxy: apt-get install haproxy")
def test_haproxy_accepts_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "haproxy.cfg").write_text(config("balancer"))
    checked = subprocess.run([str(PROGRAM), "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_pgbouncer_pools_transactions() -> None:
    assert "pool_mode = transaction" in config("pooler")
    assert config("users") == '"reservoir" "${POSTGRES_PASSWORD}"\n'
