"""Invalid settings raise a sentence that says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from reservoir_site import env


@pytest.mark.parametrize("word", ["app.example.com", "https://App.example.com", "https://a.example/", "*", "null"])
def test_an_origin_that_browsers_never_send_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("ORIGINS", f"https://a.example:8443, http://[::1]:3000, {word}")
    with pytest.raises(ImproperlyConfigured, match=r"^ORIGINS holds .*: write origins such as https://") as caught:
        env.origins("ORIGINS")
    assert repr(word) in str(caught.value)


@pytest.mark.parametrize("word", ["http://localhost", "localhost:3017", "::1", "a.example/x"])
def test_an_impossible_host_name_is_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("HOSTS", f"localhost,127.0.0.1,[::1],.example.com,*,{word}")
    with pytest.raises(ImproperlyConfigured, match=r"^HOSTS holds .*: write host names such as") as caught:
        env.hosts("HOSTS", ())
    assert repr(word) in str(caught.value)


def test_valid_names_are_returned_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["https://a.example", "http://localhost:5173", "http://[::1]:3000", "capacitor://localhost"]
    monkeypatch.setenv("ORIGINS", ",".join(given))
    assert env.origins("ORIGINS") == given
    assert env.hosts("HOSTS", ("localhost", "[::1]")) == ["localhost", "[::1]"]


def test_an_impossible_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWORKS", "10.0.0.1/8, ::1, 10.0.0.0/33")
    with pytest.raises(ImproperlyConfigured, match=r"^NETWORKS is invalid .*10\.0\.0\.0/33.*: write networks such as"):
        env.networks("NETWORKS")
    monkeypatch.setenv("NETWORKS", "10.0.0.1/8, ::1")
    assert [str(network) for network in env.networks("NETWORKS")] == ["10.0.0.0/8", "::1/128"]


def test_a_misspelt_setting_is_named_with_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    env.text("RESERVOIR_PORT")
    monkeypatch.setenv("RESERVOIR_PROT", "1")
    monkeypatch.setenv("RSV_OPENAI_BASE_URL", "http://x")
    monkeypatch.setenv("RSV_NONE_OF_OURS", "1")
    sentences = "\n".join(env.unknown(["RSV_OPENAI_BASE_URL"]))
    assert "RESERVOIR_PROT is not a setting of Reservoir and has no effect: do you mean RESERVOIR_PORT?" in sentences
    assert "RSV_NONE_OF_OURS" in sentences
    assert "RSV_OPENAI_BASE_URL is" not in sentences


def test_a_secret_may_lie_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from a file\n")
    for name in ("OPENAI_API_KEY", "RESERVOIR_KEY_PEPPER", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(f"{name}_FILE", str(file))
        assert env.text(name) == env.environment[name] == "from a file"
    monkeypatch.setenv("RESERVOIR_KEY_PEPPER", "given")
    with pytest.raises(ImproperlyConfigured, match="both set"):
        env.text("RESERVOIR_KEY_PEPPER")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(ImproperlyConfigured, match="OPENAI_API_KEY_FILE"):
        env.text("OPENAI_API_KEY")
    monkeypatch.setenv("RESERVOIR_PORT_FILE", str(file))  # no secret
    assert env.text("RESERVOIR_PORT", "3017") == "3017"


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        *((here, True) for here in ("127.0.0.1", "127.0.0.2", "::1", "localhost")),
        *((there, False) for there in ("0.0.0.0", "::", "10.0.0.1", "example.com", "")),
    ],
)
def test_only_this_machine_reaches_a_loopback_address(address: str, loopback: bool) -> None:
    assert env.is_loopback(address) is loopback
