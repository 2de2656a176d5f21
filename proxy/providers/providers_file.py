"""The TOML file that RESERVOIR_PROVIDERS names. Each part is checked as it is taken out.

configuration.py shows what the file holds. Every method raises ValueError for a mistake, with a sentence that says what
to write instead.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, get_args

from proxy.prompt.chat import MemoryRole
from proxy.providers.built_in import ALL_DIALECTS
from proxy.providers.catalogue import Price


@dataclass(frozen=True, slots=True)
class ProvidersFile:
    path: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: str) -> Self:
        """An empty path means a file without content."""
        path = path.strip()
        if not path:
            return cls("", {})
        try:
            content = tomllib.loads(Path(path).read_text("utf-8"), parse_float=Decimal)
        except OSError as error:
            raise ValueError(
                f"RESERVOIR_PROVIDERS: {path} cannot be read ({error.strerror}): name a TOML file."
            ) from error
        except ValueError as error:
            raise ValueError(f"RESERVOIR_PROVIDERS: {path} is not TOML in UTF-8: {error}.") from error
        file = cls(path, content)
        file._only("the file", content, ("default", "providers", "windows", "prices"))
        return file

    def place(self, where: str) -> str:
        """Where a mistake is, for a message."""
        return f"{self.path}, {where}"

    def wrong(self, where: str, wanted: str) -> ValueError:
        """The error that asks for `wanted` there."""
        return ValueError(f"{self.place(where)}: write {wanted}.")

    def _only(self, where: str, table: Mapping[str, Any], allowed: Sequence[str]) -> None:
        for key in table:
            if key not in allowed:
                raise self.wrong(where, f"{', '.join(allowed)}; {key!r} is not one of them")

    def _table(self, where: str, content: Mapping[str, Any]) -> Mapping[str, Any]:
        table = content.get(where.rpartition(".")[2], {})
        if not isinstance(table, dict):
            raise self.wrong(where, f"a table, as [{where}]")
        return table

    def default(self, providers: Collection[str]) -> str:
        name = self.content.get("default", "openai")
        if not isinstance(name, str) or name not in providers:
            raise self.wrong("default", f"one of {', '.join(providers)}")
        return name

    def providers(self) -> Mapping[str, Mapping[str, Any]]:
        declared = self._table("providers", self.content)
        for name in declared:
            where = f"providers.{name}"
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
                raise self.wrong(where, "a name of a-z, 0-9, - and _, to stand before the / of a model")
            self._check_provider(where, self._table(where, declared))
        return declared

    def _check_provider(self, where: str, table: Mapping[str, Any]) -> None:
        self._only(where, table, ("base_url", "key_env", "patterns", "dialects", "memory_role"))
        for key in ("base_url", "key_env"):
            if not isinstance(table.get(key, ""), str):
                raise self.wrong(f"{where}.{key}", "text in quotes")
        patterns = table.get("patterns", [])
        if not isinstance(patterns, list) or not all(isinstance(one, str) and one for one in patterns):
            raise self.wrong(f"{where}.patterns", 'a list of patterns, as ["deepseek-*"]')
        dialects = table.get("dialects", [ALL_DIALECTS[0]])
        if not isinstance(dialects, list) or not dialects or not all(one in ALL_DIALECTS for one in dialects):
            raise self.wrong(f"{where}.dialects", f"a list of {', '.join(ALL_DIALECTS)}")
        if table.get("memory_role", "inside") not in get_args(MemoryRole):
            raise self.wrong(f"{where}.memory_role", '"inside", "system" or "user"')

    def windows(self) -> Mapping[str, int]:
        windows = self._table("windows", self.content)
        for model, tokens in windows.items():
            if type(tokens) is not int or tokens < 1:
                raise self.wrong(f'windows."{model}"', "a number of tokens, as 131072")
        return windows

    def prices(self) -> Mapping[str, Price]:
        prices = self._table("prices", self.content)
        return {model: self._price(f'prices."{model}"', price) for model, price in prices.items()}

    def _price(self, where: str, price: Any) -> Price:
        wanted = "US dollars for a million tokens, as { input = 1.0, cached = 0.5, output = 3.0 }"
        if not isinstance(price, dict) or not {"input", "output"} <= price.keys():
            raise self.wrong(where, wanted)
        self._only(where, price, ("input", "cached", "output"))
        if not all(_is_amount(one) for one in price.values()):
            raise self.wrong(where, wanted)
        given = {kind: Decimal(value) for kind, value in price.items()}
        return Price(input=given["input"], cached=given.get("cached", given["input"]), output=given["output"])


def _is_amount(value: Any) -> bool:
    return type(value) in (int, Decimal) and Decimal(value).is_finite() and value >= 0
