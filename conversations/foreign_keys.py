"""Foreign keys between rows of one scope. Where the database is distributed, joins along them name the scope."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.expressions import Col
from django.db.models.lookups import Exact

from conversations import scopes


class _WithinScope:
    """Both models have the field `instance`. Their rows lie on one node, which Citus has to be told to join them."""

    model: Any
    remote_field: Any

    def get_extra_restriction(self, alias: str, related_alias: str) -> Any:
        """Django's hook for a further condition of a join: `alias` is the table referred to, the other this one."""
        if not scopes.is_distributed():
            return None
        there, here = self.remote_field.model._meta.get_field("instance"), self.model._meta.get_field("instance")
        return Exact(Col(alias, there), Col(related_alias, here))

    def deconstruct(self) -> Any:
        """For migrations it is an ordinary foreign key."""
        name, _, args, kwargs = super().deconstruct()  # type: ignore[misc]
        kind = "OneToOneField" if isinstance(self, models.OneToOneField) else "ForeignKey"
        return name, f"django.db.models.{kind}", args, kwargs


class ForeignKeyWithinScope(_WithinScope, models.ForeignKey):  # type: ignore[type-arg]
    pass


class OneToOneWithinScope(_WithinScope, models.OneToOneField):  # type: ignore[type-arg]
    pass
