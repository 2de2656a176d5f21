"""proxy/providers: model name -> provider, key, window and price, from the environment and the file."""

from decimal import Decimal
from pathlib import Path

import pytest

from proxy.providers import configuration
from proxy.providers.registry import Providers, Target

KEYS = {
    "OPENAI_API_KEY": "sk-openai",
    "MISTRAL_API_KEY": "sk-mistral",
    "GEMINI_API_KEY": "sk-gemini",
    "OLLAMA_API_KEY": "sk-ollama",
}
FILE = """
default = "groq"

[providers.groq]
base_url = "https://api.groq.com/openai/v1/chat/completions/"
key_env = "GROQ_API_KEY"
patterns = ["moonshotai/*", "llama-guard*", "*:free"]
memory_role = "user"

[providers.keyless]
base_url = "http://127.0.0.1:8000/v1"

[providers.openai]
base_url = "https://eu.api.openai.com/v1"

[windows]
"groq/moonshotai/kimi-k2" = 131072
"gpt-4o" = 1000
"llama3.2:3b" = 8192

[prices]
"gpt-4o" = { input = 2, cached = 0.5, output = 10 }
"groq/local" = { input = 0.1, output = 0 }
"""


def built_in(**environ: str) -> Providers:
    return configuration.from_environment(environ)


@pytest.fixture
def configured(tmp_path: Path) -> Providers:
    return from_file(tmp_path, FILE, **KEYS, GROQ_API_KEY="sk-groq")


def from_file(folder: Path, content: str, **environ: str) -> Providers:
    path = folder / "providers.toml"
    path.write_text(content, "utf-8")
    return built_in(RESERVOIR_PROVIDERS=str(path), **environ)


@pytest.mark.parametrize(
    ("model", "provider", "known_as"),
    [
        ("gpt-4o", "openai", "gpt-4o"),
        ("o3-mini", "openai", "o3-mini"),
        ("anything-else", "openai", "anything-else"),
        ("", "openai", ""),
        ("mistral-small-latest", "mistral", "mistral-small-latest"),
        ("ministral-8b-latest", "mistral", "ministral-8b-latest"),
        ("codestral", "mistral", "codestral"),
        ("devstral-medium", "mistral", "devstral-medium"),
        ("magistral-small", "mistral", "magistral-small"),
        ("open-mistral-nemo", "mistral", "open-mistral-nemo"),
        ("open-mixtral-8x7b", "mistral", "open-mixtral-8x7b"),
        ("mistral", "openai", "mistral"),
        ("gemini-2.5-flash", "gemini", "gemini-2.5-flash"),
        ("models/gemini-2.5-flash", "gemini", "models/gemini-2.5-flash"),
        ("models/other", "openai", "models/other"),
        ("llama3.2", "ollama", "llama3.2"),
        ("qwen3", "ollama", "qwen3"),
        ("gemma3", "ollama", "gemma3"),
        ("phi4", "ollama", "phi4"),
        ("deepseek-r1:8b", "ollama", "deepseek-r1:8b"),
        ("codestral:22b", "ollama", "codestral:22b"),
        ("hf.co/someone/model:Q4_K_M", "ollama", "hf.co/someone/model:Q4_K_M"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "openai", "ft:gpt-4o-mini-2024-07-18:org::id"),
        ("name:", "openai", "name:"),
        ("mistral/gpt-4o", "mistral", "gpt-4o"),
        ("openai/llama3:8b", "openai", "llama3:8b"),
        ("ollama/mistral-nemo", "ollama", "mistral-nemo"),
        ("ollama/hf.co/a/b:c", "ollama", "hf.co/a/b:c"),
        ("gemini/gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("unheard-of/model", "openai", "unheard-of/model"),
        ("mistral/", "openai", "mistral/"),
    ],
)
def test_a_models_name_selects_its_provider(model: str, provider: str, known_as: str) -> None:
    target = built_in().select(model)
    assert (target.provider.name, target.model) == (provider, known_as)


@pytest.mark.parametrize(
    ("name", "base_url"),
    [
        ("openai", "https://api.openai.com/v1"),
        ("ollama", "http://localhost:11434/v1"),
        ("mistral", "https://api.mistral.ai/v1"),
        ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
    ],
)
def test_built_in_providers_have_their_addresses(name: str, base_url: str) -> None:
    provider = built_in().select(f"{name}/model").provider
    assert (provider.base_url, provider.memory_role, provider.key) == (base_url, None, None)


@pytest.mark.parametrize(
    ("model", "role"),
    [
        ("gpt-4o", "system"),
        ("o3-mini", "system"),
        ("chatgpt-4o-latest", "system"),
        ("ft:gpt-4o-mini-2024-07-18:org::id", "system"),
        ("gpt-oss-120b", "inside"),
        ("qwen3.5-27b", "inside"),
        ("mistral-small-latest", "inside"),
        ("gemini-2.5-flash", "inside"),
        ("o1something", "inside"),
        ("", "inside"),
    ],
)
def test_only_openais_own_models_get_the_block_as_a_system_message(model: str, role: str) -> None:
    assert built_in().select(model).memory_role == role


def test_a_declared_memory_role_applies_to_every_model_of_the_provider(configured: Providers) -> None:
    assert configured.select("groq/gpt-4o").memory_role == "user"


@pytest.mark.parametrize("name", ["openai", "ollama", "mistral", "gemini"])
@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions//"])
def test_addresses_work_with_and_without_their_ending(name: str, ending: str) -> None:
    providers = built_in(**{f"RSV_{name.upper()}_BASE_URL": f" http://10.0.0.1:9/api/v1{ending}\n"})
    assert providers.select(f"{name}/model").provider.base_url == "http://10.0.0.1:9/api/v1"


def test_an_empty_address_counts_as_unset() -> None:
    assert built_in(RSV_OPENAI_BASE_URL=" ").default.base_url == "https://api.openai.com/v1"


@pytest.mark.parametrize("name", ["openai", "ollama", "mistral", "gemini"])
def test_a_key_goes_to_its_own_provider_only(name: str) -> None:
    providers = built_in(**{f"{name.upper()}_API_KEY": "sk-secret\n"})
    keys = {other: providers.select(f"{other}/m").provider.key for other in ("openai", "ollama", "mistral", "gemini")}
    assert keys.pop(name) == "sk-secret"
    assert set(keys.values()) == {None}


@pytest.mark.parametrize("key", ["sk-secret\nX-Header: 1", "sk-secret\x00", "sk-sécret"])
def test_a_key_that_is_no_valid_header_is_refused_without_quoting_it(key: str) -> None:
    with pytest.raises(ValueError, match=r"^MISTRAL_API_KEY: write the key alone") as caught:
        built_in(MISTRAL_API_KEY=key)
    assert "cret" not in str(caught.value)


def test_keys_are_hidden_in_reprs(configured: Providers) -> None:
    for name in ("openai", "mistral", "gemini", "ollama", "groq"):
        target = configured.select(f"{name}/model")
        assert target.provider.key == f"sk-{name}"
        assert "sk-" not in f"{target!r} {target} {configured!r} {vars(configured)}"


def test_the_file_adds_providers_and_names_the_default(configured: Providers) -> None:
    groq = configured.default
    assert (groq.name, groq.base_url, groq.memory_role) == ("groq", "https://api.groq.com/openai/v1", "user")
    assert configured.select("anything-else").provider is groq
    assert configured.select("groq/x/y") == Target(groq, "x/y")
    keyless = configured.select("keyless/x").provider
    assert (keyless.base_url, keyless.key, keyless.memory_role) == (
        "http://127.0.0.1:8000/v1",
        None,
        None,
    )


@pytest.mark.parametrize("model", ["moonshotai/kimi-k2", "llama-guard-4", "deepseek:free", "ft:gpt-4o:free"])
def test_the_files_patterns_precede_the_built_in_ones(configured: Providers, model: str) -> None:
    assert configured.select(model) == Target(configured.default, model)
    assert configured.select("llama3.2").provider.name == "ollama"


def test_the_file_overrides_built_in_providers_and_the_environment_overrides_the_file(tmp_path: Path) -> None:
    openai = from_file(tmp_path, FILE, OPENAI_API_KEY="sk").select("openai/m").provider
    assert (openai.base_url, openai.key) == ("https://eu.api.openai.com/v1", "sk")
    openai = from_file(tmp_path, FILE, RSV_OPENAI_BASE_URL="http://me/v1").select("openai/m").provider
    assert openai.base_url == "http://me/v1"


@pytest.mark.parametrize(
    ("model", "window"),
    [
        ("gpt-4", 8192),
        ("gpt-4o-mini", 128_000),
        ("openai/gpt-4o-mini", 128_000),
        ("gpt-4o-mini-2024-07-18", 128_000),
        ("ft:gpt-4o-mini-2024-07-18:org::id", 128_000),
        ("ft:", None),
        ("mistral-large-2512", 262_144),
        ("gemini-1.5-flash", 1_000_000),
        ("models/gemini-2.5-flash", 1_048_576),
        ("gpt-unknown", None),
        ("my-gpt-4", None),
        ("mistral/gpt-4", None),
        ("ollama/gpt-4", None),
        ("llama3.2:3b", None),
        ("gpt-5-nano-" + "x" * 1000, None),
    ],
)
def test_windows_of_known_models(model: str, window: int | None) -> None:
    providers = built_in()
    assert providers.window(providers.select(model)) == window


def test_windows_of_the_file_win(configured: Providers) -> None:
    assert configured.window(configured.select("groq/moonshotai/kimi-k2")) == 131_072
    assert configured.window(configured.select("moonshotai/kimi-k2")) == 131_072
    assert configured.window(configured.select("openai/gpt-4o")) == 1000
    assert configured.window(configured.select("llama3.2:3b")) == 8192
    assert configured.window(configured.select("keyless/moonshotai/kimi-k2")) is None


def test_costs_of_known_models() -> None:
    providers = built_in()
    target = providers.select("gpt-4o-mini")
    assert providers.cost(target, 1_000_000, 0) == Decimal("0.15")
    assert providers.cost(target, 0, 1_000_000) == Decimal("0.6")
    assert providers.cost(target, 1_000_000, 0, 1_000_000) == Decimal("0.075")
    assert providers.cost(target, 10, 0, 1_000) == providers.cost(target, 10, 0, 10)
    assert providers.cost(target, 0, 0) == 0


@pytest.mark.parametrize("model", ["gpt-unknown", "llama3.2:3b", "ollama/gpt-4o", "whisper-1", "gemini/gemma-3"])
def test_an_unknown_price_is_none_rather_than_zero(model: str) -> None:
    providers = built_in()
    assert providers.cost(providers.select(model), 1000, 1000) is None


def test_prices_of_the_file_win(configured: Providers) -> None:
    gpt = configured.select("openai/gpt-4o")
    assert configured.cost(gpt, 1_000_000, 100_000, 500_000) == Decimal("2.25")
    assert configured.cost(configured.select("groq/local"), 1000, 1000, 500) == Decimal("0.0001")
    assert configured.cost(configured.select("keyless/local"), 1000, 1000) is None


@pytest.mark.parametrize(
    "address",
    [
        "api.example.com/v1",
        "ftp://api.example.com/v1",
        "https://",
        "https:///v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://a host/v1",
        "https://me:sk-secret@api.example.com/v1",
        "https://api.example.com/v1?key=sk-secret",
        "https://api.example.com/v1#sk-secret",
    ],
)
def test_an_invalid_address_is_refused_with_the_remedy(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^RSV_MISTRAL_BASE_URL: write an address such as https://") as caught:
        built_in(RSV_MISTRAL_BASE_URL=address)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match=r"providers\.toml, providers\.x\.base_url: write an address"):
        from_file(tmp_path, f'providers.x.base_url = "{address}"')


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("default = ", "is not TOML"),
        ('defualt = "x"', "write default, providers, windows, prices; 'defualt' is not one of them"),
        ('default = "unknown"', "default: write one of openai, anthropic, mistral, gemini, ollama"),
        ("default = []", "default: write one of"),
        ("providers = 3", r"write a table, as \[providers\]"),
        ("providers.x = 3", r"write a table, as \[providers\.x\]"),
        ("[providers.x]", "write its base_url"),
        ("[providers.x]\nbase_url = 3", "base_url: write text in quotes"),
        ('[providers.x]\nbase_url = "http://x/v1"\nkey = "sk-secret"', "'key' is not one of them"),
        ('[providers.x]\nbase_url = "http://x/v1"\nkey_env = 3', "key_env: write text in quotes"),
        ('[providers.x]\nbase_url = "http://x/v1"\npatterns = "a*"', "patterns: write a list"),
        ('[providers.x]\nbase_url = "http://x/v1"\npatterns = [3]', "patterns: write a list"),
        ('[providers.x]\nbase_url = "http://x/v1"\nmemory_role = "tool"', 'write "inside", "system" or "user"'),
        ('[providers."a/b"]\nbase_url = "http://x/v1"', "write a name of a-z"),
        ("windows = 3", r"write a table, as \[windows\]"),
        ('[windows]\n"gpt-4" = "8192"', "write a number of tokens"),
        ('[windows]\n"gpt-4" = 0', "write a number of tokens"),
        ('[windows]\n"gpt-4" = true', "write a number of tokens"),
        ("[prices]\nx = 3", "write US dollars for a million tokens"),
        ("[prices]\nx = { input = 1 }", "write US dollars for a million tokens"),
        ("[prices]\nx = { input = 1, output = -1 }", "write US dollars for a million tokens"),
        ("[prices]\nx = { input = nan, output = 1 }", "write US dollars for a million tokens"),
        ('[prices]\nx = { input = "1", output = 1 }', "write US dollars for a million tokens"),
        ("[prices]\nx = { input = 1, output = 1, outptu = 1 }", "'outptu' is not one of them"),
    ],
)
def test_an_invalid_file_is_refused_with_the_remedy(content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        from_file(tmp_path, content)
    assert "providers.toml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read .*: name a TOML file"):
        built_in(RESERVOIR_PROVIDERS=str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not TOML in UTF-8"):
        built_in(RESERVOIR_PROVIDERS=str(tmp_path / "bytes.toml"))


GATEWAY = {"RSV_OPENAI_BASE_URL": "https://gateway.example.com/v1"}


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-4o",
        "openai/gpt-oss-120b",
        "deepseek/deepseek-r1:free",
        "meta-llama/llama-3.3-70b-instruct:free",
        "qwen/qwen3-32b",
        "anthropic.claude-3-5-sonnet-20240620-v1:0",
        "llama-3.3-70b-versatile",
        "codestral:22b",
        "ollama/llama3",
        "gemini/gemini-2.5-pro",
    ],
)
def test_a_gateway_gets_its_model_names_whole(model: str) -> None:
    target = built_in(**GATEWAY).select(model)
    assert (target.provider.base_url, target.model) == (GATEWAY["RSV_OPENAI_BASE_URL"], model)


@pytest.mark.parametrize("model", ["openai/gpt-4o", "deepseek/deepseek-r1:free", "qwen/qwen3-32b", "a.b-v1:0"])
def test_a_gateway_gets_its_model_names_whole_beside_configured_providers(model: str) -> None:
    others = {f"RSV_{name}_BASE_URL": f"http://127.0.0.1:9/{name}" for name in ("OLLAMA", "MISTRAL", "GEMINI")}
    target = built_in(**GATEWAY, **others).select(model)
    assert (target.provider.name, target.model) == ("openai", model)


@pytest.mark.parametrize(
    ("model", "provider", "known_as"),
    [
        ("llama3.2", "ollama", "llama3.2"),
        ("ollama/anything", "ollama", "anything"),
        ("mistral/small", "mistral", "small"),
        ("gemini/flash", "openai", "gemini/flash"),
        ("mistral-small-latest", "mistral", "mistral-small-latest"),
        ("gemini-2.5-flash", "gemini", "gemini-2.5-flash"),
    ],
)
def test_configured_providers_keep_their_prefix_behind_a_gateway(model: str, provider: str, known_as: str) -> None:
    set_up = {"RSV_OLLAMA_BASE_URL": "http://10.0.0.1:1/v1", "MISTRAL_API_KEY": "sk-mistral"}
    target = built_in(**GATEWAY, **set_up).select(model)
    assert (target.provider.name, target.model) == (provider, known_as)


def test_openais_prefix_never_leaves_the_default_provider(tmp_path: Path) -> None:
    file = 'default = "one"\n[providers.one]\nbase_url = "http://10.0.0.1/v1"\n'
    target = from_file(tmp_path, file, OPENAI_API_KEY="").select("openai/gpt-4o")
    assert (target.provider.name, target.model) == ("one", "openai/gpt-4o")


def test_a_declared_provider_that_matches_everything_takes_everything(tmp_path: Path) -> None:
    providers = from_file(tmp_path, '[providers.all]\nbase_url = "http://10.0.0.1/v1"\npatterns = ["*"]\n')
    for model in ("mistral/small", "openai/gpt-4o", "llama3:8b", "gemini-2.5-flash", ""):
        assert (providers.select(model).provider.name, providers.select(model).model) == ("all", model)


def test_a_tag_means_ollama_only_when_it_is_local_or_configured() -> None:
    assert built_in().select("deepseek-r1:8b").provider.name == "ollama"
    assert built_in(RSV_OLLAMA_BASE_URL="http://10.0.0.1/v1").select("deepseek-r1:8b").provider.name == "ollama"


def test_a_target_explains_its_choice() -> None:
    assert built_in().select("qwen3").why == "it matches qwen*, a built-in pattern"
    assert "default" in built_in().select("gpt-4o").why
    assert "mistral/" in built_in().select("mistral/small").why
