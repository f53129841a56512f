"""`settings.json`: the settings of a run, decided and frozen."""

from __future__ import annotations

from dataclasses import dataclass

from sft.run.typed_json import Record


@dataclass(frozen=True, kw_only=True)
class FrozenSettings(Record):
    """`settings.json`: the settings by name, and no secrets.

    sft/settings has their types and checks them: building those types takes a quarter of a second, and a look at a run
    does not need them. So this record has no fields, and every setting is an unknown key of it.
    """

    @classmethod
    def of(cls, values: dict[str, object]) -> FrozenSettings:
        """Return the record of settings."""
        return cls(extra=values)

    @property
    def values(self) -> dict[str, object]:
        """The settings as JSON data."""
        return self.extra
