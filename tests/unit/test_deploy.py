"""The files of deploy/: units that systemd accepts, proxies that pass on what is needed, a compose file that fits."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reservoir_site.http_protocol import IDLE_SECONDS
from tests.unit.test_docs import settings_read

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted(path.name for path in DEPLOY.glob("*.service")) + sorted(path.name for path in DEPLOY.glob("*.timer"))
CADDY, NGINX = (DEPLOY / "Caddyfile").read_text(), (DEPLOY / "nginx.conf").read_text()


def unit(name: str) -> dict[str, list[str]]:
    """The values of each key of a unit."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (DEPLOY / name).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_every_file_is_described() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text()
    assert {path.name for path in DEPLOY.iterdir() if path.name not in text} <= {"reservoir-backup.service"}


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(name: str, tmp_path: Path) -> None:
    assert set(re.findall(r"^\[(\w+)\]$", (DEPLOY / name).read_text(), re.MULTILINE)) <= {
        "Unit",
        "Service",
        "Timer",
        "Install",
    }
    if not (verify := shutil.which("systemd-analyze")):
        return  # a machine without systemd
    for path in DEPLOY.glob("reservoir*"):
        text = path.read_text().replace("/opt/reservoir/.venv/bin/python", sys.executable)
        (tmp_path / path.name).write_text(text.replace("WorkingDirectory=/opt/reservoir", f"WorkingDirectory={ROOT}"))
    asked = name.replace("@.", "@3017.")
    found = subprocess.run(
        [verify, "verify", "--man=no", tmp_path / asked], capture_output=True, text=True, timeout=300
    )
    told = [line for line in found.stderr.splitlines() if "reservoir" in line]
    assert told == [], found.stderr


def test_the_service_is_confined_and_gets_time_to_stop() -> None:
    service = unit("reservoir@.service")
    assert service["ProtectSystem"] == ["strict"] and service["NoNewPrivileges"] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""] and service["User"] == ["reservoir"]
    assert int(service["TimeoutStopSec"][0]) > 30 + 10
    assert int(service["LimitNOFILE"][0]) >= 2**16


def test_variables_of_the_environment_file_are_settings() -> None:
    named = re.findall(r"^#?(\w+)=", (DEPLOY / "reservoir.env").read_text(), re.MULTILINE)
    assert named and set(named) <= settings_read()


def test_both_proxies_pass_streams_on_wait_for_models_and_hide_figures() -> None:
    for wanted in ("response_header_timeout 600s", "path /metrics", "health_uri /live"):
        assert wanted in CADDY
    for wanted in (
        "proxy_buffering off;",
        "proxy_read_timeout 600s;",
        "location = /metrics",
        "client_max_body_size 1g;",
    ):
        assert wanted in NGINX
    for header in ("Host", "X-Forwarded-Host", "X-Forwarded-For", "X-Forwarded-Proto"):
        assert re.search(rf"proxy_set_header {header} \$\w+;", NGINX), header
    assert "non_idempotent" not in NGINX, "nothing is sent to a provider twice"
    for text in (CADDY, NGINX):
        (kept,) = re.findall(r"keepalive(?:_timeout)? (\d+)s", text)
        assert int(kept) < IDLE_SECONDS
        assert "127.0.0.1:3017" in text and "127.0.0.1:3018" in text
        assert re.sub(r"#.*", "", text).count("{") == re.sub(r"#.*", "", text).count("}")


@pytest.mark.parametrize(
    ("program", "arguments"),
    [("caddy", ["validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")])],
)
def test_the_proxy_itself_accepts_its_file(program: str, arguments: list[str]) -> None:
    if found := shutil.which(program):
        subprocess.run([found, *arguments], check=True, timeout=300)


def test_the_compose_file_puts_tls_in_front_of_the_app() -> None:
    override = yaml.safe_load((DEPLOY / "docker-compose.tls.yml").read_text())
    base = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert set(override["services"]) - set(base["services"]) == {"caddy"}
    caddy, app = override["services"]["caddy"], override["services"]["app"]
    assert "--to app:3017" in caddy["command"]
    assert caddy["ports"] == ["80:80", "443:443"]
    assert app["environment"]["RESERVOIR_OPEN"] == "${RESERVOIR_OPEN:-no}"
    assert "ports" not in app, "only Caddy is reachable from outside"
    assert set(app["environment"]) <= settings_read()
    assert {volume.partition(":")[0] for volume in caddy["volumes"]} == set(override["volumes"])
